"""Features as they come -> their principal subspace, by scikit-learn's incremental PCA, a chunk at a time."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

MOST = 1024  # components followed at most: what memory and time are bounded by
_FLAT = 1e-12  # of the mean square: features that vary less are all the same but for rounding

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
    """

    def __init__(self, keep: float, most: int = MOST) -> None:
        whole = float(keep).is_integer() and keep >= 1
        if not (whole or 0 < keep < 1):
            raise DataError(f"keep is {keep}; give a share of the variance between 0 and 1, or a number of components.")
        self._keep, self._most = keep, max(most, int(keep) if whole else 0)
        self._waiting: list[Floats] = []
        self._pca: IncrementalPCA | None = None

    def add(self, rows: Floats) -> None:
        """Rows (n, d) to fit to; DataError unless all are finite."""
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows).all(1)).sum())
            raise DataError(f"{bad} of {len(rows)} features are not finite; give bf16: false, or other layers.")
        self._waiting.append(rows.astype(np.float64))
        chunk = min(self._most, rows.shape[1])
        while sum(map(len, self._waiting)) >= chunk:
            waiting = np.concatenate(self._waiting)
            self._fit(waiting[:chunk], chunk)
            self._waiting = [waiting[chunk:]]

    def done(self) -> Subspace:
        """The subspace of all rows so far.

        DataError for fewer than 2, for rows without variance, and for more components than they can have.
        """
        waiting = np.concatenate(self._waiting) if self._waiting else np.empty((0, 0))
        n = len(waiting) + (0 if self._pca is None else int(self._pca.n_samples_seen_))
        if n < 2:
            raise DataError(f"{n} feature came to fit a subspace to; at least 2 are wanted: give more good images.")
        if len(waiting):
            self._fit(waiting, min(waiting.shape))
        pca = self._pca
        assert pca is not None
        if not pca.var_.sum() > _FLAT * (pca.mean_**2 + pca.var_).sum():
            raise DataError(f"all {n} features are the same, so nothing varies: give images that are not copies.")
        k = self._components(pca, n)
        share = float(pca.explained_variance_ratio_[:k].sum())
        return Subspace(pca.mean_, pca.components_[:k], pca.explained_variance_[:k], share, n)

    def _fit(self, rows: Floats, components: int) -> None:
        if self._pca is None:
            self._pca = _sklearn_pca(components)
        with np.errstate(invalid="ignore"):  # shares of no variance; `done` says so
            self._pca.partial_fit(rows)

    def _components(self, pca: "IncrementalPCA", n: int) -> int:
        """How many are kept; one direction at least is left out, or nothing could ever be unlike the good parts."""
        there = min(n - 1, pca.components_.shape[1] - 1)
        if self._keep >= 1:
            if self._keep > there:
                raise DataError(
                    f"{self._keep:.0f} components are asked of {n} features with {pca.components_.shape[1]} values; "
                    f"at most {there} leave anything over. Give fewer, or more good images."
                )
            return int(self._keep)
        shares = np.cumsum(pca.explained_variance_ratio_)
        return max(1, min(int(np.searchsorted(shares, self._keep, "right")) + 1, there, len(shares)))


def _sklearn_pca(components: int) -> "IncrementalPCA":
    try:
        from sklearn.decomposition import IncrementalPCA
    except ImportError as error:
        raise MissingExtraError("Fitting needs scikit-learn: pip install 'hf-inspect[train]'") from error
    return IncrementalPCA(components)


def top(share: float, n: int) -> int:
    """How many of n are the highest `share` of them; one at least."""
    return max(1, math.ceil(share * n))
