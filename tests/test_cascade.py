"""The promise simulated against known distributions, thresholds against brute force, and routing that streams."""

import json
import math
from dataclasses import replace
from functools import cache
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from hf_inspect.cascade import (
    IS_DEFECT,
    IS_GOOD,
    UNDECIDED,
    Calibrated,
    Saec,
    calibrated,
    complexity,
    complexity_terms,
    escalation_curve,
    fit_calibrated,
    fit_saec,
    policy_from_dict,
    replay,
)
from hf_inspect.cascade.calibrated import largest_k, one_per_group, parts_needed
from hf_inspect.data import stratified_group_split
from hf_inspect.errors import DataError

SCORES = st.one_of(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), st.floats(0, 1))
PARTS = st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60)
RISKS = st.sampled_from([0.01, 0.05, 0.1, 0.3])


def route(policy, severity, complexity=None):
    """What one part becomes, and why; the edge's two probabilities follow from its severity."""
    routes = policy.route_batch([severity], [[1 - severity, severity]], None if complexity is None else [complexity])
    return int(routes.codes[0]), str(routes.reasons[0])


def fit(parts, **options):
    p, y, groups = (list(column) for column in zip(*parts, strict=True))
    return fit_calibrated(p, y, groups, **options)


GOODS, DEFECTS = beta(2, 5), beta(5, 2)  # known score distributions, overlapping as a real edge's do
REDRAWS = 1000


def grid(p):
    """Scores rounded up to twenty levels, so that many tie."""
    return np.ceil(np.asarray(p) * 20) / 20


def true_risks(policy, tied=False):
    """P(edge good | defect) and P(edge defect | good), exact from the distributions."""
    step = 1 / 20 if tied else 0.0
    escape = 0.0 if policy.low is None else DEFECTS.cdf(policy.low - step)  # tied: P(ceil < t) = P(p <= t - 1/20)
    overkill = 0.0 if policy.high is None else GOODS.sf(policy.high)
    return escape, overkill


def redraw(rng, defects, goods, tied=False):
    p = np.concatenate([rng.beta(*DEFECTS.args, defects), rng.beta(*GOODS.args, goods)])
    return grid(p) if tied else p, np.repeat([1, 0], [defects, goods])


@cache
def share_held(defects, goods, tied=False, moved=lambda policy, p, y: policy):
    """Of 1,000 redraws of calibration, the shares in which the escape, the overkill and both bounds held."""
    rng, held = np.random.default_rng(2025), []
    for _ in range(REDRAWS):
        p, y = redraw(rng, defects, goods, tied)
        policy = moved(fit_calibrated(p, y, np.arange(len(p)), 0.05, 0.10, 0.95), p, y)
        escape, overkill = true_risks(policy, tied)
        held.append((escape <= 0.05, overkill <= 0.10, escape <= 0.05 and overkill <= 0.10))
    return np.mean(held, axis=0)


def as_often(share, stated, redraws=REDRAWS):
    """Whether a share of redraws is in keeping with a true coverage of `stated` or more.

    At 271 goods the exact coverage is 0.979, so a bare `share >= 0.975` fails on 15 % of seeds with right
    thresholds; a share that low by chance once in 1,000 seeds at exactly `stated` is what counts as broken.
    """
    return binomtest(round(share * redraws), redraws, stated, alternative="less").pvalue > 0.001


@pytest.mark.parametrize("tied", [False, True])
def test_both_bounds_hold_as_often_as_stated(tied):
    escape, overkill, both = share_held(123, 271, tied)
    assert as_often(escape, 0.975)
    assert as_often(overkill, 0.975)
    assert both >= 0.95


def test_the_coverage_is_the_exact_one():
    """Not merely high: at 72 defects, the fewest that do, the escape bound fails in 2.49 % of draws."""
    for defects, goods in ((72, 40), (123, 271)):
        exact = [binom.sf(largest_k(n, risk, 0.025), n, risk) for n, risk in ((defects, 0.05), (goods, 0.10))]
        assert min(exact) >= 0.975
        for share, coverage in zip(share_held(defects, goods)[:2], exact, strict=True):
            assert binomtest(round(share * REDRAWS), REDRAWS, coverage).pvalue > 0.001


def shifted(extra):
    """The thresholds with `extra` more calibration parts beyond them than the counts allow."""

    def move(policy, p, y):
        low = np.sort(p[y == 1])[policy.k_defects + extra]
        high = np.sort(p[y == 0])[::-1][policy.k_goods + extra]
        return replace(policy, low=float(low), high=float(max(low, high)))

    return move


def test_the_simulation_catches_thresholds_that_promise_too_much():
    """The same rule refuses thresholds three parts too wide, so it can fail."""
    escape, overkill, both = share_held(123, 271, moved=shifted(extra=3))
    assert not as_often(escape, 0.975)
    assert not as_often(overkill, 0.975)
    assert not as_often(both, 0.95)


def test_counting_copies_as_parts_would_break_the_promise():
    """Five copies of each of 123 defects: grouped, the bound holds; taken as 615 parts, it does not."""
    rng, grouped, loose = np.random.default_rng(7), [], []
    for _ in range(300):
        p, y = (np.repeat(column, 5) for column in redraw(rng, 123, 40))
        grouped.append(true_risks(fit_calibrated(p, y, np.arange(len(p)) // 5))[0] <= 0.05)
        loose.append(true_risks(fit_calibrated(p, y, np.arange(len(p))))[0] <= 0.05)
    assert as_often(np.mean(grouped), 0.975, 300)
    assert not as_often(np.mean(loose), 0.975, 300)


SHARES = {"train": 0.55, "validation": 0.10, "calibration": 0.15, "test": 0.20}
STRATA = ["good"] * 1200 + ["common"] * 800 + [f"kind {i // 2}" for i in range(120)]  # parts, one stratum a kind
HARD = np.arange(len(STRATA)) >= 2000  # what looks like good parts


def dealt(seed, views):
    """Whether each part is calibrated on, parts of STRATA in `views` images each, by the split itself."""
    groups = np.repeat(np.arange(len(STRATA)), views)
    split = stratified_group_split([STRATA[g] for g in groups], groups.tolist(), SHARES, seed)
    return np.array([split[g] == "calibration" for g in range(len(STRATA))])


def escapes_after(calibrated_on, draws=300):
    """P(edge good | defect), exact, and how many calibration defects, of each draw of scores and `calibrated_on`."""
    rng, labels, found = np.random.default_rng(3), np.arange(len(STRATA)) >= 1200, []
    for seed in range(draws):
        p = np.concatenate([GOODS.rvs(1200, rng), DEFECTS.rvs(800, rng), GOODS.rvs(120, rng)])
        chosen = calibrated_on(seed)
        policy = fit_calibrated(p[chosen], labels[chosen], np.flatnonzero(chosen))
        escape = (DEFECTS.cdf(policy.low) * (labels & ~HARD).sum() + GOODS.cdf(policy.low) * HARD.sum()) / labels.sum()
        found.append((escape, policy.defects))
    return np.array(found).T


@pytest.mark.parametrize("views", [1, np.where(HARD, 4, 1)], ids=["one image a part", "four of each hard part"])
def test_the_promise_holds_through_the_split_with_rare_kinds(views):
    """60 kinds of two harder defects each, beside 800 common ones: they are calibrated on as often as all others."""
    escapes, defects = escapes_after(lambda seed: dealt(seed, views))
    assert as_often(np.mean(escapes <= 0.05), 0.975, len(escapes))
    expected = [(largest_k(int(n), 0.05, 0.025) + 1) / (n + 1) for n in defects]
    assert escapes.mean() == pytest.approx(np.mean(expected), rel=0.15)  # nor is it held by being too careful


def test_the_simulation_catches_a_split_that_rounds_rare_kinds_away():
    """What a share of 15 % gives each kind of two by itself, rounded: none."""
    escapes, _ = escapes_after(lambda seed: dealt(seed, 1) & ~HARD, draws=60)
    assert np.mean(escapes > 0.05) > 0.9


def brute_force_k(n, risk, miss):
    """Largest k with P(Binomial(n, risk) <= k) <= miss, by adding up."""
    total, best = 0.0, None
    for k in range(n):
        total += comb(n, k) * risk**k * (1 - risk) ** (n - k)
        if total <= miss:
            best = k
    return best


@given(st.integers(0, 150), st.floats(0.005, 0.9), st.floats(0.005, 0.5))
def test_k_is_the_binomial_one(n, risk, miss):
    def found(allowed):  # -1 for None; the margins below leave out tails that equal `miss` to within rounding
        return -1 if allowed is None else allowed

    least, most = (brute_force_k(n, risk, miss * margin) for margin in (1 - 1e-9, 1 + 1e-9))
    assert found(least) <= found(largest_k(n, risk, miss)) <= found(most)


@given(st.floats(0.005, 0.9), st.floats(0.005, 0.5))
def test_parts_needed_is_the_fewest(risk, miss):
    n = parts_needed(risk, miss)
    assert largest_k(n, risk, miss) == 0
    assert n == 1 or largest_k(n - 1, risk, miss) is None


def test_a_risk_of_one_in_ten_million_is_answered_by_the_closed_form(monkeypatch):
    """(1 - risk) ** n <= miss in a few evaluations, not in one for each of 37 million parts."""
    asked, beyond = [], calibrated._beyond
    monkeypatch.setattr(calibrated, "_beyond", lambda k, n, risk: asked.append(n) or beyond(k, n, risk))
    policy = fit_calibrated(np.linspace(0, 1, 400), [0, 1] * 200, range(400), escape=1e-7)
    assert len(asked) < 60
    assert policy.low is None
    needed = math.ceil(math.log(0.025) / math.log1p(-1e-7))
    assert f"it takes {needed}." in policy.statement
    assert needed == 36_888_793
    asked.clear()
    assert largest_k(10_000_000, 1e-7, 0.5) == 0  # P(0 of 10 million) is exp(-1), P(0 or 1) above a half
    assert len(asked) < 30
    assert all(parts_needed(10.0**-power, 0.025) > 3 * 10**power for power in range(1, 16))


def test_numbers_of_the_default_setting():
    assert parts_needed(0.05, 0.025) == 72
    assert parts_needed(0.10, 0.025) == 36
    assert largest_k(123, 0.05, 0.025) == 1
    assert largest_k(0, 0.05, 0.025) is None
    assert largest_k(20_000, 0.05, 0.025) == 939


@given(PARTS, RISKS, RISKS, st.sampled_from([0.5, 0.9, 0.95]))
def test_no_more_than_k_calibration_parts_lie_beyond(parts, escape, overkill, confidence):
    policy = fit(parts, escape=escape, overkill=overkill, confidence=confidence)
    p, y, groups = (np.array(column) for column in zip(*parts, strict=True))
    kept = one_per_group(p, y, groups, policy.seed)
    codes = policy.route_batch(p[kept]).codes
    assert ((codes == IS_GOOD) & (y[kept] == 1)).sum() <= (policy.k_defects or 0)
    assert ((codes == IS_DEFECT) & (y[kept] == 0)).sum() <= (policy.k_goods or 0)
    assert policy.defects + policy.goods + policy.left_out == len(parts)
    assert policy.defects + policy.goods == len(set(zip(groups.tolist(), y.tolist(), strict=True)))
    if policy.low is not None and policy.high is not None:
        assert policy.low <= policy.high


@given(PARTS, st.randoms(use_true_random=False))
def test_row_order_changes_nothing(parts, random):
    mixed = list(parts)
    random.shuffle(mixed)
    options = {"escape": 0.3, "overkill": 0.3, "confidence": 0.5}
    assert fit(parts, **options) == fit(mixed, **options)


@given(st.lists(SCORES, min_size=40, max_size=90), st.floats(0, 1))
def test_a_lower_defect_score_never_raises_the_threshold(defects, lower):
    def low(scores):
        return fit_calibrated(scores, [1] * len(scores), range(len(scores)), confidence=0.8).low

    before, after = low(defects), low([min(lower, defects[0]), *defects[1:]])
    assert before is None or after <= before


def test_thresholds_are_the_order_statistics():
    p = np.concatenate([np.linspace(0.3, 1.0, 123), np.linspace(0.0, 0.7, 271)])
    policy = fit_calibrated(p, [1] * 123 + [0] * 271, np.arange(394), 0.05, 0.10, 0.95)
    assert policy.low == np.linspace(0.3, 1.0, 123)[policy.k_defects]
    assert policy.high == np.linspace(0.0, 0.7, 271)[::-1][policy.k_goods]
    assert route(policy, policy.low)[0] == UNDECIDED
    assert route(policy, np.nextafter(policy.low, 0))[0] == IS_GOOD
    assert route(policy, policy.high)[0] == UNDECIDED
    assert route(policy, np.nextafter(policy.high, 1))[0] == IS_DEFECT


def test_all_scores_tied_says_neither():
    policy = fit_calibrated([0.5] * 400, [0, 1] * 200, range(400))
    assert policy.low == policy.high == 0.5
    assert route(policy, 0.5)[0] == UNDECIDED
    assert route(policy, 0.4999)[0] == IS_GOOD


def test_crossed_thresholds_raise_the_upper_to_the_lower():
    p = np.concatenate([np.linspace(0.8, 1.0, 100), np.linspace(0.0, 0.2, 100)])
    policy = fit_calibrated(p, [1] * 100 + [0] * 100, range(200))
    assert policy.low == policy.high == pytest.approx(0.8, abs=0.01)
    assert "crossed" in policy.statement
    assert "crossed" not in fit_calibrated(1 - p, [1] * 100 + [0] * 100, range(200)).statement


def test_too_few_parts_never_give_the_verdict_and_say_how_many_it_takes():
    p = np.concatenate([np.linspace(0.5, 1.0, 71), np.linspace(0.0, 0.5, 36)])
    policy = fit_calibrated(p, [1] * 71 + [0] * 36, range(107))
    assert policy.low is None
    assert policy.high is not None
    assert "never says good: 71 calibration defects are too few" in policy.statement
    assert "it takes 72" in policy.statement
    assert route(policy, 0.0)[0] == UNDECIDED
    assert "too few calibration defects" in route(policy, 0.0)[1]
    assert route(policy, 1.0)[0] == IS_DEFECT
    alone = fit_calibrated([0.5], [1], ["a"])
    assert route(alone, 1.0)[1] == "too few calibration parts for any verdict of the edge"
    assert "it takes 36" in alone.statement


def test_statement_gives_the_counts():
    p = np.concatenate([np.linspace(0.3, 1.0, 123), np.linspace(0.0, 0.7, 273)])
    policy = fit_calibrated(p, [1] * 123 + [0] * 273, [*range(394), 393, 393])
    for words in ("394 parts", "123 defects", "271 good", "2 further parts", "5.00%", "10.00%", "97.50%", "95.00%"):
        assert words in policy.statement
    assert "not promised" in policy.statement


@given(PARTS, st.integers(0, 5))
def test_one_part_a_group_and_class(parts, seed):
    p, y, groups = (np.array(column) for column in zip(*parts, strict=True))
    kept = one_per_group(p, y, groups, seed)
    found = zip(groups[kept].tolist(), y[kept].tolist(), strict=True)
    assert sorted(found) == sorted(set(zip(groups.tolist(), y.tolist(), strict=True)))


def test_a_defect_among_many_good_views_is_calibrated_on_like_any_other():
    """400 defects alone, and 60 harder ones each with nine good views: the bound holds for one of these 460."""
    rng, held = np.random.default_rng(5), []
    groups = np.concatenate([np.arange(400), np.repeat(np.arange(400, 460), 10)])
    y = np.concatenate([np.ones(400, int), np.tile([1] + [0] * 9, 60)])
    hard = np.arange(len(y)) >= 400
    for _ in range(300):
        p = np.where((y == 1) & ~hard, DEFECTS.rvs(len(y), rng), GOODS.rvs(len(y), rng))
        policy = fit_calibrated(p, y, groups)
        held.append((400 * DEFECTS.cdf(policy.low) + 60 * GOODS.cdf(policy.low)) / 460 <= 0.05)
        assert (policy.defects, policy.goods) == (460, 60)
    assert as_often(np.mean(held), 0.975, 300)


def test_each_part_of_a_group_is_as_likely():
    p, y = np.linspace(0, 1, 8), np.array([0, 1] * 4)
    drawn = np.bincount([i for seed in range(800) for i in one_per_group(p, y, ["g"] * 8, seed)], minlength=8)
    assert drawn.min() > 150  # 200 each, standard deviation 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"severity": [0.1, np.nan]}, "nan at row 1"),
        ({"labels": [0, 3]}, "hold 3"),
        ({"groups": ["a"]}, "groups of shape"),
        ({"escape": 0.0}, "escape is 0.0"),
        ({"overkill": 1}, "overkill is 1"),
        ({"confidence": 95}, "confidence is 95"),
        ({"severity": [], "labels": [], "groups": []}, "0 scores"),
    ],
)
def test_fit_names_wrong_input(change, message):
    with pytest.raises(DataError, match=message):
        fit_calibrated(**({"severity": [0.1, 0.9], "labels": [0, 1], "groups": ["a", "b"]} | change))


def reference_saec(policy, p, c):
    """SAEC's gates one part at a time, as the paper words them."""
    if c > policy.max_complexity:
        return UNDECIDED, "complex image"
    if max(p, 1 - p) < policy.min_confidence:
        return UNDECIDED, "low confidence"
    if abs(p - (1 - p)) < policy.min_margin:
        return UNDECIDED, "small margin"
    entropy = -sum(q * np.log2(q) for q in (p, 1 - p) if q > 0)
    if entropy > policy.max_entropy:
        return UNDECIDED, "high entropy"
    return (
        (IS_DEFECT, "simple image, edge sure of defect") if p >= 0.5 else (IS_GOOD, "simple image, edge sure of good")
    )


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30), st.sampled_from([(0.55, 0.03), (0.5, 0.3)]))
def test_saec_follows_its_gates(parts, gates):
    policy = Saec(0.6, 100, min_confidence=gates[0], min_margin=gates[1])
    p, c = zip(*parts, strict=True)
    routes = policy.route_batch(p, np.stack([1 - np.array(p), p], 1), c)
    assert list(zip(routes.codes.tolist(), routes.reasons.tolist(), strict=True)) == [
        reference_saec(policy, *part) for part in parts
    ]


def test_saec_can_say_both():
    policy = fit_saec(np.linspace(0, 1, 101))
    assert route(policy, 0.99, 0.2)[0] == IS_DEFECT
    assert route(policy, 0.01, 0.2)[0] == IS_GOOD
    assert route(policy, 0.01, 0.9)[1] == "complex image"
    assert route(policy, 0.52, 0.2)[1] == "low confidence"
    assert route(policy, 0.60, 0.2)[1] == "high entropy"
    assert route(replace(policy, min_confidence=0.5, min_margin=0.3), 0.60, 0.2)[1] == "small margin"


def test_saec_looks_at_all_classes():
    """Six classes: sure of one defect, torn between two defects, torn between all; and never by their order."""
    policy, sure, torn = Saec(0.5, 10), [0.02, 0.9, 0.02, 0.02, 0.02, 0.02], [0.04, 0.49, 0.47, 0.0, 0.0, 0.0]
    for p, code, reason in (
        (sure, IS_DEFECT, "simple image, edge sure of defect"),
        (torn, UNDECIDED, "low confidence"),
        ([0.58, 0.4, 0.02, 0.0, 0.0, 0.0], IS_GOOD, "simple image, edge sure of good"),
    ):
        for order in (range(6), range(5, -1, -1), (3, 1, 4, 0, 5, 2)):
            found = policy.route_batch([1 - p[0]], [[p[i] for i in order]], [0.2])
            assert (found.codes[0], found.reasons[0]) == (code, reason)
    uniform = replace(policy, min_confidence=0.1, min_margin=0.0).route_batch([5 / 6], [[1 / 6] * 6], [0.2])
    assert uniform.reasons[0] == "high entropy"


@given(st.lists(SCORES, min_size=1, max_size=80), st.floats(0, 1))
def test_saec_sends_at_most_the_share_it_was_given(scores, ratio):
    policy = fit_saec(scores, init_q_ratio=ratio)
    sent = np.mean(np.array(scores) > policy.max_complexity)
    assert sent <= ratio + 1e-9
    if len(set(scores)) == len(scores):
        assert sent > ratio - 1 / len(scores) - 1e-9


def test_saec_needs_complexity_and_data():
    with pytest.raises(DataError, match="needs the edge's class probabilities and the complexity"):
        Saec(0.5, 10).route_batch([0.1], [[0.9, 0.1]])
    with pytest.raises(DataError, match="needs the edge's class probabilities"):
        Saec(0.5, 10).route_batch([0.1], None, [0.1])
    with pytest.raises(DataError, match=r"came as \(2, 2\)"):
        Saec(0.5, 10).route_batch([0.1], [[0.9, 0.1]] * 2, [0.1])
    with pytest.raises(DataError, match="no validation image"):
        fit_saec([])
    with pytest.raises(DataError, match="init_q_ratio is 30"):
        fit_saec([0.1], init_q_ratio=30)


def checkerboard(cell):
    rows, columns = np.indices((192, 192)) // cell
    return np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)


IMAGES = {
    "noise": np.repeat(np.random.default_rng(0).integers(0, 256, (192, 192, 1), np.uint8), 3, axis=2),
    "colour noise": np.random.default_rng(1).integers(0, 256, (300, 200, 3), np.uint8),
    "black": np.zeros((192, 192, 3), np.uint8),
    "white": np.full((50, 70, 3), 255, np.uint8),
    "pixel checkerboard": checkerboard(1),
    "checkerboard": checkerboard(8),
    "all levels": np.repeat((np.arange(192 * 192) % 256).astype(np.uint8).reshape(192, 192, 1), 3, axis=2),
    "one pixel": np.full((1, 1, 3), 7, np.uint8),
    "one row": np.random.default_rng(2).integers(0, 256, (1, 4000, 3), np.uint8),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_term_lies_in_zero_to_one(name):
    terms = complexity_terms(IMAGES[name])
    assert list(terms) == ["entropy", "edges", "laplacian", "gradient", "jpeg"]
    assert all(0.0 <= value <= 1.0 for value in terms.values()), terms
    assert 0.0 <= complexity(IMAGES[name]) <= 1.0


def test_terms_reach_both_ends_of_their_scale():
    assert complexity(IMAGES["black"]) == 0.0
    assert complexity_terms(IMAGES["pixel checkerboard"])["laplacian"] == pytest.approx(1.0, abs=1e-9)
    assert complexity_terms(IMAGES["all levels"])["entropy"] == pytest.approx(1.0, abs=1e-3)


def test_more_texture_is_more_complex():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, (192, 192, 1))
    scores = [complexity(np.repeat(np.clip(128 + s * noise, 0, 255).astype(np.uint8), 3, 2)) for s in (0, 2, 8, 30, 90)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_no_term_drowns_the_others():
    """On pure noise the source's unscaled Canny mean made 90 % of the score; scaled it keeps near its weight."""
    terms = complexity_terms(IMAGES["noise"])
    assert 0.25 * terms["edges"] < 0.3 * complexity(IMAGES["noise"])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_complexity_refuses_what_is_no_rgb_image(image):
    with pytest.raises(DataError, match="RGB uint8"):
        complexity(image)


RNG = np.random.default_rng(11)
P_EDGE, P_VLM, COMPLEX = RNG.random(400), RNG.random(400), RNG.random(400)
CALIBRATED = (RNG.beta(np.repeat([5, 2], 200), np.repeat([2, 5], 200)), np.repeat([1, 0], 200), range(400))
BAND = fit_calibrated(*CALIBRATED)
SAEC = fit_saec(COMPLEX)


@pytest.mark.parametrize("policy", [BAND, SAEC], ids=["calibrated", "saec"])
def test_replay_agrees_with_one_part_at_a_time(policy):
    played = replay(policy, P_EDGE, P_VLM, probabilities=np.stack([1 - P_EDGE, P_EDGE], 1), complexity=COMPLEX)
    for i, (p, q, c) in enumerate(zip(P_EDGE, P_VLM, COMPLEX, strict=True)):
        code, reason = route(policy, p, c)
        assert played.reasons[i] == reason
        assert played.escalated[i] == (code == UNDECIDED)
        if code == UNDECIDED:
            assert (played.codes[i], played.decided_by[i]) == (int(q >= policy.cloud_threshold), "vlm")
            assert played.severity[i] == q
        else:
            assert (played.codes[i], played.decided_by[i], played.severity[i]) == (code, "edge", p)
    shares = played.share_escalated()
    assert shares["total"]["k"] == played.vlm_calls > 0
    assert sum(figure["k"] for name, figure in shares.items() if name != "total") == shares["total"]["k"]


@pytest.mark.parametrize(("fallback", "code"), [("reject", IS_DEFECT), ("hold", UNDECIDED), ("pass", IS_GOOD)])
def test_without_a_vlm_the_fallback_decides(fallback, code):
    played = replay(BAND, P_EDGE, fallback=fallback)
    stuck = played.decided_by == "rule"
    assert stuck.sum() == played.escalated.sum() > 0
    assert (played.codes[stuck] == code).all()
    assert (played.severity == P_EDGE).all()
    assert played.vlm_calls == 0


def test_a_vlm_that_ran_on_some_parts():
    some = np.where(np.arange(400) % 2, P_VLM, np.nan)
    played, full = replay(BAND, P_EDGE, some), replay(BAND, P_EDGE, P_VLM)
    assert set(played.decided_by) == {"edge", "vlm", "rule"}
    assert (played.codes[~np.isnan(some)] == full.codes[~np.isnan(some)]).all()


@pytest.mark.parametrize("shift", [-1.0, -0.5, 0.0], ids=["all below 0", "0 between the thresholds", "0 below them"])
def test_the_vlm_decides_nothing_where_the_edge_failed_whatever_the_scale(shift):
    band = replace(BAND, low=BAND.low + shift, high=BAND.high + shift)
    failed = np.where(np.arange(400) % 4, P_EDGE + shift, np.nan)
    played = replay(band, failed, P_VLM)
    assert set(played.decided_by[np.isnan(failed)]) == {"rule"}
    assert (played.codes[np.isnan(failed)] == UNDECIDED).all()
    assert not played.escalated[np.isnan(failed)].any()


def test_cloud_threshold_moves_only_the_escalated():
    strict, lax = replay(BAND, P_EDGE, P_VLM, cloud_threshold=0.0), replay(BAND, P_EDGE, P_VLM, cloud_threshold=1.0)
    assert (strict.codes[strict.escalated] == IS_DEFECT).all()
    assert (lax.codes[lax.escalated] == IS_GOOD).all()
    assert (strict.codes[~strict.escalated] == lax.codes[~lax.escalated]).all()


def test_a_vlm_at_its_threshold_says_defect():
    between = [(BAND.low + BAND.high) / 2] * 2
    played = replay(BAND, between, [BAND.cloud_threshold, np.nextafter(BAND.cloud_threshold, 0)])
    assert (played.codes.tolist(), played.decided_by.tolist()) == ([IS_DEFECT, IS_GOOD], ["vlm", "vlm"])


def test_replay_names_wrong_input():
    with pytest.raises(DataError, match="Fallback 'maybe'"):
        replay(BAND, P_EDGE, fallback="maybe")
    with pytest.raises(DataError, match="the VLM's severities hold 3 entries, 400"):
        replay(BAND, P_EDGE, P_VLM[:3])


@given(st.lists(st.tuples(st.integers(0, 1), SCORES, SCORES), min_size=1, max_size=25))
def test_curve_against_brute_force(parts):
    y, edge, cloud = (np.array(column) for column in zip(*[*parts, (1, 0.5, 0.5)], strict=True))
    curve = escalation_curve(y, edge, cloud, cloud_threshold=0.4)
    levels = [-1.0, *sorted(set(np.abs(edge - 0.5)))]
    assert len(curve.share) == len(levels)
    for i, level in enumerate(levels):
        sent = np.abs(edge - 0.5) <= level
        said = np.where(sent, cloud >= 0.4, edge >= 0.5)
        assert curve.share[i] == pytest.approx(sent.mean())
        assert curve.accuracy[i] == pytest.approx((said == y).mean())
        assert curve.escapes[i] == pytest.approx((~said & (y == 1)).sum() / y.sum())


def test_curve_needs_a_defect():
    with pytest.raises(DataError, match="without a defect"):
        escalation_curve([0], [0.1], [0.1])


@pytest.mark.parametrize("policy", [BAND, SAEC, fit_calibrated([0.5], [1], [0])], ids=["calibrated", "saec", "empty"])
def test_policies_survive_json(policy):
    assert policy_from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


@pytest.mark.parametrize(
    ("policy", "change", "message"),
    [
        (BAND, {"lo": 0.1}, r"unknown keys \['lo'\]"),
        (SAEC, {"margin": 0.1}, r"unknown keys \['margin'\]"),
        (BAND, {"low": "0.1"}, "low is '0.1'"),
        (BAND, {"high": float("inf")}, "high is inf"),
        (BAND, {"low": None}, "its count"),
        (BAND, {"low": 0.9, "high": 0.1}, "lies above"),
        (SAEC, {"max_complexity": float("nan")}, "max_complexity is nan"),
        (SAEC, {"policy": "other"}, "'other' was asked for"),
    ],
)
def test_edited_policies_are_refused(policy, change, message):
    with pytest.raises(DataError, match=message):
        policy_from_dict(policy.to_dict() | change)


def test_order_is_all_that_thresholds_need():
    """Severities of another scale, such as an anomaly score's, route the same parts the same way."""
    scaled = fit_calibrated(1e3 * np.log(CALIBRATED[0] + 1e-9), *CALIBRATED[1:])
    plain = fit_calibrated(*CALIBRATED)
    assert scaled.low < 0
    found = scaled.route_batch(1e3 * np.log(P_EDGE + 1e-9)).codes
    assert (found == plain.route_batch(P_EDGE).codes).all()
    assert len(set(found.tolist())) == 3


@pytest.mark.parametrize("policy", [BAND, SAEC], ids=["calibrated", "saec"])
def test_a_missing_setting_is_refused(policy):
    values = policy.to_dict()
    del values["cloud_threshold"]
    with pytest.raises(DataError, match=r"missing keys \['cloud_threshold'\]"):
        policy_from_dict(values)


def test_the_public_policies_say_what_they_need():
    assert (Calibrated.needs_complexity, Saec.needs_complexity) == (False, True)
