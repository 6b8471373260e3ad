"""A merge that is killed at any moment and run again gives the files of an undisturbed one, and nothing more."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import make_app
from flows.synthetic import Llama, make_checkpoints
from merge_lib.errors import SpecError

pytestmark = pytest.mark.slow

KILLS = 20
SMALL = Llama(width=64, layers=2, vocabulary=200)  # 21 tensors, 230 kB
# Counts what it does to files in one folder and kills itself at the given count; if it lives, it tells what it did.
# A write is half done when it is killed; the other operations are not yet begun. `fdatasync` follows the clock.
KILLING = """
import os, signal, sys, threading

at, told, place = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1)
lock, done = threading.Lock(), []
AUDITED = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")

def step(what, path, at_last=lambda: None):
    with lock:
        done.append(f"{what} {os.path.relpath(path, place)}")
        if len(done) == at:
            at_last()
            os.kill(os.getpid(), signal.SIGKILL)

def watch(name, halve):
    act = getattr(os, name)
    def watched(file, *given):
        path = os.readlink(f"/proc/self/fd/{file}")
        if path.startswith(place):
            step(name, path, lambda: halve(act, file, *given))
        return act(file, *given)
    setattr(os, name, watched)

def hook(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in AUDITED) and str(arguments[0]).startswith(place):
        step(event, arguments[-3] if event == "os.rename" else arguments[0])

for name in ("write", "pwrite"):
    watch(name, lambda act, file, data, *where: act(file, data[: len(data) // 2], *where))
for name in ("fsync", "posix_fallocate"):
    watch(name, lambda *_: None)
sys.addaudithook(hook)
from flows.cli import main
try:
    main()
finally:
    with open(told, "w") as file:
        file.write("\\n".join(done))
"""

TIES = "method: ties\nbase: {base}\nexperts: [{experts}]\n"
DARE_TIES = """
merge_method: dare_ties
base_model: {base}
models: [{models}]
parameters: {{weight: 0.4, density: 0.5}}
dtype: bfloat16
"""
KARCHER = "merge_method: karcher\nmodels: [{models}]\ndtype: bfloat16\n"


class Merge:
    """One command, and where it writes."""

    def __init__(self, root: Path, recipe: Path, result: str, options: tuple[str, ...]) -> None:
        self.root, self.place, self.out = root, root / "place", root / "place" / result
        self.place.mkdir(parents=True)
        self.command = ["merge", str(recipe), "--out", str(self.out), "--threads", "1", *options]

    def in_own_process(self, kill_at: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """The ended process, and what it did to which file if it lived to tell."""
        told = self.root / "count"
        command = [sys.executable, "-c", KILLING, str(kill_at), str(told), str(self.place), *self.command]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return ended, told.read_text().splitlines() if told.exists() else []

    def again(self) -> dict[str, object]:
        """Run the same command to its end in this process; what it says."""
        result = CliRunner().invoke(make_app(), [*self.command, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    @property
    def is_finished(self) -> bool:
        """The manifest has its name."""
        return any(self.place.rglob("*merge_manifest.json"))

    @property
    def files(self) -> dict[str, bytes]:
        """Everything that lies where it writes."""
        return {
            str(path.relative_to(self.place)): path.read_bytes() if path.is_file() else b""
            for path in self.place.rglob("*")
        }


@pytest.fixture
def make_merge(tmp_path):
    """Makes merges of one base and three experts; tokenizer and configuration lie beside the base."""
    base, experts = make_checkpoints(tmp_path / "models", SMALL, 3)
    (base / "tokenizer.json").write_text('{"version": "1.0"}')

    def make(name: str, recipe: str, result: str = "merged", *options: str) -> Merge:
        path = tmp_path / "recipe.yaml"
        named = {
            "experts": ", ".join(map(str, experts)),
            "models": ", ".join(f"{{model: {e}}}" for e in experts),
        }
        path.write_text(recipe.format(base=base, **named))
        return Merge(tmp_path / name, path, result, options)

    return make


def moments(count: int) -> list[int]:
    """Twenty of so many operations: the first, the last, and others by chance, the same at every call."""
    return [1, count, *random.Random(7).sample(range(2, count), KILLS - 2)]


def do_both(make_merge, *asked: str) -> tuple[dict[str, bytes], list[str]]:
    """The files of an undisturbed merge, and what it does to them in turn."""
    calm = make_merge("calm", *asked)
    calm.again()  # compiles the kernels
    counted = make_merge("counted", *asked)
    ended, done = counted.in_own_process()
    assert ended.returncode == 0, ended.stderr
    assert counted.files == calm.files
    return calm.files, done


def kill(merge: Merge, moment: int) -> None:
    ended, _ = merge.in_own_process(moment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param((TIES, "merged"), id="ties"),
        pytest.param((DARE_TIES, "merged", "--max-shard-size", "60KB"), id="dare_ties in shards"),
    ],
)
def test_twenty_kills_change_nothing(asked, make_merge):
    expected, done = do_both(make_merge, *asked)
    for moment in moments(len(done)):
        merge = make_merge(f"killed at {moment}", *asked)
        kill(merge, moment)
        if merge.is_finished:
            with pytest.raises(SpecError, match="holds a finished merge"):
                merge.again()
        else:
            merge.again()
        assert merge.files == expected, f"killed at {moment}, {done[moment - 1]}"


def test_a_merge_in_torch_that_is_killed_again_and_again_comes_to_its_end(make_merge):
    asked = (KARCHER, "merged", "--max-shard-size", "60KB")
    expected, done = do_both(make_merge, *asked)
    merge = make_merge("killed", *asked)
    for share in (4, 3, 3):  # a later run does more: it opens and claims the files again
        kill(merge, len(done) // share)
    assert not merge.is_finished
    merge.again()
    assert merge.files == expected


@pytest.mark.parametrize("result", ["merged", "merged.safetensors"])
def test_a_kill_between_the_last_renames(result, make_merge):
    """Shards are named one after another, then the manifest, and then the journal goes."""
    asked = (TIES, result, "--max-shard-size", "100KB")
    expected, done = do_both(make_merge, *asked)
    renames = [i for i, what in enumerate(done, 1) if what.startswith("os.rename")]
    after = [i for i, what in enumerate(done, 1) if i > renames[-1]]
    for moment in [*renames, *after]:
        merge = make_merge(f"killed at {moment}", *asked)
        kill(merge, moment)
        assert merge.is_finished == (moment in after)
        if merge.is_finished:
            with pytest.raises(SpecError, match="holds a finished merge"):
                merge.again()
        else:
            assert merge.again()["continued"] == len(SMALL.shapes())
        assert merge.files == expected, f"killed at {moment}, {done[moment - 1]}"
