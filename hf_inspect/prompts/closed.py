"""A closed question and its answers as chat messages, and back: `render` and `parse` are inverses.

Questions are values; the text of each stands once, here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError, ParseError
from hf_inspect.schema import BINARY, TaskSpec

Message = dict[str, Any]  # {"role": str, "content": [{"type": "image"} | {"type": "text", "text": str}, ...]}
CANONICAL_SIZE = (300, 300)  # width, height in pixels of the image that the fingerprint's sample shows


@dataclass(frozen=True, slots=True)
class Question:
    """One closed question about one image: `system` and `text` are what is said, a class of `task` the answer."""

    system: str
    text: str
    task: TaskSpec

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("A question needs a text; this one's is empty.")
        if len(self.options) < 2:
            raise DataError(f"A question needs two or more classes to choose from, got {list(self.options)}.")
        if wrong := [option for option in self.options if option != option.strip()]:
            raise DataError(f"The classes of a question are answers without spaces around them, got {wrong}.")

    @property
    def options(self) -> tuple[str, ...]:
        """The answers: the task's classes, in its order."""
        return self.task.classes

    def to_dict(self) -> dict[str, Any]:
        """The question as plain JSON values, its task beside it."""
        return {"task": self.task.to_dict(), "question": {"system": self.system, "text": self.text}}

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Question":
        """The question that `to_dict` wrote into the record `where`; DataError names what is missing or wrong."""
        stated = value.get("question") if isinstance(value, dict) else None
        if not isinstance(stated, dict) or set(stated) != {"system", "text"}:
            raise DataError(
                f"{where} holds the question {stated!r}, where system and text are wanted; it was made by an older "
                "version: train the model again with recipes/vlm_sft."
            )
        return cls(stated["system"], stated["text"], TaskSpec.from_dict(value.get("task"), where))


SOLAR_CELL = Question(
    system="You inspect solar cells.",
    text="Is this cell good or defective? Answer good or defect.",
    task=BINARY,
)


def render(question: Question, class_id: int | None = None) -> dict[str, list[Message]]:
    """Chat messages of one image's question: `{"prompt": [...]}`, plus `"completion"` when the class id is given."""
    user = [{"type": "image"}, {"type": "text", "text": question.text}]
    prompt = [{"role": "system", "content": [{"type": "text", "text": question.system}]}] if question.system else []
    prompt.append({"role": "user", "content": user})
    if class_id is None:
        return {"prompt": prompt}
    if not 0 <= class_id < len(question.options):
        raise DataError(f"Class {class_id} has no answer; the question has {len(question.options)} options.")
    answer = [{"type": "text", "text": question.options[class_id]}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def parse(question: Question, text: str) -> int:
    """Class id of an answer. Only an option, as written, with space around it is read; all else is a ParseError."""
    answer = text.strip()
    if answer not in question.options:
        raise ParseError(
            f"The answer {text!r} is none of {list(question.options)}; rank the options instead of reading it."
        )
    return question.options.index(answer)


def canonical(question: Question) -> dict[str, list[Message]]:
    """The fixed sample whose token ids are fingerprinted: the question, answered with the last option."""
    return render(question, len(question.options) - 1)
