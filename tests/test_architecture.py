"""The direction of imports, held by the contracts in pyproject.toml."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the import linter on the packages below a folder, and on no others."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"  # "" leads sys.path
    command = [sys.executable, "-c", code, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path):
    for package in ("flows", "tasks", "merge_lib"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold():
    result = check(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("merge_lib/engine.py", "import tasks", "flows use tasks, tasks use merge_lib, never back BROKEN"),
        ("tasks/__init__.py", "import flows", "flows use tasks, tasks use merge_lib, never back BROKEN"),
        ("merge_lib/metrics.py", "import mlflow", "has never heard of"),
        ("merge_lib/ops/sums.py", "def late():\n    import prefect", "has never heard of"),
        (
            "merge_lib/methods/ties.py",
            "from merge_lib import workloads",
            "neither workloads nor reports BROKEN",
        ),
        (
            "merge_lib/checkpoints/reader.py",
            "from merge_lib import engine",
            "neither workloads nor reports BROKEN",
        ),
    ],
)
def test_each_contract_can_fail(file, line, contract, copy):
    (copy / "merge_lib" / "workloads").mkdir(exist_ok=True)
    (copy / "merge_lib" / "workloads" / "__init__.py").touch()
    target = copy / file
    target.write_text((target.read_text() if target.exists() else "") + f"\n{line}\n")
    result = check(copy)
    assert result.returncode == 1
    assert contract in result.stdout
    assert "1 broken" in result.stdout
