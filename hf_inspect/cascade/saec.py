"""Policy `saec`: SAEC's routing by scene complexity and edge confidence (YuHao-Tian/SAEC, arXiv 2509.17136).

Two faults are mended: the complexity limit is fitted on validation, so parts can be judged one by one, and the
edge may say `defect` as well as `good`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.routes import DEFECT, GOOD, UNDECIDED, Route, Routes, check_number, settings
from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_scores


@dataclass(frozen=True, slots=True)
class Saec:
    """A part goes to the VLM if its complexity exceeds `max_complexity`, or if the edge is unsure of it.

    The edge is sure if its larger probability is >= `min_confidence`, its two probabilities lie >= `min_margin`
    apart and their entropy, in bits, is <= `max_entropy`. With two classes the margin is 2 confidence - 1, so the
    source's margin of 0.03 never binds beside its confidence of 0.55; it stays, for it is the source's gate.
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

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            check_number("Policy 'saec'", key, value, high=float("inf") if key == "fitted_on" else 1.0)

    def route(self, p_edge: float, complexity: float | None = None) -> Route:
        """One part's route from P(defect) and `complexity(rgb)`."""
        return self.route_batch([p_edge], None if complexity is None else [complexity]).first()

    def route_batch(self, p_edge: ArrayLike, complexity: ArrayLike | None = None) -> Routes:
        """Routes of (n,) edge scores and complexities; the first gate that fails gives the reason."""
        p = as_scores(p_edge, "p_edge")
        if complexity is None:
            raise DataError("Policy 'saec' got no complexity; pass cascade.complexity(rgb) of every part.")
        gates = {
            "complex image": as_scores(complexity, "complexity", len(p)) > self.max_complexity,
            "low confidence": np.maximum(p, 1 - p) < self.min_confidence,
            "small margin": np.abs(2 * p - 1) < self.min_margin,
            "high entropy": binary_entropy(p) > self.max_entropy,
        }
        failed = list(gates.values())
        sure = np.where(p < 0.5, "simple image, edge sure of good", "simple image, edge sure of defect")
        codes = np.select(failed, [UNDECIDED] * len(gates), np.where(p < 0.5, GOOD, DEFECT))
        return Routes(codes, np.select(failed, list(gates), sure))

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values, `policy` naming it."""
        return {"policy": self.name} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Saec":
        """The inverse of `to_dict`; unknown or missing keys raise DataError."""
        return cls(**settings(cls, values))


def fit_saec(complexity: ArrayLike, init_q_ratio: float = 0.30, cloud_threshold: float = 0.26) -> Saec:
    """The limit that sends at most `init_q_ratio` of the validation images (complexities (n,)) to the VLM.

    0.30 and 0.26 are what SAEC's published runs used. P(VLM) >= `cloud_threshold` is a defect.
    """
    c = as_scores(complexity, "complexity")
    if len(c) == 0:
        raise DataError("Policy 'saec' got no validation image to fit its complexity limit on; at least one is wanted.")
    check_number("Policy 'saec'", "init_q_ratio", init_q_ratio)
    limit = float(np.quantile(c, 1 - init_q_ratio, method="inverted_cdf"))
    return Saec(limit, len(c), init_q_ratio=float(init_q_ratio), cloud_threshold=float(cloud_threshold))


def binary_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of (p, 1-p) in bits: in [0, 1], 1 at p = 0.5."""
    from scipy.special import entr

    return np.asarray((entr(p) + entr(1 - p)) / np.log(2))
