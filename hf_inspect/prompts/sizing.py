"""An image of any size -> the size at which a VLM's processor leaves it: the one resize of a VLM, here and served.

It follows from the `image_rule` of prompt.json. Numpy and Pillow only: the box at the line sends what it gives.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hf_inspect.errors import DataError
from hf_inspect.images import Rgb, check_rgb

_FILTERS = {filter.value: filter for filter in Image.Resampling}  # by an image processor's `resample`
_LARGEST = 4096  # pixels of a side that the tiled families go up to
_MOST_OBLONG = 200  # times its width, or its height, that Qwen's processor takes
Size = tuple[int, int]  # height, width


@dataclass(frozen=True, slots=True)
class Sizing:
    """`size` gives the height and width that an image of (height, width) is shown at; None: left as it is."""

    size: Callable[[int, int], Size] | None = None
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def fit(self, rgb: Rgb) -> Rgb:
        """An RGB image uint8 (h, w, 3) at its size, antialiased; one of that size already is given back as it is."""
        check_rgb(rgb)
        height, width = rgb.shape[:2]
        wanted = (height, width) if self.size is None else self.size(height, width)
        if wanted == (height, width):
            return rgb
        return np.array(Image.fromarray(rgb).resize(wanted[::-1], self.resample))


def sizing_of(rule: Mapping[str, Any]) -> Sizing:
    """The sizing of an `image_rule`, or of an image processor's settings: one that its own resize then finds done.

    A rule of a kind that is not known here leaves images as they are.
    """
    given = rule.get("size")
    size = {name: value for name, value in given.items() if value is not None} if isinstance(given, Mapping) else {}
    resample = _FILTERS.get(rule.get("resample", 2))
    if not rule.get("do_resize", True) or rule.get("do_center_crop") or resample is None:
        return Sizing()
    match sorted(size):
        case ["height", "width"]:
            fixed = (int(size["height"]), int(size["width"]))
            return Sizing(lambda height, width: fixed, resample)
        case ["longest_edge"]:
            return Sizing(lambda height, width: _longest(height, width, int(size["longest_edge"])), resample)
        case ["longest_edge", "shortest_edge"] if "merge_size" in rule:
            step = int(rule["patch_size"]) * int(rule["merge_size"])
            least, most = int(size["shortest_edge"]), int(size["longest_edge"])
            return Sizing(lambda height, width: _bounded(height, width, step, least, most), resample)
    return Sizing()


def _longest(height: int, width: int, edge: int) -> Size:
    """In shape, the longer side `edge` pixels, the other an even number: as Idefics3's and SmolVLM's processors."""
    if width >= height:
        height, width = _even(int(edge / (width / height))), edge
    else:
        height, width = edge, _even(int(edge * (width / height)))
    if max(height, width) > _LARGEST:
        scale = _LARGEST / max(height, width)
        height, width = int(height * scale), int(width * scale)
    return max(height, 1), max(width, 1)


def _even(side: int) -> int:
    return side + side % 2


def _bounded(height: int, width: int, step: int, least: int, most: int) -> Size:
    """In shape, sides of whole steps, `least` to `most` pixels in all: as Qwen2-VL's processor."""
    if max(height, width) > _MOST_OBLONG * min(height, width):
        raise DataError(f"The image is {height} x {width}; this VLM takes sides of up to {_MOST_OBLONG} to 1.")
    wanted = round(height / step) * step, round(width / step) * step
    if math.prod(wanted) > most:
        shrink = math.sqrt(height * width / most)
        smaller = _down(height / shrink, step), _down(width / shrink, step)
        return smaller if smaller == (height, width) else _bounded(*smaller, step, least, most)  # until it stays
    if math.prod(wanted) < least:
        grow = math.sqrt(least / (height * width))
        return math.ceil(height * grow / step) * step, math.ceil(width * grow / step) * step
    return wanted


def _down(side: float, step: int) -> int:
    return max(step, math.floor(side / step) * step)
