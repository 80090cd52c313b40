"""A map over an image: in the image's pixels, and as a picture."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HOT = np.array((255.0, 30.0, 0.0), np.float32)
_MOST = 0.75  # of the heat's colour where a map is at its highest


def in_pixels(scores: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A map (h, w) of the whole image, at the image's own size (height, width), bilinear."""
    # A map of ours, no image of anybody's.
    stretched = Image.fromarray(scores.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(stretched, np.float32)


def smaller(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image uint8 (h, w, 3) of at most `side` pixels each way, in its own shape; as it is where it is no larger."""
    if max(rgb.shape[:2]) <= side:
        return rgb
    image = Image.fromarray(rgb)  # pixels of ours, no file
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return np.array(image)


def overlay(rgb: NDArray[np.uint8], scores: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """An image uint8 (h, w, 3) with its map over it: nothing at `low` and below, red from `high` on."""
    found = in_pixels(scores, *rgb.shape[:2])
    heat = _MOST * np.clip((found - low) / max(high - low, 1e-12), 0.0, 1.0)[..., None]
    return np.rint(rgb * (1 - heat) + _HOT * heat).astype(np.uint8)


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """An image uint8 (h, w, 3) or (h, w) as a PNG's bytes."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
