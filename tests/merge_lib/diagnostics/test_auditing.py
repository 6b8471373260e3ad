import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib import MergeSpec, merge_checkpoints, registry
from merge_lib.checkpoints import write_state_dict
from merge_lib.diagnostics import audit, read_table, write_table
from merge_lib.diagnostics.summary import OUTSIDE, by_block, by_task, largest_losses, parts_of, summarise
from merge_lib.diagnostics.table import SCHEMA
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.registry import merge_method

TASKS = ("red", "blue")


def write(folder, name, tensors):
    tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in tensors.items()}
    return write_state_dict(folder / f"{name}.safetensors", tensors, lineage={}).path


@pytest.fixture
def models(tmp_path):
    """A base of zeros and two experts: what they differ by can be read off."""
    base = write(
        tmp_path, "base", {"layers.0.weight": [[0.0] * 4], "layers.1.weight": [[0.0] * 4], "head": [0.0]}
    )
    red = write(
        tmp_path,
        "red",
        {"layers.0.weight": [[3.0, 4, 0, 0]], "layers.1.weight": [[1.0, 1, 1, 1]], "head": [2.0]},
    )
    blue = write(
        tmp_path,
        "blue",
        {"layers.0.weight": [[-1.0, 2, 2, 0]], "layers.1.weight": [[0.0] * 4], "head": [-4.0]},
    )
    return base, (red, blue)


def spec_of(models, method, **fields):
    base, experts = models
    return MergeSpec(method=method, base=base, experts=experts, **fields)


def said(table, **wanted):
    """(expert, value) of the lines that match."""
    rows = [row for row in table.to_pylist() if all(row[key] == value for key, value in wanted.items())]
    return {row["expert"]: row["value"] for row in rows}


def test_two_experts_by_hand(models):
    table = audit(spec_of(models, "task_arithmetic", params={"scale": 0.5}), label="half", tasks=TASKS)
    assert table.schema.equals(SCHEMA)
    first = {"tensor": "layers.0.weight", "source": "measure"}
    # Δ = (1, 3, 1, 0); ⟨Δ, τ⟩ = 15 of 25, and 7 of 9
    assert said(table, **first, quantity="energy kept") == pytest.approx({0: 15 / 25, 1: 7 / 9})
    assert said(table, **first, quantity="outvoted entries") == pytest.approx({0: 0, 1: 1 / 3})
    assert said(table, **first, quantity="merged density") == {-1: 0.75}
    assert said(table, quantity="scale", tensor="head") == {-1: 0.5}
    line = table.to_pylist()[1]
    assert (line["method"], line["label"], line["role"]) == ("task_arithmetic", "half", "other")
    # the zero task vector of blue in the second layer has no share that could be kept
    second = {"tensor": "layers.1.weight", "source": "measure"}
    assert said(table, **second, quantity="energy kept") == {0: 0.5}


def test_by_task_and_block(models):
    parts = parts_of(audit(spec_of(models, "task_arithmetic", params={"scale": 0.5}), tasks=TASKS))
    tasks = by_task(parts)
    # red: 15 of 25, 2 of 4, and in the head 2·(−1) of 4
    assert tasks["red"]["energy kept"] == pytest.approx((15 + 2 - 2) / 33)
    assert tasks["red"]["norm"] == pytest.approx(33**0.5)
    assert tasks["blue"]["energy kept"] == pytest.approx((7 + 4) / 25)
    assert tasks["blue"]["outvoted entries"] == pytest.approx(1 / 4)
    assert tasks["red"]["merged density"] == pytest.approx(8 / 9)
    blocks = by_block(parts)
    assert list(blocks) == ["layers.0", "layers.1", OUTSIDE]
    assert blocks[OUTSIDE]["red"]["energy kept"] == pytest.approx(-0.5)
    assert "energy kept" not in blocks["layers.1"]["blue"]


def test_the_largest_losses_add_up_to_what_is_gone(models):
    parts = parts_of(audit(spec_of(models, "task_arithmetic", params={"scale": 0.5}), tasks=TASKS))
    losses = largest_losses(parts, 10)
    red = [loss for loss in losses if loss.task == "red"]
    assert sum(loss.share for loss in red) == pytest.approx(1 - by_task(parts)["red"]["energy kept"])
    assert losses == sorted(losses, key=lambda loss: -loss.share)
    assert red[0].tensor == "layers.0.weight"
    assert red[0].share == pytest.approx(10 / 33)
    assert red[0].why == {"scale": 0.5}
    twice = largest_losses([*parts, *parts], 10)  # two seeds that did the same
    assert [loss.share for loss in twice] == pytest.approx([loss.share for loss in losses])


def test_the_notes_say_what_ties_trimmed_and_outvoted(models):
    table = audit(spec_of(models, "ties", params={"density": 0.5, "trim": "tensor"}), tasks=TASKS)
    first = {"tensor": "layers.0.weight", "source": "note"}
    assert said(table, **first, quantity="share kept") == {0: 0.5, 1: 0.5}
    assert said(table, **first, quantity="energy trimmed") == pytest.approx({0: 0, 1: 1 / 9})
    assert said(table, **first, quantity="energy outvoted") == {0: 0, 1: 0}
    head = {"tensor": "head", "source": "note"}
    assert said(table, **head, quantity="energy outvoted") == {0: 1.0, 1: 0.0}


def test_notes_of_a_fold_belong_to_the_expert_that_was_folded_in(models):
    table = audit(spec_of(models, "magmax", params={"scale": 1.0}), tasks=TASKS)
    first = {"tensor": "layers.0.weight", "source": "note"}
    # of (3, 4, 0, 0) against (−1, 2, 2, 0) the second takes over the third entry, and the equal fourth
    assert said(table, **first, quantity="share taken over") == {1: 0.5}
    assert said(table, **first, quantity="energy not taken") == pytest.approx({1: 5 / 9})


@pytest.mark.parametrize("method", ["emr", "condu", "tall_masks"])
def test_a_model_for_each_task_is_audited_as_that_task_s(method, models):
    of_all = audit(spec_of(models, method), tasks=TASKS)
    for task in (0, 1):
        alone = audit(spec_of(models, method, params={"task": task}), tasks=TASKS)
        for quantity in ("energy kept", "opposed entries"):
            wanted = {"tensor": "layers.0.weight", "source": "measure", "quantity": quantity}
            assert said(of_all, **wanted)[task] == said(alone, **wanted)[task]
    kept = said(of_all, tensor="layers.0.weight", source="note", quantity="share kept")
    assert kept.keys() == {0, 1}


def test_what_is_excluded_is_said_to_be(models):
    table = audit(spec_of(models, "average", exclude=("head",)), tasks=TASKS)
    assert said(table, tensor="head", quantity="excluded") == {-1: 1.0}
    assert said(table, tensor="head", quantity="energy kept") == {0: 0.0, 1: 0.0}
    assert said(table, tensor="layers.0.weight", quantity="excluded") == {}


def test_layer_scales_count(models):
    scaled = spec_of(models, "average", layer_scales={"shallow": 0.5, "slope": 0.5})
    table = audit(scaled, tasks=TASKS)
    assert said(table, quantity="layer scale", tensor="layers.0.weight") == {-1: 0.5}
    assert said(table, quantity="layer scale", tensor="layers.1.weight") == {-1: 1.0}
    # half of (3 − 1, 4 + 2, 2, 0) / 2 = (0.5, 1.5, 0.5, 0): 7.5 of 25
    assert said(table, quantity="energy kept", tensor="layers.0.weight")[0] == pytest.approx(0.3)


def test_a_merge_that_lies_on_the_disk_is_measured_alike(models, tmp_path):
    spec = spec_of(models, "ties")
    made = merge_checkpoints(spec, tmp_path / "merged.safetensors")
    remade, given_ = audit(spec, tasks=TASKS), audit(spec, made.path, tasks=TASKS)
    measured = remade.filter([value.as_py() == "measure" for value in remade["source"]])
    assert given_.to_pylist() == measured.to_pylist()


NO_DATA = [info.name for info in registry.methods() if info.data == "none"]


@pytest.mark.parametrize("name", NO_DATA)
def test_every_method_that_needs_no_data_can_be_audited(name, models):
    table = audit(spec_of(models, name), tasks=TASKS)
    summary = summarise(table, "audit/key")
    assert list(summary.tasks) == list(TASKS)
    assert list(summary.blocks) == ["layers.0", "layers.1", OUTSIDE]
    assert set(table["expert"].to_pylist()) <= {-1, 0, 1}


@given(scale=st.floats(0.0, 2.0), entries=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=5))
def test_of_one_expert_task_arithmetic_keeps_the_scale(scale, entries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    base = write(folder, "base", {"w": [0.0] * len(entries)})
    expert = write(folder, "expert", {"w": entries})
    spec = MergeSpec(method="task_arithmetic", params={"scale": scale}, base=base, experts=(expert,))
    kept = said(audit(spec), quantity="energy kept")
    energy = sum(value * value for value in entries)
    if energy > 1e-280:
        assert kept == pytest.approx({0: scale}, abs=1e-6)
        assert said(audit(spec), quantity="residual") == pytest.approx({0: 0}, abs=1e-9)


def test_a_table_comes_back_from_its_file(models, tmp_path):
    table = audit(spec_of(models, "ties"), tasks=TASKS)
    assert read_table(write_table(table, tmp_path / "deep" / "audit.parquet")).equals(table)
    lines = write_table(table, tmp_path / "audit.csv").read_text().splitlines()
    assert len(lines) == 1 + len(table)
    with pytest.raises(SpecError, match=r"as \.parquet or \.csv; got .*audit\.json"):
        write_table(table, tmp_path / "audit.json")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(CheckpointCorruptError, match=r"broken\.parquet cannot be read"):
        read_table(tmp_path / "broken.parquet")


def test_names_of_experts_come_from_their_files(models):
    assert set(audit(spec_of(models, "average"))["task"].to_pylist()) == {"", "red", "blue"}


def test_what_cannot_be_audited(models, tmp_path):
    _, experts = models
    with pytest.raises(SpecError, match="no base is given"):
        audit(MergeSpec(method="average", experts=experts))
    with pytest.raises(SpecError, match="1 tasks were named for 2 experts"):
        audit(spec_of(models, "average"), tasks=["one"])
    other = write(tmp_path, "other", {"layers.0.weight": [[0.0] * 4]})
    with pytest.raises(CheckpointMismatchError, match=r"layers\.1\.weight"):
        audit(spec_of(models, "average"), other)
    layers = {f"layers.{place}.weight": [[0.0] * 4] for place in (0, 1)}
    spoilt = write(tmp_path, "spoilt", {**layers, "head": [float("nan")]})
    with pytest.raises(MethodInputError, match=r"'head' in .*spoilt.* has 1 of 1 values that are NaN"):
        audit(spec_of(models, "average"), spoilt)


def test_a_note_that_fits_no_expert_is_refused(models, monkeypatch):
    @merge_method(name="chatty", title="Chatty", paper="https://x", needs_base=True, order_free=True)
    def chatty(task_vectors, *, trail=None):
        """Says too much."""
        trail.note("words", lambda: torch.zeros(3))
        return task_vectors[0]

    try:
        with pytest.raises(
            MethodInputError, match="'chatty' noted 3 values of 'words' for tensor 'head' of 2"
        ):
            audit(spec_of(models, "chatty"))
    finally:
        registry.declared.pop("chatty")


def test_equalised_merges_are_measured_by_the_experts_own_task_vectors(models):
    spec = spec_of(models, "task_arithmetic", params={"scale": 1.0}, equalise="norms")
    table = audit(spec, tasks=TASKS)
    norms = (33**0.5, 25**0.5)
    factors = [sum(norms) / 2 / norm for norm in norms]
    head = {"tensor": "head", "source": "measure"}
    assert said(table, **head, quantity="norm") == {0: 2.0, 1: 4.0}
    merged = 2 * factors[0] - 4 * factors[1]
    assert said(table, **head, quantity="energy kept") == pytest.approx({0: merged / 2, 1: -merged / 4})
    whole = {"tensor": "head", "source": "note"}
    assert said(table, **whole, quantity="norm of the whole task vector") == pytest.approx(
        dict(enumerate(norms))
    )
    assert said(table, **whole, quantity="factor that equalises norms") == pytest.approx(
        dict(enumerate(factors))
    )
    assert said(table, **whole, quantity="scale") == {-1: 1.0}


@pytest.mark.parametrize("method", ["ties", "opcm", "emr"])
def test_what_was_equalised_is_noted_beside_the_method_s_own_notes(models, method):
    alone = audit(spec_of(models, method), tasks=TASKS)
    equalised = audit(spec_of(models, method, equalise="norms"), tasks=TASKS)
    noted = [
        {row["quantity"] for row in table.to_pylist() if row["source"] == "note"}
        for table in (alone, equalised)
    ]
    assert noted[1] - noted[0] == {"norm of the whole task vector", "factor that equalises norms"}
    assert noted[0] <= noted[1]
