"""Where base, experts and merges lie: figures of paths, surfaces and conflict maps, and the report's section."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from merge_lib.maps import MEAN, ConflictMaps, Landscape, LossPath, LossSurface
from merge_lib.report.aggregate import number
from merge_lib.report.conflict_panels import Scale, conflict_panel
from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Panel, Section, Table
from merge_lib.report.path_panels import Trace, path_panel
from merge_lib.report.surface_panels import Quantity, plain, surface_panel
from merge_lib.statistics import mean_interval

_MOST_PAIRS = 10  # beyond, pairs are told by how far apart their tasks are
_MOST_TASKS = 5  # panels of single tasks along a path
_CONFLICTS = {
    "cosine": "Cosine, hundredths",
    "sign conflict": "Sign conflict, %",
    "overlap": "Subspace overlap, %",
}


def where_merges_lie(landscapes: Sequence[Landscape], run_id: str) -> Section | None:
    """The section; None where nothing was looked at."""
    blocks: list[Table | Figure] = []
    if paths := _by_regime(landscapes, "path"):
        blocks += [path_figure(paths), barrier_table(paths)]
    if surfaces := _by_regime(landscapes, "surface"):
        first = {regime: found[0] for regime, found in surfaces.items()}
        blocks += [surface_figure(first), mark_table(first)]
    if maps := _by_regime(landscapes, "conflicts"):
        blocks.append(conflict_figure(maps))
    if not blocks:
        return None
    lead = (
        "How experts agree layer by layer, and what lies between base, experts and merges. "
        f"`mergeline plot conflicts {run_id}` draws it in more detail; so do `plot path` and `plot surface`."
    )
    return Section("landscape", "Where the merges lie", [lead], list(blocks))


def path_figure(paths: dict[str, Sequence[LossPath]], *, has_accuracies: bool = False) -> Figure:
    """Loss and accuracy along a path, mean over the tasks; then the loss on single tasks.

    Args:
        paths: by regime (or another name), one for each seed, all along the same number of checkpoints.
        has_accuracies: whether the accuracy on single tasks is drawn, too.
    """
    first = next(iter(paths.values()))[0]
    tasks = _chosen(first.tasks) if len(first.tasks) > 1 else []
    high = max(
        value
        for some in paths.values()
        for path in some
        for task in (MEAN, *tasks)
        for value in path.loss_on(task)
        if np.isfinite(value)
    )
    panels: list[Panel] = []
    for task in (MEAN, *tasks):
        title = task if task != MEAN else f"mean of {len(first.tasks)} tasks" if tasks else first.tasks[0]
        losses = [_trace(name, [path.loss_on(task) for path in some]) for name, some in paths.items()]
        panels.append(path_panel(f"Loss, {title}", losses, first.positions, first.waypoints, high))
        if has_accuracies or task == MEAN:
            shares = [_trace(name, [path.accuracy_on(task) for path in some]) for name, some in paths.items()]
            panels.append(path_panel(f"Accuracy in %, {title}", shares, first.positions, first.waypoints))
    return Figure(
        "loss-paths",
        "Along straight lines between checkpoints",
        f"Loss and accuracy along the path {' → '.join(first.waypoints)}.",
        f"Cross-entropy in nats and accuracy in % on at most {first.examples} examples of each task, at weights "
        "(1 − s) · start + s · end between two neighbours; marks are the checkpoints themselves. "
        + ("Lines are means over the seeds, bands their range." if _has_seeds(paths) else ""),
        panels,
        [(_style(name), f"{name} experts" if name in _STYLES else name) for name in paths],
        2,
    )


def barrier_table(paths: dict[str, Sequence[LossPath]]) -> Table:
    """The barrier of every leg, a row for each regime."""
    first = next(iter(paths.values()))[0]
    columns = [Column("Experts", is_numeric=False), *(Column(leg, "Barrier in nats") for leg in first.legs)]
    rows = []
    for name, some in paths.items():
        by_leg = zip(*(path.barriers() for path in some), strict=True)
        rows.append([Cell(name), *(_mean_cell(list(values)) for values in by_leg)])
    note = (
        "Barrier: the most that the loss, mean of the tasks, rises above the straight line between the losses of both "
        "ends (Entezari et al. 2022); 0 where it never does: the two are linearly connected. Mean ± half the 95 % "
        "interval over the seeds."
    )
    return Table("Barriers between checkpoints", columns, rows, [note])


def surface_figure(surfaces: dict[str, LossSurface], *, has_tasks: bool = False) -> Figure:
    """Loss and accuracy over the plane through base and two experts, mean over their tasks.

    Args:
        surfaces: by regime (or another name).
        has_tasks: whether the loss on each single task is drawn, too.
    """
    panels = []
    for name, surface in surfaces.items():
        prefix = f"{name.capitalize()} experts: " if len(surfaces) > 1 else ""
        for quantity in (Quantity.loss(surface, MEAN), Quantity.accuracy(surface, MEAN)):
            title = f"{prefix}{quantity.name}, mean of the tasks"
            panels.append(surface_panel(title[0].upper() + title[1:], surface, quantity))
        for task in surface.tasks if has_tasks else ():
            panels.append(surface_panel(f"{prefix}Loss on {task}", surface, Quantity.loss(surface, task)))
    first = next(iter(surfaces.values()))
    experts = " and ".join(mark.name for mark in first.marks if mark.kind == "expert")
    legend = [("mark-base", "base"), ("mark-expert", "expert")]
    if any(mark.kind == "merge" for surface in surfaces.values() for mark in surface.marks):
        legend.append(("mark-merge", "merge, projected onto the plane"))
    return Figure(
        "loss-surface",
        "The plane through base and two experts",
        f"Loss and accuracy over the plane through the base and the experts of {experts}.",
        f"Mean of the tasks {experts}, at most {first.examples} examples of each, on a grid of {len(first.xs)} × "
        f"{len(first.ys)} points; between them values are interpolated. The more a colour stands out from the "
        "page, the better. Distances on the map "
        "are distances between weights; a merge is drawn where its projection falls, and its own loss is in the "
        "table. One seed is shown.",
        panels,
        legend,
        2,
    )


def mark_table(surfaces: dict[str, LossSurface]) -> Table:
    """Base, experts and merges with their places, their distance from the plane, and what they reach themselves."""
    columns = [
        Column("Checkpoint", is_numeric=False),
        Column("Experts", is_numeric=False),
        Column("x", None, "along the task vector of the first expert"),
        Column("y", None, "across it, towards the second"),
        Column("From the plane", None, "distance to its projection"),
        Column("Share outside", None, "distance from the plane over distance from the base, %"),
        Column("Loss", "Of itself, mean of the tasks"),
        Column("Accuracy", "Of itself, mean of the tasks"),
    ]
    rows = []
    for name, surface in surfaces.items():
        for mark in surface.marks:
            away = float(np.hypot(np.hypot(mark.x, mark.y), mark.distance))
            share = Cell(number(100 * mark.distance / away)) if away else Cell(UNDEFINED, "it is the base")
            loss, accuracy = mark.loss, mark.accuracy
            rows.append(
                [
                    Cell(mark.name, mark.kind),
                    Cell(name),
                    *(Cell(plain(value)) for value in (mark.x, mark.y, mark.distance)),
                    share,
                    Cell(UNDEFINED, "not measured") if loss is None else Cell(plain(loss)),
                    Cell(UNDEFINED, "not measured") if accuracy is None else Cell(number(100 * accuracy)),
                ]
            )
    note = (
        "Merges of the two experts of the map, or the first merges that hold both. Where the share outside is large, "
        "the colour at the mark says little about the merge."
    )
    return Table("Places on the map", columns, rows, [note], is_folded=True)


def conflict_figure(maps: dict[str, Sequence[ConflictMaps]]) -> Figure:
    """Cosine, sign conflict and overlap, layer by pair of tasks, mean over the seeds.

    Args:
        maps: by regime (or another name), one for each seed, all of the same tasks and blocks.
    """
    tasks = next(iter(maps.values()))[0].tasks
    columns, shares = _columns(tasks)
    far = len(columns) < len(tasks) * (len(tasks) - 1) // 2
    named = [f"{place} {task}" for place, task in enumerate(tasks, 1)]
    pairs = (
        "Columns are pairs of tasks by their distance in the sequence, mean over such pairs"
        if far
        else f"Columns are pairs of tasks: {', '.join(named)}"
    )
    told = ["distance of the two tasks in the sequence"] if far else named
    panels = []
    for measure, heading in _CONFLICTS.items():
        values = {
            name: _mean_over([_matrix(one, measure) for one in some], shares) for name, some in maps.items()
        }
        scale = _scale(measure, np.concatenate(list(values.values())))
        for name, matrix in values.items():
            title = f"{name.capitalize()}: {heading[0].lower()}{heading[1:]}" if len(maps) > 1 else heading
            panels.append(conflict_panel(title, matrix, list(maps[name][0].blocks), columns, scale, told))
    return Figure(
        "conflicts",
        "Agreement of experts by layer",
        "Cosine, sign conflict and subspace overlap of the task vectors of each pair of experts, by block.",
        f"{pairs}. Cosine of two task vectors; share of their entries with different signs, 50 % by chance; share of "
        "the output directions that hold 90 % of one's energy and lie in the other's. Orange is conflict, blue "
        "agreement. Mean over the seeds; the last row is the whole model.",
        panels,
        [],
        min(len(maps), 2) if len(maps) > 1 else 3,
    )


_STYLES = ("sequential", "parallel", "merged")


def _style(name: str) -> str:
    return name if name in _STYLES else "sequential"


def _trace(name: str, values: Sequence[Sequence[float]]) -> Trace:
    return Trace(_style(name), name, np.array(values, dtype=float))


def _has_seeds(paths: dict[str, Sequence[LossPath]]) -> bool:
    return any(len(some) > 1 for some in paths.values())


def _chosen(tasks: Sequence[str]) -> list[str]:
    """At most `_MOST_TASKS` tasks, spread over the sequence, the first and the last among them."""
    if len(tasks) <= _MOST_TASKS:
        return list(tasks)
    return [tasks[place] for place in np.linspace(0, len(tasks) - 1, _MOST_TASKS).round().astype(int)]


def _mean_cell(values: Sequence[float]) -> Cell:
    if not np.isfinite(values).all():
        return Cell(UNDEFINED, "a loss is not finite")
    interval = mean_interval(values)
    half = "" if interval.half_width is None else f" ± {plain(interval.half_width)}"
    return Cell(f"{plain(interval.mean)}{half}", interval.method)


def _columns(tasks: Sequence[str]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Heading and name of each column, and which pairs are averaged in it, [columns, pairs]."""
    pairs = list(combinations(range(len(tasks)), 2))
    if len(pairs) <= _MOST_PAIRS:
        named = [(f"{a + 1}–{b + 1}", f"{tasks[a]} and {tasks[b]}") for a, b in pairs]
        return named, np.eye(len(pairs))
    apart = np.array([b - a for a, b in pairs])
    far = range(1, len(tasks))
    return [(str(d), f"tasks {d} apart") for d in far], np.array([apart == d for d in far], dtype=float)


def _matrix(found: ConflictMaps, measure: str) -> np.ndarray:
    """[blocks, pairs], NaN where undefined."""
    return np.array(
        [[np.nan if value is None else value for value in block[measure]] for block in found.blocks.values()]
    )


def _mean_over(matrices: Sequence[np.ndarray], shares: np.ndarray) -> np.ndarray:
    """[blocks, pairs] of each seed to [blocks, columns]: the mean of what is defined."""
    values = np.stack(matrices)
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis=0) @ shares.T
    counts = known.sum(axis=0) @ shares.T
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _scale(measure: str, values: np.ndarray) -> Scale:
    if measure == "overlap":
        return Scale.from_zero(values)
    if measure == "cosine":
        return Scale.around(values, 0.0, is_high_good=True)
    return Scale.around(values, 0.5, is_high_good=False)


def _by_regime(landscapes: Sequence[Landscape], what: str) -> dict:  # type: ignore[type-arg]
    """What was found of a kind, by regime, in the order of the seeds."""
    found: dict = {}  # type: ignore[type-arg]
    for one in landscapes:
        if (value := getattr(one, what)) is not None:
            found.setdefault(one.regime, []).append(value)
    return found
