"""Maps and masks, an image at a time -> pixel AUROC and AUPRO; nothing of the images is kept but counts.

AUPRO: the area under the mean overlap with each defect's region over the share of good pixels, up to 30 % of these, as
a share of it (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.3). Regions are 8-connected.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError
from hf_inspect.metrics.intervals import LIMITS, Figure, figure, grouped, mean_limits, undefined

LIMIT = 0.3  # share of the good pixels up to which AUPRO is taken
_BINS, _DROPPED = 2**16, 15  # of a float32 of at least 0, exponent and 8 bits are kept: values within 0.4 % are one
_TOUCHING = np.ones((3, 3))  # pixels that meet at a corner are of one region


@dataclass(frozen=True, slots=True)
class _Region:
    """One defect's pixels: in which bins how many lie, and which group of images it is of."""

    group: int
    bins: NDArray[np.int64]
    counts: NDArray[np.int64]


class PixelCounts:
    """Takes maps and masks, one image after the other, in any order; `report` gives the figures."""

    def __init__(self) -> None:
        self._good = np.zeros(_BINS, np.int64)
        self._regions: list[_Region] = []
        self._images = 0

    def add(self, scores: NDArray[np.float32], mask: NDArray[np.bool_], group: int) -> None:
        """An image's map (h, w), values from 0 on, higher is worse, and its mask (h, w): True where it is defect."""
        from scipy.ndimage import label

        if scores.shape != mask.shape or not (np.isfinite(scores).all() and (scores >= 0).all()):
            raise DataError(f"A map {scores.shape} came with a mask {mask.shape}; finite values from 0, equal sizes.")
        binned = (np.ascontiguousarray(scores, np.float32).view(np.uint32) >> _DROPPED).astype(np.int64)
        regions, n = label(mask, _TOUCHING)
        self._good += np.bincount(binned[regions == 0], minlength=_BINS)
        for i in range(1, n + 1):
            self._regions.append(_Region(group, *np.unique(binned[regions == i], return_counts=True)))
        self._images += 1

    def report(self) -> dict[str, Figure | int]:
        """`pixel_auroc` and `aupro` with their limits over the groups of the defects, and how many there are."""
        counted = {"mapped": self._images, "regions": len(self._regions)}
        if not self._regions or not self._good.any():
            none = undefined(self._images, "pixels of both good and defect are wanted")
            return {**counted, "pixel_auroc": none, "aupro": none}
        sizes = np.array([one.counts.sum() for one in self._regions])
        of_pixels = self._sums(1.0)
        overlaps = self._sums(LIMIT) / sizes
        return {
            **counted,
            "pixel_auroc": self._mean(of_pixels, sizes),
            "aupro": self._mean(overlaps, np.ones(len(sizes), np.int64)),
        }

    def _sums(self, limit: float) -> NDArray[np.float64]:
        """Of each region (r,), the summed `_areas` of its pixels."""
        areas = _areas(self._good, limit)
        return np.array([areas[one.bins] @ one.counts for one in self._regions])

    def _mean(self, sums: NDArray[np.float64], sizes: NDArray[np.int64]) -> Figure:
        _, of = np.unique([one.group for one in self._regions], return_inverse=True)
        by_group, n = np.bincount(of, sums), np.bincount(of, sizes)
        low, high = mean_limits(by_group, n)
        method = f"{LIMITS}, of the defects alone{grouped(np.bincount(of))}"
        return figure(sums.sum() / sizes.sum(), low, high, len(self._regions), method)


def _areas(good: NDArray[np.int64], limit: float) -> NDArray[np.float64]:
    """Of a pixel of each bin (b,): the share of [0, `limit`] in which it is found, over the share of good pixels found.

    Good pixels (b,) are found from the highest bin down; within a bin, all at an even rate.
    """
    after = np.cumsum(good[::-1])[::-1] / good.sum()
    before = np.append(after[1:], 0.0)
    inside = np.clip(limit - before, 0.0, after - before)
    width = np.where(after > before, after - before, 1.0)
    return (np.clip(limit - after, 0.0, None) + inside**2 / (2 * width)) / limit
