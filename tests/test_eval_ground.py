"""`hf-inspect eval ground`: findings in a model's own words against pycocotools, by label, by group, and its files."""

import json
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from hf_inspect import cli, files
from hf_inspect.data import read_objects, write_history
from hf_inspect.data.pool import write_pool
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.hub import check
from hf_inspect.metrics import findings
from hf_inspect.metrics.labels import NO_CLASS, SEMANTIC, TAXONOMY
from hf_inspect.prompts import PIXELS, Grounding, View, render_answer
from hf_inspect.reports import ground, write_card
from hf_inspect.reports.asked import Asked
from hf_inspect.reports.ground import evaluate_ground, ground_lines, plain_report, write_coco
from hf_inspect.reports.recorded import Recorded, _Answer, _key, recorded
from hf_inspect.schema import DETECTION, Finding, History, Prediction, TaskSpec
from hf_inspect.scoring import read_rows
from tests import finders, tiny
from tests.scripted import HISTORY
from tests.test_labels import embed
from tests.test_metrics_findings import by_pycocotools, figures, same

NAMES = ("mark/blue", "mark/red")
TASK = TaskSpec(NAMES, ("defect", "defect"), DETECTION)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Limits of few draws: what they are is tested elsewhere."""
    monkeypatch.setitem(findings.finding_report.__kwdefaults__, "draws", 10)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("ground"), 60, polygons=False, names=NAMES)


@dataclass
class Speaker:
    """Sees squares of blue and of red and calls them by its own words; a box may be moved, and an answer broken off.

    `also` is said beside every square, in its place; `broken` answers break off: the remainders of the image's sum by
    7; `blind` ones cannot be read.
    """

    words: tuple[str, str] = NAMES
    also: str | None = None
    shift: float = 0.0
    broken: tuple[int, ...] = ()
    blind: tuple[int, ...] = ()
    task: TaskSpec = TASK
    history: History = HISTORY
    reading: None = None
    asked: list[int] = field(default_factory=list)

    @property
    def identity(self):
        return repr((self.words, self.also, self.shift, self.broken, self.blind))

    def predict(self, images):
        self.asked.append(len(images))
        return [self._answer(one) for one in images]

    def _answer(self, rgb):
        turn, found = int(rgb.astype(int).sum()) % 7, []
        cells = rgb.reshape(4, finders.CELL, 4, finders.CELL, 3).mean((1, 3)) / 255
        for row, column in np.ndindex(4, 4):
            for word, channel in zip(self.words, (2, 0), strict=True):
                if cells[row, column, channel] - cells[row, column, 1] < 0.15:
                    continue
                x, y = column * finders.CELL + self.shift, row * finders.CELL
                box = (float(x), float(y), float(x + finders.CELL), float(y + finders.CELL))
                score = round(float(cells[row, column, channel]), 3)
                found.append(Finding(word, score, box, description="a square"))
                if self.also:
                    found.append(Finding(self.also, score / 2, box))
        found.sort(key=lambda one: -one.score)
        if turn in self.blind:
            return Prediction(None, unreadable="The answer '?' cannot be read", findings=())
        if turn in self.broken and not found:
            return Prediction(None, unreadable="the answer breaks off after 0 objects", findings=())
        notes = (f"the answer breaks off after {len(found)} objects",) if turn in self.broken else ()
        return Prediction(max((one.score for one in found), default=0.0), findings=tuple(found), notes=notes)


def measured(model, data, folder, name="s", **how):
    return evaluate_ground(Asked(model, "a speaker"), data, "test", folder / f"{name}.scores.jsonl", **how)


def told(made):
    return made.results["detection"]["told"]


def test_map_is_pycocotools_own_on_the_files_it_writes(data, tmp_path):
    made = measured(Speaker(words=("mark/blue", "scarlet"), also="mark/red", shift=2.0), data, tmp_path)
    out = tmp_path / "responses.json"
    there = json.loads(write_coco(made, out).read_text())
    found, report = json.loads(out.read_text()), made.results["detection"]
    assert {one["label"] for one in found} == {"mark/blue", "scarlet", "mark/red"}
    assert all(one["description"] == "a square" for one in found if one["label"] != "mark/red")
    assert len(there["images"]) == report["n"]
    assert [one["name"] for one in there["categories"]] == [*NAMES, NO_CLASS]
    for one in there["images"]:
        with Image.open(data.parent / "raw" / one["file_name"]) as image:
            assert image.size == (one["width"], one["height"])
    wanted = figures(by_pycocotools(there, {"annotations": found}, False))
    assert wanted["classes"].pop(NO_CLASS)["map"] is None
    assert same(report, wanted, 1e-6) == 30
    assert 0.05 < report["map"]["value"] < 0.95
    source = json.loads((data.parent / "raw/annotations.json").read_text())
    ids = {one["id"]: one["file_name"] for one in there["images"]}
    boxes = {(ids[one["image_id"]], *one["bbox"]) for one in there["annotations"]}
    named = {one["id"]: one["file_name"] for one in source["images"]}
    assert boxes == {(named[a["image_id"]], *a["bbox"]) for a in source["annotations"]
                     if named[a["image_id"]] in ids.values()}  # fmt: skip


def test_a_wrong_label_in_the_right_place_lowers_ap(data, tmp_path):
    right = measured(Speaker(), data, tmp_path, "right").results["detection"]
    wrong = measured(Speaker(words=("mark/red", "mark/red")), data, tmp_path, "wrong").results["detection"]
    strange = measured(Speaker(words=("azure", "mark/red")), data, tmp_path, "strange").results["detection"]
    assert right["told"]["iou"]["value"] == pytest.approx(1.0)
    for report in (wrong, strange):
        assert report["classes"]["mark/blue"]["ap50"]["value"] == 0
        assert report["map"]["value"] < right["map"]["value"] - 0.2
        assert report["told"]["precision"]["k"] < right["told"]["precision"]["k"]
    assert wrong["groups"]["mark"]["map"]["value"] == pytest.approx(right["groups"]["mark"]["map"]["value"])
    assert wrong["classes"]["mark/red"]["ap50"]["value"] < right["classes"]["mark/red"]["ap50"]["value"]
    assert strange["classes"]["mark/red"]["ap50"]["value"] == right["classes"]["mark/red"]["ap50"]["value"]


def test_labels_of_no_class_are_listed_and_are_too_many(data, tmp_path):
    plain = measured(Speaker(), data, tmp_path, "plain")
    made = measured(Speaker(also="shadow"), data, tmp_path, "also")
    report, before = made.results["detection"], plain.results["detection"]
    n = report["labels"]["of_no_class"]
    assert (n["k"] * 2, before["labels"]["of_no_class"]["k"]) == (n["n"], 0)
    assert report["labels"]["unmatched"] == [{"label": "shadow", "n": n["k"]}]
    assert set(report["classes"]) == set(NAMES)
    assert report["told"]["confusion"]["columns"] == [*NAMES, NO_CLASS, "missed"]
    assert report["map"]["value"] == before["map"]["value"]  # COCO's is of classes; what is right is told of below
    answered = made.measured.answered
    sure = measured(Speaker(words=("mark/blue", "shadow"), also="mark/red"), data, tmp_path, "sure")
    assert told(sure)["over"]["k"] + told(sure)["under"]["k"] > 0
    assert told(sure)["precision"]["k"] < told(sure)["precision"]["n"]
    assert len(answered.sources) == report["n"]
    lines = ground_lines(made.results)
    assert f"{n['k']} of {n['n']} findings have a label of no class, by exact match" in lines
    assert f"{n['k']} x shadow" in lines


def test_the_threshold_decides_what_a_word_means(data, tmp_path, monkeypatch):
    class Plane:
        """A sentence model whose angles are known: crevice is 40 degrees from crack, hollow 30 from dent."""

        def __call__(self, texts):
            names = {"mark blue": "crack", "mark red": "dent"}
            return embed([names.get(one, one) for one in texts])

        def to_dict(self):
            return {"name": "plane", "weights": {}}

    monkeypatch.setattr(ground.Sentences, "from_pretrained", lambda name: Plane())
    model, found = Speaker(words=("crevice", "hollow")), {}
    for threshold in (0.7, 0.8, 0.9):
        made = measured(model, data, tmp_path, match=SEMANTIC, threshold=threshold)
        report = made.results["detection"]
        found[threshold] = report["labels"]["of_no_class"]["k"], report["told"]["precision"]["k"]
        assert report["labels"]["threshold"] == threshold
        assert report["labels"]["name"] == "plane"
        assert plain_report(made, "r.json")["evaluation_info"]["semantic_threshold"] == threshold
    n = report["labels"]["of_no_class"]["n"]
    assert found[0.7][0] == 0 < found[0.8][0] < found[0.9][0] == n
    assert found[0.7][1] > found[0.8][1] > found[0.9][1] == 0
    asked = len(model.asked)
    exact = measured(model, data, tmp_path)  # from the same answers
    assert exact.results["detection"]["labels"]["of_no_class"]["k"] == n
    assert sum(model.asked[asked:]) == 1 + 2 * report["n"]  # for its speed alone


def test_by_taxonomy_a_group_is_the_class(data, tmp_path):
    model = Speaker(words=("mark/red", "mark/unheard-of"), also="shadow/mark")
    report = measured(model, data, tmp_path, match=TAXONOMY).results["detection"]
    assert list(report["classes"]) == ["mark"]
    assert report["labels"]["match"] == "taxonomy"
    assert "groups" not in report
    assert report["told"]["iou"]["value"] == pytest.approx(1.0)
    assert {one["label"] for one in report["labels"]["renamed"]} == {"mark/red", "mark/unheard-of"}
    assert [one["label"] for one in report["labels"]["unmatched"]] == ["shadow/mark"]
    exact = measured(model, data, tmp_path).results["detection"]
    assert exact["groups"]["mark"]["map"]["value"] == report["map"]["value"]
    assert exact["groups"]["mark"]["classes"] == list(NAMES)
    assert exact["groups"]["mark"]["objects"] == exact["objects"]


def test_answers_that_break_off_or_cannot_be_read_are_counted(data, tmp_path):
    model = Speaker(broken=(0, 1, 2), blind=(3,))
    made = measured(model, data, tmp_path)
    report = made.results["detection"]
    rows = [row["detection"] for row in read_rows(tmp_path / "s.scores.jsonl")[1:]]
    cut = sum("breaks off" in str(row) for row in rows)
    unread = sum("unreadable" in row for row in rows)
    assert report["answers"]["cut_off"]["k"] == cut > 0
    assert report["unreadable"]["k"] == unread > 0
    assert report["answers"]["notes"] == {"the answer breaks off after N objects": sum("notes" in row for row in rows)}
    assert f"{unread} of {report['n']} answers could not be read, {cut} broke off." in ground_lines(made.results)


def test_plain_figures_are_those_of_the_results(data, tmp_path):
    made = measured(Speaker(shift=2.0), data, tmp_path)
    report, plain = made.results["detection"], plain_report(made, "responses.json")
    info = plain["evaluation_info"]
    said = [row["detection"]["findings"] for row in read_rows(tmp_path / "s.scores.jsonl")[1:]]
    assert info == {
        "responses_file": "responses.json", "total_samples": report["n"], "total_gt_objects": report["objects"],
        "total_pred_objects": sum(map(len, said)),
        "iou_thresholds": [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], "semantic_threshold": None,
    }  # fmt: skip
    assert plain["overall_metrics"]["mAP"] == report["map"]["value"]
    assert plain["category_metrics"]["mark/red"]["AP@0.5"] == report["classes"]["mark/red"]["ap50"]["value"]
    assert plain["category_metrics"]["mark/red"]["gt_objects"] == report["classes"]["mark/red"]["objects"]
    assert plain["group_metrics"]["mark"]["mAR"] == report["groups"]["mark"]["mar"]["value"]
    json.dumps(plain)


def test_what_was_trained_on_is_not_measured(data, tmp_path):
    from hf_inspect.data import record_history

    with pytest.raises(LeakageError):
        measured(Speaker(history=record_history(data, {"test": None})), data, tmp_path)


def answers_of(data, model, frame=PIXELS, shown=(64, 64), mend=str):
    """What a model would write about every image of the raw data, by its name."""
    written = []
    for path in sorted((data.parent / "raw").glob("*.png")):
        said = model.predict([np.asarray(Image.open(path))])[0]
        text = mend(render_answer(said.findings, View((64, 64), shown, frame), describe=True))
        written.append(
            {"image": f"photos/{path.name}", "answer": text} | ({"shown": list(shown)} if shown[0] != 64 else {})
        )
    return written


def evaluated(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["hf-inspect", "eval", "ground", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as left:
        return left.code or 0
    return 0


@pytest.mark.parametrize("frame", ["pixels", "thousandths"])
def test_recorded_answers_are_measured_by_the_command(frame, data, tmp_path, monkeypatch, capsys):
    listed = answers_of(data, Speaker(also="shadow"), frame, (128, 128))
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, [*listed, {"image": "elsewhere.png", "answer": "[]"}])))
    names = ("r.json", "p.png", "s.png", "responses.json", "m.json")
    out, plot, sheet, responses, metrics = (tmp_path / name for name in names)
    given = ("--answers", path, "--frame", frame, "--data", data, "--out", out, "--match", "taxonomy")
    given += ("--plot", plot, "--sheet", sheet, "--responses", responses, "--metrics", metrics)
    assert evaluated(monkeypatch, *given) == 0
    printed, report = capsys.readouterr().out, json.loads(out.read_text())["detection"]
    assert "findings have a label of no class, by taxonomy match" in printed
    assert report["recorded"] == {"file": "answers.jsonl", "answers": 61, "of_no_image": 19, "frame": frame}
    assert report["told"]["iou"]["value"] > 0.99
    assert "speed" not in report
    assert report["history"]["unknown"] == ["answers.jsonl"]
    info = json.loads(metrics.read_text())["evaluation_info"]
    assert info["total_pred_objects"] == len(json.loads(responses.read_text()))
    assert info["responses_file"] == str(responses)
    for picture in (plot, sheet):
        assert Image.open(picture).size[0] > 300


def test_an_answer_that_breaks_off_among_good_things_makes_no_good_parts():
    task, rgb = TaskSpec(("ok", "bad"), ("good", "defect"), DETECTION), np.zeros((64, 64, 3), np.uint8)
    told = '[{"bbox_2d": [1, 2, 30, 40], "label": "%s"}'
    for text, severity in ((told % "ok", None), (told % "bad", 1.0), (told % "?", 1.0), (told % "ok" + "]", 0.0)):
        model = Recorded(task, PIXELS, "0", HISTORY, {_key(rgb): _Answer(text, None)})
        [said] = model.predict([rgb])
        assert said.severity == severity
        assert (said.findings[0].box, said.findings[0].score) == ((1, 2, 30, 40), 1.0)
        assert ("breaks off" in (said.unreadable or "")) == (severity is None)


def test_recorded_answers_that_break_off_are_no_good_parts(data, tmp_path):
    """Cut after half of the text: what came before counts, and an image that seems empty is unreadable."""
    listed = answers_of(data, Speaker(), mend=lambda text: text[: len(text) // 2])
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(listed[:-20]))
    asked = recorded(path, data, "test")
    report = evaluate_ground(asked, data, "test", tmp_path / "s.jsonl").results["detection"]
    rows = [row["detection"] for row in read_rows(tmp_path / "s.jsonl")[1:]]
    assert all(row.get("severity") != 0 for row in rows)
    assert report["answers"]["cut_off"]["k"] > 3
    assert any("no answer about this image was recorded" in row.get("unreadable", "") for row in rows)
    assert {one["score"] for row in rows for one in row["findings"]} == {1.0}


def test_an_answer_is_of_one_image_and_of_two_images_never(data, tmp_path, monkeypatch):
    path = tmp_path / "answers.json"
    sources = [("a/0.png", "first"), ("b/0.png", "second"), ("1.png", "third"), ("a/2.png", "fourth")]
    monkeypatch.setattr("hf_inspect.reports.recorded._pixels", lambda data, place: iter(sources))
    names = {"a/0.png": "first", "somewhere\\b\\0.png": "second", "c/1.png": "third", "b/2.png": None}
    path.write_text(json.dumps([{"image": name, "answer": str(i)} for i, name in enumerate(names)]))
    given = recorded(path, data, "test").model.answers
    assert {key: one.text for key, one in given.items()} == {"first": "0", "second": "1", "third": "2"}
    path.write_text('[{"image": "0.png", "answer": "[]"}]')
    with pytest.raises(DataError, match=r"says 0\.png, which may be a/0\.png or b/0\.png; say more of its path"):
        recorded(path, data, "test")


def test_files_of_answers_that_make_no_sense_are_refused(data, tmp_path, monkeypatch, capsys):
    path = tmp_path / "answers.jsonl"
    for content, message in (
        ("{", "neither a JSON list nor JSON lines"),
        ('{"image": "001.png"}', "answer 1 is {'image': '001.png'}; wanted is"),
        ('{"image": "001.png", "answer": "[]", "shown": [0, 2]}', "wanted is"),
        ("[1]", "answer 1 is 1; wanted is"),
        ('{"image": "a.png", "answer": "[]"}\n' * 2, "the second one about a.png"),
        ('{"image": "a.png", "answer": "[]"}', "has no answer about an image of data test; it names a.png"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message.replace("[", r"\[").replace("{", r"\{")):
            recorded(path, data, "test")
    for given in ((), ("base", "--answers", path), ("--answers", path, "--adapter", "a")):
        assert evaluated(monkeypatch, *given, "--data", data, "--out", tmp_path / "r.json") == 1
        assert "Give the VLM to ask" in capsys.readouterr().err
    assert evaluated(monkeypatch, "--answers", tmp_path / "none", "--data", data, "--out", tmp_path / "r.json") == 1
    assert "is missing" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [False, True])
def test_its_card_states_what_was_measured_and_may_be_pushed(whole, data, tmp_path):
    folder = tmp_path / "adapter"
    question = Grounding.about(TASK, describe=True)
    files.write_json(folder / "prompt.json", question.to_dict())
    if whole:
        files.write_json(folder / "config.json", {"architectures": ["Qwen2_5_VLForConditionalGeneration"]})
        files.write_bytes(folder / "model.safetensors", save({"w": np.zeros(2, np.float32)}))
    else:
        stated = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/base", "modules_to_save": None}
        files.write_json(folder / "adapter_config.json", stated)
        files.write_bytes(folder / "adapter_model.safetensors", save({"w": np.zeros(2, np.float32)}))
    write_history(folder, HISTORY)
    assert "`hf-inspect eval ground` measures it" in write_card(folder).read_text()
    guide = {"num": 2, "how": "fixed", "identity": "0"}
    asked = Asked(Speaker(also="shadow", broken=(1,)), "a", {"guide": guide}, files.weights(folder))
    made = evaluate_ground(asked, data, "test", tmp_path / "s.jsonl")
    files.write_json(folder / "results.json", made.results)
    text, report = write_card(folder).read_text(), made.results["detection"]
    assert "type: object-detection" in text
    assert "pipeline_tag: image-text-to-text" in text
    none = report["labels"]["of_no_class"]
    assert f"exact match: {none['k']} of {none['n']} findings have a label of no class" in text
    assert "It was shown 2 exemplars before each image." in text
    assert f"{report['answers']['cut_off']['k']} of {report['n']} answers broke off." in text
    assert f"{report['groups']['mark']['map']['value']:.1%} (" in text
    assert "None" not in text.split("## Trained on")[0]
    compile(text.split("```python")[1].split("```")[0], "card", "exec")
    if not whole:
        check(folder)


@pytest.mark.parametrize("nearest", [False, True])
def test_a_vlm_is_asked_with_its_exemplars_and_may_not_be_measured_on_them(
    nearest, data, tmp_path, monkeypatch, capsys
):
    """A tiny one of random weights: what it says cannot be read, and that is what the figures say."""
    write_pool(data, tmp_path / "pool", 3, 0, "train")
    pool, out = tmp_path / "pool" / "pool.jsonl", tmp_path / "r.json"
    given = ("tiny-smolvlm", "--data", data, "--out", out, "--exemplars", pool, "--num", 2)
    given += ("--batch-size", 8, "--max-new-tokens", 3, *(["--nearest"] if nearest else []))
    assert evaluated(monkeypatch, *given, "--split", "calibration") == 0
    report = json.loads(out.read_text())["detection"]
    assert report["unreadable"]["k"] == report["n"] == 6
    assert report["guide"]["num"] == 2
    assert report["guide"]["how"] == ("nearest" if nearest else "fixed")
    assert report["question"]["task"]["kind"] == DETECTION
    assert "mark/blue, mark/red" in report["question"]["question"]["text"]
    assert report["map"]["value"] == 0
    assert "6 of 6 answers could not be read" in capsys.readouterr().out
    assert evaluated(monkeypatch, *given, "--split", "train") == 1
    assert "the model or an ancestor of it was trained on" in capsys.readouterr().err


def test_a_head_is_measured_without_a_word_and_one_that_is_not_there_is_refused(data, tmp_path, monkeypatch, capsys):
    from hf_inspect.vlm.head import new_head, save_head
    from hf_inspect.vlm.learned import Learned
    from hf_inspect.vlm.tiny import tiny_base

    base, adapter = tiny_base(), tmp_path / "adapter"
    tiny.grounded_adapter(base, adapter, read_objects(data), Learned(longest=3))
    given = (base, "--adapter", adapter, "--data", data, "--out", tmp_path / "r.json", "--by", "head")
    assert evaluated(monkeypatch, *given, "--split", "calibration") == 1
    assert "it has no head" in capsys.readouterr().err
    model, _ = tiny.parts(base)
    save_head(new_head(model, read_objects(data).classes, queries=4, width=32), adapter)
    given += ("--plot", tmp_path / "found.png", "--sheet", tmp_path / "sheet.png")
    assert evaluated(monkeypatch, *given, "--split", "calibration") == 0
    report = json.loads((tmp_path / "r.json").read_text())["detection"]
    assert report["unreadable"]["k"] == 0
    assert (tmp_path / "found.png").is_file()
    assert (tmp_path / "sheet.png").is_file()
