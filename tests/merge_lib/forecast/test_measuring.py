"""Features of merges on disk."""

from pathlib import Path

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import SpecError
from merge_lib.forecast.features import NAMES
from merge_lib.forecast.measuring import Candidate, measure, task_names
from merge_lib.forecast.theirs import opened_recipe

SHAPES = {"embed.weight": (7, 4), "layers.0.weight": (4, 4), "layers.1.weight": (4, 4), "head.bias": (3,)}


@pytest.fixture
def models(tmp_path) -> Path:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    base["steps"] = torch.tensor([3])
    write_state_dict(tmp_path / "base.safetensors", base, lineage={})
    for name in ("red", "blue", "green"):
        moved = {
            key: value + 0.1 * torch.randn(value.shape, generator=generator)
            if value.is_floating_point()
            else value
            for key, value in base.items()
        }
        write_state_dict(tmp_path / f"{name}.safetensors", moved, lineage={})
    return tmp_path


def spec(folder: Path, method: str = "average", **fields) -> MergeSpec:
    paths = tuple(folder / f"{name}.safetensors" for name in ("red", "blue", "green"))
    return MergeSpec(**{"method": method, "base": folder / "base.safetensors", "experts": paths, **fields})


def test_every_merge_has_a_row_for_each_expert_and_none_is_written(models):
    before = sorted(models.iterdir())
    names = ("average", "ties", "magmax", "emr", "opcm")
    found = measure([Candidate(name, spec(models, name)) for name in names])
    assert [(one.label, one.method, len(one.rows)) for one in found] == [(name, name, 3) for name in names]
    assert all(tuple(row) == NAMES for one in found for row in one.rows)
    assert sorted(models.iterdir()) == before


def test_together_or_alone_is_the_same(models):
    candidates = [Candidate(name, spec(models, name)) for name in ("ties", "tsv", "dare")]
    assert measure(candidates) == [one for candidate in candidates for one in measure([candidate])]


def test_the_merge_that_is_measured_is_the_one_that_would_be_made(models, tmp_path):
    asked = spec(models, "task_arithmetic", params={"scale": 0.7}, layer_scales={"slope": 0.5})
    merge_checkpoints(asked, tmp_path / "merged.safetensors")
    made = read_state_dict(tmp_path / "merged.safetensors")
    ours = measure([Candidate("a", asked)])
    again = measure([Candidate("a", spec(models), made.__getitem__, "task_arithmetic")])
    for one, other in zip(ours[0].rows, again[0].rows, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_a_model_for_each_task_is_measured_by_its_own_task(models):
    shared, each = measure([Candidate("a", spec(models)), Candidate("b", spec(models, "emr"))])
    for one, other in zip(shared.rows, each.rows, strict=True):
        assert other["opposed (model)"] == 0  # its masks keep the entries of the expert's own sign
        assert one["opposed (model)"] > 0


def test_excluded_tensors_count_as_left_in_the_base(models):
    free, bound = measure([Candidate("a", spec(models)), Candidate("b", spec(models, exclude=("head.*",)))])
    assert bound.rows[0]["kept (vectors)"] == 0
    assert free.rows[0]["kept (vectors)"] > 0
    assert free.rows[0]["kept (early)"] == bound.rows[0]["kept (early)"]


def test_a_method_that_refuses_leaves_the_others(models):
    def refuse(_name):
        from merge_lib.errors import MethodInputError

        raise MethodInputError("not these")

    found = measure([Candidate("a", spec(models)), Candidate("b", spec(models), refuse, "theirs")])
    assert len(found[0].rows) == 3
    assert (found[1].rows, found[1].refusal, found[1].method) == ((), "not these", "theirs")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _folder: [], "at least one merge"),
        (lambda folder: [Candidate("a", spec(folder, base=None))], "but no base is given. Give the `base`"),
        (
            lambda folder: [
                Candidate("a", spec(folder)),
                Candidate("b", spec(folder, experts=spec(folder).experts[:2])),
            ],
            "b have another base or other experts than 'a'",
        ),
    ],
)
def test_what_cannot_be_compared(make, message, models):
    with pytest.raises(SpecError, match=message):
        measure(make(models))


def test_names_of_tasks():
    assert task_names([Path("a/red.safetensors"), Path("b/blue")]) == ["red", "blue"]
    assert task_names([Path("a/model.safetensors"), Path("b/model.safetensors")]) == [
        "0 a/model.safetensors",
        "1 b/model.safetensors",
    ]


def models_of(weight: float) -> str:
    entries = (f"{{model: {name}.safetensors, parameters: {{weight: {weight}}}}}" for name in ("red", "blue"))
    return "".join(f"  - {entry}\n" for entry in entries)


def recipe(folder: Path, text: str) -> Path:
    path = folder / "theirs.yaml"
    path.write_text(text)
    return path


def test_a_recipe_of_mergekit_s_gives_the_same_features_as_ours(models):
    path = recipe(
        models,
        "merge_method: task_arithmetic\nbase_model: base.safetensors\ndtype: float32\n"
        "models:\n" + models_of(0.4),
    )
    ours = spec(models, "task_arithmetic", params={"scale": 0.4}, experts=spec(models).experts[:2])
    with opened_recipe(path) as theirs:
        found = measure([Candidate("ours", ours), theirs])
    assert (found[1].label, found[1].method) == ("theirs", "mergekit.task_arithmetic")
    for one, other in zip(found[0].rows, found[1].rows, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_recipe_without_a_base_is_told_one(models):
    path = recipe(
        models,
        "merge_method: linear\ndtype: float32\nmodels:\n" + models_of(1.0),
    )
    with pytest.raises(SpecError, match=r"theirs\.yaml names no base.*Give --base"), opened_recipe(path):
        pass
    with opened_recipe(path, base=models / "base.safetensors") as theirs:
        (found,) = measure([theirs])
    assert [row["kept (model)"] for row in found.rows] == pytest.approx([0.5, 0.5], abs=0.2)
