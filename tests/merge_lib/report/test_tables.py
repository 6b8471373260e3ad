"""The numbers of the report against the results they are made of."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from merge_lib.metrics import describe, summarise
from merge_lib.report import SUMMARY_METRICS, summary_table
from merge_lib.report.aggregate import compare, gather, merges_of, number
from merge_lib.report.findings import compare_regimes, headline, in_words
from merge_lib.report.sizes import bytes_text
from merge_lib.report.tables import (
    MAIN,
    MORE,
    cost,
    every_metric,
    methods_by_regime,
    references,
    regime_differences,
    variants,
)


def expected(values, factor=100):
    """Mean ± half the Student interval, straight from scipy."""
    values = np.array(values) * factor
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}".replace("-", "−")


def values_of(results, label, regime, metric):
    return [row.metrics[metric] for row in results.rows if (row.label, row.regime) == (label, regime)]


def constant(results, levels):
    """The same results with average accuracies set by label and regime, one number a seed."""
    rows = [
        replace(row, metrics={**row.metrics, "average_accuracy": levels[row.label, row.regime][row.seed]})
        for row in results.rows
        if (row.label, row.regime) in levels
    ]
    return replace(results, rows=rows)


def test_main_table_equals_the_metrics_of_the_rows(results):
    table = methods_by_regime(gather(results), MAIN, "main")
    assert len(table.rows) == 9
    for row in table.rows:
        label = row[0].text
        cells = iter(row[1:])
        for metric in MAIN:
            for regime in ("sequential", "parallel"):
                assert next(cells).text == expected(values_of(results, label, regime, metric))


def test_detailed_tables_have_every_row_and_together_every_metric(results):
    groups = gather(results)
    assert set(MAIN) | set(MORE) | set(variants()) == set(describe())
    for names in (MORE, variants()):
        table = every_metric(groups, names, "more")
        assert len(table.rows) == 18
        for row in table.rows:
            for metric, cell in zip(names, row[2:], strict=True):
                wanted = expected(values_of(results, row[0].text, row[1].text, metric))
                assert cell.text == wanted.replace("−0.0 ±", "0.0 ±")


def test_summary_for_the_terminal_has_the_same_numbers(results):
    rows = summary_table(results)
    assert len(rows) == 18 + 4
    first = rows[0]
    assert (first.label, first.regime, first.kind, first.seeds) == ("MagMax", "sequential", "merge", 3)
    assert list(first.cells) == list(SUMMARY_METRICS)
    assert first.cells["forgetting"].text == expected(
        values_of(results, "MagMax", "sequential", "forgetting")
    )
    assert [row.label for row in rows[-4:]] == [
        "Base",
        "Each expert alone",
        "Sequential fine-tuning, not merged",
        "Joint training",
    ]
    assert rows[-4].cells["average_accuracy"].text == "14.0"  # .10 .12 .14 .16 .18, the same for all seeds
    assert rows[-4].cells["forgetting"].text == "–"


def test_experts_are_measured_on_their_own_task(results):
    table = references(gather(results), results.tasks)
    experts = next(row for row in table.rows if row[0].text == "Each expert alone")
    own = [[row.accuracy[k][k] for row in results.rows if row.method == "expert"] for k in range(5)]
    assert [cell.text for cell in experts[4:]] == [expected(values) for values in own]
    assert experts[1].text == expected(np.mean(own, axis=0))
    assert (experts[2].text, experts[3].text) == ("–", "–")
    assert experts[3].title.startswith("undefined: ")


def test_sequential_fine_tuning_shows_what_it_forgets(results):
    rows = [
        replace(row, metrics=summarise(row.accuracy)) if row.method == "sequential" else row
        for row in results.rows
    ]
    table = references(gather(replace(results, rows=rows)), results.tasks)
    forgotten = [row.metrics["forgetting"] for row in rows if row.method == "sequential"]
    sequential = next(row for row in table.rows if row[0].text == "Sequential fine-tuning, not merged")
    assert sequential[3].text == expected(forgotten)
    assert sequential[3].mark is None


def test_references_of_one_name_in_two_regimes_are_told_apart(results):
    twins = [replace(row, regime="sequential") for row in results.rows if row.method == "expert"]
    named = [replace(row, label="all at once") for row in results.rows if row.method == "joint"]
    rows = [row for row in results.rows if row.method != "joint"] + twins + named
    table = references(gather(replace(results, rows=rows)), results.tasks)
    assert [row[0].text for row in table.rows] == [
        "Base",
        "Each expert alone (parallel)",
        "Each expert alone (sequential)",
        "Sequential fine-tuning, not merged",
        "all at once",
    ]


def test_a_clear_winner_is_marked_and_nothing_else(results):
    levels = {
        ("TIES", "sequential"): [0.90, 0.91, 0.92],
        ("TIES", "parallel"): [0.50, 0.51, 0.521],
        ("DARE", "sequential"): [0.60, 0.611, 0.62],
        ("DARE", "parallel"): [0.40, 0.41, 0.421],
    }
    table = methods_by_regime(gather(constant(results, levels)), ["average_accuracy"], "main")
    marks = {(row[0].text, place): cell.mark for row in table.rows for place, cell in enumerate(row[1:])}
    assert marks == {("TIES", 0): "best", ("TIES", 1): None, ("DARE", 0): None, ("DARE", 1): None}
    finding = headline(gather(constant(results, levels)))[0]
    assert finding.answer == "TIES, sequential experts"
    assert finding.value.startswith("Average accuracy 91.0 % (95 % interval 88.5 to 93.5)")
    assert finding.certainty == "Told apart from all 3 other rows."


def test_the_highest_mean_shares_its_mark_with_what_is_not_distinguishable(results):
    levels = {
        ("TIES", "parallel"): [0.90, 0.90, 0.93],
        ("DARE", "parallel"): [0.90, 0.91, 0.91],
        ("MagMax", "parallel"): [0.10, 0.10, 0.13],
        ("running average", "parallel"): [0.20, 0.21, 0.231],
    }
    renamed = [
        replace(row, label="SLERP") if row.label == "spherical interpolation" else row for row in results.rows
    ]
    groups = gather(constant(replace(results, rows=renamed), levels))
    best = compare(merges_of(groups), describe()["average_accuracy"])
    assert best.name == "TIES (parallel)"
    table = methods_by_regime(groups, ["average_accuracy"], "main")
    marks = {row[0].text: row[1].mark for row in table.rows}
    # MagMax differs by the same .8 for every seed, so t is undefined and nothing is claimed
    assert marks == {"TIES": "tie", "DARE": "tie", "MagMax": "tie", "running average": None}
    assert "t is undefined" in next(row[1].title for row in table.rows if row[0].text == "MagMax")
    assert headline(groups)[0].certainty == "Not distinguishable from DARE (parallel) and MagMax (parallel)."


def test_where_nothing_can_be_told_apart_nothing_is_marked(make_results):
    groups = gather(make_results(seeds=(0,)))
    table = methods_by_regime(groups, MAIN, "main")
    assert {cell.mark for row in table.rows for cell in row} == {None}
    assert table.notes[-1].endswith("average accuracy, retention, mean, forgetting.")
    assert headline(groups)[0].certainty == "Not distinguishable from any of the 17 other rows."
    assert headline(groups)[3].answer == "Not distinguishable"


def test_rows_of_other_seeds_are_not_compared(results):
    rows = [row for row in results.rows if not (row.label == "MagMax" and row.seed == 2)]
    table = methods_by_regime(gather(replace(results, rows=rows)), MAIN, "main")
    magmax = next(row for row in table.rows if row[0].text == "MagMax")
    assert magmax[1].mark is None
    assert magmax[1].title.endswith("measured on other seeds, so not compared with the best")


def test_a_metric_undefined_for_one_seed_names_the_seed(results):
    rows = [
        replace(row, metrics={**row.metrics, "forgetting": None})
        if (row.label, row.regime, row.seed) == ("TIES", "parallel", 1)
        else row
        for row in results.rows
    ]
    table = methods_by_regime(gather(replace(results, rows=rows)), ["forgetting"], "main")
    cell = next(row[2] for row in table.rows if row[0].text == "TIES")
    assert cell.text == "–"
    assert cell.title.startswith("undefined (seed 1): there is only one task, or")


def test_difference_of_regimes_is_a_corrected_paired_test(results):
    table = regime_differences(gather(results))
    p_values = {}
    for row in table.rows:
        pair = [values_of(results, row[0].text, r, "average_accuracy") for r in ("sequential", "parallel")]
        assert row[1].text == expected(np.subtract(*pair))
        p_values[row[0].text] = stats.ttest_rel(*pair).pvalue
    smallest = min(p_values, key=p_values.get)
    corrected = {c.label: c.p_holm for c in compare_regimes(gather(results), "average_accuracy")}
    assert corrected[smallest] == pytest.approx(9 * p_values[smallest])
    assert {row[3].text for row in table.rows} == {"sequential better"}


def test_less_forgetting_is_the_better_regime(results):
    levels = {"sequential": [0.10, 0.12, 0.13], "parallel": [0.30, 0.321, 0.332], None: [0.0] * 3}
    rows = [
        replace(row, metrics={**row.metrics, "forgetting": levels[row.regime][row.seed or 0]})
        for row in results.rows
    ]
    compared = compare_regimes(gather(replace(results, rows=rows)), "forgetting")
    assert {one.verdict for one in compared} == {"sequential better"}
    assert all(one.test.difference.mean < 0 for one in compared)


def test_cost_counts_seconds_and_bytes_of_one_seed(results):
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in cost(gather(results)).rows}
    assert len(rows) == 22
    assert rows["TIES", "parallel"] == ["0.42", "867.3 kB", "4.3 MB", "–"]
    assert rows["Base", "–"] == ["31.4", "867.3 kB", "867.3 kB", "–"]


def test_cost_tells_the_state_of_a_continual_method_a_task(results):
    def with_state(row):
        refs = [replace(ref, state_bytes=5_000 * (1 + stage)) for stage, ref in enumerate(row.checkpoints)]
        return replace(row, checkpoints=refs)

    rows = [with_state(row) if row.label == "MagMax" else row for row in results.rows]
    cells = {row[0].text: row[-1].text for row in cost(gather(replace(results, rows=rows))).rows}
    assert cells["MagMax"] == "5.0 kB"
    assert cells["TIES"] == "–"


def test_names_in_a_sentence():
    assert in_words(["a"]) == "a"
    assert in_words(["a", "b"]) == "a and b"
    assert in_words(["a", "b", "c", "d"]) == "a, b, c and d"
    assert in_words(["a", "b", "c", "d", "e"]) == "a, b, c and 2 others"


def test_numbers_in_print():
    assert number(-0.04) == "0.0"
    assert number(-1.25, 1) == "−1.2"
    assert bytes_text(999) == "999 B"
    assert bytes_text(1_500) == "1.5 kB"
    assert bytes_text(2.5e9) == "2.5 GB"
