"""Which exemplars a VLM is shown before an image: at inference the pool's first or those most like it, at training some
drawn at random; never the image itself.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.data.pool import Exemplar, Pool, read_pool
from hf_inspect.errors import DataError, ParityError
from hf_inspect.images import Rgb
from hf_inspect.schema import History

FIXED, NEAREST = "fixed", "nearest"
HOW = (FIXED, NEAREST)
RATIO, NUM = 0.7, 1  # of a training: the share of rows that are guided, and by how many exemplars

Features = Callable[[Sequence[Rgb]], NDArray[np.floating[Any]]]  # n RGB images -> (n, d)


@dataclass(frozen=True)
class Guide:
    """`num` exemplars for each image: the first of the pool (`fixed`), or the most alike (`nearest`).

    Alike is by the cosine of `features`, which whoever asks gives. An image that has an exemplar's pixels is shown
    another in its place, or one less where the pool has no other. DataError for a number that the pool does not have.
    """

    pool: Pool
    num: int
    how: str = FIXED
    features: Features | None = None

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise DataError(f"Exemplars are chosen by {self.how!r}; there are {', '.join(HOW)}.")
        if not 1 <= self.num <= len(self.pool.exemplars):
            raise DataError(f"{self.num} exemplars were asked for; the pool has {len(self.pool.exemplars)}.")

    @classmethod
    def from_path(cls, path: Path, num: int, how: str = FIXED) -> "Guide":
        """The guide by a pool's folder, or its pool.jsonl."""
        return cls(read_pool(path), num, how)

    @classmethod
    def from_states(cls, path: Path, states: Mapping[str, Any], where: str | Path) -> "Guide":
        """The guide that the record `where` states (see `states`) of the pool at `path`; ParityError for another."""
        num, how = states.get("num"), states.get("how")
        if not (isinstance(num, int) and isinstance(how, str)):
            raise DataError(f"{where} does not say how exemplars are shown ({num!r}, {how!r}); calibrate again.")
        found = cls.from_path(path, num, how)
        if found.identity != states.get("guide"):
            raise ParityError(f"{where}: its exemplars are not shown as they were calibrated with; calibrate again.")
        return found

    @property
    def states(self) -> dict[str, Any]:
        """How the pool's exemplars are shown, as a cascade.json states it, and the SHA-256 over that and them."""
        return {"guide": self.identity, "num": self.num, "how": self.how}

    def with_features(self, features: Features) -> "Guide":
        """The same guide, once it is known who looks at the images; of a fixed one nothing changes."""
        return replace(self, features=features) if self.how == NEAREST else self

    @property
    def shared(self) -> bool:
        """Whether all images have the same exemplars, but for those that are exemplars themselves."""
        return self.how == FIXED

    @property
    def history(self) -> History:
        """The exemplars' images, on which nothing guided by them may be measured."""
        return self.pool.history

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hex) of the exemplars, in order, and of how they are chosen; features are the model's own."""
        every = [
            [one.sha256, [[thing.name, list(thing.box), thing.description] for thing in one.things]]
            for one in self.pool.exemplars
        ]
        stated = [self.pool.task.to_dict(), self.pool.reading.to_dict(), every, self.num, self.how]
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def for_image(self, rgb: Rgb) -> tuple[Exemplar, ...]:
        """The exemplars for an image uint8 (h, w, 3), the first shown first: of the nearest, the most alike last."""
        own = _pixels(rgb)
        fit = [i for i, pixels in enumerate(self._pixels) if pixels != own]
        if self.how == NEAREST:
            [asked] = self._looked_at([rgb])
            alike = self._features[fit] @ asked
            fit = [fit[i] for i in np.argsort(-alike, kind="stable")[: self.num][::-1].tolist()]
        return tuple(self.pool.exemplars[i] for i in fit[: self.num])

    @cached_property
    def _pixels(self) -> list[str]:
        return [_pixels(one.rgb) for one in self.pool.exemplars]

    @cached_property
    def _features(self) -> NDArray[np.float64]:
        return np.concatenate([self._looked_at([one.rgb]) for one in self.pool.exemplars])

    def _looked_at(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        """Features of images (n, d), each of length 1."""
        if self.features is None:
            raise DataError("The nearest exemplars need features of images; give the guide a model's, or choose fixed.")
        found = np.asarray(self.features(images), np.float64)
        if found.ndim != 2 or len(found) != len(images) or not np.isfinite(found).all():
            raise DataError(f"{len(images)} images have the features {found.shape}; (n, d) finite numbers are wanted.")
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def row_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """What a row's exemplars are drawn by: the same in any process, and in a training that goes on."""
    return np.random.default_rng([seed, epoch, row])


def for_training(
    pool: Pool,
    rng: np.random.Generator,
    *,
    fingerprint: str,
    group: int,
    sha256: str,
    ratio: float = RATIO,
    num: int = NUM,
) -> tuple[Exemplar, ...]:
    """Exemplars for a row of the data of this `fingerprint`: with a chance of `ratio` `num` of them, else none.

    They are drawn from those that are of another file than the row's, `sha256`, and of another group where the pool is
    of the same data. DataError for a ratio outside [0, 1], or where the pool cannot give so many.
    """
    if not 0 <= ratio <= 1 or not 1 <= num < len(pool.exemplars):
        raise DataError(
            f"Of the rows {ratio} were to have {num} exemplars, of {len(pool.exemplars)} in the pool; give a share "
            "from 0 to 1, and fewer than the pool has: a row is never shown itself."
        )
    taught, order = rng.random() < ratio, rng.permutation(len(pool.exemplars)).tolist()
    same_data = fingerprint == pool.fingerprint
    others = [
        one
        for one in map(pool.exemplars.__getitem__, order)
        if one.sha256 != sha256 and not (same_data and one.group == group)
    ]
    return tuple(others[:num]) if taught else ()


def _pixels(rgb: Rgb) -> str:
    """SHA-256 (hex) of an image's size and pixels."""
    return hashlib.sha256(repr(rgb.shape).encode() + np.ascontiguousarray(rgb).tobytes()).hexdigest()
