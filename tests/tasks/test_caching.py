import importlib
import sys
from pathlib import Path

import pytest

from tasks import caching
from tasks.caching import cache_key, code_digest

TIES, ENGINE = "merge_lib.methods.ties", "merge_lib.engine"


@pytest.fixture
def fake_library(tmp_path, monkeypatch):
    """A `merge_lib` of three modules that the digests are taken of."""
    package = tmp_path / "merge_lib"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text('"""A method."""\nfrom merge_lib.ops import double\n\nX = double(1)\n')
    (package / "ops.py").write_text("def double(x):\n    return 2 * x\n")
    (package / "other.py").write_text("Y = 1\n")
    monkeypatch.setattr(caching, "_source", lambda name: _file(tmp_path, name))
    caching.forget_sources()
    yield package
    caching.forget_sources()


def _file(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def digest_after(path: Path, text: str) -> str:
    path.write_text(text)
    caching.forget_sources()
    return code_digest("merge_lib.method")


def test_code_counts_as_far_as_it_is_reached(fake_library):
    before = code_digest("merge_lib.method")
    assert digest_after(fake_library / "other.py", "Y = 2\n") == before
    assert digest_after(fake_library / "ops.py", "def double(x):\n    return 3 * x\n") != before


def test_comments_docstrings_and_layout_do_not_count(fake_library):
    before = code_digest("merge_lib.method")
    text = '"""Another docstring."""\n# a comment\nfrom merge_lib.ops import double\nX = double( 1 )\n'
    assert digest_after(fake_library / "method.py", text) == before


def test_a_method_does_not_depend_on_another_method():
    reached_by_ties = _modules_reached(TIES)
    assert "merge_lib.ops.signs" in reached_by_ties
    assert not {name for name in reached_by_ties if name.startswith("merge_lib.methods.")} - {TIES}
    assert not {
        name
        for name in _modules_reached(ENGINE)
        if name.startswith(("merge_lib.methods.", "merge_lib.report"))
    }


def _modules_reached(module: str) -> set[str]:
    reached, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(caching._imported(caching._parsed(name)))
    return reached


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "merge"},
        {"inputs": {"start": "b"}},
        {"inputs": {"start": "a", "more": "c"}},
        {"params": {"seed": 1}},
        {"code": (ENGINE,)},
    ],
)
def test_a_key_changes_with_everything_that_counts(change):
    asked = {"kind": "train", "inputs": {"start": "a"}, "params": {"seed": 0}, "code": (TIES,)}
    assert cache_key(**asked) == cache_key(**asked)
    assert cache_key(**{**asked, **change}) != cache_key(**asked)


def test_the_order_of_names_does_not_count():
    key = cache_key("train", inputs={"a": "1", "b": "2"}, params={"x": 1, "y": 2}, code=(TIES,))
    assert key == cache_key("train", inputs={"b": "2", "a": "1"}, params={"y": 2, "x": 1}, code=(TIES,))
    assert len(key) == 32


def test_a_key_does_not_import_what_it_digests():
    importlib.invalidate_caches()
    sys.modules.pop("merge_lib.methods.slerp", None)
    code_digest("merge_lib.methods.slerp")
    assert "merge_lib.methods.slerp" not in sys.modules
