"""Scoring, calibration and evaluation on the real ELPV images with an engine whose answers are known."""

import json

import numpy as np
import pytest

from hf_inspect import Inspector, files, images
from hf_inspect.calibrate import calibrate
from hf_inspect.cascade import Calibrated, fit_calibrated
from hf_inspect.data import load_split, read_manifest, trained_on, write_trained_on
from hf_inspect.errors import LeakageError
from hf_inspect.reports import cascade_report, evaluate_edge, model_report, results_table
from hf_inspect.reports.evaluate import LEDGER
from hf_inspect.runtime import INSPECT, TRAINED_ON, Engine
from hf_inspect.scoring import Scores, read_scores, score
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


def test_scores_are_the_shipped_engine_s_own(edge, elpv):
    scores = score(elpv, "calibration", Engine.from_pretrained(edge))
    rows = load_split(elpv, "calibration")
    assert scores.sources == [row["path"] for row in rows["image"]]
    assert scores.labels.tolist() == rows["label"]
    one = Engine.from_pretrained(edge).predict([rows[7]["image"]["bytes"]])
    assert scores.p_edge[7] == pytest.approx(one[0], abs=1e-9)
    assert np.isnan(scores.p_vlm).all()
    assert set(scores.ms) == {"edge", "complexity"}


def test_calibration_writes_what_it_used(cascade, edge, elpv):
    stated = files.read_json(cascade / "cascade.json")
    rows = read_scores(cascade / stated["calibration"]["scores"])
    assert {(row["split"], row["p_vlm"]) for row in rows} == {("validation", None), ("calibration", None)}
    drawn = [row for row in rows if row["split"] == "calibration"]
    assert len(drawn) == sum(read_manifest(elpv)["counts"]["default"]["calibration"].values())
    again = fit_calibrated(
        [row["p_edge"] for row in drawn], [row["label"] for row in drawn], [row["group"] for row in drawn]
    )
    kept = Calibrated.from_dict(stated["policies"]["calibrated"])
    assert (again.low, again.high) == pytest.approx((kept.low, kept.high), abs=1e-8)
    assert stated["calibration"]["data"] == read_manifest(elpv)["fingerprint"]
    assert stated["edge"] == "edge"
    assert (cascade / "edge" / INSPECT).read_bytes() == (edge / INSPECT).read_bytes()
    assert stated["files"]["calibration.jsonl"] == files.sha256(cascade / "calibration.jsonl")
    assert stated["files"]["edge/openvino_model.bin"] == files.sha256(edge / "openvino_model.bin")


def test_the_cascade_of_a_calibration_runs(cascade, elpv):
    content = load_split(elpv, "test")[0]["image"]["bytes"]
    verdict = Inspector.from_pretrained(cascade)(content)
    assert verdict.label in ("good", "defect", "undecided")
    assert verdict.p_edge == pytest.approx(Inspector.from_pretrained(cascade).edge.predict([content])[0])


def seen(edge, elpv, split, tmp_path):
    """A copy of the engine that says it was trained on `split`."""
    import shutil

    other = tmp_path / "seen"
    shutil.copytree(edge, other)
    contents = [row["bytes"] for row in load_split(elpv, split)["image"]]
    write_trained_on(other / TRAINED_ON, trained_on(read_manifest(elpv), contents))
    info = files.read_json(other / INSPECT)
    info["files"][TRAINED_ON] = files.sha256(other / TRAINED_ON)
    files.write_json(other / INSPECT, info)
    return other


@pytest.mark.parametrize("split", ["test", "calibration"])
def test_nothing_is_measured_or_calibrated_on_images_seen(edge, elpv, split, tmp_path):
    leaking = seen(edge, elpv, split, tmp_path)
    with pytest.raises(LeakageError, match=r"cell\d+\.png, cell\d+\.png, cell\d+\.png"):
        evaluate_edge(leaking, elpv, split)
    if split == "calibration":
        with pytest.raises(LeakageError):
            calibrate(leaking, None, elpv, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_evaluations_of_a_split_are_counted(edge, elpv):
    first = evaluate_edge(edge, elpv, "test")
    second = evaluate_edge(edge, elpv, "test")
    counted = [r["data"]["evaluations_of_this_split"] for r in (first, second)]
    assert counted[1] == counted[0] + 1
    assert [entry["split"] for entry in files.read_json(elpv / LEDGER)][-2:] == ["test", "test"]
    assert {k: first["edge"][k] for k in ("accuracy", "auroc")} == {k: second["edge"][k] for k in ("accuracy", "auroc")}
    assert first["edge"]["n"] == 525
    weights = edge / "openvino_model.bin"
    assert first["inputs"] == {"models": {weights.name: files.sha256(weights)}}


def scores(n=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    p_edge = np.clip(0.3 * labels + rng.normal(0.35, 0.15, n), 0.01, 0.99)
    p_vlm = np.clip(0.5 * labels + rng.normal(0.25, 0.1, n), 0.01, 0.99)
    ms = {"edge": 2.0, "vlm": 100.0, "complexity": 1.0}
    sources = [f"{i}.png" for i in range(n)]
    return Scores(sources, labels, np.arange(n), p_edge, p_vlm, rng.random(n), ms)


def test_a_cascade_report_adds_up():
    found = scores()
    policy = fit_calibrated(found.p_edge, found.labels, found.groups)
    report = cascade_report(found, policy)
    sent = report["share_escalated"]["total"]
    assert sent["k"] == report["vlm_calls"] == report["escalated"]["vlm"]["n"] == report["escalated"]["edge"]["n"]
    by_reason = [rate["k"] for reason, rate in report["share_escalated"].items() if reason != "total"]
    assert sum(by_reason) == sent["k"] > 0
    assert report["ms_per_image"] == pytest.approx(2.0 + 100.0 * sent["value"])
    assert report["time_saved_against_vlm_only"] == pytest.approx(1 - report["ms_per_image"] / 100.0)
    edge = model_report(found, "edge")
    difference = report["accuracy"]["value"] - edge["accuracy"]["value"]
    assert report["minus_edge_only"]["value"] == pytest.approx(difference)
    assert report["edge_promise"]["edge_good_given_defect"]["k"] <= report["escapes"]["n"]
    json.dumps(report)


def test_the_table_shows_every_model_and_policy():
    found = scores()
    policy = fit_calibrated(found.p_edge, found.labels, found.groups)
    results = {
        "edge": model_report(found, "edge"),
        "vlm": model_report(found, "vlm"),
        "cascade": {"calibrated": cascade_report(found, policy)},
    }
    lines = results_table(results).splitlines()
    assert len(lines) == 5
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    accuracy = results["edge"]["accuracy"]
    assert f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})" in lines[2]


def test_a_scripted_vlm_stands_in():
    vlm = ScriptedVLM([0.1, 0.9])
    loaded = images.Loaded(np.zeros((4, 4, 3), np.uint8)).rgb
    assert vlm.p_defect([loaded] * 3).tolist() == [0.1, 0.9, 0.1]
