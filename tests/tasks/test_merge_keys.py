"""What a merge of a study depends on."""

import shutil
from pathlib import Path

import pytest

import merge_lib
from tasks import caching
from tasks.facts import is_folded
from tasks.jobs import MergeEntry, Setting
from tasks.merge_keys import merging_key

SETTING = Setting("", {"name": "vision"}, ("first", "second"), {})


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The sources of `merge_lib` that keys are made of, to be changed."""
    copy = tmp_path / "merge_lib"
    shutil.copytree(Path(merge_lib.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def find(name: str) -> Path | None:
        place = tmp_path.joinpath(*name.split("."))
        return next(
            (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None
        )

    monkeypatch.setattr(caching, "_source", find)
    caching.forget_sources()
    yield copy
    caching.forget_sources()


def keys() -> dict[str, str]:
    caching.forget_sources()
    entries = [MergeEntry(method, method, {}) for method in ("ties", "slerp")]
    return {entry.method: merging_key(SETTING, entry, 0, "base", ["one", "two"])[0] for entry in entries}


@pytest.mark.parametrize(
    ("changed", "methods"),
    [
        ("kernels/task_vectors.py", {"ties", "slerp"}),
        ("kernels/tiles.py", {"ties", "slerp"}),
        ("streaming/operations.py", {"ties", "slerp"}),
        ("streaming/sharing.py", {"ties", "slerp"}),
        ("arithmetic.py", {"ties", "slerp"}),
        ("methods/slerp.py", {"slerp"}),
        ("methods/ties.py", {"ties"}),
        ("methods/dare.py", set()),
        ("streaming/hub_card.py", set()),
        ("report/charts.py", set()),
    ],
)
def test_a_merge_is_made_again_where_its_arithmetic_changed(changed, methods, library):
    before = keys()
    with (library / changed).open("a") as file:
        file.write("\n_CHANGED = True\n")
    after = keys()
    assert {method for method in before if before[method] != after[method]} == methods


def test_what_goes_around_a_method_counts():
    entries = [
        MergeEntry("plain", "opcm", {}),
        MergeEntry("equal", "opcm", {}, equalise="norms"),
        MergeEntry("lines", "opcm", {}, layer_scales={"slope": 0.5}),
    ]
    made = {merging_key(SETTING, entry, 0, "base", ["one", "two"])[0] for entry in entries}
    assert len(made) == 3
    assert [is_folded(entry) for entry in entries] == [True, False, False]


def test_a_compiler_counts_only_where_it_is_named():
    asked = {"kind": "train", "inputs": {}, "params": {}, "code": ("merge_lib.errors",)}
    key = caching.cache_key(**asked)
    assert key == caching.cache_key(**asked, compilers=())
    assert key != caching.cache_key(**asked, compilers=("numba",))
