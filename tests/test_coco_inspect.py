"""What a COCO file holds, by reading it; JSON that is none, too large, too deep, or not UTF-8, is a sentence each."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.data.coco import inspect, validate
from hf_inspect.data.coco.inspecting import STUDENTS
from hf_inspect.data.raw.document import parsed, read_document
from hf_inspect.errors import DataError
from tests import cocos
from tests.cocos import refusal


def inspected(tmp_path, **changed):
    return inspect(cocos.written(tmp_path, cocos.sound() | changed))


def test_all_kinds_are_counted(tmp_path):
    found = inspected(tmp_path)
    assert found.kinds == {
        "boxes": 5, "polygons": 1, "compressed RLE": 1, "uncompressed RLE": 1, "keypoints": 1, "crowds": 1,
    }  # fmt: skip
    assert found.classes == {"dent": 3, "Riß": 1, "pin": 1}
    assert (found.images, found.annotations, found.unannotated, found.uncounted) == (4, 5, 1, 0)
    assert found.sizes == {"40 x 30": 4}


def test_classes_that_nothing_is_of_and_annotations_of_no_class_are_told(tmp_path):
    categories = [{"id": 0, "name": "parts"}, {"id": 1, "name": "dent"}, {"id": "2", "name": "Riß"}]
    found = inspected(tmp_path, categories=categories)
    assert found.classes == {"parts": 0, "dent": 3, "Riß": 1}
    assert found.uncounted == 1
    assert "0 parts" in found.table()
    assert "1 annotations" in found.table()


BOX, MASK = {"bbox": [4, 4, 9, 9]}, {"segmentation": [[5, 5, 25, 5, 25, 15]]}
FOLLOWS = {
    "boxes": (BOX, ["Grounding DINO"], "detection"), "masks": (MASK, ["SAM"], "segmentation"),
    "an RLE": ({"segmentation": {"size": [3, 3], "counts": [9]}}, ["SAM"], "segmentation"),
    "both": (BOX | MASK, ["Grounding DINO", "SAM"], "segmentation"), "neither": ({"bbox": [], "area": 3}, [], None),
}  # fmt: skip


@pytest.mark.parametrize("what", FOLLOWS)
def test_teachers_and_student_follow_from_the_annotations(tmp_path, what):
    holds, teachers, student = FOLLOWS[what]
    found = inspected(tmp_path, annotations=[{"id": 1, "image_id": 1, "category_id": 1, **holds}])
    assert (list(found.teachers), found.student) == (teachers, student)
    said = found.table()
    assert ("no annotation has a box or a mask" in said) == (student is None)
    assert all(f"{base} (" in said for base in found.students)
    assert found.next.endswith("fixed.json") == (teachers == ["SAM"])


def test_students_are_ones_that_the_recipe_begins_with():
    """Permissive ones first; a name that is no repository is a base, and one for masks is a network of masks."""
    from hf_inspect.detectors.families import family_named

    for (_, masks), bases in STUDENTS.items():
        families = {base: family_named(base) for base in bases}
        assert {base for base, own in families.items() if own is None} <= {
            "PekingU/rtdetr_v2_r18vd", "ustc-community/dfine-small-coco",
        }  # fmt: skip
        bound = [own.licence for own in families.values() if own]
        assert bound == sorted(bound, key=bool)
        for base, own in families.items():
            if own and base.startswith("yolo"):
                assert base.endswith("-seg") == masks
            assert ("--weights" in bases[base]) <= own.takes_weights(base) if own else True


def test_the_next_command_runs(tmp_path):
    folder = tmp_path / "a folder"
    cocos.images(folder / "images")
    path = cocos.written(folder, cocos.sound())
    said = CliRunner().invoke(app, ["data", "inspect", str(path), "--json"])
    stated = json.loads(said.output)
    assert stated["next"] == f"hf-inspect data validate '{path}' --images '{folder / 'images'}'"
    assert stated == json.loads(json.dumps(inspect(path).to_dict()))
    assert CliRunner().invoke(app, ["data", "validate", str(path), "--images", str(folder / "images")]).exit_code == 0
    assert "teachers" in CliRunner().invoke(app, ["data", "inspect", str(path)]).output


BAD = {
    "is no UTF-8": (b'{"a": "\xff"}', r"not JSON in UTF-8 \(byte 7 is 0xff\); save it as UTF-8"),
    "is UTF-16": ("{}".encode("utf-16"), r"not JSON in UTF-8 \(byte 0 is 0xff\)"),
    "is deep": (b"[" * 100_000, "nested too deeply, which no COCO file is"),
    "is cut": (b'{"images": [', r"is not JSON \(Expecting value.*\); export it again"),
    "is empty": (b"", "is not JSON"),
    "has a number of 5,000 digits": (b'{"images": ' + b"9" * 5000 + b"}", "is not JSON .*digits"),
    "is a list": (b"[]", "is no COCO file: it needs the lists images, annotations, categories"),
    "has no list of images": (b'{"images": {}, "annotations": [], "categories": []}', "is no COCO file"),
    "is LabelMe's": (b'{"shapes": [], "imagePath": "a.png"}', "is a file of LabelMe"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_none_is_a_sentence(tmp_path, what):
    content, sentence = BAD[what]
    path = cocos.written(tmp_path, content)
    for read in (inspect, lambda path: validate(path, tmp_path)):
        with pytest.raises(DataError, match=sentence) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [900, 960, 990])
def test_what_is_nested_nearly_too_deeply_is_read_or_refused(tmp_path, depth):
    """Deep enough for the parser, too deep for what shows and writes it."""
    content = cocos.sound()
    cocos.images(tmp_path / "images")
    deep = json.dumps(content).replace("[4, 4, 9, 9]", "[" * depth + "]" * depth, 1)
    path = cocos.written(tmp_path, deep.encode())
    for read in (inspect, lambda path: validate(path, tmp_path / "images")):
        said = refusal(lambda read=read: read(path).table())
        assert said is None or "nested too deeply" in said


def test_a_file_that_memory_does_not_suffice_for_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(4 * 2**30)  # takes no room on the disk
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=16 * 2**30))
    with pytest.raises(DataError, match=r"x\.json has 4\.0 GiB and takes about 32\.0 GiB of memory, more than is free"):
        inspect(path)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"x\.json cannot be read \(No such file"):
        inspect(tmp_path / "x.json")
    with pytest.raises(DataError, match="cannot be read"):
        inspect(tmp_path)


def test_what_is_wrong_as_json_is_counted():
    text = '\ufeff{"images": [{"id": 1, "id": 2}], "annotations": [NaN, -Infinity], "categories": [], "images": []}'
    document = parsed(text.encode(), "x.json")
    assert (document.marked, document.twice, document.constants) == (True, {"id": 1, "images": 1}, 2)
    assert document.images == []
    clean = parsed(json.dumps(cocos.sound()).encode(), "x.json")
    assert (clean.marked, clean.twice, clean.constants) == (False, {}, 0)


def test_names_are_shown_on_one_line(tmp_path):
    found = inspected(tmp_path, categories=[{"id": 1, "name": "de\nnt\x1b[2J"}])
    assert len(found.table().splitlines()) == 9
    assert "\x1b" not in found.table()
    assert read_document(tmp_path / "x.json").name == "x.json"
