"""What augmentation makes of samples: boxes around moved masks, things that stay whose they are, and refusals."""

import functools
import itertools
import json
import pickle
import re

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.data import build, load_split
from hf_inspect.detectors import augment, sheet
from hf_inspect.detectors.augment import INTENSITIES, TABLE, augmentation, read_table, sample_of
from hf_inspect.errors import DataError
from tests import raw

KNOWN = read_table()
ALL = list(itertools.product(KNOWN["characteristics"], KNOWN["environments"], INTENSITIES))
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], np.uint8)
SIZE = (48, 64)  # that comes out


def sample(seed=0, height=64, width=96, masks=True, points=True):
    """Six things, each of the colour of its label, in six parts of a grey image; keypoints are their boxes' corners."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + 0.5
    rgb = np.full((height, width, 3), 90, np.uint8)
    found, boxes, order = [], [], rng.permutation(6)
    for place in range(6):
        row, column = divmod(place, 3)
        high, wide = rng.uniform(0.1, 0.42, 2) * (height / 2, width / 3)  # half of a thing's sides
        cy, cx = (row + 0.5) * height / 2, (column + 0.5) * width / 3
        apart = np.abs(y - cy) / high, np.abs(x - cx) / wide
        inside = np.hypot(*apart) <= 1 if rng.random() < 0.5 else np.maximum(*apart) <= 1
        inside[int(cy), int(cx)] = True
        rgb[inside] = COLOURS[order[place]]
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        found.append(inside)
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    boxes = torch.tensor(boxes, dtype=torch.float32)
    made = {
        "image": tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1)),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        "labels": torch.tensor(order),
    }
    if masks:
        made["masks"] = tv_tensors.Mask(torch.from_numpy(np.stack(found)))
    if points:
        made["keypoints"] = tv_tensors.KeyPoints(boxes.reshape(-1, 2, 2), canvas_size=(height, width))
    return made


def at_all(values):
    """Parameters of a transform, the same at all intensities."""
    return {intensity: dict(values) for intensity in INTENSITIES}


def made(augmented, given, seed=0):
    torch.manual_seed(seed)
    return augmented(given)


def by_label(one, name="boxes"):
    return dict(zip(one["labels"].tolist(), one[name], strict=True))


def check_whole(found, size=SIZE):
    """Everything is of its kind and size, and of as many things; boxes lie in the image."""
    n = len(found["labels"])
    assert found["image"].shape == (3, *size)
    assert found["image"].dtype == torch.uint8
    assert found["boxes"].shape == (n, 4)
    assert found["boxes"].canvas_size == size
    x0, y0, x1, y1 = found["boxes"].unbind(1)
    assert ((x0 >= 0) & (y0 >= 0) & (x1 <= size[1]) & (y1 <= size[0])).all()
    assert ((x1 - x0 >= 2) & (y1 - y0 >= 2)).all()
    if "masks" in found:
        assert found["masks"].shape == (n, *size)
        assert found["masks"].dtype == torch.bool
        assert found["masks"].flatten(1).any(1).all()
    if "keypoints" in found:
        assert found["keypoints"].shape == (n, 2, 2)


def encloses(box, mask, by=1.0):
    """Whether every pixel of a mask lies in a box that is grown by a pixel."""
    rows, columns = torch.nonzero(mask, as_tuple=True)
    x0, y0, x1, y1 = box.tolist()
    across = x0 - by <= columns.min() and columns.max() + 1 <= x1 + by
    return across and y0 - by <= rows.min() and rows.max() + 1 <= y1 + by


def check_boxes(names, seed, size):
    """Boxes of things that have a mask hold it, and those of the same things without one hold it to a pixel."""
    augmented = augmentation([names[0]], [names[1]], names[2], *SIZE)
    found = made(augmented, sample(seed, *size), seed)
    alone = made(augmented, sample(seed, *size, masks=False), seed)
    for one in (found, alone):
        check_whole(one)
    assert torch.equal(found["image"], alone["image"])
    boxes, masks, loose = by_label(found), by_label(found, "masks"), by_label(alone)
    assert all(encloses(boxes[label], masks[label], 0) for label in boxes)
    given, moved = by_label(sample(seed, *size), "keypoints"), by_label(alone, "keypoints")
    bends = "ElasticTransform" in augment.settings([names[0]], [names[1]], names[2])  # whose boxes are roughly moved
    squashed = SIZE[0] / size[0] / (SIZE[1] / size[1])
    for label in boxes.keys() & loose.keys():
        grown = float(torch.dist(*moved[label]) / torch.dist(*given[label])) * max(squashed, 1 / squashed)
        assert encloses(loose[label], masks[label], 1 + max(1.0, grown) * (3 if bends else 1))  # a pixel as it came


@pytest.fixture
def table_once(monkeypatch):
    """Tables are read once."""
    monkeypatch.setattr(augment, "read_table", functools.cache(read_table))


def test_the_table_has_nine_characteristics_and_twelve_environments():
    assert (len(KNOWN["characteristics"]), len(KNOWN["environments"]), len(ALL)) == (9, 12, 324)
    assert all("asks" in entry for section in ("characteristics", "environments") for entry in KNOWN[section].values())


def test_boxes_hold_their_moved_masks_for_all_that_the_table_knows(table_once):
    for seed, (characteristic, environment, intensity) in enumerate(ALL):
        found = made(augmentation([characteristic], [environment], intensity, *SIZE), sample(seed), seed)
        check_whole(found)
        assert all(encloses(box, mask, 0) for box, mask in zip(found["boxes"], found["masks"], strict=True))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sampled_from(ALL), seed=st.integers(0, 2**20), size=st.tuples(st.integers(12, 150), st.integers(12, 150))
)
def test_boxes_hold_their_moved_masks_in_images_of_any_shape(table_once, names, seed, size):
    check_boxes(names, seed, size)


def without_light(tmp_path):
    """The table without what changes colours."""
    table = yaml.safe_load(TABLE.read_text())
    for entry in (table["always"], *table["characteristics"].values(), *table["environments"].values()):
        entry["asks"] = {name: one for name, one in entry.get("asks", {}).items() if name not in augment._LIGHT}
    path = tmp_path / "moving.yaml"
    path.write_text(yaml.safe_dump(table))
    return path


def test_a_thing_keeps_its_label_mask_box_and_keypoints(table_once, tmp_path):
    """Each thing has the colour of its label, wherever it goes."""
    table, seen, centred = without_light(tmp_path), 0, 0
    for seed, names in enumerate(ALL[::4]):
        found = made(augmentation([names[0]], [names[1]], names[2], *SIZE, table), sample(seed), seed)
        image = found["image"].permute(1, 2, 0).numpy()
        for label, mask, box, points in zip(
            *(found[k] for k in ("labels", "masks", "boxes", "keypoints")), strict=True
        ):
            if mask.sum() < 30:
                continue
            seen += 1
            colour = np.median(image[mask.numpy()].astype(int), 0)
            assert np.abs(COLOURS.astype(int) - colour).sum(1).argmin() == label
            x0, y0, x1, y1 = box.tolist()
            middle = points.as_subclass(torch.Tensor).mean(0)  # of a thing's corners, and so its own
            if min(x0, y0, SIZE[1] - x1, SIZE[0] - y1) > 1:
                centred += 1
                at = image[int((y0 + y1) / 2), int((x0 + x1) / 2)].astype(int)
                assert np.abs(COLOURS.astype(int) - at).sum(1).argmin() == label
                assert x0 - 4 < middle[0] < x1 + 4
                assert y0 - 4 < middle[1] < y1 + 4
    assert seen > 150
    assert centred > 80


def test_what_is_oriented_is_never_flipped(table_once, tmp_path):
    table = without_light(tmp_path)
    flips = {"RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation"}
    for environment, intensity in itertools.product(KNOWN["environments"], INTENSITIES):
        asked = ["symmetric", "textured", "oriented", "thin"]
        assert not flips & augment.settings(asked, [environment], intensity).keys()
        augmented = augmentation(asked, [environment], intensity, *SIZE, table)
        for seed in range(3):
            given = sample(seed)
            found, places = by_label(made(augmented, given, seed)), given["labels"].tolist()
            for one, other in itertools.combinations([place for place in range(6) if places[place] in found], 2):
                a, b = ((found[places[i]][:2] + found[places[i]][2:]).as_subclass(torch.Tensor) for i in (one, other))
                if one // 3 == other // 3:
                    assert a[0] < b[0]  # in a row, and left of it
                if one % 3 == other % 3:
                    assert a[1] < b[1]


def test_flips_happen_where_nothing_forbids_them():
    augmented, mirrored = augmentation([], [], "low", *SIZE), 0
    for seed in range(20):
        given = sample(3)
        found, places = by_label(made(augmented, given, seed)), given["labels"].tolist()
        mirrored += 1 if places[0] in found and found[places[0]][0] > SIZE[1] / 2 else 0
    assert 4 <= mirrored <= 16


def test_one_seed_one_result():
    augmented = pickle.loads(pickle.dumps(augmentation(["deformable"], ["noisy", "cluttered"], "high", *SIZE)))
    one, same, other = (made(augmented, sample(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["image"], other["image"])
    assert set(one) == set(sample())


def test_a_sample_is_left_as_it_is():
    given, as_it_was = sample(), sample()
    made(augmentation(["reflective"], ["cluttered", "dark"], "high", *SIZE), given)
    assert all(torch.equal(given[name], as_it_was[name]) for name in given)


@pytest.mark.parametrize("masks", [True, False])
def test_a_thing_is_dropped_once_less_than_a_fifth_of_it_is_left(masks, tmp_path, monkeypatch):
    """A crop alone moves the two corners of a rectangle to where the share that is left can be read from them."""
    crop = {"scale": [0.1, 0.5], "ratio": [0.5, 2.0]}
    path = one_table(tmp_path, {"asks": {"RandomResizedCrop": at_all(crop)}})
    augmented, kept, dropped = augmentation([], [], "low", 96, 96, path), 0, 0
    given = sample(5, masks=masks)
    if masks:
        given["masks"] = tv_tensors.Mask(torch.stack([filled(box) for box in given["boxes"].tolist()]))
    for seed in range(60):
        left = by_label(made(augmented, given, seed))
        with monkeypatch.context() as patched:
            patched.setattr(augment, "LEAST_SHARE", 0.0)
            every = made(augmented, given, seed)
        for label, corners in by_label(every, "keypoints").items():
            (x0, y0), (x1, y1) = corners.tolist()
            seen = max(0, min(x1, 96) - max(x0, 0)) * max(0, min(y1, 96) - max(y0, 0)) / ((x1 - x0) * (y1 - y0))
            if seen > 0.27:
                kept += 1
                assert label in left
            elif seen < 0.14:
                dropped += 1
                assert label not in left
    assert kept > 80
    assert dropped > 8


def filled(box):
    mask = torch.zeros(64, 96, dtype=torch.bool)
    x0, y0, x1, y1 = map(int, box)
    mask[y0:y1, x0:x1] = True
    return mask


def one_table(folder, always):
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"always": always, "characteristics": {}, "environments": {}}, sort_keys=False))
    return path


def test_a_crop_s_ratio_is_that_of_the_image(tmp_path):
    """All of an image twice as wide as high is cropped, and squashed as it is at inference."""
    crop = at_all({"scale": [1.0, 1.0], "ratio": [1.0, 1.0]})
    given = sample(height=64, width=128)
    found = made(augmentation([], [], "low", 64, 64, one_table(tmp_path, {"asks": {"RandomResizedCrop": crop}})), given)
    assert torch.allclose(found["boxes"], given["boxes"] * torch.tensor([0.5, 1, 0.5, 1]), atol=1.0)


@pytest.mark.parametrize("shape", [(64, 96), (640, 960)])
def test_a_part_of_an_image_shows_things_at_the_scale_of_the_whole(shape, tmp_path):
    """A part of three quarters of the sides, in as much of the size: things are as large as in the whole."""
    given = sample(height=shape[0], width=shape[1])
    table = one_table(tmp_path, {"asks": {"ColorJitter": at_all({"brightness": [1.0, 1.0]})}})
    whole = by_label(made(augmentation([], [], "low", 64, 96, table), given))
    seen, fine = 0, []
    for seed in range(20):
        part = made(augmentation([], [], "low", 48, 72, table, crop=0.75), given, seed)
        check_whole(part, (48, 72))
        for label, (x0, y0, x1, y1) in by_label(part).items():
            if x0 > 0 and y0 > 0 and x1 < 72 and y1 < 48:
                seen += 1
                a, b, c, d = whole[label].tolist()
                assert torch.allclose(torch.stack([x1 - x0, y1 - y0]), torch.tensor([c - a, d - b]), atol=2.1)
        fine.append(part["image"])
    assert seen > 10
    assert len({one.numpy().tobytes() for one in fine}) > 5


def test_parts_are_as_much_larger_as_smaller(tmp_path):
    asked = {"RandomResizedCrop": at_all({"scale": [0.5, 1.0], "p": 0.0})}
    crop = augmentation([], [], "low", 64, 64, one_table(tmp_path, {"asks": asked}), crop=0.5).keywords["crop"]
    assert crop == {"ratio": [1.0, 1.0], "scale": [0.125, 0.5]}


@pytest.mark.parametrize("crop", [0.0, -1.0, 1.01, float("nan")])
def test_a_part_is_a_share(crop):
    with pytest.raises(DataError, match="a share of an image's sides"):
        augmentation([], [], "low", 64, 64, crop=crop)


def test_a_thing_without_a_mask_among_those_that_have_one_keeps_its_box():
    given = sample(points=False)
    given["masks"][2] = False
    augmented = augmentation(["oriented"], ["handheld"], "high", *SIZE)
    for seed in range(12):
        found, alone = made(augmented, given, seed), made(augmented, sample(points=False, masks=False), seed)
        label = int(given["labels"][2])
        if label in by_label(alone):
            assert torch.equal(by_label(found)[label], by_label(alone)[label])
            assert not by_label(found, "masks")[label].any()


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_an_image_that_shows_nothing(table_once, intensity):
    given = {name: one if name == "image" else augment._rows(one, torch.zeros(6, dtype=torch.bool))
             for name, one in sample().items()}  # fmt: skip
    for characteristic, environment in zip(itertools.cycle(KNOWN["characteristics"]), KNOWN["environments"]):
        check_whole(made(augmentation([characteristic], [environment], intensity, *SIZE), given))


def test_several_that_ask_for_one_transform_get_the_wider_range():
    bright, dark, both = (
        augment.settings([], names, "medium")["ColorJitter"]["brightness"]
        for names in (["bright"], ["dark"], ["bright", "dark"])
    )
    assert both == [min(bright[0], dark[0]), max(bright[1], dark[1])] == [dark[0], bright[1]]
    blur = augment.settings([], ["handheld", "moving"], "high")["GaussianBlur"]
    assert blur == {"kernel_size": 11, "sigma": [0.1, 2.2], "p": 0.4}
    assert "RandomZoomOut" in augment.settings([], ["far"], "low")
    assert "RandomZoomOut" not in augment.settings(["small"], ["far"], "low")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((["shiny"], [], "low"), "has no 'shiny' in characteristics; it has transparent, reflective"),
        (([], ["foggy"], "low"), "has no 'foggy' in environments; it has bright, dark"),
        ((["plain"], [], "extreme"), "intensity 'extreme' is not known; it is low, medium, high"),
    ],
)
def test_unknown_names_are_refused_with_the_known(names, said):
    with pytest.raises(DataError, match=re.escape(said)):
        augmentation(*names, *SIZE)


LEVELS = at_all({"p": 0.5})


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ({"asks": {"Lambda": LEVELS}}, "the transform 'Lambda' is not known; there are ElasticTransform, "),
        ({"asks": {}, "forbids": [["RandomInvert"]]}, "is not known; there are ElasticTransform"),
        ({"asks": {"JPEG": at_all({"size": 3})}}, "JPEG, low has 'size', which is not known; it may "
         "have p, quality"),
        ({"asks": {"JPEG": {"low": {}, "high": {}}}}, "always, JPEG has no medium; wanted are low, medium, high"),
        ({"asks": {"JPEG": {**LEVELS, "huge": {}}}}, "always, JPEG has 'huge', which is not known"),
        ({"asks": {"ColorJitter": at_all({"hue": [0.1, -0.1]})}}, "hue is '[0.1, -0.1]'; wanted is"),
        ({"asks": {"GaussianNoise": at_all({"sigma": float("nan")})}}, "sigma is 'nan'; wanted is"),
        ({"asks": {"GaussianNoise": at_all({"sigma": "much"})}}, "sigma is 'much'; wanted is"),
        ({"asks": {"JPEG": at_all({"quality": [5, 9], "p": 2})}}, "p is '2'; wanted is a share"),
        ({"asks": {"JPEG": at_all({"quality": [0, 999]})}}, "JPEG cannot be made with"),
        ({"asks": {"RandomResizedCrop": at_all({"scale": 0.5})}}, "RandomResizedCrop cannot be made"),
        ({"asks": ["JPEG"]}, "asks is a mapping of transforms"),
        ({"wants": {}}, "always has 'wants', which is not known; it may have asks, forbids"),
        ("nothing", "always is 'nothing'; wanted is a mapping"),
    ],
)  # fmt: skip
def test_a_table_that_asks_for_what_is_not_known_is_refused(always, said, tmp_path):
    with pytest.raises(DataError, match=re.escape(said)):
        augmentation([], [], "low", *SIZE, one_table(tmp_path, always))


def test_files_that_are_no_table_are_refused(tmp_path):
    path = tmp_path / "table.yaml"
    for text, said in (("a: [", "is no YAML"), ("- 1", "is '[1]'; wanted is a mapping"), ("always: {}", "has no ")):
        path.write_text(text)
        with pytest.raises(DataError, match=re.escape(said)):
            read_table(path)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        read_table(path)


def test_numbers_and_ranges_do_not_join(tmp_path):
    table = yaml.safe_load(one_table(tmp_path, {}).read_text())
    for section, sigma in (("characteristics", 1.0), ("environments", [0.1, 1.0])):
        blur = at_all({"kernel_size": 3, "sigma": sigma})
        table[section] = {"own": {"asks": {"GaussianBlur": blur}}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(DataError, match="give both as numbers, or both as ranges"):
        augmentation(["own"], ["own"], "low", *SIZE, tmp_path / "table.yaml")


def test_samples_that_do_not_fit_together_are_refused():
    augmented = augmentation([], [], "low", *SIZE)
    for name, one in (("labels", torch.zeros(5, dtype=torch.int64)), ("masks", sample(height=60)["masks"])):
        with pytest.raises(DataError, match="one of each a thing is wanted"):
            augmented({**sample(), name: one})
    with pytest.raises(DataError, match="images of 16 x 64 pixels are too small"):
        augmentation([], [], "low", 16, 64)


def test_rows_become_samples_and_a_sheet(tmp_path):
    names = [f"{i}.png" for i in range(24)]
    raw.pictures(tmp_path / "raw", names, side=40)
    content = raw.coco(tmp_path / "raw/a.json", {name: ["dent"] for name in names}, 40)
    for annotation in content["annotations"]:
        annotation |= {"bbox": [4, 6, 10, 8], "segmentation": [[4, 6, 14, 6, 14, 14, 4, 14]]}
    (tmp_path / "raw/a.json").write_text(json.dumps(content))
    build("coco", tmp_path / "data", src=tmp_path / "raw", options={"good": ""})
    rows = load_split(tmp_path / "data", "train")
    one = sample_of(np.zeros((40, 40, 3), np.uint8), rows[0]["objects"], [0])
    assert one["boxes"].tolist() == [[4, 6, 14, 14]]
    high, wide = torch.nonzero(one["masks"][0], as_tuple=True)
    assert [int(v) for v in (wide.min(), high.min(), wide.max() + 1, high.max() + 1)] == [4, 6, 14, 14]
    state = torch.get_rng_state()
    count = sheet.augmentation_sheet(tmp_path / "data", tmp_path / "sheet.png", augmentation([], [], "low", 64, 64))
    assert count == 6
    assert torch.equal(state, torch.get_rng_state())
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 4 * 256
        assert picture.height > 6 * 256
    given = ["data", "augment", str(tmp_path / "data"), "--out"]
    refused = CliRunner().invoke(app, [*given, str(tmp_path / "x.png"), "--characteristic", "shiny"])
    assert "has no 'shiny' in characteristics" in str(refused.exception)
    said = CliRunner().invoke(app, [*given, str(tmp_path / "b.png"), "--size", "64"])
    assert said.output.endswith("b.png: 6 images, three versions each\n"), said.exception
