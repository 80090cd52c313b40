"""Labels and P(defect) -> how often a stated probability comes true, in bins of equal width."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_groups, as_labels, as_scores
from hf_inspect.metrics.intervals import rate_of


def reliability(
    labels: ArrayLike, p_defect: ArrayLike, bins: int = 10, groups: ArrayLike | None = None
) -> dict[str, Any]:
    """{"n", "calibration_error", "bins": [{"low", "high", "mean_p", "observed": rate}]}; empty bins are left out.

    `groups` (n,) names the part that each image shows, None where each shows its own: the rates' intervals count those.

    `calibration_error` is the mean |mean_p - observed| weighted by bin counts, in [0, 1]; it is above 0 even for a
    calibrated model, so it carries no interval: the bins' own intervals show what is noise.
    """
    y = as_labels(labels)
    p = as_scores(p_defect, "p_defect", len(y))
    if len(y) == 0 or bins < 1:
        raise DataError(f"Reliability of {len(y)} parts in {bins} bins was asked for; at least one of each is wanted.")
    index = np.minimum((p * bins).astype(int), bins - 1)
    of = as_groups(groups, len(y))
    rows = [
        {"low": float(i / bins), "high": float((i + 1) / bins)} | _bin(y[index == i], p[index == i], of[index == i])
        for i in np.unique(index)
    ]
    gaps = [row["observed"]["n"] * abs(row["mean_p"] - row["observed"]["value"]) for row in rows]
    return {"n": len(y), "calibration_error": float(sum(gaps) / len(y)), "bins": rows}


def _bin(y: np.ndarray, p: np.ndarray, of: np.ndarray) -> dict[str, Any]:
    return {"mean_p": float(p.mean()), "observed": rate_of(y, of)}
