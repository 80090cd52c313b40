"""Boxes become rows that teach a VLM where things are: its own numbers of the image as it is shown; and rows are held
against rules.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import files, prompts
from hf_inspect.cli import app
from hf_inspect.data import Wording, audit, build, ground, load_split, read_manifest, read_objects, things_of
from hf_inspect.data.answers import ROW_RULES, validate_rows
from hf_inspect.data.coco import convert
from hf_inspect.data.coco.gathered import format_of
from hf_inspect.errors import DataError
from hf_inspect.prompts.families import SHOWINGS, showing_of
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.families import FAMILIES, set_side
from hf_inspect.vlm.parity import image_settings
from hf_inspect.vlm.tiny import BASES
from tests import raw

WIDTH, HEIGHT = 96, 64
CLASSES = ("screw/install", "螺丝")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A COCO file of 40 photos: every fourth shows nothing, others up to three things, one of them a crowd."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    images, annotations = [], []
    (folder / "images").mkdir()
    for number in range(40):
        raw.picture(rng, WIDTH, HEIGHT).save(folder / "images" / f"p{number}.png")
        images.append({"id": number, "file_name": f"p{number}.png", "width": WIDTH, "height": HEIGHT})
        for at in range(number % 4):
            box = [5 + 20 * at, 4 + number % 30, 12.5, 20]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 1 + at % 2, "bbox": box, "area": 250,
                "iscrowd": int(at == 2), "description": "it's \"bent\"\u2028" if at == 0 else "",
            })  # fmt: skip
    names = [{"id": 1, "name": CLASSES[0]}, {"id": 2, "name": CLASSES[1]}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    build("coco", out, src=photos)
    return out


@pytest.fixture(scope="module")
def rows(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows") / "out"
    ground(built, out, Wording(side=56, describe=True))
    return out


def lines(folder):
    """The JSON lines of each split."""
    return {p.stem: [json.loads(one) for one in p.read_text().split("\n") if one] for p in folder.glob("*.jsonl")}


def answer_of(row):
    return row["completion"][0]["content"][0]["text"]


def truth(built):
    """The things of each image by its source, crowds left out."""
    task, found = read_objects(built), {}
    manifest = read_manifest(built)
    for split in manifest["counts"]["default"]:
        sources = [one["source"] for one in manifest["images"] if one["split"] == split]
        for source, row in zip(sources, load_split(built, split), strict=True):
            found[source] = [one for one in things_of(row["objects"], task.classes) if not one.crowd]
    return found


@pytest.mark.parametrize(("family", "language"), [*((name, "en") for name in SHOWINGS), ("qwen2_5_vl", "zh")])
def test_answers_are_the_boxes_in_the_familys_own_numbers(built, tmp_path, family, language):
    side = 64
    manifest = ground(built, tmp_path / "out", Wording(family, side, language))
    true, sizing, seen = truth(built), showing_of(family).sizing(side), 0
    height, width = sizing.fit(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).shape[:2]
    question = prompts.Grounding.about(read_objects(built), showing_of(family).frame, language)
    for row in (one for of in lines(tmp_path / "out").values() for one in of):
        assert Image.open(tmp_path / "out" / row["images"][0]).size == (width, height) == (row["width"], row["height"])
        assert (row["original_width"], row["original_height"]) == (WIDTH, HEIGHT)
        assert row["prompt"] == prompts.ground(question)["prompt"]
        whole = (1000, 1000) if question.frame == prompts.THOUSANDTHS else (width, height)
        wanted = sorted(
            (one.box[1], one.box[0], one.name, [round(v / of * to) for v, of, to in zip(
                one.box, (WIDTH, HEIGHT) * 2, whole * 2, strict=True)]) for one in true[row["source"]]
        )  # fmt: skip
        told = json.loads(answer_of(row))
        assert [(one["label"], one["bbox_2d"]) for one in told] == [(name, numbers) for _, _, name, numbers in wanted]
        assert "description" not in answer_of(row)
        seen += 1
    assert seen == 40
    assert manifest["things"] == {"said": 50, "described": 30, "empty": 10, "crowds": 10}
    assert validate_rows(tmp_path / "out" / "train.jsonl", tmp_path / "out").findings == []


def test_families_are_those_whose_parts_are_known_and_sized_by_one_table():
    assert set(SHOWINGS) == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert (family.sizes, family.frame) == (SHOWINGS[name].sizes, SHOWINGS[name].frame)
    assert [name for name, one in SHOWINGS.items() if one.frame == prompts.PIXELS] == ["qwen2_5_vl"]


@pytest.mark.parametrize("name", [name for name in BASES if name != "tiny-smolvlm"])
def test_rows_are_resized_as_the_familys_processor_would_at_that_side(name):
    """Not SmolVLM's tiny one: its processor goes up to 64 pixels, and the family's own to 4 tiles of 512."""
    from transformers import AutoConfig, AutoProcessor

    base = base_folder(name)
    config, processor = AutoConfig.from_pretrained(base), AutoProcessor.from_pretrained(base)
    side = 64 if FAMILIES[config.model_type].one_side else 140
    set_side(processor, config, side)
    training, here = sizing_of(image_settings(processor)), showing_of(config.model_type).sizing(side)
    for height, width in ((40, 50), (64, 64), (300, 300), (31, 97), (333, 200)):
        image = np.zeros((height, width, 3), np.uint8)
        assert here.fit(image).shape == training.fit(image).shape
        assert training.fit(here.fit(image)).shape == here.fit(image).shape


def test_what_is_written_of_things_is_told_where_that_is_asked_and_somebody_wrote(rows, photos, tmp_path):
    told = [one for of in lines(rows).values() for row in of for one in json.loads(answer_of(row))]
    assert {one.get("description") for one in told} == {'it\'s "bent"', None}
    assert '"description": "..."' in lines(rows)["train"][0]["prompt"][-1]["content"][1]["text"]
    content = json.loads((photos / "annotations.json").read_text())
    for one in content["annotations"]:
        del one["description"]
    shutil.copytree(photos / "images", tmp_path / "raw" / "images")
    (tmp_path / "raw" / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="nothing is written of any thing; leave --describe out"):
        ground(tmp_path / "raw", tmp_path / "out", Wording(describe=True))
    assert not (tmp_path / "out").exists()


def test_rows_lie_where_their_images_lie_and_load_as_plain_data_sets(rows, built):
    manifest, splits = read_manifest(rows), {one["source"]: one["split"] for one in read_manifest(built)["images"]}
    whole = raw.read_back(rows)
    assert {split: len(of) for split, of in whole.items()} == manifest["rows"]["default"]
    for split, of in lines(rows).items():
        assert {splits[row["source"]] for row in of} == {split}
        for row, stored in zip(of, whole[split], strict=True):
            assert stored["images"][0].size == (row["width"], row["height"])
            assert stored["completion"][0]["content"][0]["text"] == answer_of(row)
    assert manifest["builder"]["source_fingerprint"] == read_manifest(built)["fingerprint"]
    card = (rows / "README.md").read_text()
    assert "10 crowds are in no answer" in card
    with pytest.raises(DataError, match="holds chat rows; give the data set"):
        audit([rows])
    with pytest.raises(DataError, match="holds chat rows; give the data set"):
        ground(rows, rows.parent / "again")


def test_the_same_arguments_make_the_same_bytes_and_others_another_fingerprint(rows, built, tmp_path):
    again = ground(built, tmp_path / "again", Wording(side=56, describe=True))
    paths = sorted(path.relative_to(rows) for path in rows.rglob("*") if path.is_file())
    assert [files.sha256(rows / path) for path in paths] == [files.sha256(tmp_path / "again" / path) for path in paths]
    other = ground(built, tmp_path / "other", Wording(side=84, describe=True))
    assert other["fingerprint"] != again["fingerprint"]


def test_rows_are_fit_to_be_published(rows, tmp_path):
    from hf_inspect import hub
    from hf_inspect.data import dataset_card

    assert dataset_card(read_manifest(rows)) == (rows / "README.md").read_text()
    hub.check(rows)


def of_format(photos, folder, kind):
    """The photos with their labels in another format, in the layout of its tools."""
    if kind == "coco":
        return shutil.copytree(photos, folder)
    content = json.loads((photos / "annotations.json").read_text())
    content["annotations"] = [one for one in content["annotations"] if not one["iscrowd"]]
    source = folder.with_suffix(".json")
    source.write_text(json.dumps(content))
    convert(source, "coco", kind, folder)
    shutil.copytree(photos / "images", folder, dirs_exist_ok=True) if kind != "yolo" else shutil.copytree(
        photos / "images", folder / "images"
    )
    return folder


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "labelme", "cvat"])
def test_raw_labels_of_each_format_are_built_first_and_come_to_the_same_answers(photos, rows, tmp_path, kind):
    src = of_format(photos, tmp_path / kind, kind)
    assert format_of(src) == kind
    given = src / "annotations.xml" if kind == "cvat" else src
    made = ground(given, tmp_path / "out", Wording(side=56, describe=kind in ("coco", "labelme")))
    answers = {row["source"].split("/")[-1]: row for of in lines(rows).values() for row in of}
    splits = {one["source"].split("/")[-1]: one["split"] for one in read_manifest(rows)["images"]}
    seen = 0
    for split, of in lines(tmp_path / "out").items():
        for row in of:
            name = row["source"].split("/")[-1]
            wanted, told = json.loads(answer_of(answers[name])), json.loads(answer_of(row))
            for one in wanted if kind not in ("coco", "labelme") else ():
                one.pop("description", None)
            off = 1 if kind in ("voc", "yolo") else 0  # whole pixels; shares
            assert [{**one, "bbox_2d": 0} for one in told] == [{**one, "bbox_2d": 0} for one in wanted]
            for a, b in zip(told, wanted, strict=True):
                assert np.abs(np.subtract(a["bbox_2d"], b["bbox_2d"])).max() <= off
            assert split == splits[name]
            seen += 1
    assert seen == 40
    assert made["things"]["said"] == 50
    assert made["things"]["crowds"] == (10 if kind == "coco" else 0)
    assert not (tmp_path / "out" / "built").exists()


def test_what_a_conversion_leaves_out_and_what_is_not_used_is_said(photos, tmp_path):
    src = of_format(photos, tmp_path / "raw", "labelme")
    path = next(src.glob("p1.json"))
    content = json.loads(path.read_text())
    content["shapes"].append({**content["shapes"][0], "shape_type": "circle"})
    path.write_text(json.dumps(content))
    raw.pictures(src, ["unlabelled.png"], seed=7)
    words = ["data", "ground", str(src), "--out", str(tmp_path / "out"), "--side", "56", "--good", ""]
    words += ["--family", "qwen2_5_vl", "--language", "en", "--describe"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "IN CONVERSION: 1 shapes (circle) left out" in done.output
    assert "unlabelled.png" in done.output
    assert "50 things, 30 of them described\n10 images of nothing, answered with []\n" in done.output
    assert read_manifest(tmp_path / "out")["converted"] == {"shapes (circle) left out": 1}
    assert "- In conversion: 1 shapes (circle) left out." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda src: {"wording": Wording("qwen9")}, "The family 'qwen9' is not known; there are qwen2_5_vl"),
        (lambda src: {"wording": Wording(language="de")}, "The language is 'de'; there are en, zh"),
        (lambda src: {"wording": Wording(side=20)}, "A side of 20 pixels came; this family sees 28 at least"),
        (lambda src: {"options": {"good": ""}}, "is a built data set; --from and options of a build are of raw labels"),
        (lambda src: {"source": "coco"}, "is a built data set; --from"),
    ],
)
def test_what_cannot_be_made_is_one_sentence_and_nothing_is_written(built, tmp_path, change, sentence):
    with pytest.raises(DataError, match=sentence):
        ground(built, tmp_path / "out", **change(built))
    assert not (tmp_path / "out").exists()


def test_labels_of_no_format_or_of_several_are_one_sentence(photos, tmp_path):
    with pytest.raises(DataError, match="is not there; give a built data set, or a file or folder of labels"):
        ground(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no labels of coco, yolo, voc, labelme, cvat .*say which with --from"):
        ground(photos / "images", tmp_path / "out")
    both = of_format(photos, tmp_path / "both", "voc")
    (both / "data.yaml").write_text("names: [a]\ntrain: images\n")
    with pytest.raises(
        DataError, match=r"labels of several formats: voc \(.*\), yolo \(data.yaml\); say which with --from"
    ):
        ground(both, tmp_path / "out")
    assert ground(both, tmp_path / "out", Wording(side=56), source="voc")["things"]["said"] == 50
    parts = raw.built_parts(tmp_path / "parts", good=20, defect=20)
    with pytest.raises(DataError, match="it has no boxes"):
        ground(parts, tmp_path / "other")


def edited(folder, tmp_path, change):
    """A copy of rows whose first one of two things is changed; returns its number, and what the check found."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    listed = [json.loads(one) for one in (copy / "train.jsonl").read_text().split("\n") if one]
    at = next(i for i, row in enumerate(listed) if len(json.loads(answer_of(row))) == 2)
    changed = change(listed[at], copy)
    texts = [json.dumps(row, ensure_ascii=False) for row in listed]
    texts[at] = changed if isinstance(changed, str) else texts[at]
    (copy / "train.jsonl").write_text("\n".join(texts) + "\n")
    return f"row {at + 1}", validate_rows(copy / "train.jsonl", copy)


def says(text):
    def change(row, folder):
        row["completion"][0]["content"][0]["text"] = text(answer_of(row)) if callable(text) else text

    return change


def sets(**values):
    return lambda row, folder: row.update(values)


def repeated(row, folder):
    """The row twice, once with another answer."""
    before = json.dumps(row)
    says("[]")(row, folder)
    return f"{json.dumps(row)}\n{before}"


WRONG = {
    "row-form": [
        sets(images=[]), sets(width="56"), sets(completion=[]), lambda row, folder: "[1]", lambda row, folder: "{",
        lambda row, folder: row.pop("prompt") and None, sets(height=0),
    ],
    "image-outside": [sets(images=["../a.png"]), sets(images=["/etc/passwd"])],
    "image-missing": [sets(images=["images/none.png"])],
    "image-broken": [lambda row, folder: (folder / row["images"][0]).write_bytes(b"\x89PNG") and None],
    "image-size": [lambda row, folder: row.update(width=row["width"] + 28)],
    "prompt-other": [lambda row, folder: row["prompt"][-1]["content"][1].update(text="Where?")],
    "answer-unreadable": [says("none"), says('[{"label": "螺丝"}]'), says(lambda text: text[:5])],
    "answer-cut": [says(lambda text: text[:-3])],
    "answer-left-out": [says(lambda text: text.replace('"label": "螺丝"', '"label": ""'))],
    "box-mended": [
        says('[{"bbox_2d": [9, 9, 999, 20], "label": "螺丝"}]'), says('[{"bbox_2d": [9, 20, 20, 9], "label": "螺丝"}]'),
    ],
    "label-other": [says(lambda text: text.replace("screw/install", "screw"))],
    "image-twice": [repeated],
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "change"), [(rule, change) for rule, changes in WRONG.items() for change in changes],
)  # fmt: skip
def test_each_rule_names_the_row_and_what_to_do(rows, tmp_path, rule, change):
    where, found = edited(rows, tmp_path, change)
    assert rule in {one.rule for one in found.wrong}
    named = next(one for one in found.findings if one.rule == rule)
    assert named.where == where or rule == "image-twice"
    assert f"-> {ROW_RULES[rule].remedy}" in found.table()
    stated = found.to_dict()
    assert not stated["valid"]
    assert {"rule": rule, "remedy": ROW_RULES[rule].remedy}.items() <= {
        key: value for one in stated["findings"] if one["rule"] == rule for key, value in one.items()
    }.items()


def test_every_rule_is_tried_and_another_form_of_an_answer_is_told_of_and_not_wrong(rows, tmp_path):
    assert set(WRONG) | {"answer-form"} == set(ROW_RULES)
    _, found = edited(rows, tmp_path, says(lambda text: f"```json\n{text}\n```"))
    assert [one.rule for one in found.findings] == ["answer-form"]
    assert not found.wrong


def test_rows_are_validated_by_the_command_which_exits_with_1_where_one_is_wrong(rows, tmp_path):
    words = ["data", "validate", str(rows / "train.jsonl"), "--images", str(rows)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].startswith("train.jsonl: ")
    assert done.output.splitlines()[-1] == "valid"
    edited(rows, tmp_path, says("none"))
    words = ["data", "validate", str(tmp_path / "copy" / "train.jsonl"), "--images", str(tmp_path / "copy"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert json.loads(done.output)["rules"] == {"answer-unreadable": 1}
    assert CliRunner().invoke(app, [*words, "--repair", "x.json"]).exit_code == 2


def test_what_is_no_file_of_rows_is_one_sentence(rows, built, tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        validate_rows(tmp_path / "a.jsonl", tmp_path)
    with pytest.raises(DataError, match="is not of rows that say where things are"):
        validate_rows(built / "a.jsonl", built)
    with pytest.raises(DataError, match="is no folder; give the one that the images lie in"):
        validate_rows(rows / "train.jsonl", tmp_path / "none")
    copy = shutil.copytree(rows, tmp_path / "copy")
    (copy / "train.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no row"):
        validate_rows(copy / "train.jsonl", copy)
