"""Large images in tiles: where they are cut, and how what is found in each tile becomes what is found in the image.

Training, validation and runtime cut by the one rule of `Tiles` and join by that of `merged`; the box at the line, which
has no torch, as well.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.schema import Box, Finding, Prediction, TaskSpec
from hf_inspect.tasks.detection import Decoding, apart, severity_of

LEAST_SIDE = 32  # pixels of a tile
MOST_OVERLAP = 0.5  # beyond it a place is looked at more than twice along a side
_CANDIDATES = 1000  # findings of an image's tiles that are joined, the surest
_NEAR = 0.02  # of a tile's side: a box that comes so near to where its tile was cut is cut too
_SAME = 0.5  # IoU, within what two tiles both show, from which their findings are one thing; and the share of a cut box
_AS_SURE = 0.5  # of the surest one's score: a box that is whole and so sure stands for those that are cut

Tile = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels of the upright image, as boxes are
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Squares of `side` pixels of the upright image; neighbours share `overlap` of a side, or more.

    A side of the image that is no longer than a tile's is not cut: such an image, however small, is one tile.
    """

    side: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        whole = isinstance(self.side, int) and not isinstance(self.side, bool)
        shared = isinstance(self.overlap, int | float) and 0 < self.overlap <= MOST_OVERLAP
        if not (whole and self.side >= LEAST_SIDE and shared):
            raise DataError(
                f"tiles of {self.side!r} pixels with an overlap of {self.overlap!r} are asked for; whole pixels from "
                f"{LEAST_SIDE} on and a share above 0, up to {MOST_OVERLAP}, are wanted."
            )

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Tiles | None":
        """The tiles that `to_dict` wrote into the record `where`, None where it has none; else a DataError."""
        if value is None:
            return None
        if not isinstance(value, Mapping) or set(value) != {one.name for one in fields(cls)}:
            raise DataError(f"{where} does not say how images are cut ({value!r}); train the model again.")
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)

    def of(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image, row by row: as few as will do, evenly spread, the last ending where the image does."""
        rows, columns = self._along(height), self._along(width)
        return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]

    def _along(self, length: int) -> list[tuple[int, int]]:
        if length <= self.side:
            return [(0, length)]
        step = self.side - math.ceil(self.overlap * self.side)  # the most from one to the next
        steps = math.ceil((length - self.side) / step)
        starts = [i * (length - self.side) // steps for i in range(steps + 1)]
        return [(start, start + self.side) for start in starts]


def shown_in(rgb: Rgb, tile: Tile) -> Rgb:
    """What a tile shows of an image uint8 (h, w, 3): a view of its pixels."""
    left, top, right, bottom = tile
    return rgb[top:bottom, left:right]


def predicted(
    rgbs: Sequence[Rgb],
    tiles: Tiles | None,
    answer: Callable[[Sequence[Rgb]], list[Prediction]],
    task: TaskSpec,
    decoding: Any,
    at_once: int,
) -> list[Prediction]:
    """Images of any sizes -> an answer each; `answer` gives those of whole images or of tiles, up to `at_once`."""
    if tiles is None:
        return _in_batches(rgbs, answer, at_once)
    cut = [tiles.of(*rgb.shape[:2]) for rgb in rgbs]
    parts = [shown_in(rgb, tile) for rgb, own in zip(rgbs, cut, strict=True) for tile in own]
    said = iter(_in_batches(parts, answer, at_once))
    how = Decoding.from_dict(decoding, "inspect.json")
    return [merged([next(said).findings or () for _ in own], own, task, how) for own in cut]


def merged(found: Sequence[Sequence[Finding]], tiles: Sequence[Tile], task: TaskSpec, how: Decoding) -> Prediction:
    """Findings in the frames of an image's tiles -> the answer of the image.

    What two tiles found is one thing where the boxes agree, by an IoU of `_SAME`, in what both tiles show; the surest
    chooses first. Its score is the surest's; its box that of the surest which is whole (which no cut touches), if that
    is at least `_AS_SURE` times as sure, else it encloses the pieces. Then boxes are left out that overlap surer ones
    as `how` says, and pieces that lie mostly in a surer thing which was not found in their tile; `how.most` are kept.
    """
    pieces = _Pieces.of(found, tiles, task)
    things = [_joined(pieces, group) for group in _groups(pieces)]
    kept = _without_rests(things, _apart([one for one, _ in things], task, how))[: how.most]
    return Prediction(severity_of(kept, task, how.least), findings=tuple(kept))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Findings in the frame of the image, the surest first.

    `boxes` (n, 4) and the `tiles` (n, 4) that they are from, whose numbers are `tile` (n,); `kind` (n,) is the class,
    and `cut` (n,) says whether a box reaches to where its tile was cut.
    """

    found: list[Finding]
    boxes: Floats
    tiles: Floats
    tile: NDArray[np.int64]
    kind: NDArray[np.int64]
    cut: Bools

    @classmethod
    def of(cls, found: Sequence[Sequence[Finding]], tiles: Sequence[Tile], task: TaskSpec) -> "_Pieces":
        moved = [(_moved(one, tiles[i]), i) for i, own in enumerate(found) for one in own]
        solid = sorted(((one, i) for one, i in moved if one is not None), key=lambda pair: -pair[0].score)
        kept = solid[:_CANDIDATES]
        boxes = np.array([one.box for one, _ in kept], np.float64).reshape(-1, 4)
        tile = np.array([i for _, i in kept], np.int64)
        kind = np.array([task.index(one.name) for one, _ in kept], np.int64)
        every = np.array(tiles, np.float64)
        whole = np.concatenate([every[:, :2].min(0), every[:, 2:].max(0)])  # the image
        inner = every[tile] != whole
        near = np.abs(boxes - every[tile]) <= _NEAR * np.tile(every[tile][:, 2:] - every[tile][:, :2], 2)
        return cls([one for one, _ in kept], boxes, every[tile], tile, kind, (inner & near).any(1))

    def agreeing(self, i: int) -> Floats:
        """IoU (n,) of one with each of its class from another tile, within what both tiles show; 0 of all others."""
        low = np.maximum(self.tiles[i, :2], self.tiles[:, :2])
        high = np.maximum(np.minimum(self.tiles[i, 2:], self.tiles[:, 2:]), low)
        frame = np.concatenate([low, high], 1)
        own, others = _clipped(self.boxes[[i]], frame), _clipped(self.boxes, frame)
        shared = _area(_clipped(own, others))
        either = _area(own) + _area(others) - shared
        iou = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
        return iou * ((self.kind == self.kind[i]) & (self.tile != self.tile[i]))


def _groups(pieces: _Pieces) -> list[list[int]]:
    """Numbers of pieces that are one thing each: at most one of a tile, the likeliest, the surest first."""
    free, groups = np.ones(len(pieces.found), np.bool_), []
    scores = np.array([one.score for one in pieces.found])
    for first in range(len(pieces.found)):
        if not free[first]:
            continue
        free[first], group, tiles = False, [first], {int(pieces.tile[first])}
        for one in group:  # which grows on the way: a long thing lies in many tiles
            iou = pieces.agreeing(one) * free
            likely = np.where(iou >= _SAME, iou * scores, 0.0)
            for other in np.argsort(-likely, kind="stable")[: np.count_nonzero(likely)].tolist():
                if int(pieces.tile[other]) not in tiles:
                    free[other] = False
                    group.append(other)
                    tiles.add(int(pieces.tile[other]))
        groups.append(group)
    return groups


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where a thing was seen: numbers of its tiles, and whether no tile shows it whole."""

    tiles: frozenset[int]
    cut: bool


def _joined(pieces: _Pieces, group: list[int]) -> tuple[Finding, _Seen]:
    """One thing of its pieces, the surest of which comes first."""
    found = [pieces.found[i] for i in group]
    best = found[0]
    whole = [pieces.found[i] for i in group if not pieces.cut[i]]
    sure = [one for one in whole if one.score >= _AS_SURE * best.score]
    seen = _Seen(frozenset(pieces.tile[group].tolist()), not whole)
    if sure or len(group) == 1:
        stands = max(sure, key=lambda one: one.score, default=best)
        return replace(stands, score=best.score), seen
    corners = pieces.boxes[group]
    box: Box = tuple(np.concatenate([corners[:, :2].min(0), corners[:, 2:].max(0)]).tolist())
    return _painted(best, box, [(one.corner, one.mask) for one in found if one.mask is not None]), seen


def _apart(found: Sequence[Finding], task: TaskSpec, how: Decoding) -> list[int]:
    """Numbers of the findings of an image, the surest first, that overlap no surer one of their class too far."""
    boxes = np.array([one.box for one in found], np.float64).reshape(-1, 4)
    scores, kinds = np.array([one.score for one in found]), np.array([task.index(one.name) for one in found], np.int64)
    return apart(boxes, scores, kinds, how)


def _without_rests(things: Sequence[tuple[Finding, _Seen]], numbers: Sequence[int]) -> list[Finding]:
    """Of those numbers the things that are no piece of a surer one: of something that its own tile did not find."""
    kept: list[tuple[Finding, _Seen]] = []
    for found, seen in (things[i] for i in numbers):
        others = [one for one, of in kept if one.name == found.name and not of.tiles & seen.tiles]
        boxes, own = np.array([one.box for one in others]).reshape(-1, 4), np.array([found.box])
        if not (seen.cut and (_area(_clipped(own, boxes)) >= _SAME * _area(own)).any()):
            kept.append((found, seen))
    return [one for one, _ in kept]


def _moved(found: Finding, tile: Tile) -> Finding | None:
    """A finding in the frame of the image; None where the move leaves its box no area, as rounding may."""
    x, y = tile[:2]
    box: Box = (found.box[0] + x, found.box[1] + y, found.box[2] + x, found.box[3] + y)
    if not (box[0] < box[2] and box[1] < box[3]):
        return None
    top, left = found.corner
    return _painted(found, box, [] if found.mask is None else [((top + y, left + x), found.mask)])


def _painted(found: Finding, box: Box, masks: Sequence[tuple[tuple[int, int], Bools]]) -> Finding:
    """A finding with another box, and with masks, each from its own corner on, as far as the box reaches."""
    bare = replace(found, box=box, mask=None)
    if not masks:
        return bare
    (top, left), whole = bare.corner, np.zeros(bare.extent, np.bool_)
    for (y, x), mask in masks:
        part = whole[max(0, y - top) :, max(0, x - left) :]
        given = mask[max(0, top - y) :, max(0, left - x) :][: part.shape[0], : part.shape[1]]
        part[: given.shape[0], : given.shape[1]] |= given
    return replace(bare, mask=whole)


def _clipped(boxes: Floats, frames: Floats) -> Floats:
    """Boxes (n, 4) as far as they lie in frames (n, 4) -> (n, 4), of no size where they do not."""
    low = np.maximum(boxes[:, :2], frames[:, :2])
    return np.concatenate([low, np.maximum(np.minimum(boxes[:, 2:], frames[:, 2:]), low)], 1)


def _area(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _in_batches(
    rgbs: Sequence[Rgb], answer: Callable[[Sequence[Rgb]], list[Prediction]], at_once: int
) -> list[Prediction]:
    chunks = (rgbs[start : start + at_once] for start in range(0, len(rgbs), at_once))
    return [one for chunk in chunks for one in answer(chunk)]
