"""What the severity of an anomaly model means, and how a raw score becomes one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

MeaningKind = Literal["probability", "quantile", "distance"]
_KINDS = ("probability", "quantile", "distance")
LEAST = 1e-12  # a raw score below counts as this: scores are taken by their logarithm or their ratio


@dataclass(frozen=True, slots=True)
class Meaning:
    """How raw scores (squared errors, at least 0; higher is worse) become severities, and what these then say.

    `probability`: P(defect), by Platt's scaling of the score's logarithm. `quantile`: the share of good parts, held out
    of the fit, that score lower; `knots` are rising pairs (score, share). `distance`: the score itself, as nothing was
    held out: it orders parts and says no more. `goods` and `defects` are the images it was set on, `of` their split.
    """

    kind: MeaningKind
    goods: int = 0
    defects: int = 0
    of: str | None = None
    slope: float | None = None
    intercept: float | None = None
    knots: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise DataError(f"A score means {self.kind!r}; it is one of {', '.join(_KINDS)}.")
        platt = self.slope is not None and self.intercept is not None
        if platt != (self.kind == "probability") or bool(self.knots) != (self.kind == "quantile"):
            raise DataError(
                f"A {self.kind} comes with slope {self.slope}, {len(self.knots)} knots; fit the model again."
            )
        rising = all(a[0] < b[0] and a[1] < b[1] for a, b in zip(self.knots, self.knots[1:], strict=False))
        if self.kind == "quantile" and not (
            rising and self.knots[0][0] > 0 and 0 < self.knots[0][1] <= self.knots[-1][1] < 1
        ):
            raise DataError("The knots of a quantile do not rise from above 0 to below 1; fit the model again.")
        if self.slope is not None and not self.slope > 0:
            raise DataError(
                f"The slope of a probability is {self.slope}; above 0 is wanted, as higher scores are worse."
            )

    @classmethod
    def quantile(cls, scores: NDArray[np.float64], of: str, most: int = 200) -> "Meaning":
        """Of the raw scores (n,) of good parts that no fit has seen; at most `most` knots are kept of them."""
        n = len(scores)
        shares = np.arange(1, min(n, most) + 1) / (min(n, most) + 1)
        ordered = np.sort(np.maximum(scores, LEAST))
        at = np.quantile(ordered, shares, method="weibull")
        last = np.append(np.diff(at) > 0, True)  # of equal scores the highest share
        knots = zip(at[last].tolist(), shares[last].tolist(), strict=True)
        return cls("quantile", n, 0, of, knots=tuple(knots))

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Meaning":
        """The meaning that `to_dict` wrote into the record `where`; DataError for anything else."""
        names = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or "kind" not in value or not set(value) <= names:
            raise DataError(f"{where} does not say what an anomaly's score means ({value!r}); fit the model again.")
        knots = value.get("knots", ())
        return cls(**{**value, "knots": tuple((float(score), float(share)) for score, share in knots)})

    def to_dict(self) -> dict[str, Any]:
        """The meaning as plain JSON values, without what it does not have."""
        given = asdict(self) | {"knots": [list(knot) for knot in self.knots]}
        return {name: value for name, value in given.items() if value not in (None, [])}

    def severity(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores (n,) -> severities (n,), in the same order of parts; all but a `distance` lie in [0, 1]."""
        s = np.maximum(scores, LEAST)
        if self.kind == "probability":
            from scipy.special import expit

            return np.asarray(expit(float(self.slope or 0) * np.log(s) + float(self.intercept or 0)))
        if self.kind == "distance":
            return s
        at, shares = np.array(self.knots).T
        inside = np.interp(s, at, shares)  # beyond its ends the share goes on to 0 and to 1, and never arrives
        return np.select([s < at[0], s > at[-1]], [shares[0] * s / at[0], 1 - (1 - shares[-1]) * at[-1] / s], inside)

    @property
    def threshold(self) -> float | None:
        """The severity from which a part counts as a defect where no cascade says otherwise; None: nobody can say."""
        return {"probability": 0.5, "quantile": 0.95}.get(self.kind)

    def __str__(self) -> str:
        if self.kind == "probability":
            return f"P(defect), set on {self.goods} good parts and {self.defects} defects of {self.of}"
        if self.kind == "quantile":
            return f"the share of {self.goods} good parts ({self.of}) that score lower; of defects it promises nothing"
        return "a distance from the good parts; none were held out, so it orders parts and says no more"
