"""Checks that labels, scores and decisions are what the figures assume; they return numpy arrays or raise DataError."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.errors import DataError


def as_labels(values: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
    """(n,) of 0 (good) and 1 (defect); booleans are taken as 0 and 1."""
    array = _flat(values, name)
    if not np.isin(array, (0, 1)).all():
        odd = array[~np.isin(array, (0, 1))][0]
        raise DataError(f"{name} hold {odd!s}; every entry must be 0 (good) or 1 (defect). Map the names first.")
    return array.astype(np.int64)


def as_scores(values: ArrayLike, name: str, n: int | None = None, allow_nan: bool = False) -> NDArray[np.float64]:
    """(n,) probabilities in [0, 1]; `allow_nan` lets NaN stand for `this model did not run on this part`."""
    array = _flat(values, name)
    try:
        p = array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} hold {array.dtype} values; P(defect) in [0, 1] is wanted.") from None
    if n is not None and len(p) != n:
        raise DataError(f"{name} hold {len(p)} entries, {n} are wanted: one score a part, in the same order.")
    ok = (p >= 0.0) & (p <= 1.0) | (np.isnan(p) & allow_nan)
    if not ok.all():
        raise DataError(f"{name} hold {p[~ok][0]} at row {int(np.argmin(ok))}; they are probabilities in [0, 1].")
    return p


def as_decisions(values: ArrayLike, name: str = "decisions") -> NDArray[np.int64]:
    """(n,) of 0 (good), 1 (defect) and -1 (nobody decided)."""
    array = _flat(values, name)
    if not np.isin(array, (-1, 0, 1)).all():
        odd = array[~np.isin(array, (-1, 0, 1))][0]
        raise DataError(f"{name} hold {odd!s}; every entry must be 0 (good), 1 (defect) or -1 (undecided).")
    return array.astype(np.int64)


def as_severities(values: ArrayLike, name: str, n: int | None = None, allow_nan: bool = False) -> NDArray[np.float64]:
    """(n,) finite numbers of any range, higher is worse; `allow_nan` lets NaN stand for `no answer on this part`."""
    array = _flat(values, name)
    try:
        found = array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} hold {array.dtype} values; numbers are wanted, higher is worse.") from None
    if n is not None and len(found) != n:
        raise DataError(f"{name} hold {len(found)} entries, {n} are wanted: one score a part, in the same order.")
    ok = np.isfinite(found) | (np.isnan(found) & allow_nan)
    if not ok.all():
        raise DataError(f"{name} hold {found[~ok][0]} at row {int(np.argmin(ok))}; finite numbers are wanted.")
    return found


def as_groups(values: ArrayLike | None, n: int, name: str = "groups") -> NDArray[np.int64]:
    """(n,) numbers 0, 1, ... of n images' groups, whatever names these have; None: each image is a group."""
    if values is None:
        return np.arange(n)
    array = _flat(values, name)
    if len(array) != n:
        raise DataError(f"{name} hold {len(array)} entries, {n} are wanted: one group id an image, in the same order.")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def same_length(a: NDArray[np.int64], b: NDArray[np.int64], names: str) -> None:
    """Refuse two columns that cannot be of the same parts."""
    if len(a) != len(b):
        raise DataError(f"{names} hold {len(a)} and {len(b)} entries; give one entry a part, in the same order.")


def _flat(values: ArrayLike, name: str) -> NDArray[np.generic]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{name} have shape {array.shape}; one value a part, shape (n,), is wanted.")
    return array
