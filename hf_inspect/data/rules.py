"""How any data set is built, whatever its own options: what is read how, what counts as one picture, what stops it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hf_inspect.errors import DataError
from hf_inspect.reading import MAX_PIXELS, Reading

Near = Literal["normal", "strict", "off"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What `build` does with any raw folder; all of it is part of what the built folder depends on.

    `max_pixels`: an image of more is left out, from its header. `bits`: how many bits of a 16-bit value carry the
    picture; None finds the fewest that hold all that occur. `near`: images that count as one picture `normal`ly look
    the same; by `strict` their grain is the same as well, so that parts before a fixed camera are not copies of each
    other; by `off` their bytes are. `on_conflict`: images of equal bytes under several classes are refused (refuse),
    or all of them left out (drop). `fold` (`1/2`): that part of train stands under calibration (see `folds`).
    """

    max_pixels: int = MAX_PIXELS
    bits: int | None = None
    near: Near = "normal"
    on_conflict: str = "refuse"
    fold: str | None = None

    def __post_init__(self) -> None:
        Reading(self.bits, self.max_pixels)  # which says what is wrong with either
        if self.near not in get_args(Near):
            raise DataError(f"--near {self.near} is not known; use one of {', '.join(get_args(Near))}.")
        if self.on_conflict not in ("refuse", "drop"):
            raise DataError(f"--on-conflict {self.on_conflict} is not known; use refuse or drop.")
        if self.fold is not None:
            fold_of(self.fold)


def fold_of(text: str) -> tuple[int, int]:
    """`1/2` -> the number of a fold, from 1, and how many there are; DataError for what is none."""
    number, _, k = text.partition("/")
    if not (number.isdecimal() and k.isdecimal() and 1 <= int(number) <= int(k) and int(k) >= 2):
        raise DataError(f"--fold {text!r} is no fold; the first of two is 1/2.")
    return int(number), int(k)


def evidence(builder: Mapping[str, Any]) -> Near:
    """How the images of a built data set are compared with others, by the `builder` of its manifest.

    By its own rule `near`; where a group rule has said that what looks the same may be two parts, `strict`ly.
    """
    near: Near = builder.get("rules", {}).get("near", "normal")
    return "strict" if near == "normal" and builder.get("options", {}).get("group_rule") else near
