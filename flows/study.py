"""The main job: from data to a comparison of merge methods."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.axes import load_cell
from flows.config import StudyConfig, changed_study, restore_study
from flows.stages import PrefectStages, setting_of
from flows.walk import Cells, Handle, Sight, walk
from merge_lib.errors import MergeError
from tasks import slots
from tasks.artifacts import link_report
from tasks.data import push_data, version_data
from tasks.jobs import Audited, Finished, Forgot, Scores, Setting
from tasks.journal import Journal, journal_of
from tasks.landscapes import check_landscape
from tasks.progress import StoppedError, check_stop, stopping_at_steps
from tasks.project import Project
from tasks.runs import Run, load_run, save_run, start_run, status_kept

THREADS = 32  # of Prefect, most of which wait; what computes holds one of the study's slots
WAITED = "It waited for a step that failed."
NAMED = 12  # rows that a message names

logger = logging.getLogger(__name__)


@flow(name="study", flow_run_name="{study}", task_runner=ThreadPoolTaskRunner(max_workers=THREADS))
def study_flow(
    study: str,
    overrides: Sequence[str] = (),
    run_id: str | None = None,
    trainer: str | None = None,
    levels: Mapping[str, str] | None = None,
) -> str:
    """Run a study: version the data, train, merge after every task, evaluate, report.

    Args:
        study: the study's YAML file, seen from the project's folder.
        overrides: `key=value` settings that replace those of the file, or of the run.
        run_id: a run to go on with; None starts a new one.
        trainer: the deployment that fine-tunes, such as `fine-tune/gpu`; None trains in this process.
        levels: of a file with `axes`, a level of each.

    Returns:
        The run's id.
    """
    project = Project.find()
    run = (
        reopen_run(project, run_id, overrides)
        if run_id
        else open_run(project, study, overrides, levels or {})
    )
    config = restore_study(project.root, run.config)
    slots.configure(config.resources.parallel, config.resources.threads)
    with status_kept(project, run):
        setting = prepare_data(project, config)
        if config.landscape.shows_examples:
            check_landscape(setting)
    with journal_of(project, run, setting) as journal:
        with stopping_at_steps():
            rows = []
            for cells in walk(config, PrefectStages(setting, trainer)):
                check_stop()
                rows.append(cells)
            collect(rows, journal)
        journal.finish()
    link_report(project, run.run_id)
    return run.run_id


def open_run(project: Project, study: str, overrides: Sequence[str], levels: Mapping[str, str]) -> Run:
    """Check the study and make the folder of its run."""
    config = load_cell(Path(study), overrides, levels)
    command = command_of(study, overrides, levels)
    return start_run(project, config.study, config.model_dump(mode="json"), command)


def reopen_run(project: Project, run_id: str, overrides: Sequence[str]) -> Run:
    """The run to go on with, its settings changed if that is asked for; what they leave as it was stays finished."""
    run = save_run(project, load_run(project, run_id), status="running")
    if not overrides:
        return run
    config = changed_study(project.root, run.config, overrides)
    command = " ".join([run.command, *(f"--set '{override}'" for override in overrides)])
    return save_run(project, run, config=config.model_dump(mode="json"), command=command)


def command_of(study: str, overrides: Sequence[str], levels: Mapping[str, str]) -> str:
    """What is typed to run a study."""
    words = [f"--set '{override}'" for override in overrides]
    words += [f"--level '{axis}={level}'" for axis, level in levels.items()]
    return " ".join(["mergeline run", study, *words])


def prepare_data(project: Project, config: StudyConfig) -> Setting:
    """Data up to date and pushed; what all steps of the run share."""
    needed = config.snapshots
    if not needed:
        return setting_of(project, config, {})
    version = version_data(str(project.root), needed)
    if not version.is_pushed:
        state = push_data(str(project.root), needed, return_state=True)
        if state.is_failed():
            logger.warning("The data could not be pushed to the DVC remote; the next run tries again.")
    hashes = {name: version.hashes[name] for name in needed}
    return setting_of(project, config, hashes)


def collect(rows: Sequence[Cells | Sight], journal: Journal) -> None:
    """Wait for each row and each landscape and journal it; a step that failed stops only what needs its result.

    Raises:
        MergeError: steps failed; everything that does not need them is finished first.
        StoppedError: a stop was requested.
    """
    failures: dict[str, BaseException] = {}
    for cells in rows:
        try:
            if isinstance(cells, Sight):
                journal.look(_result(cells.landscape))
                continue
            checkpoints, scores, audit, forgot = resolve(cells)
        except StoppedError:
            raise
        except UnfinishedRun:  # it waited for a step that failed, which is told by that step's own row
            check_stop()
            _miss(journal, cells, WAITED)
            continue
        except MergeError as failure:
            failures[str(failure)] = failure
            _miss(journal, cells, str(failure))
            continue
        fields = {
            name: getattr(cells, name)
            for name in ("label", "kind", "method", "regime", "seed", "params", "facts", "routing")
        }
        journal.add(fields, checkpoints, scores, audit, forgot)
    if failures:
        journal.finish_in_part()
        raise MergeError("\n".join([*failures, *told_missing(journal.missing)])) from next(
            iter(failures.values())
        )


def _miss(journal: Journal, cells: Cells | Sight, why: str) -> None:
    if isinstance(cells, Cells):
        seed = "all seeds" if cells.seed is None else f"seed {cells.seed}"
        journal.miss(" · ".join(filter(None, [cells.label, cells.regime, seed])), why)


def told_missing(missing: Mapping[str, str]) -> list[str]:
    """Which rows a run lacks, and what can be done."""
    if not missing:
        return []
    names = list(missing)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [
        f"Rows missing for it: {'; '.join(names[:NAMED])}{more}. All others are finished: `mergeline report`. If a "
        "training diverged, lower its rate: add --set workload.fine_tuning.learning_rate=… to --resume."
    ]


def resolve(cells: Cells) -> tuple[list[Finished], list[Scores], Audited | None, Forgot | None]:
    """The checkpoints and scores of a row, the audit of its last merge and what it forgot, once its steps are done."""
    position = cells.pick if cells.pick is not None else 0
    checkpoints = [_result(handle) for handle in cells.checkpoints]
    picked = [item if cells.pick is None else item[position] for item in checkpoints]
    audit = None if cells.audits is None else _result(cells.audits)[position]
    forgot = None if cells.forgot is None else _result(cells.forgot)[position]
    return picked, [_result(handle)[position] for handle in cells.scores], audit, forgot


def _result(handle: Handle) -> Any:
    return handle.result() if isinstance(handle, PrefectFuture) else handle
