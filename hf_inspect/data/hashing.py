"""An image file's bytes -> its signature: SHA-256, 256-bit pHash in eight orientations, 16 x 16 thumbnail, grain.

What a model keeps of a training image is a record of bits, from which no picture comes back; `data.near` compares.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images, pixels
from hf_inspect.data.rules import Near
from hf_inspect.images import Reading

if TYPE_CHECKING:
    from PIL import Image

HASH_SIDE = 16  # 256 bits; at 64 bits and distance 6, 352 unrelated solar cells chain into one group
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8
SIGNED_SIDE = 256  # pixels: a larger picture is averaged down to less than twice that first, six times as fast
THUMB_SIDE = 16
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE
CHECK_BITS = 64
GRAIN_BITS = 256
ORIENTATIONS = 8  # as it is, mirrored, turned: what training draws, and what EXIF may say
_SMALL_SIDE = 64  # pixels that a pHash of 16 x 16 is taken of
_GRAIN_SIDE = 256  # pixels that grain is taken of
_WAVES = np.arange(64, 112, 3)  # half waves along each side: 8 to 5 pixels long; longer ones are the fixture's
_SMOOTHED = 9  # pixels: what is smoother is no grain
_STEEPEST = 1.5  # mean sizes of the residual, above which it is cut: a fixture's edges would be all that counts
_CHECK_SEED = b"hf_inspect check bits 146"  # the first under which ELPV's groups are those of thumbnails alone
_THUMBS_AT_ONCE = 4096  # projected in one step: 8 MB

Record = tuple[str, ...]  # an image as a model keeps it, hex: SHA-256, then pHash and check bits, then grain


@dataclass(frozen=True, slots=True)
class Signature:
    """What identifies an image's content.

    `sha256` and `phash` as hex; `thumb` is 256 grey bytes; `turned` the pHash of the other seven orientations, 32 bytes
    each, in the order of `turn`; `grain` 256 bits of fine structure, all 0 where there is none.
    """

    sha256: str
    phash: str
    thumb: bytes
    turned: bytes
    grain: bytes

    def record(self, near: Near = "normal") -> Record:
        """What is kept with a model, and with it how the image will be compared: by the rule that it was built under.

        64 check bits stand in place of the thumbnail, which shows the image. Given up: of ELPV's 352 near-duplicates
        that thumbnails find, check bits find 326. Of ten kinds of copies of its 2,624 cells (JPEG, size, brightness,
        contrast, noise) both find 97.0 %, with 108 false alarms in 69 million pairs where thumbnails have 101 (other
        draws of the planes: 118 to 206). Not given up: coarse light and dark can be guessed from hash and bits, at a
        correlation with the thumbnail of 0.77, or of 0.93 by who has like images. Grain gives nothing to look at: what
        its signs make of 44 cells correlates with them by 0.004 on average, by 0.014 at most.
        """
        if near == "off":
            return (self.sha256,)
        looks = self.sha256, self.phash, check_bits(thumbs_of([self]))[0].tobytes().hex()
        return looks if near == "normal" else (*looks, self.grain.hex())


def sign(content: bytes, reading: Reading = Reading()) -> Signature:  # noqa: B008 - frozen
    """Signature of an image file's bytes, of the picture that `images.load` shows; DataError where it shows none."""
    name = f"the image ({len(content)} bytes)"
    return signature_of(content, images.shown(pixels.read(content, name, reading), name, reading).picture)


def signature_of(content: bytes, picture: "Image.Image") -> Signature:
    """Signature of an image file's bytes and of the picture of mode L or RGB that they hold."""
    from PIL import Image

    grey = picture.convert("L")
    grain = grain_of(grey)
    if (factor := min(grey.size) // SIGNED_SIDE) > 1:
        grey = grey.reduce(factor)
    small = np.asarray(grey.resize((_SMALL_SIDE, _SMALL_SIDE), Image.Resampling.LANCZOS))
    first, *others = phashes_of(small)
    thumb = grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX).tobytes()
    return Signature(hashlib.sha256(content).hexdigest(), first.hex(), thumb, b"".join(others), grain)


def sign_all(contents: Sequence[bytes], reading: Reading = Reading()) -> list[Signature]:  # noqa: B008 - frozen
    """Signatures of some image files' bytes, in order, made in threads."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(partial(sign, reading=reading), contents))


def phashes_of(small: NDArray[np.uint8]) -> list[bytes]:
    """pHash of a square (64, 64) in eight orientations, 32 bytes each: which of its coarse waves surpass their median.

    They are those of imagehash. A mirrored odd wave has its sign changed, so that one DCT serves all orientations.
    """
    from scipy.fft import dctn

    waves = dctn(small.astype(np.float64))[:HASH_SIDE, :HASH_SIDE]
    mirrored = np.where(np.arange(HASH_SIDE) % 2, -1.0, 1.0)
    found = []
    for orientation in range(ORIENTATIONS):
        side = waves.T if orientation & 4 else waves
        side = side * mirrored[:, None] if orientation & 2 else side
        side = side * mirrored if orientation & 1 else side
        found.append(np.packbits(side > np.median(side)).tobytes())
    return found


def turn(square: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of an array (n, n) in one of eight orientations: 0 as it is; 1 and 2 mirror, 4 transposes, before them."""
    side = square.T if orientation & 4 else square
    return side[:: -1 if orientation & 2 else 1, :: -1 if orientation & 1 else 1]


def grain_of(grey: "Image.Image") -> bytes:
    """256 bits of fine structure: the signs of some of the residual's DCT, none along the axes, where fixtures have
    their edges. All 0 where nothing is left of the picture once it is smoothed.
    """
    from PIL import Image
    from scipy.fft import dctn
    from scipy.ndimage import uniform_filter

    pixels = np.asarray(grey.resize((_GRAIN_SIDE, _GRAIN_SIDE), Image.Resampling.HAMMING), np.float32)
    residual = pixels - uniform_filter(pixels, _SMOOTHED)
    limit = _STEEPEST * float(np.abs(residual).mean())
    waves = dctn(residual.clip(-limit, limit))[np.ix_(_WAVES, _WAVES)]
    return np.packbits(waves > 0).tobytes()


def turned_grain(grain: NDArray[np.uint64], orientation: int) -> NDArray[np.uint64]:
    """Grain (n, 4) of the images turned: a mirrored wave has its sign changed."""
    bits = np.unpackbits(grain.view(np.uint8), axis=1).reshape(-1, len(_WAVES), len(_WAVES))
    odd = (_WAVES % 2).astype(np.uint8)
    side = bits.transpose(0, 2, 1) if orientation & 4 else bits
    turned = side ^ (odd[:, None] * bool(orientation & 2)) ^ (odd[None, :] * bool(orientation & 1))
    return np.packbits(turned.reshape(-1, GRAIN_BITS), axis=1).view(np.uint64)


def thumbs_of(signatures: Sequence[Signature]) -> NDArray[np.uint8]:
    """Thumbnails (n, 256)."""
    return np.frombuffer(b"".join(s.thumb for s in signatures), np.uint8).reshape(-1, THUMB_BYTES)


def check_bits(thumbs: NDArray[np.uint8], orientation: int = 0) -> NDArray[np.uint64]:
    """Check bits of thumbnails (n, 256), once turned -> (n,): on which side of 64 fixed planes each lies, mean off.

    Each number of a plane's normal is -1 or 1, by SHAKE-256 of a fixed text, and all sums are of whole numbers, which
    float64 holds exactly: every machine and version finds the same bits.
    """
    found = np.empty(len(thumbs), np.uint64)
    for start in range(0, len(thumbs), _THUMBS_AT_ONCE):
        some = thumbs[start : start + _THUMBS_AT_ONCE][:, turned_pixels()[orientation]]
        whole = some.astype(np.float64) * THUMB_BYTES
        sides = (whole - whole.mean(axis=1, keepdims=True)) @ _planes() > 0
        found[start : start + _THUMBS_AT_ONCE] = np.packbits(sides, axis=1).view(np.uint64)[:, 0]
    return found


@cache
def turned_pixels() -> NDArray[np.int64]:
    """Where each pixel of a turned thumbnail comes from, by orientation -> (8, 256)."""
    square = np.arange(THUMB_BYTES).reshape(THUMB_SIDE, THUMB_SIDE)
    return np.array([turn(square, g).ravel() for g in range(ORIENTATIONS)])


@cache
def _planes() -> NDArray[np.float64]:
    """The fixed planes' normals (256, 64), each number -1 or 1."""
    bits = hashlib.shake_256(_CHECK_SEED).digest(THUMB_BYTES * CHECK_BITS // 8)
    return np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(THUMB_BYTES, CHECK_BITS).astype(np.float64) * 2 - 1
