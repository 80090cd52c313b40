"""How a VLM is asked about an image."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from hf_inspect.errors import DataError

MODES = ("rank", "generate")
CROPS = (1, 5)
VIEWS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Asking:
    """`rank` compares the options' probabilities, `generate` reads a greedy answer.

    `crops` 5 is a mean over an image's corners and centre, `views` one over its turns by 90 degrees (8: mirrored as
    well), None for what the adapter states; `imgsz` is its side in pixels, None for the processor's own rule;
    `normalise` divides an option's log-probability by its tokens. `batch_size` is of images, and changes speed and
    memory alone.
    """

    mode: str = "rank"
    crops: int = 1
    imgsz: int | None = None
    normalise: bool = False
    batch_size: int = 16
    views: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.crops not in CROPS:
            raise DataError(
                f"mode {self.mode!r} with {self.crops} crops came; modes are rank and generate, crops 1 or 5."
            )
        if self.views not in (None, *VIEWS):
            raise DataError(f"views is {self.views}; give 1, or 2, 4 or 8 of an image's eight turns and mirrors.")
        if self.mode == "generate" and (self.rows != 1 or self.normalise):
            raise DataError(
                "A generated answer has no scores of options; leave crops, views and normalise out, or use rank."
            )
        if self.imgsz is not None and self.imgsz < 1:
            raise DataError(f"imgsz is {self.imgsz}; give the side of the model's images in pixels.")
        if self.batch_size < 1:
            raise DataError(f"batch_size is {self.batch_size}; give the number of images asked about together.")

    @property
    def rows(self) -> int:
        """How many pictures of an image the model is shown."""
        return self.crops * (self.views or 1)

    def with_views(self, stated: int) -> "Asking":
        """The same with the adapter's `stated` views where none were asked for; a generated answer is of one."""
        return self if self.views else replace(self, views=stated if self.mode == "rank" else 1)

    def to_dict(self) -> dict[str, Any]:
        """What changes answers, as plain JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "batch_size"}
