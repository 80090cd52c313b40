"""Overkill rate with its exact 95 % interval, for `evaluate.load`: a file that stands alone."""

import datasets
import evaluate
import numpy as np
from scipy.stats import binomtest

_DESCRIPTION = """
Overkill rate: the good parts that were rejected, of all good parts. What a plant throws away for nothing.
The interval is the exact one of Clopper and Pearson, 95 %.
"""

_CITATION = """
@article{clopper1934, author = {Clopper, C. J. and Pearson, E. S.}, journal = {Biometrika}, year = {1934},
title = {The use of confidence or fiducial limits illustrated in the case of the binomial}, volume = {26}}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: of each part, P(defect) in [0, 1], or the decision itself: 0 (good) or 1 (defect).
    references: of each part, 0 (good) or 1 (defect).
    threshold: P(defect) at or above it is a defect; in (0, 1], 0.5 by default.
Returns:
    overkill_rate, and its limits overkill_rate_low and overkill_rate_high; None where there is no good part.
    overkill_rate_k, overkill_rate_n: the counts whose quotient it is.
Examples:
    >>> evaluate.load("overkill_rate").compute(predictions=[0, 1, 1, 0], references=[1, 1, 0, 0])["overkill_rate"]
    0.5
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class OverkillRate(evaluate.Metric):
    """Good parts rejected, of all good parts."""

    def _info(self) -> evaluate.MetricInfo:
        features = {name: datasets.Value("float64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: list[float], references: list[float], threshold: float = 0.5
    ) -> dict[str, float | int | None]:
        p, labels = np.asarray(predictions), np.asarray(references)
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"references hold {labels[~np.isin(labels, (0, 1))][0]:g}; give 0 (good) or 1 (defect).")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"predictions hold {p[~((p >= 0) & (p <= 1))][0]:g}; give P(defect) in [0, 1], or 0 or 1.")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold:g}; give one above 0 and at most 1.")
        k, n = int(((p >= threshold) & (labels == 0)).sum()), int((labels == 0).sum())
        low = high = None
        if n:
            low, high = map(float, binomtest(k, n).proportion_ci(confidence_level=0.95, method="exact"))
        return {
            "overkill_rate": k / n if n else None,
            "overkill_rate_low": low,
            "overkill_rate_high": high,
            "overkill_rate_k": k,
            "overkill_rate_n": n,
        }
