"""Images with their masks and their orientation: each is right, or left out with a reason."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hf_inspect.data import build, examine, load_split, read_manifest, stream
from hf_inspect.data.examine import notes_of
from hf_inspect.images import load
from hf_inspect.schema import Sample
from tests import raw, zoo

WIDTH, HEIGHT = zoo.SIZE


def marked(value=255, dtype=np.uint8, x=10, y=5, side=8):
    """A mask (h, w) of one square."""
    mask = np.zeros((HEIGHT, WIDTH), dtype)
    mask[y : y + side, x : x + side] = value
    return mask


EMPTY = np.zeros((HEIGHT, WIDTH), np.uint8)


def png(array):
    return zoo.saved(array if isinstance(array, Image.Image) else Image.fromarray(array), "PNG")


def sample(folder, number, mask, class_name=None, image=None, suffix=".png"):
    """A part with a mask file beside it."""
    folder.mkdir(exist_ok=True)
    path, of_mask = folder / f"{number}.png", folder / f"{number}_mask{suffix}"
    path.write_bytes(image or png(zoo.grey(number)))
    of_mask.write_bytes(mask if isinstance(mask, bytes) else png(mask))
    return Sample(path.name, path, class_name, "part", mask=of_mask)


def looked(given):
    """Class of each part that is taken, and the reason of each other one, by the part's number."""
    examined, rejected = examine(given)
    return (
        {int(one.sample.source[:-4]): one.sample.class_name for one in examined},
        {int(one.source[:-4]): one.reason for one in rejected},
    )


def palette(index):
    """Numbers of kinds in VOC's colours, of which none but the first is black."""
    image = Image.fromarray(marked(index))
    coloured = image.convert("P")
    coloured.putdata(image.tobytes())
    coloured.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 64, 0, 0])
    return coloured


def colours():
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[5:9, 5:9] = 0, 3, 90
    return mask


KINDS = {
    "0 and 1": (marked(1), EMPTY),
    "0 and 255": (marked(255), EMPTY),
    "numbers of instances": (marked(3), marked(1)),
    "16 bits": (marked(65535, np.uint16), marked(0, np.uint16)),
    "numbers in 16 bits": (marked(300, np.uint16), marked(0, np.uint16)),
    "palette": (palette(3), palette(0)),
    "colours": (colours(), np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
    "1 bit": (Image.fromarray(marked()).convert("1"), Image.fromarray(EMPTY).convert("1")),
    "edges": (np.asarray(Image.fromarray(marked()).resize((20, 14)).resize(zoo.SIZE)), EMPTY),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_any_kind_says_what_it_marks(tmp_path, kind):
    one, other = KINDS[kind]
    wanted = {1: "defect", 2: "defect" if np.asarray(other).any() else "good"}
    assert looked([sample(tmp_path, 1, one), sample(tmp_path, 2, other)]) == (wanted, {})


def test_values_below_half_at_a_mark_are_counted(tmp_path):
    examined, _ = examine([sample(tmp_path, 1, KINDS["edges"][0]), sample(tmp_path, 2, EMPTY)])
    assert notes_of(examined) == {"mask values below half of white taken for the edge of a mark": 1}


def test_specks_make_no_defect(tmp_path):
    """A set of 0 and 255 with specks of value 2, as a mask that once was a JPEG has."""
    speck = np.zeros((HEIGHT, WIDTH), np.uint8)
    speck[3, 3] = 2
    taken, rejected = looked([
        sample(tmp_path, 1, np.maximum(marked(), speck)), sample(tmp_path, 2, EMPTY), sample(tmp_path, 3, speck),
        sample(tmp_path, 4, speck, "defect"),
    ])  # fmt: skip
    assert taken == {1: "defect", 2: "good"}
    assert set(rejected) == {3, 4}
    assert "no value above 2, and other masks go up to 255: whether it marks anything cannot be said" in rejected[3]


def test_a_mask_with_loss_is_read_by_halves_and_not_where_all_of_it_is_faint(tmp_path):
    def jpeg(array):
        return zoo.saved(Image.fromarray(array), "JPEG", quality=70)

    faint = marked(9)
    assert (load(jpeg(marked())).rgb % 255 != 0).any()
    taken, rejected = looked([
        sample(tmp_path, 1, jpeg(marked()), suffix=".jpg"), sample(tmp_path, 2, jpeg(EMPTY), suffix=".jpg"),
    ])  # fmt: skip
    assert (taken, rejected) == ({1: "defect", 2: "good"}, {})
    taken, rejected = looked([sample(tmp_path, 3, jpeg(faint), suffix=".jpg")])
    assert taken == {}
    assert "stored with loss: whether it marks anything cannot be said" in rejected[3]


def test_an_inverted_mask_is_refused(tmp_path):
    whole = np.full_like(EMPTY, 255)
    given = [sample(tmp_path, 1, 255 - marked()), sample(tmp_path, 2, whole), sample(tmp_path, 3, marked(), "dent"),
             sample(tmp_path, 4, 255 - marked(), "dent"), sample(tmp_path, 5, 255 - marked(), "good")]  # fmt: skip
    taken, rejected = looked(given)
    assert taken == {3: "dent"}
    assert set(rejected) == {1, 2, 4, 5}
    assert "1_mask.png marks 94% of the image and most of its border: is it inverted?" in rejected[1]


def test_a_large_mark_is_no_inverted_mask(tmp_path):
    large = np.zeros_like(EMPTY)
    large[2:-2, 2:-2] = 255
    band = np.zeros_like(EMPTY)
    band[: HEIGHT // 3] = 255
    assert large.mean() > 128
    assert looked([sample(tmp_path, 1, large), sample(tmp_path, 2, band, "scratch")])[1] == {}


def test_a_mask_that_belies_its_folder_is_refused(tmp_path):
    given = [sample(tmp_path, 1, EMPTY, "scratch"), sample(tmp_path, 2, marked(), "good"),
             sample(tmp_path, 3, EMPTY, "good"), sample(tmp_path, 4, marked(), "scratch")]  # fmt: skip
    taken, rejected = looked(given)
    assert taken == {3: "good", 4: "scratch"}
    assert rejected == {
        1: "it is said to be scratch, and its mask 1_mask.png marks nothing.",
        2: "it is said to be good, and its mask 2_mask.png marks 5.7% of it.",
    }


def test_a_mask_that_is_none_is_a_reason(tmp_path):
    missing = sample(tmp_path, 1, EMPTY)
    missing.mask.unlink()
    taken, rejected = looked(
        [missing, sample(tmp_path, 2, b"no mask"), sample(tmp_path, 3, np.zeros((5, 6), np.uint8))]
    )
    assert taken == {}
    assert rejected[1] == "its mask 1_mask.png is missing."
    assert "its mask 2_mask.png is not an image" in rejected[2]
    assert rejected[3] == "its mask 3_mask.png is 6 x 5 pixels, the image 40 x 28."


# Photos that EXIF turns.


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_examined_says_how_its_image_was_turned(tmp_path, orientation, suffix):
    [one] = examine([sample(tmp_path, 1, EMPTY, "good", zoo.turned(zoo.grey(1), orientation, suffix))])[0]
    stored = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
    assert (one.width, one.height, one.stored_size, one.orientation) == (WIDTH, HEIGHT, stored, orientation)
    x, y = stored[0] - 1, 2
    upright = one.upright([[x, y], [x + 1, y + 1]])
    image = np.zeros(stored[::-1], np.uint8)
    image[y, x] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = load(zoo.saved(Image.fromarray(image), "PNG", exif=exif)).rgb[..., 0]
    assert shown[int(upright[:, 1].min()), int(upright[:, 0].min())] == 255


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["stored", "upright", "own"])
def test_a_mask_is_turned_with_its_image_where_it_was_drawn_on_the_stored_pixels(tmp_path, orientation, drawn_on):
    stored = np.asarray(Image.open(io.BytesIO(zoo.turned(marked(), orientation, "PNG"))))
    mask = {"stored": png(stored), "upright": png(marked()), "own": zoo.turned(marked(), orientation, "PNG")}[drawn_on]
    [one], rejected = examine([sample(tmp_path, 1, mask, image=zoo.turned(zoo.grey(1), orientation, "PNG"))])
    assert rejected == []
    assert one.mask_turn == (orientation if drawn_on == "stored" else 1)
    assert ("mask turned upright with its image" in one.notes) == (drawn_on == "stored")
    assert (one.mask_sha256 == hashlib.sha256(mask).hexdigest()) == (drawn_on == "upright")


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_mask_that_fits_both_ways_is_refused_by_name(tmp_path, orientation):
    image = zoo.turned(zoo.grey(1), orientation, "JPEG")
    taken, rejected = looked([sample(tmp_path, 1, marked(), image=image), sample(tmp_path, 2, EMPTY, image=image)])
    assert taken == {2: "good"}
    assert f"fits the image both as it is stored and as EXIF orientation {orientation} turns it" in rejected[1]
    own = zoo.turned(marked(), orientation, "PNG")
    assert looked([sample(tmp_path, 1, own, image=image)])[0] == {1: "defect"}


def test_the_mask_in_the_data_set_fits_the_image_there(tmp_path):
    source = raw.ksdd2(tmp_path / "raw", {"train": (30, 8), "test": (20, 4)})
    path, of_mask = source / "train" / "10000.png", source / "train" / "10000_GT.png"
    pictured = np.array(Image.open(path).convert("L"))
    mask = np.zeros_like(pictured)
    mask[3:9, 2:12] = 255
    path.write_bytes(zoo.turned(pictured, 6, "PNG"))
    stored = np.rot90(mask)
    Image.fromarray(np.ascontiguousarray(stored)).save(of_mask)
    manifest = build("ksdd2_balanced", tmp_path / "out", src=source, accept_license=True)
    assert manifest["reading"]["notes"] == {
        "turned upright from EXIF orientation 6": 1, "mask turned upright with its image": 1,
    }  # fmt: skip
    rows = [row for some in stream(tmp_path / "out", "original/train", ["image", "mask"]) for row in some]
    [row] = [row for row in rows if row["image"]["path"] == "10000.png"]
    assert np.array_equal(load(row["image"]["bytes"]).rgb[..., 0], pictured)
    assert np.array_equal(load(row["mask"]["bytes"]).rgb[..., 0], mask)
    stated = {image["mask_sha256"] for image in read_manifest(tmp_path / "out")["images"]}
    assert hashlib.sha256(row["mask"]["bytes"]).hexdigest() in stated
    assert len(load_split(tmp_path / "out", "original/train")) == 38


def test_a_mask_that_changes_while_it_is_built_is_refused(tmp_path):
    from hf_inspect.data.builder import _mask
    from hf_inspect.data.partition import row_of
    from hf_inspect.errors import DataError

    [one], _ = examine([sample(tmp_path, 1, marked())])
    row = row_of(one, 0, "train")
    assert _mask(row, row.sample.mask) == png(marked())
    row.sample.mask.write_bytes(png(EMPTY))
    with pytest.raises(DataError, match=r"the mask of 1\.png changed"):
        _mask(replace(row, split="test"), row.sample.mask)
