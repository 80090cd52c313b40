"""Every rule of a COCO file finds its mistake, with id and file, and a repair does what it says; all else stays."""

import copy
import json
import shutil

import numpy as np
import pytest
from faster_coco_eval import mask
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import images as reader
from hf_inspect.cli import app
from hf_inspect.data.coco import RULES, repair, validate
from hf_inspect.data.raw.document import parsed
from hf_inspect.errors import DataError
from hf_inspect.images import ORIENTATION
from tests import cocos


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = cocos.images(tmp_path_factory.mktemp("coco") / "images")
    (folder / "broken.png").write_bytes(b"no picture")
    shutil.copy(folder / "a.png", folder / "sub" / "twin.png")
    shutil.copy(folder / "a.png", folder / "twin.png")
    return folder


def rules(found):
    return {one.rule for one in found.wrong}


def mended(tmp_path, images, content, **options):
    """What is found in a file, and what a repair makes of it."""
    found = validate(cocos.written(tmp_path, content), images, **options)
    made = repair(found, images, tmp_path / "fixed.json", **options)
    assert not validate(tmp_path / "fixed.json", images, **options).wrong
    return found, json.loads((tmp_path / "fixed.json").read_text()), made


def test_a_sound_file_is_valid_and_a_repair_leaves_it(tmp_path, images):
    found, fixed, made = mended(tmp_path, images, cocos.sound())
    assert found.findings == []
    assert fixed == cocos.sound()
    assert made.changes == []
    assert found.table().endswith("valid")


def edit(part, at, **values):
    """A mistake: values of one entry of a list set, or dropped where they are ..."""

    def make(content):
        for key, value in values.items():
            if value is ...:
                del content[part][at][key]
            else:
                content[part][at][key] = value

    return make


def add(part, **values):
    return lambda content: content[part].append(values)


def replace(part, at, value):
    return lambda content: content[part].__setitem__(at, value)


A, P, C = "annotations", "images", "categories"
SQUARE = {"bbox": [4, 4, 9, 9], "area": 81}
CORNERS = [5, 5, 25, 5, 25, 15, 5, 15]
BOW = [[5, 5, 25, 15, 25, 5, 5, 15]]
ALL = [1, 2, 3, 4, 5]

# rule: mistakes, the ids of the annotations that are kept, and (list, place, values) of what is written
MISTAKES = {
    "category-form": (add(C, id=4), ALL, None),
    "category-twice": (add(C, id=1, name="Dent"), ALL, None),
    "category-clash": (add(C, id=2, name="hole"), [1, 3, 4, 5], None),
    "category-renamed": (
        lambda content: (add(C, id=9, name=" DENT")(content), edit(A, 3, category_id=9)(content)), ALL,
        (A, 3, {"category_id": 1}),
    ),
    "image-form": (replace(P, 1, {"id": 2}), [1, 2, 4, 5], None),
    "image-clash": (edit(P, 3, id=3), [1, 2, 3], None),
    "file-twice": (
        lambda content: (add(P, id=9, file_name="a.png")(content), edit(A, 1, image_id=9)(content)), ALL,
        (A, 1, {"image_id": 1}),
    ),
    "name-outside": (edit(P, 0, file_name="../images/a.png"), [3, 4, 5], None),
    "file-missing": (edit(P, 0, file_name="gone.png"), [3, 4, 5], None),
    "file-unsure": (edit(P, 0, file_name="elsewhere/twin.png"), [3, 4, 5], None),
    "file-broken": (edit(P, 0, file_name="broken.png"), [3, 4, 5], None),
    "file-name": (edit(P, 0, file_name="old/A.PNG"), ALL, (P, 0, {"file_name": "a.png"})),
    "size-form": (edit(P, 0, width="40", height=...), ALL, (P, 0, {"width": 40, "height": 30})),
    "size-other": (edit(P, 0, width=80, height=60), [3, 4, 5], None),
    "id-form": (edit(A, 0, id="1", image_id=1.0), ALL, (A, 0, {"id": 1, "image_id": 1})),
    "id-twice": (edit(A, 1, id=1), ALL, (A, 1, {"id": 2})),
    "annotation-form": (replace(A, 0, "x"), [2, 3, 4, 5], None),
    "no-image": (edit(A, 0, image_id=77), [2, 3, 4, 5], None),
    "no-category": (edit(A, 0, category_id=77), [2, 3, 4, 5], None),
    "repeat": (add(A, id=6, image_id=1, category_id=1, iscrowd=0, **SQUARE), ALL, None),
    "nothing": (edit(A, 0, bbox=...), [2, 3, 4, 5], None),
    "box-missing": (edit(A, 2, bbox=...), ALL, (A, 2, {"bbox": [10, 5, 2, 10]})),
    "box-form": (edit(A, 1, bbox=[5, 5, "20", 10]), ALL, (A, 1, {"bbox": [5, 5, 20, 10]})),
    "box-empty": (edit(A, 0, bbox=[4, 4, -9, 9]), [2, 3, 4, 5], None),
    "box-outside": (edit(A, 0, bbox=[-4, 4, 13, 40], area=234), ALL, (A, 0, {"bbox": [0, 4, 9, 26]})),
    "box-off": (edit(A, 1, bbox=[8, 5, 20, 10]), ALL, (A, 1, {"bbox": [5, 5, 20, 10]})),
    "mask-form": (edit(A, 1, segmentation="x"), ALL, (A, 1, {"segmentation": [], "bbox": [5, 5, 20, 10]})),
    "polygon-flat": (edit(A, 1, segmentation=CORNERS), ALL, (A, 1, {"segmentation": [CORNERS]})),
    "polygon-form": (edit(A, 1, segmentation=[CORNERS, [1, 2, 3, 4]]), ALL, (A, 1, {"segmentation": [CORNERS]})),
    "polygon-empty": (edit(A, 1, segmentation=[CORNERS, [1, 1, 2, 2, 3, 3]]), ALL, (A, 1, {"segmentation": [CORNERS]})),
    "polygon-crossing": (edit(A, 1, segmentation=BOW, area=100), ALL, (A, 1, {"bbox": [5, 5, 20, 10], "area": 100})),
    "polygon-outside": (
        edit(A, 1, segmentation=[[5, 5, 60, 5, 60, 15, 5, 15]]), ALL, (A, 1, {"bbox": [5, 5, 35, 10], "area": 350}),
    ),
    "rle-form": (
        edit(A, 3, segmentation={"size": [30, 40], "counts": [9]}), ALL,
        (A, 3, {"segmentation": [], "bbox": [10, 5, 2, 10]}),
    ),
    "rle-size": (edit(A, 3, segmentation={"size": [40, 30], "counts": cocos.RUNS}), ALL, (A, 3, {"segmentation": []})),
    "rle-empty": (edit(A, 3, segmentation={"size": [30, 40], "counts": [1200]}), ALL, (A, 3, {"segmentation": []})),
    "area-missing": (edit(A, 2, area=...), ALL, (A, 2, {"area": 20})),
    "area-form": (edit(A, 0, area=-81), ALL, (A, 0, {"area": 81})),
    "area-off": (edit(A, 1, area=900), ALL, (A, 1, {"area": 200})),
    "crowd-form": (edit(A, 3, iscrowd=True), ALL, (A, 3, {"iscrowd": 1})),
    "keypoints-form": (edit(A, 4, keypoints=[5, 5, 2]), ALL, None),
    "keypoints-count": (edit(A, 4, num_keypoints=2), ALL, (A, 4, {"num_keypoints": 1})),
    "emptied": (edit(A, 2, category_id=77), [1, 2, 4, 5], None),
}  # fmt: skip
ELSEWHERE = {"mark", "key-twice", "no-number", "category-unused", "exif", "exif-unsure"}  # tests of their own below


def test_no_rule_is_without_a_test():
    assert set(MISTAKES) | ELSEWHERE == set(RULES)


@pytest.mark.parametrize("rule", MISTAKES)
def test_each_rule_finds_its_mistake_and_a_repair_does_what_it_says(tmp_path, images, rule):
    make, kept, written = MISTAKES[rule]
    content = cocos.sound()
    make(content)
    before = copy.deepcopy(content)
    found, fixed, made = mended(tmp_path, images, content)
    assert rule in rules(found), found.table()
    assert [one["id"] for one in fixed[A]] == kept
    part, at, values = written or (A, 0, {})
    assert values.items() <= fixed[part][at].items()
    assert content == before, "a repair leaves what it is given"
    assert any(RULES[rule].repair in line for line in made.changes)
    [first] = [one for one in found.findings if one.rule == rule][:1]
    assert first.where.split()[0] in ("annotation", "image", "category", "file")
    assert RULES[rule].remedy in found.table()


def test_a_finding_has_id_file_and_remedy(tmp_path, images):
    content = cocos.sound()
    edit(A, 2, bbox=[0, 0, 99, 9])(content)
    [first, *_] = validate(cocos.written(tmp_path, content), images).to_dict()["findings"]
    assert first == {
        "rule": "box-outside", "where": "annotation 3", "file": "sub/b.png", "wrong": True,
        "what": "[0, 0, 99, 9] reaches 59.0 pixels beyond 40 x 30",
        "remedy": RULES["box-outside"].remedy, "repair": RULES["box-outside"].repair,
    }  # fmt: skip


def test_an_image_that_loses_all_its_annotations_is_no_negative(tmp_path, images):
    content = cocos.sound()
    edit(A, 2, bbox=[50, 50, 9, 9], segmentation=[], area=81)(content)
    found, fixed, _ = mended(tmp_path, images, content)
    assert rules(found) == {"box-outside", "nothing", "emptied"}
    assert [one["id"] for one in fixed[P]] == [1, 3, 4]


def test_no_file_outside_the_folder_is_opened(tmp_path, images, monkeypatch):
    content = cocos.sound()
    (tmp_path / "a.png").write_bytes((images / "a.png").read_bytes())
    names = ("../a.png", str(tmp_path / "a.png"), "sub\\..\\..\\a.png", "C:\\a.png", "\\\\host\\a.png", "a\0.png", "..")
    opened = list[str]()
    monkeypatch.setattr("hf_inspect.data.coco.entries.looked", lambda path: opened.append(str(path)) or ((40, 30), 1))
    for name in names:
        content[P][0]["file_name"] = name
        found = validate(cocos.written(tmp_path, content), images)
        assert "name-outside" in rules(found), name
    assert {str(images / name) for name in cocos.NAMES[1:]} == set(opened)


def test_a_missing_file_is_not_another_one_of_the_same_name(tmp_path, images):
    """train/a.png and val/a.png, of which one is there: the other's annotations are not put on it."""
    content = cocos.sound()
    content[P][3]["file_name"], content[P][0]["file_name"] = "a.png", "val/a.png"
    found, fixed, _ = mended(tmp_path, images, content)
    assert rules(found) == {"file-missing", "no-image"}
    assert [one["id"] for one in fixed[P]] == [2, 3, 4]
    assert [one["id"] for one in fixed[A]] == [3, 4, 5]
    content[P][3]["file_name"], content[P][0]["file_name"] = "train/a.png", "val/a.png"
    found, fixed, _ = mended(tmp_path, images, content)
    assert rules(found) == {"file-name", "file-missing"}
    assert [one["id"] for one in fixed[P]] == [1, 2, 3]


def test_names_of_unicode_and_spaces_are_found(tmp_path, images):
    import unicodedata

    content = cocos.sound()
    content[P][2]["file_name"] = unicodedata.normalize("NFD", "ü 3.png")
    found, fixed, _ = mended(tmp_path, images, content)
    assert rules(found) == {"file-name"}
    assert fixed[P][2]["file_name"] == "ü 3.png"


def test_what_json_does_not_have_is_mended(tmp_path, images):
    content = cocos.sound()
    content["info"]["score"] = float("nan")
    content[A][0]["bbox"] = [float("nan"), 4, 9, 9]
    content[A][0]["segmentation"] = [[4, 4, 13, 4, 13, 13, 4, 13]]
    text = json.dumps(content).replace('"year": 2026', '"year": 2025, "year": 2026, "huge": 1e999')
    found, fixed, _ = mended(tmp_path, images, b"\xef\xbb\xbf" + text.encode())
    assert rules(found) == {"mark", "key-twice", "no-number", "box-form"}
    assert fixed["info"] == {"year": 2026, "score": None, "huge": None}
    assert fixed[A][0]["bbox"] == [4, 4, 9, 9]
    assert not (tmp_path / "fixed.json").read_bytes().startswith(b"\xef")


def test_an_unused_category_is_told_of_and_kept(tmp_path, images):
    content = cocos.sound()
    content[C].insert(0, {"id": 0, "name": "objects"})
    found, fixed, made = mended(tmp_path, images, content)
    assert [one.rule for one in found.findings] == ["category-unused"]
    assert "(no fault)" in found.table()
    assert (fixed, made.changes) == (content, [])


# Photos turned by EXIF.


def turned_photo(folder, orientation, size=cocos.SIZE):
    """An upright picture of `size` with a white box at 4, 6 to 14, 10, as a turned camera stores it; and the boxes."""
    upright = np.zeros((size[1], size[0]), np.uint8)
    upright[6:10, 4:14] = 255
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = np.asarray(reader.pixels.turned(Image.fromarray(upright), back))
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    Image.fromarray(stored).save(folder / "a.png", exif=tag)
    ys, xs = np.nonzero(stored)
    return stored, [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_a_photo_turned_by_exif_are_turned_with_it(tmp_path, orientation):
    folder = cocos.images(tmp_path / "images")
    stored, (x, y, w, h) = turned_photo(folder, orientation)
    content = cocos.sound()
    content[P][0] |= {"width": stored.shape[1], "height": stored.shape[0]}
    packed = mask.encode(np.asfortranarray(stored // 255))
    rle = {"size": [int(v) for v in packed["size"]], "counts": packed["counts"].decode()}
    one = {"image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "area": 40, "iscrowd": 0}
    corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    points = {"category_id": 3, "keypoints": [x, y, 2, 0, 0, 0], "num_keypoints": 1}
    content[A][:2] = [
        {"id": 1, "segmentation": rle} | one, {"id": 2, "segmentation": corners} | one, {"id": 6} | one | points,
    ]  # fmt: skip
    found, fixed, _ = mended(tmp_path, folder, content)
    assert rules(found) == {"exif"}
    assert [one["bbox"] for one in fixed[A][:3]] == [[4, 6, 10, 4]] * 3
    assert mask.toBbox(fixed[A][0]["segmentation"]).tolist() == [4, 6, 10, 4]
    drawn = np.reshape(fixed[A][1]["segmentation"], (-1, 2))
    assert [*drawn.min(axis=0), *drawn.max(axis=0)] == [4, 6, 14, 10]
    assert fixed[A][2]["keypoints"][2:] == [2, 0, 0, 0]
    assert (fixed[P][0]["width"], fixed[P][0]["height"]) == cocos.SIZE


def test_where_the_size_does_not_tell_exif_says_it(tmp_path):
    folder = cocos.images(tmp_path / "images")
    _, box = turned_photo(folder, 3)
    content = cocos.sound()
    content[A][:2] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 40, "iscrowd": 0}]
    path = cocos.written(tmp_path, content)
    assert {"exif-unsure", "category-unused"} == {one.rule for one in validate(path, folder).findings}
    assert rules(validate(path, folder, "upright")) == set()
    found = validate(path, folder, "stored")
    assert rules(found) == {"exif"}
    assert repair(found, folder, tmp_path / "fixed.json", "stored").after.content[A][0]["bbox"] == [4, 6, 10, 4]
    with pytest.raises(DataError, match="--exif sideways is not known; use stored or upright"):
        validate(path, folder, "sideways")


# What is written, and what is not.


def test_the_file_that_is_read_is_not_replaced(tmp_path, images):
    path = cocos.written(tmp_path, cocos.sound())
    with pytest.raises(DataError, match=r"x\.json and .*x\.json, which is read, overlap"):
        repair(validate(path, images), images, path)


def test_what_cannot_be_saved_writes_nothing(tmp_path, images):
    content = {**cocos.sound(), "images": [{"id": 1, "file_name": "gone.png"}]}
    found = validate(cocos.written(tmp_path, content), images)
    with pytest.raises(DataError, match=r"nothing of x\.json can be saved: no image is left; nothing was written"):
        repair(found, images, tmp_path / "fixed.json")
    assert not (tmp_path / "fixed.json").exists()
    with pytest.raises(DataError, match="is no folder; give the one that the images lie in as --images"):
        validate(tmp_path / "x.json", tmp_path / "nowhere")


def test_a_file_of_another_kind_is_not_replaced(tmp_path, images):
    found = validate(cocos.written(tmp_path, cocos.sound()), images)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(DataError, match="is another file than this command writes"):
        repair(found, images, tmp_path / "notes.json")


def test_a_repair_that_does_not_come_clean_writes_nothing(tmp_path, images, monkeypatch):
    content = cocos.sound()
    edit(A, 0, area=-1)(content)
    found = validate(cocos.written(tmp_path, content), images)
    monkeypatch.setattr(
        "hf_inspect.data.coco.validating.parsed", lambda text, name: parsed(json.dumps(content).encode(), name)
    )
    with pytest.raises(DataError, match=r"cannot be repaired: annotation 1 of a\.png: -1 .* comes back"):
        repair(found, images, tmp_path / "fixed.json")
    assert not (tmp_path / "fixed.json").exists()


def test_the_command_exits_with_1_and_lists_every_change(tmp_path, images):
    content = cocos.sound()
    edit(A, 0, area=-1)(content)
    edit(A, 1, bbox=[8, 5, 20, 10])(content)
    words = ["data", "validate", str(cocos.written(tmp_path, content)), "--images", str(images)]
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 1
    assert "2 things are wrong; --repair OUT.json writes a file without" in plain.output
    stated = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert stated["rules"] == {"area-form": 1, "box-off": 1}
    assert (stated["valid"], stated["counts"]["files"]) == (False, 4)
    out = tmp_path / "fixed.json"
    done = CliRunner().invoke(app, [*words, "--repair", str(out)])
    assert done.exit_code == 0
    assert "annotation 1 of a.png: -1 -> that of the mask, or the box, is written" in done.output
    assert "2 changes" in done.output
    stated = json.loads(CliRunner().invoke(app, [*words, "--json", "--repair", str(out)]).output)
    assert len(stated["changes"]) == 2
    assert stated["repaired"]["valid"]
