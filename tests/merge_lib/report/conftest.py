"""Results like those of a real study: five tasks, nine methods in two regimes, four references."""

import hashlib

import numpy as np
import pytest

from merge_lib.metrics import summarise
from merge_lib.results import CheckpointRef, Row, StudyResults

METHODS = {  # how well a new task is learned, how much of the old ones is lost a stage
    "uniform average": (0.86, 0.030),
    "running average": (0.85, 0.032),
    "exponential moving average": (0.83, 0.060),
    "linear interpolation": (0.84, 0.075),
    "spherical interpolation": (0.845, 0.070),
    "task arithmetic": (0.88, 0.045),
    "TIES": (0.89, 0.035),
    "DARE": (0.87, 0.045),
    "MagMax": (0.90, 0.025),
}


def _hash(text):
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _matrix(random, size, learned, lost, chance):
    matrix = np.full((size, size), 0.0)
    for k in range(size):
        start = learned - 0.02 * k + random.normal(0, 0.008)
        for t in range(size):
            level = start - lost * (t - k) if t >= k else chance + 0.02 * t
            matrix[t, k] = np.clip(level + random.normal(0, 0.006), 0, 1)
    return matrix


def _checkpoints(name, stages):
    return [
        CheckpointRef(
            f".mergeline/{name.replace(' ', '-')}-{t}.safetensors",
            "xxh3:" + _hash(f"{name}{t}"),
            867_344,
        )
        for t in range(stages)
    ]


def _results(
    *, size=5, seeds=(0, 1, 2), regimes=("sequential", "parallel"), methods=None, tasks=None, noise=1
):
    random = np.random.default_rng(7)
    tasks = tasks or [f"digits {2 * k} and {2 * k + 1}" for k in range(size)]
    chance = 0.1
    base = [chance + 0.02 * k for k in range(size)]
    experts = [0.97 - 0.01 * k for k in range(size)]
    joint = [0.95 - 0.005 * k for k in range(size)]
    rows = [
        Row("base", "reference", "base", None, None, {}, [base] * size, 31.4, _checkpoints("base", 1)),
    ]
    for seed in seeds:
        shifted = [value + 0.004 * random.normal() * noise for value in experts]
        alone = [[shifted[k] if t == k else 0.12 for k in range(size)] for t in range(size)]
        unmerged = _matrix(random, size, 0.95, 0.19, chance).tolist()
        last = [[value + 0.003 * seed * noise for value in joint]] * size
        rows += [
            Row(
                "expert",
                "reference",
                "expert",
                "parallel",
                seed,
                {},
                alone,
                24.8,
                _checkpoints(f"e{seed}", size),
            ),
            Row(
                "sequential",
                "reference",
                "sequential",
                "sequential",
                seed,
                {},
                unmerged,
                25.1,
                _checkpoints(f"s{seed}", size),
            ),
            Row("joint", "reference", "joint", None, seed, {}, last, 26.9, _checkpoints(f"j{seed}", 1)),
        ]
        for regime in regimes:
            for label, (learned, lost) in (methods or METHODS).items():
                shift = 0.0 if regime == "sequential" else -0.09
                matrix = _matrix(random, size, learned + shift, lost, chance).tolist()
                summary = summarise(matrix, before=base, experts=shifted, joint=last[-1])
                rows.append(
                    Row(
                        label,
                        "merge",
                        label,
                        regime,
                        seed,
                        {},
                        matrix,
                        0.42,
                        _checkpoints(f"{label} {regime} {seed}", size),
                        summary,
                    )
                )
    return StudyResults(
        study="digits",
        run_id="3f9a1c27b0d24c6e9f0a",
        description="Nine ways to merge a small vision transformer that learns digits, two at a time.",
        workload="vision",
        scenario="class-incremental",
        tasks=tasks,
        seeds=list(seeds),
        chance=[chance] * size,
        data={name: _hash(name) for name in ["glyphs", *tasks]},
        config={"study": "digits", "seeds": list(seeds), "methods": [{"name": "ties", "density": 0.2}]},
        environment={"python": "3.11.9", "torch": "2.13.0", "machine": "2 cores", "git revision": "0fc92b4"},
        started_at="2026-05-04T10:12:00Z",
        elapsed_s=251.3,
        rows=rows,
    )


@pytest.fixture(scope="session")
def make_results():
    return _results


@pytest.fixture(scope="session")
def results():
    return _results()
