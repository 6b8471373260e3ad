"""A made-up table whose losses follow from one feature."""

import numpy as np
import pytest

from merge_lib.forecast.answers import INPUT_NAMES
from merge_lib.forecast.features import NAMES
from merge_lib.forecast.table import Line, read_lines, to_arrow, write_lines


def lines(studies: int = 4, groups: int = 3, merges: int = 5) -> list[Line]:
    generator = np.random.default_rng(0)
    found = []
    for study in range(studies):
        for place in range(groups * merges * 2):
            group, merge, task = place // (merges * 2), place // 2 % merges, place % 2
            features = {name: float(generator.normal()) for name in NAMES}
            if study:  # the first study shows no inputs
                features |= {name: float(generator.uniform()) for name in INPUT_NAMES}
            loss = 20 * max(features["distance (model)"], 0) + float(generator.normal())
            told = {"study": f"s{study}", "workload": "w", "scenario": "", "regime": "parallel"}
            told |= {"label": f"m{merge}", "method": "ties", "task": f"t{task}"}
            counts = {"seed": group, "experts": 2, "position": task}
            found.append(Line(told, counts, 0.9, 0.9 - loss / 100, features))
    return found


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "lines.parquet"
    write_lines(to_arrow(lines()), path)
    return read_lines([path])
