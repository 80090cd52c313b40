from collections import defaultdict

import pytest

from hf_inspect.data import build, class_ids, load_split, questions_of, read_manifest, read_task, script_named
from hf_inspect.errors import DataError
from hf_inspect.schema import TaskSpec
from tests import raw

COUNTS = {
    "Bird-drop": 191,
    "Clean": 193,
    "Dusty": 189,
    "Electrical-damage": 103,
    "Physical-Damage": 69,
    "Snow-Covered": 123,
}
SHARES = {"train": 0.70, "validation": 0.10, "test": 0.20}


@pytest.fixture(scope="module")
def solar(tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("built") / "solar"
    raw.classes(folder / "Faulty_solar_panel", COUNTS, suffix=".jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(folder / ".cache"))
        build("solar_panels", out, src=folder, accept_license=True)
    return folder, out


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path / ".cache"))


def few(n=2):
    return dict.fromkeys(COUNTS, n)


def test_the_counts_and_the_shares_of_each_class(solar):
    whole = raw.read_back(solar[1])
    names = whole["train"].features["class_name"].names
    assert names == list(COUNTS)
    of_class = {name: {split: whole[split]["class_name"].count(i) for split in whole} for i, name in enumerate(names)}
    assert {name: sum(splits.values()) for name, splits in of_class.items()} == COUNTS
    for name, splits in of_class.items():
        for split, share in SHARES.items():
            assert splits[split] == pytest.approx(share * COUNTS[name], abs=1)
    counts = read_manifest(solar[1])["counts"]["default"]
    assert {name: sum(splits[name] for splits in counts.values()) for name in COUNTS} == COUNTS
    task = read_task(solar[1])
    assert task == TaskSpec.of(COUNTS, ["Clean"])
    for split in whole:
        ids = class_ids(load_split(solar[1], split), task)
        assert ids == whole[split]["class_name"][:]
        assert task.is_defect[ids].astype(int).tolist() == whole[split]["label"][:]


def test_some_of_it_can_be_kept_to_calibrate_a_cascade(tmp_path):
    raw.classes(tmp_path / "raw", few(20))
    options = {"shares": "50/10/20/20"}
    manifest = build("solar_panels", tmp_path / "out", src=tmp_path / "raw", options=options, accept_license=True)
    assert manifest["counts"]["default"]["calibration"] == dict.fromkeys(COUNTS, 4)


def test_its_own_questions_ask_for_its_classes(solar):
    asked = questions_of(solar[1])
    assert asked.task().same_as(read_task(solar[1]))
    assert asked.question().options == tuple(COUNTS)


def test_bytes_are_the_raw_files_own_and_no_group_is_split(solar):
    folder, out = solar
    manifest = read_manifest(out)
    splits = defaultdict(set)
    for image in manifest["images"]:
        splits[image["group"]].add(image["split"])
    assert all(len(found) == 1 for found in splits.values())
    sources = [image["source"] for image in manifest["images"] if image["split"] == "test"]
    for source, row in zip(sources, load_split(out, "test"), strict=True):
        assert row["image"]["bytes"] == (folder / source).read_bytes()
        assert row["label"] == (source.split("/")[1] != "Clean")


def test_the_card_marks_it_as_non_commercial_and_says_what_is_unknown(solar):
    card = (solar[1] / "README.md").read_text()
    assert "No licence statement was found" in card
    assert "NON-COMMERCIAL" in card


def test_other_copies_folder_names_are_understood(tmp_path):
    names = ["bird drop", "CLEAN", "Dust", "Electrical", "physical", "snow_covered"]
    raw.classes(tmp_path / "raw", dict.fromkeys(names, 4))
    build("solar_panels", tmp_path / "out", src=tmp_path / "raw", accept_license=True)
    rows = load_split(tmp_path / "out", "train")
    assert rows.features["class_name"].names == list(COUNTS)
    assert set(rows["class_name"]) == set(range(6))
    script = script_named("solar_panels")
    read = script.read(tmp_path / "raw", script.checked({}))
    assert {s.source.split("/")[0]: s.class_name for s in read.samples} == dict(
        zip(sorted(names, key=str), ["Clean", "Dusty", "Electrical-damage", "Bird-drop", "Physical-Damage",
                                     "Snow-Covered"], strict=True)
    )  # fmt: skip


def test_the_nearest_class_folder_counts(tmp_path):
    raw.classes(tmp_path / "Clean", few())  # the folder around them is called like a class
    script = script_named("solar_panels")
    read = script.read(tmp_path, script.checked({}))
    assert sorted({s.class_name for s in read.samples}) == sorted(COUNTS)


def test_wrong_roots_are_a_sentence(tmp_path):
    script = script_named("solar_panels")
    options = script.checked({})
    with pytest.raises(DataError, match="no images of Bird-drop, Clean"):
        script.read(tmp_path, options)
    raw.classes(tmp_path / "raw", {**few(), "Snow-Covered": 0})
    with pytest.raises(DataError, match="has no images of Snow-Covered; give"):
        script.read(tmp_path / "raw", options)
    raw.classes(tmp_path / "raw", {"Cracked": 1})
    with pytest.raises(DataError, match=r"Cracked/000\.png is in none of the class folders"):
        script.read(tmp_path / "raw", options)
    with pytest.raises(DataError, match="--src, or --download"):
        script.read(None, options)


def test_download_without_kagglehub_says_what_to_install(monkeypatch):
    script = script_named("solar_panels")
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    with pytest.raises(DataError, match=r"pip install 'hf-inspect\[kaggle\]'"):
        script.read(None, script.checked({"download": True}))


def test_a_group_rule_keeps_copies_of_a_photo_together(tmp_path):
    raw.classes(tmp_path / "raw", few(12), suffix=".png")
    for folder in (tmp_path / "raw").iterdir():
        for i, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{folder.name}-{i // 2}.rf.{i:04x}.png")
    out, options = tmp_path / "out", {"group_rule": r"(.+)\.rf\.[0-9a-f]+"}
    manifest = build("solar_panels", out, src=tmp_path / "raw", options=options, accept_license=True)
    assert manifest["groups"]["n"] == 36
    photo = defaultdict(set)
    for image in manifest["images"]:
        photo[image["source"].split(".rf.")[0]].add(image["split"])
    assert all(len(splits) == 1 for splits in photo.values())
