"""The promise of the whole system simulated, with a composite that was fitted on a sample of its own."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from hf_inspect.cascade import (
    ASK,
    IS_DEFECT,
    IS_GOOD,
    UNDECIDED,
    CalibrationScores,
    Certified,
    Composite,
    Promise,
    alone,
    fit_certified,
    fit_composite,
    outcome,
    redrawn,
)
from hf_inspect.cascade.composite import LEAST_SLOPE, Platt
from hf_inspect.errors import DataError

PROMISE = Promise(0.05, 0.10, 0.95)
REDRAWS = 1000
PLAIN = Platt("odds", 1.0, 0.0)
STORED = Path("hf_inspect/assets/elpv/calibration.jsonl")


def as_often(held, stated):
    """Whether the redraws in which something held are in keeping with a true coverage of `stated` or more."""
    return binomtest(int(np.sum(held)), len(held), stated, alternative="less").pvalue > 0.001


def parts(rng, n, shared=0.7, levels=0):
    """Severities of edge and VLM and labels of n parts, a third defects; `shared`: how much both models err alike."""
    y = (np.arange(n) % 3 == 0).astype(int)
    common, own, other = rng.normal(size=(3, n))
    edge = np.where(y, 0.9, -0.9) + shared * common + np.sqrt(1 - shared**2) * own
    vlm = np.where(y, 1.0, -1.0) + shared * common + np.sqrt(1 - shared**2) * other
    found = [1 / (1 + np.exp(-2 * x)) for x in (edge, vlm)]
    if levels:
        found = [np.ceil(x * levels) / levels for x in found]
    return *found, y


def fitted(edge, vlm, y, promise=PROMISE, sizes=(122, 271), **options):
    return fit_composite(edge, vlm, y, range(len(y)), promise, sizes, **options)


def fit_and_redraw(rng, population, fitting, spoil=0, sizes=(122, 271)):
    """Of 1,000 redraws: whether escape, overkill and both kept within the promise, on the whole population.

    The composite is fitted once, on parts of its own; `spoil` moves both limits by so many calibration parts.
    """
    composite = fitted(*fitting)
    scores, y = composite.scores(*population[:2]), population[2]
    defects, goods = np.sort(scores[y == 1]), np.sort(scores[y == 0])
    labels, held = np.repeat([1, 0], sizes), []
    for _ in range(REDRAWS):
        drawn = np.concatenate([rng.choice(defects, sizes[0]), rng.choice(goods, sizes[1])])
        limits = spoilt(alone(drawn, labels, np.arange(len(labels)), PROMISE), drawn, labels, spoil)
        escape = 0.0 if limits.low is None else np.searchsorted(defects, limits.low, "left") / len(defects)
        overkill = 0.0 if limits.high is None else 1 - np.searchsorted(goods, limits.high, "right") / len(goods)
        held.append((escape <= 0.05, overkill <= 0.10, escape <= 0.05 and overkill <= 0.10))
    return np.array(held).T


def spoilt(limits, drawn, labels, by):
    if not by:
        return limits
    low = float(np.sort(drawn[labels == 1])[limits.k_defects + by])
    return replace(limits, low=low, high=max(low, float(np.sort(drawn[labels == 0])[::-1][limits.k_goods + by])))


@cache
def held(seed, levels=0, spoil=0, sizes=(122, 271)):
    rng = np.random.default_rng(seed)
    return fit_and_redraw(rng, parts(rng, 200_000, levels=levels), parts(rng, 300, levels=levels), spoil, sizes)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("levels", [0, 12], ids=["no ties", "ties"])
def test_the_joint_promise_holds_as_often_as_stated(seed, levels):
    escape, overkill, both = held(seed, levels)
    assert as_often(escape, 0.975)
    assert as_often(overkill, 0.975)
    assert as_often(both, 0.95)


@pytest.mark.parametrize("sizes", [(72, 36), (71, 36), (5, 200), (1, 1)], ids=str)
def test_it_holds_with_few_parts(sizes):
    assert as_often(held(4, 0, 0, sizes)[2], 0.95)


def test_the_simulation_catches_limits_that_promise_too_much():
    escape, overkill, both = held(1, spoil=3)
    assert not as_often(escape, 0.975)
    assert not as_often(overkill, 0.975)
    assert not as_often(both, 0.95)


def stored(split):
    return CalibrationScores.from_rows(map(json.loads, STORED.read_text().splitlines()), split)


def held_on_cells(seed):
    """The calibration cells as a whole population, the composite of the validation cells, which are others."""
    own, of = stored("validation"), stored("calibration")
    rng = np.random.default_rng(seed)
    return fit_and_redraw(rng, (of.edge, of.vlm, of.labels), (own.edge, own.vlm, own.labels), sizes=of.sizes)


def test_it_holds_on_populations_of_the_shipped_cells():
    assert as_often(held_on_cells(5)[2], 0.95)


def test_a_second_look_that_errs_otherwise_leaves_fewer_undecided_than_each_alone():
    rng = np.random.default_rng(6)
    composite = fitted(*parts(rng, 600, shared=0.1))
    edge, vlm, y = parts(rng, 6000, shared=0.1)
    scores = CalibrationScores(y, np.arange(len(y)).astype(str), edge, vlm)
    policy = scores.certified(composite, PROMISE)
    shares = {
        name: (limits.codes(found) == UNDECIDED).mean()
        for (name, limits), found in zip(scores.limits_alone(PROMISE).items(), (edge, vlm), strict=True)
    }
    ours = (scores.played(policy).codes == UNDECIDED).mean()
    assert ours < min(shares.values()) - 0.05


def test_a_vlm_that_knows_nothing_is_not_asked():
    rng = np.random.default_rng(7)
    edge, _, y = parts(rng, 300)
    assert fitted(edge, rng.random(300), y).vlm is None
    upside_down = fitted(1 - edge, edge, y)
    assert upside_down.edge.slope == LEAST_SLOPE  # higher is worse, whatever validation shows
    assert upside_down.edge_share < 1.0


def test_what_only_the_vlm_sees_is_left_to_it():
    """The edge takes some defects for its surest good parts: it may say defect early, and never good."""
    rng = np.random.default_rng(8)
    edge, vlm, y = parts(rng, 600, shared=0.0)
    missed = (y == 1) & (np.arange(600) % 30 == 0)
    composite = fitted(np.where(missed, 0.001 * rng.random(600), edge), np.where(missed, 0.99, vlm), y)
    assert composite.early_good is None
    assert composite.early_defect is not None


def test_no_part_leaves_early_where_an_unseen_defect_may_lie():
    """No defect of validation lies below 0.30, the next at 0.36: one further out is reckoned with, down to 0.24."""
    goods, defects = np.linspace(0.01, 0.6, 200), np.append(0.30, np.linspace(0.36, 0.99, 99))
    vlm = np.random.default_rng(13).permutation(np.concatenate([np.linspace(0.02, 0.6, 200)]))
    edge, y = np.concatenate([goods, defects]), np.repeat([0, 1], [200, 100])
    seen = np.concatenate([vlm, np.random.default_rng(14).permutation(np.linspace(0.4, 0.98, 100))])
    composite = fitted(edge, seen, y)
    assert composite.vlm is not None
    assert composite.early_good is None or composite.early_good <= 0.24


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_ends_lie_beyond_all_that_is_fused(pairs):
    edge, vlm = np.array(pairs).T
    composite = Composite(PLAIN, PLAIN, Platt("plain", 2.0, 0.3), 0.25, early_good=0.2, early_defect=0.7)
    scores, ends = composite.scores(edge, vlm), composite.ends(edge)
    assert (scores[ends == IS_GOOD] < 0).all()
    assert (scores[ends == IS_DEFECT] > 1).all()
    assert ((scores[ends == ASK] >= 0) & (scores[ends == ASK] <= 1)).all()
    assert (ends == np.select([edge < 0.2, edge > 0.7], [IS_GOOD, IS_DEFECT], ASK)).all()
    assert np.isnan(composite.scores(edge, np.full(len(edge), np.nan))).sum() == (ends == ASK).sum()
    odds = [np.log(np.clip(x, 1e-7, 1 - 1e-7) / (1 - np.clip(x, 1e-7, 1 - 1e-7))) for x in (edge, vlm)]
    by_hand = 1 / (1 + np.exp(-(2 * (0.25 * odds[0] + 0.75 * odds[1]) + 0.3)))
    assert scores[ends == ASK] == pytest.approx(by_hand[ends == ASK])


def test_validation_alone_makes_the_composite_and_its_order_does_not_matter():
    edge, vlm, y = parts(np.random.default_rng(9), 300)
    mixed = np.random.default_rng(0).permutation(300)
    first = fitted(edge, vlm, y)
    other = fit_composite(edge[mixed], vlm[mixed], y[mixed], mixed, PROMISE, (122, 271))
    assert (first.early_good, first.early_defect, first.edge_share) == (
        other.early_good, other.early_defect, other.edge_share,
    )  # fmt: skip
    assert first.scores(edge, vlm) == pytest.approx(other.scores(edge, vlm))


@pytest.mark.parametrize("answered", ["all one score", "none of the VLM", "one of each"])
def test_odd_validations_still_give_a_composite(answered):
    edge, vlm, y = parts(np.random.default_rng(10), 60)
    if answered == "all one score":
        composite = fitted(np.full(60, 0.5), np.full(60, 0.5), y)
        assert len(set(composite.scores([0.5, 0.5], [0.5, 0.5]))) == 1
    elif answered == "one of each":
        assert fitted(edge[:2], vlm[:2], y[:2]).scores([0.5], [0.5]).shape == (1,)
    else:
        with pytest.raises(DataError, match="0 defects and 0 good parts were answered"):
            fitted(edge, np.full(60, np.nan), y)


def test_one_class_alone_is_a_sentence():
    said = r"0 defects and 3 good parts were answered; some of both .* an edge without a VLM"
    with pytest.raises(DataError, match=said):
        fitted([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0, 0, 0])
    nobody = fit_certified(Composite(PLAIN), [0.1, 0.2], None, [0, 0], [0, 1], PROMISE)
    assert "never says good: 0 calibration defects are too few" in nobody.statement


def test_anomaly_scores_of_any_scale_are_taken_as_they_are():
    edge, vlm, y = parts(np.random.default_rng(11), 300)
    scaled = 1e3 * (edge - 7)
    composite = fitted(scaled, vlm * 5, y, scales=("plain", "plain"))
    assert np.isfinite(composite.scores(scaled, vlm * 5)).all()
    own = CalibrationScores(y, np.arange(300).astype(str), scaled, vlm)
    assert (own.scales, replace(own, edge=edge).scales) == (("plain", "odds"), ("odds", "odds"))


# --- the policy


EARLY = Composite(PLAIN, PLAIN, Platt("plain", 1.0, 0.0), 0.5, early_good=0.2, early_defect=0.9)


def certified(composite=EARLY, goods=0.3, defects=0.6, n=400):
    """Limits from good parts around one severity and defects around another, both models alike."""
    y = np.repeat([1, 0], n // 2)
    x = np.where(y, defects, goods) + np.tile(np.linspace(-0.1, 0.1, n // 2), 2)
    return fit_certified(composite, x, None if composite.vlm is None else x, y, range(n), PROMISE)


def test_the_edge_alone_settles_the_ends_and_both_the_middle():
    policy = certified()
    first = policy.first([0.1, 0.5, 0.95])
    assert first.codes.tolist() == [IS_GOOD, ASK, IS_DEFECT]
    assert first.reasons.tolist() == [
        "the edge is sure of good", "the edge alone is not sure enough", "the edge is sure of a defect",
    ]  # fmt: skip
    second = policy.second([0.5, 0.5], [0.01, 0.99])
    assert second.codes.tolist() == [IS_GOOD, IS_DEFECT]
    assert second.reasons.tolist() == ["below the good limit", "above the defect limit"]
    assert policy.severity([0.5], [0.5])[0] == 0.5


def test_too_many_lost_early_are_said_and_no_vlm_is_asked_in_vain():
    """Defects that the edge let go early: the limit falls among these, and the promise is kept by holding parts."""
    policy = certified(goods=0.1, defects=0.15)
    assert policy.limits.low < 0
    assert "More calibration defects than may be were left to the edge's early good" in policy.statement
    codes = policy.first([0.12, 0.5]).codes
    assert codes[0] == UNDECIDED
    lost = certified(goods=0.95, defects=0.98)
    assert "More good calibration parts than may be were left to the edge's early defect" in lost.statement
    settled = fit_certified(EARLY, [0.05] * 200 + [0.95] * 200, [0.5] * 400, [1] * 200 + [0] * 200, range(400), PROMISE)
    routes = settled.first([0.5])
    assert (routes.codes[0], routes.reasons[0]) == (
        UNDECIDED, "no answer of the VLM could settle it within the promise",
    )  # fmt: skip


def test_a_limit_beyond_the_vlm_s_scores_is_no_word_of_the_edge():
    """Hardly a defect that the edge is not sure of: the good limit lies among its early defects."""
    policy = certified(goods=0.3, defects=1.05, n=400)
    assert policy.limits.low > 1
    code, reason = (column[0] for column in policy.first([0.91]))
    assert (code, reason) == (IS_GOOD, "below the good limit")


def test_an_edge_alone_decides_by_its_limits():
    policy = certified(Composite(PLAIN))
    assert policy.first([0.01, 0.99]).codes.tolist() == [IS_GOOD, IS_DEFECT]
    assert policy.first([0.45]).reasons.tolist() == ["between the limits"] or policy.limits.crossed


def test_parts_without_an_answer_set_no_limit():
    y, x = np.repeat([1, 0], 200), np.tile(np.linspace(0.3, 0.8, 200), 2)
    some = np.where(np.arange(400) % 2, x, np.nan)
    policy = fit_certified(EARLY, x, some, y, range(400), PROMISE)
    assert policy.limits.defects + policy.limits.goods == int((~np.isnan(some)).sum())
    with pytest.raises(DataError, match="None of the calibration parts has a score"):
        fit_certified(EARLY, x, np.full(400, np.nan), y, range(400), PROMISE)


def test_the_statement_gives_the_counts_and_claims_no_more():
    policy = certified()
    for words in ("400 parts", "200 defects and 200 good", "5.00%", "10.00%", "97.50%", "95.00%", "whoever decides"):
        assert words in policy.statement
    assert "What lies between is undecided: a person looks." in policy.statement
    assert "With the fallback 'pass' such parts may be escapes and with 'reject' overkill" in policy.statement
    assert "beyond what is promised" in policy.statement
    few = fit_certified(Composite(PLAIN), np.linspace(0, 1, 107), None, [1] * 71 + [0] * 36, range(107), PROMISE)
    assert "never says good: 71 calibration defects are too few" in few.statement
    assert "it takes 72" in few.statement


def test_a_policy_is_its_name_and_settings():
    assert isinstance(certified(), Certified)
    assert certified().to_dict()["policy"] == "certified"


# --- planning


def test_more_parts_leave_fewer_undecided():
    rng = np.random.default_rng(12)
    edge, vlm, y = parts(rng, 400)
    scores = CalibrationScores(y, np.arange(400).astype(str), edge, vlm)
    sizes = redrawn(scores, fitted(edge, vlm, y), PROMISE, times=(0.5, 1.0, 8.0))
    assert [one.defects for one in sizes] == [67, 134, 1072]
    for name in ("edge", "vlm", "cascade"):
        means = [one.undecided[name][0] for one in sizes]
        assert means == sorted(means, reverse=True)
    assert sizes[0].shipped == (0.0, 0.0, 0.0)  # 67 defects are too few to say good
    assert sizes[1].shipped[0] > 0.1
    assert set(redrawn(replace(scores, vlm=np.full(400, np.nan)), None, PROMISE)[0].undecided) == {"edge"}


def test_a_prevalence_is_counted_by_hand():
    found = outcome(Promise(0.01, 0.05, 0.95), 0.002, shipped=0.8)
    assert found.escapes == pytest.approx(0.2)
    assert found.false_alarms == pytest.approx(499)
    assert found.defect_given_shipped == pytest.approx(0.002 * 0.01 / (0.002 * 0.01 + 0.998 * 0.8))
    with pytest.raises(DataError, match="prevalence is 0"):
        outcome(PROMISE, 0.0)
