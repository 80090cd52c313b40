import shutil

import numpy as np
import pytest
from PIL import Image

from hf_inspect import files
from hf_inspect.data import build
from hf_inspect.data.audit import audit
from hf_inspect.data.sheet import of_images, of_pairs, thumbnail
from hf_inspect.errors import DataError
from tests import raw
from tests.conftest import jpeg, picture, png


def texture(seed):
    """A grey picture with detail in every frequency that the hash looks at, from 20 to 200."""
    coarse = np.random.default_rng(seed).integers(20, 200, (24, 24)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BILINEAR))


def parts(root, seeds, more=None):
    """Class folders of one picture a seed, and `more` files by name."""
    contents = {f"{'good' if seed % 2 else 'dent'}/{seed}.png": png(texture(seed)) for seed in seeds}
    for name, content in (contents | (more or {})).items():
        files.write_bytes(root / name, content)
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two built sets of parts; the second has four images of the first, each in other clothes."""
    root = tmp_path_factory.mktemp("two")
    first = texture(1)
    planted = {
        "good/renamed.png": png(first),
        "good/encoded.jpg": jpeg(texture(2), 60),
        "dent/resized.png": png(np.asarray(Image.fromarray(texture(3)).resize((60, 60)))),
        "dent/brightened.png": png(np.minimum(texture(4) * 1.2, 255).astype(np.uint8)),
    }
    sets = parts(root / "raw_a", range(48)), parts(root / "raw_b", range(100, 148), planted)
    for source, name in zip(sets, "ab", strict=True):
        build("folder", root / name, src=source)
    return root / "a", root / "b"


def sources(pairs):
    return {(pair.source_a, pair.source_b, pair.exact) for pair in pairs}


def test_planted_copies_across_two_sets_are_found_and_named(two, tmp_path):
    seen = []
    found = audit(two, tmp_path / "pairs.png", lambda *step: seen.append(step))
    assert sources(found.crossing) == {
        ("good/1.png", "good/renamed.png", True),
        ("dent/2.png", "good/encoded.jpg", False),
        ("good/3.png", "dent/resized.png", False),
        ("dent/4.png", "dent/brightened.png", False),
    }
    assert (found.inside, found.views, found.images) == ((), (), 100)
    assert sum(overlap.exact for overlap in found.overlaps) == 1
    assert sum(overlap.near for overlap in found.overlaps) == 3
    assert {overlap.a.folder for overlap in found.overlaps} == {str(two[0])}
    assert "100 images in 8 places: 4 pairs cross" in found.table()
    assert f"good/1.png = {two[1]}" in found.table()
    assert seen[-1] == ("read and sign", 100, 100)
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.mode == "P"


def test_a_set_that_cannot_leak_has_no_crossing(tmp_path):
    source = parts(
        tmp_path / "raw", range(60), {"good/again.png": jpeg(texture(7), 70), "good/copy.png": png(texture(9))}
    )
    build("folder", tmp_path / "built", src=source)
    found = audit([tmp_path / "built"])
    assert found.crossing == found.views == ()
    assert {frozenset(pair[:2]) for pair in sources(found.inside)} == {
        frozenset({"good/7.png", "good/again.png"}),
        frozenset({"good/9.png", "good/copy.png"}),
    }
    assert found.table().count("same split") >= 1


def test_a_published_split_that_leaks_is_told(tmp_path):
    root = raw.mvtec(tmp_path / "raw", {"bottle": (40, 3, {"broken_large": 3})})
    with Image.open(root / "bottle/train/good/005.png") as image:
        image.save(root / "bottle/test/good/001.png", compress_level=1)
    build("mvtec_ad", tmp_path / "built", src=root, accept_license=True)
    (pair,) = audit([tmp_path / "built"]).crossing
    assert {pair.source_a, pair.source_b} == {"bottle/train/good/005.png", "bottle/test/good/001.png"}
    assert {pair.a.split, pair.b.split} == {"train", "test"}
    assert not pair.exact


def test_configs_that_are_views_are_listed_only(tmp_path):
    root = raw.ksdd2(tmp_path / "raw", {"train": (36, 4), "test": (12, 2)})
    manifest = build("ksdd2_balanced", tmp_path / "built", src=root, accept_license=True)
    found = audit([tmp_path / "built"])
    balanced = sum(manifest["counts"]["balanced"]["test"].values())
    assert len(found.views) >= balanced
    assert {(pair.a.config, pair.b.config) for pair in found.views} == {("balanced", "original")}
    assert found.crossing == ()
    without = files.read_json(tmp_path / "built/manifest.json") | {"views": False}
    files.write_json(tmp_path / "built/manifest.json", without)
    assert len(audit([tmp_path / "built"]).crossing) == len(found.views)


def test_what_is_no_whole_built_set_is_refused(two, tmp_path):
    shutil.copytree(two[0], tmp_path / "a")
    manifest = files.read_json(tmp_path / "a/manifest.json")
    for images in (manifest["images"][1:], [*manifest["images"], manifest["images"][0] | {"sha256": "0"}]):
        files.write_json(tmp_path / "a/manifest.json", manifest | {"images": images})
        with pytest.raises(DataError, match="other images than its manifest lists"):
            audit([tmp_path / "a"])
    files.write_json(tmp_path / "a/manifest.json", {"rows": 3})
    with pytest.raises(DataError, match="no data set that"):
        audit([tmp_path / "a"])
    with pytest.raises(DataError, match="missing"):
        audit([tmp_path / "nothing"])


def test_sheets_take_any_caption_and_any_file(tmp_path):
    rows = [(png(picture(1)), "好 größe " * 9), (b"no image", ""), (jpeg(picture(2, 300), 80), "two\nlines")] * 4
    of_images(rows, tmp_path / "images.png", columns=5, side=64)
    of_pairs([(*rows[0], *rows[1])], tmp_path / "pair.png")
    of_images([], tmp_path / "empty.png")
    with Image.open(tmp_path / "images.png") as wide, Image.open(tmp_path / "pair.png") as pair:
        assert wide.mode == pair.mode == "P"
        assert wide.width > 5 * 64
        assert wide.height > 3 * 64
        assert pair.width > 2 * 128
    assert (tmp_path / "images.png").stat().st_size < 40_000
    with Image.open(tmp_path / "images.png") as sheet:
        grey = np.asarray(sheet.convert("RGB"))[8 : 8 + 64, 8 + 66 + 8 : 8 + 66 + 8 + 64]
    assert np.ptp(grey) == 0


def test_thumbnails_keep_the_shape(tmp_path):
    files.write_bytes(tmp_path / "small.png", thumbnail(png(np.zeros((100, 300), np.uint8)), 60))
    with Image.open(tmp_path / "small.png") as image:
        assert image.size == (60, 20)
