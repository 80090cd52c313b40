"""COCO exports as tools write them: ids, names, splits, good categories, photos turned by EXIF; no loss is unsaid."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import images
from hf_inspect.data import options_from, script_named
from hf_inspect.data.examine import examine
from hf_inspect.data.raw.document import whole
from hf_inspect.errors import DataError
from hf_inspect.images import ORIENTATION
from tests import raw
from tests.accounted import building, classes_of, left_out

LABELS = {f"{i}.png": ["dent"] * (i % 3) for i in range(1, 31)}  # every third is good
GOOD = {name for name, of_image in LABELS.items() if not of_image}


@pytest.fixture
def built(tmp_path, monkeypatch):
    return building(tmp_path, monkeypatch)


def refused(built, src, sentence, **options):
    with pytest.raises(DataError, match=sentence) as error:
        built("coco", src, **options)
    assert "\n" not in str(error.value)


def exported(root, labels=LABELS, name="annotations.json", inside="", **more):
    """A folder of pictures with their JSON, and its content."""
    raw.pictures(root / inside, labels)
    return raw.coco(root / name, labels, **more)


def write(root, content, name="annotations.json"):
    (root / name).write_text(json.dumps(content))


def test_what_a_json_says_of_itself_is_shown_on_one_line(built, tmp_path):
    """Names with line ends or of a thousand letters: a sentence names them and stays one line of a readable length."""
    content = exported(tmp_path / "raw")
    long = "crack\n" * 300
    named = {**content, "categories": [{**one, "name": long} for one in content["categories"]]}
    write(tmp_path / "raw", named)
    refused(built, tmp_path / "raw", r"--good other: there are no such .*crack\\n.*…", good="other")
    write(tmp_path / "raw", {**content, "categories": [{"id": "x", "name": long}]})
    refused(built, tmp_path / "raw", r"needs a whole number as id and a name, got .*…\.")
    write(
        tmp_path / "raw",
        {**content, "images": [{**one, "file_name": f"a\n{one['file_name']}.gone"} for one in content["images"]]},
    )
    refused(built, tmp_path / "raw", r"holds none of the 30 images that its JSON lists \(a\\n1\.png\.gone")


LAYOUTS = {
    "Roboflow": ("train/_annotations.coco.json", "train"), "CVAT": ("annotations/instances_default.json", "images"),
    "CVAT with subsets": ("annotations/instances_default.json", "images/default"),
    "Label Studio": ("result.json", "images"), "COCO": ("annotations/instances_train2017.json", "train2017"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_coco_exports(built, tmp_path, layout):
    name, inside = LAYOUTS[layout]
    exported(tmp_path / "raw", name=name, inside=inside)
    for other in ("captions_train2017.json", "person_keypoints_train2017.json") if layout == "COCO" else ():
        write(tmp_path / "raw/annotations", {"images": [], "annotations": [], "info": {}}, other)
    (tmp_path / "raw/README.dataset.txt").write_text("x")
    manifest = built("coco", tmp_path / "raw")
    assert classes_of(manifest)["good"] == {f"{inside}/{name}" for name in GOOD}
    assert manifest["accounting"]["files"]["taken"] == {"images": 30, "annotation files": 1}
    assert manifest["accounting"]["image entries"]["taken"] == {"images": 30}
    assert manifest["accounting"]["annotations"] == {"there": 30, "taken": {"objects": 30}, "left_out": {}}


THREE = {
    "Roboflow": ("{0}/_annotations.coco.json", "{0}", ("train", "valid", "test")),
    "COCO": ("annotations/instances_{0}2017.json", "{0}2017", ("train", "val", "test")),
    "COCO in images": ("annotations/instances_{0}.json", "images/{0}", ("train", "val", "test")),
}


@pytest.mark.parametrize("layout", THREE)
def test_the_jsons_of_a_set_s_splits_are_one_set(built, tmp_path, layout):
    """All three number their images from 1 and call them alike; the last has its categories in another order."""
    name, inside, splits = THREE[layout]
    src = tmp_path / "raw"
    for number, split in enumerate(splits):
        raw.pictures(src / inside.format(split), LABELS, seed=number)
        labels = LABELS if split != "test" else {"1.png": ["hole"], **{n: LABELS[n] for n in LABELS if n != "1.png"}}
        raw.coco(src / name.format(split), labels)
    dealt, kept = built("coco", src), built("coco", src, splits="keep")
    assert any("(train, validation, test) were put together and dealt anew" in note for note in dealt["notes"])
    for manifest in (dealt, kept):
        assert manifest["accounting"]["files"]["taken"] == {"images": 90, "annotation files": 3}
        assert classes_of(manifest)["good"] == {f"{inside.format(s)}/{n}" for s in splits for n in GOOD}
    counted = {split: sum(counts.values()) for split, counts in kept["counts"]["default"].items()}
    assert counted == {"train": 30, "validation": 30, "test": 30}
    read = script_named("coco").read(src, script_named("coco").checked({}))
    of = {sample.source: {one.category for one in sample.listed.annotations} for sample in read.samples}
    assert of[f"{inside.format('test')}/1.png"] == {"hole"}
    assert of[f"{inside.format('test')}/2.png"] == of[f"{inside.format('train')}/1.png"] == {"dent"}


def test_several_jsons_that_are_no_set_are_refused(built, tmp_path):
    src = tmp_path / "raw"
    content = exported(src, name="a.json")
    write(src, content, "b.json")
    refused(built, src, r"several JSON files \(a.json, b.json\) that are no splits of one set; give the one")
    for name in ("a.json", "b.json"):
        (src / name).rename(src / {"a": "train.json", "b": "val.json"}[name[0]])
    refused(built, src, "1.png is listed in two JSONs, lastly val.json; list each image in one")


SPELT = (str, float, lambda i: f"{i}.0", lambda i: f" {i} ", int)


def test_an_id_is_one_however_it_is_spelt(built, tmp_path):
    content = exported(tmp_path / "raw")
    for number, spelt in enumerate(SPELT):
        for entry in content["images"][number::5]:
            entry["id"] = spelt(entry["id"])
        for annotation in content["annotations"][number::5]:
            annotation["image_id"] = SPELT[number - 1](annotation["image_id"])
            annotation["category_id"] = SPELT[number - 2](annotation["category_id"])
    content["categories"][0]["id"] = "0"
    write(tmp_path / "raw", content)
    manifest = built("coco", tmp_path / "raw")
    assert classes_of(manifest)["good"] == GOOD
    assert manifest["accounting"]["annotations"] == {"there": 30, "taken": {"objects": 30}, "left_out": {}}


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_whole_numbers_are_read_back(number):
    assert whole(number) == whole(str(number)) == whole(f"{number}.0") == number
    assert whole(float(number)) == int(float(number)) or abs(number) > 2**53


@pytest.mark.parametrize("value", [None, True, 1.5, "1.5", "a", "", "1e3", "1_0", "٣", [1], {}, float("nan"), 10**18])
def test_what_is_no_whole_number_is_no_id(value):
    assert whole(value) is None


def test_a_part_whose_annotations_cannot_be_matched_is_no_good_part(built, tmp_path):
    content = exported(tmp_path / "raw")
    content["images"][0]["id"] = "img-1"  # 1.png, and its annotation
    content["annotations"][0]["image_id"] = "img-1"
    of_two, of_four = content["annotations"][1:3], content["annotations"][3:4]  # of 2.png and 4.png
    for annotation, name in ((of_two[0], "2.png"), (of_two[1], "2.PNG"), (of_four[0], "4.png")):
        annotation["image_id"] = name
    write(tmp_path / "raw", content)
    manifest = built("coco", tmp_path / "raw")
    assert classes_of(manifest)["good"] == GOOD
    assert left_out(manifest) == {
        "images that the JSON lists without an id that is a whole number, or without a file_name": 1,
        "images whose annotations name them otherwise than by their id": 2,
    }
    assert left_out(manifest, "annotations") == {"of no image that the JSON lists": 4}


def test_good_categories_make_good_parts(built, tmp_path):
    labels = {f"{i}.png": [["OK"], ["NG"], ["OK", "NG"]][i % 3] for i in range(30)} | {"seen.png": []}
    exported(tmp_path / "raw", labels)
    for options in ({}, options_from("coco", ["--good", "ok"])):
        manifest = built("coco", tmp_path / "raw", **options)
        assert classes_of(manifest)["good"] == {f"{i}.png" for i in range(0, 30, 3)}
        assert left_out(manifest) == {"images without an annotation, in a set whose good parts have one": 1}
    only = built("coco", tmp_path / "raw", good="")
    assert classes_of(only) == {"good": {"seen.png"}, "defect": {f"{i}.png" for i in range(30)}}
    refused(built, tmp_path / "raw", "--good fine: there are no such categories; there are NG, OK", good="fine")


def test_no_good_part_is_a_question(built, tmp_path):
    exported(tmp_path / "raw", {f"{i}.png": [("IO", "NIO")[i % 2]] for i in range(30)})
    refused(built, tmp_path / "raw", r"no part is good; name .* --good \(there are IO, NIO\), or say --good ''")
    assert len(classes_of(built("coco", tmp_path / "raw", good="io"))["good"]) == 15
    assert "good" not in classes_of(built("coco", tmp_path / "raw", good=""))


def test_a_part_of_which_no_category_is_known_is_no_good_one(built, tmp_path):
    content = exported(tmp_path / "raw", {f"{i}.png": [("OK", "NG")[i % 2]] for i in range(30)})
    content["annotations"][0]["category_id"] = 77
    write(tmp_path / "raw", content)
    manifest = built("coco", tmp_path / "raw")
    assert "0.png" not in classes_of(manifest)["good"]
    assert left_out(manifest) == {"images whose only annotations are good or of no category that the JSON lists": 1}


def test_names_match_in_any_case_and_form(built, tmp_path):
    """Names on the disk, and in the JSON, are spelt as cameras, Windows and macOS do."""
    there = ["A.JPG", "b.jpeg", unicodedata.normalize("NFD", "Teil_ä.png"), "c.png", *(f"{i}.png" for i in range(26))]
    raw.pictures(tmp_path / "raw/Images", there)
    said = ["a.jpg", "sub\\B.JPEG", "images/" + unicodedata.normalize("NFC", "teil_Ä.png"), "./c.png", *there[4:]]
    raw.coco(tmp_path / "raw/x.json", {name: ["dent"] * (i % 2) for i, name in enumerate(said)})
    manifest = built("coco", tmp_path / "raw")
    assert left_out(manifest) == {}
    assert manifest["accounting"]["image entries"]["taken"] == {"images": 30}
    assert {"Images/b.jpeg", "Images/c.png"} <= classes_of(manifest)["defect"]
    raw.pictures(tmp_path / "raw/Images", ["B.jpeg"], seed=7)
    refused(built, tmp_path / "raw", r"B.JPEG may be any of Images/B.jpeg, Images/b.jpeg")


def turned(path: Path, orientation: int, size: tuple[int, int], at: tuple[int, int, int, int]) -> None:
    """A noisy photo whose upright `size` shows a white box `at`, stored as a camera held otherwise does."""
    upright = np.array(raw.picture(np.random.default_rng(orientation), *size, mode="L")) // 2
    upright[at[1] : at[3], at[0] : at[2]] = 255
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the orientation that undoes it
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    content = images.load(_tagged(upright, back)).rgb  # by the one reader: stored pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(content).save(path, exif=tag)


def _tagged(grey, orientation):
    from io import BytesIO

    tag, stream = Image.Exif(), BytesIO()
    tag[ORIENTATION] = orientation
    Image.fromarray(grey).save(stream, "PNG", exif=tag)
    return stream.getvalue()


def white(path):
    """The box of white pixels of a file as it is read."""
    ys, xs = np.nonzero(images.load(path.read_bytes()).rgb[..., 0] == 255)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def photos(root, size, frame):
    """Photos of all eight orientations, whose JSON has their boxes in the `frame`: stored or upright."""
    entries, annotations = [], []
    for orientation in range(1, 9):
        path = root / f"{orientation}.png"
        turned(path, orientation, size, (4, 6, 14, 10))
        with Image.open(path) as image:
            pixels = np.array(image.convert("L")) if frame == "stored" else images.load(path.read_bytes()).rgb[..., 0]
        ys, xs = np.nonzero(pixels == 255)
        x, y, w, h = (int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1))
        height, width = pixels.shape
        entries.append({"id": orientation, "file_name": path.name, "width": width, "height": height})
        corners = [x, y, x + w, y, x + w, y + h]
        annotations.append(
            {
                "id": orientation,
                "image_id": orientation,
                "category_id": 0,
                "bbox": [x, y, w, h],
                "segmentation": [corners],
            }
        )
    raw.pictures(root, [f"good{i}.png" for i in range(20)], seed=3)
    entries += [{"id": 100 + i, "file_name": f"good{i}.png", "width": raw.SIDE, "height": raw.SIDE} for i in range(20)]
    write(root, {"images": entries, "annotations": annotations, "categories": [{"id": 0, "name": "dent"}]})
    return root


def objects_of(src, **options):
    """Objects of each photo's row, and why others are left out, as the script places them."""
    script = script_named("coco")
    chosen = script.checked(options)
    examined, rejected = examine(script.read(src, chosen).samples)
    assert rejected == []
    placed = script.place(examined, list(range(len(examined))), chosen)
    rows = {row.sample.source: row.sample.columns["objects"] for row in placed.rows}
    return {name: one for name, one in rows.items() if not name.startswith("good")}, placed


@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_boxes_and_polygons_turn_with_their_photo(tmp_path, frame):
    src = photos(tmp_path / "raw", (30, 20), frame)
    found, placed = objects_of(src, exif=frame)
    assert set(found) == {f"{orientation}.png" for orientation in range(1, 9)}
    for name, objects in found.items():
        assert objects["bbox"] == [white(src / name)]
        (points,) = (np.reshape(one, (-1, 2)) for one in objects["polygons"])
        assert [*points.min(axis=0), *points.max(axis=0)] == white(src / name)
    told = [note for note in placed.notes if "turned upright by EXIF, and their boxes" in note]
    assert (told[0][0] if told else "") == ("7" if frame == "stored" else "")


@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_sizes_tell_how_boxes_lie_and_what_they_do_not_tell_is_left_out_by_name(tmp_path, frame):
    src = photos(tmp_path / "raw", (30, 20), frame)
    found, placed = objects_of(src)
    assert set(found) == {f"{orientation}.png" for orientation in (1, 5, 6, 7, 8)}
    assert all(objects["bbox"] == [white(src / name)] for name, objects in found.items())
    assert set(placed.left_out) == {"2.png", "3.png", "4.png"}
    assert all("EXIF" in reason and "--exif stored or upright" in reason for reason in placed.left_out.values())
    square, placed = objects_of(photos(tmp_path / "square", (24, 24), frame))
    assert set(square) == {"1.png"}
    assert len(placed.left_out) == 7
    content = json.loads((src / "annotations.json").read_text())
    content["images"][5] |= {"width": 31, "height": 20}
    write(src, content)
    assert "turned by EXIF that have neither" in objects_of(src)[1].left_out["6.png"]


def test_an_unknown_frame_is_refused():
    with pytest.raises(DataError, match="--exif left is not known"):
        script_named("coco").checked({"exif": "left"})


def test_boxes_that_reach_outside_are_counted(built, tmp_path):
    content = exported(tmp_path / "raw")
    for annotation in content["annotations"][:12]:
        annotation["bbox"] = [-3, 2, 8, 6]
    write(tmp_path / "raw", content)
    (note,) = built("coco", tmp_path / "raw")["notes"]
    assert note.startswith("12 boxes reached outside their image and were clipped: 1.png number 1 (id 0), ")
    assert note.endswith(" and others.")


def test_equal_bytes_with_and_without_an_annotation_are_a_conflict(built, tmp_path):
    exported(tmp_path / "raw")
    (tmp_path / "raw/3.png").write_bytes((tmp_path / "raw/1.png").read_bytes())
    refused(built, tmp_path / "raw", r"same bytes under different classes: 1.png \(defect\) = 3.png \(good\)")
    assert len(built("coco", tmp_path / "raw", on_conflict="drop")["images"]) == 28


def test_a_json_far_from_its_images_is_a_sentence(built, tmp_path):
    raw.coco(tmp_path / "raw/annotations.json", LABELS)
    refused(built, tmp_path / "raw", r"holds none of the 30 images that its JSON lists \(1.png and others\); give")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.sampled_from([1.0, 2.5, "1", "2.0", "x", "1.png", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "x"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
KEYS = st.sampled_from([
    "id", "file_name", "width", "height", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "name",
])  # fmt: skip
CHANGES = st.lists(
    st.tuples(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 29), KEYS, JSON), max_size=8
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, whole_entry=st.booleans(), good=st.sampled_from(["", "good,ok,clean,normal", "dent"]))
def test_any_json_is_accounted_for_or_refused_in_one_sentence(pool, changes, whole_entry, good):
    src, run = pool
    content = json.loads((src / "sound.txt").read_text())
    for name, at, key, value in changes:
        entries = content[name]
        if whole_entry:
            entries[at % len(entries)] = value
        elif isinstance(entries[at % len(entries)], dict):
            entries[at % len(entries)][key] = value
    write(src, content)
    try:
        run("coco", src, good=good)
    except DataError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A folder of pictures whose JSON changes, and a builder into a new folder each time."""
    folder = tmp_path_factory.mktemp("pool")
    exported(folder / "raw")
    (folder / "raw/annotations.json").rename(folder / "raw/sound.txt")
    with pytest.MonkeyPatch.context() as patch:
        yield folder / "raw", building(folder, patch)
