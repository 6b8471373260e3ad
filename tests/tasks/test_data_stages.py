"""Stages of dvc.yaml, read without DVC."""

from pathlib import Path

import pytest

from merge_lib.errors import DataError
from tasks.data_stages import DataStages

STAGES = """\
stages:
  words:
    foreach: [u, v]
    do:
      cmd: x
      outs: ["${place.folder}/w-${item}.txt"]
  tasks:
    foreach: ${tasks}
    do:
      cmd: x
      outs:
        - data/${key}.csv: {cache: false}
"""


def stages_of(root: Path, text: str) -> DataStages:
    (root / "dvc.yaml").write_text(text)
    (root / "params.yaml").write_text("place: {folder: data}\ntasks: {a: {raw: x}, b: {raw: y}}\n")
    return DataStages.of(root)


def test_groups_of_stages_are_told_by_their_keys(tmp_path):
    stages = stages_of(tmp_path, STAGES)
    assert stages.is_whole
    assert stages.targets(["w-v", "a", "b"]) == ("tasks@a", "tasks@b", "words@v")
    assert stages.targets(None) is None
    with pytest.raises(DataError, match="needs the data snapshots w-x, which no stage"):
        stages.targets(["w-x"])


@pytest.mark.parametrize("more", ["matrix: {z: [1]}", "wdir: other", "foreach: ${elsewhere}"])
def test_what_is_not_understood_makes_all_stages_needed(tmp_path, more):
    known = "outs: [data/k.txt]" if "foreach" not in more else "do: {cmd: x}"
    stages = stages_of(tmp_path, f"{STAGES}  more:\n    cmd: x\n    {more}\n    {known}\n")
    assert not stages.is_whole
    assert stages.targets(["a"]) == ("tasks@a",)
    assert stages.targets(["a", "k"]) is None


def test_the_projects_own_stages_are_all_understood():
    stages = DataStages.of(Path(__file__).parents[2])
    assert stages.is_whole
    assert stages.targets(["glyphs", "digits-01"]) == ("glyphs", "task@digits-01")
    assert set(stages.hashes()) <= set(stages.makers)
