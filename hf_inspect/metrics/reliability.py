"""Labels and P(defect) -> how often a stated probability comes true, in bins of equal width."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_labels, as_scores
from hf_inspect.metrics.intervals import rate


def reliability(labels: ArrayLike, p_defect: ArrayLike, bins: int = 10) -> dict[str, Any]:
    """{"n", "calibration_error", "bins": [{"low", "high", "mean_p", "observed": rate}]}; empty bins are left out.

    `calibration_error` is the mean |mean_p - observed| weighted by bin counts, in [0, 1]; it is above 0 even for a
    calibrated model, so it carries no interval: the bins' own intervals show what is noise.
    """
    y = as_labels(labels)
    p = as_scores(p_defect, "p_defect", len(y))
    if len(y) == 0 or bins < 1:
        raise DataError(f"Reliability of {len(y)} parts in {bins} bins was asked for; at least one of each is wanted.")
    index = np.minimum((p * bins).astype(int), bins - 1)
    rows = [_bin(y[index == i], p[index == i], i / bins, (i + 1) / bins) for i in np.unique(index)]
    gaps = [row["observed"]["n"] * abs(row["mean_p"] - row["observed"]["value"]) for row in rows]
    return {"n": len(y), "calibration_error": float(sum(gaps) / len(y)), "bins": rows}


def _bin(y: np.ndarray, p: np.ndarray, low: float, high: float) -> dict[str, Any]:
    return {"low": float(low), "high": float(high), "mean_p": float(p.mean()), "observed": rate(int(y.sum()), len(y))}
