"""AUROC with a 95 % interval, for `evaluate.load`: a file that stands alone."""

import datasets
import evaluate
import numpy as np
from scipy.special import betaincinv
from scipy.stats import rankdata

_DESCRIPTION = """
AUROC: P(a defect scores above a good part), ties counting one half.
The interval, 95 %, has DeLong's variance, and allows for a kind of part that the smaller class happens to lack: one
that is the worst possible is added to it (Gaffke's limits of a mean, that mean taken as beta distributed). Where the
scores separate the classes fully it is the exact one (Clopper and Pearson) of as many pairs as the smaller class has
parts.
Each row counts as a part: of several images of one part give one.
"""

_CITATION = """
@article{delong1988, author = {DeLong, E. R. and DeLong, D. M. and Clarke-Pearson, D. L.}, journal = {Biometrics},
title = {Comparing the areas under two or more correlated receiver operating characteristic curves}, year = {1988}}
@article{gaffke2005, author = {Gaffke, N.}, journal = {Mathematical Methods of Statistics}, year = {2005},
title = {Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable}}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: of each part, P(defect) in [0, 1].
    references: of each part, 0 (good) or 1 (defect).
    threshold: changes nothing here; the rates that this is combined with take one.
Returns:
    auroc: the AUROC, and auroc_low and auroc_high, its limits; None where a class has no part.
    auroc_n: how many parts.
Examples:
    >>> evaluate.load("auroc").compute(predictions=[0.1, 0.4, 0.3, 0.8], references=[0, 0, 1, 1])["auroc"]
    0.75
"""


def _won(goods: np.ndarray, defects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each defect and each good part the share of the other class that it is on the right side of."""
    ranks = rankdata(np.concatenate([goods, defects]))
    below = ranks - np.concatenate([rankdata(goods), rankdata(defects)])
    return below[len(goods) :] / len(goods), 1 - below[: len(goods)] / len(defects)


def _lower(smaller: np.ndarray, larger: np.ndarray) -> float:
    """The lower limit, of what the parts of both classes won: one of the smaller class that won nothing is added."""
    won = np.append(smaller, 0.0)
    mean = won.mean()
    if mean == 0:
        return 0.0
    variance = ((won - mean) ** 2).sum() / len(won) / (len(won) + 1)
    variance += ((larger - larger.mean()) ** 2).sum() / len(larger) / max(1, len(larger) - 1)
    precision = max(mean * (1 - mean) / variance - 1, 1e-3)
    return min(float(betaincinv(mean * precision, (1 - mean) * precision, 0.025)), float(smaller.mean()))


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
        self, predictions: list[float], references: list[float], threshold: float | None = None
    ) -> dict[str, float | int | None]:
        p, labels = np.asarray(predictions), np.asarray(references)
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"references hold {labels[~np.isin(labels, (0, 1))][0]:g}; give 0 (good) or 1 (defect).")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"predictions hold {p[~((p >= 0) & (p <= 1))][0]:g}; give P(defect) in [0, 1].")
        goods, defects = np.sort(p[labels == 0]), np.sort(p[labels == 1])
        if not len(goods) or not len(defects):
            return {"auroc": None, "auroc_low": None, "auroc_high": None, "auroc_n": len(p)}
        smaller, larger = sorted(_won(goods, defects), key=len)
        low, high = _lower(smaller, larger), 1 - _lower(1 - smaller, 1 - larger)
        return {"auroc": float(smaller.mean()), "auroc_low": low, "auroc_high": high, "auroc_n": len(p)}
