"""`hf-inspect eval detect` from the command to its pictures, its figures against the raw JSON's, and the card."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hf_inspect import cli, files
from hf_inspect.data import read_manifest, read_objects, record_history, write_history
from hf_inspect.errors import HubError
from hf_inspect.hub import check, kind_of, kinds, measured
from hf_inspect.hub.check import _check_cascade
from hf_inspect.metrics import findings
from hf_inspect.metrics.matches import Matches, best_threshold
from hf_inspect.reports import detect, evaluate_detect, write_card
from hf_inspect.runtime import INSPECT, Engine
from hf_inspect.schema import Finding, History, Prediction, TaskSpec
from hf_inspect.scoring import read_rows
from tests import finders, raw
from tests.scripted import HISTORY, brightness_cascade, brightness_engine
from tests.test_metrics_findings import by_pycocotools, figures, same


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Limits of few draws: what they are is tested elsewhere."""
    monkeypatch.setitem(findings.finding_report.__kwdefaults__, "draws", 10)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("masks"), 60)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Data of boxes alone, without a validation split."""
    return finders.built(tmp_path_factory.mktemp("boxes"), 30, polygons=False, shares="40/0/0/60")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return finders.engine(tmp_path_factory.mktemp("s") / "edge", masks=True)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return finders.engine(tmp_path_factory.mktemp("d") / "edge")


def evaluated(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["hf-inspect", "eval", "detect", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as left:
        return left.code or 0
    return 0


def of_raw_json(source, rows):
    """COCO contents of a split's images: the truth from the raw JSON by file name, what was found from the rows."""
    ids = {one["file_name"]: one["id"] for one in source["images"]}
    own = [ids[row["source"]] for row in rows]
    there = [one | {"area": one["bbox"][2] * one["bbox"][3]} for one in source["annotations"] if one["image_id"] in own]
    numbers = {one["name"]: one["id"] for one in source["categories"]}
    found = []
    for row in rows:
        for said in map(Finding.from_dict, row["detection"]["findings"]):
            x0, y0, x1, y1 = said.box
            found.append({"id": len(found) + 1, "image_id": ids[row["source"]], "category_id": numbers[said.name],
                          "score": said.score, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
                          "area": (x1 - x0) * (y1 - y0)})  # fmt: skip
    head = {"images": [one for one in source["images"] if one["id"] in own], "categories": source["categories"]}
    return head | {"annotations": there}, head | {"annotations": found}


def test_a_segmentation_is_measured_drawn_and_shown(data, segmenter, tmp_path, monkeypatch, capsys):
    source = json.loads((data.parent / "raw/annotations.json").read_text())
    data = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("evaluations.json"))
    out, plot, sheet = (tmp_path / name for name in ("r.json", "p.png", "s.png"))
    given = (segmenter, "--data", data, "--split", "test", "--out", out, "--plot", plot, "--sheet", sheet)
    assert evaluated(monkeypatch, *given) == 0
    printed, results = capsys.readouterr().out, json.loads(out.read_text())
    report = results["detection"]
    assert results["task"] == read_objects(data).to_dict() | {"classes": results["task"]["classes"]}
    assert [one["name"] for one in results["task"]["classes"]] == ["red", "blue"]  # the model's order
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "| all", "| red", "| blue",
    ]  # fmt: skip
    assert "mask mAP" in printed
    assert f"From a score of {report['told']['threshold']:.3f} on (the best F1 on " in printed
    rows = read_rows(tmp_path / "r.scores.jsonl")[1:]
    assert len(rows) == report["n"] == sum(results["data"]["counts"].values())
    made = by_pycocotools(*of_raw_json(source, rows), False)
    assert same(report, figures(made)) == 30
    assert 0.5 < report["map"]["value"] < 1.0
    assert 0.3 < report["masks"]["map"]["value"] <= report["masks"]["ap50"]["value"] < 1.0
    assert report["masks"]["iou"]["value"] > 0.9  # where it sees them, its masks are right
    assert set(report["classes"]["red"]) >= {"map", "ap50", "curve", "objects", "precision", "recall", "sizes"}
    assert report["auroc"]["value"] > 0.5
    for picture, least in ((plot, (1000, 600)), (sheet, (2 * detect._SIDE, detect._SIDE))):
        assert all(a >= b for a, b in zip(Image.open(picture).size, least, strict=True))
    again, _ = evaluate_detect(segmenter, data, "test", tmp_path / "r.scores.jsonl")
    assert again["data"] == results["data"]  # read again: it is not another evaluation
    assert {**again["detection"], "speed": 0} == {**report, "speed": 0}


def test_the_threshold_is_fitted_on_validation_and_a_killed_run_goes_on(data, detector, tmp_path):
    scores = tmp_path / "r.scores.jsonl"
    results, shown = evaluate_detect(detector, data, "test", scores)
    assert "masks" not in results["detection"]  # it has none, whatever the data have
    beside = tmp_path / "r.scores.validation.jsonl"
    said = [tuple(map(Finding.from_dict, row["detection"]["findings"])) for row in read_rows(beside)[1:]]
    things = things_of(data, [row["source"] for row in read_rows(beside)[1:]])
    images = [findings.Shown(64, 64, *both) for both in zip(things, said, strict=True)]
    fitted = best_threshold(Matches.of(findings.Compared.of(images, Engine.from_pretrained(detector).task)))
    assert results["detection"]["told"]["threshold"] == fitted
    assert len(shown) == detect.WORST
    assert [one.wrong for one in shown] == sorted((one.wrong for one in shown), reverse=True)
    counts = np.array(results["detection"]["told"]["confusion"]["counts"])
    assert shown[0].wrong > 0
    assert sum(one.wrong for one in shown) <= counts.sum() - counts.trace()
    first = shown[0]
    assert (first.rgb == np.asarray(Image.open(data.parent / "raw" / first.source))).all()
    assert [one.box for one in first.there] == [thing.box for thing in things_of(data, [first.source])[0]]
    for path in (scores, beside):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again, _ = evaluate_detect(detector, data, "test", scores)
    assert {**again["detection"], "speed": 0} == {**results["detection"], "speed": 0}


def things_of(data, sources):
    content = json.loads((data.parent / "raw/annotations.json").read_text())
    ids = {one["file_name"]: one["id"] for one in content["images"]}
    found = []
    for source in sources:
        own = (one for one in content["annotations"] if one["image_id"] == ids[source])
        boxes = ((finders.NAMES[one["category_id"] - 1], one["bbox"]) for one in own)
        found.append(tuple(findings.Thing(name, (x, y, x + w, y + h)) for name, (x, y, w, h) in boxes))
    return found


def test_without_validation_or_masks_it_says_so(plain, segmenter, data, detector, tmp_path):
    results, _ = evaluate_detect(segmenter, plain, "test", tmp_path / "s.jsonl")
    told = results["detection"]["told"]
    assert (told["threshold"], told["why"]) == (0.5, "not fitted: there is no validation split")
    assert results["detection"]["masks"]["map"] == {
        "value": None, "low": None, "high": None, "n": results["detection"]["objects"],
        "method": "undefined: the data have no masks",
    }  # fmt: skip
    own, _ = evaluate_detect(detector, data, "validation", tmp_path / "v.jsonl")
    assert own["detection"]["told"]["why"] == "not fitted: it would be on this split"


@dataclass
class Scripted:
    """Finds nothing, and cannot say anything of some of the images."""

    task: TaskSpec
    identity: str = "scripted"
    history: History = HISTORY
    reading: None = None

    def predict(self, images):
        unread = [int(image.sum()) % 3 == 0 for image in images]
        return [Prediction(None, unreadable="?") if one else Prediction(0.0, findings=()) for one in unread]


def test_who_cannot_say_of_an_image_has_found_nothing_there(data, tmp_path):
    made = detect.finder_report(Scripted(finders.task_of(True)), data, "test", tmp_path / "s.jsonl")
    scores, report = made.answered, made.report
    failed = sum("unreadable" in row["detection"] for row in scores.rows())
    assert 0 < failed < report["n"]
    assert report["unreadable"]["k"] == failed
    assert report["map"]["value"] == report["told"]["recall"]["k"] == 0
    assert report["told"]["why"] == "not fitted: no finding on validation is right"


def test_what_cannot_be_measured_is_refused(data, detector, tmp_path, monkeypatch, capsys):
    other = finders.engine(tmp_path / "other", names=("red", "green"))
    edge, parts = brightness_engine(tmp_path / "edge"), raw.built_parts(tmp_path / "parts", good=12, bad=12)
    seen = Path(shutil.copytree(detector, tmp_path / "seen"))
    write_history(seen, record_history(data, {"test": None}))
    info = files.read_json(seen / INSPECT)
    trained = {"trained_on.json": files.sha256(seen / "trained_on.json")}
    files.write_json(seen / INSPECT, info | {"files": info["files"] | trained})
    for number, (model, of, message) in enumerate((
        (detector, parts, "says what its images are, and not what they show"),
        (edge, data, "finds nothing in an image"),
        (other, data, "answer different questions"),
        (seen, data, "trained on"),
        (tmp_path / "nothing", data, "nothing"),
    )):  # fmt: skip
        out = tmp_path / f"{number}.json"
        assert evaluated(monkeypatch, model, "--data", of, "--out", out) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize("masks", [False, True])
def test_its_card_states_what_was_measured_and_may_be_pushed(
    masks, data, detector, segmenter, tmp_path, monkeypatch, capsys
):
    folder = Path(shutil.copytree(segmenter if masks else detector, tmp_path / "edge"))
    assert kind_of(folder) is (kinds.SEGMENTER if masks else kinds.DETECTOR)
    assert "Not measured on a test split yet" in write_card(folder).read_text()
    check(folder)
    results, _ = evaluate_detect(folder, data, "test", tmp_path / "s.jsonl")
    files.write_json(folder / "results.json", results)
    text, report = write_card(folder).read_text(), results["detection"]
    check(folder)
    loaded = ModelCard(text)
    assert loaded.data.pipeline_tag == ("image-segmentation" if masks else "object-detection")
    wanted = [report["map"], report["ap50"], report["mar"]]
    wanted += [report["masks"]["map"], report["masks"]["ap50"]] if masks else []
    assert [(one.metric_value, one.metric_args["low"]) for one in loaded.data.eval_results] == [
        (one["value"], one["low"]) for one in wanted
    ]
    assert {one.task_type for one in loaded.data.eval_results} == {loaded.data.pipeline_tag}
    for figure in (*wanted, report["told"]["f1"], report["classes"]["red"]["recall"], report["sizes"]["small"]["ap"]):
        assert f"{figure['value']:.1%} (" in text
    assert f"From a score of {report['told']['threshold']:.3f} on" in text
    assert ("masks" in text.split("## Measured")[0]) == masks
    assert "None" not in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copy(data.parent / "raw/001.png", folder / "part.png")
    monkeypatch.chdir(folder)
    exec(code, {})
    assert capsys.readouterr().out.startswith("[")
    del results["detection"]["masks" if masks else "mar"]
    files.write_json(folder / "results.json", results)
    with pytest.raises(HubError, match=r"detection\.(masks\.map|mar)"):
        write_card(folder)


def test_the_kind_is_told_by_the_task(segmenter, tmp_path):
    folder = Path(shutil.copytree(segmenter, tmp_path / "edge"))
    info = files.read_json(folder / INSPECT)
    for kind, asked in ((kinds.STUDENT, "classification"), (kinds.STUDENT, "anomaly"), (kinds.DETECTOR, "detection")):
        files.write_json(folder / INSPECT, info | {"task": info["task"] | {"kind": asked}})
        assert kind_of(folder) is kind
    files.write_json(folder / INSPECT, [])
    assert kind_of(folder) is kinds.STUDENT
    for masks, kind in ((True, kinds.SEGMENTER), (False, kinds.DETECTOR)):
        stated = finders.task_of(masks).to_dict()
        files.write_json(
            tmp_path / "config.json", {"architectures": ["AnyForInspectionDetection"], "inspection_task": stated}
        )
        assert kind_of(tmp_path) is kind
        assert measured.sections(tmp_path)[""].path == ("detection",)
    with pytest.raises(HubError, match="was not exported"):
        write_card(tmp_path)


def test_a_detector_may_be_a_cascade_s_edge(detector, tmp_path):
    cascade = brightness_cascade(tmp_path / "cascade")
    shutil.rmtree(cascade / "edge")
    shutil.copytree(detector, cascade / "edge")
    stated = files.read_json(cascade / "cascade.json")
    hashes = {name: files.sha256(cascade / name) for name in stated["files"]}
    files.write_json(cascade / "cascade.json", stated | {"files": hashes})
    _check_cascade(cascade)


def test_the_names_of_a_row_s_objects_are_those_of_the_manifest(data):
    from hf_inspect.data import load_split

    column = load_split(data, "test").features["objects"]["category"]
    assert tuple(column.feature.names) == read_objects(data).classes
    assert "objects_sha256" in read_manifest(data)["images"][0]
