"""Signatures -> which images are the same picture, in any of eight orientations, and the groups they make.

A perceptual hash alone joins what only looks alike: a near-duplicate is a close hash confirmed, in that orientation, on
pixels or on 64 check bits of them; by the rule `strict` on its grain besides. The bits alone are what a model keeps of
its training images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hf_inspect.data.hashing import (
    HASH_BYTES,
    ORIENTATIONS,
    Record,
    Signature,
    check_bits,
    thumbs_of,
    turned_grain,
    turned_pixels,
)
from hf_inspect.data.index import WORDS, Index, Places, other_word, shared_before, tiles, words_of
from hf_inspect.data.rules import Near

MAX_DISTANCE = 16  # bits of 256 that may differ
MAX_TURNED_DISTANCE = 12  # where one is turned or mirrored: at 16, unlike solar cells of a near-symmetric kind are near
MIN_CORRELATION = 0.95  # Pearson correlation of the thumbnails' pixels: blind to brightness and contrast
MAX_CHECK_DISTANCE = 6  # check bits that may differ: thumbnails of correlation 0.95 differ in 6.5 on average
MAX_GRAIN_DISTANCE = 64  # bits of grain that may differ: of JPEG 75, 50 do; of a fixture's parts, 115 on average
KEPT_APART = 10_000  # pairs of different keys that are kept and counted: a fixture's make millions
_FLAT = 0  # check bits, and every word of grain, of an image of one grey, which is like no other
_RANK: dict[Near, int] = {"normal": 0, "strict": 1, "off": 2}  # of two images' rules the stricter holds
_WORTH_SORTING = 2**16  # pairs of a block, from which on those of one label are looked for before they are compared
_PAIRS_AT_ONCE = 16384  # pairs confirmed in one step: 16 MB of thumbnails a side

Pairs = tuple[Places, Places]


@dataclass(frozen=True, slots=True)
class Packed:
    """n images as arrays.

    pHash in all eight orientations or as they are alone (o, n, 4), check bits (n,), grain (n, 4), SHA-256 (n,), rank of
    the rule each is compared by (n,), and thumbnails (n, 256) where they may be kept.
    """

    words: NDArray[np.uint64]
    checks: NDArray[np.uint64]
    grain: NDArray[np.uint64]
    sha256: NDArray[np.bytes_]
    rank: NDArray[np.int8]
    thumbs: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Records of images that were seen: those that say what they look like, to be searched, and every SHA-256."""

    looks: Packed
    index: Index
    sha256: NDArray[np.bytes_]

    @property
    def by_grain(self) -> bool:
        """Whether any image is compared by its grain."""
        return bool((self.looks.rank == _RANK["strict"]).any())


@dataclass(frozen=True, slots=True)
class Grouped:
    """Group id of each image (n,), numbered by first appearance.

    `apart` are pairs (m, 2) that look the same and have two keys, 10,000 at most.
    """

    ids: NDArray[np.int64]
    apart: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))


def duplicates(
    a: Sequence[Signature], b: Sequence[Signature] | None = None, near: Near | Sequence[Near] = "normal"
) -> NDArray[np.int64]:
    """Every (i, j) with a[i] and b[j] the same picture: equal bytes, or a near hash that is confirmed.

    -> (n, 2), in order; without `b`, those of `a` with itself, i < j. `near` is the rule, or that of each image of `a`
    and then of `b`: of two images' rules the stricter holds.
    """
    rules = [near] * (len(a) + len(b or ())) if isinstance(near, str) else near
    left = _packed(a, rules[: len(a)])
    right = left if b is None else _packed(b, rules[len(a) :])
    others = np.arange(len(a)) if b is None else None  # an image is no duplicate of itself
    found = [np.stack(pair, axis=1) for pair in _search(left, right, Index(right.words[0]), others)]
    if b is not None:  # a turned copy is found from either side
        found += [np.stack(pair[::-1], axis=1) for pair in _search(right, left, Index(left.words[0]))]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    return np.unique(np.sort(pairs, axis=1) if b is None else pairs, axis=0)


def known_records(records: Sequence[Record]) -> Known:
    """Records of `Signature.record` as arrays, for `repeats`; ValueError where one is not of their lengths."""
    looks = [record for record in records if len(record) > 1]
    parts = [(record[0], *record[1:], *[""] * (4 - len(record))) for record in looks]
    if any(len(sha256) != 64 for sha256, *_ in records) or any(
        (len(phash), len(check)) != (64, 16) or len(grain) not in (0, 64) for _, phash, check, grain in parts
    ):
        raise ValueError("an image's record is no SHA-256, or one with pHash and check bits, or with grain besides")
    words = words_of(bytes.fromhex("".join(phash for _, phash, _, _ in parts)))
    checks = np.frombuffer(bytes.fromhex("".join(check for _, _, check, _ in parts)), np.uint64)
    grain = np.frombuffer(bytes.fromhex("".join(grain or "0" * 64 for *_, grain in parts)), np.uint64).reshape(-1, 4)
    sha256 = np.array([record[0] for record in looks], "S64")
    rank = np.array([_RANK["strict" if one else "normal"] for *_, one in parts], np.int8)
    packed = Packed(words[None], checks, grain, sha256, rank)
    return Known(packed, Index(words), np.array([record[0] for record in records], "S64"))


def repeats(signatures: Sequence[Signature], known: Known) -> NDArray[np.int64]:
    """Which of the signatures are, or nearly repeat, one that is known -> their indices, in order.

    What a record holds decides how it is compared: by equal bytes alone, by its looks, or by its grain besides.
    """
    own = _packed(signatures, ["normal"] * len(signatures))
    same = np.flatnonzero(np.isin(own.sha256, known.sha256))  # whatever another version's hash says of a flat image
    return np.unique(np.concatenate([same, *(i for i, _ in _search(own, known.looks, known.index))]))


def differences(signatures: Sequence[Signature]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (n, 2) that look the same, those of the most unlike grain first.

    And how many of 256 bits of their hashes and of their grain differ, in the nearest orientation.
    """
    pairs = duplicates(signatures)
    packed = _packed(signatures, ["normal"] * len(signatures))
    i, j = pairs.T
    hashes = np.bitwise_count(packed.words[:, i] ^ packed.words[0][j]).sum(axis=2)
    nearest = hashes.argmin(axis=0)
    grain = np.bitwise_count(_turned_grain(packed, nearest, i) ^ packed.grain[j]).sum(axis=1).astype(np.int64)
    order = np.argsort(-grain, kind="stable")
    return pairs[order], hashes.min(axis=0)[order].astype(np.int64), grain[order]


def stricter(one: Near, other: Near) -> Near:
    """The rule by which images of two data sets are compared."""
    return max(one, other, key=_RANK.__getitem__)


def group(
    signatures: Sequence[Signature], keys: Sequence[str | None] | None = None, near: Near = "normal"
) -> NDArray[np.int64]:
    """Group id of each image -> (n,), numbered by first appearance; see `grouped`."""
    return grouped(signatures, keys, near).ids


def grouped(
    signatures: Sequence[Signature], keys: Sequence[str | None] | None = None, near: Near = "normal"
) -> Grouped:
    """Copies, near-duplicates and images of equal key (None is no key) are joined, transitively.

    Images of two keys are not joined for what they look like, unless by way of one that has none: a key is the user's
    word. Which they would have been is told.
    """
    n = len(signatures)
    key = _numbered(keys if keys is not None else [None] * n, n)
    content = _numbered([s.sha256 for s in signatures], n)
    label = _joined(_joined(np.arange(n), *_alike(key)), *_alike(content))
    apart = np.empty((0, 2), np.int64)
    packed = _packed(signatures, [near] * n)
    for i, j in [] if near == "off" else _search(packed, packed, Index(packed.words[0]), label):
        theirs = (key[i] != key[j]) & (key[i] >= 0) & (key[j] >= 0)
        label[:] = _joined(label, i[~theirs], j[~theirs])
        if theirs.any() and len(apart) < KEPT_APART:
            both = np.sort(np.stack([i[theirs], j[theirs]], axis=1), axis=1)
            apart = np.unique(np.concatenate([apart, both]), axis=0)
        if len(apart) >= KEPT_APART and (key >= 0).all():
            break
    return Grouped(np.unique(label, return_inverse=True)[1], apart[:KEPT_APART])


def _search(a: Packed, b: Packed, index: Index, label: NDArray[np.int64] | None = None) -> Iterator[Pairs]:
    """Pairs (i, j) with a[i], in some orientation, the same picture as b[j], some at a time.

    With `label` (n,) of images that are compared with themselves, those of one label are passed over, as it then is.
    """
    waiting, n = list[tuple[Places, Places, Places]](), 0
    for found in _candidates(a, index, label):
        waiting.append(found)
        n += len(found[0])
        if n >= _PAIRS_AT_ONCE:
            yield _same_picture(a, b, *map(np.concatenate, zip(*waiting, strict=True)))
            waiting, n = [], 0
    if waiting:
        yield _same_picture(a, b, *map(np.concatenate, zip(*waiting, strict=True)))


def _candidates(a: Packed, index: Index, label: NDArray[np.int64] | None) -> Iterator[tuple[Places, Places, Places]]:
    """Rows of a.words and images of the index that may be near, with the chunk that they share, some at a time."""
    asked, n = a.words.reshape(-1, WORDS), len(a.sha256)
    for chunk, rows, columns in index.blocks(asked):
        labelled = label is not None and len(rows) * len(columns) > _WORTH_SORTING
        if label is not None and labelled:
            if _settled(label[rows % n], label[columns]):
                continue
            rows, columns = rows[np.argsort(label[rows % n], kind="stable")], columns[np.argsort(label[columns])]
        for one, other in tiles(rows, columns):
            if label is not None and labelled and _settled(label[one % n], label[other]):
                continue
            for p, q in _sieved(asked, index.words, one, other, other_word(chunk)):
                apart = slice(None) if label is None else label[p % n] != label[q]
                p, q = p[apart], q[apart]
                if len(p):
                    yield p, q, np.full(len(p), chunk)


def _settled(one: Places, other: Places) -> bool:
    return bool((one == one[:1]).all() and (other == one[:1]).all())


def _sieved(
    asked: NDArray[np.uint64], known: NDArray[np.uint64], rows: Places, columns: Places, word: int
) -> Iterator[Pairs]:
    """The tile's pairs whose hashes are not too far apart in one word alone, some at a time."""
    i, j = np.nonzero(np.bitwise_count(asked[rows, None, word] ^ known[None, columns, word]) <= MAX_DISTANCE)
    for start in range(0, len(i), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        yield rows[i[part]], columns[j[part]]


def _same_picture(a: Packed, b: Packed, rows: Places, j: Places, chunk: Places) -> Pairs:
    """Those of the pairs (row of a.words, b) that are near by the whole hash, new in their chunk, and confirmed.

    Check bits confirm here too, so that what is refused as seen was kept in one split when the data set was built.
    """
    n = len(a.sha256)
    difference = a.words.reshape(-1, WORDS)[rows] ^ b.words[0][j]
    limit = np.where(rows < n, MAX_DISTANCE, MAX_TURNED_DISTANCE)
    near = np.flatnonzero(np.bitwise_count(difference).sum(axis=1) <= limit)
    near = near[~shared_before(difference[near], chunk[near])]
    (turned, i), j = np.divmod(rows[near], n), j[near]
    same = a.sha256[i] == b.sha256[j]
    rank = np.maximum(a.rank[i], b.rank[j])
    looks = rank < _RANK["off"]
    looks[rank == _RANK["strict"]] &= _grain_agrees(a, b, turned, i, j)[rank == _RANK["strict"]]
    checked = _checks_agree(a, b, turned, i, j)
    if a.thumbs is not None and b.thumbs is not None:
        open_ = np.flatnonzero(looks & ~checked)
        checked[open_] = _pixels_agree(a.thumbs, b.thumbs, turned[open_], i[open_], j[open_])
    keep = same | (looks & checked)
    return i[keep], j[keep]


def _checks_agree(a: Packed, b: Packed, turned: Places, i: Places, j: Places) -> NDArray[np.bool_]:
    assert a.thumbs is not None
    own, others = a.checks[i], b.checks[j]
    for g in range(1, ORIENTATIONS):
        own[turned == g] = check_bits(a.thumbs[i[turned == g]], g)
    return (np.bitwise_count(own ^ others) <= MAX_CHECK_DISTANCE) & (own != _FLAT) & (others != _FLAT)


def _grain_agrees(a: Packed, b: Packed, turned: Places, i: Places, j: Places) -> NDArray[np.bool_]:
    own, others = _turned_grain(a, turned, i), b.grain[j]
    distance = np.bitwise_count(own ^ others).sum(axis=1)
    return (distance <= MAX_GRAIN_DISTANCE) & (a.grain[i] != _FLAT).any(axis=1) & (others != _FLAT).any(axis=1)


def _turned_grain(a: Packed, turned: Places, i: Places) -> NDArray[np.uint64]:
    """Grain of the images i of a, each in its orientation -> (n, 4)."""
    own = a.grain[i]
    for g in range(1, ORIENTATIONS):
        own[turned == g] = turned_grain(own[turned == g], g)
    return own


def _pixels_agree(
    a: NDArray[np.uint8], b: NDArray[np.uint8], turned: Places, i: Places, j: Places
) -> NDArray[np.bool_]:
    own = np.take_along_axis(a[i], turned_pixels()[turned], axis=1)
    return (_normed(own) * _normed(b[j])).sum(axis=1) >= MIN_CORRELATION


def _normed(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails (n, 256), each of zero mean and unit length; a flat one is all zeros and like no other."""
    pixels = thumbs.astype(np.float32)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, length, out=np.zeros_like(pixels), where=length > 0)


def _packed(signatures: Sequence[Signature], rules: Sequence[Near]) -> Packed:
    n = len(signatures)
    upright = bytes.fromhex("".join(s.phash for s in signatures))
    turned = b"".join(s.turned for s in signatures)
    hashes = np.concatenate(
        [
            np.frombuffer(upright, np.uint8).reshape(n, 1, HASH_BYTES),
            np.frombuffer(turned, np.uint8).reshape(n, ORIENTATIONS - 1, HASH_BYTES),
        ],
        axis=1,
    ).transpose(1, 0, 2)
    thumbs = thumbs_of(signatures)
    sha256, rank = np.array([s.sha256 for s in signatures], "S64"), np.array([_RANK[near] for near in rules], np.int8)
    grain = np.frombuffer(b"".join(s.grain for s in signatures), np.uint64).reshape(n, WORDS)
    words = words_of(hashes.tobytes()).reshape(ORIENTATIONS, n, WORDS)
    return Packed(words, check_bits(thumbs), grain, sha256, rank, thumbs)


def _numbered(keys: Sequence[str | None], n: int) -> NDArray[np.int64]:
    """A number for each key (n,), -1 for none."""
    numbers: dict[str, int] = {}
    numbered = zip(range(n), keys, strict=True)
    return np.array([-1 if key is None else numbers.setdefault(key, len(numbers)) for _, key in numbered], np.int64)


def _alike(number: NDArray[np.int64]) -> Pairs:
    """The first of each number (n,), and each other of it; a number below 0 is none."""
    at = np.flatnonzero(number >= 0)
    _, first, inverse = np.unique(number[at], return_index=True, return_inverse=True)
    others = first[inverse] != np.arange(len(at))
    return at[first][inverse][others], at[others]


def _joined(label: NDArray[np.int64], i: Places, j: Places) -> NDArray[np.int64]:
    """Labels (n,) once each i is in one group with its j; a group's label is its first image."""
    if not len(i):
        return label
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components  # with its own imports a fifth of a second, once

    ends, (one, other) = np.unique(np.stack([label[i], label[j]]), return_inverse=True)
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(ends), len(ends)))
    _, component = connected_components(links, directed=False)
    first = np.unique(component, return_index=True)[1]
    renamed = np.arange(len(label))
    renamed[ends] = ends[first[component]]
    return renamed[label]
