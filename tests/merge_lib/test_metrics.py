"""Metrics of the accuracy matrix: worked numbers, invariants, ragged and one-task cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_lib import metrics
from merge_lib.errors import MetricInputError

WORKED = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.75, 0.85]]
BEFORE = [0.1, 0.1, 0.1]
EXPERTS = [0.95, 0.9, 0.85]
JOINT = [0.92, 0.9, 0.88]

# each by hand from the formula, see the comment
EXPECTED = {
    "average_accuracy": 0.733333,  # (.6 + .75 + .85) / 3
    "worst_task_accuracy": 0.6,
    "average_incremental_accuracy": 0.794444,  # (.9 + .75 + .733333) / 3
    "learning_accuracy": 0.85,  # (.9 + .8 + .85) / 3
    "backward_transfer": -0.175,  # (-.3 - .05) / 2
    "forward_transfer": 0.15,  # (.1 + .2) / 2
    "forgetting": 0.175,  # (.3 + .05) / 2
    "intransigence": 0.05,  # (.02 + .1 + .03) / 3
    "retention_mean": 0.868056,  # (.666667 + .9375 + 1) / 3
    "retention_worst": 0.666667,
    "plasticity_gap": 0.05,  # (.05 + .1 + 0) / 3
    "normalised_accuracy": 0.821637,  # (.631579 + .833333 + 1) / 3
    "normalised_improvement": 0.800245,  # (.5/.85 + .65/.8 + 1) / 3
    "average_accuracy_continuum": 0.766667,  # 4.6 / 6
    "backward_transfer_gem_code": -0.116667,
    "backward_transfer_continuum": -0.183333,  # (-.2 - .3 - .05) / 3
    "backward_transfer_positive": 0.0,
    "remembering": 0.825,
    "forward_transfer_gem_code": 0.10,
    "forward_transfer_continuum": 0.25,  # (.2 + .3) / 2
    "fwt_vs_expert": -0.05,
    "forgetting_from_start": 0.175,
    "forgetting_avalanche": 0.175,
    "mtil_transfer": 0.2,  # (.2 + (.1 + .3) / 2) / 2
    "mtil_average": 0.577778,  # 5.2 / 9
    "mtil_last": 0.733333,
}


def square():
    entry = st.floats(0.01, 1.0)
    return st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(entry, min_size=n, max_size=n), min_size=n, max_size=n)
    )


def test_worked_example_of_every_metric():
    summary = metrics.summarise(WORKED, before=BEFORE, experts=EXPERTS, joint=JOINT)
    assert summary == pytest.approx(EXPECTED, abs=1e-6)
    assert list(summary) == list(metrics.describe())


def test_house_example_tells_the_two_backward_transfers_apart():
    matrix = [[0.9], [0.8, 0.85], [0.7, 0.8, 0.9]]
    assert metrics.backward_transfer(matrix) == pytest.approx(-0.125)
    assert metrics.backward_transfer_gem_code(matrix) == pytest.approx(-0.083333, abs=1e-6)


def test_best_so_far_differs_from_first_where_a_task_improves_later():
    matrix = [[0.5, 0.0, 0.0], [0.8, 0.9, 0.0], [0.6, 0.7, 1.0]]
    assert metrics.forgetting(matrix) == pytest.approx(0.2)  # (.8 - .6 + .9 - .7) / 2
    assert metrics.forgetting_avalanche(matrix) == pytest.approx(0.05)  # (.5 - .6 + .9 - .7) / 2
    assert metrics.backward_transfer(matrix) == pytest.approx(-0.05)


def test_forgetting_from_start_sees_stages_before_the_task():
    matrix = [[0.9, 0.95, 0.0], [0.9, 0.5, 0.0], [0.9, 0.5, 1.0]]
    assert metrics.forgetting(matrix) == pytest.approx(0.0)
    assert metrics.forgetting_from_start(matrix) == pytest.approx(0.225)


def test_one_task_leaves_transfer_and_forgetting_undefined():
    summary = metrics.summarise([[0.8]], before=[0.1], experts=[0.9], joint=[0.85])
    undefined = {name for name, value in summary.items() if value is None}
    assert undefined == {
        "backward_transfer",
        "backward_transfer_gem_code",
        "backward_transfer_continuum",
        "backward_transfer_positive",
        "remembering",
        "forward_transfer",
        "forward_transfer_gem_code",
        "forward_transfer_continuum",
        "forgetting",
        "forgetting_from_start",
        "forgetting_avalanche",
        "mtil_transfer",
    }
    assert summary["average_accuracy"] == 0.8
    assert summary["retention_mean"] == 1.0
    assert summary["intransigence"] == pytest.approx(0.05)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_entries_above_the_diagonal_may_be_missing(missing):
    ragged = metrics.summarise([[0.9], [0.7, 0.8], [0.6, 0.75, 0.85]], before=BEFORE)
    holes = [[0.9, missing, missing], [0.7, 0.8, missing], [0.6, 0.75, 0.85]]
    assert metrics.summarise(holes, before=BEFORE) == ragged
    assert ragged["backward_transfer"] == pytest.approx(-0.175)
    assert ragged["forgetting"] == pytest.approx(0.175)
    for name in ("forward_transfer", "forward_transfer_continuum", "mtil_average"):
        assert ragged[name] is None
    assert ragged["mtil_transfer"] is None
    assert ragged["forgetting_from_start"] is None


def test_a_missing_entry_makes_only_its_metrics_undefined():
    summary = metrics.summarise([[0.9, 0.1], [None, 0.8]])
    assert summary["average_accuracy"] is None
    assert summary["worst_task_accuracy"] is None
    assert summary["forgetting"] is None
    assert summary["retention_worst"] is None
    assert summary["learning_accuracy"] == pytest.approx(0.85)


def test_without_base_experts_and_joint_what_needs_them_is_undefined():
    summary = metrics.summarise(WORKED)
    needs = {name for name, info in metrics.describe().items() if info.needs}
    assert {name for name, value in summary.items() if value is None} == needs
    assert needs == {
        "forward_transfer",
        "forward_transfer_gem_code",
        "intransigence",
        "plasticity_gap",
        "normalised_accuracy",
        "normalised_improvement",
        "fwt_vs_expert",
    }


@pytest.mark.parametrize("learned", [0.0, 0.014, 0.049])
def test_a_task_that_was_hardly_learned_has_no_retention(learned):
    matrix = [[learned, 0.5], [0.9, 0.9]]
    assert metrics.retention_mean(matrix) is None
    assert metrics.retention_worst(matrix) is None
    assert metrics.retention_mean([[0.05, 0.5], [0.1, 0.9]]) == pytest.approx(1.5)


def test_ratios_to_a_useless_expert_are_undefined():
    matrix = [[0.5, 0.5], [0.5, 0.5]]
    assert metrics.normalised_accuracy(matrix, [0.0, 0.9]) is None
    assert metrics.normalised_improvement(matrix, [0.1, 0.895], [0.9, 0.9]) is None
    assert metrics.normalised_improvement(matrix, [0.1, 0.95], [0.9, 0.9]) is None
    assert metrics.normalised_improvement(matrix, [0.1, 0.1], [0.9, 0.5]) == pytest.approx(0.75)


def test_normalised_accuracy_is_the_mean_of_ratios():
    matrix = [[0.4, 0.9], [0.4, 0.9]]
    assert metrics.normalised_accuracy(matrix, [0.5, 0.9]) == pytest.approx(0.9)  # not 1.3 / 1.4


@pytest.mark.parametrize("kind", [list, np.array])
def test_argument_is_left_as_it_was(kind):
    matrix = kind([[0.9, math.nan], [0.6, 0.75]])
    before = np.array(matrix, dtype=float)
    metrics.summarise(matrix, before=[0.1, 0.2])
    np.testing.assert_array_equal(np.array(matrix, dtype=float), before)


@given(square())
@settings(deadline=None, max_examples=60, derandomize=True)
def test_invariants(matrix):
    size = len(matrix)
    summary = metrics.summarise(matrix)
    gap = summary["average_accuracy"] - summary["learning_accuracy"]
    assert gap == pytest.approx(summary["backward_transfer"] * (size - 1) / size, abs=1e-12)
    assert gap == pytest.approx(summary["backward_transfer_gem_code"], abs=1e-12)
    assert summary["forgetting"] >= -summary["backward_transfer"] - 1e-12
    assert summary["forgetting_from_start"] >= summary["forgetting"] - 1e-12
    assert summary["forgetting_avalanche"] == pytest.approx(-summary["backward_transfer"], abs=1e-12)
    kept = summary["retention_worst"]
    assert (kept is None) == (min(matrix[k][k] for k in range(size)) < metrics.LEAST_LEARNED)
    assert kept is None or kept <= 1.0
    learned_is_best = all(
        matrix[k][k] >= max(matrix[t][k] for t in range(k, size - 1)) for k in range(size - 1)
    )
    if learned_is_best:
        assert summary["forgetting"] == pytest.approx(-summary["backward_transfer"], abs=1e-12)


@given(square(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_permuting_rows_and_columns_together_keeps_the_diagonal_metric(matrix, random):
    order = list(range(len(matrix)))
    random.shuffle(order)
    permuted = [[matrix[t][k] for k in order] for t in order]
    assert metrics.learning_accuracy(permuted) == pytest.approx(metrics.learning_accuracy(matrix))
    assert metrics.mtil_average(permuted) == pytest.approx(metrics.mtil_average(matrix))


def test_description_of_every_metric_is_complete_and_a_valid_tracking_key():
    for name, info in metrics.describe().items():
        assert name == info.name
        assert name.replace("_", "").isalnum()
        assert info.title
        assert info.formula
        assert info.source
        assert info.undefined_when
        doc = info.function.__doc__
        assert "Variant:" in doc
        assert "Reference:" in doc
    lower = {name for name, info in metrics.describe().items() if info.direction == "lower is better"}
    assert lower == {
        "forgetting",
        "forgetting_avalanche",
        "forgetting_from_start",
        "intransigence",
        "plasticity_gap",
    }


@pytest.mark.parametrize("matrix", [[], [[0.1, 0.2]], np.zeros((2, 3))])
def test_a_matrix_that_is_not_square_is_refused(matrix):
    with pytest.raises(MetricInputError, match=r"expected as many columns as rows, at least one"):
        metrics.summarise(matrix)


def test_infinite_accuracy_is_refused_with_its_place():
    with pytest.raises(MetricInputError, match=r"entry \(1, 0\) of 'accuracy matrix' is inf"):
        metrics.average_accuracy([[0.1, 0.2], [math.inf, 0.3]])


def test_vectors_must_have_one_entry_a_task():
    with pytest.raises(MetricInputError, match=r"'before' holds one accuracy .*; got 2, expected 3"):
        metrics.summarise(WORKED, before=[0.1, 0.1])
