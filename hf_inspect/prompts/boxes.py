"""Things in an image as a VLM says them: a JSON list of boxes, labels and descriptions, in the family's own frame.

`render_answer` writes what `prompts.reading.read_answer` reads.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_inspect.errors import DataError
from hf_inspect.schema import Box

THOUSANDTHS, PIXELS = "thousandths", "pixels"  # shares of the image in thousandths; pixels of it as it is shown
FRAMES = (THOUSANDTHS, PIXELS)
BOX, LABEL, DESCRIPTION = "bbox_2d", "label", "description"  # keys of an answer's objects, as Qwen has them
_WHOLE = 1000


class Named(Protocol):
    """What an answer tells of: a `Thing`, a `Finding`."""

    @property
    def name(self) -> str:
        """Its class."""
        ...

    @property
    def box(self) -> Box:
        """x0, y0, x1, y1 in pixels of the upright original image."""
        ...

    @property
    def description(self) -> str:
        """What is said of it besides; may be empty."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """An image of `size` pixels (height, width), shown to a VLM at `shown` pixels; `frame` is one of `FRAMES`.

    Boxes are said as whole numbers of the frame: 0 to 1000 of either side (Qwen2-VL, Qwen3-VL, and whoever has none of
    its own), or pixels of the image as it is shown (Qwen2.5-VL).
    """

    size: tuple[int, int]
    shown: tuple[int, int]
    frame: str = THOUSANDTHS

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise DataError(f"The frame of boxes is {self.frame!r}; there are {', '.join(FRAMES)}.")

    @property
    def units(self) -> tuple[int, int]:
        """The image's width and height in units of the frame."""
        return (_WHOLE, _WHOLE) if self.frame == THOUSANDTHS else (self.shown[1], self.shown[0])

    def numbers(self, box: Box) -> tuple[int, int, int, int]:
        """A box in pixels of the original -> whole numbers of the frame, one unit wide and high at least."""
        (wide, high), (height, width) = self.units, self.size
        x0, x1 = _sides(box[0] / width * wide, box[2] / width * wide, wide)
        y0, y1 = _sides(box[1] / height * high, box[3] / height * high, high)
        return x0, y0, x1, y1

    def box(self, numbers: Sequence[float]) -> Box:
        """Numbers of the frame -> a box in pixels of the original."""
        (wide, high), (height, width) = self.units, self.size
        x0, y0, x1, y1 = numbers
        return x0 / wide * width, y0 / high * height, x1 / wide * width, y1 / high * height


def render_answer(things: Sequence[Named], view: View, *, describe: bool = False) -> str:
    """The answer that tells of things, in the order of their upper left corners: rows first; `[]` where there is none.

    With `describe`, what has a description brings it.
    """
    told = sorted(((view.numbers(one.box), one) for one in things), key=lambda pair: (pair[0][1], pair[0][0]))
    listed = [
        {BOX: list(numbers), LABEL: one.name} | ({DESCRIPTION: one.description} if describe and one.description else {})
        for numbers, one in told
    ]
    return json.dumps(listed, ensure_ascii=False)


def _sides(low: float, high: float, whole: int) -> tuple[int, int]:
    """Both ends of a side in whole units, inside 0 to `whole` and apart."""
    first = min(max(round(low), 0), whole - 1)
    return first, min(max(round(high), first + 1), whole)
