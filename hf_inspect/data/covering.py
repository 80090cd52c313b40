"""Images and what they show -> the few that show most of what there is, the most telling first."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.data.hashing import THUMB_BYTES
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.metrics.findings import Thing

DENSITIES = {"nothing": 0.0, "sparse": 3.0, "medium": 10.0, "dense": math.inf}  # most things of an image of each
SIZES = {"small": 0.01, "medium": 0.1, "large": math.inf}  # a thing's box takes less than this share of its image
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
PLACES = tuple(f"{row} {column}" for row in _ROWS for column in _COLUMNS)  # of a box's centre
KINDS = ("class", "density", "place", "size")
MOST = 2000  # images that are compared with each other: 4 million pairs, a second

Aspect = tuple[str, str]  # one of KINDS, and its value


@dataclass(frozen=True)
class Looked:
    """An image of a split by its number there: its group, its things, its height and width, and its thumbnail.

    The thumbnail is 256 grey bytes, as a `Signature` has it.
    """

    number: int
    group: int
    things: tuple[Thing, ...]
    size: tuple[int, int]
    thumb: bytes

    @cached_property
    def aspects(self) -> Counter[Aspect]:
        """How often each aspect is there: of a density once, of the others by things."""
        density = next(name for name, most in DENSITIES.items() if len(self.things) <= most)
        counted = Counter[Aspect]({("density", density): 1})
        for thing in self.things:
            counted.update([("class", thing.name), ("place", self._place(thing)), ("size", self._size(thing))])
        return counted

    def _place(self, thing: Thing) -> str:
        x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
        row, column = (min(int(3 * at / whole), 2) for at, whole in zip((y, x), self.size, strict=True))
        return PLACES[3 * row + column]

    def _size(self, thing: Thing) -> str:
        x0, y0, x1, y1 = thing.box
        share = (x1 - x0) * (y1 - y0) / (self.size[0] * self.size[1])
        return next(name for name, below in SIZES.items() if share < below)


def most_telling(looked: Sequence[Looked], size: int, seed: int) -> list[Looked]:
    """So many images, each of another group, in the order in which facility location takes them.

    What is to be near a chosen image is every aspect that any image has, and every image: an aspect that no chosen one
    has outweighs all likeness of images, so that what can be covered is, and what is left shows the common run. `seed`
    decides between equals, and which images are compared where there are more than `MOST`. DataError where there are
    fewer groups.
    """
    drawn = _drawn(looked, seed)
    best: dict[int, int] = {}
    for i, one in enumerate(drawn):
        if one.group not in best or len(one.aspects) > len(drawn[best[one.group]].aspects):
            best[one.group] = i
    candidates = list(best.values())
    if len(candidates) < size:
        raise DataError(
            f"A pool of {size} was asked for, and there are images of {len(candidates)} groups to choose from, each of "
            f"which gives one; give --size {len(candidates)} or less."
        )
    value = _likeness(drawn)[:, candidates] / len(drawn)
    every = sorted({aspect for one in drawn for aspect in one.aspects})
    covered = np.array([[float(aspect in drawn[i].aspects) for i in candidates] for aspect in every])
    return [drawn[candidates[i]] for i in _greedy(np.concatenate([covered, value]), size)]


def counts(looked: Iterable[Looked]) -> Counter[Aspect]:
    """How many images have each aspect."""
    return Counter(aspect for one in looked for aspect in one.aspects)


def _drawn(looked: Sequence[Looked], seed: int) -> list[Looked]:
    """The images in an order drawn by `seed`; of more than `MOST` half are those whose rarest aspect is rarest."""
    shuffled = [looked[i] for i in np.random.default_rng(seed).permutation(len(looked)).tolist()]
    if len(shuffled) <= MOST:
        return shuffled
    having = counts(looked)
    rarest = sorted(shuffled, key=lambda one: min(having[aspect] for aspect in one.aspects))[: MOST // 2]
    kept = {one.number for one in rarest}
    return [*rarest, *(one for one in shuffled if one.number not in kept)][:MOST]


def _likeness(looked: Sequence[Looked]) -> NDArray[np.float64]:
    """How alike images are (n, n), in [0, 1]: by what they show, kind by kind of aspect, and by how they look."""
    every = sorted({aspect for one in looked for aspect in one.aspects})
    parts = [_shares(looked, [aspect for aspect in every if aspect[0] == kind]) for kind in KINDS]
    thumbs = np.frombuffer(b"".join(one.thumb for one in looked), np.uint8).reshape(-1, THUMB_BYTES).astype(np.float64)
    parts.append(thumbs - thumbs.mean(axis=1, keepdims=True))
    unit = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
    together = np.concatenate(unit, axis=1) / math.sqrt(len(unit))
    return np.clip(together @ together.T, 0.0, 1.0)


def _shares(looked: Sequence[Looked], aspects: Sequence[Aspect]) -> NDArray[np.float64]:
    return np.array([[float(one.aspects[aspect]) for aspect in aspects] for one in looked]).reshape(len(looked), -1)


def _greedy(value: NDArray[np.float64], size: int) -> list[int]:
    """Columns of a matrix (r, n), in the order that maximises the sum over its rows of the chosen ones' largest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its docstrings' backslashes, and scipy's old names
        try:
            from submodlib import FacilityLocationFunction
        except ImportError as error:
            raise MissingExtraError("Choosing exemplars needs submodlib: pip install 'hf-inspect[pool]'") from error
        wide = np.pad(value, ((0, 0), (0, 1)))  # the library leaves one out; of no value, it is the last
        settings: dict[str, Any] = {"n": wide.shape[1], "n_rep": len(wide), "mode": "dense", "separate_rep": True}
        chosen = FacilityLocationFunction(**settings, sijs=wide).maximize(size, "LazyGreedy", show_progress=False)
    return [i for i, _ in chosen]
