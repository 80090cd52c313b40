import hashlib
import json
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

from hf_inspect import files, prompts
from hf_inspect.data import (
    audit,
    build,
    class_ids,
    count,
    default_questions,
    load_split,
    questions_of,
    read_manifest,
    read_task,
    script_named,
    stream,
)
from hf_inspect.data.chat import QUESTIONS, chat, read_questions
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, TaskSpec
from tests import raw

NAMES = ("dent", "good", "scratch")
ASKED = {
    "good": ["good"],
    "direct": "Which is it?",
    "templates": ["What is there?", "Is it fine?"],
    "classes": {
        name: [f"{name}: first.", f"{name}: second.", f"{name}: third."] for name in ("good", "dent", "scratch")
    },
}


def write_yaml(path, **changed):
    value = {key: one for key, one in (ASKED | changed).items() if one is not None}
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    raw.classes(folder / "raw", {"good": 24, "scratch": 12, "dent": 12})
    shutil.copy(folder / "raw" / "good" / "000.png", folder / "raw" / "good" / "copy.png")
    build("folder", folder / "built", src=folder / "raw")
    return folder / "built"


@pytest.fixture(scope="module")
def chatted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    chat(parts, folder / "out", write_yaml(folder / QUESTIONS))
    return folder / "out"


def loaded(folder):
    return raw.read_back(folder)


def test_every_template_meets_every_description_of_the_class_and_the_class_is_asked_once(chatted, parts):
    whole = loaded(chatted)
    manifest = read_manifest(chatted)
    assert {split: len(rows) for split, rows in whole.items()} == manifest["rows"]["default"]
    assert manifest["counts"] == read_manifest(parts)["counts"]
    rows = [row for split in whole for row in whole[split].remove_columns("images")]
    assert len(rows) == 49 * (2 * 3 + 1)
    by_image = defaultdict(list)
    for row in rows:
        by_image[row["source"]].append(row)
    for source, of_image in by_image.items():
        name = source.split("/")[0]
        asked = [
            (row["prompt"][-1]["content"][1]["text"], row["completion"][0]["content"][0]["text"]) for row in of_image
        ]
        wanted = [(template, text) for template in ASKED["templates"] for text in ASKED["classes"][name]]
        assert asked == [*wanted, ("Which is it?", name)]
        assert {NAMES[row["class"]] for row in of_image} == {name}


def test_questions_lie_where_their_image_lies(chatted, parts):
    splits = {image["source"]: image["split"] for image in read_manifest(parts)["images"]}
    for split, rows in loaded(chatted).items():
        assert {splits[source] for source in rows["source"]} == {split}
    assert read_manifest(chatted)["images"] == read_manifest(parts)["images"]


def test_images_are_the_built_ones_byte_for_byte(chatted, parts):
    import datasets

    sha256 = {image["source"]: image["sha256"] for image in read_manifest(parts)["images"]}
    for rows in loaded(chatted).values():
        for row in rows.cast_column("images", datasets.List(datasets.Image(decode=False))):
            (image,) = row["images"]
            assert hashlib.sha256(image["bytes"]).hexdigest() == sha256[row["source"]]
            assert Path(image["path"]).name == Path(row["source"]).name
    assert loaded(chatted)["test"][0]["images"][0].size == (24, 24)


def test_parquet_holds_an_image_once_however_many_questions_there_are(tmp_path, parts):
    asked = write_yaml(tmp_path / QUESTIONS, templates=[f"Question {i}?" for i in range(40)])
    chat(parts, tmp_path / "out", asked)
    size = {
        folder: sum(path.stat().st_size for path in folder.rglob("*.parquet")) for folder in (parts, tmp_path / "out")
    }
    assert size[tmp_path / "out"] < 2.5 * size[parts]


def test_json_lines_hold_the_same_rows_and_each_image_once(chatted):
    lines = {path.stem: path.read_text().splitlines() for path in chatted.glob("*.jsonl")}
    names = Counter()
    for split, rows in loaded(chatted).items():
        for line, row in zip(lines.pop(split), rows, strict=True):
            (image,) = json.loads(line)["images"]
            content = (chatted / image).read_bytes()
            assert image == f"images/{hashlib.sha256(content).hexdigest()}.png"
            assert json.loads(line)["class"] == NAMES[row["class"]]
            assert prompts_of(json.loads(line)) == prompts_of(row)
            names[image] += 1
    assert not lines
    assert len(names) == len(list((chatted / "images").iterdir())) == 48  # of 49 images two are copies
    assert sorted(names.values())[-2:] == [7, 14]


def prompts_of(row):
    """The messages without the empty texts that a table has beside an image."""

    def clean(message):
        return message | {"content": [{k: v for k, v in part.items() if v is not None} for part in message["content"]]}

    return {key: [clean(message) for message in row[key]] for key in ("prompt", "completion")}


def test_messages_are_those_that_render_makes(chatted, parts):
    question = prompts.Question("", "Which is it?", TaskSpec.of(("good", "dent", "scratch"), ["good"]))
    row = loaded(chatted)["train"][6]
    assert prompts_of(row) == prompts.render(question, question.task.index(row["source"].split("/")[0]))


def test_the_same_arguments_make_the_same_bytes(chatted, parts, tmp_path):
    chat(parts, tmp_path / "again", write_yaml(tmp_path / QUESTIONS))
    paths = {path.relative_to(chatted) for path in chatted.rglob("*") if path.is_file()}
    assert paths == {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    for path in paths:
        assert files.sha256(chatted / path) == files.sha256(tmp_path / "again" / path)


def test_the_manifest_names_source_and_questions(chatted, parts, tmp_path):
    manifest = read_manifest(chatted)
    assert manifest["builder"]["name"] == "folder-chat"
    assert manifest["builder"]["source_fingerprint"] == read_manifest(parts)["fingerprint"]
    other = chat(parts, tmp_path / "out", write_yaml(tmp_path / QUESTIONS, direct="What is it?"))
    assert other["fingerprint"] != manifest["fingerprint"]
    assert manifest["task"] == read_manifest(parts)["task"]
    card = (chatted / "README.md").read_text()
    assert "| good | good |\n| dent | defect |\n| scratch | defect |" in card
    assert "\n> Which is it?\n" in card


def test_configs_of_the_source_stay_configs(tmp_path, monkeypatch):
    """Two configs, one of which unites what the other holds, as a data set's script may say."""
    import datasets

    raw.classes(tmp_path / "raw", {"good": 12, "scratch": 12, "dent": 12})
    build("folder", tmp_path / "built", src=tmp_path / "raw")
    manifest = read_manifest(tmp_path / "built")
    for place in ("one", "two"):
        shutil.copytree(tmp_path / "built" / "data", tmp_path / "both" / "data" / place)
    both = manifest | {
        "counts": {place: manifest["counts"]["default"] for place in ("one", "two")},
        "images": [image | {"config": place} for place in ("one", "two") for image in manifest["images"]],
    }
    files.write_json(tmp_path / "both" / "manifest.json", both)
    script = script_named("folder")
    monkeypatch.setattr(script, "CONFIGS", {"one": ("one",), "all": ("one", "two")})
    monkeypatch.setattr(sys.modules["hf_inspect.data.chat"], "script_named", lambda name: script)
    chat(tmp_path / "both", tmp_path / "out", write_yaml(tmp_path / QUESTIONS))
    assert sorted(datasets.get_dataset_config_names(str(tmp_path / "out"))) == ["all", "one"]
    one, whole = (raw.read_back(tmp_path / "out", name) for name in ("one", "all"))
    assert sum(map(len, one.values())) == 36 * 7
    assert sum(map(len, whole.values())) == 2 * 36 * 7
    assert len(list((tmp_path / "out").glob("*.jsonl"))) == 8


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"direct": None}, "questions are classes, good, templates, direct and maybe system"),
        ({"good": None}, r"has the keys \['classes', 'direct', 'templates'\]; questions are classes, good"),
        ({"column": "label"}, r"has the keys \['classes', 'column', 'direct', 'good', 'templates'\]"),
        ({"good": "good"}, "good is 'good'; give the list of those classes that may ship"),
        ({"good": []}, "good is \\[\\]; give the list"),
        ({"good": ["fine"]}, "fine is said to be good, but the classes are good, dent, scratch"),
        ({"good": ["good", "dent"]}, r"(?s)the questions .*dent \(defect\).*dent \(good\)"),
        (
            {"classes": ASKED["classes"] | {"dent": []}},
            "class 'dent' needs a name and a list of one or more descriptions",
        ),
        ({"classes": ASKED["classes"] | {"dent": "x"}}, "class 'dent' needs a name"),
        ({"classes": ASKED["classes"] | {True: ["x"]}}, "class True needs a name"),
        ({"classes": []}, "classes a list of descriptions for each class"),
        ({"templates": []}, "templates is a list of questions"),
        ({"direct": 3}, "direct is 3; give a text"),
        ({"direct": " "}, "needs a text"),
        ({"classes": ASKED["classes"] | {"dent": ["good: first."]}}, "names a class twice"),
        ({"classes": {k: ASKED["classes"][k] for k in ("good", "dent")}}, "(?s)different questions.*scratch"),
        ({"classes": ASKED["classes"] | {"crack": ["crack."]}}, "(?s)different questions.*crack"),
    ],
)
def test_questions_that_do_not_fit_are_a_sentence(parts, tmp_path, changed, sentence):
    with pytest.raises(DataError, match=sentence):
        chat(parts, tmp_path / "out", write_yaml(tmp_path / QUESTIONS, **changed))
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_or_not_the_built_ones_are_a_sentence(parts, tmp_path):
    with pytest.raises(DataError, match="is missing; write the data set's questions"):
        chat(parts, tmp_path / "out", tmp_path / "nothing.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(DataError, match="is not YAML"):
        chat(parts, tmp_path / "out", tmp_path / "broken.yaml")
    asked = write_yaml(tmp_path / QUESTIONS)
    with pytest.raises(DataError, match="which is read, overlap; give an --out beside it"):
        chat(parts, parts, asked)
    for change in (lambda images: images[1:], lambda images: images[:1] + images, reversed):
        other = tmp_path / "other"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(parts, other)
        manifest = read_manifest(other)
        files.write_json(other / "manifest.json", manifest | {"images": list(change(manifest["images"]))})
        with pytest.raises(DataError, match="again"):
            chat(other, tmp_path / "out", asked)


def shipped_questions():
    return sorted(files.shipped("dataset_scripts").glob(f"*/{QUESTIONS}"))


@pytest.mark.parametrize("path", shipped_questions(), ids=lambda path: path.parent.name)
def test_shipped_questions_fit_their_data_sets(path):
    asked = read_questions(path)
    assert asked.task() == script_named(path.parent.name).task([], None)
    assert {len(asked.about(name)) for name in asked.classes} == {11 if path.parent.name == "solar_panels" else 7}
    for of_class, descriptions in asked.classes.items():
        assert all(text.startswith(f"{of_class}: ") for text in descriptions)
        assert of_class in asked.direct


def test_data_sets_with_questions():
    names = {path.parent.name for path in shipped_questions()}
    assert names == {"elpv", "ksdd2_balanced", "mvtec_inspect", "solar_panels"}
    assert read_questions(files.shipped("dataset_scripts") / "elpv" / QUESTIONS).question() == prompts.SOLAR_CELL


def test_trl_s_collator_trains_on_the_answers_alone(chatted, tmp_path):
    from transformers import AutoProcessor
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from hf_inspect.vlm import tiny

    tiny.tiny_base(tmp_path / "base")
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    rows = [loaded(chatted)["train"][i] for i in (0, 6)]
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    for ids, labels, row in zip(batch["input_ids"], batch["labels"], rows, strict=True):
        answer = row["completion"][0]["content"][0]["text"]
        assert processor.tokenizer.decode(labels[labels >= 0]).startswith(answer)
        assert row["prompt"][-1]["content"][1]["text"] in processor.tokenizer.decode(ids)


def test_the_answers_are_in_the_order_of_the_questions(elpv, tmp_path):
    text = (files.shipped("dataset_scripts") / "elpv" / QUESTIONS).read_text()
    asked = yaml.safe_load(text)
    asked["classes"] = dict(reversed(asked["classes"].items()))
    (tmp_path / "turned.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    rows = load_split(elpv, "validation")
    assert class_ids(rows, questions_of(elpv).task()) == rows["label"]
    turned = questions_of(elpv, tmp_path / "turned.yaml")
    assert turned.question().options == ("defect", "good")
    assert class_ids(rows, turned.task()) == [1 - label for label in rows["label"]]
    for name in BINARY.classes:
        answer = turned.about(name)[-1]["completion"][0]["content"][0]["text"]
        assert answer == name


def test_the_order_of_the_questions_changes_no_row_but_that_of_the_options(parts, chatted, tmp_path):
    turned = {"classes": dict(reversed(ASKED["classes"].items()))}
    chat(parts, tmp_path / "out", write_yaml(tmp_path / QUESTIONS, **turned))
    for split, rows in loaded(chatted).items():
        other = loaded(tmp_path / "out")[split]
        assert other.features["class"].names == rows.features["class"].names
        assert [prompts_of(row) for row in other] == [prompts_of(row) for row in rows]
        assert other["class"][:] == rows["class"][:]


def test_the_shipped_adapter_answers_the_data_sets_own_question(elpv):
    assert questions_of(elpv).question() == prompts.SOLAR_CELL


def test_a_set_without_questions_is_asked_which_of_its_classes_a_part_is(parts, tmp_path):
    asked = questions_of(parts)
    assert asked.task() == read_task(parts)
    assert asked.direct == "Which of dent, good and scratch is this part? Answer with the class name only."
    manifest = chat(parts, tmp_path / "out")
    assert manifest["rows"]["default"] == {split: n // 7 for split, n in chatted_rows(parts, tmp_path).items()}
    for rows in loaded(tmp_path / "out").values():
        for row in rows:
            assert row["completion"][0]["content"][0]["text"] == row["source"].split("/")[0] == NAMES[row["class"]]
    assert (
        "One question is answered, with the class alone:\n\n> Which of dent" in (tmp_path / "out/README.md").read_text()
    )
    odd = TaskSpec.of(["a, b", "🔥"], ["🔥"])
    assert default_questions(odd).question().options == odd.classes


def chatted_rows(parts, tmp_path):
    return chat(parts, tmp_path / "asked", write_yaml(tmp_path / QUESTIONS))["rows"]["default"]


def test_chat_rows_are_refused_where_a_data_set_is_wanted(chatted, parts, tmp_path):
    """They have the data set's counts and images in their manifest, and none in their Parquet."""
    of = read_manifest(parts)["fingerprint"]
    for wants in (
        lambda: audit([chatted]),
        lambda: audit([parts, chatted]),
        lambda: chat(chatted, tmp_path / "again"),
        lambda: read_task(chatted),
        lambda: questions_of(chatted),
        lambda: load_split(chatted, "test"),
        lambda: count(chatted, "test"),
        lambda: next(stream(chatted, "test", ["image"])),
    ):
        with pytest.raises(DataError, match=rf"holds chat rows; give the data set .*\(fingerprint {of}\)"):
            wants()
    assert not (tmp_path / "again").exists()


def test_folders_of_other_kinds_are_one_sentence(parts, tmp_path):
    for folder in (files.shipped("assets") / "elpv" / "adapter", tmp_path, parts.parent / "raw"):
        for wants in (audit, lambda folders: chat(folders[0], tmp_path / "out")):
            with pytest.raises(DataError, match=r"manifest\.json is missing; is .* the folder you meant\?"):
                wants([folder])
    cascade = files.shipped("assets") / "elpv"  # which has its data set's manifest, and no images
    for wants in (
        lambda: audit([cascade]),
        lambda: chat(cascade, tmp_path / "out"),
        lambda: load_split(cascade, "test"),
    ):
        with pytest.raises(DataError, match=r"has a manifest\.json and no Parquet of"):
            wants()
