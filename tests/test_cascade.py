"""SAEC's gates, the terms of complexity, and replaying any policy part by part."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect.cascade import (
    ASK,
    IS_DEFECT,
    IS_GOOD,
    UNDECIDED,
    Certified,
    Composite,
    Promise,
    Saec,
    complexity,
    complexity_terms,
    fit_certified,
    fit_saec,
    policy_from_dict,
    replay,
)
from hf_inspect.cascade.composite import Platt
from hf_inspect.errors import DataError

SCORES = st.one_of(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), st.floats(0, 1))


def first(policy, severity, complexity=None):
    """What the edge's step says of one part, and why; its two probabilities follow from its severity."""
    routes = policy.first([severity], [[1 - severity, severity]], None if complexity is None else [complexity])
    return int(routes.codes[0]), str(routes.reasons[0])


def reference_saec(policy, p, c):
    """SAEC's gates one part at a time, as the paper words them."""
    if c > policy.max_complexity:
        return ASK, "complex image"
    if max(p, 1 - p) < policy.min_confidence:
        return ASK, "low confidence"
    if abs(p - (1 - p)) < policy.min_margin:
        return ASK, "small margin"
    entropy = -sum(q * np.log2(q) for q in (p, 1 - p) if q > 0)
    if entropy > policy.max_entropy:
        return ASK, "high entropy"
    return (
        (IS_DEFECT, "simple image, edge sure of defect") if p >= 0.5 else (IS_GOOD, "simple image, edge sure of good")
    )


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30), st.sampled_from([(0.55, 0.03), (0.5, 0.3)]))
def test_saec_follows_its_gates(parts, gates):
    policy = Saec(0.6, 100, min_confidence=gates[0], min_margin=gates[1])
    p, c = zip(*parts, strict=True)
    routes = policy.first(p, np.stack([1 - np.array(p), p], 1), c)
    assert list(zip(routes.codes.tolist(), routes.reasons.tolist(), strict=True)) == [
        reference_saec(policy, *part) for part in parts
    ]


def test_saec_can_say_both():
    policy = fit_saec(np.linspace(0, 1, 101))
    assert first(policy, 0.99, 0.2)[0] == IS_DEFECT
    assert first(policy, 0.01, 0.2)[0] == IS_GOOD
    assert first(policy, 0.01, 0.9)[1] == "complex image"
    assert first(policy, 0.52, 0.2)[1] == "low confidence"
    assert first(policy, 0.60, 0.2)[1] == "high entropy"
    assert first(replace(policy, min_confidence=0.5, min_margin=0.3), 0.60, 0.2)[1] == "small margin"


def test_saec_looks_at_all_classes():
    """Six classes: sure of one defect, torn between two defects, torn between all; and never by their order."""
    policy, sure, torn = Saec(0.5, 10), [0.02, 0.9, 0.02, 0.02, 0.02, 0.02], [0.04, 0.49, 0.47, 0.0, 0.0, 0.0]
    for p, code, reason in (
        (sure, IS_DEFECT, "simple image, edge sure of defect"),
        (torn, ASK, "low confidence"),
        ([0.58, 0.4, 0.02, 0.0, 0.0, 0.0], IS_GOOD, "simple image, edge sure of good"),
    ):
        for order in (range(6), range(5, -1, -1), (3, 1, 4, 0, 5, 2)):
            found = policy.first([1 - p[0]], [[p[i] for i in order]], [0.2])
            assert (found.codes[0], found.reasons[0]) == (code, reason)
    uniform = replace(policy, min_confidence=0.1, min_margin=0.0).first([5 / 6], [[1 / 6] * 6], [0.2])
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
        Saec(0.5, 10).first([0.1], [[0.9, 0.1]])
    with pytest.raises(DataError, match="needs the edge's class probabilities"):
        Saec(0.5, 10).first([0.1], None, [0.1])
    with pytest.raises(DataError, match=r"came as \(2, 2\)"):
        Saec(0.5, 10).first([0.1], [[0.9, 0.1]] * 2, [0.1])
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
LABELS = np.repeat([1, 0], 200)
EDGE, VLM = (RNG.beta(np.repeat(up, 200), np.repeat(down, 200)) for up, down in (([3, 2], [2, 3]), ([4, 2], [2, 4])))
PLATT = Platt("odds", 1.0, 0.0)
BOTH = Composite(PLATT, PLATT, Platt("plain", 1.0, 0.0), 0.5, early_good=0.05, early_defect=0.95)
BAND = fit_certified(BOTH, EDGE, VLM, LABELS, range(400), Promise())
SAEC = fit_saec(COMPLEX)
POLICIES = pytest.mark.parametrize("policy", [BAND, SAEC], ids=["certified", "saec"])


@POLICIES
def test_replay_agrees_with_one_part_at_a_time(policy):
    played = replay(policy, P_EDGE, P_VLM, probabilities=np.stack([1 - P_EDGE, P_EDGE], 1), complexity=COMPLEX)
    for i, (p, q, c) in enumerate(zip(P_EDGE, P_VLM, COMPLEX, strict=True)):
        code, reason = first(policy, p, c)
        assert played.asked_because[i] == reason
        assert played.escalated[i] == (code == ASK)
        by = policy.decider if code == ASK else "edge"
        severity = policy.severity([p], [q])[0] if code == ASK else p
        code = int(policy.second([p], [q]).codes[0]) if code == ASK else code
        assert (played.codes[i], played.severity[i]) == (code, severity)
        assert played.decided_by[i] == ("rule" if code == UNDECIDED else by)
    asked = played.asked()
    assert sum(figure["k"] for figure in asked.values()) == played.escalated.sum() > 0


@pytest.mark.parametrize(("fallback", "code"), [("reject", IS_DEFECT), ("hold", UNDECIDED), ("pass", IS_GOOD)])
def test_what_nobody_decides_follows_the_fallback(fallback, code):
    alone, full = replay(BAND, P_EDGE, fallback=fallback), replay(BAND, P_EDGE, P_VLM, fallback=fallback)
    for played in (alone, full):
        stuck = played.decided_by == "rule"
        assert stuck.sum() > 0
        assert (played.codes[stuck] == code).all()
    assert (alone.severity == P_EDGE).all()
    assert (alone.decided_by[alone.escalated] == "rule").all()
    assert (full.escalated == alone.escalated).all()


def test_a_vlm_that_ran_on_some_parts():
    some = np.where(np.arange(400) % 2, P_VLM, np.nan)
    played, full = replay(BAND, P_EDGE, some), replay(BAND, P_EDGE, P_VLM)
    assert set(played.decided_by) == {"edge", "both", "rule"}
    assert (played.codes[~np.isnan(some)] == full.codes[~np.isnan(some)]).all()


@POLICIES
def test_the_vlm_decides_nothing_where_the_edge_failed(policy):
    failed = np.where(np.arange(400) % 4, P_EDGE, np.nan)
    p = np.stack([1 - failed, failed], 1)
    played = replay(policy, failed, P_VLM, probabilities=p, complexity=COMPLEX)
    assert set(played.decided_by[np.isnan(failed)]) == {"rule"}
    assert (played.codes[np.isnan(failed)] == UNDECIDED).all()
    assert not played.escalated[np.isnan(failed)].any()


def test_the_vlm_s_own_threshold_is_saec_s():
    second = SAEC.second([0.5, 0.5], [SAEC.cloud_threshold, np.nextafter(SAEC.cloud_threshold, 0)])
    assert second.codes.tolist() == [IS_DEFECT, IS_GOOD]


def test_replay_names_wrong_input():
    with pytest.raises(DataError, match="Fallback 'maybe'"):
        replay(BAND, P_EDGE, fallback="maybe")
    with pytest.raises(DataError, match="the VLM's severities hold 3 entries, 400"):
        replay(BAND, P_EDGE, P_VLM[:3])


NOBODY = fit_certified(Composite(PLATT), [0.5], None, [1], [0], Promise())


@pytest.mark.parametrize("policy", [BAND, SAEC, NOBODY], ids=["certified", "saec", "empty"])
def test_policies_survive_json(policy):
    assert policy_from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def edited(policy, *where, value):
    """The policy's JSON with one value changed."""
    values = json.loads(json.dumps(policy.to_dict()))
    inner = values
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return values


@pytest.mark.parametrize(
    ("policy", "where", "value", "message"),
    [
        (BAND, ("lo",), 0.1, r"unknown keys \['lo'\]"),
        (SAEC, ("margin",), 0.1, r"unknown keys \['margin'\]"),
        (BAND, ("limits", "low"), "0.1", "low is '0.1'"),
        (BAND, ("limits", "high"), float("inf"), "high is inf"),
        (BAND, ("limits",), None, "a table of settings is wanted"),
        (BAND, ("promise", "escape"), 0, "escape is 0"),
        (BAND, ("composite", "edge_share"), 1.5, "edge_share is 1.5"),
        (BAND, ("composite", "edge_share"), 1.0, "come together"),
        (BAND, ("composite", "vlm"), None, "come together"),
        (BAND, ("composite", "edge"), None, "has no edge"),
        (BAND, ("composite", "edge", "slope"), -1.0, "slope is -1.0"),
        (BAND, ("composite", "edge", "scale"), "log", "scale is 'log'"),
        (BAND, ("composite", "early_good"), 0.99, "early_good lies above early_defect"),
        (SAEC, ("max_complexity",), float("nan"), "max_complexity is nan"),
        (SAEC, ("policy",), "calibrated", "'calibrated' was asked for"),
    ],
)
def test_edited_policies_are_refused(policy, where, value, message):
    with pytest.raises(DataError, match=message):
        policy_from_dict(edited(policy, *where, value=value))


@pytest.mark.parametrize(("policy", "key"), [(BAND, "limits"), (SAEC, "cloud_threshold")], ids=["certified", "saec"])
def test_a_missing_setting_is_refused(policy, key):
    values = policy.to_dict()
    del values[key]
    with pytest.raises(DataError, match=rf"missing keys \['{key}'\]"):
        policy_from_dict(values)


def test_the_public_policies_say_what_they_need():
    assert (Certified.needs_complexity, Saec.needs_complexity) == (False, True)
