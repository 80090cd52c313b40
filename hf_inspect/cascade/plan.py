"""A promise -> how many labelled parts it takes, and what stays undecided at each number of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_inspect.cascade.bounds import Promise, fit_limits, one_per_group, parts_needed
from hf_inspect.cascade.composite import Composite, Floats
from hf_inspect.cascade.routes import IS_GOOD, UNDECIDED, check_open
from hf_inspect.cascade.whatif import CalibrationScores
from hf_inspect.errors import DataError

BEYOND = range(6)  # how many calibration parts of a class may lie beyond their limit
TIMES = (0.5, 1.0, 2.0, 4.0, 8.0)  # as many parts as the calibration split has
DRAWS = 200


@dataclass(frozen=True, slots=True)
class Needs:
    """The fewest calibration parts of each class with which `k` of them may lie beyond their limit."""

    k: int
    defects: int
    goods: int


@dataclass(frozen=True, slots=True)
class Redrawn:
    """Shares (mean, 5 % quantile, 95 % quantile) over draws of so many calibration parts, `times` those that there are.

    `undecided` of all parts by `edge`, `vlm` and `cascade`, each at the same promise; `shipped` of the good parts that
    the cascade, or the edge without a VLM, calls good.
    """

    times: float
    defects: int
    goods: int
    undecided: dict[str, tuple[float, float, float]]
    shipped: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """At most so many escapes and false alarms per 10,000 parts, and P(defect | shipped) at most."""

    prevalence: float
    escapes: float
    false_alarms: float
    defect_given_shipped: float


def needs(promise: Promise, beyond: Iterable[int] = BEYOND) -> list[Needs]:
    """How many defects and good parts the promise takes, by how many of each may lie beyond the limits.

    The more there are, the nearer the allowed share k / n comes to the risk, and the fewer parts stay undecided.
    """
    miss = promise.miss
    return [Needs(k, parts_needed(promise.escape, miss, k), parts_needed(promise.overkill, miss, k)) for k in beyond]


def redrawn(
    scores: CalibrationScores,
    composite: Composite | None,
    promise: Promise,
    times: Sequence[float] = TIMES,
    seed: int = 0,
) -> list[Redrawn]:
    """What stays undecided with `times` as many calibration parts as there are, by drawing from them again.

    With replacement, of a group one of each class; the limits are applied to those same parts, so more parts of the
    same kind are assumed, and no more variety than they have. Of a class that was not stored none is drawn.
    """
    cloud = scores.cloud
    models: dict[str, Floats] = {"edge": scores.edge} | ({} if cloud is None else {"vlm": cloud})
    if composite is not None:
        models["cascade"] = composite.scores(scores.edge, cloud)
    answered = ~np.any([np.isnan(found) for found in models.values()], axis=0)
    y = scores.labels[answered]
    if y.all():
        raise DataError("No good part has an answer among the stored ones; a plan by scores needs some.")
    models = {name: found[answered] for name, found in models.items()}
    kept = one_per_group(models["edge"], y, scores.groups[answered], seed)
    own = {label: kept[y[kept] == label] for label in (0, 1)}
    rng = np.random.default_rng(seed)
    return [_redraw(models, y[kept], kept, own, factor, promise, rng) for factor in times]


def outcome(promise: Promise, prevalence: float, shipped: float = 1.0) -> Outcome:
    """What the promise comes to where `prevalence` of the parts are defects and `shipped` of the good ones are shipped.

    Upper limits: the promise's own risks are taken as reached.
    """
    check_open("The plan", "prevalence", prevalence)
    escaped, kept = prevalence * promise.escape, (1 - prevalence) * shipped
    among = escaped / (escaped + kept) if escaped + kept else 1.0
    return Outcome(prevalence, 1e4 * escaped, 1e4 * (1 - prevalence) * promise.overkill, among)


def _redraw(
    models: dict[str, Floats],
    y: NDArray[np.int64],
    kept: NDArray[np.intp],
    own: dict[int, NDArray[np.intp]],
    factor: float,
    promise: Promise,
    rng: np.random.Generator,
) -> Redrawn:
    sizes = {label: max(1, round(factor * len(rows))) if len(rows) else 0 for label, rows in own.items()}
    labels = np.repeat([1, 0], [sizes[1], sizes[0]])
    last = list(models)[-1] if "cascade" in models else "edge"
    undecided: dict[str, list[float]] = {name: [] for name in models}
    shipped = []
    for _ in range(DRAWS):
        rows = np.concatenate([rng.choice(own[label], sizes[label]) for label in (1, 0) if sizes[label]])
        for name, found in models.items():
            codes = fit_limits(found[rows], labels, np.arange(len(rows)), promise).codes(found[kept])
            undecided[name].append(float((codes == UNDECIDED).mean()))
            if name == last:
                shipped.append(float((codes[y == 0] == IS_GOOD).mean()))
    return Redrawn(factor, sizes[1], sizes[0], {name: _spread(of) for name, of in undecided.items()}, _spread(shipped))


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(np.mean(values)), float(low), float(high)
