"""A study's results as a report: which sections there are and what each holds."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from merge_lib.report import leaderboard, learners, probes, routing, tables
from merge_lib.report.aggregate import Group, gather, learners_of, merges_of, ranked_of, references_of
from merge_lib.report.audits import removed
from merge_lib.report.figures import figures_of
from merge_lib.report.findings import headline
from merge_lib.report.forgetting import forgotten
from merge_lib.report.landscape import where_merges_lie
from merge_lib.report.layout import UNDEFINED, Cell, Code, Column, Figure, Report, Section, Table
from merge_lib.results import CheckpointRef, StudyResults


def compose(results: StudyResults) -> Report:
    """The whole report of a study."""
    groups = gather(results)
    figures = figures_of(groups, results.tasks)
    sections = [
        leaderboard.section(groups, results.tasks),
        learners.section(groups, results.tasks),
        _methods(groups, figures),
        _regimes(groups),
        _references(groups, results),
        _over_time(figures, len(results.tasks)),
        _matrices(figures),
        probes.section(groups, results.tasks),
        routing.section(groups, results.tasks),
        removed(groups, results.tasks, results.run_id),
        where_merges_lie(results.landscapes, results.run_id),
        forgotten(groups, results),
        Section("cost", "Cost", ["What each row took on the machine below."], [tables.cost(groups)]),
        _lineage(groups, results),
        Section("metrics", "Metrics", ["How every number is computed."], [tables.definitions()]),
        _reproduce(results),
    ]
    return Report(
        results.study,
        results.description,
        _facts(results),
        headline(groups),
        [s for s in sections if s is not None],
    )


def _facts(results: StudyResults) -> list[tuple[str, str]]:
    seeds = ", ".join(map(str, results.seeds))
    return [
        ("Workload", results.workload),
        *([("Scenario", results.scenario)] if results.scenario else []),
        (_counted("task", results.tasks), ", ".join(results.tasks)),
        (_counted("seed", results.seeds), seeds),
        ("Guessing would reach", f"{100 * sum(results.chance) / max(len(results.chance), 1):.0f} %"),
        ("Started", _minute(results.started_at)),
        ("Took", _duration(results.elapsed_s)),
        ("Run", results.run_id),
    ]


def _methods(groups: Sequence[Group], figures: dict[str, Figure]) -> Section:
    if not ranked_of(groups):
        return Section("methods", "Methods", ["This study merged nothing; only references were measured."])
    blocks: list[Table | Figure | Code] = [figures["overview"]] if "overview" in figures else []
    if merges_of(groups):
        blocks.append(tables.methods_by_regime(groups, tables.MAIN, "Methods in each regime"))
    blocks += [
        tables.every_metric(groups, tables.MORE, "More metrics"),
        tables.every_metric(groups, tables.variants(), "Variants of other frameworks"),
    ]
    lead = "What each model knows after the last task, and what it kept on the way."
    title = "Methods in each regime" if merges_of(groups) else "Every metric"
    return Section("methods", title, [lead], blocks)


def _regimes(groups: Sequence[Group]) -> Section | None:
    table = tables.regime_differences(groups)
    if table is None:
        return None
    lead = (
        "The same methods, once on experts trained one from the other, once on experts trained from the base."
    )
    return Section("regimes", "Sequential or parallel experts", [lead], [table])


def _references(groups: Sequence[Group], results: StudyResults) -> Section | None:
    if not references_of(groups):
        return None
    lead = "Where the study starts, and what can be reached without merging."
    return Section("references", "References", [lead], [tables.references(groups, results.tasks)])


def _over_time(figures: dict[str, Figure], size: int) -> Section:
    shown = [figures[name] for name in ("early-tasks", "retention") if name in figures]
    lead = "How knowledge fades as tasks are learned or merged in, one row at a time."
    if not shown:
        lead = "There is nothing to forget with one task." if size == 1 else "Nothing was merged."
    return Section("over-time", "Along the task sequence", [lead], list(shown))


def _matrices(figures: dict[str, Figure]) -> Section | None:
    if "accuracy-matrices" not in figures:
        return None
    lead = "The measurements that every metric above is computed from."
    return Section("matrices", "Accuracy matrices", [lead], [figures["accuracy-matrices"]])


def _lineage(groups: Sequence[Group], results: StudyResults) -> Section:
    names = Table(
        "Data",
        [Column("Snapshot", is_numeric=False), Column("Content hash", is_numeric=False)],
        [[Cell(name), _digest(digest, name)] for name, digest in sorted(results.data.items())],
    )
    lead = (
        "Data snapshot → base and experts → merged model → metrics. Digests are shortened; the HTML "
        "report shows the full value and the file on hover, and every file carries its own lineage."
    )
    trained = _checkpoints("Trained checkpoints", references_of(groups), folded=False)
    taught = _checkpoints("Checkpoints of learners", learners_of(groups), folded=True)
    merged = _checkpoints("Merged checkpoints", merges_of(groups), folded=True)
    if _has_unkept(results):
        merged.notes.append(
            "Merges were evaluated as they were made and not kept. How to reproduce has the command that makes "
            "them again as files, with the same digests; what is finished of training and evaluation stays so."
        )
    return Section("lineage", "Lineage", [lead], [names, *[t for t in (trained, taught, merged) if t.rows]])


def _checkpoints(caption: str, groups: Sequence[Group], *, folded: bool) -> Table:
    rows = [(group, row) for group in groups for row in group.rows]
    stages = max((len(row.checkpoints) for _, row in rows), default=0)
    columns = [Column(title, is_numeric=False) for title in ("Row", "Experts", "Seed")]
    columns += [Column(f"Stage {t + 1}", is_numeric=False) for t in range(stages)]
    cells = [
        [
            Cell(group.title, group.method),
            Cell(group.regime or UNDEFINED, None if group.regime else "has no meaning for this row"),
            Cell("all" if row.seed is None else str(row.seed)),
            *(_checkpoint(row.checkpoints[t] if t < len(row.checkpoints) else None) for t in range(stages)),
        ]
        for group, row in rows
    ]
    return Table(caption, columns, cells, is_folded=folded)


def _checkpoint(ref: CheckpointRef | None) -> Cell:
    if ref is None:
        return Cell(UNDEFINED, "no checkpoint at this stage")
    return _digest(ref.digest, ref.path or "not kept")


def _has_unkept(results: StudyResults) -> bool:
    return any(ref.path is None for row in results.rows for ref in row.checkpoints)


def _digest(digest: str, where: str) -> Cell:
    value = digest.rpartition(":")[2]
    return Cell(value[:10], f"{digest} · {where}", is_code=True)


def _reproduce(results: StudyResults) -> Section:
    revision = next((v for k, v in results.environment.items() if "git" in k.lower()), None)
    commands = [f"git checkout {revision}"] if revision else []
    commands += [
        f"mergeline run {_file_name(results.study)}.yaml   # the configuration below, saved under this name",
        f"mergeline report {results.run_id}",
        f"mergeline lineage {results.run_id}",
    ]
    if _has_unkept(results):
        again = f"mergeline run {_file_name(results.study)}.yaml --set keep_merged=true"
        commands.append(f"{again}   # the merges as files; they were not kept")
    environment = Table(
        "Environment",
        [Column("What", is_numeric=False), Column("Value", is_numeric=False)],
        [[Cell(name), Cell(value)] for name, value in sorted(results.environment.items())],
    )
    config = json.dumps(results.config, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    return Section(
        "reproduce",
        "How to reproduce",
        ["Same study, same seeds, same bytes. JSON is valid YAML: the configuration can be run as it is."],
        [
            Code("Commands", "\n".join(commands), "sh"),
            environment,
            Code("Configuration, as validated", config, "json", is_folded=True),
        ],
    )


def _file_name(study: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in study) or "study"


def _counted(noun: str, things: Sequence[object]) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _minute(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
