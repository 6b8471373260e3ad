"""The report of a sweep: claims, curves over the axes, and every cell beside the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.claims import Check, Claim
from merge_lib.metrics import describe
from merge_lib.report.aggregate import gather, marked, merges_of, number, p_value, ranked_of
from merge_lib.report.curves import curve_figure, metric_panels, path_panels
from merge_lib.report.findings import compare_regimes, headline
from merge_lib.report.knowledge import ages, along_tasks
from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Finding, Report, Section, Table
from merge_lib.report.levels import shift_table, shifts
from merge_lib.sweep_table import MeasuredCell

METRICS = ("average_accuracy", "worst_task_accuracy", "retention_mean", "forgetting")
ASKED = {
    "shared-kept": "Is shared knowledge kept?",
    "unshared-lost": "Is unshared knowledge lost?",
    "incremental-better": "Do incremental endpoints merge better?",
}
ANSWERS = {"confirmed": "Confirmed here", "refuted": "Refuted here", "undecided": "Undecided here"}
FEWEST_LEVELS = 3  # of a curve


@dataclass(frozen=True)
class Sweep:
    """What the report is about."""

    name: str
    sweep_id: str
    description: str
    command: str
    elapsed_s: float
    cells: Sequence[MeasuredCell]
    claims: Sequence[Claim]
    reports: Mapping[str, str]  # run id -> where its own report lies, seen from this one

    @property
    def axes(self) -> dict[str, list[str]]:
        """Each axis with its levels, in the order of the file."""
        levels: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            for axis, level in cell.levels.items():
                levels.setdefault(axis, {})[level] = None
        return {axis: list(known) for axis, known in levels.items()}


def compose_sweep(sweep: Sweep) -> Report:
    """The whole report of a sweep."""
    sections = [
        _claims(sweep),
        _paths(sweep),
        _over_axes(sweep),
        _levels(sweep),
        _knowledge(sweep),
        _cells(sweep),
        _regimes(sweep),
        _runs(sweep),
    ]
    return Report(
        sweep.name,
        sweep.description,
        _facts(sweep),
        [_finding(claim) for claim in sweep.claims],
        [section for section in sections if section is not None],
    )


def best_of(cell: MeasuredCell) -> str:
    """Which merge is the most accurate there, and how sure that is, in a sentence or two."""
    first = next(iter(headline(gather(cell.results))), None)
    said = "" if first is None else f" {first.question}: {first.answer}. {first.value} {first.certainty}"
    return f"{cell.title}.{said}"


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    results = sweep.cells[0].results
    axes = [(axis, ", ".join(levels)) for axis, levels in sweep.axes.items()]
    return [
        ("Workload", results.workload),
        *axes,
        (f"{len(results.seeds)} seeds", ", ".join(map(str, results.seeds))),
        ("Took", f"{sweep.elapsed_s / 60:.1f} min"),
        ("Sweep", sweep.sweep_id),
    ]


def _finding(claim: Claim) -> Finding:
    weakest = min(claim.checks, key=lambda check: (check.verdict == "confirmed", abs(check.difference)))
    return Finding(
        ASKED[claim.name],
        ANSWERS[claim.verdict],
        f"{weakest.said}: {_points(weakest)}.",
        _counts(claim.checks),
        "Paired t-tests over the seeds against each claim's margin, Holm over all checks of all claims, α = 0.05.",
    )


def _counts(checks: Sequence[Check]) -> str:
    said = [f"{sum(c.verdict == v for c in checks)} {v}" for v in ("confirmed", "refuted", "undecided")]
    return f"Of {len(checks)} checks: {', '.join(said)}."


def _points(check: Check) -> str:
    interval = check.test.difference
    half = "" if interval.half_width is None else f" ± {number(interval.half_width * 100)}"
    return f"{number(check.difference * 100)}{half} points"


def _claims(sweep: Sweep) -> Section | None:
    if not sweep.claims:
        return None
    columns = [Column("Claim", is_numeric=False), Column("Compared", is_numeric=False)]
    columns += [
        Column("Difference, points"),
        Column("Must exceed"),
        Column("p (Holm)"),
        Column("Effect size"),
    ]
    columns.append(Column("Verdict", is_numeric=False))
    rows = [
        [
            Cell(claim.statement),
            Cell(check.said),
            Cell(_points(check), check.test.method),
            Cell(number(check.margin * 100, 0)),
            Cell(p_value(check.p_holm)),
            Cell(UNDEFINED if check.test.effect_size is None else number(check.test.effect_size)),
            Cell(check.verdict),
        ]
        for claim in sweep.claims
        for check in claim.checks
    ]
    note = (
        "The claims are those of Hess, van de Ven & Tuytelaars (arXiv:2507.23311); margins and tests are ours. A claim "
        "is confirmed if all its checks are, refuted if any is. Effect size: Cohen's d of the differences against the "
        "margin."
    )
    table = Table("Every check of every claim", columns, rows, [note], wraps=True)
    return Section("claims", "The claims", [f"{c.statement}: {c.verdict}." for c in sweep.claims], [table])


def _paths(sweep: Sweep) -> Section | None:
    """What rows that `each` made say, as curves over the value that they differ in."""
    panels = [panel for cell in sweep.cells for panel in path_panels(cell)]
    if not panels:
        return None
    figure = curve_figure("paths", "Along each value", panels)
    return Section(
        "paths", "Along each value", ["Accuracy on each task and probe, at the last stage."], [figure]
    )


def _over_axes(sweep: Sweep) -> Section | None:
    """Metrics over the levels of each axis whose levels are numbers, the other axes held."""
    figures = [figure for axis in sweep.axes if (figure := _axis_figure(sweep, axis)) is not None]
    if not figures:
        return None
    return Section("axes", "Over the axes", ["How each method fares as one setting changes."], list(figures))


def _knowledge(sweep: Sweep) -> Section | None:
    figures = [figure for figure in (ages(sweep.cells), along_tasks(sweep.cells)) if figure is not None]
    if not figures:
        return None
    lead = "What each method keeps of the oldest and the newest tasks, and of what they have in common."
    return Section("knowledge", "Where knowledge goes", [lead], list(figures))


def _levels(sweep: Sweep) -> Section | None:
    """Every level against the first, of axes that are not drawn as curves."""
    tables = [
        shift_table(axis, levels[0], found)
        for axis, levels in sweep.axes.items()
        if not _positions(levels) and (found := shifts(_lines_along(sweep, axis)))
    ]
    if not tables:
        return None
    return Section("levels", "Level by level", ["What each level changes for every merge."], list(tables))


def _positions(levels: Sequence[str]) -> list[float]:
    """The levels as numbers; empty where they are none, or fewer than a curve needs."""
    try:
        positions = [float(level) for level in levels]
    except ValueError:
        return []
    return positions if len(positions) >= FEWEST_LEVELS else []


def _axis_figure(sweep: Sweep, axis: str) -> Figure | None:
    levels = sweep.axes[axis]
    positions = _positions(levels)
    if not positions:
        return None
    order = np.argsort(positions)
    panels = [
        panel
        for held, cells in _lines_along(sweep, axis).items()
        for metric in ("average_accuracy", "retention_mean")
        for panel in metric_panels([cells[levels[k]] for k in order], metric, np.sort(positions), held, axis)
    ]
    return curve_figure(f"axis-{axis.replace('.', '-')}", f"Over {axis}", panels) if panels else None


def _lines_along(sweep: Sweep, axis: str) -> dict[str, dict[str, MeasuredCell]]:
    """For each combination of the other axes that has every level of this one: the cells by level."""
    lines: dict[str, dict[str, MeasuredCell]] = {}
    for cell in sweep.cells:
        held = ", ".join(f"{name} = {level}" for name, level in cell.levels.items() if name != axis)
        lines.setdefault(held, {})[cell.levels[axis]] = cell
    return {held: cells for held, cells in lines.items() if len(cells) == len(sweep.axes[axis])}


def _cells(sweep: Sweep) -> Section:
    """Every method in every cell, the best of each cell marked."""
    known = describe()
    columns = [*(Column(axis, is_numeric=False) for axis in sweep.axes), Column("Method", is_numeric=False)]
    columns += [Column("Experts", is_numeric=False), *(Column(known[name].title) for name in METRICS)]
    rows = []
    for cell in sweep.cells:
        groups = ranked_of(gather(cell.results))
        marks = {name: marked(groups, known[name]) for name in METRICS}
        for group in groups:
            row = [
                *(Cell(cell.levels[axis]) for axis in sweep.axes),
                Cell(group.label),
                Cell(group.regime or "any"),
            ]
            rows.append([*row, *(marks[name][group.name].cell() for name in METRICS)])
    note = (
        "In %, mean ± half the 95 % interval (Student t). Bold: told apart from every other row of its cell by a "
        "Holm-corrected paired test; ≈: not distinguishable from the best of its cell."
    )
    table = Table("Every method in every cell", columns, rows, [note], is_folded=len(rows) > 60)
    return Section("cells", "Every cell", ["What each model knows after the last task."], [table])


def _regimes(sweep: Sweep) -> Section | None:
    """Sequential against parallel experts in each cell."""
    columns = [*(Column(axis, is_numeric=False) for axis in sweep.axes), Column("Method", is_numeric=False)]
    columns += [Column("Sequential − parallel, points"), Column("p (Holm)"), Column("Effect size")]
    columns.append(Column("Verdict", is_numeric=False))
    rows = []
    for cell in sweep.cells:
        groups = merges_of(gather(cell.results))
        for one in compare_regimes(groups, "average_accuracy"):
            half = one.test.difference.half_width
            text = number(one.test.difference.mean * 100) + (
                "" if half is None else f" ± {number(half * 100)}"
            )
            effect = one.test.effect_size
            rows.append(
                [
                    *(Cell(cell.levels[axis]) for axis in sweep.axes),
                    Cell(one.label),
                    Cell(text, one.test.method),
                    Cell(p_value(one.p_holm)),
                    Cell(UNDEFINED if effect is None else number(effect)),
                    Cell(one.verdict),
                ]
            )
    if not rows:
        return None
    note = (
        "Average accuracy after the last task; Holm over the methods of a cell; effect size: Cohen's d of the "
        "differences."
    )
    table = Table("Regimes in each cell", columns, rows, [note], is_folded=len(rows) > 60)
    return Section("regimes", "Sequential or parallel experts", [], [table])


def _runs(sweep: Sweep) -> Section:
    columns = [*(Column(axis, is_numeric=False) for axis in sweep.axes), Column("Run", is_numeric=False)]
    columns += [Column("Its report", is_numeric=False), Column("s")]
    rows = [
        [
            *(Cell(level) for level in cell.levels.values()),
            Cell(cell.results.run_id, is_code=True),
            Cell(sweep.reports[cell.results.run_id], is_code=True),
            Cell(number(cell.results.elapsed_s, 0)),
        ]
        for cell in sweep.cells
    ]
    table = Table("Runs", columns, rows, [f"Made by: {sweep.command}"])
    return Section(
        "runs", "Runs", ["Each cell is a run of its own, with its own report and record."], [table]
    )
