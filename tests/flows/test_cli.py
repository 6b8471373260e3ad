"""The command line from outside: what it imports, how it ends, what it prints."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.main import get_command

from flows.cli import make_app

PROMISED = {"run", "report", "lineage", "verify", "methods", "plan", "doctor", "ui", "sync"}
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "sklearn",
    "prefect",
    "mlflow",
    "dvc",
    "sqlalchemy",
}

# every command line is answered in one process, which then says what it had to import for that
ASKING = """
import json, sys
from click.testing import CliRunner
from typer.main import get_command
from flows.cli import make_app
command = get_command(make_app())
lines = json.loads(sys.argv[1]) + [[name, "--help"] for name in command.commands]
answers = {" ".join(line): CliRunner().invoke(command, line) for line in lines}
told = {line: [answer.exit_code, answer.output] for line, answer in answers.items()}
print(json.dumps({"told": told, "commands": sorted(command.commands), "modules": sorted(sys.modules)}))
"""


def ask(*lines: list[str]) -> dict:
    command = [sys.executable, "-c", ASKING, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def mergeline(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_and_methods_answer_without_anything_heavy():
    said = ask(["--help"], ["methods"], ["methods", "ties"])
    assert set(said["commands"]) >= PROMISED
    assert {status for status, _ in said["told"].values()} == {0}
    loaded = {name.partition(".")[0] for name in said["modules"]}
    assert not loaded & HEAVY
    for line, (_, text) in said["told"].items():
        assert ("Usage: " in text) == line.endswith("--help"), line


def test_the_check_would_see_them():
    command = [sys.executable, "-c", "import sys, numpy; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == {"numpy"}


MERGING = """
import sys
from flows.cli import main
try:
    main()
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, *(n for n in sys.modules if n.startswith("flows.")))
"""
OWN = {"cli", "commands", "commands.merge", "console", "recipe", "yaml_errors"}


def modules_of_merge(*arguments: str, cwd: Path) -> set[str]:
    command = [sys.executable, "-c", MERGING, "merge", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "recipe",
    [
        "method: average\nexperts: [one.safetensors, two.safetensors]\n",
        "merge_method: linear\ndtype: float32\nparameters: {weight: 1}\n"
        "models: [{model: one.safetensors}, {model: two.safetensors}]\n",
    ],
)
def test_a_merge_that_no_terminal_shows_imports_little(recipe, tmp_path):
    for name in ("one", "two"):
        save_file({"w": np.ones((4, 2), np.float32)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "recipe.yaml").write_text(recipe)
    command = ["recipe.yaml", "--out", "merged.safetensors"]
    previewed = modules_of_merge(*command, "--dry-run", cwd=tmp_path)
    merged = modules_of_merge(*command, cwd=tmp_path)
    assert not previewed & {*HEAVY, "rich", "llvmlite", "numba"}
    assert {*HEAVY, "rich", "llvmlite", "numba"} & merged == {"numpy"}
    for loaded in (previewed, merged):
        assert {name for name in loaded if name.startswith("flows.")} == {f"flows.{name}" for name in OWN}


def test_each_command_is_where_it_is_looked_for():
    every = set(get_command(make_app()).commands)
    assert every >= PROMISED
    for name in every:
        alone = get_command(make_app([name, "--help"])).commands
        assert name in alone
        assert set(alone) < every
    assert set(get_command(make_app(["nothing"])).commands) == every


def test_progress_is_shown_on_a_terminal():
    show = "from flows.console import amounts_shown\nwith amounts_shown('working', 2) as advance: advance(1)"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", show]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    assert b"working" in os.read(ours, 1 << 16)
    os.close(ours)
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "studies").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Give either a study's YAML file or --resume RUN"),
        (["run", "studies/none.yaml"], "studies/none.yaml"),
        (["run", "--resume", "latest"], "There is no run 'latest'"),
        (["run", "--resume", "x", "--level", "a=b"], "start a new one to use --level"),
        (["plan", "studies/none.yaml"], "studies/none.yaml"),
        (["report", "x"], "There is no run 'x'"),
        (["lineage"], "There is no run 'latest'"),
        (["methods", "tise"], "ties"),
        (["methods", "--jsno"], "No such option"),
        (["ui", "--mlflow-port", "80"], "--mlflow-port"),
        (["nothing"], "No such command 'nothing'"),
    ],
)
def test_a_wrong_request_ends_with_2_and_says_what_is_wrong(arguments, said, project):
    done = mergeline(*arguments, cwd=project)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_outside_a_project(tmp_path):
    done = mergeline("doctor", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not a Mergeline project" in done.stderr


def test_json_is_one_value_on_standard_output(tiny_project):
    root = tiny_project()
    (root / "unlabelled.safetensors").write_bytes(b"broken")
    methods = json.loads(mergeline("methods", "--json", cwd=root).stdout)
    assert {"ties", "average"} <= {method["name"] for method in methods}
    assert json.loads(mergeline("sync", "--json", cwd=root).stdout) == []
    plan = json.loads(mergeline("plan", "studies/digits.yaml", "--json", cwd=root).stdout)
    assert plan["data_up_to_date"] is True
    assert {step["kind"] for step in plan["steps"]} == {
        *("data", "pretrain", "train", "trial", "merge", "evaluate", "audit"),
        *("forgetting", "route", "conflicts", "path", "surface", "marks"),
    }


def test_a_file_that_is_no_checkpoint_ends_with_1(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"broken")
    done = mergeline("verify", "x.safetensors", cwd=tmp_path)
    assert done.returncode == 1
    assert "x.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
