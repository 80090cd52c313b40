"""Calibration and evaluation on the real ELPV images with an engine whose answers are known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect import Inspector, files
from hf_inspect.calibrate import calibrate
from hf_inspect.cascade import (
    UNDECIDED,
    CalibrationScores,
    Composite,
    Promise,
    alone,
    edge_alone_threshold,
    fit_certified,
    fit_composite,
    fit_saec,
    policy_from_dict,
    replay,
)
from hf_inspect.cascade.composite import Platt
from hf_inspect.cascade.replay import threshold_at_overkill
from hf_inspect.data import load_split, read_manifest, record_history, write_history
from hf_inspect.errors import LeakageError
from hf_inspect.reports import cascade_report, evaluate_cascade, evaluate_edge, model_report, results_table, timing
from hf_inspect.reports.evaluate import edge_report, named_classes
from hf_inspect.reports.heading import LEDGER
from hf_inspect.reports.undecided import undecided_report
from hf_inspect.runtime import INSPECT, TRAINED_ON, Engine
from hf_inspect.schema import BINARY, TaskSpec
from hf_inspect.scoring import Answers, Scores, read_rows, run
from hf_inspect.vlm import ScriptedVLM
from tests.scripted import brightness_engine


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    return brightness_engine(tmp_path_factory.mktemp("edge") / "edge", side=32)


@pytest.fixture(scope="module")
def cascade(edge, elpv, tmp_path_factory):
    out = tmp_path_factory.mktemp("cascade") / "cascade"
    calibrate(edge, None, elpv, out)
    return out


def test_scores_are_the_engine_s_own(edge, elpv, tmp_path):
    engine = Engine.from_pretrained(edge)
    scores = run({"edge": engine}, elpv, "calibration", tmp_path / "scores.jsonl")
    rows = load_split(elpv, "calibration")
    assert scores.sources == [row["path"] for row in rows["image"]]
    assert scores.labels.tolist() == rows["label"]
    assert scores.groups.tolist() == rows["group"]
    one = engine.predict([rows[7]["image"]["bytes"]])[0]
    assert scores.answers["edge"].severity[7] == pytest.approx(one.severity, abs=1e-9)
    assert scores.answers["edge"].probabilities[7] == pytest.approx(one.probabilities, abs=1e-9)
    assert set(scores.answers) == {"edge"}


def test_calibration_writes_what_it_used(cascade, edge, elpv):
    stated = files.read_json(cascade / "cascade.json")
    rows = read_rows(cascade / stated["calibration"]["scores"])
    assert {(row["split"], row.get("vlm")) for row in rows} == {("validation", None), ("calibration", None)}
    fitting, sampled = (CalibrationScores.from_rows(rows, split) for split in ("validation", "calibration"))
    assert len(sampled.edge) == sum(read_manifest(elpv)["counts"]["default"]["calibration"].values())
    composite = fit_composite(fitting.edge, None, fitting.labels, fitting.groups, Promise(), sampled.sizes)
    again = fit_certified(composite, sampled.edge, None, sampled.labels, sampled.groups, Promise())
    assert again == policy_from_dict(stated["policies"]["certified"])
    assert stated["calibration"]["data"] == read_manifest(elpv)["fingerprint"]
    assert (stated["edge"], stated["task"]) == ({"folder": "edge"}, BINARY.to_dict())
    assert (cascade / "edge" / INSPECT).read_bytes() == (edge / INSPECT).read_bytes()
    assert stated["files"]["calibration.jsonl"] == files.sha256(cascade / "calibration.jsonl")
    assert stated["files"]["edge/openvino_model.bin"] == files.sha256(edge / "openvino_model.bin")
    assert not list(cascade.parent.glob("*.scores.jsonl"))


def test_the_complexity_limit_is_of_validation_alone(cascade):
    stated = files.read_json(cascade / "cascade.json")
    rows = [row for row in read_rows(cascade / "calibration.jsonl") if row["split"] == "validation"]
    found = stated["policies"]["saec"]
    assert found["fitted_on"] == len(rows) == 262
    limit = np.quantile([row["complexity"] for row in rows], 0.7, method="inverted_cdf")
    assert found["max_complexity"] == limit


def test_the_cascade_of_a_calibration_runs(cascade, elpv):
    content = load_split(elpv, "test")[0]["image"]["bytes"]
    verdict = Inspector.from_pretrained(cascade)(content)
    assert verdict.label in ("good", "defect", "undecided")
    wanted = Inspector.from_pretrained(cascade).edge.predict([content])[0].severity
    assert verdict.severity_of("edge") == pytest.approx(wanted)


def seen(edge, elpv, split, tmp_path):
    """A copy of the engine that says it was trained on `split`."""
    other = tmp_path / "seen"
    shutil.copytree(edge, other)
    write_history(other, record_history(elpv, {split: None}))
    info = files.read_json(other / INSPECT)
    info["files"][TRAINED_ON] = files.sha256(other / TRAINED_ON)
    files.write_json(other / INSPECT, info)
    return other


@pytest.mark.parametrize("split", ["test", "calibration"])
def test_nothing_is_measured_or_calibrated_on_images_seen(edge, elpv, split, tmp_path):
    leaking = seen(edge, elpv, split, tmp_path)
    with pytest.raises(LeakageError, match=r"cell\d+\.png, cell\d+\.png, cell\d+\.png"):
        evaluate_edge(leaking, elpv, split, tmp_path / "scores.jsonl")
    if split == "calibration":
        with pytest.raises(LeakageError):
            calibrate(leaking, None, elpv, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_what_the_vlm_has_seen_is_refused_as_what_the_edge_has(edge, elpv, tmp_path):
    vlm = ScriptedVLM([0.1])
    vlm.history = record_history(elpv, {"calibration": None})
    models = {"edge": Engine.from_pretrained(edge), "vlm": vlm}
    with pytest.raises(LeakageError, match="vlm"):
        run(models, elpv, "calibration", tmp_path / "scores.jsonl")
    assert vlm.asked == 0


def test_evaluations_of_a_split_are_counted(edge, elpv, tmp_path):
    first = evaluate_edge(edge, elpv, "test", tmp_path / "one.jsonl")
    second = evaluate_edge(edge, elpv, "test", tmp_path / "two.jsonl")
    again = evaluate_edge(edge, elpv, "test", tmp_path / "two.jsonl")
    counted = [r["data"]["evaluations_of_this_split"] for r in (first, second, again)]
    assert counted == [counted[0], counted[0] + 1, counted[0] + 1]  # what is read again is counted once
    assert [entry["split"] for entry in files.read_json(elpv / LEDGER)][-2:] == ["test", "test"]
    assert {k: first["edge"][k] for k in ("accuracy", "auroc")} == {k: second["edge"][k] for k in ("accuracy", "auroc")}
    assert first["edge"]["n"] == 525
    assert first["task"] == BINARY.to_dict()
    assert first["edge"]["history"] == {"data": [{"name": "none", "fingerprint": "none", "images": 0}], "unknown": []}
    weights = edge / "openvino_model.bin"
    assert first["inputs"] == {"models": {weights.name: files.sha256(weights)}}


def test_an_edge_only_cascade_is_measured_by_its_own_limits(cascade, elpv, tmp_path):
    results = evaluate_cascade(cascade, elpv, "test", tmp_path / "scores.jsonl")
    report = results["cascade"]["certified"]
    assert "vlm" not in results
    assert report["vlm_calls"]["k"] == 0
    assert report["undecided"] == results["undecided"]["edge"] == results["undecided"]["cascade"]
    assert report["undecided"]["k"] > 0
    assert results["promise"] == {"escape": 0.05, "overkill": 0.10, "confidence": 0.95}
    assert results["fewer_undecided"]["edge"]["value"] == 0
    assert set(results["alone"]) == {"edge"}
    points = results["undecided_curve"]
    assert next(one for one in points if one["escape"] == 0.05)["cascade"] == report["undecided"]
    shares = [one["cascade"]["k"] for one in points]
    assert shares == sorted(shares, reverse=True)
    table = results_table(results).splitlines()
    assert table[0].startswith("| at the promise: escapes <= 5.0%, overkill <= 10.0%, 95% |")
    at = next(i for i, line in enumerate(table) if line.startswith("| cascade `saec` |"))
    assert table[at + 1].startswith("| edge alone, overkill of `saec` |")


def test_the_edge_alone_is_held_to_the_cascade_s_overkill(cascade, elpv, tmp_path):
    """By hand: every threshold is tried on the calibration split, and the one found is counted on the test split."""
    kept = [row for row in read_rows(cascade / "calibration.jsonl") if row["split"] == "calibration"]
    severity = np.array([row["edge"]["severity"] for row in kept])
    good = np.array([row["label"] == "good" for row in kept])
    policy = policy_from_dict(files.read_json(cascade / "cascade.json")["policies"]["saec"])
    gate = np.array([row["complexity"] for row in kept])
    codes = policy.first(severity, [row["edge"]["probabilities"] for row in kept], gate).codes
    rejected = int((codes[good] == 1).sum())  # without a VLM the cascade rejects what the edge rejects
    just_above = np.nextafter(severity, 1)
    allowed = [t for t in just_above if (severity[good] >= t).sum() <= rejected]
    results = evaluate_cascade(cascade, elpv, "test", tmp_path / "scores.jsonl")
    report = results["cascade"]["saec"]["edge_alone"]
    answered = [row for row in read_rows(tmp_path / "scores.jsonl") if "edge" in row]
    says = np.array([row["edge"]["severity"] >= min(allowed) for row in answered])
    defect = np.array([row["label"] == "defect" for row in answered])
    assert report["escapes"]["k"] == (~says & defect).sum()
    assert report["overkill"]["k"] == (says & ~defect).sum()
    assert report["accuracy"]["k"] == (says == defect).sum()


def test_a_cascade_is_timed_as_it_runs_in_batches_and_one_at_a_time(cascade, elpv, tmp_path, monkeypatch):
    calls = []
    inspect = Inspector.inspect

    def watched(self, sources):
        sources = list(sources)
        calls.append((self.policy.name, len(sources)))
        return inspect(self, sources)

    monkeypatch.setattr(Inspector, "inspect", watched)
    results = evaluate_cascade(cascade, elpv, "test", tmp_path / "scores.jsonl")
    for name, report in results["cascade"].items():
        sizes = [n for policy, n in calls if policy == name]
        assert sizes.count(timing.TIMED) == 1  # all at once, and then each alone, after one to warm up
        assert sizes.count(1) == timing.TIMED + 1
        assert report["speed"]["images"] == timing.TIMED
        assert report["speed"]["in_batches"] > 0
    assert results["edge"]["speed"]["one_at_a_time"] > 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_as_large_a_share_of_the_timed_images_is_escalated_as_of_all(share):
    flags = np.random.default_rng(0).permutation(np.arange(525) < share * 525)
    rows = timing.chosen(flags)
    assert len(set(rows)) == timing.TIMED
    assert abs(flags[rows].sum() - share * timing.TIMED) <= 1
    assert timing.chosen(flags[:5]) == [0, 1, 2, 3, 4]


SIX = TaskSpec.of(["Bird-drop", "Clean", "Dusty", "Electrical", "Physical", "Snow"], ["Clean"])


def scores(n=400, seed=0, task=BINARY):
    """A split's answers, edge worse than VLM; with more classes a defect's likeliest is right four times in five."""
    rng = np.random.default_rng(seed)
    defect = rng.random(n) < 0.3
    ids = np.flatnonzero(task.is_defect)
    classes = np.where(defect, rng.choice(ids, n), np.flatnonzero(~task.is_defect)[0])
    answers = {}
    for name, slope, width in (("edge", 0.3, 0.15), ("vlm", 0.5, 0.1)):
        severity = np.clip(slope * defect + rng.normal(0.6 - slope / 1.2, width, n), 0.01, 0.99)
        named = np.where(rng.random(n) < 0.8, np.where(defect, classes, ids[0]), rng.choice(ids, n))
        p = np.zeros((n, len(task.classes)))
        p[:, ~task.is_defect] = ((1 - severity) / (~task.is_defect).sum())[:, None]
        p[np.arange(n), named] += severity
        answers[name] = Answers(severity, p)
    sources = [f"{i}.png" for i in range(n)]
    return Scores(task, Path("none"), np.arange(n), sources, classes, np.arange(n), rng.random(n), answers, [], "begun")


SAEC = fit_saec(np.linspace(0, 1, 100))


def fit(found):
    """The policy `certified` of these scores, which ask the VLM about the middle."""
    edge, vlm = (found.answers[name].severity for name in ("edge", "vlm"))
    composite = Composite(PLAIN, PLAIN, Platt("plain", 1.0, 0.0), 0.5, early_good=0.1, early_defect=0.9)
    return fit_certified(composite, edge, vlm, found.labels, found.groups, Promise())


PLAIN = Platt("odds", 1.0, 0.0)


@pytest.mark.parametrize("task", [BINARY, SIX], ids=["two", "six"])
def test_a_cascade_report_adds_up(task):
    found = scores(task=task)
    policy = fit(found)
    report = cascade_report(found, policy)
    sent = report["vlm_calls"]
    assert sent["k"] == report["escalated"]["vlm"]["n"] == report["escalated"]["edge"]["n"]
    assert sum(rate["k"] for rate in report["asked_because"].values()) == sent["k"] > 0
    edge = model_report(found, "edge", ScriptedVLM([0.5], task))
    difference = report["accuracy"]["value"] - edge["accuracy"]["value"]
    assert report["minus_edge_only"]["value"] == pytest.approx(difference)
    json.dumps(report)


def test_all_are_held_to_one_promise():
    """By hand: each by limits of its own out of the calibration scores, and differences part by part."""
    stored, found = scores(seed=1), scores()
    kept = CalibrationScores(
        stored.labels, stored.groups.astype(str), stored.answers["edge"].severity, stored.answers["vlm"].severity
    )
    policy = fit(stored)
    report = undecided_report(found, policy, kept)
    open_ = {
        name: alone(stored.answers[name].severity, stored.labels, stored.groups, Promise()).codes(one.severity)
        == UNDECIDED
        for name, one in found.answers.items()
    }
    open_["cascade"] = replay(policy, *(one.severity for one in found.answers.values())).codes == UNDECIDED
    assert {name: rate["k"] for name, rate in report["undecided"].items()} == {
        name: one.sum() for name, one in open_.items()
    }
    for name in ("edge", "vlm"):
        by_hand = open_[name].mean() - open_["cascade"].mean()
        assert report["fewer_undecided"][name]["value"] == pytest.approx(by_hand)
        assert report["alone"][name]["undecided"] == report["undecided"][name]
    assert report["undecided"]["cascade"]["k"] < report["undecided"]["edge"]["k"]


def with_intervals(report, at=""):
    """Every figure of a report that has an interval, by where it stands."""
    for key, value in report.items() if isinstance(report, dict) else enumerate(report):
        if isinstance(value, dict) and "method" in value:
            yield f"{at}/{key}", value
        elif isinstance(value, dict | list):
            yield from with_intervals(value, f"{at}/{key}")


@pytest.mark.parametrize("task", [BINARY, SIX], ids=["two", "six"])
def test_every_interval_counts_parts_where_they_have_several_views(task):
    """Four views alike of each part: all limits are those of the parts alone, and `method` says so."""
    once = scores(task=task)
    rows = np.arange(400).repeat(4)
    answers = {name: one[rows] for name, one in once.answers.items()}
    several = replace(
        once, sources=[once.sources[i] for i in rows], classes=once.classes[rows], groups=rows,
        complexity=once.complexity[rows], answers=answers,
    )  # fmt: skip
    policy, model = fit(once), ScriptedVLM([0.5], task)
    for report in (lambda of: model_report(of, "vlm", model), lambda of: cascade_report(of, policy)):
        wanted, found = (dict(with_intervals(report(of))) for of in (once, several))
        assert len(found) == len(wanted) > 10
        for at, figure in found.items():
            assert figure["n"] == 4 * wanted[at]["n"], at
            if figure["value"] is not None:
                assert "by group" in figure["method"], at
                limits = [wanted[at][key] for key in ("value", "low", "high")]
                assert [figure[key] for key in ("value", "low", "high")] == pytest.approx(limits, abs=1e-9), at


def test_right_is_who_names_the_class():
    """Of six classes, a defect called another defect is no escape and not right; by hand, part by part."""
    found = scores(task=SIX)
    policy = fit(found)
    outcome = replay(policy, found.answers["edge"].severity, found.answers["vlm"].severity)
    named, right = named_classes(found, outcome), 0
    for i, code in enumerate(outcome.codes):
        if outcome.decided_by[i] == "rule":
            assert named[i] == -1
            continue
        by = "vlm" if outcome.decided_by[i] == "both" else "edge"
        p = found.answers[by].probabilities[i]
        side = [j for j, name in enumerate(SIX.classes) if (SIX.disposition(name) == "defect") == (code == 1)]
        assert named[i] == max(side, key=lambda j: p[j])
        right += named[i] == found.classes[i]
    report = cascade_report(found, policy)
    assert report["accuracy"]["k"] == right < len(found.classes) - report["escapes"]["k"] - report["overkill"]["k"]


def test_where_the_edge_failed_nobody_is_right_and_nothing_is_asked():
    found = scores()
    edge, policy = found.answers["edge"], fit(found)
    severity, p = edge.severity.copy(), edge.probabilities.copy()
    severity[:40], p[:40] = np.nan, np.nan
    failed = replace(found, answers={**found.answers, "edge": Answers(severity, p)})
    report, rest = cascade_report(failed, policy), cascade_report(slice_of(found, slice(40, None)), policy)
    assert report["undecided"]["k"] == rest["undecided"]["k"] + 40
    assert report["n"] == rest["n"] + 40
    for name in ("accuracy", "escapes", "overkill"):
        assert report[name]["k"] == rest[name]["k"]
    assert report["vlm_calls"]["k"] == rest["vlm_calls"]["k"]
    assert edge_report(failed, 0.5)["undecided"]["k"] == 40


def slice_of(found, which):
    """Some of the images of synthetic scores."""
    parts = {name: getattr(found, name)[which] for name in ("numbers", "sources", "classes", "groups", "complexity")}
    return replace(found, answers={name: one[which] for name, one in found.answers.items()}, **parts)


def test_the_table_shows_every_model_and_policy():
    found, model = scores(), ScriptedVLM([0.5])
    policy = fit(found)
    results = {
        "edge": model_report(found, "edge", model),
        "vlm": model_report(found, "vlm", model),
        "cascade": {
            "certified": cascade_report(found, policy),
            "saec": cascade_report(found, SAEC) | {"edge_alone": edge_report(found, 0.5)},
        },
    }
    lines = results_table(results).splitlines()
    assert len(lines) == 7
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    accuracy = results["edge"]["accuracy"]
    assert f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})" in lines[2]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=30), st.integers(0, 10))
def test_a_threshold_at_an_overkill_is_the_lowest_that_keeps_it(parts, rejected):
    labels, severity = np.array([one for one, _ in parts], int), np.array([s / 7 for _, s in parts])
    found = threshold_at_overkill(labels, severity, rejected)
    goods = severity[labels == 0]
    assert (goods >= found).sum() <= rejected
    lower = severity[severity < found]
    if len(lower):  # one severity further down it would reject too many
        assert (goods >= lower.max()).sum() > rejected


def test_saec_s_rival_is_its_edge_at_no_more_overkill():
    found = scores()
    edge, vlm = found.answers.values()
    kept = CalibrationScores(
        found.labels, found.groups.astype(str), edge.severity, vlm.severity, edge.probabilities, found.complexity
    )
    threshold = edge_alone_threshold(kept, SAEC)
    rejected = (kept.played(SAEC).codes == 1)[found.labels == 0].sum()
    assert (edge.severity >= threshold)[found.labels == 0].sum() <= rejected
    lower = edge.severity[edge.severity < threshold].max()
    assert (edge.severity >= lower)[found.labels == 0].sum() > rejected
