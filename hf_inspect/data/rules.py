"""How any data set is built, whatever its own options: what is read how, what counts as one picture, what stops it."""

from dataclasses import dataclass

from hf_inspect.errors import DataError
from hf_inspect.reading import MAX_PIXELS, Reading


@dataclass(frozen=True, slots=True)
class Rules:
    """What `build` does with any raw folder; all of it is part of what the built folder depends on.

    `max_pixels`: an image of more is left out, from its header. `bits`: how many bits of a 16-bit value carry the
    picture; None finds the fewest that hold all that occur. `on_conflict`: images of equal bytes under several classes
    are refused (refuse), or all of them left out (drop).
    """

    max_pixels: int = MAX_PIXELS
    bits: int | None = None
    on_conflict: str = "refuse"

    def __post_init__(self) -> None:
        Reading(self.bits, self.max_pixels)  # which says what is wrong with either
        if self.on_conflict not in ("refuse", "drop"):
            raise DataError(f"--on-conflict {self.on_conflict} is not known; use refuse or drop.")
