"""`predict --coco`: results that pycocotools takes, with the figures that `eval detect` states of the same pictures."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.cocos import Results, packed
from hf_inspect.errors import DataError
from hf_inspect.metrics import findings
from hf_inspect.reports import evaluate_detect
from hf_inspect.schema import DEFECT, Finding
from hf_inspect.scoring import read_rows
from tests import finders
from tests.conftest import png
from tests.scripted import brightness_cascade


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("data"), 60)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return finders.engine(tmp_path_factory.mktemp("s") / "edge", masks=True)


@pytest.fixture(scope="module")
def measured(data, segmenter, tmp_path_factory):
    """What `eval detect` says of the test split, and the names of its images."""
    scores = tmp_path_factory.mktemp("measured") / "scores.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(findings.finding_report.__kwdefaults__, "draws", 2)
        results, _ = evaluate_detect(segmenter, data, "test", scores)
    return results["detection"], [row["source"] for row in read_rows(scores)[1:]]


def predicted(*words):
    done = CliRunner().invoke(app, ["predict", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def judged(truth, results, kind, images):
    """mAP and AP50 by pycocotools of a file of results."""
    made = COCOeval(truth, truth.loadRes(str(results)), kind)
    made.params.imgIds = images
    made.evaluate()
    made.accumulate()
    made.summarize()
    return made.stats[:2].tolist()


def truth_of(path):
    """A COCO file's content, its areas those of the boxes."""
    truth = COCO(str(path))
    for one in truth.dataset["annotations"]:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    return truth


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_by_the_ids_of_a_given_file_they_have_the_map_of_eval_detect(data, segmenter, measured, tmp_path, kind):
    report, names = measured
    raw, out = data.parent / "raw", tmp_path / "results.json"
    said = predicted(segmenter, *(raw / name for name in names), "--coco", out, "--coco-ids", raw / "annotations.json")
    assert f"lie in {out}, ids in {raw / 'annotations.json'}" in said
    truth = truth_of(raw / "annotations.json")
    ids = [one["id"] for one in truth.dataset["images"] if one["file_name"] in names]
    stated = report if kind == "bbox" else report["masks"]
    want = [stated[name]["value"] for name in ("map", "ap50")]
    assert judged(truth, out, kind, ids) == pytest.approx(want, abs=1e-6)
    assert 0.3 < want[0] < 1
    by_id = {one["id"]: one["name"] for one in truth.dataset["categories"]}
    assert {by_id[one["category_id"]] for one in json.loads(out.read_text())} == set(finders.NAMES)


def test_without_one_a_second_file_says_which_id_is_which(data, segmenter, tmp_path):
    raw, out = data.parent / "raw", tmp_path / "deep" / "results.json"
    (tmp_path / "broken.png").write_bytes(b"no image")
    said = predicted(segmenter, raw, tmp_path / "broken.png", "--coco", out)
    assert "1 pictures could not be read" in said
    ids = COCO(str(out.with_suffix(".images.json")))
    found = ids.loadRes(str(out))
    assert [one["name"] for one in ids.loadCats(ids.getCatIds())] == ["red", "blue"]  # the task's order
    assert len(ids.imgs) == 60
    for one in ids.imgs.values():
        assert Image.open(one["file_name"]).size == (one["width"], one["height"])
    bright = 0
    for one in found.anns.values():
        x, y, w, h = one["bbox"]
        mask = found.annToMask(one).astype(bool)
        inside = np.zeros_like(mask)
        inside[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))] = True
        assert not (mask & ~inside).any()
        bright += one["score"] > 0.9 and mask.all(where=inside)
    assert bright > 10


def test_a_second_run_from_its_rows_writes_the_same(data, segmenter, tmp_path):
    raw, rows = data.parent / "raw", tmp_path / "rows.jsonl"
    predicted(segmenter, raw, "--out", rows, "--coco", tmp_path / "a.json")
    before = rows.read_bytes()
    predicted(segmenter, raw, "--out", rows, "--coco", tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert rows.read_bytes() == before


def test_pictures_are_known_by_the_end_of_their_path(tmp_path):
    task = finders.task_of(False)
    listed = [{"id": 7, "file_name": "a/x.png"}, {"id": 9, "file_name": "x.png"}, {"id": 4, "file_name": "b\\y z.png"}]
    named = [{"id": 5, "name": "red"}, {"id": 3, "name": "blue"}, {"id": 0, "name": "parent"}]
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({"images": listed, "categories": named, "annotations": []}))
    found = Finding("blue", 0.5, (1.0, 2.0, 4.0, 8.0)).to_dict()
    row = {"label": DEFECT, "found_by": "edge", "width": 20, "height": 10, "evidence": {"edge": {"findings": [found]}}}
    results = Results.of(tmp_path / "out.json", task, ids)
    for name in ("/line/a/x.png", "/line/c/x.png", "b/y z.png", "other.png"):
        results.add(name, row)
    assert "1 pictures are not in" in results.write()
    said = json.loads((tmp_path / "out.json").read_text())
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in said] == [
        (number, 3, [1, 2, 3, 6]) for number in (7, 9, 4)
    ]
    with pytest.raises(DataError, match=r"are both the image 7"):
        results.add("elsewhere/a/x.png", row)
    ids.write_text(json.dumps({"images": listed, "categories": named[:1], "annotations": []}))
    with pytest.raises(DataError, match="no category blue"):
        Results.of(tmp_path / "out.json", task, ids)


def test_what_finds_nothing_has_no_results(tmp_path):
    cascade = brightness_cascade(tmp_path / "cascade")
    (tmp_path / "x.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    done = CliRunner().invoke(
        app, ["predict", str(cascade), str(tmp_path / "x.png"), "--coco", str(tmp_path / "r.json")]
    )
    assert isinstance(done.exception, DataError)
    assert "finds nothing in a picture" in str(done.exception)
    assert not (tmp_path / "r.json").exists()
    done = CliRunner().invoke(app, ["predict", str(cascade), str(tmp_path), "--coco-ids", "x.json"])
    assert done.exit_code == 2


def test_a_packed_mask_is_the_mask():
    from pycocotools import mask as library

    mask = np.random.default_rng(0).random((37, 23)) < 0.5
    assert (library.decode(packed(mask)).astype(bool) == mask).all()
