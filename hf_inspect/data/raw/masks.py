"""A mask file -> what it marks, whether that can be so, and its bytes as they fit the upright image."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_inspect import pixels
from hf_inspect.errors import DataError
from hf_inspect.pixels import MAX_16_BIT, Pixels
from hf_inspect.reading import Reading

HALF = 128  # of 255: where a set's masks reach it, what lies below is the edge of a mark, or a speck
_MOST = 0.5  # share of an image, and of its border, beyond which a mask is taken for an inverted one


@dataclass(frozen=True, slots=True)
class Mask:
    """What one mask file holds: its largest value, of 0 to 255, and what it marks by values above 0, and from HALF on.

    `marked` and `border` are these two shares, of all pixels and of the outermost ones. `turn` is the EXIF orientation
    of the image that the mask has to be turned by, 1 for none; `sha256` is of its bytes as they are then.
    """

    name: str
    sha256: str
    turn: int
    top: int
    marked: tuple[float, float]
    border: tuple[float, float]
    lossy: bool

    def share(self, of_levels: bool) -> float:
        """Share of the pixels that are marked, in a set whose masks are `of_levels` or of numbers."""
        return self.marked[of_levels]

    def problem(self, of_levels: bool) -> str | None:
        """Why it cannot be said what the mask marks, if it cannot."""
        if self.top and self.top < HALF and (of_levels or self.lossy):
            others = "is stored with loss" if self.lossy else "other masks go up to 255"
            return f"its mask {self.name} has no value above {self.top}, and {others}: whether it marks anything " \
                   "cannot be said. Save all masks as PNG, with 0 for nothing and 255 for a mark."  # fmt: skip
        if min(self.marked[of_levels], self.border[of_levels]) > _MOST:
            return f"its mask {self.name} marks {self.marked[of_levels]:.0%} of the image and most of its border: is " \
                   "it inverted? Marks are white, all else is black."  # fmt: skip
        return None

    def notes(self, of_levels: bool) -> tuple[str, ...]:
        """What was chosen in reading the mask."""
        between = of_levels and self.marked[0] > self.marked[1]
        return (
            *(["mask values below half of white taken for the edge of a mark"] if between else []),
            *(["mask turned upright with its image"] if self.turn != 1 else []),
        )


def read_mask(path: Path, size: tuple[int, int], stored: tuple[int, int], orientation: int, max_pixels: int) -> Mask:
    """The mask of an image of width and height `size`, which its file stores as `stored` with an EXIF orientation.

    DataError for a file that is none, and for a mask that fits the image in neither way, or in both.
    """
    if not path.is_file():
        raise DataError(f"its mask {path.name} is missing.")
    content = path.read_bytes()
    found = pixels.read(content, f"its mask {path.name}", Reading(max_pixels=max_pixels))
    values = _levels(found)
    turn = _turn(path.name, values, found.orientation, size, stored, orientation)
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    marked, border = ((float((of > 0).mean()), float((of >= HALF).mean())) for of in (values, edge))
    as_it_is = found.orientation == turn == 1
    fitting = content if as_it_is else pixels.guarded(lambda: upright(content, turn), f"its mask {path.name}")
    sha256 = hashlib.sha256(fitting).hexdigest()
    return Mask(path.name, sha256, turn, int(values.max()), marked, border, found.lossy)


def upright(content: bytes, turn: int) -> bytes:
    """A mask file as it fits its upright image: as it is, or turned by its own EXIF or by the image's, as PNG."""
    image = pixels.opened(BytesIO(content), "its mask")
    own = pixels.orientation_of(image)
    if own == turn == 1:
        return content
    buffer = BytesIO()
    pixels.turned(pixels.upright(image, own), turn).save(buffer, "PNG")
    return buffer.getvalue()


def of_levels(masks: Iterable[Mask]) -> bool:
    """Whether a set's masks are of grey levels, black to white; else they are of numbers, each above 0 a mark."""
    return any(mask.top >= HALF for mask in masks)


def _levels(found: Pixels) -> NDArray[np.uint8]:
    """Values of any kind as 0 to 255 (h, w): grey ones as they are, up to 255; any colour but black is a mark."""
    values = np.asarray(found.picture) if found.values is None else np.nan_to_num(found.values)
    if values.dtype.kind == "f" and values.max() <= 1:
        return np.ceil(values.clip(0) * 255).astype(np.uint8)
    grey = values if values.ndim == 2 else values.max(axis=2)
    if values.ndim == 3 and not found.lossy and (values.min(axis=2) != grey).any():
        return np.where(grey > 0, np.uint8(255), np.uint8(0))
    if found.lossy and grey.min() == grey.max() < HALF:  # black in JPEG may come back as 1 or 2 all over
        return np.zeros(grey.shape, np.uint8)
    if found.white == MAX_16_BIT:  # a range that the file states, such as a PGM's
        return (grey >> 8).astype(np.uint8)
    return grey.clip(0, 255).astype(np.uint8)


def _turn(
    name: str, values: NDArray[np.uint8], own: int, size: tuple[int, int], stored: tuple[int, int], orientation: int
) -> int:
    """By which orientation a mask, upright by its own EXIF, has to be turned to fit its image."""
    of_mask = values.shape[::-1]
    if of_mask == size and (own != 1 or orientation == 1 or size != stored or not values.any()):
        return 1
    if of_mask == stored != size and own == 1:
        return orientation
    if of_mask == size:
        raise DataError(
            f"its mask {name} fits the image both as it is stored and as EXIF orientation {orientation} turns it; save "
            "the image upright, and the mask as it fits it then."
        )
    raise DataError(f"its mask {name} is {of_mask[0]} x {of_mask[1]} pixels, the image {size[0]} x {size[1]}.")
