"""Images -> signatures (SHA-256, 256-bit pHash, 16 x 16 thumbnail) -> groups of copies and near-duplicates.

A perceptual hash alone joins what only looks alike: a near-duplicate is a close hash confirmed on pixels.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

HASH_SIDE = 16  # 256 bits; at 64 bits and distance 6, 352 unrelated solar cells chain into one group
MAX_DISTANCE = 16  # bits of 256 that may differ
MIN_CORRELATION = 0.95  # Pearson correlation of the thumbnails' pixels: blind to brightness and contrast
THUMB_SIDE = 16
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE
_WORDS = HASH_SIDE * HASH_SIDE // 64
_ROWS_AT_ONCE = 512  # rows compared with all others in one step: memory stays at 512 x n words


@dataclass(frozen=True, slots=True)
class Signature:
    """What identifies an image's content: SHA-256 and 256-bit pHash as hex, thumbnail as 256 grey bytes."""

    sha256: str
    phash: str
    thumb: bytes


def sign(content: bytes) -> Signature:
    """Signature of an image file's bytes; DataError when Pillow cannot read them."""
    import imagehash
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as image:
            grey = image.convert("L")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"not a readable image ({error}); remove or repair it.") from None
    bits = imagehash.phash(grey, hash_size=HASH_SIDE).hash
    thumb = grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX).tobytes()
    return Signature(hashlib.sha256(content).hexdigest(), np.packbits(bits).tobytes().hex(), thumb)


def near_pairs(a: Sequence[Signature], b: Sequence[Signature]) -> NDArray[np.int64]:
    """Every (i, j) with a[i] and b[j] the same picture: equal bytes, or a near hash confirmed on pixels -> (n, 2)."""
    words_a, words_b = _words(a), _words(b)
    pixels_a, pixels_b = _pixels(a), _pixels(b)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(a), _ROWS_AT_ONCE):
        stop = start + _ROWS_AT_ONCE
        distance = np.zeros((len(words_a[start:stop]), len(b)), np.uint16)
        for word in range(_WORDS):
            distance += np.bitwise_count(words_a[start:stop, word, None] ^ words_b[None, :, word])
        i, j = np.nonzero(distance <= MAX_DISTANCE)
        i += start
        alike = (pixels_a[i] * pixels_b[j]).sum(axis=1) >= MIN_CORRELATION
        same = [a[p].sha256 == b[q].sha256 for p, q in zip(i.tolist(), j.tolist(), strict=True)]
        keep = alike | np.array(same, dtype=np.bool_)
        found.append(np.stack([i[keep], j[keep]], axis=1))
    return np.concatenate(found)


def group(signatures: Sequence[Signature]) -> NDArray[np.int64]:
    """Group id of each image: copies and near-duplicates, joined transitively -> (n,), numbered by first appearance."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = near_pairs(signatures, signatures)
    n = len(signatures)
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, component = connected_components(links, directed=False)
    return component.astype(np.int64)


def _words(signatures: Iterable[Signature]) -> NDArray[np.uint64]:
    """Hashes as (n, 4) 64-bit words."""
    return np.frombuffer(bytes.fromhex("".join(s.phash for s in signatures)), np.uint64).reshape(-1, _WORDS)


def _pixels(signatures: Iterable[Signature]) -> NDArray[np.float32]:
    """Thumbnails as (n, 256), each of zero mean and unit length; a flat one is all zeros and like no other."""
    raw = np.frombuffer(b"".join(s.thumb for s in signatures), np.uint8)
    pixels = raw.reshape(-1, THUMB_BYTES).astype(np.float32)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, length, out=np.zeros_like(pixels), where=length > 0)
