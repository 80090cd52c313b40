import shutil

import datasets
import numpy as np
import pytest

from hf_inspect import files
from hf_inspect.data import build, load_split, read_manifest, read_task, record_history, refuse_seen
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.schema import BINARY
from tests import raw

FEW = {"train": (30, 8), "test": (20, 4)}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return raw.ksdd2(tmp_path_factory.mktemp("raw") / "KSDD2_raw")


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "ksdd2"
    build("ksdd2_balanced", folder, src=source, accept_license=True)
    return folder


@pytest.fixture
def few(tmp_path):
    return raw.ksdd2(tmp_path / "raw", FEW)


def built(src, out, **options):
    return build("ksdd2_balanced", out, src=src, options=options, accept_license=True)


def test_the_published_counts_and_one_good_part_for_each_defect(whole):
    counts = read_manifest(whole)["counts"]
    assert counts == {
        "balanced": {"test": {"good": 356, "defect": 356}},
        "original": {"train": {"good": 2085, "defect": 246}, "test": {"good": 894, "defect": 110}},
    }


def test_the_archives_stray_copies_are_listed_and_left_out(whole):
    rejected = [one["source"] for one in read_manifest(whole)["rejected"]]
    assert rejected == ["train/10000 (copy).png", "train/10000_GT (copy).png"]
    assert "10000_GT (copy).png" in (whole / "README.md").read_text()


@pytest.mark.parametrize("config", ["balanced", "original"])
def test_images_labels_and_masks_read_back_byte_equal(whole, source, tmp_path, config):
    loaded = datasets.load_dataset(str(whole), config, cache_dir=str(tmp_path))
    plain = datasets.Image(decode=False)
    for split, rows in loaded.items():
        for row in rows.cast_column("image", plain).cast_column("mask", plain):
            folder, name = source / row["original_split"], row["image"]["path"]
            assert config == "balanced" or row["original_split"] == split
            assert row["image"]["bytes"] == (folder / name).read_bytes()
            assert row["mask"]["bytes"] == (folder / name.replace(".png", "_GT.png")).read_bytes()
    for row in loaded["test"].select(range(0, len(loaded["test"]), 20)):
        assert row["label"] == int(np.asarray(row["mask"]).any())
    assert read_task(whole) == BINARY


def test_good_parts_are_sampled_from_both_published_splits_by_the_seed(whole, few, tmp_path):
    rows = load_split(whole, "balanced/test")
    sampled = [split for split, label in zip(rows["original_split"], rows["label"], strict=True) if label == 0]
    assert sampled.count("train") == pytest.approx(356 * 2085 / 2979, abs=30)
    one, again = built(few, tmp_path / "one"), built(few, tmp_path / "again", seed=1234)
    other = built(few, tmp_path / "other", seed=1)
    assert one == again
    assert one["fingerprint"] != other["fingerprint"]
    originals = [[i for i in manifest["images"] if i["config"] == "original"] for manifest in (one, other)]
    assert originals[0] == originals[1]


def test_the_number_of_threads_changes_no_byte(few, tmp_path):
    one = built(few, tmp_path / "one")
    three = build("ksdd2_balanced", tmp_path / "three", src=few, num_proc=3, accept_license=True)
    assert one == three
    shards = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(shards) == 3
    for shard in shards:
        assert files.sha256(tmp_path / "one" / shard) == files.sha256(tmp_path / "three" / shard)


def test_what_was_trained_on_original_is_refused_on_balanced(few, tmp_path):
    manifest = built(few, tmp_path / "out")
    assert any("`balanced` shows images of `original`" in note for note in manifest["notes"])
    history = record_history(tmp_path / "out", {"train": None})
    with pytest.raises(LeakageError, match=r"of 24 images .*1000\d\.png, 100\d\d\.png, 100\d\d\.png, \.\.\."):
        refuse_seen(history, tmp_path / "out", "balanced/test", "the edge")


def test_the_evaluation_folders_hold_the_balanced_images(few, tmp_path):
    build("ksdd2_balanced", tmp_path / "out", src=few, folders=True, accept_license=True)
    for label in ("good", "defect"):
        assert len(list((tmp_path / "out" / "val" / label).iterdir())) == 12


def test_fewer_good_parts_than_defects_is_said(tmp_path):
    src = raw.ksdd2(tmp_path / "raw", {"train": (3, 20), "test": (2, 15)})
    manifest = built(src, tmp_path / "out")
    assert manifest["counts"]["balanced"]["test"] == {"good": 5, "defect": 35}
    assert "`balanced` has 5 good images for 35 defects: there are no more." in manifest["notes"]


def test_bad_images_and_masks_are_listed_and_left_out(few, tmp_path):
    (few / "test" / "20000_GT.png").unlink()
    raw.mask(np.random.default_rng(0), 8, 8).save(few / "test" / "20001_GT.png")
    image = few / "test" / "20002.png"
    image.write_bytes(image.read_bytes()[:300])
    manifest = built(few, tmp_path / "out")
    rejected = {one["source"]: one["reason"] for one in manifest["rejected"]}
    assert {"test/20000.png", "test/20001.png", "test/20002.png"} < set(rejected)
    assert "8 x 8 pixels" in rejected["test/20001.png"]
    assert "59 of KSDD2's 3,335 images are here." in manifest["notes"]


@pytest.mark.parametrize(
    ("how", "said"),
    [("root", "has no folder train/"), ("no test", "has no folder test/"), ("masks", "no image with its mask beside")],
)
def test_a_wrong_root_or_layout_is_a_sentence(few, tmp_path, how, said):
    if how == "no test":
        shutil.rmtree(few / "test")
    for mask in few.rglob("*_GT.png") if how == "masks" else ():
        mask.unlink()
    with pytest.raises(DataError, match=said):
        built(few / "train" if how == "root" else few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_label_only_cannot_be_balanced(tmp_path):
    src = raw.ksdd2(tmp_path / "raw", {"train": (30, 0), "test": (20, 0)})
    with pytest.raises(DataError, match="50 good and 0 defect images"):
        built(src, tmp_path / "out")


def test_balanced_can_be_split_to_train_on_it_too(few, tmp_path):
    manifest = built(few, tmp_path / "built", shares="40/20/20/20")
    counts = manifest["counts"]
    assert list(counts) == ["balanced"]
    assert set(counts["balanced"]) == {"train", "validation", "calibration", "test"}
    total = [sum(split.get(label, 0) for split in counts["balanced"].values()) for label in ("good", "defect")]
    assert total == [12, 12]
    assert len({(row["group"], row["split"]) for row in manifest["images"]}) == manifest["groups"]["n"]
    with pytest.raises(DataError, match="four percentages"):
        built(few, tmp_path / "other", shares="90/20/20/20")
