"""`mergeline bench pipeline`: the same work as a bare loop and as the flow, side by side in one go."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config import StudyConfig, load_study
from flows.method_entries import MethodEntry
from merge_lib import MergeSpec, merge_many, registry, workloads
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from tasks.facts import SHARED
from tasks.project import Project
from tasks.runs import list_runs, load_run

LIMIT_RATIO, LIMIT_RERUN_S = 1.2, 5.0
COPIED = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvc", ".dvcignore", "data", "studies", "merge_lib")
BRING_UP_TO_DATE = """
import sys
from pathlib import Path
from tasks.project import Project
from tasks.versioning import bring_up_to_date, push
bring_up_to_date(Project(Path.cwd()), sys.argv[1:])
push(Project(Path.cwd()), sys.argv[1:])
"""
START_UP = """
import sys
from pathlib import Path
from flows.environment import prepare
from tasks.facts import SHARED
from tasks.project import Project
project = Project(Path.cwd())
prepare(project)
import torch
from prefect import flow
import flows.study
from tasks.tracking import warm_up

@flow
def nothing():
    pass

nothing()
warm_up(project)
"""


@dataclass(frozen=True)
class PipelineTimes:
    """Seconds of each part, measured one after another in the same call."""

    loop_s: float
    start_up_s: float  # imports, Prefect's server and MLflow's tables, both from nothing
    flow_s: float  # `mergeline run` in a fresh project, one step at a time, as the loop
    warm_start_up_s: float
    rerun_s: float  # the same again, nothing changed
    parallel_s: float  # as the flow runs by default: a step for each core
    parts: dict[str, float]  # where the flow's time went

    @property
    def ratio(self) -> float:
        """Flow without start-up over loop."""
        return (self.flow_s - self.start_up_s) / self.loop_s

    @property
    def rerun_beyond_start_up_s(self) -> float:
        """What an unchanged run takes beyond the start."""
        return self.rerun_s - self.warm_start_up_s


def measure(project: Project, study: Path, overrides: Sequence[str]) -> PipelineTimes:
    """Time the loop, the flow, the flow again, and the start-up alone, in scratch copies of the project."""
    config = load_study(study, overrides)
    check_for_loop(config)
    words = [str(study), *(word for override in overrides for word in ("--set", override))]
    serial = [*words, "--set", "resources.parallel=1"]
    with tempfile.TemporaryDirectory(prefix="mergeline-bench-") as folder:
        fresh, other, empty = (
            _copy(project, Path(folder) / name, config.snapshots) for name in ("flow", "parallel", "nothing")
        )
        scratch = Path(folder) / "loop"
        scratch.mkdir()
        loop_s = _timed(lambda: bare_loop(config, fresh / config.workload.data, scratch))
        start_up_s = _timed(lambda: _python(empty, "-c", START_UP))
        flow_s = _timed(lambda: _python(fresh, "-m", "flows.cli", "run", *serial))
        run = load_run(Project(fresh), list_runs(Project(fresh))[-1])
        warm_start_up_s = _timed(lambda: _python(fresh, "-c", START_UP))
        rerun_s = _timed(lambda: _python(fresh, "-m", "flows.cli", "run", *serial))
        parallel_s = _timed(lambda: _python(other, "-m", "flows.cli", "run", *words))
    return PipelineTimes(loop_s, start_up_s, flow_s, warm_start_up_s, rerun_s, parallel_s, run.timings)


def check_for_loop(config: StudyConfig) -> None:
    """Refuse what the bare loop would leave out, so that both do the same work.

    Raises:
        SpecError: the study asks for such things; all are told.
    """
    problems = []
    if "merged" in config.regimes:
        problems.append(
            "`regimes` names merged, but the loop knows sequential and parallel experts only. Leave it out: "
            "--set 'regimes=[sequential, parallel]' --set merged_from=null."
        )
    if config.base.checkpoint is not None:
        problems.append(
            f"`base.checkpoint` is {config.base.checkpoint}, but the loop pre-trains its base. Leave it out: "
            "--set base.checkpoint=null."
        )
    for entry in config.methods:
        if beside := _beside_a_merge(entry):
            problems.append(
                f"method '{entry.label}' needs {beside}, but the loop merges checkpoints alone. Take it out "
                "of `methods`."
            )
    if problems:
        raise SpecError("The bare loop cannot run this study:\n" + "\n".join(problems))


def _beside_a_merge(entry: MethodEntry) -> str:
    """What an entry asks for that is no plain merge of checkpoints, in words; empty if nothing."""
    info = registry.get(entry.method)
    asked = {
        "`search`": entry.search is not None,
        "`layer_scales`": entry.layer_scales is not None,
        "`equalise`": entry.equalise is not None,
        "data": info.data != "none",
        "a model for each task": info.decodes and entry.params.get("task") == SHARED,
    }
    return ", ".join(name for name, is_asked in asked.items() if is_asked)


def bare_loop(config: StudyConfig, data: Path, scratch: Path) -> None:
    """The study's work and nothing else: no records, no server, no tracking."""
    import torch

    torch.set_num_threads(config.resources.threads)
    workload = workloads.create(config.workload, tasks=config.tasks, data=data)
    base = scratch / "base.safetensors"
    workload.pretrain(base, seed=config.base.seed, lineage={})
    workload.evaluate(read_state_dict(base), config.tasks)
    for seed in config.seeds:
        first = _train(workload, base, config.tasks[:1], seed, scratch)
        for regime in config.regimes:
            experts = [first]
            for task in config.tasks[1:]:
                start = experts[-1] if regime == "sequential" else base
                experts.append(_train(workload, start, (task,), seed, scratch))
            skipped = 0 if regime == config.regimes[0] else 1  # merges of the first expert are the same
            for stage in range(skipped, len(experts)):
                _merge_and_evaluate(config, workload, base, experts[: stage + 1], seed, scratch)
        for stage in range(1, len(config.tasks) if config.references else 1):
            _train(workload, base, config.tasks[: stage + 1], seed, scratch)


def _train(workload: workloads.Workload, start: Path, tasks: Sequence[str], seed: int, scratch: Path) -> Path:
    out = scratch / f"{len(list(scratch.iterdir()))}.safetensors"
    workload.fine_tune(start, tasks, out, seed=seed, lineage={})
    workload.evaluate(read_state_dict(out), workload.tasks)
    return out


def _merge_and_evaluate(
    config: StudyConfig,
    workload: workloads.Workload,
    base: Path,
    experts: list[Path],
    seed: int,
    scratch: Path,
) -> None:
    asked: dict[str, Any] = {"base": base, "experts": tuple(experts), "seed": seed}
    specs = [MergeSpec(method=entry.method, params=entry.params, **asked) for entry in config.methods]
    outs = [scratch / f"{len(list(scratch.iterdir()))}-{n}.safetensors" for n in range(len(specs))]
    for merged in merge_many(specs, outs, threads=config.resources.threads):
        workload.evaluate(read_state_dict(merged.path), config.tasks)


def _copy(project: Project, place: Path, needed: Sequence[str]) -> Path:
    """A project with the same data, brought up to date as far as it is needed, and nothing finished."""
    place.mkdir()
    for name in COPIED:
        source = project.root / name
        if source.is_dir():
            shutil.copytree(source, place / name)
        elif source.is_file():
            shutil.copy2(source, place / name)
    if needed:
        _python(place, "-c", BRING_UP_TO_DATE, *needed)
    return place


def _python(folder: Path, *arguments: str) -> None:
    package = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment.pop("PREFECT_API_URL", None)
    subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
