"""What the Space's page says: verdicts step by step, and other promises over stored scores, in words and as a plot."""

import io
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import hf_inspect
from hf_inspect import Inspector
from hf_inspect.cascade import CalibrationScores, Composite, Promise, fit_certified, what_if
from hf_inspect.errors import DataError
from hf_inspect.inspector import load_policies
from hf_inspect.reports import page, plots
from hf_inspect.reports.plots import what_if_plot
from hf_inspect.schema import Prediction, Verdict
from hf_inspect.scoring import read_rows
from hf_inspect.tasks.canvas import new_figure
from hf_inspect.vlm import ScriptedVLM
from tests.conftest import png
from tests.scripted import BOTH, EDGE_ALONE, brightness_cascade, grey

ASSETS = Path(hf_inspect.__file__).parent / "assets" / "elpv"  # by path: `hf_inspect.demo` brings transformers


@pytest.fixture(scope="module")
def shipped() -> CalibrationScores:
    return CalibrationScores.from_rows(read_rows(ASSETS / "calibration.jsonl"))


@pytest.fixture(scope="module")
def inspector(tmp_path_factory) -> Inspector:
    return page.open_cascade(brightness_cascade(tmp_path_factory.mktemp("cascade")))[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Inspector, CalibrationScores]:
    """A cascade that asks a VLM between 0.35 and 0.65, whose answers are 0.02, 0.5, 0.98 and none, in turn."""
    opened, scores = page.open_cascade(brightness_cascade(tmp_path_factory.mktemp("two"), with_vlm=True))
    return replace(opened, vlm=ScriptedVLM([0.02, 0.5, 0.98, None])), scores


def scores(labels, edge, vlm=None, groups=None) -> CalibrationScores:
    n = len(labels)
    vlm = np.full(n, np.nan) if vlm is None else np.asarray(vlm)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    return CalibrationScores(np.asarray(labels), groups.astype(str), np.asarray(edge), vlm)


def test_the_promise_in_use_gives_the_cascade_its_own_limits(shipped):
    stated = load_policies(ASSETS)["certified"]
    found = what_if(shipped, stated.composite, stated.promise)
    limits = found.policy.limits
    assert (limits.low, limits.high) == pytest.approx((stated.limits.low, stated.limits.high), abs=1e-8)
    assert found.escapes["k"] == stated.limits.k_defects
    assert found.overkill["k"] == stated.limits.k_goods
    assert found.asked["n"] == found.undecided["n"] == stated.limits.defects + stated.limits.goods
    assert found.undecided["k"] + found.escapes["k"] < found.undecided_alone["edge"]["k"]


def test_only_rows_of_the_calibration_split_set_limits():
    rows = read_rows(ASSETS / "calibration.jsonl")
    turned = [row | {"edge": {"severity": 1 - row["edge"]["severity"]}} for row in rows]
    other = [two if one["split"] != "calibration" else one for one, two in zip(rows, turned, strict=True)]
    assert {row["split"] for row in rows} == {"validation", "calibration"}
    split = (CalibrationScores.from_rows(some) for some in (rows, other))
    one, two = (what_if(some, BOTH, Promise(0.1, 0.1, 0.9)) for some in split)
    assert one == two
    with pytest.raises(DataError, match="None of the stored scores is of the calibration split"):
        CalibrationScores.from_rows([rows[0] | {"split": "validation"}])


def test_what_follows_is_counted_by_hand():
    edge = np.concatenate([np.linspace(0.01, 0.6, 40), np.linspace(0.4, 0.99, 40)])
    vlm = np.concatenate([np.linspace(0.02, 0.7, 40), np.linspace(0.3, 0.98, 40)])
    y = np.repeat([0, 1], 40)
    found = what_if(scores(y, edge, vlm), BOTH, Promise(0.2, 0.2, 0.8))
    low, high = found.policy.limits.low, found.policy.limits.high
    early = [edge < 0.35, edge > 0.65]
    odds = np.sqrt(edge / (1 - edge) * vlm / (1 - vlm))  # the mean of both log-odds
    both = np.select(early, [edge - 1, edge + 1], odds / (1 + odds))
    assert found.asked["k"] == (~early[0] & ~early[1]).sum() > 0
    good, defect = both < low - 1e-9, both > high + 1e-9  # a limit is one of the scores
    assert found.escapes["k"] == good[y == 1].sum() > 0
    assert found.overkill["k"] == defect[y == 0].sum() > 0
    assert found.undecided["k"] == (~good & ~defect).sum() > 0
    for name, own in (("edge", edge), ("vlm", vlm)):
        lower = np.sort(own[y == 1])[found.policy.limits.k_defects]
        upper = max(lower, np.sort(own[y == 0])[-1 - found.policy.limits.k_goods])
        assert found.undecided_alone[name]["k"] == ((own >= lower) & (own <= upper)).sum() > 1


def test_of_a_group_the_answered_part_is_counted_that_set_the_limit():
    y, groups = np.repeat([1, 0], 80), np.repeat(np.arange(80), 2).astype(str)
    edge = np.tile(np.linspace(0.3, 0.7, 80), 2)
    vlm = np.where(np.arange(160) % 2, edge, np.nan)
    asked = CalibrationScores(y, groups, edge, vlm)
    found = what_if(asked, BOTH, Promise(0.2, 0.2, 0.8))
    assert found.undecided["n"] == found.policy.limits.defects + found.policy.limits.goods == 80
    assert found.escapes["k"] <= found.policy.limits.k_defects
    assert found.overkill["k"] <= found.policy.limits.k_goods


def test_a_part_that_the_vlm_did_not_answer_for_is_neither_escape_nor_overkill():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    edge, vlm = (rng.uniform(0.3, 0.65, 120) + 0.05 * y for _ in range(2))
    answered = scores(y, edge, np.where(np.arange(120) % 2, vlm, np.nan))
    found = what_if(answered, BOTH, Promise(0.2, 0.2, 0.8))
    between = (edge >= 0.35) & (edge <= 0.65)
    assert found.asked["k"] == between.sum()
    assert found.undecided["k"] >= (between & (np.arange(120) % 2 == 0)).sum() > 0
    assert found.policy.limits.defects + found.policy.limits.goods == (~np.isnan(BOTH.scores(edge, answered.vlm))).sum()


def test_a_cascade_of_its_edge_alone_leaves_as_much_undecided_as_the_edge():
    edge = np.random.default_rng(0).uniform(0.2, 0.8, 120)
    found = what_if(scores(np.repeat([0, 1], 60), edge), EDGE_ALONE, Promise(0.1, 0.1, 0.9))
    assert found.undecided == found.undecided_alone["edge"]
    assert (set(found.undecided_alone), found.asked["k"]) == ({"edge"}, 0)


def test_one_part_of_a_group_is_counted_as_it_is_calibrated():
    labels, p = np.tile([0, 1, 1], 50), np.random.default_rng(1).uniform(0, 1, 150)
    found = what_if(scores(labels, p, groups=np.arange(150) // 3), EDGE_ALONE, Promise(0.1, 0.1, 0.9))
    limits = found.policy.limits
    assert (limits.defects, limits.goods, limits.left_out) == (50, 50, 50)
    assert (found.escapes["n"], found.overkill["n"]) == (50, 50)
    assert found.escapes["k"] == limits.k_defects  # those that set the limits are those that are counted


parts = st.lists(
    st.tuples(st.integers(0, 1), st.floats(0, 1), st.one_of(st.just(float("nan")), st.floats(0, 1))),
    min_size=2,
    max_size=120,
)
risk = st.floats(0.005, 0.3)
composites = st.sampled_from([EDGE_ALONE, BOTH, replace(BOTH, early_good=None), replace(BOTH, early_defect=0.35)])


def with_a_score(drawn, composite: Composite) -> CalibrationScores:
    """Scores of drawn parts, of which the composite has one at least."""
    some = scores(*zip(*drawn, strict=True))
    assume(not np.isnan(composite.scores(some.edge, some.vlm)).all())
    return some


@settings(max_examples=80, deadline=None)
@given(parts, composites, risk, risk, st.floats(0.5, 0.99))
def test_the_system_keeps_its_promise_on_its_own_parts(drawn, composite, escape, overkill, confidence):
    found = what_if(with_a_score(drawn, composite), composite, Promise(escape, overkill, confidence))
    assert found.escapes["k"] <= escape * found.escapes["n"]
    assert found.overkill["k"] <= overkill * found.overkill["n"]
    assert found.escapes["k"] <= (found.policy.limits.k_defects or 0)
    assert found.overkill["k"] <= (found.policy.limits.k_goods or 0)
    assert found.undecided["n"] == found.asked["n"] == len(drawn)


@settings(max_examples=40, deadline=None)
@given(parts, composites, risk, risk, st.floats(0.5, 0.99))
def test_promising_less_never_says_good_to_fewer(drawn, composite, escape, more, confidence):
    some = with_a_score(drawn, composite)
    lower, higher = sorted((escape, more))
    strict, loose = (what_if(some, composite, Promise(one, 0.1, confidence)) for one in (lower, higher))
    if strict.policy.limits.low is not None:
        assert loose.policy.limits.low >= strict.policy.limits.low
    assert loose.escapes["k"] >= strict.escapes["k"]


def test_the_plot_shows_limits_and_where_an_image_lies(shipped):
    strict, loose = (what_if(shipped, BOTH, promise) for promise in (Promise(), Promise(0.2, 0.2, 0.8)))
    drawn = [what_if_plot(shipped, *rest) for rest in ((strict,), (strict, 0.3), (strict, -0.99), (loose,))]
    assert len(set(drawn)) == 4
    assert drawn[1] == what_if_plot(shipped, strict, 0.3)
    with Image.open(io.BytesIO(drawn[0])) as image:
        assert image.format == "PNG"
    few = scores([0, 1], [0.1, 0.9])
    never = what_if(few, EDGE_ALONE, Promise())
    assert never.policy.limits.low is never.policy.limits.high is None
    assert what_if_plot(few, never, 1.0)


def test_the_plot_has_every_part_once_with_early_ones_apart():
    axes = new_figure(4, 3).add_subplot()
    edge, vlm = np.array([0.01, 0.2, 0.5, 0.5, 0.6, 0.9, 1.0]), np.array([np.nan, 0.5, 0.0, 1.0, np.nan, 0.3, 0.3])
    plots._draw_scores(axes, scores([0, 0, 0, 1, 1, 1, 1], edge, vlm), BOTH)
    heights, at = zip(*((one.get_height(), one.get_x()) for one in axes.patches if one.get_height()), strict=True)
    assert sum(heights) == 6  # the VLM gave no answer for the one at 0.6
    high = plots._log_odds(1 - plots.LOWEST)
    bar = 2 * high / plots.BINS  # the early verdicts lie this far from what both decide
    assert sum(height for height, x in zip(heights, at, strict=True) if x < -high - 1.5 * bar) == 2
    assert sum(height for height, x in zip(heights, at, strict=True) if x > high + bar / 2) == 2
    assert [label.get_text() for label in axes.get_xticklabels()].count("edge\nsure") == 2
    order = plots._place(np.array([-1, -0.9, -0.1, 0, 0.01, 0.5, 0.99, 1, 1.1, 1.9, 2.0]))
    assert (np.diff(order) > 0).all()


def verdict(edge, vlm=None) -> Verdict:
    """One whose models gave these severities."""
    evidence = {name: Prediction(p) for name, p in (("edge", edge), ("vlm", vlm)) if p is not None}
    return Verdict("undecided", "rule", "any", evidence=evidence)


@pytest.fixture
def undrawn(monkeypatch):
    """Plots that take no time: the words are looked at."""
    monkeypatch.setattr(page, "what_if_plot", lambda *of: repr(of[2]).encode())


@pytest.mark.usefixtures("undrawn")
def test_a_page_says_what_would_become_of_the_image(two):
    inspector, stored = two
    found = what_if(stored, inspector.policy.composite, inspector.policy.promise)
    answers = {"good": (0.4, 0.3), "a defect": (0.6, 0.7), "undecided": (0.48, 0.48)}
    for said, (edge, vlm) in answers.items():
        ending = "leave this image undecided" if said == "undecided" else f"call this image {said}"
        assert f"It would {ending}." in page.what_if_html(found, stored, verdict(edge, vlm))[0]
    for edge, said in ((0.01, "call this image good"), (0.99, "call this image a defect"), (0.5, "ask the VLM about")):
        assert f"It would {said}" in page.what_if_html(found, stored, verdict(edge))[0]
    for nobody in (None, Verdict("unreadable", "rule", "no image"), verdict(None)):
        html, image = page.what_if_html(found, stored, nobody)
        assert "this image" not in html
        assert image.endswith(f'base64,{b64encode(b"None").decode()}">')


def test_an_image_is_marked_at_its_score_by_both(two, monkeypatch):
    inspector, stored = two
    found = what_if(stored, inspector.policy.composite, inspector.policy.promise)
    marked = []
    monkeypatch.setattr(page, "what_if_plot", lambda scores, found, score: marked.append(score) or b"drawn")
    for one in (verdict(0.5, 0.7), verdict(0.2), verdict(0.8), verdict(0.5)):
        page.what_if_html(found, stored, one)
    assert marked[0] == pytest.approx(1 / (1 + np.sqrt(3 / 7)))
    assert marked[1:] == [pytest.approx(-0.8), pytest.approx(1.8), None]


def test_a_page_moves_the_promise_of_the_whole_system(two):
    inspector, stored = two
    promise = Promise(0.03, 0.2, 0.9)
    found = what_if(stored, inspector.policy.composite, promise)
    html, image = page.what_if_html(found, stored, None)
    assert 'alt="Calibration scores by class. For at most 3.0% of the defects' in image
    low, high = found.policy.limits.low, found.policy.limits.high
    assert "For at most 3.0% of the defects called good and 20.0% of the good parts called defects, whoever" in html
    assert "with confidence 90%, P(defect) by both together would say " in html
    assert f"good: below {low:.3f}; defect: above {high:.3f}; undecided: the rest." in html
    rows = {
        "Undecided": found.undecided,
        "Undecided by the edge alone": found.undecided_alone["edge"],
        "Undecided by the VLM alone": found.undecided_alone["vlm"],
        "Asked of the VLM": found.asked,
        "Escapes": found.escapes,
        "Overkill": found.overkill,
    }
    for name, one in rows.items():
        assert f"<tr><th scope='row'>{name}</th><td>{one['value']:.1%} " in html
        assert f"; {one['k']} of {one['n']})</td>" in html
    assert html.count("<tr>") == len(rows)


@pytest.mark.usefixtures("undrawn")
def test_limits_beyond_the_early_verdicts_are_said_in_words():
    """A wanted promise may cut among the parts that the edge settles early, at either end."""
    eager = replace(BOTH, early_good=0.5, early_defect=None)
    rng = np.random.default_rng(3)
    some = scores(np.repeat([0, 1], 200), rng.uniform(0, 1, 400), rng.uniform(0, 1, 400))
    words = page.what_if_html(what_if(some, eager, Promise(0.1, 0.1, 0.9)), some, None)[0]
    assert "good: only what the edge alone is surest of; defect: above" in words
    late = replace(BOTH, early_good=None, early_defect=0.5)
    words = page.what_if_html(what_if(some, late, Promise(0.7, 0.3, 0.9)), some, None)[0]
    assert "good: all but what the edge alone is surest of; defect: only what the edge alone is surest of" in words
    few = scores([0, 1], [0.1, 0.9])
    words = page.what_if_html(what_if(few, EDGE_ALONE, Promise()), few, verdict(0.2))[0]
    assert "good: never, as 1 calibration defects are too few; defect: never, as 1 good calibration parts" in words
    assert "P(defect) by the edge model would say" in words
    assert "It would leave this image undecided." in words


def test_a_verdict_is_shown_step_by_step(inspector):
    good, between, broken = page.inspect_uploads(inspector, [png(grey(20)), png(grey(128)), b"no image <b>"])
    shown = [page.verdict_html(verdict, inspector.policy) for verdict in (good, between, broken)]
    assert "<strong>good</strong>" in shown[0]
    assert "decided by the edge model" in shown[0]
    assert "<dt>VLM</dt><dd>not asked by this cascade</dd>" in shown[0]
    limits = inspector.policy.limits
    words = f"(good: below {limits.low:.3f}; defect: above {limits.high:.3f}; undecided: the rest)"
    assert f"P(defect) {good.severity:.3f}, below the good limit {words}: good" in shown[0]
    assert f"<strong>undecided</strong>, P(defect) {between.severity:.3f}, nobody may decide: a person" in shown[1]
    assert f"between the limits {words}: undecided" in shown[1]
    assert "unreadable" in shown[2]
    assert "is not an image" in shown[2]
    assert all("/" not in one.replace("</", "") for one in shown)
    named = Verdict(
        "defect", "edge", "above the defect limit", 0.7, "<b>Riß</b>", 0.614,
        {"edge": Prediction(0.7, (0.3, 0.7))}, ("first frame of 2",), {"edge": 1},
    )  # fmt: skip
    html = page.verdict_html(named, inspector.policy)
    assert "<strong>defect</strong>: &lt;b&gt;Riß&lt;/b&gt;, 0.61, P(defect) 0.700" in html
    assert "first frame of 2" in html


def test_edge_vlm_and_both_together_are_shown_in_their_order(two):
    inspector, _ = two
    levels = (20, 126, 128, 130, 127, 240)
    verdicts = page.inspect_uploads(inspector, [png(grey(level)) for level in levels])
    assert [one.label for one in verdicts] == ["good", "good", "undecided", "defect", "undecided", "defect"]
    shown = [page.verdict_html(one, inspector.policy) for one in verdicts]
    alone = "(alone it is sure of good below 0.350 and of a defect above 0.650)"
    assert f"the edge is sure of good {alone}, " in shown[0]
    assert "the edge is sure of a defect" in shown[5]
    for html in (shown[0], shown[5]):
        assert "decided by the edge model" in html
        assert "<dt>VLM</dt><dd>not asked</dd>" in html
        assert "Both together" not in html
    limits = inspector.policy.limits
    words = f"(good: below {limits.low:.3f}; defect: above {limits.high:.3f}; undecided: the rest)"
    sides = ("below the good limit", "between the limits", "above the defect limit")
    for one, html, answer, side in zip(verdicts[1:4], shown[1:4], (0.02, 0.5, 0.98), sides, strict=True):
        assert f"the edge alone is not sure enough {alone}, " in html
        assert f"<dt>VLM</dt><dd>P(defect) {answer:.3f}, " in html
        assert f"<dt>Both together</dt><dd>P(defect) {one.severity:.3f}, {side} {words}: {one.label}</dd>" in html
        assert html.index("Edge model") < html.index("<dt>VLM") < html.index("Both together")
    assert "decided by edge model and VLM together" in shown[1]
    assert "nobody may decide: a person looks" in shown[2]
    assert "<dt>VLM</dt><dd>no answer: " in shown[4]
    assert "gave no answer" not in shown[4]
    nothing = {"edge": Prediction(None, unreadable="its fault")}
    failed = Verdict("undecided", "rule", "the edge gave no answer; its fault", evidence=nothing)
    assert "<dt>Edge model</dt><dd>the edge gave no answer; its fault</dd>" in page.verdict_html(
        failed, inspector.policy
    )


def test_what_was_lost_to_an_early_verdict_is_not_said_to_be_good():
    """More calibration defects than may be lie below `early_good`: who is not surest there stays undecided."""
    eager = replace(BOTH, early_good=0.5)
    rng = np.random.default_rng(3)
    answers = rng.uniform(0, 1, 400), rng.uniform(0, 1, 400)
    spoilt = fit_certified(eager, *answers, np.repeat([0, 1], 200), np.arange(400), Promise(0.1, 0.1, 0.9))
    html = page.verdict_html(replace(verdict(0.45), ms={"edge": 1.0}), spoilt)
    assert "the edge is sure, and more than may be was lost that way among the calibration parts (alone it" in html
    assert "<dt>VLM</dt><dd>not asked</dd>" in html
    assert "sure of good, " not in html


def test_a_page_says_how_it_decides_and_claims_no_answer_that_it_lacks(inspector, two):
    both, alone = two[0].policy, inspector.policy
    assert "both decide together. What lies" in page.how_decided(both)
    assert "**No VLM answers here (it is switched off): where it would be asked" in page.how_decided(
        both, "it is switched off"
    )
    assert "asks no other" in page.how_decided(alone)
    assert "VLM" not in page.how_decided(alone, "this cascade has no VLM")
    for policy in (both, alone):
        assert page.how_decided(policy).endswith("nobody decides: a person looks.")
