"""The geometry of the charts, by hand."""

import math

import numpy as np
import pytest

from merge_lib.report.aggregate import gather
from merge_lib.report.charts import Axis, Curve, Whisker, heat_panel, interval_panel, line_panel, round_range
from merge_lib.report.figures import figures_of, retention_by_stage
from merge_lib.report.palette import DARK, LIGHT, heat_ramp

NAN = math.nan


def test_retention_by_stage_of_the_worked_matrix():
    matrix = np.array([[[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.75, 0.85]]])
    # 1; (.7/.9 + 1) / 2; (.6/.9 + .75/.8 + 1) / 3
    assert retention_by_stage(matrix) == pytest.approx(np.array([[1.0, 0.888889, 0.868056]]), abs=1e-6)


def test_retention_by_stage_is_undefined_where_a_task_was_not_learned():
    assert np.isnan(retention_by_stage(np.array([[[0.0, 0.1], [0.2, 0.8]]]))).all()
    kept = retention_by_stage(np.array([[[0.5, NAN], [NAN, 0.8]]]))
    assert kept[0, 0] == 1.0
    assert np.isnan(kept[0, 1])


def test_axis_maps_ends_to_ends():
    axis = Axis(0, 1, 100, 0)
    assert [axis(0), axis(0.25), axis(1)] == [100, 75, 0]
    assert Axis(1, 1, 5, 9)(1) == 5


def test_round_range_contains_zero_and_all_values():
    assert round_range([0.13, 0.57]) == (0.0, pytest.approx(0.6))
    assert round_range([-0.11, 0.2, NAN]) == (pytest.approx(-0.2), pytest.approx(0.2))
    assert round_range([]) == (0.0, 1.0)


def test_line_panel_breaks_where_nothing_was_measured():
    curve = Curve("parallel", "x", np.array([[0.5, 0.5, NAN, 0.5], [0.7, 0.7, NAN, 0.7]]))
    panel = line_panel("title", [curve], high=1.0, x_title="steps")
    lines = [shape.d for shape in panel.shapes if shape.style == "line parallel"]
    assert lines == ["M40.0 63.6L109.3 63.6", "M248.0 63.6"]  # the mean .6; 138 - .6 * 124 = 63.6
    assert len([shape for shape in panel.shapes if shape.kind == "diamond"]) == 3
    assert panel.alt == "title. At the last stage: x: 60 %."


def test_line_panel_without_any_value_draws_its_axes_only():
    panel = line_panel("t", [Curve("sequential", "x", np.full((2, 3), NAN))], high=1.0, x_title="steps")
    assert {shape.kind for shape in panel.shapes} == {"path", "text"}
    assert panel.alt.endswith("x: not measured.")


def test_heat_panel_has_a_box_for_each_entry():
    panel = heat_panel("t", np.array([[0.9, NAN], [0.55, 1.0]]), ["a", "b"])
    boxes = {shape.text: shape.style for shape in panel.shapes if shape.kind == "box"}
    assert boxes == {
        "after stage 1, on a: 90.0 %": "heat-9",
        "after stage 1, on b: not measured": "heat-none",
        "after stage 2, on a: 55.0 %": "heat-6",
        "after stage 2, on b: 100.0 %": "heat-10",
    }


def test_heat_panel_of_many_tasks_leaves_out_the_numbers():
    panel = heat_panel("t", np.full((12, 12), 0.5), [str(k) for k in range(12)])
    assert [shape.text for shape in panel.shapes if shape.kind == "text"] == ["on task", "after stage"]


def test_interval_panel_cuts_intervals_at_its_edge():
    whisker = Whisker("sequential", "sequential", 0.5, -3.0, 3.0)
    panel = interval_panel("t", [("a method with a rather long name", [whisker])], [])
    line = next(shape for shape in panel.shapes if shape.style == "line sequential")
    assert line.d == "M142.0 29.0H426.0"
    labels = [shape.text for shape in panel.shapes if shape.style == "label"]
    assert labels == ["a method with a", "rather long name"]
    assert "50.0 %, 95 % interval −300.0 to 300.0" in panel.alt


def test_a_label_without_spaces_is_cut():
    panel = interval_panel("t", [("x" * 60, [])], [])
    assert [shape.text for shape in panel.shapes if shape.style == "label"] == ["x" * 20, "x" * 19 + "…"]


def test_twenty_tasks_still_draw(make_results):
    results = make_results(size=20, seeds=(0,), methods={"TIES": (0.9, 0.01)})
    figures = figures_of(gather(results), results.tasks)
    assert set(figures) == {"overview", "accuracy-matrices", "early-tasks", "retention"}


def contrast(first, second):
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_is_readable_on_everything_it_stands_on(theme):
    for ground in (theme.paper, theme.card, theme.tint):
        assert contrast(theme.ink, ground) >= 7
        assert contrast(theme.muted, theme.card) >= 4.5
        assert contrast(theme.accent, ground) >= 4.5
    assert all(contrast(fill, text) >= 4.5 for fill, text in heat_ramp(theme))
    assert contrast(theme.sequential, theme.card) >= 3
    assert contrast(theme.parallel, theme.card) >= 3


@pytest.mark.parametrize(
    ("regime", "kind"), [("sequential", "circle"), ("parallel", "diamond"), ("merged", "box")]
)
def test_regimes_differ_in_their_markers(regime, kind):
    curve = Curve(regime, regime, np.array([[0.5, 0.25]]))
    shapes = line_panel("T", [curve], high=1.0, x_title="x").shapes
    dots = [shape for shape in shapes if shape.style == f"dot {regime}"]
    assert [shape.kind for shape in dots] == [kind, kind]
    whiskers = interval_panel("T", [("row", [Whisker(regime, regime, 0.5, 0.4, 0.6)])], []).shapes
    (dot,) = [shape for shape in whiskers if shape.style == f"dot {regime}"]
    assert dot.kind == kind
