"""Policy `saec`: SAEC's routing by scene complexity and edge confidence (YuHao-Tian/SAEC, arXiv 2509.17136).

Two faults are mended: the complexity limit is fitted on validation, so parts can be judged one by one, and the
edge may say `defect` as well as `good`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.routes import ASK, IS_DEFECT, IS_GOOD, Routes, check_number, settings
from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_scores, as_severities

SURE = 0.5  # severity at which a sure edge begins to say defect


@dataclass(frozen=True, slots=True)
class Saec:
    """A part goes to the VLM if its complexity exceeds `max_complexity`, or if the edge is unsure of it.

    The edge is sure if its largest class probability is >= `min_confidence`, the next lies >= `min_margin` below and
    their entropy, as a share of the largest there can be, is <= `max_entropy`. With two classes the margin is
    2 confidence - 1, so the source's margin of 0.03 never binds beside its confidence of 0.55; it stays, for it is the
    source's gate.
    """

    max_complexity: float
    fitted_on: int
    init_q_ratio: float = 0.30
    min_confidence: float = 0.55
    min_margin: float = 0.03
    max_entropy: float = 0.95
    cloud_threshold: float = 0.26

    name: ClassVar[str] = "saec"
    needs_complexity: ClassVar[bool] = True
    decider: ClassVar[Literal["vlm"]] = "vlm"  # whose verdict a part's is that the VLM was asked about

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            check_number("Policy 'saec'", key, value, high=float("inf") if key == "fitted_on" else 1.0)

    def first(
        self, severity: ArrayLike, probabilities: ArrayLike | None = None, complexity: ArrayLike | None = None
    ) -> Routes:
        """What the edge's severities (n,), class probabilities (n, k) and complexities (n,) settle; ASK for the rest.

        The first gate that fails gives the reason; an edge that is sure says defect where its severity is 0.5 or more.
        """
        found = as_severities(severity, "the edge's severities")
        if complexity is None or probabilities is None:
            raise DataError("Policy 'saec' needs the edge's class probabilities and the complexity of every part.")
        p = np.asarray(probabilities, np.float64)
        if p.ndim != 2 or len(p) != len(found):
            raise DataError(f"Class probabilities came as {p.shape}; ({len(found)}, classes) is wanted.")
        top = np.sort(p, axis=1)
        gates = {
            "complex image": as_scores(complexity, "complexity", len(p)) > self.max_complexity,
            "low confidence": top[:, -1] < self.min_confidence,
            "small margin": top[:, -1] - top[:, -2] < self.min_margin,
            "high entropy": class_entropy(p) > self.max_entropy,
        }
        failed, good = list(gates.values()), found < SURE
        sure = np.where(good, "simple image, edge sure of good", "simple image, edge sure of defect")
        codes = np.select(failed, [ASK] * len(gates), np.where(good, IS_GOOD, IS_DEFECT))
        return Routes(codes, np.select(failed, list(gates), sure))

    def second(self, severity: ArrayLike, vlm: ArrayLike) -> Routes:
        """What the VLM's severities (n,) say of the parts it was asked about: at `cloud_threshold` a defect begins."""
        defect = np.asarray(vlm, np.float64) >= self.cloud_threshold
        said = np.where(defect, "not below the VLM's threshold", "below the VLM's threshold")
        return Routes(np.where(defect, IS_DEFECT, IS_GOOD), said)

    def severity(self, edge: ArrayLike, vlm: ArrayLike) -> NDArray[np.float64]:
        """The severities (n,) that the second verdicts rest on: the VLM's own."""
        return np.asarray(vlm, np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values, `policy` naming it."""
        return {"policy": self.name} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Saec":
        """The inverse of `to_dict`; unknown or missing keys raise DataError."""
        return cls(**settings(cls, "Policy 'saec'", values))


def fit_saec(complexity: ArrayLike, init_q_ratio: float = 0.30, cloud_threshold: float = 0.26) -> Saec:
    """The limit that sends at most `init_q_ratio` of the validation images (complexities (n,)) to the VLM.

    0.30 and 0.26 are what SAEC's published runs used. a VLM's severity >= `cloud_threshold` is a defect.
    """
    c = as_scores(complexity, "complexity")
    if len(c) == 0:
        raise DataError("Policy 'saec' got no validation image to fit its complexity limit on; at least one is wanted.")
    check_number("Policy 'saec'", "init_q_ratio", init_q_ratio)
    limit = float(np.quantile(c, 1 - init_q_ratio, method="inverted_cdf"))
    return Saec(limit, len(c), init_q_ratio=float(init_q_ratio), cloud_threshold=float(cloud_threshold))


def class_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of rows (n, k) that sum to 1, as a share of log k: in [0, 1], 1 where all classes are as likely."""
    from scipy.special import entr

    return np.asarray(entr(np.sort(p, axis=1)).sum(1) / np.log(p.shape[1]))
