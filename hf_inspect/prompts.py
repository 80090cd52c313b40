"""A question and its answers as chat messages, and back: `render` and `parse` are inverses.
The fingerprint says which token ids training saw; inference that would render others refuses to run.
Tasks are values; the text of each stands once, here.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_inspect.errors import DataError, ParseError

Message = dict[str, Any]  # {"role": str, "content": [{"type": "image"} | {"type": "text", "text": str}, ...]}
CANONICAL_SIZE = (300, 300)  # width, height in pixels of the image that the fingerprint's sample shows


@dataclass(frozen=True, slots=True)
class Task:
    """One closed question about one image; `options[i]` is the answer for class i."""

    system: str
    question: str
    options: tuple[str, ...] = ("good", "defect")

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DataError("A task needs a question; this one's text is empty.")
        if len(self.options) < 2 or len(set(self.options)) != len(self.options):
            raise DataError(f"A task needs two or more different options, got {list(self.options)}.")
        if wrong := [option for option in self.options if not option or option != option.strip()]:
            raise DataError(f"Options must be words without spaces around them, got {wrong}.")

    def to_dict(self) -> dict[str, Any]:
        """The task as plain JSON values."""
        return asdict(self) | {"options": list(self.options)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Task":
        """The task that `to_dict` wrote; a missing or unknown key is a DataError."""
        if set(value) != {"system", "question", "options"}:
            raise DataError(f"A task has the keys system, question and options, got {sorted(value)}.")
        return cls(value["system"], value["question"], tuple(value["options"]))


SOLAR_CELL = Task(
    system="You inspect solar cells.",
    question="Is this cell good or defective? Answer good or defect.",
)


def render(task: Task, label: int | None = None) -> dict[str, list[Message]]:
    """Chat messages of one image's question: `{"prompt": [...]}`, plus `"completion"` when the class id is given."""
    user = [{"type": "image"}, {"type": "text", "text": task.question}]
    prompt = [{"role": "system", "content": [{"type": "text", "text": task.system}]}] if task.system else []
    prompt.append({"role": "user", "content": user})
    if label is None:
        return {"prompt": prompt}
    if not 0 <= label < len(task.options):
        raise DataError(f"Class {label} has no answer; the task has {len(task.options)} options.")
    answer = [{"type": "text", "text": task.options[label]}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def parse(task: Task, text: str) -> int:
    """Class id of an answer. Only an option, as written, with space around it is read; all else is a ParseError."""
    answer = text.strip()
    if answer not in task.options:
        raise ParseError(
            f"The answer {text!r} is none of {list(task.options)}; rank the options instead of reading it."
        )
    return task.options.index(answer)


def canonical(task: Task) -> dict[str, list[Message]]:
    """The fixed sample whose token ids are fingerprinted: the question, answered with the last option."""
    return render(task, len(task.options) - 1)


def fingerprint(token_ids: Sequence[int], image_token_id: int, image_rule: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the ids, each run of image tokens collapsed to one, and the image-size rule."""
    content = {"ids": collapse(token_ids, image_token_id), "image_rule": dict(image_rule)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def collapse(token_ids: Sequence[int], image_token_id: int) -> list[int]:
    """The ids with each run of image tokens shortened to one."""
    ids = [int(i) for i in token_ids]
    return [i for at, i in enumerate(ids) if i != image_token_id or at == 0 or ids[at - 1] != image_token_id]


def text_diff(trained: str, now: str) -> str:
    """A line-by-line difference for an error message; says so when only invisible parts differ."""
    lines = difflib.unified_diff(trained.splitlines(), now.splitlines(), "trained", "now", lineterm="", n=1)
    return "\n".join(lines) or "(the text is the same; the tokenizer or the image-size rule differs)"
