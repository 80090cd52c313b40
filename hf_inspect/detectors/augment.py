"""Characteristics of things, their environments and an intensity -> what varies images, boxes, masks and keypoints.

Which transforms of torchvision that takes, and how they join where several ask for one, says augment.yaml.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, images
from hf_inspect.console import shown
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess, Rgb

if TYPE_CHECKING:
    import torch
    from torchvision.tv_tensors import BoundingBoxes

Sample = dict[str, Any]
"""An image and what it shows, as torchvision's tv_tensors: `image` Image uint8 (3, h, w), `boxes` BoundingBoxes XYXY
(n, 4), `labels` int64 (n,), and where there are any `masks` Mask (n, h, w) bool, a row without a pixel for a thing that
has none, and `keypoints` KeyPoints (n, p, 2)."""

TABLE = Path(__file__).with_name("augment.yaml")
INTENSITIES = ("low", "medium", "high")
LEAST_SIDE = 2  # pixels of a box's sides; a thing with less of it left is dropped
LEAST_SHARE = 0.2  # of a thing's area that has to be left in the image, or it is dropped
_CROP = "RandomResizedCrop"
_LEAST_IMAGE = 32  # pixels of an image's sides; blurs reach over so many
_ROOM = 1.5  # times the size that comes out are images moved at, or more where crops need it
_FINE = 4  # times finer are polygons drawn: Pillow fills the pixels that an edge touches as well
_GREY = 114  # of pixels from outside the image, and of patches: the mean of natural images, as YOLO pads
_SECTIONS = ("always", "characteristics", "environments")

# Transforms that a table may name with the parameters it may give, `p` where they have one of their own; applied in
# this order. Elastic comes first: torchvision's bends what lies in the image, and no box that reaches out of it.
_MOVING = {
    "ElasticTransform": ("alpha", "sigma"),
    "RandomHorizontalFlip": ("p",),
    "RandomVerticalFlip": ("p",),
    "RandomRotation": ("degrees",),
    "RandomAffine": ("degrees", "scale", "shear"),
    "RandomPerspective": ("distortion_scale", "p"),
    "RandomZoomOut": ("side_range", "p"),
    _CROP: ("scale", "ratio"),
}
_LIGHT = {  # of the image alone: light, then what stands before things, lens, sensor, compression
    "ColorJitter": ("brightness", "contrast", "saturation", "hue"),
    "RandomAutocontrast": ("p",),
    "RandomEqualize": ("p",),
    "RandomGrayscale": ("p",),
    "RandomErasing": ("scale", "ratio", "p"),
    "RandomAdjustSharpness": ("sharpness_factor", "p"),
    "GaussianBlur": ("kernel_size", "sigma"),
    "GaussianNoise": ("sigma",),
    "JPEG": ("quality",),
}
TRANSFORMS: Mapping[str, tuple[str, ...]] = _MOVING | _LIGHT
_FILLED = ("ElasticTransform", "RandomRotation", "RandomAffine", "RandomPerspective", "RandomZoomOut")
_SMOOTH = ("RandomRotation", "RandomAffine")  # whose images torchvision takes from the nearest pixel if not told


def augmentation(
    characteristics: Sequence[str],
    environments: Sequence[str],
    intensity: str,
    height: int,
    width: int,
    table: Path = TABLE,
    crop: float = 1.0,
) -> Callable[[Sample], Sample]:
    """What varies a sample and brings it to a height and a width, for things and places that a table knows by name.

    With `crop` below 1 a sample is a part of its image, whose sides are about that share of the image's: as much
    larger and smaller as crops of the table differ in size.

    With neither named it flips, crops and lights mildly. Boxes whose thing has a mask are the tightest around what is
    left of it. Things are dropped, with label, mask and keypoints, of which less than `LEAST_SHARE` or `LEAST_SIDE` is
    left; a keypoint keeps its place where that is outside the image. Random numbers are torch's own, so
    `torch.manual_seed` decides. DataError for names, transforms and parameters that are not known.
    """
    if not 0 < crop <= 1:
        raise DataError(f"crop is {crop}; give a share of an image's sides, up to 1.")
    if min(height, width) < _LEAST_IMAGE:
        raise DataError(
            f"images of {height} x {width} pixels are too small to vary; {_LEAST_IMAGE} a side are the least."
        )
    asked = settings(characteristics, environments, intensity, table)
    moving = [_built(name, asked[name]) for name in _MOVING if name in asked and name != _CROP]
    light = [_built(name, asked[name]) for name in _LIGHT if name in asked]
    part = asked.get(_CROP) if crop == 1 else _part(asked.get(_CROP, {}), crop)
    if part is not None:
        _built(_CROP, part, size=[height, width])  # what torchvision refuses, it refuses now
    return functools.partial(_augmented, moving=moving, crop=part, light=light, size=(height, width))


def fixed_views(augment: Callable[[Sample], Sample], views: int) -> Callable[[Sample], Sample]:
    """What varies a sample in `views` ways and no others: each is seeded by its number and the image's SHA-256.

    Which one it is, torch's random numbers say; they go on as if only that had been drawn.
    """
    import torch

    def varied(sample: Sample) -> Sample:
        view = int(torch.randint(views, ()))
        pixels = sample["image"].numpy().tobytes()
        seed = hashlib.sha256(hashlib.sha256(pixels).digest() + view.to_bytes(8)).digest()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(seed[:7]))
            return augment(sample)

    return varied


def settings(
    characteristics: Sequence[str], environments: Sequence[str], intensity: str, table: Path = TABLE
) -> dict[str, dict[str, Any]]:
    """Transforms that a table asks for together, each with its parameters, without those that are forbidden by one."""
    known = read_table(table)
    if intensity not in INTENSITIES:
        raise DataError(f"the intensity {shown(intensity)!r} is not known; it is {', '.join(INTENSITIES)}.")
    entries = [known["always"]]
    for section, names in (("characteristics", characteristics), ("environments", environments)):
        for name in names:
            if name not in known[section]:
                raise DataError(
                    f"{table.name} has no {shown(name)!r} in {section}; it has {', '.join(known[section])}."
                )
            entries.append(known[section][name])
    forbidden = {name for entry in entries for name in entry.get("forbids", ())}
    asked: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for name, levels in entry.get("asks", {}).items():
            if name not in forbidden:
                asked[name] = _joined(name, asked.get(name, {}), levels[intensity])
    return asked


def read_table(path: Path = TABLE) -> dict[str, Any]:
    """A table as augment.yaml says it is; DataError for transforms, parameters and values that cannot be."""
    import yaml

    if not path.is_file():
        raise DataError(f"{path} is missing; give a table like {TABLE.name} of hf_inspect/detectors.")
    try:
        table = yaml.safe_load(files.read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path.name} is no YAML ({str(error).splitlines()[0]}).") from None
    _check_keys(path.name, table, _SECTIONS, _SECTIONS)
    entries = {"always": table["always"]}
    for section in _SECTIONS[1:]:
        if not isinstance(table[section], dict):
            raise DataError(f"{path.name}: {section} is {shown(table[section])!r}; names of entries are wanted.")
        entries |= {f"{section}, {name}": entry for name, entry in table[section].items()}
    for where, entry in entries.items():
        _check_entry(f"{path.name}: {where}", entry)
    return table


def sample_of(rgb: Rgb, objects: Mapping[str, Any], ids: Sequence[int]) -> Sample:
    """An image uint8 (h, w, 3) and the `objects` of a built data set's row, as a sample; crowds are left out.

    `ids` turns the row's own class ids into labels.
    """
    import torch
    from torchvision import tv_tensors

    size = (rgb.shape[0], rgb.shape[1])
    kept = [i for i, crowd in enumerate(objects["iscrowd"]) if not crowd]
    boxes = torch.tensor([objects["bbox"][i] for i in kept], dtype=torch.float32).reshape(-1, 4)
    masks = np.zeros((len(kept), *size), np.bool_)
    for mask, i in zip(masks, kept, strict=True):
        _draw(mask, objects["polygons"][i])
    return {
        "image": tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1)),
        "boxes": _boxed(boxes, size),
        "labels": torch.tensor([ids[objects["category"][i]] for i in kept], dtype=torch.int64),
        "masks": tv_tensors.Mask(torch.from_numpy(masks)),
    }


def _augmented(
    sample: Sample,
    moving: Sequence[Callable[[Sample], Sample]],
    crop: Mapping[str, Any] | None,
    light: Sequence[Callable[[Any], Any]],
    size: tuple[int, int],
) -> Sample:
    before = opened(sample)
    room = _ROOM if crop is None else max(_ROOM, crop.get("scale", (1.0,))[0] ** -0.5)
    before = _shrunk(before, size, room) if moving or crop is not None else before
    after = before
    for move in moving:
        after = move(after)
    if crop is not None:
        after = _cropped(after, crop, size)
    after = settled(before, _resized(after, size))
    for change in light:
        after["image"] = change(after["image"])
    return after


def opened(sample: Sample) -> Sample:
    """The sample with boxes that nothing clips, and `corners` of each (n, 4, 2), by which its growth is known.

    DataError for one whose parts do not belong together.
    """
    import torch
    from torchvision import tv_tensors

    lengths = {name: len(sample[name]) for name in ("boxes", "labels", "masks", "keypoints") if name in sample}
    size = tuple(sample["image"].shape[-2:])
    if len(set(lengths.values())) > 1 or ("masks" in sample and tuple(sample["masks"].shape[1:]) != size):
        masks = f", masks {tuple(sample['masks'].shape)}" if "masks" in sample else ""
        raise DataError(f"a sample of {size} pixels has {lengths}{masks}; one of each a thing is wanted, in its size.")
    boxes = sample["boxes"].as_subclass(torch.Tensor)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    return {
        **sample,
        "boxes": _boxed(boxes, size, None),
        "corners": tv_tensors.KeyPoints(corners, canvas_size=size),
    }


def _part(asked: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The crop of a table about a share of an image's sides, of every image: its `scale` both ways, as areas."""
    least = asked.get("scale", (1.0, 1.0))[0]
    kept = {name: one for name, one in asked.items() if name == "ratio"}
    return {"ratio": [1.0, 1.0]} | kept | {"scale": [share**2 * least, min(1.0, share**2 / least)]}


def _shrunk(sample: Sample, size: tuple[int, int], room: float) -> Sample:
    """The sample no larger than it need be, its sides in proportion: moving pixels takes time by their number.

    It keeps `room` times the pixels a side of what comes out, as the smallest crop needs. A side that is shorter than
    `_LEAST_IMAGE` is brought to that.
    """
    sides = sample["image"].shape[-2:]
    factor = min(1.0, room * max(size[0] / sides[0], size[1] / sides[1]))
    height, width = (max(_LEAST_IMAGE, round(side * factor)) for side in sides)
    return _resized(sample, (height, width))


def _resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample at a height and a width: its image by the one resize of training and runtime, all else with it."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    moved = v2.Resize(list(size))(sample)
    rgb = sample["image"].permute(1, 2, 0).contiguous().numpy()
    shared = images.resize(rgb, Preprocess(*size, (0.0,) * 3, (1.0,) * 3))
    return moved | {"image": tv_tensors.Image(torch.from_numpy(shared).permute(2, 0, 1))}


def _cropped(sample: Sample, asked: Mapping[str, Any], size: tuple[int, int]) -> Sample:
    """A crop whose sides' ratio is asked for against that of the image, which is what a model sees squashed."""
    height, width = sample["image"].shape[-2:]
    own = [one * width / height for one in asked.get("ratio", (1.0, 1.0))]
    return _built(_CROP, {**asked, "ratio": own}, size=list(size))(sample)


def settled(before: Sample, after: Sample) -> Sample:
    """What is left of the things in the image once it was moved, as `opened` had it `before`; boxes lie in it."""
    import torch
    from torchvision.ops import masks_to_boxes
    from torchvision.transforms.v2 import functional as F

    size = tuple(after["image"].shape[-2:])
    whole = after["boxes"].as_subclass(torch.Tensor)
    left = F.clamp_bounding_boxes(_boxed(whole, size), clamping_mode="hard").as_subclass(torch.Tensor)
    share = _area(left) / _area(whole)
    if "masks" in after:
        had, has = (one["masks"].as_subclass(torch.Tensor).flatten(1).sum(1) for one in (before, after))
        grown = _enclosed(after["corners"]) / _enclosed(before["corners"])
        share = torch.where(had > 0, has / (had * grown), share)
        tight = masks_to_boxes(after["masks"].as_subclass(torch.Tensor)[has > 0]) + left.new_tensor([0, 0, 1, 1])
        left = left.index_put([has > 0], tight)
    kept = F.sanitize_bounding_boxes(_boxed(left, size), min_size=LEAST_SIDE)[1] & (share >= LEAST_SHARE)
    given = {name: one for name, one in after.items() if name != "corners"}
    return {
        name: _boxed(left[kept], size) if name == "boxes" else one if name == "image" else _rows(one, kept)
        for name, one in given.items()
    }


def _rows(value: "torch.Tensor", kept: "torch.Tensor") -> "torch.Tensor":
    from torchvision import tv_tensors

    return tv_tensors.wrap(value[kept], like=value) if isinstance(value, tv_tensors.TVTensor) else value[kept]


def _area(boxes: "torch.Tensor") -> "torch.Tensor":
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _enclosed(corners: "torch.Tensor") -> "torch.Tensor":
    """Areas of quadrilaterals (n, 4, 2) -> (n,)."""
    import torch

    x, y = corners.as_subclass(torch.Tensor).unbind(-1)
    return ((x * y.roll(-1, 1) - x.roll(-1, 1) * y).sum(1) / 2).abs()


def _boxed(boxes: "torch.Tensor", size: tuple[int, ...], clamping: str | None = "soft") -> "BoundingBoxes":
    from torchvision import tv_tensors

    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size, clamping_mode=clamping)


def _draw(mask: NDArray[np.bool_], polygons: Sequence[Sequence[float]]) -> None:
    """Polygons x, y, x, y, ... in pixels, into a mask (h, w): the pixels whose middle they hold."""
    from PIL import Image, ImageDraw

    for one in polygons:
        points = np.asarray(one, np.float64).reshape(-1, 2)
        start = np.floor(points.min(0)).astype(int).clip(0)
        end = np.minimum(np.ceil(points.max(0)).astype(int), mask.shape[::-1])
        if (end > start).all():
            (left, top), (right, bottom) = start, end
            picture = Image.new("1", ((right - left) * _FINE, (bottom - top) * _FINE))
            ImageDraw.Draw(picture).polygon([*map(tuple, (points - start) * _FINE)], fill=1)
            mask[top:bottom, left:right] |= np.array(picture)[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]


def _built(name: str, values: Mapping[str, Any], **fixed: Any) -> Callable[[Any], Any]:
    """A transform of torchvision by its name; DataError where it does not take the values."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    own = {key: value for key, value in values.items() if key != "p" or "p" in TRANSFORMS[name]}
    if name in _FILLED:
        fixed["fill"] = {tv_tensors.Image: _GREY, "others": 0}
    if name in _SMOOTH:
        fixed["interpolation"] = v2.InterpolationMode.BILINEAR
    if name == "RandomErasing":
        fixed["value"] = _GREY
    try:
        built = getattr(v2, name)(**own, **fixed)
        return built if "p" not in values or "p" in own else v2.RandomApply([built], values["p"])
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} cannot be made with {dict(values)} ({error}); mend the table.") from None


def _joined(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that two ask of a transform: the larger numbers, and the ranges that hold both."""
    joined = {**one, **other}
    for key in one.keys() & other.keys():
        a, b = one[key], other[key]
        if isinstance(a, list) != isinstance(b, list):
            raise DataError(f"{name} is asked for with {key} {a} and {b}; give both as numbers, or both as ranges.")
        joined[key] = [min(a[0], b[0]), max(a[1], b[1])] if isinstance(a, list) else max(a, b)
    return joined


def _check_entry(where: str, entry: Any) -> None:
    _check_keys(where, entry, (), ("asks", "forbids"))
    forbids, asks = entry.get("forbids", []), entry.get("asks", {})
    if not isinstance(forbids, list) or not isinstance(asks, dict):
        raise DataError(f"{where}: asks is a mapping of transforms, and forbids a list of them.")
    for name in [*forbids, *asks]:
        if name not in list(TRANSFORMS):  # a list takes what has no hash
            raise DataError(f"{where}: the transform {shown(name)!r} is not known; there are {', '.join(TRANSFORMS)}.")
    for name, levels in asks.items():
        _check_keys(f"{where}, {name}", levels, INTENSITIES, INTENSITIES)
        for level, values in levels.items():
            _check_keys(f"{where}, {name}, {level}", values, (), sorted({*TRANSFORMS[name], "p"}))
            for key, value in values.items():
                _check_value(f"{where}, {name}, {level}", key, value)


def _check_keys(where: str, value: Any, wanted: Sequence[str], known: Sequence[str]) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {shown(value)!r}; wanted is a mapping with {', '.join(known)}.")
    if unknown := [key for key in value if key not in known]:
        raise DataError(f"{where} has {shown(unknown[0])!r}, which is not known; it may have {', '.join(known)}.")
    if missing := [key for key in wanted if key not in value]:
        raise DataError(f"{where} has no {missing[0]}; wanted are {', '.join(wanted)}.")


def _check_value(where: str, key: str, value: Any) -> None:
    several = value if isinstance(value, list) else [value]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in several)
    if not numbers or (isinstance(value, list) and (len(value) != 2 or value[0] > value[1])):
        raise DataError(f"{where}: {key} is {shown(value)!r}; wanted is a number, or a range [least, most].")
    if key == "p" and (isinstance(value, list) or not 0 <= value <= 1):
        raise DataError(f"{where}: p is {shown(value)!r}; wanted is a share of the images, from 0 to 1.")
