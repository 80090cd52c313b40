"""One thing found in an image: what, where, and how sure the model is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the upright original image


@dataclass(frozen=True, slots=True)
class Finding:
    """A class of the task, a score in [0, 1], and a box with area, xyxy in pixels of the upright original image.

    `mask`, where there is one, is bool (h, w) over the whole pixels that the box touches: its first pixel is that of
    `corner`. `description` is what the model says of it besides, empty where it says nothing.
    """

    name: str
    score: float
    box: Box
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    description: str = ""

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (all(map(math.isfinite, self.box)) and 0 <= x0 < x1 and 0 <= y0 < y1):
            raise DataError(f"A finding has the box {self.box}; x0 < x1 and y0 < y1 are wanted, inside the image.")
        if not 0 <= self.score <= 1:
            raise DataError(f"A finding of {self.name} has the score {self.score}; it lies in [0, 1].")
        if self.mask is not None and self.mask.shape != self.extent:
            raise DataError(f"A finding's mask is {self.mask.shape}; its box touches {self.extent} pixels.")

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the first pixel that the box touches."""
        return math.floor(self.box[1]), math.floor(self.box[0])

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the pixels that the box touches."""
        top, left = self.corner
        return math.ceil(self.box[3]) - top, math.ceil(self.box[2]) - left

    def mask_in(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask, or the box where there is none, in an image of a height and a width -> bool (height, width)."""
        (top, left), (h, w) = self.corner, self.extent
        whole = np.zeros((height, width), np.bool_)
        whole[top : top + h, left : left + w] = True if self.mask is None else self.mask
        return whole

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Finding":
        """The finding that `to_dict` wrote; DataError for anything else."""
        try:
            box = tuple(float(one) for one in value["box"])
            said = value.get("description", "")
            found = cls(value["class"], float(value["score"]), box, description=said)  # type: ignore[arg-type]
            runs = value.get("mask_runs")
            return found if runs is None else replace(found, mask=_of_runs(runs, found.extent))
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{value!r} is no finding: class, score and box are wanted.") from None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON values; of a mask the lengths of its runs, of 0 first, column after column."""
        given: dict[str, Any] = {"class": self.name, "score": self.score, "box": list(self.box)}
        given |= {"description": self.description} if self.description else {}
        return given if self.mask is None else given | {"mask_runs": _runs(self.mask)}


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    flat = mask.ravel(order="F")
    at = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    return np.diff(at, prepend=0).tolist()


def _of_runs(runs: list[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(shape, order="F")
