"""What an import pulls in, in a process of its own."""

import subprocess
import sys

import pytest

import merge_lib


def modules_after(code: str) -> set[str]:
    report = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import merge_lib, merge_lib.errors, merge_lib.results",
        "import merge_lib; merge_lib.methods(); merge_lib.get('ties').check_params({'density': 0.1})",
        "import merge_lib; merge_lib.MergeSpec(method='ties', base='b', experts=['e'])",
    ],
)
def test_listing_and_checking_imports_nothing_heavy(code):
    assert not modules_after(code) & {
        "torch",
        "numpy",
        "scipy",
        "prefect",
        "mlflow",
        "dvc",
        "sklearn",
        "matplotlib",
    }


def test_the_whole_core_has_not_heard_of_the_orchestration():
    loaded = modules_after(
        "import merge_lib\nfor name in merge_lib.__all__: getattr(merge_lib, name)\n"
        "import merge_lib.methods, merge_lib.continual"
    )
    assert "torch" in loaded
    assert not loaded & {"prefect", "mlflow", "dvc", "flows", "tasks"}


def test_the_check_would_see_them():
    assert "sqlite3" in modules_after("import sqlite3")


def test_the_public_names():
    assert merge_lib.__all__ == sorted(merge_lib.__all__)
    assert set(merge_lib.__all__) <= set(dir(merge_lib))
    assert merge_lib.__all__ == [
        "MergeReport",
        "MergeSpec",
        "get",
        "merge",
        "merge_checkpoints",
        "merge_in_turn",
        "merge_many",
        "merge_many_in_memory",
        "merge_method",
        "methods",
        "names",
    ]


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'merge_lib' has no attribute 'mrege'"):
        _ = merge_lib.mrege
