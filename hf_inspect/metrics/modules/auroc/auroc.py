"""AUROC with a bootstrapped 95 % interval, for `evaluate.load`: a file that stands alone."""

import datasets
import evaluate
import numpy as np
from scipy.stats import binomtest, bootstrap, rankdata

_DESCRIPTION = """
AUROC: P(a defect scores above a good part), ties counting one half.
The interval is a percentile bootstrap, 95 %, 2,000 resamples, each class resampled by itself. Where the scores
separate the classes fully, which leaves a bootstrap no width, it is the exact one (Clopper and Pearson) of as many
disjoint pairs as the smaller class has parts; where a class has one part, it is the whole range.
"""

_CITATION = """
@article{hanley1982, author = {Hanley, J. A. and McNeil, B. J.}, journal = {Radiology}, year = {1982}, volume = {143},
title = {The meaning and use of the area under a receiver operating characteristic (ROC) curve}}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: of each part, P(defect) in [0, 1].
    references: of each part, 0 (good) or 1 (defect).
    seed: of the bootstrap, 0 by default.
    threshold: changes nothing here; the rates that this is combined with take one.
Returns:
    auroc: the AUROC, and auroc_low and auroc_high, its limits; None where a class has no part.
    auroc_n: how many parts.
Examples:
    >>> evaluate.load("auroc").compute(predictions=[0.1, 0.4, 0.3, 0.8], references=[0, 0, 1, 1])["auroc"]
    0.75
"""
_RESAMPLES = 2000
_AT_ONCE = 1_100_000  # resampled numbers held together, and ranked: 70 MB


def _area(goods: np.ndarray, defects: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share of ordered pairs, along `axis` of both."""
    n, m = goods.shape[axis], defects.shape[axis]
    ranks = rankdata(np.concatenate([goods, defects], axis=axis), axis=axis)
    rank_sum = np.take(ranks, np.arange(n, n + m), axis=axis).sum(axis=axis)
    return np.asarray((rank_sum - m * (m + 1) / 2) / (n * m))


def _limits(goods: np.ndarray, defects: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % interval of the area of two sorted samples."""
    value, fewest = float(_area(goods, defects)), min(len(goods), len(defects))
    if value in (0.0, 1.0):
        exact = binomtest(int(value) * fewest, fewest).proportion_ci(confidence_level=0.95, method="exact")
        return float(exact.low), float(exact.high)
    if fewest == 1:
        return 0.0, 1.0
    found = bootstrap(
        (goods, defects),
        _area,
        n_resamples=_RESAMPLES,
        batch=max(1, _AT_ONCE // (len(goods) + len(defects))),
        vectorized=True,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Auroc(evaluate.Metric):
    """P(a defect scores above a good part)."""

    def _info(self) -> evaluate.MetricInfo:
        features = {name: datasets.Value("float64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: list[float], references: list[float], seed: int = 0, threshold: float | None = None
    ) -> dict[str, float | int | None]:
        p, labels = np.asarray(predictions), np.asarray(references)
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"references hold {labels[~np.isin(labels, (0, 1))][0]:g}; give 0 (good) or 1 (defect).")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"predictions hold {p[~((p >= 0) & (p <= 1))][0]:g}; give P(defect) in [0, 1].")
        goods, defects = np.sort(p[labels == 0]), np.sort(p[labels == 1])
        if not len(goods) or not len(defects):
            return {"auroc": None, "auroc_low": None, "auroc_high": None, "auroc_n": len(p)}
        low, high = _limits(goods, defects, seed)
        return {"auroc": float(_area(goods, defects)), "auroc_low": low, "auroc_high": high, "auroc_n": len(p)}
