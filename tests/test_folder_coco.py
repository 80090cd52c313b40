import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from hf_inspect.data import (
    build,
    class_ids,
    described,
    load_split,
    options_from,
    read_manifest,
    read_objects,
    read_task,
    script_named,
    stream,
    things_of,
)
from hf_inspect.data.shares import parse_shares
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, TaskSpec
from tests import raw
from tests.raw import picture, read_back

WAGON = Path(__file__).parents[2] / "shared" / "data" / "wagon"
SIDE = 32


def write_coco(root, n=30, inside="images", names=None, annotations=None, **more):
    """A COCO file of n pictures; every other one has a box of category 1 or 2, under an unused parent 0."""
    rng = np.random.default_rng(0)
    (root / inside).mkdir(parents=True, exist_ok=True)
    names = names or [f"part{i}.png" for i in range(n)]
    for name in names:
        picture(rng, SIDE, SIDE).save(root / inside / name)
    images = [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)]
    if annotations is None:
        annotations = [note(i, i, category_id=1 + i % 4 // 2) for i in range(0, len(names), 2)]
    categories = [{"id": 2, "name": "wire"}, {"id": 0, "name": "objects"}, {"id": 1, "name": "bag"}]
    coco = {"images": images, "annotations": annotations, "categories": categories} | more
    (root / "annotations.json").write_text(json.dumps(coco))
    return coco


def note(at, image_id, **values):
    polygon = [4.5, 4, 20, 4, 20, 14]
    return {
        "id": at, "image_id": image_id, "category_id": 1, "bbox": [4.5, 4, 15.5, 10], "segmentation": [polygon],
        "iscrowd": 0,
    } | values  # fmt: skip


def all_rows(out):
    counts = read_manifest(out)["counts"]["default"]
    return {row["image"]["path"]: row for split in counts for row in load_split(out, split)}


def notes_of(tmp_path, annotations, **more):
    write_coco(tmp_path / "raw", annotations=annotations, **more)
    manifest = build("coco", tmp_path / "out", src=tmp_path / "raw")
    return manifest, all_rows(tmp_path / "out")


@pytest.mark.parametrize("around", ["", "parts", "parts/2024"])
def test_folders_are_classes_and_the_good_ones_are_good(tmp_path, around):
    raw.classes(tmp_path / "raw" / around, {"OK": 40, "scratch": 20, "dent": 20})
    manifest = build("folder", tmp_path / "out", src=tmp_path / "raw", options={"license": "cc0-1.0"})
    assert manifest["licence"] == "cc0-1.0"
    assert {split: sum(n.values()) for split, n in manifest["counts"]["default"].items()} == {
        "calibration": 12, "test": 16, "train": 44, "validation": 8,
    }  # fmt: skip
    rows = load_split(tmp_path / "out", "test")
    names = rows.features["class_name"].names
    assert names == ["OK", "dent", "scratch"]
    assert all((names[row["class_name"]] == "OK") == (row["label"] == 0) for row in rows)
    assert read_task(tmp_path / "out") == TaskSpec(("OK", "dent", "scratch"), ("good", "defect", "defect"))
    assert manifest["counts"]["default"]["test"] == {"OK": 8, "dent": 4, "scratch": 4}
    assert described(manifest).startswith("classification into OK (good), dent (defect), scratch (defect)\n")


def test_what_is_good_can_be_said_and_must_be(tmp_path):
    raw.classes(tmp_path / "raw", {"pass": 30, "fail": 10, "unsure": 10})
    with pytest.raises(DataError, match=r"none of the folders fail, pass, unsure is named as good .*--good"):
        build("folder", tmp_path / "out", src=tmp_path / "raw")
    options = {"good": "Pass, unsure", "shares": "50/0/0/50"}
    manifest = build("folder", tmp_path / "out", src=tmp_path / "raw", options=options)
    of_split = {"fail": 5, "pass": 15, "unsure": 5}
    assert manifest["counts"]["default"] == {"test": of_split, "train": of_split}
    assert read_task(tmp_path / "out") == TaskSpec(("fail", "pass", "unsure"), ("defect", "good", "good"))
    assert sum(load_split(tmp_path / "out", "test")["label"]) == 5


ODD = {
    "good, or nearly": 14, "good": 12, 'he said "no"': 12, "it's": 12, "a|b": 12, "`code` *bold*": 12, "<b>": 12,
    "größer ∞": 12, "欠陥": 12, "🔥": 12, "yes": 12, "0": 12, "- x: [1]": 12, "a\nb": 12, "back\\slash": 12,
    "#": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A built set of classes called by what Markdown, YAML, JSON and commas would trip over."""
    folder = tmp_path_factory.mktemp("odd")
    options = {"good": "good, or nearly", "license": "cc0-1.0"}
    build("folder", folder / "out", src=raw.classes(folder / "raw", ODD), options=options)
    return folder / "out"


def test_classes_may_be_called_anything(odd):
    import datasets

    task = read_task(odd)
    assert task == TaskSpec.of(sorted(ODD), ["good, or nearly"])
    whole = datasets.concatenate_datasets(list(read_back(odd).values()))
    names = whole.features["class_name"].names
    assert names == sorted(ODD)
    assert {name: whole["class_name"][:].count(i) for i, name in enumerate(names)} == ODD
    for split in ("train", "test"):
        rows = load_split(odd, split)
        streamed = [row["class_name"] for some in stream(odd, split, ["class_name"]) for row in some]
        assert streamed == [task.classes[i] for i in class_ids(rows, task)]
        assert [name != "good, or nearly" for name in streamed] == [bool(label) for label in rows["label"]]


def test_a_card_shows_any_class_as_it_is_called(odd):
    import yaml

    card = (odd / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc0-1.0"
    assert [config["config_name"] for config in head["configs"]] == ["default"]
    (splits,) = [part for part in card.split("\n\n") if part.startswith("| config | split")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in splits.splitlines()]
    assert {len(row) for row in rows} == {2 + len(ODD)}
    said = [re.sub(r"\\([\\`*_\[\]<>&|~$])", r"\1", cell.strip()) for cell in rows[0][2:]]
    assert said == [" ".join(name.split()) for name in sorted(ODD)]
    assert r"\`code\` \*bold\*" in card
    assert r"| a\|b | defect |" in card
    assert "| good, or nearly | good |" in card


def test_good_and_defect_alone_are_the_binary_task(tmp_path):
    data = raw.built_parts(tmp_path, good=20, defect=20)
    assert read_task(data).same_as(BINARY)
    rows = load_split(data, "train")
    assert "class_name" not in rows.features
    assert class_ids(rows, BINARY) == rows["label"]
    assert class_ids(rows, read_task(data)) == [1 - label for label in rows["label"]]  # sorted: defect, good


def test_a_name_is_one_class_however_a_system_spells_it(tmp_path):
    raw.classes(tmp_path / "raw", {"ok": 12, "gr\u00f6\u00dfer": 12}, seed=1)
    raw.classes(tmp_path / "raw", {"gro\u0308\u00dfer": 12}, seed=2)
    build("folder", tmp_path / "out", src=tmp_path / "raw", options={"good": "Gro\u0308\u00dfer"})
    assert read_task(tmp_path / "out") == TaskSpec(("gr\u00f6\u00dfer", "ok"), ("good", "defect"))


def test_images_outside_a_class_folder_are_named(tmp_path):
    script = script_named("folder")
    options = script.checked({})
    for wrong in (None, tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match="class folders"):
            script.read(wrong, options)
    raw.classes(tmp_path, {"good": 1})
    (tmp_path / "good" / "000.png").rename(tmp_path / "loose.png")
    with pytest.raises(DataError, match="class folders"):
        script.read(tmp_path, options)


def test_one_class_is_enough_for_a_model_of_what_is_normal(tmp_path):
    raw.classes(tmp_path, {"parts/good": 3})
    script = script_named("folder")
    assert [s.source for s in script.read(tmp_path, script.checked({})).samples] == [
        f"parts/good/00{i}.png" for i in range(3)
    ]


@pytest.mark.parametrize("text", ["", "55/10/15", "50/10/15/20", "a/b/c/d", "120/-20/0/0", "55,10,15,20"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(DataError, match="train/validation/calibration/test"):
        parse_shares(text)


def test_shares_sum_to_one():
    assert parse_shares("55/10/15/20") == {"train": 0.55, "validation": 0.1, "calibration": 0.15, "test": 0.2}
    assert parse_shares("80/0/0/20") == {"train": 0.8, "test": 0.2}


@pytest.mark.parametrize(("inside", "as_file"), [("images", False), (".", False), ("a/b", False), ("images", True)])
def test_coco_reads_back_with_plain_load_dataset(tmp_path, inside, as_file):
    import datasets

    raw, out = tmp_path / "raw", tmp_path / "out"
    write_coco(raw, inside=inside)
    manifest = build("coco", out, src=raw / "annotations.json" if as_file else raw)
    assert manifest["notes"] == []
    whole = datasets.concatenate_datasets(list(read_back(out).values()))
    assert len(whole) == 30
    assert whole.features["objects"]["category"].feature.names == ["bag", "wire"]  # the parent is not used
    row = next(row for row in whole if row["image_id"] == 2)
    assert row["objects"] == {
        "bbox": [[4.5, 4.0, 20.0, 14.0]], "category": [1], "polygons": [[[4.5, 4.0, 20.0, 4.0, 20.0, 14.0]]],
        "iscrowd": [False], "description": [""],
    }  # fmt: skip
    assert (row["width"], row["height"], row["image"].size) == (SIDE, SIDE, (SIDE, SIDE))
    assert all(bool(row["objects"]["bbox"]) == bool(row["label"]) == (row["image_id"] % 2 == 0) for row in whole)
    for image in manifest["images"]:
        assert (raw / image["source"]).is_file()


def test_boxes_are_clipped_and_made_from_polygons_where_there_are_none(tmp_path):
    crowd = note(3, 3, iscrowd=1, segmentation=None)
    edge = note(1, 1, bbox=[-5, 10, 20, 100], segmentation=[])
    manifest, rows = notes_of(tmp_path, [edge, note(2, 2, bbox=None), crowd])
    assert manifest["notes"] == [
        "1 boxes reached outside their image and were clipped: images/part1.png number 1 (id 1)."
    ]
    assert rows["part1.png"]["objects"]["bbox"] == [[0, 10, 15, SIDE]]
    assert rows["part2.png"]["objects"]["bbox"] == [[4.5, 4, 20, 14]]
    assert rows["part3.png"]["objects"]["iscrowd"] == [True]


def test_what_is_written_of_a_thing_is_kept_and_what_is_no_text_is_counted(tmp_path):
    said = [
        note(0, 0, description=" a deep\n'dent' "), note(1, 0, caption="螺丝"), note(2, 2, desc="d", caption="c"),
        note(3, 2, description="", desc="from desc"), note(4, 4, description=7),
        note(5, 4, description=["x"], desc="y"),
        note(6, 6, description="\ud83d"), note(7, 6),
    ]  # fmt: skip
    manifest, rows = notes_of(tmp_path, said)
    kept = {name: rows[f"part{name}.png"]["objects"]["description"] for name in (0, 2, 4, 6)}
    assert kept == {0: ["a deep\n'dent'", "螺丝"], 2: ["c", "from desc"], 4: ["", "y"], 6: ["", ""]}
    assert manifest["notes"] == [
        "2 annotations have a description that is no text, which was left out: images/part4.png number 5 (id 4), "
        "images/part6.png number 7 (id 6)."
    ]
    things = things_of(rows["part2.png"]["objects"], ["bag", "wire"])
    assert [one.description for one in things] == ["c", "from desc"]
    older = {key: value for key, value in rows["part2.png"]["objects"].items() if key != "description"}
    assert [one.description for one in things_of(older, ["bag", "wire"])] == ["", ""]


def test_classes_are_called_by_their_place_in_a_hierarchy_where_that_is_asked(tmp_path):
    names = [
        {"id": 1, "name": "install", "supercategory": "screw"}, {"id": 2, "name": "install", "supercategory": "label"},
        {"id": 3, "name": "ok", "supercategory": "none"}, {"id": 4, "name": "shield", "supercategory": "Shield"},
        {"id": 5, "name": "cable/fiber", "supercategory": "cable"},
    ]  # fmt: skip
    annotations = [note(i, i, category_id=1 + i % 5) for i in range(30)]
    write_coco(tmp_path / "raw", annotations=annotations, categories=names)
    build("coco", tmp_path / "flat", src=tmp_path / "raw")
    assert read_objects(tmp_path / "flat").classes == ("install", "ok", "shield", "cable/fiber")
    options = options_from("coco", ["--hierarchy", "--good", "label/install"])
    build("coco", tmp_path / "out", src=tmp_path / "raw", options=options)
    task = read_objects(tmp_path / "out")
    assert task.classes == ("screw/install", "label/install", "ok", "shield", "cable/fiber")
    assert task.good == ("label/install",)
    assert "--hierarchy" in (tmp_path / "out" / "README.md").read_text()


BAD = [
    (note(7, 1, bbox=[4, 4, 0, 5]), "a box without area inside the image", 0),
    (note(7, 1, bbox=[40, 4, 3, 5]), "a box without area inside the image", 0),
    (note(7, 1, bbox=[4, 4, -3, 5]), "a box without area inside the image", 0),
    (note(7, 1, bbox=[float("nan"), 4, 3, 5], segmentation=[]), "neither a box of four numbers nor a polygon", 0),
    (note(7, 1, bbox=["4", 4, 3, 5], segmentation=[]), "neither a box of four numbers nor a polygon", 0),
    (note(7, 1, bbox=[True, 4, 3, 5], segmentation=[]), "neither a box of four numbers nor a polygon", 0),
    (note(7, 1, bbox=[10**400, 4, 3, 5], segmentation=[]), "neither a box of four numbers nor a polygon", 0),
    (note(7, 1, category_id=9), "no category that the JSON lists", 0),
    (note(7, 1, category_id=[1]), "no category that the JSON lists", 0),
]


@pytest.mark.parametrize(("bad", "reason", "boxes"), BAD)
def test_a_bad_annotation_is_counted_and_its_image_stays_a_defect(tmp_path, bad, reason, boxes):
    manifest, rows = notes_of(tmp_path, [note(0, 0), bad], n=12)
    left_out = {reason: {"n": 1, "first": ["number 2 (id 7)"]}}
    assert manifest["accounting"]["annotations"] == {"there": 2, "taken": {"objects": 1}, "left_out": left_out}
    said = f"1 annotation left out, {reason}: number 2 (id 7)"
    assert said in described(manifest)
    assert said in (tmp_path / "out" / "README.md").read_text()
    assert rows["part1.png"]["label"] == 1
    assert len(rows["part1.png"]["objects"]["bbox"]) == boxes


NOTED = [
    (
        {"counts": [3, 4], "size": [SIDE, SIDE]},
        "1 annotations have an RLE mask that cannot be read or marks nothing, which was left out: ",
    ),
    ([[1, 2, 3, 4]], "1 annotations have a polygon that is no list of three or more points, which was left out: "),
]


@pytest.mark.parametrize(("segmentation", "sentence"), NOTED)
def test_an_annotation_whose_mask_is_no_polygon_keeps_its_box(tmp_path, segmentation, sentence):
    manifest, rows = notes_of(tmp_path, [note(0, 0), note(7, 1, segmentation=segmentation)], n=12)
    assert manifest["notes"] == [sentence + "images/part1.png number 2 (id 7)."]
    assert len(rows["part1.png"]["objects"]["bbox"]) == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_an_rle_is_kept_as_its_outlines(tmp_path, compressed):
    """Two patches of one mask, in COCO's order of columns; the box is made of them where there is none."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[2:9, 3:5], mask[20:24, 24:30] = 1, 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    rle = {"size": [SIDE, SIDE], "counts": counts}
    if compressed:
        from faster_coco_eval import mask as packing

        rle = {"size": [SIDE, SIDE], "counts": packing.frPyObjects(rle, SIDE, SIDE)["counts"].decode()}
    manifest, rows = notes_of(tmp_path, [note(0, 0), note(7, 1, bbox=None, segmentation=rle)], n=12)
    assert manifest["notes"] == [
        "1 annotations have an RLE mask, which became polygons: images/part1.png number 2 (id 7)."
    ]
    objects = rows["part1.png"]["objects"]
    assert objects["bbox"] == [[3, 2, 30, 24]]
    corners = sorted(sorted(set(zip(one[::2], one[1::2], strict=True))) for one in objects["polygons"][0])
    assert corners == [[(3, 2), (3, 9), (5, 2), (5, 9)], [(24, 20), (24, 24), (30, 20), (30, 24)]]


def test_annotations_without_an_image_are_counted(tmp_path):
    lost = [note(i, 1000 + i) for i in range(12)] + ["text", {"id": 1}, note(1, [1])]
    manifest, rows = notes_of(tmp_path, [note(0, 0), *lost])
    account = manifest["accounting"]["annotations"]
    assert (account["there"], account["taken"]) == (16, {"objects": 1})
    assert account["left_out"]["of no image that the JSON lists"]["n"] == 15
    assert account["left_out"]["of no image that the JSON lists"]["first"][:2] == ["number 2 (id 0)", "number 3 (id 1)"]
    assert sum(row["label"] for row in rows.values()) == 1


def test_images_that_cannot_be_used_are_named(tmp_path):
    raw = tmp_path / "raw"
    coco = write_coco(raw)
    for entry in coco["images"][:2]:
        (raw / "images" / entry["file_name"]).unlink()
    (raw / "images" / "part2.png").write_bytes(b"no image")
    picture(np.random.default_rng(9)).save(raw / "images" / "extra.png")
    coco["images"][3]["width"] = 99
    coco["images"] += [
        {"id": 90},
        "text",
        {"id": 91, "file_name": "images/part4.png"},
        {"id": 92, "file_name": "/etc/passwd"},
    ]
    coco["annotations"].append(note(50, 91))
    (raw / "annotations.json").write_text(json.dumps(coco))
    manifest = build("coco", tmp_path / "out", src=raw)
    assert [one["source"] for one in manifest["rejected"]] == ["images/part2.png"]
    assert "image" in manifest["rejected"][0]["reason"]
    files, entries = (manifest["accounting"][kind] for kind in ("files", "image entries"))
    assert files["taken"] == {"annotation files": 1, "images": 26}
    assert {reason: found["first"] for reason, found in files["left_out"].items()} == {
        "images that the JSON does not list": ["images/extra.png"],
        "images that cannot be used": ["images/part2.png"],
        "images of another size than the JSON says, as their boxes may not fit": ["images/part3.png"],
    }
    assert entries["taken"] == {"images": 26, "repeats": 1}
    assert {reason: found["first"] for reason, found in entries["left_out"].items()} == {
        "of files that are not in the folder": ["part0.png", "part1.png", "/etc/passwd"],
        "of images that are left out": ["part2.png", "part3.png"],
        "without an id that is a whole number, or without a file_name": ["number 31 (id 90)", "number 32"],
    }
    assert manifest["notes"] == ["1 images are listed more than once; their annotations were united: images/part4.png."]
    rows = all_rows(tmp_path / "out")
    assert len(rows) == 26
    assert len(rows["part4.png"]["objects"]["bbox"]) == 2


def test_wrong_roots_and_files_are_a_sentence(tmp_path):
    script = script_named("coco")
    options = script.checked({})

    def refused(src, sentence):
        with pytest.raises(DataError, match=sentence):
            script.read(src, options)

    refused(None, "needs a COCO JSON")
    refused(tmp_path, "holds no JSON file")
    coco = write_coco(tmp_path, n=4)
    path = tmp_path / "annotations.json"
    (tmp_path / "other.json").write_text("{}")
    refused(
        tmp_path, r"several JSON files \(annotations.json, other.json\) that are no splits of one set; give the one"
    )
    refused(tmp_path / "other.json", "no COCO file: it needs the lists images, annotations, categories")
    (tmp_path / "other.json").write_text("{")
    refused(tmp_path / "other.json", "is not JSON")
    for key, value, sentence in (
        ("categories", [{"id": "x", "name": "x"}], "needs a whole number as id"),
        ("categories", [], "use the data set `folder`"),
        ("annotations", [], "use the data set `folder`"),
        ("images", coco["images"] + coco["images"][:1], "image id 0 is given to several"),
    ):
        path.write_text(json.dumps(coco | {key: value}))
        refused(path, sentence)
    path.write_text(json.dumps(coco))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part0.png").write_bytes((tmp_path / "images" / "part0.png").read_bytes())
    (tmp_path / "images" / "part0.png").unlink()
    refused(path, r"part0.png may be any of a/part0.png, b/part0.png")


def test_the_standard_layout_has_its_json_in_annotations(tmp_path):
    write_coco(tmp_path, n=4, inside="train2017")
    (tmp_path / "annotations").mkdir()
    path = (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    script = script_named("coco")
    assert [s.source for s in script.read(path, script.checked({})).samples] == [
        f"train2017/part{i}.png" for i in range(4)
    ]


def splits_by(manifest, rule):
    found = defaultdict(set)
    for image in manifest["images"]:
        found[re.search(rule, image["source"].split("/")[-1])[1]].add(image["split"])
    return found


def test_tiles_of_one_photo_stay_together(tmp_path):
    names = [f"photo{i:02}_{x}_{y}.png" for i in range(24) for x in (0, 512) for y in (0, 512)]
    write_coco(tmp_path / "raw", names=names)
    rule = r"(photo\d+)_\d+_\d+"
    manifest = build("coco", tmp_path / "out", src=tmp_path / "raw", options={"group_rule": rule})
    assert (manifest["groups"]["n"], manifest["groups"]["largest"]) == (24, 4)
    assert all(len(splits) == 1 for splits in splits_by(manifest, rule).values())
    apart = build("coco", tmp_path / "apart", src=tmp_path / "raw")  # the tiles do not look alike
    assert apart["groups"]["n"] == 96
    assert any(len(splits) > 1 for splits in splits_by(apart, rule).values())


def test_a_rule_that_matches_nothing_is_refused(tmp_path):
    write_coco(tmp_path / "raw")
    with pytest.raises(DataError, match="matches none of 30 file names"):
        build("coco", tmp_path / "out", src=tmp_path / "raw", options={"group_rule": "(.+)_tile"})


@pytest.mark.skipif(not WAGON.is_dir(), reason="the wagon photos are not beside this checkout")
def test_augmented_copies_of_the_wagon_photos_stay_together(tmp_path):
    rule = r"(.+)\.rf\.[0-9a-f]+"
    options = {"group_rule": rule, "license": "cc-by-4.0", "good": ""}  # each photo shows what is left over
    manifest = build("coco", tmp_path / "out", src=WAGON, options=options)
    assert (len(manifest["images"]), manifest["rejected"], manifest["notes"]) == (299, [], [])
    photos = splits_by(manifest, rule)
    assert len(photos) == 134
    assert manifest["groups"]["n"] <= 134
    assert all(len(splits) == 1 for splits in photos.values())
    rows = load_split(tmp_path / "out", "test")
    assert rows.features["objects"]["category"].feature.names == ["gunny_bag", "wire"]
    assert sum(len(row["objects"]["bbox"]) for row in all_rows(tmp_path / "out").values()) == 1151
