"""Draws whose truth is known, of what makes intervals too narrow: rare classes, views of one part, AUROC near 1."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from hf_inspect import metrics

Draw = Callable[[np.random.Generator], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """`draw` gives a figure of results.json from a new sample of parts; `truth` is what its interval should hold."""

    name: str
    truth: float
    draw: Draw


def coverage(case: Case, redraws: int, seed: int = 0) -> tuple[float, float]:
    """The share of redraws whose interval holds the truth, and the intervals' mean width."""
    rng = np.random.default_rng(seed)
    found = [case.draw(rng) for _ in range(redraws)]
    limits = np.array([(one["low"], one["high"]) for one in found])
    inside = (limits[:, 0] <= case.truth + 1e-12) & (case.truth <= limits[:, 1] + 1e-12)
    return float(inside.mean()), float((limits[:, 1] - limits[:, 0]).mean())


def views(parts: int, each: int) -> np.ndarray:
    """Group ids of `parts` parts photographed `each` times."""
    return np.repeat(np.arange(parts), each)


def alike(rng: np.random.Generator, parts: int, each: int, share: float, likeness: float) -> np.ndarray:
    """Hits (parts * each,): a part's own rate is beta-distributed about `share`, its views correlate by `likeness`."""
    spread = (1 - likeness) / likeness
    own = rng.beta(share * spread, (1 - share) * spread, parts)
    return rng.random(parts * each) < np.repeat(own, each)


def escape_rate(escaped: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    """Escapes of defects (n,) among as many good images, each of a part of its own, by way of `decision_report`."""
    n = len(escaped)
    of = None if groups is None else np.concatenate([groups, groups.max() + 1 + np.arange(n)])
    labels, said = np.repeat([1, 0], n), np.concatenate([~escaped, np.zeros(n, bool)])
    return metrics.decision_report(labels, said, of)["escapes"]


def few_parts(n: int, share: float) -> Draw:
    """Escapes of n independent defects."""
    return lambda rng: escape_rate(rng.random(n) < share, None)


def many_views(parts: int, each: int, share: float, likeness: float) -> Draw:
    """Escapes among views of defective parts."""
    return lambda rng: escape_rate(alike(rng, parts, each, share, likeness), views(parts, each))


def few_bad_parts(parts: int, each: int, bad: float, else_: float) -> Draw:
    """Escapes where some parts escape in 95 % of their views, and the others hardly ever."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        rates = np.where(rng.random(parts) < bad, 0.95, else_)
        return escape_rate(rng.random(parts * each) < np.repeat(rates, each), views(parts, each))

    return draw


def unequal_views(parts: int, share: float) -> Draw:
    """Escapes among parts of 1 to 20 views, whose own rates differ."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        sizes = rng.choice([1, 1, 2, 5, 20], parts)
        own = rng.beta(share * 5, (1 - share) * 5, parts)
        return escape_rate(rng.random(sizes.sum()) < np.repeat(own, sizes), np.repeat(np.arange(parts), sizes))

    return draw


def rare_recall(n: int, share: float, right: float) -> Draw:
    """Recall of a class that a few of n parts are of, by way of `class_report`; drawn again where there is none."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        rare = np.zeros(0)
        while not rare.any():
            rare = rng.random(n) < share
        answers = rare & (rng.random(n) < right)
        return metrics.class_report(rare.astype(int), answers.astype(int), ["good", "rare"])["classes"]["rare"][
            "recall"
        ]

    return draw


def in_a_bin(parts: int, each: int, share: float) -> Draw:
    """What came true of P(defect) = `share`, of views of parts that are good or defective in all their views."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        labels = np.repeat(rng.random(parts) < share, each)
        (only,) = metrics.reliability(labels, np.full(len(labels), share), groups=views(parts, each))["bins"]
        return only["observed"]

    return draw


def separated(area: float, spread: float = 1.0) -> tuple[float, float]:
    """Mean and standard deviation of normal defect scores whose AUROC is `area` against standard normal good ones."""
    return norm.ppf(area) * np.hypot(1, spread), spread


def normal_scores(goods: int, defects: int, area: float, spread: float = 1.0) -> Draw:
    """AUROC of independent parts."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        scores = np.concatenate([rng.normal(0, 1, goods), rng.normal(*separated(area, spread), defects)])
        return metrics.auroc(np.repeat([0, 1], [goods, defects]), scores)

    return draw


def hidden_kind(goods: int, defects: int, hidden: float, area: float) -> Draw:
    """AUROC where a share `hidden` of the defects looks like good parts, and the others are at `area`."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        mean = np.where(rng.random(defects) < hidden, 0.0, separated(area)[0])
        scores = np.concatenate([rng.normal(0, 1, goods), rng.normal(mean, 1)])
        return metrics.auroc(np.repeat([0, 1], [goods, defects]), scores)

    return draw


def scores_of_views(goods: int, defects: int, each: int, area: float, likeness: float) -> Draw:
    """AUROC of views of parts: a share `likeness` of the variance is the part's own."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        labels = np.repeat(np.repeat([0, 1], [goods, defects]), each)
        own, noise = rng.normal(0, 1, goods + defects).repeat(each), rng.normal(0, 1, len(labels))
        scores = labels * separated(area)[0] + np.sqrt(likeness) * own + np.sqrt(1 - likeness) * noise
        return metrics.auroc(labels, scores, views(goods + defects, each))

    return draw


def confusion(right: list[float]) -> np.ndarray:
    """P(answer | class) (k, k): each class's own share right, the rest spread over the others."""
    k = len(right)
    wrong = np.repeat((1 - np.array(right))[:, None] / (k - 1), k, axis=1)
    return np.where(np.eye(k, dtype=bool), np.diag(right), wrong)


def f1_of(shares: list[float], right: list[float]) -> float:
    """The true macro F1."""
    joint = np.array(shares)[:, None] * confusion(right)
    return float(np.mean(2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))))


def class_answers(parts: int, each: int, shares: list[float], right: list[float]) -> Draw:
    """Macro F1 of views of parts; four views in five of a part get the same answer."""
    answer = confusion(right).cumsum(1)

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        y = rng.choice(len(shares), parts, p=shares).repeat(each)
        at = np.where(rng.random(len(y)) < 0.8, rng.random(parts).repeat(each), rng.random(len(y)))
        said = (answer[y] < at[:, None]).sum(1).clip(max=len(shares) - 1)
        return metrics.class_report(y, said, [f"{i:02d}" for i in range(len(shares))], views(parts, each))["macro_f1"]

    return draw


def against(parts: int, each: int, only_a: float, only_b: float) -> Draw:
    """Accuracy of a minus that of b, of views of parts on which a and b differ in all views or in none."""

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        kind = rng.choice(3, parts, p=[only_a, only_b, 1 - only_a - only_b]).repeat(each)
        return metrics.paired_difference(kind != 1, kind != 0, views(parts, each))

    return draw


RARE = ([0.7, 0.2, 0.04, 0.02, 0.02, 0.02], [0.98, 0.9, 0.7, 0.7, 0.6, 0.8])
FEW_EACH = ([0.72] + [0.02] * 14, [0.98] + [0.8] * 14)
THREE = ([0.8, 0.15, 0.05], [0.98, 0.8, 0.7])

CASES = [
    Case("escapes, 15 defects", 0.05, few_parts(15, 0.05)),
    Case("escapes, 40 defects", 0.02, few_parts(40, 0.02)),
    Case("recall of a class of about 6 parts", 0.7, rare_recall(300, 0.02, 0.7)),
    Case("escapes, 40 defects of 10 views, much alike", 0.05, many_views(40, 10, 0.05, 0.9)),
    Case("escapes, 40 defects of 10 views, somewhat alike", 0.05, many_views(40, 10, 0.05, 0.3)),
    Case("escapes, 12 defects of 10 views", 0.2, many_views(12, 10, 0.2, 0.6)),
    Case("escapes, 20 defects of 10 views, few of them bad", 0.14, few_bad_parts(20, 10, 0.1, 0.05)),
    Case("escapes, 40 defects of 10 views, few of them bad", 0.0665, few_bad_parts(40, 10, 0.05, 0.02)),
    Case("escapes, 40 defects of 1 to 20 views", 0.1, unequal_views(40, 0.1)),
    Case("reliability, 30 parts of 10 views", 0.15, in_a_bin(30, 10, 0.15)),
    Case("AUROC .961, 15 defects", 0.961, normal_scores(100, 15, 0.961)),
    Case("AUROC .983, 20 defects", 0.983, normal_scores(300, 20, 0.983)),
    Case("AUROC .995, 15 defects", 0.995, normal_scores(100, 15, 0.995)),
    Case("AUROC .983, 20 defects that spread", 0.983, normal_scores(300, 20, 0.983, 2.0)),
    Case("AUROC .983, 15 good parts", 0.983, normal_scores(15, 100, 0.983, 0.5)),
    Case("AUROC .8, 40 defects and 40 good", 0.8, normal_scores(40, 40, 0.8)),
    Case("AUROC .974, 20 defects, one in 20 unlike them", 0.05 * 0.5 + 0.95 * 0.999, hidden_kind(300, 20, 0.05, 0.999)),
    Case("AUROC .961, 20 defects of 10 views", 0.961, scores_of_views(60, 20, 10, 0.961, 0.8)),
    Case("AUROC .99, 15 defects of 10 views", 0.99, scores_of_views(30, 15, 10, 0.99, 0.5)),
    Case("macro F1, 6 classes, 4 of them rare", f1_of(*RARE), class_answers(300, 1, *RARE)),
    Case("macro F1, 15 classes, 14 of about 6 parts", f1_of(*FEW_EACH), class_answers(300, 1, *FEW_EACH)),
    Case("macro F1, 40 parts of 10 views", f1_of(*THREE), class_answers(40, 10, *THREE)),
    Case("difference, 500 parts, 3 differ", 0.006, against(500, 1, 0.006, 0.0)),
    Case("difference, 60 parts", 0.04, against(60, 1, 0.05, 0.01)),
    Case("difference, 50 parts of 10 views", 0.06, against(50, 10, 0.08, 0.02)),
]  # fmt: skip
