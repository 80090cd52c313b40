"""Raw folders as people bring them: each becomes the right data set or one sentence; taken + left out = all there."""

import json
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect.data import Rules, described, options_from
from hf_inspect.data.raw.accounting import account
from hf_inspect.errors import DataError
from tests import raw
from tests.accounted import building, classes_of, left_out

MASKED = "masks of images that are here"
GOOD = [f"good/{i}.png" for i in range(8)]
SCRATCH = [f"scratch/{i}.png" for i in range(8)]
SPLIT_UP = [f"train/good/{i}.png" for i in range(12)]
SPLIT_UP += [f"{split}/{kind}/{i}.png" for split in ("val", "test") for kind in ("good", "scratch") for i in range(4)]


@pytest.fixture
def built(tmp_path, monkeypatch):
    return building(tmp_path, monkeypatch)


def beside(folder, names):
    """Files that are no images."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def refused(built, name, src, sentence, **options):
    with pytest.raises(DataError, match=sentence) as error:
        built(name, src, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_every_file_is_taken_or_named_with_its_reason(built, tmp_path):
    src = raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH, "good/.hidden.png", ".cache/1.png", "good/9.JPG"])
    beside(src, ["readme.txt", "good/1.txt", "good/1.xml", "Makefile"])
    (src / "scratch/camera.img").write_bytes((src / "good/1.png").read_bytes())
    (src / "good/cut.png").write_bytes((src / "good/1.png").read_bytes()[:60])
    manifest = built("folder", src)
    assert manifest["accounting"]["files"]["taken"] == {"images": 17}
    assert left_out(manifest) == {
        "hidden files": 2, "no images by their suffix: .txt": 2, "no images by their suffix: .xml": 1,
        "no images by their suffix: no suffix": 1, "images by their content, not by their suffix: .img": 1,
        "images that cannot be used": 1,
    }  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "25 files there: 17 taken as images, 8 left out",
        "4 files skipped: 2 .txt, 1 .xml, 1 no suffix",
        "2 files left out, hidden files: .cache/1.png, good/.hidden.png",
        "1 file left out, images by their content, not by their suffix: .img: scratch/camera.img",
    ):
        assert line in described(manifest)
    assert "- 25 files there: 17 taken as images, 8 left out." in card


@pytest.mark.parametrize(
    "masks",
    [
        [f"mask/scratch/{i}.png" for i in range(8)],  # anomalib
        [f"Masks/{i}.png" for i in range(8)],
        [f"ground_truth/scratch/{i}_mask.png" for i in range(8)],
        [f"scratch_mask/{i}.png" for i in range(8)],
        [f"scratch_GT/{i}_GT.png" for i in range(8)],
        [f"scratch/{i}_mask.png" for i in range(8)],
        [f"scratch/{i}_GT.png" for i in range(8)],
        [f"scratch/mask/{i}.png" for i in range(8)],
    ],
    ids=lambda names: names[0],
)
def test_masks_are_no_defects(built, tmp_path, masks):
    src = raw.masks(raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH]), masks)
    manifest = built("folder", src)
    assert classes_of(manifest) == {"good": set(GOOD), "scratch": set(SCRATCH)}
    assert left_out(manifest) == {MASKED: 8}


def test_jpeg_masks_and_masks_of_no_image_are_told(built, tmp_path):
    src = raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH])
    raw.masks(src, [f"scratch_mask/{i}.jpg" for i in range(6)] + ["scratch_mask/extra.jpg"])
    assert left_out(built("folder", src)) == {MASKED: 6, "masks of no image that is here": 1}


@pytest.mark.parametrize("deep", [False, True])
def test_a_class_may_be_called_like_masks(built, tmp_path, deep):
    names = [f"solder_mask/{i}.png" for i in range(8)]
    src = raw.pictures(tmp_path / "raw", [*GOOD, *names])
    for name in names if deep else ():
        grey = np.array(Image.open(src / name).convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 16).save(src / name)
    manifest = built("folder", src)
    assert classes_of(manifest) == {"good": set(GOOD), "solder_mask": set(names)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda src: raw.masks(src, ["gt/a.png", "gt/b.png"]), "gt is called like a folder of masks, but no image has"),
        (
            lambda src: raw.pictures(src, ["gt/1.png"], seed=1),
            "gt is called like a folder of masks, but its images have",
        ),
    ],
)
def test_masks_that_cannot_be_told_are_refused(built, tmp_path, make, sentence):
    refused(built, "folder", make(raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH])), sentence)


SPELLINGS = [
    ("train", "val", "test"), ("Train", "Valid", "TEST"), ("training", "validation", "testing"),
    ("train2017", "val2017", "test_set"),
]  # fmt: skip


@pytest.mark.parametrize("spelt", SPELLINGS, ids=str)
@pytest.mark.parametrize("around", [True, False])
def test_folders_of_splits_are_no_classes(built, tmp_path, spelt, around):
    of = dict(zip(("train", "val", "test"), spelt, strict=True))
    names = [name.split("/") for name in SPLIT_UP]
    names = [(of[split], kind, name) if around else (kind, of[split], name) for split, kind, name in names]
    src = raw.pictures(tmp_path / "raw", map("/".join, names))
    dealt, kept = built("folder", src), built("folder", src, splits="keep")
    for manifest in (dealt, kept):
        assert {name: len(found) for name, found in classes_of(manifest).items()} == {"good": 20, "scratch": 8}
    assert set(dealt["counts"]["default"]) == {"train", "validation", "calibration", "test"}
    assert any("(train, validation, test) were put together and dealt anew" in note for note in dealt["notes"])
    four = {"good": 4, "scratch": 4}
    assert kept["counts"]["default"] == {"test": four, "train": {"good": 12}, "validation": four}
    assert any("there is no calibration" in note for note in kept["notes"])


def test_groups_across_a_split_that_is_kept_are_told(built, tmp_path):
    src = raw.pictures(tmp_path / "raw", SPLIT_UP)
    (src / "test/good/9.png").write_bytes((src / "train/good/1.png").read_bytes())
    notes = built("folder", src, splits="keep")["notes"]
    assert any(note.startswith("1 test images are near-duplicates of training images (1 groups)") for note in notes)


def test_splits_that_are_not_there_cannot_be_kept(built, tmp_path):
    src = raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH])
    refused(built, "folder", src, "--splits keep: the raw data come without splits", splits="keep")
    refused(built, "folder", src, "--splits both is not known", splits="both")
    refused(built, "folder", src, "leaves nothing to share out", splits="keep", shares="70/10/0/20")


@pytest.mark.parametrize("around", ["", "line3/"])
def test_parts_of_one_s_own_in_mvtec_s_layout(built, tmp_path, around):
    src = raw.mvtec(tmp_path / "raw" / around, {"": (12, 6, {"bent": 4, "hole": 4})})
    manifest = built("folder", tmp_path / "raw")
    assert {name: len(found) for name, found in classes_of(manifest).items()} == {"good": 18, "bent": 4, "hole": 4}
    assert left_out(manifest) == {MASKED: 8, "no images by their suffix: .txt": 2}
    refused(
        built,
        "folder",
        tmp_path / "raw",
        "--good train: there are no such folders; there are bent, good, hole",
        good="train",
    )
    src = src.rename(tmp_path / "part")
    with pytest.raises(DataError, match="build parts of your own with `folder`"):
        built("mvtec_ad", src)


UNFIT = [
    (["1.png", "2.png"], "2 images lie in none"),
    ([*GOOD, "1.png"], r"1 images lie in none beside class folders \(1.png\); wanted is .*good/1.png"),
    ([], "it holds no image"),
    (["train/1.png", "test/1.png"], "images lie in none"),
    (["train/1.png"], "train is a split, and holds images in no class folder"),
    (["train/good/1.png", "test/1.png"], r"1 images lie in none beside class folders \(test/1.png\)"),
    ([*GOOD, "test/1.png", "train/1.png"], "test is a split, beside good; wanted is"),
    ([*GOOD, "defects/a/1.png", "defects/b/1.png"], r"two depths: good/ holds images, defects/ holds folders \(a, b\)"),
    (["bolt/good/1.png", "bolt/bad/1.png", "nut/good/1.png"], "deeper, in bolt, nut"),
    (
        ["bolt/train/good/1.png", "bolt/test/bad/1.png", "nut/train/good/1.png", "nut/test/good/2.png"],
        "deeper, in bolt, nut",
    ),
    (["OK/1.png", "ok/2.png", "bad/3.png"], "OK and ok differ in case alone"),
    (["fail/1.png", "pass/1.png"], r"none of the folders fail, pass is named as good .*--good"),
]


@pytest.mark.parametrize(("names", "sentence"), UNFIT, ids=lambda value: str(value)[:40])
def test_another_layout_is_one_sentence_with_the_way_out(built, tmp_path, names, sentence):
    (tmp_path / "raw").mkdir()
    refused(built, "folder", raw.pictures(tmp_path / "raw", names), sentence)


def test_valid_is_a_class_beside_invalid(built, tmp_path):
    src = raw.classes(tmp_path / "raw", {"valid": 8, "invalid": 8})
    assert set(classes_of(built("folder", src, good="valid"))) == {"valid", "invalid"}


def test_what_lies_behind_links_is_there(built, tmp_path):
    store = raw.classes(tmp_path / "store", {"dents": 8}, seed=9)
    src = raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH])
    (src / "dent").symlink_to(store / "dents")
    (src / "good" / "linked.png").symlink_to(store / "dents" / "000.png")
    (store / "dents" / "000.png").rename(store / "000.png")
    (src / "good" / "linked.png").unlink()
    (src / "good" / "linked.png").symlink_to(store / "000.png")
    (src / "good" / "broken.png").symlink_to(store / "nowhere.png")
    (src / "scratch" / "back").symlink_to(src)
    (src / "scratch" / "good").symlink_to(src / "good")
    manifest = built("folder", src)
    assert {name: len(found) for name, found in classes_of(manifest).items()} == {"good": 9, "scratch": 8, "dent": 7}
    assert left_out(manifest) == {"links to what is not there": 1, "folders that are read at another place": 2}


def test_a_name_of_any_form_is_one_class(built, tmp_path):
    forms = [unicodedata.normalize(form, "größer") for form in ("NFC", "NFD")]
    src = raw.pictures(tmp_path / "raw", [*GOOD, *(f"{name}/{i}.png" for i, name in enumerate(forms * 4))])
    assert {name: len(found) for name, found in classes_of(built("folder", src)).items()} == {"good": 8, forms[0]: 8}


def test_good_names_folders_with_commas_alone_or_among_others(built, tmp_path):
    src = raw.classes(tmp_path / "raw", {"a,b": 6, "c": 6, "d": 6, "a": 6})
    for arguments, good in (
        (["--good", "a,b"], ["a,b"]), (["--good", "c,d"], ["c", "d"]), (["--good", 'd,"a,b"'], ["a,b", "d"]),
        (["--good", "a,b", "--good=C"], ["a,b", "c"]), (["--good", "c,d", "--good", "a"], ["a", "c", "d"]),
    ):  # fmt: skip
        manifest = built("folder", src, **options_from("folder", arguments))
        task = {one["name"]: one["disposition"] for one in manifest["task"]["classes"]}
        assert sorted(name for name, one in task.items() if one == "good") == good
    refused(built, "folder", src, "--good e: there are no such folders; there are a, a,b, c, d", good="c,e")
    with pytest.raises(DataError, match="--seed is given twice"):
        options_from("folder", ["--seed", "1", "--seed", "2"])


def test_equal_bytes_in_two_classes_are_refused_or_left_out(built, tmp_path):
    src = raw.classes(tmp_path / "raw", {"good": 40, "scratch": 20})
    for i in (1, 2):
        (src / f"scratch/copy{i}.png").write_bytes((src / f"good/00{i}.png").read_bytes())
    (src / "good/again.png").write_bytes((src / "good/003.png").read_bytes())
    named = (
        r"2 images have the same bytes under different classes: good/001.png \(good\) = scratch/copy1.png \(scratch\)"
    )
    refused(built, "folder", src, named + "; good/002.png .*--on-conflict drop")
    manifest = built("folder", src, on_conflict="drop")
    assert left_out(manifest) == {"images of which another class has the same bytes": 4}
    assert len(classes_of(manifest)["good"]) == 39
    for i in range(3, 10):
        (src / f"scratch/copy{i}.png").write_bytes((src / f"good/00{i}.png").read_bytes())
    refused(built, "folder", src, r"^9 images have .*\); and 4 more\. Delete")
    with pytest.raises(DataError, match="--on-conflict keep is not known"):
        Rules(on_conflict="keep")


VOC, CVAT = (
    "<annotation><folder>x</folder></annotation>",
    "<?xml version='1.0'?>\n<annotations>\n<version>1.1</version>",
)
YOLO = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['scratch']\n"
LABELME = json.dumps({"version": "5.0", "shapes": [], "imagePath": "1.png", "imageData": None})
LABEL_STUDIO = json.dumps([{"id": 1, "annotations": [], "data": {"image": "/data/upload/1.png"}}])
EXPORTS = [
    ("a.xml", VOC, "Pascal VOC"), ("annotations.xml", CVAT, "CVAT"), ("data.yaml", YOLO, "YOLO"),
    ("images/1.json", LABELME, "LabelMe"), ("project-1.json", LABEL_STUDIO, "Label Studio"),
    ("via.json", json.dumps({"_via_settings": {}, "_via_img_metadata": {}}), "VIA"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "tool"), EXPORTS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("script", ["folder", "coco"])
def test_other_exports_are_named_with_the_one_to_choose(built, tmp_path, name, text, tool, script):
    src = raw.pictures(tmp_path / "raw", [f"images/{i}.png" for i in range(3)])
    if script == "folder":
        raw.pictures(src, ["loose.png"])
    (src / name).write_text(text)
    refused(built, script, src, f"^{name} is .*{tool}.*; .*COCO.* and build that with `coco`")


def test_a_coco_export_is_sent_to_coco(built, tmp_path):
    names = [f"{split}/{i}.png" for split in ("train", "valid") for i in range(3)]
    src = raw.pictures(tmp_path / "raw", names)
    for split in ("train", "valid"):
        raw.coco(src / split / "_annotations.coco.json", {f"{i}.png": ["dent"] for i in range(3)})
    refused(built, "folder", src, "train/_annotations.coco.json is a COCO file; build it with `coco`")


def test_every_data_set_accounts_for_its_raw_folder(built, tmp_path):
    src = raw.mvtec(tmp_path / "mvtec", {"grid": (20, 6, {"bent": 6}), "wood": (20, 6, {"hole": 6})})
    raw.masks(src, ["grid/ground_truth/bent/777_mask.png"])
    for name, options in (("mvtec_ad", {}), ("mvtec_inspect", {"n_good": 5, "n_defect": 4})):
        manifest = built(name, src, **options)
        assert left_out(manifest)["no images by their suffix: .txt"] == 4
        assert left_out(manifest)["images outside the places where this data set has them"] == 1
    assert left_out(manifest)["test images beyond the number asked for"] > 0
    src = raw.ksdd2(tmp_path / "ksdd2", {"train": (40, 8), "test": (30, 8)})
    whole, shared = built("ksdd2_balanced", src), built("ksdd2_balanced", src, shares="50/10/20/20")
    assert whole["accounting"]["files"]["taken"] == {"images": 86, "masks": 86}
    assert left_out(shared)["good ones beyond one for each defect"] == 54
    names = ("Bird-drop", "Clean", "Dusty", "Electrical-damage", "Physical-Damage", "Snow-Covered")
    src = raw.classes(tmp_path / "solar", dict.fromkeys(names, 4))
    beside(src, ["Clean/info.txt"])
    assert left_out(built("solar_panels", src)) == {"no images by their suffix: .txt": 1}


def test_a_name_of_two_lines_is_shown_on_one(built, tmp_path):
    src = raw.pictures(tmp_path / "raw", [*GOOD, *SCRATCH])
    beside(src, [".a\nfingerprint 0"])
    lines = described(built("folder", src)).splitlines()
    assert r"1 file left out, hidden files: .a\nfingerprint 0" in lines
    assert sum(line.startswith("fingerprint") for line in lines) == 1


def test_a_sum_that_is_off_is_a_fault_of_ours():
    with pytest.raises(RuntimeError, match="3 things, of which 1 are taken and 1 are left out"):
        account({1: "a", 2: "b", 3: "c"}, {1: "images"}, {2: "why"})
    with pytest.raises(RuntimeError):
        account({1: "a"}, {1: "images"}, {1: "why"})


NAMES = st.sampled_from(["good", "scratch", "train", "test", "valid", "mask", "good_gt", ".git", "Good", "labels", "x"])
FILES = st.sampled_from(["1.png", "2.PNG", "3.jpg", "1_mask.png", "a.txt", ".a.png", "b", "c.json", "1.tiff"])
TREES = st.lists(st.tuples(st.lists(NAMES, max_size=3), FILES, st.integers(0, 9)), max_size=12)
LINKS = st.lists(st.tuples(NAMES, NAMES), max_size=3)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, links=LINKS)
def test_any_tree_is_accounted_for_or_refused_in_one_sentence(tmp_path_factory, tree, links, monkeypatch):
    folder = tmp_path_factory.mktemp("tree")
    src, rng = folder / "raw", np.random.default_rng(0)
    src.mkdir()
    contents = [raw.picture(rng) if i < 6 else raw.mask(rng) for i in range(10)]
    for parts, name, content in tree:
        path = src.joinpath(*parts, name)
        if not os.path.lexists(path) and not any(p.is_file() for p in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            contents[content].save(path, format="png")
    for name, target in links:
        if not os.path.lexists(src / name):
            (src / name).symlink_to(src / target)
    try:
        building(folder, monkeypatch)("folder", src)
    except DataError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
