"""Labels of other formats from and to COCO: boxes and classes come back, what is lost is counted, nothing leads out."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.data.coco import convert, validate
from hf_inspect.errors import DataError
from tests import cocos

OTHERS = ("yolo", "voc", "labelme", "cvat")


def boxed():
    """A file of which every image has boxes alone, but one, which has none."""
    content = cocos.sound()
    for one in content["annotations"]:
        one.pop("segmentation", None)
        one.pop("keypoints", None)
        one["iscrowd"] = 0
    return content


def there(tmp_path, to, content=None):
    """The labels of a file in another format, as the next conversion takes them, and what was said."""
    made = convert(cocos.written(tmp_path, content or boxed()), "coco", to, tmp_path / to)
    if to == "yolo":
        cocos.images(tmp_path / to / "images")
    return made, tmp_path / to / "annotations.xml" if to == "cvat" else tmp_path / to


def boxes(content, names_alone=False):
    """Each box with its image's name and its class; numbers rounded to a thousandth of a pixel."""
    named = {one["id"]: one["name"] for one in content["categories"]}
    files = {one["id"]: one["file_name"].rsplit("/", 1)[-1] for one in content["images"]}
    if not names_alone:
        files = {one["id"]: one["file_name"] for one in content["images"]}
    return sorted(
        (files[one["image_id"]], named[one["category_id"]], [round(v, 3) for v in one["bbox"]])
        for one in content["annotations"]
    )


@pytest.mark.parametrize("other", OTHERS)
def test_boxes_and_classes_come_back(tmp_path, other):
    made, labels = there(tmp_path, other)
    assert (made.images, dict(made.boxes), dict(made.lost)) == (4, {"dent": 3, "Riß": 1, "pin": 1}, {})
    again = convert(labels, other, "coco", tmp_path / "back")
    assert (again.images, dict(again.lost)) == (4, {})
    content = json.loads((tmp_path / "back/annotations.json").read_text())
    names_alone = other in ("voc", "labelme")  # whose files say no folder that means anything here
    assert boxes(content, names_alone) == boxes(boxed(), names_alone)
    assert {one["file_name"].rsplit("/")[-1] for one in content["images"]} == {"a.png", "b.png", "ü 3.png", "empty.png"}
    assert {(one["width"], one["height"]) for one in content["images"]} == {cocos.SIZE}
    found = validate(tmp_path / "back/annotations.json", cocos.images(tmp_path / "images"))
    assert {one.rule for one in found.wrong} <= ({"file-name"} if names_alone else set())
    assert min(one["id"] for name in ("annotations", "images", "categories") for one in content[name]) == 1


def test_what_a_format_loses_is_counted(tmp_path):
    made, _ = there(tmp_path, "yolo", cocos.sound())
    assert dict(made.lost) == {
        "RLE masks became polygons": 1, "crowds left out": 1, "sets of keypoints left out": 1,
        "boxes became polygons of four corners, as YOLO has no file of both": 1,
    }  # fmt: skip
    made, _ = there(tmp_path, "voc", cocos.sound())
    assert dict(made.lost) == {
        "RLE masks became polygons": 1, "polygons became boxes": 2, "crowds left out": 1,
        "sets of keypoints left out": 1,
    }  # fmt: skip
    assert "2 polygons became boxes" in made.table()


def test_polygons_of_yolo_are_kept(tmp_path):
    _, folder = there(tmp_path, "yolo")
    (folder / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 0.2 0.2\n")
    made = convert(folder, "yolo", "coco", tmp_path / "back")
    assert (made.polygons, dict(made.lost)) == (1, {})
    content = json.loads((tmp_path / "back/annotations.json").read_text())
    mine = [box for name, _, box in boxes(content) if name == "a.png"]
    assert mine == [[16.0, 12.0, 8.0, 6.0], [4.0, 3.0, 16.0, 12.0]]
    drawn = [one for one in content["annotations"] if one["segmentation"]]
    assert [one["segmentation"] for one in drawn] == [[[4.0, 3.0, 20.0, 3.0, 20.0, 15.0]]]
    assert drawn[0]["area"] == 96


def labelme(folder, **shapes):
    """Files of LabelMe, each with shapes of these kinds."""
    folder.mkdir()
    for name, kinds in shapes.items():
        listed = [{"label": "dent", "points": [[1, 1], [9, 1], [5, 7]], "shape_type": kind} for kind in kinds]
        stated = {"imagePath": f"..\\photos\\{name}.png", "imageWidth": 40, "imageHeight": 30, "imageData": None}
        (folder / f"{name}.json").write_text(json.dumps(stated | {"shapes": listed}))
    return folder


def test_an_image_of_which_all_is_left_out_is_no_negative(tmp_path):
    folder = labelme(tmp_path / "raw", a=["polygon", "circle"], b=["circle", "line"], c=[], d=["rectangle"])
    made = convert(folder, "labelme", "coco", tmp_path / "out")
    assert made.polygons == 1
    assert dict(made.lost) == {
        "shapes (circle) left out": 2, "shapes (line) left out": 1,
        "images left out, as all they show was left out and they would pass for good parts": 1,
    }  # fmt: skip
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [one["file_name"] for one in content["images"]] == ["a.png", "c.png", "d.png"]


CVAT = """<annotations><image name="{name}" width="40" height="30">
<box label="dent" xtl="1" ytl="1" xbr="9" ybr="9"/><polyline label="dent" points="1,1;2,2;3,3"/></image>
<image name="b.png" width="40" height="30"><polyline label="dent" points="1,1;2,2;3,3"/></image></annotations>"""


def test_shapes_of_cvat_that_are_no_boxes_or_polygons_are_left_out_and_counted(tmp_path):
    (tmp_path / "x.xml").write_text(CVAT.format(name="a.png"))
    made = convert(tmp_path / "x.xml", "cvat", "coco", tmp_path / "out")
    assert made.images == 1
    assert made.lost["shapes (polyline) left out"] == 2


def test_a_name_that_leads_out_is_refused(tmp_path):
    (tmp_path / "x.xml").write_text(CVAT.format(name="../../a.png"))
    with pytest.raises(DataError, match=r"the image's name .* leads out of its folder"):
        convert(tmp_path / "x.xml", "cvat", "yolo", tmp_path / "in" / "out")
    content = boxed()
    content["images"][0]["file_name"] = "../../a.png"
    with pytest.raises(DataError, match="leads out of its folder"):
        convert(cocos.written(tmp_path, content), "coco", "voc", tmp_path / "in" / "out")
    assert list(tmp_path.rglob("a.*")) == []


REFUSED = {
    "x.json: annotation number 1 has no box or no category": lambda one: one["annotations"][0].update(
        bbox=[1, 1, 0, 4]
    ),
    "annotation number 2 has no box or no category": lambda one: one["annotations"][1].update(category_id=77),
    "image number 2 has no file_name, or no id of its own": lambda one: one["images"][1].update(id=1),
    "cannot be converted as COCO": lambda one: one["images"][1].update(width=None),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_coco_file_that_does_not_hold_together_is_refused(tmp_path, sentence):
    content = boxed()
    REFUSED[sentence](content)
    with pytest.raises(DataError, match=sentence):
        convert(cocos.written(tmp_path, content), "coco", "yolo", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_yolo_that_cannot_be_read_is_a_sentence(tmp_path):
    _, folder = there(tmp_path, "yolo")
    text = folder / "labels" / "a.txt"
    for line, sentence in (
        ("0 0.1 0.1", "a.png cannot be converted as YOLO"),
        ("7 0.1 0.1 0.2 0.2", "a.png cannot be converted as YOLO .IndexError"),
        ("0 x 0.1 0.2 0.2", "a.png cannot be converted as YOLO"),
        ("0 " + "0.1 " * 7, "should be an odd number of values"),
    ):
        text.write_text(line)
        with pytest.raises(DataError, match=sentence):
            convert(folder, "yolo", "coco", tmp_path / "out")
    text.write_text("")
    for names, sentence in (
        ("names: [a]\nkpt_shape: [2, 3]", "data.yaml is of YOLO's poses"),
        ("nc: 3", "data.yaml has no names"),
        ("a: [", "data.yaml cannot be converted as YOLO"),
    ):
        (folder / "data.yaml").write_text(names)
        with pytest.raises(DataError, match=sentence):
            convert(folder, "yolo", "coco", tmp_path / "out")
    (folder / "data.yaml").unlink()
    with pytest.raises(DataError, match="has no file with the names of YOLO's classes"):
        convert(folder, "yolo", "coco", tmp_path / "out")
    (folder / "classes.txt").write_text("dent\nhole\n")
    shutil.rmtree(folder / "labels")
    assert convert(folder, "yolo", "coco", tmp_path / "out").images == 4


def test_two_images_whose_labels_would_be_one_file_are_refused(tmp_path):
    content = boxed()
    content["images"][3]["file_name"] = "a.jpg"
    with pytest.raises(DataError, match=r"a\.png and a\.jpg differ in their suffix alone"):
        convert(cocos.written(tmp_path, content), "coco", "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_formats_that_are_not_known_are_refused_with_the_reason(tmp_path):
    path = cocos.written(tmp_path, boxed())
    for words, sentence in (
        (("coco", "datumaro"), "'datumaro' cannot be converted: its library cannot be installed beside"),
        (("kitti", "coco"), "'kitti' cannot be converted: there are coco, yolo, voc, labelme, cvat"),
        (("coco", "coco"), "are coco already"),
        (("yolo", "coco"), r"x\.json is no folder, as labels of yolo are"),
        (("cvat", "coco"), r"x\.json cannot be converted as CVAT"),
    ):
        with pytest.raises(DataError, match=sentence):
            convert(path, *words, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no voc labels that can be converted; is it the right --from"):
        convert(tmp_path / "empty", "voc", "coco", tmp_path / "out")


def test_the_command_says_what_it_wrote(tmp_path):
    path = cocos.written(tmp_path, cocos.sound())
    words = ["data", "convert", str(path), "--from", "coco", "--to", "yolo", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 boxes" in done.output.replace("\n", " ")
    assert "images left out" in done.output or "crowds left out" in done.output
