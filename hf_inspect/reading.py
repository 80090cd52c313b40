"""How image files are read: found once for a data set, and the same ever after, from training to the line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_inspect.errors import DataError

MAX_PIXELS = 100_000_000  # 300 MB as RGB; a 20-megapixel camera needs a fifth
DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras whose files hold 16


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file does not say of its pixels, and how many of them there may be.

    `bits`: how many bits of a 16-bit value carry the picture, whose white is then 2 ** bits - 1; None refuses 16-bit
    images, as a data set without any leaves it. `max_pixels`: a larger image is refused from its header.
    """

    bits: int | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.bits is not None and not (_whole(self.bits) and DEPTHS[0] <= self.bits <= DEPTHS[-1]):
            raise DataError(f"bits is {self.bits!r}; wanted is a whole number from {DEPTHS[0]} to {DEPTHS[-1]}.")
        if not _whole(self.max_pixels) or self.max_pixels < 1:
            raise DataError(f"max_pixels is {self.max_pixels!r}; wanted is a whole number above 0.")

    def __str__(self) -> str:
        return "8-bit images alone" if self.bits is None else f"{self.bits} bits of 16-bit images"

    def to_dict(self) -> dict[str, Any]:
        """The reading as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any, where: object) -> "Reading":
        """The reading that the record `where` states; further keys are passed over.

        A record without one (None) is of 8-bit images: whatever it was made of, no 16-bit image is guessed at.
        """
        if value is None:
            return cls()
        wanted = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or not set(wanted) <= set(value):
            raise DataError(f"{where} states the reading {value!r}; wanted are {' and '.join(wanted)}. Make it again.")
        return cls(**{name: value[name] for name in wanted})

    def refuse_other(self, other: "Reading | None", own: str, its: str) -> None:
        """DataError unless `other` gives the pixels that this one does; None is anything's reading.

        `own` and `its` name the two.
        """
        if other is not None and other.bits != self.bits:
            raise DataError(
                f"{own} was made of {self}, {its} of {other}: each would see the other's pixels too dark or too light. "
                "Build both data sets with the same --bits, and train again what was trained on the other."
            )

    def refuse_model(self, model: "Reading | None", own: str, its: str) -> None:
        """`refuse_other`, of a data set's images: those of 8 bits look alike to every model."""
        if self.bits is not None:
            self.refuse_other(model, own, its)


def bits_of(largest: int) -> int:
    """The least of DEPTHS whose values reach `largest`, of 0 to 65535."""
    return next(bits for bits in DEPTHS if largest < 2**bits)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
