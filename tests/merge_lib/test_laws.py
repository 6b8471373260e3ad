"""What must hold for every registered method."""

import math

import pytest
import torch

from merge_lib import registry
from merge_lib.engine import Job, run_jobs
from merge_lib.memory import NamedTensors
from merge_lib.trail import TrailBook

NAMES = registry.names()

# Parameters with which one expert alone comes back unchanged, or why there are none; a new method adds its line.
ONE_EXPERT: dict[str, dict[str, object] | str] = {
    "adamerging": "its scales are learned",
    "average": {},
    "breadcrumbs": {"density": 1, "outliers": 0, "scale": 1},
    "cat": {"scale": 1},
    "condu": {},
    "consensus": {"tasks": 1, "scale": 1},
    "continual_task_arithmetic": {"scale": 1},
    "continual_ties": {"density": 1, "scale": 1},
    "dare": {"density": 1, "scale": 1},
    "dare_ties": {"density": 1, "scale": 1},
    "della": {"density": 1, "window": 0, "scale": 1},
    "dop": {},
    "ema": {},
    "emr": {},
    "fisher": {},
    "greedy_soup": {},
    "iso_c": "its spectrum is made flat",
    "iso_cts": "its spectrum is made flat",
    "karcher": {},
    "knots": {"density": 1, "scale": 1},
    "knots_dare": {"density": 1, "scale": 1},
    "linear": {},
    "localize_and_stitch": {"density": 1},
    "localize_and_stitch_trained": "its masks are learned",
    "lot": {},  # on inputs that the data contain; here they contain all
    "magmax": {"scale": 1},
    "model_stock": {},
    "multislerp": {},
    "neuromerging": {"density": 1, "parallel_scale": 1},
    "nuslerp": {},
    "opcm": {},
    "pcb": "the last entry that competes weighs nothing",
    "regmean": {},
    "running_average": {},
    "sce": {},
    "slerp": {},
    "tall_masks": {},
    "task_arithmetic": {"scale": 1},
    "ties": {"density": 1, "scale": 1},
    "tsv": {},
    "wise_ft": {"position": 1},
    "wudi": {},
}

# (method, its parameters) does the same as (simpler method, its parameters).
LIMITS = [
    ("task_arithmetic", {"scale": 1 / 3}, "average", {}),
    ("running_average", {}, "average", {}),
    ("condu", {"drift": False}, "emr", {}),
    ("condu", {"drift": False, "task": 1}, "emr", {"task": 1}),
    (
        "condu",
        {"drift": False, "rescaler": "official", "task": 0},
        "emr",
        {"rescaler": "official", "task": 0},
    ),
    ("continual_task_arithmetic", {"scale": 0.7}, "task_arithmetic", {"scale": 0.7}),
    ("continual_ties", {"density": 0.4, "memory": "sums"}, "ties", {"density": 0.4, "trim": "tensor"}),
    ("breadcrumbs", {"density": 1, "outliers": 0, "scale": 0.7}, "task_arithmetic", {"scale": 0.7}),
    ("consensus", {"tasks": 0, "scale": 0.7}, "task_arithmetic", {"scale": 0.7}),
    ("consensus", {"tasks": 1, "threshold": 0, "scale": 0.7}, "task_arithmetic", {"scale": 0.7}),
    ("consensus", {"tasks": 0, "scale": 1, "combine": "ties"}, "tall_masks", {"combine": "ties"}),
    ("dare", {"density": 1, "scale": 0.7}, "task_arithmetic", {"scale": 0.7}),
    ("dare_ties", {"density": 1, "scale": 0.7}, "ties", {"density": 1, "scale": 0.7}),
    ("della", {"density": 1, "window": 0, "scale": 0.7}, "ties", {"density": 1, "scale": 0.7}),
    ("localize_and_stitch", {"density": 1}, "average", {}),
    ("nuslerp", {"position": 0.3}, "slerp", {"position": 0.3}),
    ("nuslerp", {"position": 0}, "linear", {"position": 0}),
    ("tall_masks", {"threshold": 0, "task": 1}, "task_arithmetic", {"scale": 1}),
    ("ema", {"weight": 0.3}, "linear", {"position": 0.3}),
    ("cat", {"rank": 0, "masked_scales": 0, "masked_shifts": 0}, "task_arithmetic", {"scale": 0.4}),
    ("regmean", {"ridge": 1e15}, "average", {}),
    ("fisher", {"floor": 1e15}, "average", {}),
    ("dop", {"steps": 0}, "ema", {"weight": 0.5}),
    ("iso_cts", {"common": 1}, "iso_c", {}),
    ("knots", {"combine": "sum", "density": 1, "scale": 0.3}, "task_arithmetic", {}),
    ("knots_dare", {"density": 1}, "knots", {"density": 1, "scale": 0.7}),
    ("ties", {"density": 1, "trim": "model"}, "ties", {"density": 1, "trim": "tensor"}),
]


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def assert_near(left, right, tolerance=1e-12) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


def test_every_method_has_its_line_here():
    assert sorted(ONE_EXPERT) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_shapes_dtypes_and_inputs_are_kept(name, dtype, make_models, merge_with_data):
    base, experts = make_models(dtype=dtype)
    before = [{key: tensor.clone() for key, tensor in state.items()} for state in (base, *experts)]
    merged = merge_with_data(name, experts, base)
    assert list(merged) == sorted(base)
    for key, tensor in merged.items():
        assert (tensor.shape, tensor.dtype) == (base[key].shape, base[key].dtype)
        assert torch.isfinite(tensor).all()
    assert all(same(old, new) for old, new in zip(before, (base, *experts), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_result_shares_no_memory_with_the_inputs(name, make_models, merge_with_data):
    base, experts = make_models(1)
    merged = merge_with_data(name, experts, base)
    owned = {tensor.data_ptr() for state in (base, *experts) for tensor in state.values() if tensor.numel()}
    assert not owned & {tensor.data_ptr() for tensor in merged.values() if tensor.numel()}


@pytest.mark.parametrize("name", NAMES)
def test_zero_task_vectors_give_the_base(name, make_models, merge_with_data):
    base, _ = make_models()
    assert_near(merge_with_data(name, [base, base, base], base), base)


@pytest.mark.parametrize("name", [name for name in NAMES if not isinstance(ONE_EXPERT[name], str)])
def test_one_expert_gives_that_expert(name, make_models, merge_with_data):
    base, experts = make_models(1)
    assert_near(merge_with_data(name, experts, base, **ONE_EXPERT[name]), experts[0])


@pytest.mark.parametrize("name", [info.name for info in registry.methods() if info.order_free])
def test_the_order_of_the_experts_does_not_matter(name, make_models, merge_with_data):
    base, experts = make_models(4)
    turned = merge_with_data(name, experts[::-1], base, order=(3, 2, 1, 0))
    assert_near(merge_with_data(name, experts, base), turned)


@pytest.mark.parametrize("name", [info.name for info in registry.methods() if not info.order_free])
def test_the_order_matters_where_it_is_declared_to(name, make_models, merge_with_data):
    base, experts = make_models(3)
    if name == "magmax":  # there it matters only where magnitudes are equal
        base = {key: torch.zeros_like(t) if t.is_floating_point() else t for key, t in base.items()}
        experts = [
            {key: torch.full_like(t, sign) if t.is_floating_point() else t for key, t in base.items()}
            for sign in (1.0, -1.0)
        ]
    assert not same(merge_with_data(name, experts, base), merge_with_data(name, experts[::-1], base))


@pytest.mark.parametrize("name", NAMES)
def test_only_randomised_methods_depend_on_the_seed(name, make_models, merge_with_data):
    base, experts = make_models()
    first, again, other = (merge_with_data(name, experts, base, seed=seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert same(first, other) != registry.get(name).randomised


@pytest.mark.parametrize(
    "name", [info.name for info in registry.methods() if "scale" in info.params_model.model_fields]
)
def test_the_scale_is_a_factor_on_the_merged_task_vector(name, make_models, merge_with_data):
    base, experts = make_models()
    whole = merge_with_data(name, experts, base, scale=1.0)
    half = merge_with_data(name, experts, base, scale=0.5)
    none = merge_with_data(name, experts, base, scale=0.0)
    expected = {
        key: (base[key] + whole[key]) / 2 if base[key].is_floating_point() else base[key]
        for key in sorted(base)
    }
    assert_near(half, expected)
    assert_near(none, base)


@pytest.mark.parametrize(("name", "params", "simpler", "simpler_params"), LIMITS)
def test_limits_reduce_to_the_simpler_method(
    name, params, simpler, simpler_params, make_models, merge_with_data
):
    base, experts = make_models(3)
    assert_near(
        merge_with_data(name, experts, base, **params),
        merge_with_data(simpler, experts, base, **simpler_params),
    )


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_no_bit(name, merge_with_data):
    generator = torch.Generator().manual_seed(1)
    base, *experts = ({"w": torch.randn(301, 211, generator=generator)} for _ in range(4))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(merge_with_data(name, experts, base))
    finally:
        torch.set_num_threads(threads)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_changes_no_bit(name, merge_with_data):
    generator = torch.Generator().manual_seed(1)
    base, *experts = ({"w": torch.randn(31, 17, generator=generator)} for _ in range(4))
    turned = [{"w": state["w"].T.contiguous().T} for state in experts]
    assert same(merge_with_data(name, experts, base), merge_with_data(name, turned, base))


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_which_variant_it_is(name):
    info = registry.get(name)
    function = info.implementation.merge or info.implementation.step
    for part in ("Scope:", "Variant:", "Differs from the paper:", "Reference:", "Args:", "Returns:"):
        assert part in function.__doc__, part
    assert info.summary.endswith(".")
    assert info.paper.startswith("https://")
    assert info.module.rpartition(".")[2] == name  # one method, one file
    assert all(parameter.description for parameter in info.parameters)


# Methods that take nothing away: their merge is the sum, or the mean, of what they are given, times a scale.
NOTHING_TO_NOTE = ("average", "continual_task_arithmetic", "running_average", "task_arithmetic")


def notes_of(name, experts, base, learned) -> dict[str, list[dict[str, list[float]]]]:
    """What the method says of every tensor, a page for each call of it."""
    book = TrailBook()
    info = registry.get(name)
    job = Job(
        info,
        info.check_params({}),
        0,
        tuple(range(len(experts))),
        (),
        learned=learned,
        trail=book,
    )
    sources = [NamedTensors(str(place), state) for place, state in enumerate((base, *experts))]
    for _ in run_jobs([job], sources[0], sources[1:]):
        pass
    return {tensor: [page.notes for page in pages] for tensor, pages in book.pages.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_method_says_what_it_removed(name, dtype, make_models, learned_for):
    count = 3
    base, experts = make_models(count, dtype=dtype)
    noted = notes_of(name, experts, base, learned_for(name, base, count, {}))
    assert (not noted) == (name in NOTHING_TO_NOTE)
    for tensor, pages in noted.items():
        is_continual = registry.get(name).kind == "continual"
        assert len(pages) == (count if is_continual else 1)
        if tensor == "z.weight":
            assert any(pages)
        for step, page in enumerate(pages):
            for quantity, values in page.items():
                assert len(values) in (1, step + 1 if is_continual else count), quantity
                assert all(math.isfinite(value) for value in values), (tensor, quantity)
                if quantity.startswith("share") or quantity.startswith("energy"):
                    assert all(-1e-6 <= value <= 1 + 1e-6 for value in values), (tensor, quantity, values)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_listening_changes_no_bit(name, make_models, merge_with_data, learned_for):
    base, experts = make_models(2)
    info = registry.get(name)
    learned = learned_for(name, base, len(experts), {})
    job = Job(info, info.check_params({}), 0, (0, 1), (), learned=learned, trail=TrailBook())
    sources = [NamedTensors(str(place), state) for place, state in enumerate((base, *experts))]
    heard = {tensor: made for _, tensor, made in run_jobs([job], sources[0], sources[1:])}
    assert same(heard, merge_with_data(name, experts, base))
