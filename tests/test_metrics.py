"""Figures against closed forms and brute force; limits that hold; undefined cases that say why."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_inspect import metrics
from hf_inspect.errors import DataError

settings.register_profile("unhurried", deadline=None)  # a loaded machine is no failure
settings.load_profile("unhurried")

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
PARTS = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=1, max_size=30)


def columns(parts):
    return [label for label, _ in parts], [score for _, score in parts]


def pairwise_area(labels, scores):
    pairs = [(g, d) for yg, g in zip(labels, scores, strict=True) if yg == 0
             for yd, d in zip(labels, scores, strict=True) if yd == 1]  # fmt: skip
    return sum(1.0 if d > g else 0.5 if d == g else 0.0 for g, d in pairs) / len(pairs)


def test_rate_is_the_textbook_clopper_pearson():
    found = metrics.rate(0, 10)
    assert found["value"] == 0.0
    assert found["low"] == 0.0
    assert found["high"] == pytest.approx(1 - 0.025**0.1)  # the closed form at k = 0
    assert metrics.rate(7, 10)["low"] == pytest.approx(0.34755, abs=1e-5)
    assert metrics.rate(7, 10)["high"] == pytest.approx(0.93326, abs=1e-5)


@given(st.integers(0, 200), st.integers(1, 200))
def test_rate_lies_inside_its_interval(k, n):
    k = min(k, n)
    found = metrics.rate(k, n)
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert (found["k"], found["n"]) == (k, n)


def test_rate_covers_at_least_as_often_as_it_says():
    n, rng = 40, np.random.default_rng(0)
    table = [metrics.rate(k, n) for k in range(n + 1)]
    for p in (0.02, 0.3, 0.9):
        held = [table[k]["low"] <= p <= table[k]["high"] for k in rng.binomial(n, p, 2000)]
        assert np.mean(held) >= 0.95


def test_rate_of_nothing_says_so():
    assert metrics.rate(0, 0) == {
        "value": None, "k": 0, "n": 0, "low": None, "high": None, "method": "undefined: n = 0",
    }  # fmt: skip


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 5), (0, -1)])
def test_rate_refuses_impossible_counts(k, n):
    with pytest.raises(DataError, match="0 <= k <= n"):
        metrics.rate(k, n)


@settings(max_examples=40)
@given(PARTS)
def test_auroc_is_the_share_of_ordered_pairs(parts):
    labels, scores = columns(parts)
    found = metrics.auroc(labels, scores)
    if len(set(labels)) == 1:
        assert found["value"] is None
        assert "both classes" in found["method"]
        return
    assert found["value"] == pytest.approx(pairwise_area(labels, scores))
    assert 0 <= found["low"] <= found["high"] <= 1


def test_auroc_does_not_depend_on_the_order_and_repeats():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    p = np.clip(0.3 * y + rng.uniform(0, 0.7, 80), 0, 1)
    order = rng.permutation(80)
    assert metrics.auroc(y, p) == metrics.auroc(y[order], p[order])
    assert metrics.auroc(y, p)["low"] != metrics.auroc(y, p, seed=1)["low"]


def test_auroc_interval_covers_the_truth():
    rng, held = np.random.default_rng(2), 0
    for _ in range(60):  # uniform goods on [0, .7], defects on [.3, 1]: AUROC = 1 - (0.4 ** 2 / 2) / 0.7 ** 2
        p = np.concatenate([rng.uniform(0, 0.7, 60), rng.uniform(0.3, 1, 40)])
        found = metrics.auroc([0] * 60 + [1] * 40, p)
        held += found["low"] <= 1 - 0.08 / 0.49 <= found["high"]
    assert held >= 53  # 95 % of 60 is 57; 52 or fewer would come once in about 100 seeds


def test_full_separation_keeps_an_honest_interval():
    found = metrics.auroc([0] * 10 + [1] * 5, [0.1] * 10 + [0.9] * 5)
    assert found["value"] == found["high"] == 1.0
    assert found["low"] == pytest.approx(0.025**0.2)  # five disjoint pairs, all ordered right
    assert metrics.auroc([1, 0, 0], [0.5, 0.1, 0.9])["method"].startswith("whole range")


@given(PARTS)
def test_roc_curve_encloses_the_auroc(parts):
    labels, scores = columns(parts)
    alarms, caught = metrics.roc_curve(labels, scores)
    assert (np.diff(alarms) >= 0).all()
    assert (np.diff(caught) >= 0).all()
    if len(set(labels)) == 2:
        assert (alarms[0], caught[0], alarms[-1], caught[-1]) == (0, 0, 1, 1)
        assert np.trapezoid(caught, alarms) == pytest.approx(pairwise_area(labels, scores))


def test_paired_difference_uses_the_pairing():
    rng = np.random.default_rng(3)
    b = rng.random(500) < 0.85
    a = b.copy()
    a[:10] = ~b[:10]  # only ten parts differ
    paired = metrics.paired_difference(a, b)
    assert paired["value"] == pytest.approx(a.mean() - b.mean())
    assert paired["low"] <= paired["value"] <= paired["high"]
    unpaired = metrics.paired_difference(a, rng.permutation(b))
    assert paired["high"] - paired["low"] < 0.5 * (unpaired["high"] - unpaired["low"])
    swapped = metrics.paired_difference(b, a)
    assert swapped["value"] == -paired["value"]


def test_paired_difference_of_equal_columns_has_width():
    found = metrics.paired_difference([1] * 100, [1] * 100)
    assert found["value"] == 0.0
    assert found["high"] == -found["low"] == pytest.approx(1 - 0.025**0.01)
    assert metrics.paired_difference([], [])["value"] is None
    assert metrics.paired_difference([1], [0])["low"] == -1.0


def test_binary_report_counts():
    report = metrics.binary_report([0, 0, 0, 1, 1], [0.1, 0.5, 0.2, 0.4, 0.9], threshold=0.5)
    rates = {name: value for name, value in report.items() if isinstance(value, dict) and "k" in value}
    counts = {name: (value["k"], value["n"]) for name, value in rates.items()}
    assert counts == {
        "accuracy": (3, 5), "escapes": (1, 2), "overkill": (1, 3), "defect_given_shipped": (1, 3), "prevalence": (2, 5),
        "undecided": (0, 5),
    }  # fmt: skip
    assert report["n"] == 5
    assert report["auroc"]["value"] == pytest.approx(5 / 6)
    assert json.loads(json.dumps(report)) == report


def test_what_nobody_decided_is_neither_right_nor_escaped_nor_overkill():
    report = metrics.decision_report([1, 1, 1, 0, 0, 0], [-1, 0, 1, -1, 0, 1])
    counts = {name: (report[name]["k"], report[name]["n"]) for name in ("accuracy", "escapes", "overkill", "undecided")}
    assert counts == {"accuracy": (2, 6), "escapes": (1, 3), "overkill": (1, 3), "undecided": (2, 6)}


def test_one_class_gives_none_not_zero():
    report = metrics.binary_report([0, 0], [0.1, 0.9], threshold=0.5)
    assert report["escapes"]["value"] is None
    assert report["auroc"]["value"] is None
    assert report["overkill"]["value"] == 0.5


def test_reliability_bins():
    labels, p = [0, 1, 1, 1, 0], [0.05, 0.05, 0.95, 1.0, 0.0]
    found = metrics.reliability(labels, p, bins=10)
    assert [(row["low"], row["high"], row["observed"]["n"]) for row in found["bins"]] == [(0.0, 0.1, 3), (0.9, 1.0, 2)]
    assert found["calibration_error"] == pytest.approx((abs(0.1 / 3 - 1 / 3) * 3 + abs(0.975 - 1) * 2) / 5)
    with pytest.raises(DataError, match="at least one"):
        metrics.reliability([], [])


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "hold 2"),
        ([0, 1], [0.1, np.nan], "nan at row 1"),
        ([0, 1], [0.1, np.inf], "inf at row 1"),
        ([0, 1], [0.1], "hold 1 entries, 2"),
        ([[0, 1]], [0.1], "shape"),
        (["good", "defect"], [0.1, 0.2], "good"),
        ([0, 1], ["a", "b"], "values"),
    ],
)
def test_wrong_input_is_named(labels, scores, message):
    with pytest.raises(DataError, match=message):
        metrics.auroc(labels, scores)


def test_columns_of_unlike_length_are_refused():
    with pytest.raises(DataError, match="3 and 2 entries"):
        metrics.paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(DataError, match="2 and 1 entries"):
        metrics.decision_report([1, 0], [1])
