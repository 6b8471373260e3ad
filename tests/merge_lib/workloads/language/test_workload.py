"""Training, evaluation and probes on checkpoints."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import merge_lib
from merge_lib import registry
from merge_lib.calibration.collect import Calibration, collect
from merge_lib.calibration.store import Observations
from merge_lib.checkpoints import read_state_dict
from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.errors import CheckpointMismatchError, DataError, SpecError, UnknownMethodError
from merge_lib.fitting import fit
from merge_lib.forgetting.answers import answers_of
from merge_lib.learned import Learned
from merge_lib.probe import Naming, Telling
from merge_lib.workloads import LanguageConfig, Probing, Workload
from merge_lib.workloads.language.probe import OPEN
from merge_lib.workloads.pretrained.models import DTYPES

LORAS = {"full": None, "factor": {"space": "factor"}, "product": {"space": "product"}}
RANKED = {"counting": "log_likelihood", "moods": "log_likelihood"}


@pytest.fixture
def trained(tmp_path):
    """Train from the base, or from another checkpoint; the base's and the expert's files."""

    def files(workload, *tasks, start=None):
        base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
        out = tmp_path / f"{'-'.join(tasks)}.safetensors"
        return base, workload.fine_tune(start or base, tasks, out, seed=0, lineage={}).path

    return files


def test_it_is_a_workload_that_can_be_shown(make_workload):
    workload = make_workload()
    assert isinstance(workload, Workload)
    assert isinstance(workload, Probing)
    assert isinstance(workload.probe(), Telling)
    assert isinstance(workload.probe(), Naming)
    assert workload.chance == (0.0, 0.2, 0.25)


@pytest.mark.parametrize("form", LORAS)
def test_the_loss_falls(make_workload, architecture, tmp_path, form):
    adapted = ("o", "v") if architecture == "t5" else ("o_proj", "down_proj")
    lora = LORAS[form] and LORAS[form] | {"rank": 8, "targets": adapted}
    training = {"epochs": 12, "learning_rate": 3e-2}
    workload = make_workload(
        architecture, ("counting",), lora, fine_tuning=training, scoring="log_likelihood"
    )
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
    losses = workload.fine_tune(base, ["counting"], tmp_path / "x.safetensors", seed=0, lineage={}).losses
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("form", LORAS)
def test_what_is_stored_is_what_is_evaluated(make_workload, architecture, trained, form):
    workload = make_workload(architecture, lora=LORAS[form])
    base, expert = (read_state_dict(path) for path in trained(workload, "copying"))
    assert base.keys() == expert.keys()
    changed = {name for name in base if not torch.equal(base[name], expert[name])}
    assert changed
    assert workload.evaluate(merge_lib.merge("average", [base, expert]), workload.tasks).keys() == set(
        workload.tasks
    )
    module = workload.probe().module(expert)
    assert {name for name, _ in module.named_parameters()} == expert.keys()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, expert[name])


def test_adapters_compute_what_their_products_do(make_workload, architecture, trained):
    """Both spaces train the same adapters, so the experts answer alike."""
    found = []
    for space in ("factor", "product"):
        workload = make_workload(architecture, lora={"space": space}, scoring=RANKED)
        _, expert = trained(workload, "moods")
        probe = workload.probe()
        module = probe.module(read_state_dict(expert))
        batch = next(probe.batches("moods", split="test", count=8, seed=0, size=8))
        found.append(probe.logits(module, batch, "moods"))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_training_together_makes_as_many_epochs_over_the_union(make_workload, trained, tmp_path):
    workload = make_workload(fine_tuning={"epochs": 2, "batch_size": 10})
    base, _ = trained(workload, "copying")
    report = workload.fine_tune(base, workload.tasks, tmp_path / "joint.safetensors", seed=0, lineage={})
    examples = sum(len(workload.texts[task].encoded("train")) for task in workload.tasks)
    assert report.steps == 2 * -(-examples // 10)
    assert len(report.losses) == 2


def test_the_same_training_gives_the_same_bytes(make_workload, architecture, trained, tmp_path):
    workload = make_workload(architecture)
    base, expert = trained(workload, "moods")
    again = workload.fine_tune(base, ["moods"], tmp_path / "again.safetensors", seed=0, lineage={})
    other = workload.fine_tune(base, ["moods"], tmp_path / "other.safetensors", seed=1, lineage={})
    assert expert.read_bytes() == again.path.read_bytes()
    assert other.digest != again.digest


def test_the_number_of_prompts_at_once_changes_no_accuracy(make_workload, architecture, trained):
    found = []
    for batch in (4, 64):
        workload = make_workload(architecture, batch=batch, scoring=RANKED)
        base, _ = trained(workload, "copying")
        texts = workload.texts["moods"]
        model = workload.models.reading(read_state_dict(base))
        found.append((texts.ranked(model, "test").tolist(), workload.texts["copying"].said(model, "test")))
    assert found[0] == found[1]


def test_an_answer_counts_if_it_is_the_right_one_to_the_letter(make_workload, monkeypatch):
    texts = make_workload().texts["copying"]
    right = [example.target for example in texts.snapshot.splits["test"]]
    said = [right[0], f"{right[1]}x", right[2].upper(), *[""] * (len(right) - 3)]
    monkeypatch.setattr(type(texts), "said", lambda *_: said)
    assert texts.accuracy(None, "test") == 1 / len(right)


@pytest.mark.parametrize("form", LORAS)
@pytest.mark.parametrize("kind", ["gram", "fisher"])
def test_methods_that_need_data_see_the_prompts(make_workload, architecture, trained, tmp_path, form, kind):
    workload = make_workload(architecture, lora=LORAS[form])
    state = read_state_dict(trained(workload, "moods")[1])
    asked = Calibration(kind=kind, examples=4, batch_size=3)
    for task in ("moods", "copying"):
        found = collect(asked, state, workload.probe(), task, tmp_path / task, data="x", model="y")
        assert found.manifest.counts
        assert set(found.manifest.counts) <= state.keys() | {"lm_head.weight"}  # tied to the embedding


def test_factors_see_what_flows_into_them(make_workload, architecture, trained, tmp_path):
    """A sees what the layer sees, and B what A makes of it: with inputs x, Gram matrices of x and of A x."""
    asked, found, states = Calibration(kind="gram", examples=6), {}, {}
    for space in ("factor", "product"):
        workload = make_workload(architecture, lora={"space": space})
        states[space] = read_state_dict(trained(workload, "moods")[1])
        folder = collect(
            asked, states[space], workload.probe(), "moods", tmp_path / space, data="x", model="y"
        )
        found[space] = {name: folder.value(name) for name in folder.manifest.counts}
    factors, layers = states["factor"], [name.removesuffix(".weight") for name in found["product"]]
    assert found["factor"].keys() == factors.keys()
    for layer in layers:
        a = f"{PREFIX}{layer}.lora_A.weight"
        gram = found["product"][f"{layer}.weight"]
        torch.testing.assert_close(found["factor"][a], gram, atol=1e-4, rtol=1e-3)
        expected = factors[a] @ gram @ factors[a].T
        torch.testing.assert_close(
            found["factor"][f"{PREFIX}{layer}.lora_B.weight"], expected, atol=1e-4, rtol=1e-3
        )


NEEDING = [info.name for info in registry.methods() if info.data != "none"]
FEW = {
    "adamerging": {"steps": 2},
    "localize_and_stitch_trained": {"steps": 2},
}


@pytest.mark.parametrize("method", NEEDING)
def test_every_method_that_needs_data_merges_factors(make_workload, trained, tmp_path, method):
    workload = make_workload("llama", ("moods", "counting"), lora=LORAS["factor"], scoring=RANKED)
    base, experts = None, []
    for task in workload.tasks:
        base, expert = map(read_state_dict, trained(workload, task))
        experts.append(expert)
    info, probe = registry.get(method), workload.probe()
    learned = Learned()
    if info.is_fitted:
        learned = Learned(fitted=fit(method, probe, workload.tasks, base, experts, params=FEW.get(method)))
    elif info.observation is not None:
        asked = Calibration(kind=info.observation, examples=4, rows=64)
        for task, expert in zip(workload.tasks, experts, strict=True):
            collect(asked, expert, probe, task, tmp_path / task, data="x", model="y")
        folders = [tmp_path / task for task in workload.tasks]
        learned = Learned(observations=Observations.open(info.observation, folders))
    merged = merge_lib.merge(method, experts, base, learned=learned)
    assert merged.keys() == base.keys()
    assert any(not torch.equal(merged[name], base[name]) for name in base)
    assert workload.evaluate(merged, workload.tasks).keys() == set(workload.tasks)


def test_padding_is_no_feature(make_workload, architecture, trained, tmp_path):
    """What is observed of examples together is what is observed of them one by one, but for rounding."""
    workload = make_workload(architecture)
    state = read_state_dict(trained(workload, "moods")[0])
    layer = (
        "encoder.block.0.layer.0.SelfAttention.q.weight"
        if architecture == "t5"
        else ("model.layers.0.self_attn.q_proj.weight")
    )
    found = []
    for size in (1, 5):
        asked = Calibration(kind="gram", examples=5, batch_size=size)
        folder = collect(asked, state, workload.probe(), "moods", tmp_path / str(size), data="x", model="y")
        found.append((folder.manifest.counts[layer], folder.value(layer)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


def test_probe_of_open_answers_has_two_outputs(make_workload, trained):
    workload = make_workload()
    probe = workload.probe()
    module = probe.module(read_state_dict(trained(workload, "copying")[0]))
    batch = next(probe.batches("copying", split="test", count=5, seed=0, size=5))
    logits = probe.logits(module, batch, "copying")
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(5))
    assert batch.labels.tolist() == [1] * 5
    assert probe.outputs("copying") == OPEN
    assert probe.outputs("moods") == ("glad", "calm", "wild", "dark")


def test_answers_and_texts_for_reports_of_forgetting(make_workload, architecture, trained):
    workload = make_workload(architecture, scoring=RANKED)
    state = read_state_dict(trained(workload, "moods")[1])
    probe = workload.probe()
    answers = answers_of(probe, state, ["moods"])["moods"]
    assert answers.accuracy == workload.evaluate(state, ["moods"])["moods"]
    batch = next(probe.batches("moods", split="test", count=2, seed=0, size=2))
    example = workload.texts["moods"].snapshot.splits["test"][int(batch.places[1])]
    assert probe.text(batch.inputs, 1) == f"moods {example.input} ="


@pytest.mark.parametrize("form", LORAS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_models_are_evaluated_in_16_bits_where_that_is_asked(
    make_workload, architecture, trained, form, precision
):
    whole, half = (
        make_workload(architecture, lora=LORAS[form], scoring=RANKED, **more)
        for more in ({}, {"evaluation_precision": precision})
    )
    _, expert = trained(half, "moods")
    state = read_state_dict(expert)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    model = half.models.reading(state)
    kept = "wo.weight" if precision == "fp16" else "none"  # of T5, whose own class asks for that
    dtypes = {one.dtype for name, one in model.named_parameters() if not name.endswith(kept)}
    assert dtypes == {DTYPES[precision]}
    rows = list(range(5))
    inputs, _ = half.texts["moods"].inputs("test", rows)
    with torch.no_grad():
        scores = half.texts["moods"].scores(model, inputs, DTYPES[precision])
        expected = whole.texts["moods"].scores(whole.models.reading(state), inputs)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=0.3, rtol=0.02)
    assert not torch.equal(scores, expected)
    assert half.evaluate(state, ["moods", "copying"]).keys() == {"moods", "copying"}


def test_unknown_tasks_are_refused(make_workload, trained, tmp_path):
    workload = make_workload()
    base, _ = trained(workload, "moods")
    with pytest.raises(UnknownMethodError, match=r"'mood' is not in the task sequence; did you mean 'moods'"):
        workload.evaluate(read_state_dict(base), ["mood"])
    with pytest.raises(SpecError, match="at least one task"):
        workload.fine_tune(base, [], tmp_path / "x.safetensors", seed=0, lineage={})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scoring": "log_likelihood"}, r"log_likelihood for copying, whose answers are open"),
        (
            {"scoring": {"mods": "exact_match"}},
            r"`scoring` names mods, which the task sequence does not have",
        ),
        ({"tasks": ("moods", "moods")}, "each once"),
    ],
)
def test_settings_that_do_not_fit_the_tasks_are_refused(make_workload, settings, message):
    with pytest.raises(SpecError, match=message):
        make_workload(**settings)


def test_texts_that_are_too_long_are_counted_or_cut(make_workload):
    workload = make_workload(max_input=16)
    with pytest.raises(
        DataError, match=r"'moods' has texts that are too long: 30 prompts of more than `max_input` 16"
    ):
        workload.texts["moods"].encoded("train")
    encoded = make_workload(max_input=16, too_long="cut").texts["moods"].encoded("train")
    decoded = [workload.models.encoder.decode(torch.tensor(one.prompt)) for one in encoded]
    assert max(len(one.prompt) for one in encoded) == 16
    assert all(text.startswith("moods ") and text.endswith(" =") for text in decoded)
    with pytest.raises(DataError, match="answers of more than `max_target` 3 tokens, the longest of 5"):
        make_workload(max_target=3, too_long="cut").texts["moods"].encoded("train")


def test_checkpoints_of_other_models_are_refused(make_workload, trained):
    base, _ = trained(make_workload("t5"), "moods")
    with pytest.raises(CheckpointMismatchError, match="does not fit"):
        make_workload("llama").evaluate(read_state_dict(base), ["moods"])


def test_keys_hold_what_decides_a_result(root):
    one, other = (
        LanguageConfig(name="language", model=f"data/models/tiny-{kind}", batch=n)
        for kind, n in (("t5", 1), ("llama", 9))
    )
    assert one.parameters_of("evaluate") == other.parameters_of("evaluate")
    half = one.model_copy(update={"evaluation_precision": "bf16"})
    assert half.parameters_of("train") == one.parameters_of("train")
    assert half.parameters_of("evaluate") == one.parameters_of("evaluate") | {"evaluation_precision": "bf16"}
    assert "evaluation_precision" not in one.model_dump()
    assert one.pretraining_snapshots() == ("tiny-t5",)
    facts = [config.facts_of("train", ["moods"], root / "data") for config in (one, other)]
    assert facts[0] != facts[1]
    assert LanguageConfig(name="language", model="google/t5-v1_1-large").pretraining_snapshots() == ()


def test_models_are_loaded_in_several_threads_at_once(make_models, architecture):
    """Cells of a sweep do; transformers' own loading minds it where tensors are tied."""
    models = [make_models(architecture) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda one: one.fresh(seed=0).state_dict(), models))
    assert all(torch.equal(one[name], loaded[0][name]) for one in loaded for name in loaded[0])
