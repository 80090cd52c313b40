"""Policy `uncertified`: that of an edge by itself, for which nobody has set a limit."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.routes import UNDECIDED, Routes
from hf_inspect.metrics.inputs import as_severities

WHY = "no limits are set: 'hf-inspect calibrate' makes a cascade of this edge"


@dataclass(frozen=True, slots=True)
class Uncertified:
    """Every part is undecided, whatever its severity, and so is the fallback's: nothing is promised of any."""

    name: ClassVar[str] = "uncertified"
    needs_complexity: ClassVar[bool] = False
    decider: ClassVar[Literal["vlm"]] = "vlm"

    def first(
        self, severity: ArrayLike, probabilities: ArrayLike | None = None, complexity: ArrayLike | None = None
    ) -> Routes:
        """UNDECIDED for each of the edge's severities (n,)."""
        n = len(as_severities(severity, "the edge's severities"))
        return Routes(np.full(n, UNDECIDED), np.full(n, WHY))

    def second(self, severity: ArrayLike, vlm: ArrayLike) -> Routes:
        """The same of parts that a VLM was asked about."""
        return self.first(vlm)

    def severity(self, edge: ArrayLike, vlm: ArrayLike) -> NDArray[np.float64]:
        """The severities (n,) of whoever was asked last."""
        return np.asarray(vlm, np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values; no cascade.json holds it."""
        return {"policy": self.name}
