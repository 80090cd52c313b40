"""Samples -> each image decoded once: its signature, size and mask checked, or the sentence why it is left out."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from hf_inspect.data.hashing import Signature, sign
from hf_inspect.errors import DataError
from hf_inspect.images import load, turned_size
from hf_inspect.schema import DEFECT, GOOD, Progress, Sample, no_progress


@dataclass(frozen=True, slots=True)
class Examined:
    """A sample whose image and mask decode: its class is decided, `width` and `height` are pixels, upright.

    `orientation` is the file's by EXIF, 1 to 8; `images.turned_points` turns what is known of its stored pixels.
    """

    sample: Sample
    signature: Signature
    width: int
    height: int
    mask_sha256: str | None = None
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the file's pixels before they are turned upright."""
        return turned_size((self.width, self.height), self.orientation)


@dataclass(frozen=True, slots=True)
class Rejected:
    """An image that is not taken, and why."""

    source: str
    reason: str


def examine(
    samples: Sequence[Sample], num_proc: int = 1, progress: Progress = no_progress
) -> tuple[list[Examined], list[Rejected]]:
    """Decode every image once in `num_proc` threads; the good ones in order, the rest with a reason."""
    good, rejected = [], []
    with ThreadPoolExecutor(num_proc) as threads:
        for done, found in enumerate(threads.map(_examine, samples), 1):
            good.append(found) if isinstance(found, Examined) else rejected.append(found)
            progress("read and sign", done, len(samples))
    return good, rejected


def _examine(sample: Sample) -> Examined | Rejected:
    try:
        content = sample.read()
        signature, loaded = sign(content), load(content)
        height, width = loaded.rgb.shape[:2]
        if sample.mask is None:
            return Examined(sample, signature, width, height, orientation=loaded.orientation)
        mask, marked = _mask(sample.mask, (width, height))
    except DataError as error:
        return Rejected(sample.source, str(error))
    except OSError as error:
        return Rejected(sample.source, f"cannot be read ({error.strerror}).")
    class_name = sample.class_name or (DEFECT if marked else GOOD)
    return Examined(replace(sample, class_name=class_name), signature, width, height, mask, loaded.orientation)


def _mask(path: Path, size: tuple[int, int]) -> tuple[str, bool]:
    """SHA-256 of a mask of the image's `size`, and whether any pixel is marked."""
    from PIL import Image

    if not path.is_file():
        raise DataError(f"its mask {path.name} is missing.")
    content = path.read_bytes()
    try:
        with Image.open(BytesIO(content)) as image:
            found, marked = image.size, image.convert("L").getextrema() != (0, 0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"its mask {path.name} is not a readable image ({error}).") from None
    if found != size:
        raise DataError(f"its mask {path.name} is {found[0]} x {found[1]} pixels, the image {size[0]} x {size[1]}.")
    return hashlib.sha256(content).hexdigest(), marked
