"""Features as they come -> their principal subspace, a chunk at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

MOST = 1024  # components followed at most: what memory and time are bounded by
_FLAT = 1e-12  # of the mean square: features that vary less are all the same but for rounding
_LOST = 1e-12  # of the largest square: below it, squares are rounding errors
_COLUMNS = 4096  # of the features, in float64 at once

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Subspace:
    """Where good features lie: `mean` (d,), orthonormal `components` (k, d), and their `variances` (k,), falling.

    `share` of the variance lies in it; it was fitted on `n` features.
    """

    mean: Floats
    components: Floats
    variances: Floats
    share: float
    n: int


class Fitting:
    """Takes rows of features (n, d) one batch after the other; `done` gives their subspace.

    `keep` is a share of the variance, in (0, 1), or a number of components. Up to `most` components are followed: as
    long as there are no more features or dimensions than that, the result is that of one PCA over all rows; beyond it,
    what the last ones hold is rounded off. Rows are gathered into chunks of one size, so batches do not matter.

    A chunk is taken in as by scikit-learn's `IncrementalPCA`, by the smaller Gram matrix in place of an SVD, which is
    several times as slow. What varies by less than 1e-6 of the largest deviation is lost by it.
    """

    _filled: int
    _n: int
    _total: float

    def __init__(self, keep: float, most: int = MOST) -> None:
        whole = float(keep).is_integer() and keep >= 1
        if not (whole or 0 < keep < 1):
            raise DataError(f"keep is {keep}; give a share of the variance between 0 and 1, or a number of components.")
        self._keep, self._most = keep, max(most, int(keep) if whole else 0)
        self._begin(0)

    def add(self, rows: Floats) -> None:
        """Rows (n, d) to fit to; DataError unless all are finite."""
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows).all(1)).sum())
            raise DataError(f"{bad} of {len(rows)} features are not finite; give bf16: false, or other layers.")
        if not self._n + self._filled:
            self._begin(rows.shape[1])
        while len(rows):
            taken = rows[: self._most - self._filled]
            self._waiting[self._filled : self._filled + len(taken)] = taken
            self._filled, rows = self._filled + len(taken), rows[len(taken) :]
            if self._filled == self._most:
                self._take_in()

    def done(self) -> Subspace:
        """The subspace of all rows so far.

        DataError for fewer than 2, for rows without variance, and for more components than they can have.
        """
        if self._filled:
            self._take_in()
        n = self._n
        if n < 2:
            raise DataError(f"{n} feature came to fit a subspace to; at least 2 are wanted: give more good images.")
        if not self._total > _FLAT * (n * np.square(self._mean).sum() + self._total):
            raise DataError(f"all {n} features are the same, so nothing varies: give images that are not copies.")
        shares = np.cumsum(self._squares) / self._total
        k = self._components(shares)
        components = self._scaled[:k] / np.sqrt(self._squares[:k, None])
        return Subspace(self._mean, components, self._squares[:k] / (n - 1), float(shares[k - 1]), n)

    def _begin(self, d: int) -> None:
        """Nothing is known yet of features of d dimensions."""
        self._waiting: Floats = np.empty((self._most, d), np.float32)
        self._filled, self._n, self._total = 0, 0, 0.0  # `_total` is of squares, about the mean
        self._mean: Floats = np.zeros(d)
        self._scaled: Floats = np.empty((0, d), np.float32)  # components times their singular values
        self._squares: Floats = np.empty(0)  # of the singular values, falling

    def _take_in(self) -> None:
        """Merge the rows that wait into what is known of those before them."""
        rows, self._filled = self._waiting[: self._filled], 0
        n, m = self._n, len(rows)
        own = rows.mean(0, dtype=np.float64)
        apart = math.sqrt(n * m / (n + m)) * (self._mean - own)
        self._n, self._mean = n + m, (n * self._mean + m * own) / (n + m)
        before = float(self._squares.sum())
        blocks = partial(_blocks, self._scaled, rows, own, apart)
        if len(self._scaled) + m + 1 > rows.shape[1]:
            (stacked,) = blocks(rows.shape[1])
            scatter = stacked.T @ stacked
            self._squares, vectors = _largest(scatter, self._most)
            self._scaled = (vectors * np.sqrt(self._squares)).T.astype(np.float32)
        else:
            scatter = np.zeros((len(self._scaled) + m + 1,) * 2)
            for block in blocks(_COLUMNS):
                scatter += block @ block.T
            self._squares, vectors = _largest(scatter, self._most)
            scaled = [(vectors.T @ block).astype(np.float32) for block in blocks(_COLUMNS)]
            self._scaled = np.concatenate(scaled, 1)
        self._total += float(np.trace(scatter)) - before

    def _components(self, shares: Floats) -> int:
        """How many are kept; one direction at least is left out, or nothing could ever be unlike the good parts."""
        d = self._scaled.shape[1]
        there = min(self._n - 1, d - 1)
        if self._keep >= 1:
            if self._keep > there:
                raise DataError(
                    f"{self._keep:.0f} components are asked of {self._n} features with {d} values; at most {there} "
                    "leave anything over. Give fewer, or more good images."
                )
            if self._keep > len(shares):
                raise DataError(
                    f"{self._keep:.0f} components are asked, and the {self._n} features vary in {len(shares)} "
                    "directions alone. Give fewer, or more good images."
                )
            return int(self._keep)
        return max(1, min(int(np.searchsorted(shares, self._keep, "right")) + 1, there, len(shares)))


def _blocks(scaled: Floats, rows: Floats, mean: Floats, apart: Floats, columns: int) -> Iterator[Floats]:
    """Components, centred rows and the step between the means, one below the other, some columns at a time: float64."""
    for start in range(0, rows.shape[1], columns):
        at = slice(start, start + columns)
        yield np.concatenate([scaled[:, at], rows[:, at] - mean[at], apart[None, at]])


def _largest(scatter: Floats, most: int) -> tuple[Floats, Floats]:
    """Up to `most` of a matrix's largest eigenvalues, falling, and their vectors, in columns; no rounding errors."""
    from scipy.linalg import eigh

    values, vectors = eigh(scatter, check_finite=False)
    kept = np.flatnonzero(values > max(_LOST * values[-1], 0.0))[::-1][:most]
    return values[kept], vectors[:, kept]


def top(share: float, n: int) -> int:
    """How many of n are the highest `share` of them; one at least."""
    return max(1, math.ceil(share * n))
