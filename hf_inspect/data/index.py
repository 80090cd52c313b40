"""Codes of 256 bits -> the pairs that may lie within 16 bits of each other, none of them missed.

Of 17 chunks of a code, 16 other bits leave one as it is: only codes that share a chunk are compared (multi-index
hashing: Norouzi, Punjani, Fleet, CVPR 2012). Chunks are of bits from everywhere, since neighbours go together.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

WORDS = 4  # of 64 bits
_BITS = 256
_CHUNKS = 17  # one more than the bits that may differ
_CHUNK_BITS = _BITS // _CHUNKS
_ALL_AT_ONCE = 10_000  # codes that are compared with every other: an index of fewer does not pay
_ROWS_AT_ONCE = 65536  # codes whose bits are moved in one step: 16 MB
_TILE = (32, 8192)  # rows and columns compared in one step: 2 MB of differences, which stay in the cache
_PLACES = np.random.default_rng(0).permutation(_BITS)  # whichever it is, nothing is missed

Places = NDArray[np.integer]


def words_of(codes: bytes) -> NDArray[np.uint64]:
    """Codes of 32 bytes as (n, 4), their bits moved to fixed other places."""
    raw = np.frombuffer(codes, np.uint8).reshape(-1, _BITS // 8)
    moved = np.empty((len(raw), _BITS // 8), np.uint8)
    for start in range(0, len(raw), _ROWS_AT_ONCE):
        bits = np.unpackbits(raw[start : start + _ROWS_AT_ONCE], axis=1)
        moved[start : start + _ROWS_AT_ONCE] = np.packbits(bits[:, _PLACES], axis=1, bitorder="little")
    return moved.view(np.uint64)


class Index:
    """Codes (m, 4) by each of their chunks."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words, self.size = words, len(words)
        chunks = range(_CHUNKS if self.size > _ALL_AT_ONCE else 0)
        self._by_chunk = [_sorted(words, chunk) for chunk in chunks]

    def blocks(self, asked: NDArray[np.uint64]) -> Iterator[tuple[int, Places, Places]]:
        """Chunk by chunk, rows of `asked` (k, 4) and columns of the index that share its value."""
        if not self._by_chunk:
            yield 0, np.arange(len(asked)), np.arange(self.size)
        for chunk, (own, columns) in enumerate(self._by_chunk):
            keys, rows = _sorted(asked, chunk)
            shared, first, n = np.unique(keys, return_index=True, return_counts=True)
            low, high = np.searchsorted(own, shared, "left"), np.searchsorted(own, shared, "right")
            for at in np.flatnonzero(high > low).tolist():
                yield chunk, rows[first[at] : first[at] + n[at]], columns[low[at] : high[at]]


def other_word(chunk: int) -> int:
    """A word that has no bit of the chunk."""
    return (chunk * _CHUNK_BITS // 64 + 2) % WORDS


def shared_before(difference: NDArray[np.uint64], chunk: Places) -> NDArray[np.bool_]:
    """Which pairs (k, 4), as their differing bits, share a chunk before this one: they came up there."""
    before = np.zeros(len(difference), np.bool_)
    for earlier in range(int(chunk.max(initial=0))):
        before |= (_chunk(difference, earlier) == 0) & (earlier < chunk)
    return before


def tiles(rows: Places, columns: Places) -> Iterator[tuple[Places, Places]]:
    """The pieces of a block in which all of its pairs lie."""
    width = min(_TILE[1], max(1, len(columns)))
    height = _TILE[0] * _TILE[1] // width
    for top in range(0, len(rows), height):
        for left in range(0, len(columns), width):
            yield rows[top : top + height], columns[left : left + width]


def _sorted(words: NDArray[np.uint64], chunk: int) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """A chunk's values in order, and which code each is of."""
    keys = _chunk(words, chunk)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    return keys[order], order


def _chunk(words: NDArray[np.uint64], chunk: int) -> NDArray[np.uint16]:
    """The chunk of each code (n, 4) -> (n,) of 15 bits."""
    word, bit = divmod(chunk * _CHUNK_BITS, 64)
    found = words[:, word] >> np.uint64(bit)
    if bit > 64 - _CHUNK_BITS:
        found = found | words[:, word + 1] << np.uint64(64 - bit)
    return (found & np.uint64(2**_CHUNK_BITS - 1)).astype(np.uint16)
