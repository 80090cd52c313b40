"""Images -> signatures (SHA-256, 256-bit pHash, 16 x 16 thumbnail) -> groups of copies and near-duplicates.

A perceptual hash alone joins what only looks alike: a near-duplicate is a close hash confirmed on pixels or on 64
check bits of them. The bits alone are what a model keeps of its training images.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images, pixels
from hf_inspect.images import Reading

if TYPE_CHECKING:
    from PIL import Image

HASH_SIDE = 16  # 256 bits; at 64 bits and distance 6, 352 unrelated solar cells chain into one group
MAX_DISTANCE = 16  # bits of 256 that may differ
MIN_CORRELATION = 0.95  # Pearson correlation of the thumbnails' pixels: blind to brightness and contrast
SIGNED_SIDE = 256  # pixels: a larger picture is averaged down to less than twice that first, six times as fast
THUMB_SIDE = 16
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE
CHECK_BITS = 64
MAX_CHECK_DISTANCE = 6  # check bits that may differ: thumbnails of correlation 0.95 differ in 6.5 on average
_FLAT = 0  # check bits of an image of one grey, which is like no other
_CHECK_SEED = b"hf_inspect check bits 146"  # the first under which ELPV's groups are those of thumbnails alone
_WORDS = HASH_SIDE * HASH_SIDE // 64
_SIEVE = 1  # the word of 64 bits compared first: it lets 1 % of real pictures' pairs pass
_TILE = (32, 8192)  # rows and columns compared in one step: 2 MB of differences, which stay in the cache
_THUMBS_AT_ONCE = 4096  # projected in one step: 8 MB
_PAIRS_AT_ONCE = 16384  # pairs confirmed in one step: 16 MB of thumbnails a side

Record = tuple[str, str, str]  # SHA-256, pHash and check bits of an image, as hex


@dataclass(frozen=True, slots=True)
class Signature:
    """What identifies an image's content: SHA-256 and 256-bit pHash as hex, thumbnail as 256 grey bytes."""

    sha256: str
    phash: str
    thumb: bytes

    def record(self) -> Record:
        """What is kept with a model: 64 check bits in place of the thumbnail, which shows the image.

        Given up: of ELPV's 352 near-duplicates that thumbnails find, check bits find 326. Of ten kinds of copies of its
        2,624 cells (JPEG, size, brightness, contrast, noise) both find 97.0 %, with 108 false alarms in 69 million
        pairs where thumbnails have 101 (other draws of the planes: 118 to 206). Not given up: coarse light and dark can
        be guessed from hash and bits, at a correlation with the thumbnail of 0.77, or of 0.93 by who has like images.
        """
        return self.sha256, self.phash, check_bits([self])[0].tobytes().hex()


@dataclass(frozen=True, slots=True)
class Packed:
    """Signatures as arrays: pHash (n, 4), SHA-256 (n,), check bits (n,), and thumbnails where they may be kept.

    Those are (n, 256), of zero mean and unit length.
    """

    words: NDArray[np.uint64]
    sha256: NDArray[np.bytes_]
    checks: NDArray[np.uint64]
    pixels: NDArray[np.float32] | None = None


def sign(content: bytes, reading: Reading = Reading()) -> Signature:  # noqa: B008 - frozen
    """Signature of an image file's bytes, of the picture that `images.load` shows; DataError where it shows none."""
    name = f"the image ({len(content)} bytes)"
    return signature_of(content, images.shown(pixels.read(content, name, reading), name, reading).picture)


def signature_of(content: bytes, picture: "Image.Image") -> Signature:
    """Signature of an image file's bytes and of the picture of mode L or RGB that they hold."""
    import imagehash
    from PIL import Image

    grey = picture.convert("L")
    if (factor := min(grey.size) // SIGNED_SIDE) > 1:
        grey = grey.reduce(factor)
    bits = imagehash.phash(grey, hash_size=HASH_SIDE).hash
    thumb = grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX).tobytes()
    return Signature(hashlib.sha256(content).hexdigest(), np.packbits(bits).tobytes().hex(), thumb)


def sign_all(contents: Sequence[bytes], reading: Reading = Reading()) -> list[Signature]:  # noqa: B008 - frozen
    """Signatures of some image files' bytes, in order, made in threads."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(partial(sign, reading=reading), contents))


def check_bits(signatures: Sequence[Signature]) -> NDArray[np.uint64]:
    """Check bits of each image -> (n,): on which side of 64 fixed planes its thumbnail lies, its mean taken off.

    Each number of a plane's normal is -1 or 1, by SHAKE-256 of a fixed text, and all sums are of whole numbers, which
    float64 holds exactly: every machine and version finds the same bits.
    """
    thumbs = np.frombuffer(b"".join(s.thumb for s in signatures), np.uint8).reshape(-1, THUMB_BYTES)
    found = np.empty(len(thumbs), np.uint64)
    for start in range(0, len(thumbs), _THUMBS_AT_ONCE):
        whole = thumbs[start : start + _THUMBS_AT_ONCE].astype(np.float64) * THUMB_BYTES
        sides = (whole - whole.mean(axis=1, keepdims=True)) @ _planes() > 0
        found[start : start + _THUMBS_AT_ONCE] = np.packbits(sides, axis=1).view(np.uint64)[:, 0]
    return found


def duplicates(a: Sequence[Signature], b: Sequence[Signature] | None = None) -> NDArray[np.int64]:
    """Every (i, j) with a[i] and b[j] the same picture: equal bytes, or a near hash confirmed on pixels or check bits.

    -> (n, 2), in order; without `b`, those of `a` with itself, i < j.
    """
    left = _packed(a)
    right = left if b is None else _packed(b)
    return _pairs(left, right, upper=b is None)


def packed_records(records: Sequence[Record]) -> Packed:
    """Records of `Signature.record` as arrays, for `repeats`; ValueError where one is not of their lengths."""
    words = _words([phash for _, phash, _ in records])
    checks = np.frombuffer(bytes.fromhex("".join(check for _, _, check in records)), np.uint64)
    if not len(words) == len(checks) == len(records) or any(len(sha256) != 64 for sha256, _, _ in records):
        raise ValueError("an image's record is no SHA-256, pHash and check bits")
    return Packed(words, np.array([sha256 for sha256, _, _ in records], "S64"), checks)


def repeats(signatures: Sequence[Signature], known: Packed) -> NDArray[np.int64]:
    """Which of the signatures are, or nearly repeat, one that is known -> their indices, in order."""
    own = _packed(signatures)
    same = np.flatnonzero(np.isin(own.sha256, known.sha256))  # whatever another version's hash says of a flat image
    return np.union1d(same, _pairs(own, known, upper=False)[:, 0])


def group(signatures: Sequence[Signature], keys: Sequence[str | None] | None = None) -> NDArray[np.int64]:
    """Group id of each image -> (n,), numbered by first appearance.

    Copies, near-duplicates and images of equal key (None is no key) are joined, transitively.
    """
    packed = _packed(signatures)
    label = _by_key(keys if keys is not None else [None] * len(signatures), len(signatures))
    for rows, columns in _tiles(len(label), len(label), upper=True):
        if (label[rows] == label[rows.start]).all() and (label[columns] == label[rows.start]).all():
            continue
        for i, j in _sieved(packed, packed, rows, columns):
            apart = label[i] != label[j]
            label = _joined(label, *_same_picture(packed, packed, i[apart], j[apart]))
    return np.unique(label, return_inverse=True)[1]


def _pairs(left: Packed, right: Packed, upper: bool) -> NDArray[np.int64]:
    """Every (i, j) with left[i] and right[j] the same picture -> (n, 2), in order; with `upper`, i < j alone."""
    found = [np.empty((0, 2), np.int64)]
    for rows, columns in _tiles(len(left.words), len(right.words), upper):
        for i, j in _sieved(left, right, rows, columns):
            i, j = (i[i < j], j[i < j]) if upper else (i, j)
            found.append(np.stack(_same_picture(left, right, i, j), axis=1))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _tiles(n: int, m: int, upper: bool) -> Iterator[tuple[slice, slice]]:
    """Rows and columns that cover n x m, or (`upper`) at least what lies above its diagonal."""
    for top in range(0, n, _TILE[0]):
        for left in range(top + 1 if upper else 0, m, _TILE[1]):
            yield slice(top, min(top + _TILE[0], n)), slice(left, min(left + _TILE[1], m))


def _sieved(a: Packed, b: Packed, rows: slice, columns: slice) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The tile's pairs whose hashes are not too far apart in one word alone, some at a time."""
    difference = a.words[rows, None, _SIEVE] ^ b.words[None, columns, _SIEVE]
    i, j = np.nonzero(np.bitwise_count(difference) <= MAX_DISTANCE)
    for start in range(0, len(i), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        yield i[part] + rows.start, j[part] + columns.start


def _same_picture(
    a: Packed, b: Packed, i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the pairs that are near by the whole hash, and alike in check bits or pixels, or of equal bytes.

    Check bits confirm here too, so that what is refused as seen was kept in one split when the data set was built.
    """
    near = np.bitwise_count(a.words[i] ^ b.words[j]).sum(axis=1) <= MAX_DISTANCE
    i, j = i[near], j[near]
    checks, others = a.checks[i], b.checks[j]
    keep = (np.bitwise_count(checks ^ others) <= MAX_CHECK_DISTANCE) & (checks != _FLAT) & (others != _FLAT)
    if a.pixels is not None and b.pixels is not None:
        keep |= (a.pixels[i] * b.pixels[j]).sum(axis=1) >= MIN_CORRELATION
    keep |= a.sha256[i] == b.sha256[j]
    return i[keep], j[keep]


def _by_key(keys: Sequence[str | None], n: int) -> NDArray[np.int64]:
    """Label of each of n images: the first image of its key, or itself."""
    first: dict[str, int] = {}
    numbered = zip(range(n), keys, strict=True)
    return np.array([i if key is None else first.setdefault(key, i) for i, key in numbered], np.int64)


def _joined(label: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels (n,) once each i is in one group with its j; a group's label is its first image."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(i):
        return label
    ends, (one, other) = np.unique(np.stack([label[i], label[j]]), return_inverse=True)
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(ends), len(ends)))
    _, component = connected_components(links, directed=False)
    first = np.unique(component, return_index=True)[1]
    renamed = np.arange(len(label))
    renamed[ends] = ends[first[component]]
    return renamed[label]


def _packed(signatures: Sequence[Signature]) -> Packed:
    sha256 = np.array([s.sha256 for s in signatures], "S64")
    return Packed(_words([s.phash for s in signatures]), sha256, check_bits(signatures), _pixels(signatures))


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, _WORDS)


@cache
def _planes() -> NDArray[np.float64]:
    """The fixed planes' normals (256, 64), each number -1 or 1."""
    bits = hashlib.shake_256(_CHECK_SEED).digest(THUMB_BYTES * CHECK_BITS // 8)
    return np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(THUMB_BYTES, CHECK_BITS).astype(np.float64) * 2 - 1


def _pixels(signatures: Iterable[Signature]) -> NDArray[np.float32]:
    """Thumbnails as (n, 256), each of zero mean and unit length; a flat one is all zeros and like no other."""
    raw = np.frombuffer(b"".join(s.thumb for s in signatures), np.uint8)
    pixels = raw.reshape(-1, THUMB_BYTES).astype(np.float32)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, length, out=np.zeros_like(pixels), where=length > 0)
