"""Learning, keeping and asking the model."""

import json
import subprocess
import sys

import numpy as np
import pytest

from merge_lib.errors import CheckpointCorruptError, SpecError
from merge_lib.forecast.features import NAMES
from merge_lib.forecast.model import ForecastModel, Interval, Predictor, Trees, harden, soften
from merge_lib.forecast.training import (
    FEATURES,
    Settings,
    fit,
    learn,
    make_interval,
    study_weights,
    weighted_quantile,
)

SMALL = Settings(trees=30, depth=2, rate=0.2, columns=0.5, rows=0.8, leaf=0.01)


@pytest.fixture(scope="module")
def model(table) -> ForecastModel:
    return learn(table, dict.fromkeys(FEATURES, SMALL))


def stump() -> Predictor:
    """−1 where a ≤ 0.5, else 2."""
    trees = Trees(
        0.0,
        np.array([[0, -1, -1]]),
        np.array([[0.5, 0.0, 0.0]]),
        np.array([[1, -1, -1]]),
        np.array([[2, -1, -1]]),
        np.array([[0.0, -1.0, 2.0]]),
    )
    interval = Interval((0.0, 2.0), (-1.0, -2.0), (1.0, 1.0))
    return Predictor(("a", "b"), trees, interval, (((0.0, 1.0),), ((0.0, 1.0), (5.0, 10.0))))


def test_a_tree_by_hand():
    low, high = stump().predict([{"a": 0.5, "b": 1.0}, {"a": 0.6, "b": 99.0}])
    hard = harden(np.array([-1.0, -2.0, 0.0, 2.0, 0.0, 3.0])).tolist()
    assert (low.loss, low.low, low.high) == pytest.approx(hard[:3])
    assert (high.loss, high.low, high.high) == pytest.approx(hard[3:])
    assert low.outside == ()
    assert high.outside == ("b",)
    between = stump().predict([{"a": 0.0, "b": b} for b in (1.04, 3.0, 4.8)])
    assert [one.outside for one in between] == [(), ("b",), ()]


def test_a_feature_that_is_missing():
    with pytest.raises(SpecError, match="asks for the features b, which the rows do not have"):
        stump().predict([{"a": 0.0}])


def test_it_agrees_with_scikit_learn_and_with_its_file(table, model, tmp_path):
    from sklearn.ensemble import GradientBoostingRegressor

    matrix = table.matrix(NAMES).astype(np.float32)
    theirs = GradientBoostingRegressor(
        n_estimators=30, max_depth=2, learning_rate=0.2, subsample=0.8, max_features=0.5, min_samples_leaf=0.01,
        random_state=0,
    ).fit(matrix, soften(table.losses), sample_weight=study_weights(table))  # fmt: skip
    assert model.weights.trees.predict(matrix) == pytest.approx(theirs.predict(matrix), abs=1e-9)
    model.save(tmp_path / "model.json")
    again = ForecastModel.load(tmp_path / "model.json")
    for kind in FEATURES:
        rows = table.only(table.has_inputs).matrix(FEATURES[kind])
        for one, other in zip(
            model.of(kind).predict_matrix(rows), again.of(kind).predict_matrix(rows), strict=True
        ):
            assert one == pytest.approx(other, abs=1e-6)
    assert again.table == model.table
    assert again.weights.scores == model.weights.scores


def test_it_finds_what_losses_follow_from(table, model):
    scores = model.weights.scores
    assert scores["model"]["rank_correlation"] > 0.8
    assert scores["model"]["rank_correlation"] > scores["cosine between experts only"]["rank_correlation"]
    assert {"always the mean", "study s0", "study s3"} <= set(scores)
    assert "study s0" not in model.inputs.scores  # it has no inputs
    assert model.table["digest"] == table.digest
    assert model.table["rows"] == len(table.losses)
    assert model.table["merges"] == 60


def test_the_same_table_gives_the_same_model(table, model, tmp_path):
    learn(table, dict.fromkeys(FEATURES, SMALL)).save(tmp_path / "a.json")
    model.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_intervals_are_around_the_prediction_and_cover_what_is_left(table):
    predictor = fit(table, NAMES, SMALL)
    predicted, low, high = predictor.predict_matrix(table.matrix(NAMES))
    assert (low <= predicted).all()
    assert (predicted <= high).all()
    assert ((low <= table.losses) & (table.losses <= high)).mean() > 0.75


def test_an_interval_widens_where_residuals_do():
    predicted = np.linspace(0, 10, 600)
    residuals = np.where(np.arange(600) % 2, 1.0, -1.0) * np.where(predicted > 5, 4.0, 1.0)
    interval = make_interval(predicted, residuals, np.ones(600))
    low, high = interval.around(np.array([0.5, 9.5]))
    assert (low - [0.5, 9.5]).tolist() == [-1, -4]
    assert (high - [0.5, 9.5]).tolist() == [1, 4]


def test_weighted_quantiles():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])
    assert [weighted_quantile(values, weights, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
    ]


def test_studies_weigh_the_same(table):
    kept = table.only((table.studies != "s0") | (np.arange(len(table.losses)) < 5))
    weights = study_weights(kept)
    sums = [weights[kept.studies == study].sum() for study in np.unique(kept.studies)]
    assert sums == pytest.approx([sums[0]] * 4)
    assert weights.mean() == pytest.approx(1)


def test_soft_and_hard():
    losses = np.array([-100.0, -3.0, 0.0, 0.5, 42.0, 100.0])
    assert harden(soften(losses)) == pytest.approx(losses)
    assert harden(np.array([-9.0, 9.0])).tolist() == [-100, 100]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be used"),
        ('{"version": 99}', "its version is 99, this package reads 1"),
        ('{"version": 1, "weights": {}}', "cannot be used: 'interval'"),
        ("[]", "cannot be used"),
    ],
)
def test_a_file_that_is_no_model(text, message, tmp_path):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(CheckpointCorruptError, match=message):
        ForecastModel.load(tmp_path / "model.json")


def test_the_packages_own_model_was_judged_on_studies_left_out():
    model = ForecastModel.load()
    assert len(model.table["studies"]) >= 8
    assert model.table["merges"] >= 200
    for kind in FEATURES:
        predictor, scores = model.of(kind), model.of(kind).scores
        assert predictor.names == FEATURES[kind]
        assert scores["model"]["rank_correlation"] > scores["cosine between experts only"]["rank_correlation"]
        assert 0.7 <= scores["model"]["coverage"] <= 0.9


def test_reading_it_imports_nothing_heavy():
    code = "from merge_lib.forecast.model import ForecastModel; ForecastModel.load(); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & {
        "torch",
        "sklearn",
        "scipy",
        "pandas",
    }


def test_the_file_is_small_and_holds_no_code():
    from importlib.resources import files

    text = files("merge_lib.forecast").joinpath("model.json").read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert set(json.loads(text)) == {"version", "table", "weights", "inputs"}
