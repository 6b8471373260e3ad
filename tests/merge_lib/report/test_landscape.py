from dataclasses import replace

import numpy as np
import pytest

from merge_lib.maps import MODEL, ConflictMaps, Landscape, LossPath, LossSurface, Mark
from merge_lib.report import build_report
from merge_lib.report.conflict_panels import Scale, conflict_panel
from merge_lib.report.contours import bands, loss_levels, round_steps, share_levels
from merge_lib.report.landscape import (
    barrier_table,
    conflict_figure,
    mark_table,
    path_figure,
    surface_figure,
    where_merges_lie,
)
from merge_lib.report.path_panels import Trace, path_panel
from merge_lib.report.raster import write_png
from merge_lib.report.render import write_figure
from merge_lib.report.surface_panels import Quantity, surface_panel
from merge_lib.results import StudyResults

TASKS = ["red", "blue"]


def a_path(lift: float = 0.0) -> LossPath:
    positions = [0.0, 0.5, 1.0, 1.5, 2.0]
    losses = [[1.0, 2.0], [2.0 + lift, 2.0], [1.0, 2.0], [0.5, 1.0], [0.0, 0.0]]
    return LossPath(["base", *TASKS], positions, TASKS, losses, [[0.5, 0.25]] * 5, 64, "path/key")


def a_surface() -> LossSurface:
    xs = ys = [-1.0, 0.0, 1.0]
    losses = [[[0.01 + x * x + y * y, 4.0] for x in xs] for y in ys]
    marks = [
        Mark("base", "base", 0.0, 0.0, 0.0, {"red": 0.5, "blue": 0.7}, {"red": 0.4, "blue": 0.6}),
        Mark("red", "expert", 0.9, 0.0, 0.0),
        Mark("blue", "expert", 0.1, 0.8, 0.0),
        Mark("average", "merge", 0.5, 0.4, 0.0),
        Mark("ties", "merge", 0.5, 0.41, 0.3),
        Mark("dare", "merge", 0.5, 0.39, 0.4),
        Mark("far", "merge", 7.0, 0.4, 0.1),
    ]
    accuracies = [[[0.5, 0.9 - 0.1 * abs(x)] for x in xs] for _ in ys]
    return LossSurface(TASKS, xs, ys, losses, accuracies, 64, marks, "surface/key")


def some_conflicts(tasks=TASKS, cosine: float = -0.5) -> ConflictMaps:
    pairs = [[a, b] for place, a in enumerate(tasks) for b in tasks[place + 1 :]]
    one = {
        "cosine": [cosine] * len(pairs),
        "sign conflict": [0.75] * len(pairs),
        "overlap": [None] * len(pairs),
        "chance overlap": [0.5] * len(pairs),
    }
    return ConflictMaps(list(tasks), pairs, {"layers.0": one, MODEL: one}, "conflicts/key")


@pytest.fixture
def seen(make_results):
    results = make_results(
        size=2, seeds=(0, 1), regimes=("parallel",), methods={"TIES": (0.9, 0.1)}, tasks=TASKS
    )
    landscapes = [
        Landscape("parallel", 0, some_conflicts(), a_path(), a_surface()),
        Landscape("parallel", 1, some_conflicts(cosine=0.1), a_path(1.0)),
    ]
    return replace(results, landscapes=landscapes)


def test_the_section_has_every_map(seen, tmp_path):
    section = where_merges_lie(seen.landscapes, seen.run_id)
    assert section.title == "Where the merges lie"
    names = [getattr(block, "name", getattr(block, "caption", "")) for block in section.blocks]
    assert names == [
        *("loss-paths", "Barriers between checkpoints"),
        *("loss-surface", "Places on the map", "conflicts"),
    ]
    files = build_report(seen, tmp_path / "report")
    assert {"loss-paths.svg", "loss-surface.svg", "conflicts.svg"} <= {path.name for path in files.figures}
    assert "## Where the merges lie" in files.markdown.read_text()
    assert 'id="landscape"' in files.html.read_text()
    assert where_merges_lie([], "run") is None


def test_results_with_landscapes_come_back_from_their_file(seen, tmp_path):
    seen.save(tmp_path / "results.json")
    assert StudyResults.load(tmp_path / "results.json").landscapes == seen.landscapes


def test_barriers_are_means_over_the_seeds():
    table = barrier_table({"parallel": [a_path(), a_path(1.0)]})
    assert [column.title for column in table.columns] == ["Experts", "base → red", "red → blue"]
    assert table.rows[0][1].text.startswith("0.75 ± ")  # 0.5 and 1.0, of the mean of both tasks
    assert table.rows[0][2].text == "0 ± 0"
    broken = replace(a_path(), losses=[[float("inf"), 0.0]] * 5)
    assert barrier_table({"parallel": [broken]}).rows[0][1].text == "–"


def test_a_path_is_drawn_for_the_mean_and_for_each_task():
    figure = path_figure({"parallel": [a_path(), a_path(1.0)], "sequential": [a_path(), a_path()]})
    titles = [panel.title for panel in figure.panels]
    assert titles == ["Loss, mean of 2 tasks", "Accuracy in %, mean of 2 tasks", "Loss, red", "Loss, blue"]
    assert [text for _, text in figure.legend] == ["parallel experts", "sequential experts"]
    assert "at most 2.25" in figure.panels[0].alt  # the mean over both seeds of 2 and 2.5
    styles = [shape.style for shape in figure.panels[2].shapes]
    assert {"band parallel", "line parallel", "dot sequential"} <= set(styles)
    assert len(path_figure({"x": [a_path()]}, has_accuracies=True).panels) == 6
    one = replace(a_path(), tasks=["red"], losses=[[1.0]] * 5, accuracies=[[0.5]] * 5)
    assert [p.title for p in path_figure({"parallel": [one]}).panels] == ["Loss, red", "Accuracy in %, red"]


def test_of_many_tasks_some_are_drawn():
    tasks = [f"t{place}" for place in range(12)]
    path = replace(a_path(), tasks=tasks, losses=[[1.0] * 12] * 5, accuracies=[[0.5] * 12] * 5)
    titles = [panel.title for panel in path_figure({"parallel": [path]}).panels]
    assert (titles[2], titles[-1], len(titles)) == ("Loss, t0", "Loss, t11", 7)


def test_names_that_find_no_room_become_numbers():
    names = ["base", *(f"a rather long name {place}" for place in range(6))]
    panel = path_panel("t", [Trace("parallel", "p", np.ones((1, 7)))], list(map(float, range(7))), names, 1.0)
    ticks = [shape.text for shape in panel.shapes if shape.kind == "text"]
    assert {"base", "1", "6"} <= set(ticks)
    assert names[1] in {shape.text for shape in panel.shapes if shape.style == "grid"}


def test_a_path_that_is_not_finite_is_not_drawn():
    panel = path_panel("t", [Trace("parallel", "p", np.array([[1.0, np.inf]]))], [0.0, 1.0], ["a", "b"], 1.0)
    assert not any("line" in shape.style for shape in panel.shapes)


def test_the_surface_marks_base_experts_and_merges():
    figure = surface_figure({"parallel": a_surface()}, has_tasks=True)
    titles = [panel.title for panel in figure.panels]
    assert titles == ["Loss, mean of the tasks", "Accuracy, mean of the tasks", "Loss on red", "Loss on blue"]
    shapes = figure.panels[0].shapes
    labels = [shape.text for shape in shapes if shape.style.startswith("on-map")]
    assert sorted(labels) == ["1–3", "base", "blue", "red"]  # the merges lie together; one is off the map
    names = [shape.text for shape in shapes if shape.style == "tick" and "average" in shape.text]
    assert names == ["1\u00a0average · 2\u00a0ties · 3\u00a0dare · 4\u00a0far"]
    assert "base 0.6" in figure.panels[0].alt
    assert [style for style, _ in figure.legend] == ["mark-base", "mark-expert", "mark-merge"]


def test_the_darker_the_better():
    surface = a_surface()
    for quantity, best in (
        (Quantity.loss(surface, "red"), 0),
        (Quantity.accuracy(surface, "blue"), len(share_levels(np.array(surface.accuracy_on("blue"))))),
    ):
        shades = [quantity.shade(band) for band in range(len(quantity.levels) + 1)]
        assert shades[best] == 10
        assert shades in (sorted(shades), sorted(shades, reverse=True))


def test_a_surface_without_relief_is_one_colour():
    flat = replace(a_surface(), losses=[[[4.0, 4.0]] * 3] * 3)
    panel = surface_panel("t", flat, Quantity.loss(flat, "red"))
    assert not any("contour" in shape.style for shape in panel.shapes)


def test_places_distances_and_what_merges_reach_themselves():
    table = mark_table({"parallel": a_surface()})
    rows = {row[0].text: [cell.text for cell in row[2:]] for row in table.rows}
    assert rows["base"] == ["0", "0", "0", "–", "0.6", "50.0"]
    assert rows["ties"][:4] == ["0.5", "0.41", "0.3", "42.1"]
    assert rows["ties"][4:] == ["–", "–"]


def test_conflicts_of_regimes_share_their_colours():
    figure = conflict_figure({"parallel": [some_conflicts()], "sequential": [some_conflicts(cosine=0.25)]})
    titles = [panel.title for panel in figure.panels[:2]]
    assert titles == ["Parallel: cosine, hundredths", "Sequential: cosine, hundredths"]
    first, second = (next(s for s in panel.shapes if s.kind == "box").style for panel in figure.panels[:2])
    assert (first, second) == (
        "both-10",
        "both-2",
    )  # −0.5 is the end of the scale, 0.25 half way to the other
    overlap = figure.panels[4]
    assert {s.text for s in overlap.shapes if s.kind == "box"} == {
        "layers.0, red and blue: undefined",
        "whole model, red and blue: undefined",
    }
    assert "1 red, 2 blue" in figure.caption


def test_pairs_of_many_tasks_are_told_by_their_distance():
    tasks = [f"t{place}" for place in range(6)]
    maps = some_conflicts(tasks)
    values = [float(int(b[1]) - int(a[1])) / 10 for a, b in maps.pairs]
    maps.blocks["layers.0"]["cosine"][:] = values
    figure = conflict_figure({"parallel": [maps]})
    tips = [s.text for s in figure.panels[0].shapes if s.kind == "box" and s.text.startswith("layers.0")]
    assert tips == [f"layers.0, tasks {apart} apart: {apart}0.0" for apart in range(1, 6)]
    assert "by their distance in the sequence" in figure.caption


def test_without_room_there_are_colours_alone():
    columns = [(str(place), f"pair {place}") for place in range(12)]
    panel = conflict_panel("t", np.zeros((1, 12)), ["a block with a long name"], columns, Scale(None, 1.0))
    assert not any(shape.style.startswith("on-heat") for shape in panel.shapes)
    assert "…th a long name" in {shape.text for shape in panel.shapes}


def test_levels_are_round():
    assert round_steps(0.0, 1.0, 4) == [0.2, 0.4, 0.6, 0.8]
    assert round_steps(-0.26, 0.26, 5) == [-0.2, -0.1, 0.0, 0.1, 0.2]
    assert round_steps(1.0, 1.0, 5) == []
    assert loss_levels(np.array([0.03, 2.5])) == [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    assert loss_levels(np.array([1e-8, 10.0, np.inf])) == [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0]
    assert loss_levels(np.array([1.0, 2.0])) == [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]
    assert share_levels(np.array([0.5, 0.9])) == pytest.approx([0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85])


def test_bands_are_closed_outlines_of_what_lies_above():
    values = np.array([[0.0, 1.0], [0.0, 1.0]])
    (path,) = bands(values, [0.0, 100.0], [0.0, 50.0], [0.25])
    assert path.startswith("M")
    assert path.endswith("Z")
    corners = {tuple(map(float, point.split())) for point in path.strip("MZ").split("L")}
    assert corners == {(25.0, 0.0), (25.0, 50.0), (100.0, 0.0), (100.0, 50.0)}
    assert bands(np.array([[0.0, np.inf], [0.0, 1.0]]), [0, 1], [0, 1], [0.5, 2.0])[1] == ""


def test_pictures_as_svg_and_as_png(tmp_path):
    figures = [
        path_figure({"parallel": [a_path(), a_path(1.0)]}),
        surface_figure({"parallel": a_surface()}),
        conflict_figure({"merged": [some_conflicts()]}),
    ]
    for figure in figures:
        assert write_figure(figure, tmp_path / "deep" / f"{figure.name}.svg").read_text().startswith("<svg")
        png = write_png(figure, tmp_path / "other" / f"{figure.name}.png")
        assert png.read_bytes()[:4] == b"\x89PNG"


def test_every_figure_of_the_report_can_be_a_png(seen, tmp_path):
    from merge_lib.report.sections import compose

    figures = compose(seen).figures
    assert len(figures) > 5
    for figure in figures:
        assert write_png(figure, tmp_path / f"{figure.name}.png").stat().st_size > 1000
