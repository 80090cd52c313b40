"""What an anomaly's score means, how its spec meets a data set's, and the figures of its row of TASKS."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from hf_inspect import metrics
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, Meaning, Prediction, TaskSpec
from hf_inspect.tasks import TASKS

PROBABILITY = Meaning("probability", 90, 30, "validation", slope=3.0, intercept=-2.0)
DISTANCE = Meaning("distance")


def quantile(n=30):
    return Meaning.quantile(np.random.default_rng(0).gamma(2.0, 1.0, n), "validation")


def anomaly(meaning):
    return TaskSpec(BINARY.classes, BINARY.dispositions, "anomaly", meaning)


@pytest.mark.parametrize("meaning", [PROBABILITY, DISTANCE, quantile(), quantile(1000)], ids=lambda m: m.kind)
def test_severity_keeps_the_order_of_scores_and_survives_json(meaning):
    scores = np.sort(np.random.default_rng(1).gamma(2.0, 1.5, 500))
    severity = meaning.severity(scores)
    assert (np.diff(severity) > 0).all()
    again = TaskSpec.from_dict(json.loads(json.dumps(anomaly(meaning).to_dict())), "config.json")
    assert again == anomaly(meaning)
    assert again.score.severity(scores).tolist() == severity.tolist()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.lists(st.floats(0, 1e7), min_size=2, max_size=20))
def test_a_quantile_lies_in_0_to_1_and_never_falls(good, scores):
    severity = Meaning.quantile(np.array(good), "validation").severity(np.sort(scores))
    assert (severity >= 0).all()
    assert (severity <= 1).all()
    assert (np.diff(severity) >= 0).all()


def test_a_quantile_is_the_share_of_good_parts_below():
    good = np.random.default_rng(2).gamma(2.0, 1.0, 5000)
    fresh = np.random.default_rng(3).gamma(2.0, 1.0, 5000)
    severity = Meaning.quantile(good, "validation").severity(fresh)
    for share in (0.05, 0.5, 0.9, 0.95, 0.99):
        assert (severity < share).mean() == pytest.approx(share, abs=0.02)


def test_an_anomaly_model_answers_a_data_set_that_knows_its_good_classes():
    task = anomaly(DISTANCE)
    many = TaskSpec.of(["ok", "scratch", "dent"], ["ok"])
    assert BINARY.answered_by(task)
    assert many.answered_by(task)
    many.refuse_model(task, "The data set", "the model")
    assert not task.answered_by(many)
    assert not BINARY.answered_by(many)
    with pytest.raises(DataError, match="answer different questions"):
        TaskSpec.of(["scratch", "dent"], []).refuse_model(task, "The data set", "the model")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: anomaly(None), "what its score means"),
        (lambda: TaskSpec(BINARY.classes, BINARY.dispositions, score=DISTANCE), "what its score means"),
        (lambda: Meaning("shame"), "'shame'; it is one of"),
        (lambda: Meaning("probability"), "slope None"),
        (lambda: Meaning("probability", slope=-1.0, intercept=0.0), "above 0 is wanted"),
        (lambda: Meaning("quantile", knots=((2.0, 0.5), (1.0, 0.6))), "do not rise"),
        (lambda: Meaning.from_dict({"kind": "distance", "mood": 1}, "x.json"), r"x\.json does not say what"),
        (lambda: TASKS["anomaly"].decode((np.array([np.nan]), np.zeros((1, 2, 2))), anomaly(DISTANCE)), "not finite"),
        (lambda: TASKS["anomaly"].decode((np.zeros(2), np.zeros((1, 2, 2))), anomaly(DISTANCE)), r"\(n, h, w\)"),
    ],
)
def test_what_is_no_anomaly_task_is_said(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_probabilities_are_given_where_the_score_is_one():
    outputs = np.array([0.1, 9.0]), np.zeros((2, 4, 4), np.float32)
    told = TASKS["anomaly"].decode(outputs, anomaly(PROBABILITY))
    assert told[1].probabilities == pytest.approx((1 - told[1].severity, told[1].severity))
    assert TASKS["anomaly"].decode(outputs, anomaly(quantile()))[1].probabilities is None
    assert "map" not in told[0].to_dict()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_average_precision_is_scikit_learns(seed, ties):
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(0, 2, 40), [0, 1])
    scores = rng.normal(y, 1.0)
    scores = scores.round() if ties else scores
    found = metrics.average_precision(y, scores)
    assert found["value"] == pytest.approx(average_precision_score(y, scores))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    order = rng.permutation(len(y))
    assert metrics.average_precision(y[order], scores[order])["value"] == pytest.approx(found["value"])


def test_the_interval_of_an_average_precision_holds_its_truth():
    rng, inside = np.random.default_rng(0), 0
    y = np.repeat([0, 1], [60, 30])
    truth = np.mean([average_precision_score(y, rng.normal(y * 1.5, 1.0)) for _ in range(4000)])
    for _ in range(300):
        found = metrics.average_precision(y, rng.normal(y * 1.5, 1.0))
        inside += found["low"] <= truth <= found["high"]
    assert inside / 300 >= 0.93


def test_measure_is_of_good_parts_against_the_rest(tmp_path):
    task = TaskSpec.of(["dent", "ok", "scratch"], ["ok"])
    classes = np.array([1, 1, 1, 0, 0, 2, 2, 1])
    severity = np.array([0.1, 0.2, 0.3, 0.9, 0.25, 0.8, 0.7, np.nan])
    report = TASKS["anomaly"].measure(task, classes, severity, np.full((8, 3), np.nan), 0.5)
    assert report["escapes"]["k"] == 1
    assert report["overkill"]["k"] == 1  # the part that could not be read
    assert report["auroc_by_class"]["scratch"]["value"] == pytest.approx(0.75)
    assert report["unreadable"]["k"] == 1
    assert "escapes" not in TASKS["anomaly"].measure(task, classes, severity, np.full((8, 3), np.nan))
    TASKS["anomaly"].draw(report, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_compare_counts_flips_and_takes_the_worst_map():
    task, rng = BINARY, np.random.default_rng(0)
    classes = np.repeat([0, 1], [40, 10])
    maps = rng.random((50, 6, 6)).astype(np.float32)
    severity = np.append(rng.uniform(0, 0.4, 40), rng.uniform(0.6, 1, 10))
    before = [Prediction(float(s), map=m) for s, m in zip(severity, maps, strict=True)]
    same = TASKS["anomaly"].compare(task, classes, before, before)
    assert (same["flips"], same["max_change"]) == ({"k": 0, "n": 50}, 0.0)
    assert same["maps"] == pytest.approx(1.0)
    other = [*before[:-1], Prediction(0.0, map=maps[0])]
    found = TASKS["anomaly"].compare(task, classes, before, other)
    assert found["flips"]["k"] == 1
    assert found["maps"] < 0.6
