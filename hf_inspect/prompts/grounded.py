"""An open question about where things are, its answers, and exemplars as earlier turns: the one rendering of both the
standard and the guided way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError
from hf_inspect.prompts.boxes import FRAMES, THOUSANDTHS, Named, View, render_answer
from hf_inspect.prompts.closed import CANONICAL_SIZE, Message
from hf_inspect.schema import TaskSpec

_TEXT = {  # short: every exemplar repeats it
    "en": (
        "Find: {classes}. Answer with a JSON list, "
        '[{{"bbox_2d": [x0, y0, x1, y1], "label": "..."{described}}}], or [] if there is none.'
    ),
    "zh": (
        "请找出：{classes}。用 JSON 列表回答，"  # noqa: RUF001 - Chinese
        '[{{"bbox_2d": [x0, y0, x1, y1], "label": "..."{described}}}]，没有则为 []。'  # noqa: RUF001 - Chinese
    ),
}
LANGUAGES = tuple(_TEXT)
_BETWEEN = {"en": ", ", "zh": "、"}
_DESCRIBED = ', "description": "..."'


@dataclass(frozen=True, slots=True)
class Grounding:
    """An open question about one image: the things of `task`, and where they are.

    `system` and `text` are what is said, `frame` in which numbers boxes are answered (`boxes.View`), `describe` whether
    descriptions are as well.
    """

    system: str
    text: str
    task: TaskSpec
    frame: str = THOUSANDTHS
    describe: bool = False

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("A question needs a text; this one's is empty.")
        if not self.task.finds:
            raise DataError(f"Where things are is asked of a detection; {self.task} is none.")
        if self.frame not in FRAMES:
            raise DataError(f"The frame of boxes is {self.frame!r}; there are {', '.join(FRAMES)}.")

    @classmethod
    def about(
        cls, task: TaskSpec, frame: str = THOUSANDTHS, language: str = "en", *, describe: bool = False
    ) -> "Grounding":
        """The question about a task's classes in a language, `en` or `zh`."""
        if language not in LANGUAGES:
            raise DataError(f"The language is {language!r}; there are {', '.join(LANGUAGES)}.")
        classes = _BETWEEN[language].join(task.classes)
        text = _TEXT[language].format(classes=classes, described=_DESCRIBED if describe else "")
        return cls("", text, task, frame, describe)

    def to_dict(self) -> dict[str, Any]:
        """The question as plain JSON values, its task beside it."""
        stated = {"system": self.system, "text": self.text, "frame": self.frame, "describe": self.describe}
        return {"task": self.task.to_dict(), "question": stated}

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Grounding":
        """The question that `to_dict` wrote into the record `where`; DataError names what is missing or wrong."""
        stated = value.get("question") if isinstance(value, Mapping) else None
        if not isinstance(stated, Mapping) or set(stated) != {"system", "text", "frame", "describe"}:
            raise DataError(
                f"{where} holds the question {stated!r}, where system, text, frame and describe are wanted; train the "
                "model again with recipes/vlm_ground."
            )
        return cls(task=TaskSpec.from_dict(value.get("task"), where), **stated)


@dataclass(frozen=True, slots=True)
class Told:
    """An image's text side: what it shows, and how it is shown."""

    things: tuple[Named, ...]
    view: View


def ground(question: Grounding, told: Told | None = None, exemplars: Sequence[Told] = ()) -> dict[str, list[Message]]:
    """Chat messages about one image: `{"prompt": [...]}`, plus `"completion"` where it is `told` what it shows.

    Exemplars are asked about and answered in earlier turns, each with its own image before the last one's.
    """
    prompt = [{"role": "system", "content": [_text(question.system)]}] if question.system else []
    for one in exemplars:
        prompt += [_asked(question), _answered(question, one)]
    prompt.append(_asked(question))
    return {"prompt": prompt} if told is None else {"prompt": prompt, "completion": [_answered(question, told)]}


def canonical_turns(question: Grounding) -> list[dict[str, list[Message]]]:
    """The fixed samples whose token ids are fingerprinted: asked plainly, and guided by one exemplar."""
    width, height = CANONICAL_SIZE
    view = View((height, width), (height, width), question.frame)
    every = [_Sample(name, _CORNER, "?" if question.describe else "") for name in question.task.classes]
    whole, empty = Told(tuple(every), view), Told((), view)
    return [ground(question, whole), ground(question, empty, [whole])]


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str
    box: tuple[float, float, float, float]
    description: str


_CORNER = (0.0, 0.0, CANONICAL_SIZE[0] / 2, CANONICAL_SIZE[1] / 3)


def _asked(question: Grounding) -> Message:
    return {"role": "user", "content": [{"type": "image"}, _text(question.text)]}


def _answered(question: Grounding, told: Told) -> Message:
    return {
        "role": "assistant",
        "content": [_text(render_answer(told.things, told.view, describe=question.describe))],
    }


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
