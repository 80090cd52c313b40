"""Severities of edge and VLM -> one score a part, a fixed function once it was fitted on validation.

Each severity becomes log-odds by Platt scaling (Platt 1999); their weighted mean is scaled once more. Where the edge
alone is far enough out the VLM is not asked, and the part stands at that end of the scale. Of good parts alone nothing
can be scaled: the edge's own severity is the score.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.bounds import Promise, largest_k, one_per_group
from hf_inspect.cascade.routes import ASK, IS_DEFECT, IS_GOOD, check_number, settings
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.metrics.inputs import as_labels, as_severities
from hf_inspect.schema import LEAST, Meaning

OWNER = "The composite"
Scale = Literal["odds", "plain"]  # of severities: shares in [0, 1], taken as log-odds, or any finite numbers
TINY = 1e-7  # shares nearer to 0 or 1 count as these
SHARES = (1.0, 0.5, 0.25, 0.75, 0.0)  # of the edge in the mean of both log-odds; of equally good ones the first
TOLERANCE = 0.01  # of all parts: how many more may stay undecided for a simpler fusion, or for an early exit
DRAWS = 100  # of calibration parts, drawn from validation
ENDS = tuple(np.arange(0.025, 0.525, 0.025).round(3).tolist())  # shares of the parts that may leave early at one end
LEAST_SLOPE = 1e-3  # a model that validation shows no better than chance keeps its order: higher is worse

Floats = NDArray[np.float64]
Answers = tuple[ArrayLike, ArrayLike | None, ArrayLike, ArrayLike]  # edge, VLM (n,; NaN: none), labels, group ids


@dataclass(frozen=True, slots=True)
class Platt:
    """Severities (n,) -> log-odds of a defect: slope * x + intercept, x their log-odds (`odds`) or they (`plain`)."""

    scale: Scale
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if self.scale not in ("odds", "plain"):
            raise DataError(f"{OWNER}: scale is {self.scale!r}; odds or plain is wanted.")
        check_number(OWNER, "slope", self.slope, 0, math.inf)
        check_number(OWNER, "intercept", self.intercept, -math.inf, math.inf)

    def __call__(self, severity: Floats) -> Floats:
        """Log-odds (n,) of severities (n,); NaN stays NaN."""
        return self.slope * _plain(severity, self.scale) + self.intercept

    def probability(self, severity: Floats) -> Floats:
        """P(defect) (n,) of severities (n,), as validation has it."""
        return _sigmoid(self(severity))

    def inverse(self, odds: Floats) -> Floats:
        """The severities (n,) that have these log-odds (n,)."""
        x = (odds - self.intercept) / self.slope
        return _sigmoid(x) if self.scale == "odds" else x

    @classmethod
    def fit(cls, severity: Floats, labels: NDArray[np.int64], scale: Scale) -> "Platt":
        """By logistic regression; order is kept whatever validation shows, a slope being at least 0.001."""
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise MissingExtraError("Fitting needs scikit-learn: pip install 'hf-inspect[train]'") from error
        x = _plain(severity, scale)
        spread = float(x.std()) or 1.0
        fitted = LogisticRegression().fit((x / spread)[:, None], labels)
        slope = max(float(fitted.coef_[0, 0]) / spread, LEAST_SLOPE)
        return cls(scale, slope, float(fitted.intercept_[0]))


def meaning_of(scores: Floats, defect: NDArray[np.int64], of: str) -> Meaning:
    """What raw scores (n,) of a split `of` say: P(defect) by Platt's scaling where it has both sides, else a quantile.

    The quantile is of the good parts.
    """
    if not defect.any():
        return Meaning.quantile(scores, of)
    fitted = Platt.fit(np.log(np.maximum(scores, LEAST)), defect, "plain")
    goods = int((defect == 0).sum())
    return Meaning("probability", goods, int(defect.sum()), of, slope=fitted.slope, intercept=fitted.intercept)


@dataclass(frozen=True, slots=True)
class Composite:
    """Who is asked, and one score a part; higher is worse.

    `edge_share` is the edge's part in the mean of both log-odds. An edge severity below `early_good` or above
    `early_defect` needs no VLM: the score is its probability - 1 or + 1, below or above all others. `vlm` None: the
    edge's probability is the score, and no VLM is asked. `edge` None: its severity is, as validation had no defect
    that would say how probable one is.
    """

    edge: Platt | None
    vlm: Platt | None = None
    fused: Platt | None = None
    edge_share: float = 1.0
    early_good: float | None = None
    early_defect: float | None = None

    def __post_init__(self) -> None:
        check_number(OWNER, "edge_share", self.edge_share)
        if self.edge is None and self.vlm is not None:
            raise DataError(f"{OWNER} has no edge to fuse a VLM with; calibrate anew.")
        if (self.vlm is None) != (self.fused is None) or (self.vlm is None) != (self.edge_share == 1.0):
            raise DataError(f"{OWNER}: a VLM, its fusion and a share below 1 come together; calibrate anew.")
        for key in ("early_good", "early_defect"):
            if getattr(self, key) is not None:
                check_number(OWNER, key, getattr(self, key), -math.inf, math.inf)
        if self.early_good is not None and self.early_defect is not None and self.early_good > self.early_defect:
            raise DataError(f"{OWNER}: early_good lies above early_defect; calibrate anew.")

    def ends(self, edge: ArrayLike) -> NDArray[np.int64]:
        """Of edge severities (n,): IS_GOOD or IS_DEFECT at that end of the scale, ASK where the VLM is asked."""
        x = np.asarray(edge, np.float64)
        good = x < (-np.inf if self.early_good is None else self.early_good)
        defect = x > (np.inf if self.early_defect is None else self.early_defect)
        return np.select([good, defect], [IS_GOOD, IS_DEFECT], ASK)

    def scores(self, edge: ArrayLike, vlm: ArrayLike | None = None) -> Floats:
        """Scores (n,) of severities (n,): in (0, 1) fused, below 0 or above 1 at an end; NaN: an answer lacks."""
        x = np.asarray(edge, np.float64)
        if self.edge is None:
            return x
        alone = self.edge.probability(x)
        if self.vlm is None or self.fused is None:
            return alone
        cloud = np.full(len(x), np.nan) if vlm is None else np.asarray(vlm, np.float64)
        ends = self.ends(x)
        both = _sigmoid(self.fused(self.edge_share * self.edge(x) + (1 - self.edge_share) * self.vlm(cloud)))
        return np.select([ends == IS_GOOD, ends == IS_DEFECT], [alone - 1, alone + 1], both)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Composite":
        """The inverse of `dataclasses.asdict`; unknown or missing keys raise DataError."""
        given = settings(cls, OWNER, values)
        scaled = {key: None if given[key] is None else Platt(**settings(Platt, OWNER, given[key])) for key in _SCALED}
        return cls(**given | scaled)


_SCALED = ("edge", "vlm", "fused")


def fit_composite(
    edge: ArrayLike,
    vlm: ArrayLike | None,
    labels: ArrayLike,
    groups: ArrayLike,
    promise: Promise,
    sizes: tuple[int, int],
    scales: tuple[Scale, Scale] = ("odds", "odds"),
    seed: int = 0,
    siblings: Sequence[Answers] = (),
) -> Composite:
    """The composite of validation's severities (n,), labels (n,; 1 a defect) and group ids (n,); NaN: no answer.

    The fusion is that which leaves the fewest parts undecided at this promise, mean over draws of `sizes` (defects,
    goods) calibration parts out of validation: the edge alone where nothing is better by a point, else the plain mean
    where no other weights are. Early exits then save as many questions to the VLM as cost at most one point more of
    undecided parts. `scales` are those of the edge's severities and of the VLM's. Of good parts alone, and without a
    VLM, the edge's severity is the score; DataError where a class is missing otherwise.

    `siblings` are answers about parts out of fold, by models of the same recipes that were trained on the other folds
    (cross-fitting, Stone 1974): each one's by Platt scaling of its own, so that they say what this edge and this VLM
    would say of parts of those log-odds. They choose the fusion and the early exits together with validation.
    """
    x, cloud, y = _answered((edge, vlm, labels, groups), seed)
    if len(y) and not y.any() and cloud is None:
        return Composite(None)
    if y.all() or not y.any():
        raise DataError(
            f"The certificate's scores are fitted on validation, of which {int(y.sum())} defects and "
            f"{int((1 - y).sum())} good parts were answered; some of both are wanted. Good parts alone will do for an "
            "edge without a VLM."
        )
    own = Platt.fit(x, y, scales[0])
    if cloud is None:
        return Composite(own)
    other = Platt.fit(cloud, y, scales[1])
    for sibling in siblings:
        its_x, its_cloud, its_y = _answered(sibling, seed)
        if its_cloud is None or its_y.all() or not its_y.any():
            raise DataError("A sibling answered for no good part, for no defect, or without a VLM; leave it out.")
        x = np.append(x, own.inverse(Platt.fit(its_x, its_y, own.scale)(its_x)))
        cloud = np.append(cloud, other.inverse(Platt.fit(its_cloud, its_y, other.scale)(its_cloud)))
        y = np.append(y, its_y)
    drawn = _Draws.of(x, y, promise, sizes, seed)
    unseen = _unseen(x, cloud, y)

    def mean(share: float, edge: Floats, vlm: Floats) -> Floats:
        return share * own(edge) + (1 - share) * other(vlm)

    costs = [drawn.undecided(mean(share, x, cloud), mean(share, *unseen)) for share in SHARES]
    best = next(share for share, cost in zip(SHARES, costs, strict=True) if cost <= min(costs) + TOLERANCE)
    if best == 1.0:
        return Composite(own)
    fused = Platt.fit(mean(best, x, cloud), y, "plain")
    return _with_exits(Composite(own, other, fused, best), x, cloud, drawn)


def _answered(given: Answers, seed: int) -> tuple[Floats, Floats | None, NDArray[np.int64]]:
    """Severities of edge and VLM and labels, of the parts that all answered; of a group one of each class."""
    edge, vlm, labels, groups = given
    x, y = as_severities(edge, "the edge's severities", allow_nan=True), as_labels(labels)
    cloud = None if vlm is None else as_severities(vlm, "the VLM's severities", len(x), allow_nan=True)
    answered = np.flatnonzero(~np.isnan(x) if cloud is None else ~(np.isnan(x) | np.isnan(cloud)))
    if len(answered):
        answered = answered[one_per_group(x[answered], y[answered], np.asarray(groups)[answered], seed)]
    return x[answered], None if cloud is None else cloud[answered], y[answered]


@dataclass(frozen=True, eq=False, slots=True)
class _Draws:
    """Draws of calibration parts out of validation's: rows (draws, defects) and (draws, goods), and the allowed k.

    Each class has one row more, for a part that validation does not show (see `_unseen`).
    """

    defects: NDArray[np.intp]
    goods: NDArray[np.intp]
    labels: NDArray[np.int64]
    k: tuple[int | None, int | None]

    @classmethod
    def of(cls, x: Floats, y: NDArray[np.int64], promise: Promise, sizes: tuple[int, int], seed: int) -> "_Draws":
        rng = np.random.default_rng(seed)
        defects, goods = int(y.sum()), int((1 - y).sum())
        k = largest_k(sizes[0], promise.escape, promise.miss), largest_k(sizes[1], promise.overkill, promise.miss)
        return cls(rng.integers(0, defects + 1, (DRAWS, sizes[0])), rng.integers(0, goods + 1, (DRAWS, sizes[1])), y, k)

    def undecided(self, scores: Floats, unseen: Floats) -> float:
        """Mean share of validation's parts between the limits that the draws set for scores (n,) and the unseen two."""
        low = _limits(np.append(scores[self.labels == 1], unseen[0]), self.defects, self.k[0])
        high = -_limits(-np.append(scores[self.labels == 0], unseen[1]), self.goods, self.k[1])
        between = (scores >= low[:, None]) & (scores <= np.maximum(low, high)[:, None])
        return float(between.mean())


def _limits(scores: Floats, rows: NDArray[np.intp], k: int | None) -> Floats:
    """The (k+1)-th smallest of each draw (draws,); -inf where too few parts allow any."""
    return np.full(len(rows), -np.inf) if k is None else np.partition(scores[rows], k, axis=1)[:, k]


def _unseen(x: Floats, cloud: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Severities of edge and VLM of one defect and one good part (2,) that validation does not show.

    The edge errs by more than on any there, by as much as the worst lies beyond the next; the VLM answers as usual. An
    early exit that would let such a part go is paid for.
    """
    low, high = np.sort(x[y == 1])[:2], np.sort(x[y == 0])[-2:]
    edge = np.array([2 * low[0] - low[-1], 2 * high[-1] - high[0]])
    return edge, np.array([np.median(cloud[y == 1]), np.median(cloud[y == 0])])


def _with_exits(fitted: Composite, x: Floats, cloud: Floats, drawn: _Draws) -> Composite:
    """The early exits that save most questions at no more than `TOLERANCE` more undecided parts."""
    unseen = _unseen(x, cloud, drawn.labels)

    def cost(tried: Composite) -> float:
        return drawn.undecided(tried.scores(x, cloud), tried.scores(*unseen))

    at_most = cost(fitted) + TOLERANCE
    lows = [replace(fitted, early_good=float(np.quantile(x, share, method="lower"))) for share in ENDS]
    highs = [replace(fitted, early_defect=float(np.quantile(x, 1 - share, method="higher"))) for share in ENDS]
    passed = [[fitted, *(one for one in tried if cost(one) <= at_most)] for tried in (lows, highs)]
    both = [
        replace(one, early_defect=other.early_defect)
        for one, other in itertools.product(*passed)
        if one.early_good is None or other.early_defect is None or one.early_good <= other.early_defect
    ]
    by_saving = sorted(both, key=lambda tried: -float((tried.ends(x) != ASK).mean()))  # the last, without exits, passes
    return next(tried for tried in by_saving if cost(tried) <= at_most)


def _plain(severity: Floats, scale: Scale) -> Floats:
    if scale == "plain":
        return severity
    p = np.clip(severity, TINY, 1 - TINY)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(x), np.float64)
