"""Figures against closed forms and brute force; limits that hold; undefined cases that say why."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_inspect import metrics
from hf_inspect.errors import DataError
from tests import hard

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


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_rate_of_copies_is_that_of_the_parts(hits, copies, random):
    """Groups of one give Clopper and Pearson to the letter; copies of every part change no limit, in any order."""
    names = [f"part {i}" for i in range(len(hits))]
    once = metrics.rate(sum(hits), len(hits))
    assert metrics.rate_of(hits, names) == metrics.rate_of(hits) == once
    rows = list(zip(hits * copies, names * copies, strict=True))
    random.shuffle(rows)
    found = metrics.rate_of(*zip(*rows, strict=True))
    assert (found["k"], found["n"]) == (copies * once["k"], copies * once["n"])
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx(
        [once[key] for key in ("value", "low", "high")], abs=1e-9
    )
    assert ("by group" in found["method"]) == (copies > 1)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=60))
def test_a_rate_by_group_lies_inside_its_interval(rows):
    hits, groups = zip(*rows, strict=True)
    found = metrics.rate_of(hits, groups)
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    opposite = metrics.rate_of(1 - np.array(hits), groups)
    assert (found["low"], found["high"]) == pytest.approx((1 - opposite["high"], 1 - opposite["low"]), abs=1e-9)


@pytest.mark.parametrize("case", hard.CASES, ids=lambda case: case.name)
def test_an_interval_holds_the_truth_on_hard_cases(case):
    """benchmarks/coverage.py has the table of these, from more redraws."""
    assert hard.coverage(case, 300)[0] >= 0.93


def test_the_cases_are_hard(monkeypatch):
    """Ten views counted as ten parts, and DeLong on the logit without an unseen part, hold far less often."""
    views = hard.many_views(40, 10, 0.05, 0.9)
    monkeypatch.setattr(hard, "views", lambda parts, each: np.arange(parts * each))
    assert hard.coverage(hard.Case("as parts", 0.05, views), 300)[0] < 0.75

    def logit(labels, scores, groups=None):
        goods, defects = (np.asarray(scores)[np.asarray(labels) == side] for side in (0, 1))
        value = pairwise_area(labels, scores)
        half = 1.96 * np.sqrt(delong_variance(goods, defects)) / max(value * (1 - value), 1e-9)
        centre = np.log(value / (1 - value)) if value < 1 else np.inf
        return {"low": 1 / (1 + np.exp(half - centre)), "high": 1 / (1 + np.exp(-half - centre))}

    monkeypatch.setattr(metrics, "auroc", logit)
    assert hard.coverage(hard.Case("spread", 0.983, hard.normal_scores(100, 20, 0.983, 2.0)), 60)[0] < 0.9


def test_groups_of_another_length_are_refused():
    for call in (
        lambda of: metrics.rate_of([1, 0], of),
        lambda of: metrics.auroc([1, 0], [0.1, 0.2], of),
        lambda of: metrics.decision_report([1, 0], [1, 0], of),
        lambda of: metrics.paired_difference([1, 0], [1, 0], of),
        lambda of: metrics.class_report([1, 0], [1, 0], ["a", "b"], of),
        lambda of: metrics.reliability([1, 0], [0.1, 0.2], groups=of),
    ):
        with pytest.raises(DataError, match="groups hold 3 entries, 2 are wanted"):
            call([1, 2, 3])


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
    for groups in (None, np.arange(len(labels)) // 3, np.zeros(len(labels))):
        found = metrics.auroc(labels, scores, groups)
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


@pytest.mark.parametrize("groups", [None, np.arange(80) // 4], ids=["parts", "views"])
def test_no_figure_depends_on_the_order_of_the_images(groups):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    p = np.clip(0.3 * y + rng.uniform(0, 0.7, 80), 0, 1)
    order = rng.permutation(80)
    moved = None if groups is None else groups[order]
    assert metrics.auroc(y, p, groups) == metrics.auroc(y[order], p[order], moved)
    for figure in (metrics.paired_difference, metrics.auroc):
        found, again = figure(y, p >= 0.5, groups), figure(y[order], p[order] >= 0.5, moved)
        assert found == again | {key: pytest.approx(again[key], rel=1e-12) for key in ("value", "low", "high")}


def delong_variance(goods, defects):
    """By its definition: the variances of the shares that each part of a class is ordered right with."""
    won = np.array([[1.0 if d > g else 0.5 if d == g else 0.0 for g in goods] for d in defects])
    return won.mean(1).var(ddof=1) / len(defects) + won.mean(0).var(ddof=1) / len(goods)


def test_auroc_of_many_parts_has_the_width_of_delong():
    """With many parts nothing but DeLong's variance counts: its interval is the normal one to a few in a hundred."""
    rng = np.random.default_rng(2)
    goods, defects = np.round(rng.normal(0, 1, 900), 1), np.round(rng.normal(1.2, 1.3, 600), 1)
    found = metrics.auroc([0] * 900 + [1] * 600, np.concatenate([goods, defects]))
    half = 1.96 * np.sqrt(delong_variance(goods, defects))
    assert found["value"] - found["low"] == pytest.approx(half, rel=0.12)
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.12)


def test_auroc_of_copies_is_that_of_the_parts():
    """Each part photographed five times: by group the interval stays that of the parts, as images it shrinks."""
    rng = np.random.default_rng(3)
    y, p = np.repeat([0, 1], [60, 25]), np.concatenate([rng.normal(0, 1, 60), rng.normal(1.5, 1, 25)])
    once = metrics.auroc(y, p)
    copied = metrics.auroc(y.repeat(5), p.repeat(5), np.arange(85).repeat(5))
    assert [copied[key] for key in ("value", "low", "high")] == pytest.approx(
        [once[key] for key in ("value", "low", "high")]
    )
    assert copied["method"].endswith("by group, 85 groups")
    alone = metrics.auroc(y.repeat(5), p.repeat(5))
    assert alone["high"] - alone["low"] < 0.6 * (once["high"] - once["low"])


def test_views_that_hold_both_classes_are_counted_once():
    """A part shown good and with a dent moves both classes at once: that can make an interval wider, never narrower."""
    rng = np.random.default_rng(4)
    own = rng.normal(0, 1, 30)
    y, p = np.tile([0, 1], 30), np.stack([-own, own + 1.5], 1).ravel()
    apart, together = metrics.auroc(y, p), metrics.auroc(y, p, np.arange(60) // 2)
    assert together["high"] - together["low"] > 1.1 * (apart["high"] - apart["low"])
    helped = np.stack([own, own + 1.5], 1).ravel()
    low, high = (metrics.auroc(y, helped, groups)["low"] for groups in (np.arange(60) // 2, None))
    assert low == pytest.approx(high)


def test_full_separation_keeps_an_honest_interval():
    found = metrics.auroc([0] * 10 + [1] * 5, [0.1] * 10 + [0.9] * 5)
    assert found["value"] == found["high"] == 1.0
    assert found["low"] == pytest.approx(0.025**0.2)  # five disjoint pairs, all ordered right
    found = metrics.auroc([1, 0, 0], [0.5, 0.1, 0.9])
    assert found["low"] < 0.01
    assert found["high"] > 0.99
    near = metrics.auroc([0] * 100 + [1] * 15, [*np.linspace(0, 0.5, 100), 0.49, *[0.9] * 14])
    assert near["value"] > 0.99
    assert near["low"] < 0.025 ** (1 / 15)  # a part ordered wrong does not make the limit higher than none would


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
    assert found["high"] == pytest.approx(-found["low"])
    assert (
        0.025 < found["high"] < 1 - 0.025**0.01
    )  # of one that differs in 100 at least, of the share that could at most
    assert metrics.paired_difference([], [])["value"] is None
    assert metrics.paired_difference([1], [0])["low"] == pytest.approx(-0.95)  # one part: 1 or -1, 0.025 at either end


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
