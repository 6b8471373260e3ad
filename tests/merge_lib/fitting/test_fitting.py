"""Methods that learn from a workload, on a linear classifier whose optimum is plain to see."""

import pytest
import torch
from torch import nn

import merge_lib
from merge_lib.errors import DataError, MethodInputError
from merge_lib.fitting import fit
from merge_lib.learned import Learned
from merge_lib.probe import Batch

WIDTH = 6


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 4, bias=False)

    def forward(self, x):
        return self.head(x)


class Probe:
    """Task "a" has classes 0 and 1 in the first two inputs, task "b" 2 and 3 in the next two."""

    def module(self, state):
        module = Linear()
        module.load_state_dict(state)
        return module.eval()

    def batches(self, task, *, split, count, seed, size):
        generator = torch.Generator().manual_seed(seed + {"train": 0, "validation": 1, "test": 2}[split])
        first = {"a": 0, "b": 2}[task]
        for start in range(0, count, size):
            labels = torch.randint(0, 2, (min(size, count - start),), generator=generator) + first
            inputs = 0.05 * torch.randn(len(labels), WIDTH, generator=generator)
            inputs[torch.arange(len(labels)), labels] += 1.0
            yield Batch(inputs, labels)

    def logits(self, module, batch, task):
        return module(batch.inputs)


def state(**entries):
    weight = torch.zeros(4, WIDTH)
    for place, value in entries.items():
        weight[int(place[1]), int(place[2])] = value
    return {"head.weight": weight}


BASE = state()
EXPERTS = [state(w00=4.0, w11=4.0, w05=0.0), state(w22=4.0, w33=4.0)]
HARMFUL = state(w00=-9.0, w11=-9.0, w22=-9.0, w33=-9.0)


def accuracy(weights, task):
    probe = Probe()
    module = probe.module(weights)
    batch = next(probe.batches(task, split="test", count=200, seed=5, size=200))
    return float((module(batch.inputs).argmax(1) == batch.labels).float().mean())


def learn(method, experts, tasks=("a", "b"), **params):
    return fit(method, Probe(), tasks[: len(experts)], BASE, experts, seed=0, params=params)


@pytest.mark.parametrize("scales", ["by layer", "by task"])
def test_adamerging_grows_surer_with_every_step(scales):
    seen = []
    options = {"scales": scales, "learning_rate": 0.01, "start": 0.1}
    for steps in (1, 20, 60):
        fitted = learn("adamerging", EXPERTS, steps=steps, **options)["head.weight"]
        assert fitted.shape == (2,)
        seen.append(fitted)
    assert (seen[0] < seen[1]).all()
    assert (seen[1] < seen[2]).all()
    assert (seen[2] <= 1.0).all()
    merged = merge_lib.merge(
        "adamerging", EXPERTS, BASE, learned=Learned(fitted={"head.weight": seen[2]}), **options
    )
    expected = sum(scale * expert["head.weight"] for scale, expert in zip(seen[2], EXPERTS, strict=True))
    torch.testing.assert_close(merged["head.weight"], expected)


def test_adamerging_s_gradient_is_that_of_autograd():
    from merge_lib.methods.adamerging import entropy
    from merge_lib.ops.functional_models import TaskVectors, Weighted

    probe, tasks = Probe(), ("a", "b")
    model = TaskVectors.of(probe.module(BASE), BASE, EXPERTS)
    batches = [next(probe.batches(task, split="test", count=8, seed=0, size=8)) for task in tasks]
    scales = torch.tensor([0.3, 0.2], requires_grad=True)
    weight = torch.tensordot(scales, model.vectors["head.weight"], 1)
    loss = entropy(probe, Weighted(model.module, {"head.weight": weight}), batches, tasks)
    loss.backward()
    value, gradients = model.gradients(
        lambda name: torch.tensordot(scales.detach(), model.vectors[name], 1),
        lambda weighted: entropy(probe, weighted, batches, tasks),
    )
    assert value == pytest.approx(float(loss.detach()))
    by_hand = (model.vectors["head.weight"] * gradients["head.weight"]).flatten(1).sum(1)
    torch.testing.assert_close(by_hand, scales.grad)


def test_adamerging_plus_plus_trims_first():
    big = state(w00=4.0, w11=4.0, w05=0.01)
    fitted = learn("adamerging", [big, EXPERTS[1]], steps=5, density=0.1, start=0.5)
    merged = merge_lib.merge(
        "adamerging", [big, EXPERTS[1]], BASE, learned=Learned(fitted=fitted), density=0.1, start=0.5
    )
    assert merged["head.weight"][0, 5] == 0.0
    assert merged["head.weight"][0, 0] > 0.0


def test_a_greedy_soup_leaves_out_what_does_harm():
    fitted = learn("greedy_soup", [HARMFUL, *EXPERTS], ("b", "a", "b"))["head.weight"]
    assert fitted.tolist() == [0.0, 0.5, 0.5]
    merged = merge_lib.merge(
        "greedy_soup", [HARMFUL, *EXPERTS], learned=Learned(fitted={"head.weight": fitted})
    )
    assert accuracy(merged, "a") == accuracy(merged, "b") == 1.0


def test_a_greedy_soup_of_equals_is_the_first_alone():
    assert learn("greedy_soup", [EXPERTS[0]] * 3, ("a", "a", "a"))["head.weight"].tolist() == [1.0, 0.0, 0.0]


def test_learned_masks_keep_what_the_task_needs():
    noisy = [
        {"head.weight": expert["head.weight"] + torch.where(expert["head.weight"] == 0, 0.5, 0.0)}
        for expert in EXPERTS
    ]
    fitted = learn("localize_and_stitch_trained", noisy, density=1.0, steps=80, sparsity=0.5)["head.weight"]
    assert fitted.dtype == torch.bool
    for mask, expert in zip(fitted, EXPERTS, strict=True):
        assert mask[expert["head.weight"] != 0].all()  # what makes the answers right stays
        assert mask.float().mean() < 0.6  # much of the rest goes
    merged = merge_lib.merge(
        "localize_and_stitch_trained", noisy, BASE, learned=Learned(fitted={"head.weight": fitted})
    )
    assert accuracy(merged, "a") == accuracy(merged, "b") == 1.0


@pytest.mark.parametrize("method", ["adamerging", "greedy_soup", "localize_and_stitch_trained"])
def test_the_same_seed_learns_the_same_bytes(method):
    params = {} if method == "greedy_soup" else {"steps": 3}
    first, again = (learn(method, EXPERTS, **params) for _ in range(2))
    assert torch.equal(first["head.weight"], again["head.weight"])


def test_what_is_refused():
    with pytest.raises(MethodInputError, match="asked to learn from 1 tasks for 2 experts"):
        fit("adamerging", Probe(), ("a",), BASE, EXPERTS)
    with pytest.raises(MethodInputError, match="but learns nothing"):
        fit("ties", Probe(), ("a", "b"), BASE, EXPERTS)
    endless = [{"head.weight": expert["head.weight"] * float("1e38")} for expert in EXPERTS]
    with pytest.raises(MethodInputError, match="is not finite"):
        learn("adamerging", endless, steps=2)
    with pytest.raises(
        MethodInputError, match=r"'adamerging' needs data \(test inputs\), but no fitted values"
    ):
        merge_lib.merge("adamerging", EXPERTS, BASE)


@pytest.mark.parametrize(
    ("method", "split"),
    [("adamerging", "test"), ("greedy_soup", "validation"), ("localize_and_stitch_trained", "train")],
)
def test_a_task_without_examples_is_named(method, split):
    class Poor(Probe):
        def batches(self, task, **asked):
            for batch in super().batches(task, **asked):
                yield batch if task == "a" else Batch(batch.inputs[:0], batch.labels[:0])

    with pytest.raises(DataError, match=f"Task 'b' has no examples in its {split} split"):
        fit(method, Poor(), ("a", "b"), BASE, EXPERTS)
