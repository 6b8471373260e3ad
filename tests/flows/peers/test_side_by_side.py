"""The comparison with FusionBench, but for its environment: two sides that merge, how far they are apart, the table."""

import math
from dataclasses import replace

import pytest
import torch

from flows.peers.side_by_side import (
    OURS,
    SideBySide,
    compare,
    compare_sides,
    difference,
    float32_files,
    table,
)
from flows.process_cost import ProcessError
from flows.synthetic import Llama
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import MergeError, SpecError

SMALL = Llama(width=8, layers=1, vocabulary=10)
_OTHER = """
import json, runpy, sys
from pathlib import Path

request = Path(sys.argv[1])
asked = json.loads(request.read_text()) | {{"method": {method!r}, "params": {params!r}}}
request.write_text(json.dumps(asked))
runpy.run_path({driver!r}, run_name="__main__")
"""


@pytest.fixture
def files(tmp_path):
    return float32_files(tmp_path, SMALL, 4)


def other(tmp_path, method, params):
    """A side that merges by another method of ours than it is asked for."""
    driver = tmp_path / f"{method}.py"
    driver.write_text(_OTHER.format(method=method, params=params, driver=str(OURS.driver)))
    return replace(OURS, name="other", driver=driver)


@pytest.mark.slow
def test_two_ways_to_the_mean_agree_to_rounding(files, tmp_path):
    theirs = other(tmp_path, "task_arithmetic", {"scale": 0.25})  # base + the sum of four task vectors / 4
    line = compare_sides(tmp_path, files, "average", (OURS, theirs), 1)
    assert line.difference < 1e-6
    assert min(line.our_s, line.their_s, line.our_bytes, line.their_bytes) > 0
    assert line.times_faster == line.their_s / line.our_s
    mean = torch.stack([read_state_dict(file)["lm_head.weight"] for file in files[1:]]).mean(0)
    for side in (OURS, theirs):
        torch.testing.assert_close(read_state_dict(side.result(tmp_path))["lm_head.weight"], mean)


@pytest.mark.slow
def test_another_method_is_seen_to_differ(files, tmp_path):
    line = compare_sides(tmp_path, files, "average", (OURS, other(tmp_path, "magmax", {"scale": 1.0})), 1)
    assert line.difference > 0.1


def test_a_side_that_fails_is_told(files, tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text("import sys; sys.exit('no such method')")
    with pytest.raises(ProcessError, match=r"driver\.py .* failed: no such method"):
        compare_sides(tmp_path, files, "average", (OURS, replace(OURS, name="broken", driver=driver)), 1)


def merge(*values):
    return {"a": torch.tensor(values[:2]), "b": torch.tensor(values[2:])}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (merge(1.0, 2.0, 3.0), merge(1.0, 2.0, 5.0), 0.4),  # 2 apart, of a change of 5
        (merge(1.0, 2.0, 3.0), merge(1.0, 2.0, 3.0), 0.0),
        (merge(0.0, 0.0, 0.0), merge(0.0, 0.0, 0.0), 0.0),
        (merge(0.0, 0.0, 1.0), merge(0.0, 0.0, 0.0), math.inf),
        (merge(1.0, 2.0, 3.0), merge(1.0, 2.0, math.nan), math.inf),  # the last entry of the last tensor
        (merge(1.0, 2.0, math.nan), merge(1.0, 2.0, 3.0), math.inf),
        (merge(1.0, 2.0, math.inf), merge(1.0, 2.0, math.inf), math.inf),
        (merge(1.0, 2.0), merge(1.0, 4.0), 0.5),  # an empty tensor is no difference
    ],
)
def test_the_difference_is_a_share_of_the_change(ours, theirs, expected):
    base = {name: torch.zeros_like(tensor) for name, tensor in ours.items()}
    assert difference(base, ours, theirs) == pytest.approx(expected)


def test_a_merge_that_lacks_tensors_is_told():
    base = merge(0.0, 0.0, 0.0)
    with pytest.raises(MergeError, match=r"Their merge has 1 tensors, the base 2; it lacks b\."):
        difference(base, base, {"a": base["a"]})


def test_methods_that_are_not_compared_are_told_at_once_before_anything_is_installed(tmp_path):
    with pytest.raises(SpecError, match=r"'tise' is not compared with FusionBench: .*ties.*\n'opcm' is not"):
        compare(tmp_path, ("tise", "average", "opcm"), 1, lambda _text: None)
    assert not list(tmp_path.iterdir())


def test_the_table_has_times_sizes_and_the_difference():
    head, row = table([SideBySide("iso_c", 2.0, 30.0, 180_000_000, 242_000_000, 3e-6)])
    assert head.split() == ["method", "ours", "s", "theirs", "s", "×", "ours", "MB", "theirs", "MB", "apart"]
    assert row.split() == ["iso_c", "2.00", "30.00", "15.0", "180", "242", "3.0e-06"]
