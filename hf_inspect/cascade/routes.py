"""What every policy answers, and the checks a policy read from cascade.json goes through."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

IS_GOOD, IS_DEFECT, UNDECIDED, ASK = 0, 1, -1, -2  # UNDECIDED: nobody may decide; ASK: the VLM is asked


class Routes(NamedTuple):
    """What is said of many parts: codes (n,) of IS_GOOD, IS_DEFECT, UNDECIDED or ASK, and reasons (n,) of str."""

    codes: NDArray[np.int64]
    reasons: NDArray[np.str_]


def settings(cls: Any, owner: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of dataclass `cls` out of a section of cascade.json; missing or unknown keys raise DataError."""
    if not isinstance(values, Mapping):
        raise DataError(f"{owner}: {values!r} came, a table of settings is wanted; calibrate anew.")
    wanted = {f.name for f in fields(cls)}
    given = {key: value for key, value in values.items() if key != "policy"}
    unknown, missing = sorted(set(given) - wanted), sorted(wanted - set(given))
    if unknown or missing:
        raise DataError(
            f"{owner}: unknown keys {unknown}, missing keys {missing}; the keys are {sorted(wanted)}. "
            "Write the file again with 'hf-inspect calibrate'."
        )
    return given


def check_number(owner: str, name: str, value: object, low: float = 0.0, high: float = 1.0) -> None:
    """Refuse a setting that is no finite number in [low, high]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:  # type: ignore[operator]  # `number` has settled the type
        raise DataError(f"{owner}: {name} is {value!r}; a finite number from {low:g} to {high:g} is wanted.")


def check_open(owner: str, name: str, value: float) -> None:
    """Refuse a risk or confidence that is not strictly between 0 and 1."""
    check_number(owner, name, value)
    if not 0.0 < value < 1.0:
        raise DataError(f"{owner}: {name} is {value}; a share strictly between 0 and 1 is wanted, such as 0.05.")
