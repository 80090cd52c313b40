import hashlib
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import files
from hf_inspect.data import Examined, Signature, build, duplicates, group, read_manifest, script_named, sign
from hf_inspect.errors import DataError
from hf_inspect.schema import Sample
from tests import raw

FEW = {"grid": (40, 12, {"bent": 8, "glue": 7}), "wood": (30, 9, {"hole": 9})}
LABEL = {"good": 0, "defect": 1}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return raw.mvtec(tmp_path_factory.mktemp("raw") / "mvtec_anomaly_detection")


@pytest.fixture(scope="module")
def published(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "mvtec_ad"
    build("mvtec_ad", folder, src=source, accept_license=True)
    return folder


@pytest.fixture(scope="module")
def inspected(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "mvtec_inspect"
    build("mvtec_inspect", folder, src=source, accept_license=True)
    return folder


@pytest.fixture
def few(tmp_path):
    return raw.mvtec(tmp_path / "raw", FEW)


def built(name, src, out, **options):
    return build(name, out, src=src, options=options, accept_license=True)


def undecoded(folder, config, cache):
    loaded = datasets.load_dataset(str(folder), config, cache_dir=str(cache))
    plain = datasets.Image(decode=False)
    return {split: rows.cast_column("image", plain).cast_column("mask", plain) for split, rows in loaded.items()}


def check_bytes(source, row, config_source):
    """A row's image and mask are the files of the raw folder."""
    image = source / config_source
    assert row["image"]["bytes"] == image.read_bytes()
    assert row["image"]["path"] == image.name
    assert row["label"] == (row["defect_type"] != "good")
    if row["label"]:
        kept = image.parents[2] / "ground_truth" / row["defect_type"] / f"{image.stem}_mask.png"
        assert row["mask"]["bytes"] == kept.read_bytes()
    else:
        assert row["mask"] is None


def test_the_imitation_has_the_published_counts(source):
    assert sum(train for train, _, _ in raw.MVTEC.values()) == len(list(source.glob("*/train/good/*.png"))) == 3629
    assert sum(good for _, good, _ in raw.MVTEC.values()) == len(list(source.glob("*/test/good/*.png"))) == 467
    assert len(list(source.glob("*/ground_truth/*/*_mask.png"))) == 1258
    assert len(list(source.glob("*/test/*/*.png"))) == 467 + 1258


def test_every_category_is_a_config_with_the_published_split(published):
    manifest = read_manifest(published)
    assert {
        category: {"train": {"good": train}, "test": {"good": good, "defect": sum(defects.values())}}
        for category, (train, good, defects) in raw.MVTEC.items()
    } == manifest["counts"]
    assert manifest["notes"] == []
    assert manifest["rejected"] == []


def test_one_category_and_all_of_them_read_back_byte_equal(published, source, tmp_path):
    grid = undecoded(published, "grid", tmp_path)
    places = [image for image in read_manifest(published)["images"] if image["config"] == "grid"]
    assert len(places) == 264 + 21 + 57
    for split, rows in grid.items():
        of_split = [image["source"] for image in places if image["split"] == split]
        for row, place in zip(rows, of_split, strict=True):
            check_bytes(source, row, place)
            assert (row["category"], row["original_split"]) == ("grid", split)
    whole = undecoded(published, "all", tmp_path)
    assert {split: len(rows) for split, rows in whole.items()} == {"train": 3629, "test": 1725}
    kinds = Counter(zip(whole["test"]["category"], whole["test"]["defect_type"], strict=True))
    assert kinds == {
        (category, kind): n
        for category, (_, good, defects) in raw.MVTEC.items()
        for kind, n in {"good": good, **defects}.items()
    }


def test_images_and_masks_decode(published, tmp_path):
    rows = datasets.load_dataset(str(published), "bottle", split="test", cache_dir=str(tmp_path))
    defect = next(row for row in rows if row["label"] == LABEL["defect"])
    assert defect["image"].mode == "RGB"
    assert defect["image"].size == defect["mask"].size == (raw.SIDE, raw.SIDE)
    assert set(np.unique(defect["mask"])) == {0, 255}


def test_the_holdout_is_official_test_images_one_to_one_and_the_shortfall_is_said(inspected, source, tmp_path):
    manifest = read_manifest(inspected)
    assert manifest["counts"]["holdout"] == {"test": {"good": 467, "defect": 500}}
    short = "The holdout has 467 good images, 500 were asked for: there are no more."
    assert short in manifest["notes"]
    assert short in (inspected / "README.md").read_text()
    rows = undecoded(inspected, "holdout", tmp_path)["test"]
    assert set(rows["original_split"]) == {"test"}
    places = [image["source"] for image in manifest["images"] if image["config"] == "holdout"]
    for row, place in zip(rows, places, strict=True):
        check_bytes(source, row, place)


def test_sft_is_the_training_images_and_half_the_test_defects(inspected, tmp_path):
    counts = read_manifest(inspected)["counts"]["sft"]
    assert counts["train"]["good"] + counts["validation"]["good"] == 3629
    assert counts["train"]["defect"] + counts["validation"]["defect"] == 629
    assert counts["validation"]["good"] == pytest.approx(363, abs=8)
    assert counts["validation"]["defect"] == pytest.approx(63, abs=8)
    sft = undecoded(inspected, "sft", tmp_path)
    rows = datasets.concatenate_datasets(list(sft.values()))
    defects = Counter(zip(rows["category"], rows["defect_type"], strict=True))
    for category, (_, _, kinds) in raw.MVTEC.items():
        for kind, n in kinds.items():
            assert abs(defects[category, kind] - n / 2) <= 1
    assert set(sft["validation"]["category"]) == set(raw.MVTEC)


def test_the_holdout_is_even_over_defect_types(inspected, tmp_path):
    rows = undecoded(inspected, "holdout", tmp_path)["test"]
    sampled = Counter(zip(rows["category"], rows["defect_type"], strict=True))
    sizes = [n for (_, kind), n in sampled.items() if kind != "good"]
    assert len(sizes) == 73
    level = max(sizes)
    for category, (_, good, kinds) in raw.MVTEC.items():
        assert sampled[category, "good"] == good
        for kind, n in kinds.items():  # below the level only where there are no more
            assert sampled[category, kind] >= min(level - 1, n // 2)


def test_nothing_of_the_holdout_is_near_anything_learnt_from(inspected, source):
    images = read_manifest(inspected)["images"]
    signed = {image["source"]: sign((source / image["source"]).read_bytes()) for image in images}
    sides = [[signed[image["source"]] for image in images if image["config"] == side] for side in ("sft", "holdout")]
    assert len(signed) == len(images) == 3629 + 629 + 967
    assert duplicates(*sides).tolist() == []


def test_planted_near_duplicates_of_training_images_are_never_tested_on(few, tmp_path):
    grid = few / "grid"
    for i, place in enumerate(("test/good/000", "test/good/001", "test/bent/000", "test/glue/000")):
        learnt = np.asarray(Image.open(grid / "train" / "good" / f"{i:03}.png"))
        Image.fromarray((learnt * 0.8 + 20).astype(np.uint8)).save(grid / f"{place}.png")
    planted = {f"grid/test/{name}.png" for name in ("good/000", "good/001", "bent/000", "glue/000")}
    manifest = built("mvtec_inspect", few, tmp_path / "out")
    configs = {image["source"]: image["config"] for image in manifest["images"]}
    assert {configs.get(source) for source in planted} == {None, "sft"}
    assert {source for source in planted if configs.get(source) == "sft"} == {
        "grid/test/bent/000.png",
        "grid/test/glue/000.png",
    }
    left_out = manifest["accounting"]["files"]["left_out"]
    assert left_out["near-duplicates of official training images"]["n"] == 2
    kept = built("mvtec_ad", few, tmp_path / "ad")
    assert any("4 test images are near-duplicates of training images (4 groups)" in note for note in kept["notes"])


def test_one_category_and_its_archive_give_the_same_data_set(few, tmp_path):
    with tarfile.open(tmp_path / "grid.tar.xz", "w:xz") as archive:
        archive.add(few / "grid", "grid")
    of_folder = built("mvtec_inspect", few / "grid", tmp_path / "one")
    of_archive = built("mvtec_inspect", tmp_path / "grid.tar.xz", tmp_path / "two")
    assert of_folder == of_archive
    assert of_folder["images"][0]["source"] == "grid/train/good/000.png"
    assert of_folder["notes"][0] == "67 of MVTec AD's 5,354 images are here, from 1 of its 15 categories."
    whole = built("mvtec_ad", few, tmp_path / "three")
    assert list(whole["counts"]) == ["grid", "wood"]
    assert "config_name: tile" not in (tmp_path / "three" / "README.md").read_text()


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_inspect"])
def test_the_number_of_threads_changes_no_byte(few, tmp_path, name):
    one = build(name, tmp_path / "one", src=few, accept_license=True)
    three = build(name, tmp_path / "three", src=few, num_proc=3, accept_license=True)
    assert one == three
    shards = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(shards) == (4 if name == "mvtec_ad" else 3)
    for shard in shards:
        assert files.sha256(tmp_path / "one" / shard) == files.sha256(tmp_path / "three" / shard)


def test_bad_images_and_masks_are_listed_and_left_out(few, tmp_path):
    truth = few / "grid" / "ground_truth"
    (truth / "bent" / "000_mask.png").unlink()
    raw.mask(np.random.default_rng(0), 20, 20).save(truth / "bent" / "001_mask.png")
    image = few / "grid" / "test" / "good" / "000.png"
    image.write_bytes(image.read_bytes()[:200])
    manifest = built("mvtec_ad", few, tmp_path / "out")
    reasons = {one["source"]: one["reason"] for one in manifest["rejected"]}
    assert set(reasons) == {"grid/test/bent/000.png", "grid/test/bent/001.png", "grid/test/good/000.png"}
    assert "20 x 20 pixels, the image 24 x 24" in reasons["grid/test/bent/001.png"]
    assert manifest["counts"]["grid"]["test"] == {"good": 11, "defect": 13}


def spoil(folder, how):
    """A raw folder that is not what it should be -> the folder to build from."""
    grid = folder / "grid"
    if how == "masks":
        shutil.rmtree(grid / "ground_truth")
    elif how == "renamed":
        grid.rename(folder / "mesh")
    elif how == "half":
        shutil.rmtree(grid / "train")
    elif how == "loose":
        (grid / "test" / "bent" / "000.png").rename(grid / "test" / "000.png")
    elif how == "learnt":
        (grid / "test" / "bent").rename(grid / "train" / "bent")
    elif how == "root":
        return grid / "test"
    elif how == "file":
        return grid / "readme.txt"
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("masks", r"grid has no masks: ground_truth/ holds none for its 15 defects; extract"),
        ("renamed", r"mesh is no category of MVTec AD .*give the folder its name back"),
        ("half", r"grid has no train/good and test folders; extract"),
        ("loose", r"grid/test/000\.png is out of place"),
        ("learnt", r"grid/train/bent/.*\.png is out of place"),
        ("root", r"holds no category of MVTec AD \(bottle, .*give the folder above"),
        ("file", r"readme\.txt is no folder"),
    ],
)
def test_a_wrong_root_or_layout_is_a_sentence(few, tmp_path, how, said):
    src = spoil(few, how)
    for name in ("mvtec_ad", "mvtec_inspect"):
        with pytest.raises(DataError, match=said):
            built(name, src, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_without_a_download_the_way_to_it_is_said(tmp_path):
    with pytest.raises(DataError, match=r"https://www\.mvtec\.com/.* --src"):
        build("mvtec_ad", tmp_path / "out", accept_license=True)


@pytest.mark.parametrize(
    ("option", "value"), [("n_good", 0), ("defect_train_ratio", 1.0), ("defect_train_ratio", -0.1)]
)
def test_options_that_leave_no_holdout_are_refused(option, value):
    with pytest.raises(DataError, match="give"):
        script_named("mvtec_inspect").checked({option: value})


def test_a_category_without_good_test_images_gives_no_holdout(few, tmp_path):
    shutil.rmtree(few / "grid" / "test" / "good")
    with pytest.raises(DataError, match="no good test image is left for the holdout"):
        built("mvtec_inspect", few / "grid", tmp_path / "out")


def test_a_real_chunk(real_images, tmp_path):
    real = real_images / "mvtec_ad"
    manifest = built("mvtec_ad", real, tmp_path / "ad")
    assert manifest["counts"] == {"grid": {"train": {"good": 7}, "test": {"good": 3, "defect": 11}}}
    for split, rows in undecoded(tmp_path / "ad", "all", tmp_path).items():
        places = [image["source"] for image in manifest["images"] if image["split"] == split]
        for row, place in zip(rows, places, strict=True):
            check_bytes(real, row, place)
    counts = built("mvtec_inspect", real, tmp_path / "inspect")["counts"]
    assert counts["holdout"]["test"] == {"good": 3, "defect": 5}
    assert {split: sum(labels.values()) for split, labels in counts["sft"].items()} == {"train": 12, "validation": 1}


def examined(place, signature):
    category, split, kind = place
    class_name = "good" if kind == "good" else "defect"
    source = f"{category}/{split}/{kind}/{signature.sha256[:8]}.png"
    columns = {"category": category, "defect_type": kind, "original_split": split}
    return Examined(Sample(source, Path(source), class_name, f"{category} {kind}", columns), signature, 24, 24)


def variant(photo, number, i):
    """Signature of the i-th image: a photo's pixels, with `number` bits of its hash the other way round."""
    bits = np.unpackbits(np.frombuffer(hashlib.sha256(b"%d" % photo).digest(), np.uint8))
    bits[:number] ^= 1
    thumb = np.random.default_rng(photo).integers(0, 256, 256, np.uint8).tobytes()
    sha256, phash = hashlib.sha256(b"image %d" % i).hexdigest(), np.packbits(bits).tobytes().hex()
    return Signature(sha256, phash, thumb, bytes(224), bytes(32))


def rows_of(images, **options):
    """Place images of (where in MVTec AD, photo, variant) -> groups, config and split by index, rows."""
    script = script_named("mvtec_inspect")
    signed = [examined(place, variant(photo, number, i)) for i, (place, photo, number) in enumerate(images)]
    groups = group([image.signature for image in signed]).tolist()
    rows = script.place(signed, groups, script.checked(options)).rows
    return signed, groups, rows


WHERE = st.one_of(
    st.tuples(st.sampled_from(["bottle", "grid", "wood"]), st.just("train"), st.just("good")),
    st.tuples(st.sampled_from(["bottle", "grid", "wood"]), st.just("test"), st.sampled_from(["good", "hole", "dent"])),
)
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(
    images=st.lists(st.tuples(WHERE, st.integers(0, 60), st.integers(0, 40)), min_size=30, max_size=90),
    n=st.integers(1, 40),
    ratio=st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    seed=st.integers(0, 10**6),
)
def test_no_image_group_or_near_duplicate_is_in_two_places(images, n, ratio, seed):
    options = {"n_good": n, "n_defect": n, "defect_train_ratio": ratio, "seed": seed}
    try:
        signed, groups, rows = rows_of(images, **options)
    except DataError:
        assume(False)
    assert rows == rows_of(images, **options)[2]
    place = {row.sample.source: (row.config, row.split) for row in rows}
    assert len(place) == len(rows)
    of_group = defaultdict(set)
    for row in rows:
        of_group[row.group].add((row.config, row.split))
    assert all(len(found) == 1 for found in of_group.values())
    cells = {at: [row.signature for row in rows if (row.config, row.split) == at] for at in set(place.values())}
    for one in cells:
        assert all(duplicates(cells[one], cells[other]).tolist() == [] for other in cells if other != one)
    near_training = {g for image, g in zip(signed, groups, strict=True) if "/train/" in image.sample.source}
    for image, g in zip(signed, groups, strict=True):
        config = place.get(image.sample.source, (None, None))[0]
        if g in near_training:
            assert config in (("sft",) if "/train/" in image.sample.source else ("sft", None))
        if config == "sft" and image.sample.class_name == "good":
            assert "/train/" in image.sample.source
    sampled = Counter(row.sample.class_name for row in rows if row.config == "holdout")
    assert max(sampled.values()) <= n


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), fewer=st.integers(1, 20), more=st.integers(0, 20))
def test_the_size_of_the_holdout_changes_nothing_else(seed, fewer, more):
    kinds = [("grid", "train", "good")] * 20 + [("grid", "test", "good")] * 30
    kinds += [(category, "test", kind) for category in ("grid", "wood") for kind in ("bent", "hole")] * 15
    images = [(kind, i, 0) for i, kind in enumerate(kinds)]
    small, large = (rows_of(images, n_good=n, n_defect=n, seed=seed)[2] for n in (fewer, fewer + more))
    assert [row for row in small if row.config == "sft"] == [row for row in large if row.config == "sft"]
    assert {row.sample.source for row in small} <= {row.sample.source for row in large}
    learnt = [row for row in small if row.config == "sft" and row.sample.class_name == "defect"]
    assert len(learnt) == 30
    defects = [row.sample for row in small if row.config == "holdout" and row.sample.class_name == "defect"]
    sampled = Counter(sample.stratum for sample in defects)
    kinds = [f"{category} {kind}" for category in ("grid", "wood") for kind in ("bent", "hole")]
    assert max(sampled.values()) - min(sampled[kind] for kind in kinds) <= 1


def test_a_share_of_what_is_learnt_from_can_be_kept_for_calibration(few, tmp_path):
    counts = built("mvtec_inspect", few, tmp_path / "kept", calibration_share=0.2)["counts"]
    plain = built("mvtec_inspect", few, tmp_path / "plain")["counts"]
    of_label = {label: sum(split.get(label, 0) for split in plain["sft"].values()) for label in LABEL}
    assert set(counts["sft"]) == {"train", "validation", "calibration"}
    assert {label: sum(split.get(label, 0) for split in counts["sft"].values()) for label in LABEL} == of_label
    assert counts["holdout"] == plain["holdout"]
    assert counts["sft"]["calibration"]["good"] == pytest.approx(0.2 * of_label["good"], abs=2)
    with pytest.raises(DataError, match="leaves too little"):
        built("mvtec_inspect", few, tmp_path / "none", calibration_share=0.9)
