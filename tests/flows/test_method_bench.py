"""What methods take through the engine, beside what was planned; in a process of its own, whose allocator is set."""

import json
import subprocess
import sys

import pytest

from flows.method_bench import MethodCost
from flows.method_floors import SPECTRAL
from flows.process_cost import ROOT
from merge_lib import registry

_MEASURE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from flows.method_bench import measure_methods
from flows.synthetic import Llama
wide, square, small = (Llama(width=width, layers=1, vocabulary=4 * width) for width in (512, 256, 128))
lines = measure_methods(Path(sys.argv[1]), sys.argv[2:], 1, 2, lambda _: None, (wide, square, small))
print(json.dumps([asdict(line) for line in lines]))
"""


def test_floors_are_of_methods_that_exist():
    assert set(registry.names()) > SPECTRAL


@pytest.mark.slow
@pytest.mark.parametrize(
    "methods",
    [
        ("ties", "consensus", "fisher", "adamerging"),
        ("tsv", "iso_cts", "opcm", "wudi"),
        ("cat", "regmean", "karcher"),
    ],
)
def test_no_method_takes_more_than_was_planned(methods, tmp_path):
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), *methods]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [MethodCost(**line) for line in json.loads(done.stdout)]
    assert [line.method for line in lines] == list(methods)
    for line in lines:
        assert 0 < line.peak_bytes <= line.planned_bytes, line
        assert line.seconds > 0
        assert line.floor == "arithmetic" or line.method not in SPECTRAL
        assert (line.arithmetic == "kernels") == (line.method == "ties")
