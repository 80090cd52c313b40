"""How a VLM is asked about an image."""

from dataclasses import asdict, dataclass
from typing import Any

from hf_inspect.errors import DataError

MODES = ("rank", "generate")
CROPS = (1, 5)


@dataclass(frozen=True, slots=True)
class Asking:
    """`rank` compares the options' probabilities, `generate` reads a greedy answer.

    `crops` 5 is a mean over an image's corners and centre; `imgsz` its side in pixels, None for the processor's own
    rule; `normalise` divides an option's log-probability by its tokens. `batch_size` is of images, and changes speed
    and memory alone.
    """

    mode: str = "rank"
    crops: int = 1
    imgsz: int | None = None
    normalise: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.crops not in CROPS:
            raise DataError(
                f"mode {self.mode!r} with {self.crops} crops came; modes are rank and generate, crops 1 or 5."
            )
        if self.mode == "generate" and (self.crops != 1 or self.normalise):
            raise DataError("A generated answer has no scores of options; leave crops and normalise out, or use rank.")
        if self.imgsz is not None and self.imgsz < 1:
            raise DataError(f"imgsz is {self.imgsz}; give the side of the model's images in pixels.")
        if self.batch_size < 1:
            raise DataError(f"batch_size is {self.batch_size}; give the number of images asked about together.")

    def to_dict(self) -> dict[str, Any]:
        """What changes answers, as plain JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "batch_size"}
