"""JSON lines that `ground` wrote, or that were edited since -> all that is wrong in them, with its row and a remedy.

Answers are read back as a model's are, by `prompts.read_answer`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_inspect import files, prompts
from hf_inspect.console import plain, shown
from hf_inspect.data.build import MANIFEST
from hf_inspect.data.coco.entries import leads_out, looked
from hf_inspect.data.coco.rules import Finding, Rule, by_rule
from hf_inspect.errors import DataError, ParseError

ROW_RULES: Mapping[str, Rule] = {
    "row-form": Rule(
        "a line is no JSON object with one image, prompt, completion, width and height", "write the line again",
    ),
    "image-outside": Rule("an image's path leads out of the folder", "name it by its path below --images"),
    "image-missing": Rule("an image is not there", "give its folder as --images, or write the rows again"),
    "image-broken": Rule("an image cannot be read", "write the rows again"),
    "image-size": Rule(
        "an image is not of the size that its row states, so that its boxes lie elsewhere", "write the rows again",
    ),
    "image-twice": Rule("rows of one image answer differently", "keep the row that is right"),
    "prompt-other": Rule(
        "a prompt is not the question of manifest.json: a model would be asked otherwise than it was trained",
        "write the rows again, with the wording that is wanted",
    ),
    "answer-unreadable": Rule("an answer cannot be read", "mend it; an image that shows nothing is answered with []"),
    "answer-cut": Rule("an answer breaks off", "write it to its end"),
    "answer-left-out": Rule("an answer holds an object that is no thing", "give it a label and a box with area"),
    "box-mended": Rule("a box reaches outside its image, or has its corners reversed", "put it right"),
    "label-other": Rule("a label is no class of the data set", "spell it as a class, or build with that class"),
    "answer-form": Rule(
        "an answer is not written as they are written for training, by its order, numbers or spaces",
        "write the rows again if models are to answer in one form", wrong=False,
    ),
}  # fmt: skip
_PARTS = {"images", "prompt", "completion", "width", "height"}


@dataclass(frozen=True, slots=True)
class RowsChecked:
    """What was found in a file of rows: how many it has, and things in their answers by label."""

    name: str
    rows: int
    labels: Mapping[str, int]
    findings: Sequence[Finding]

    @property
    def wrong(self) -> list[Finding]:
        """The findings that rows must not have; the others are told of."""
        return [one for one in self.findings if ROW_RULES[one.rule].wrong]

    def table(self) -> str:
        """The findings by rule, with the first of each, and what to do."""
        named = ", ".join(f"{n:,} {plain(name)}" for name, n in self.labels.items()) or "none"
        n = len(self.wrong)
        verdict = f"{n:,} {'thing is' if n == 1 else 'things are'} wrong" if n else "valid"
        head = f"{self.name}: {self.rows:,} rows, {sum(self.labels.values()):,} things ({named})"
        return "\n".join([head, *by_rule(self.findings, ROW_RULES), verdict])

    def to_dict(self) -> dict[str, Any]:
        """All findings, as JSON has them, with counts by rule."""
        return {
            "file": self.name,
            "counts": {"rows": self.rows, "things": dict(self.labels)},
            "valid": not self.wrong,
            "rules": dict(Counter(one.rule for one in self.findings).most_common()),
            "findings": [one.to_dict(ROW_RULES) for one in self.findings],
        }


def validate_rows(path: Path, images: Path) -> RowsChecked:
    """Hold a file of JSON lines against every rule, and against its images below `images`.

    The question, its classes and its frame are those of manifest.json beside the file. DataError where that is not
    there or not of such rows, and for a file without a line.
    """
    stated = files.read_json(path.parent / MANIFEST)
    if not isinstance(stated, dict) or "grounding" not in stated:
        raise DataError(
            f"{path.parent / MANIFEST} is not of rows that say where things are; give a file of `data ground`."
        )
    question = prompts.Grounding.from_dict(stated["grounding"], path.parent / MANIFEST)
    checker, rows = _Checker(question, images), 0
    for number, line in enumerate(files.read_text(path).split("\n"), 1):  # `splitlines` would cut texts, too
        if line.strip():
            checker.check(f"row {number}", line)
            rows += 1
    if not rows:
        raise DataError(f"{path} holds no row; write it again with 'hf-inspect data ground'.")
    named = Counter({name: checker.labels[name] for name in question.task.classes}) | checker.labels
    return RowsChecked(path.name, rows, dict(named), checker.findings)


class _Checker:
    """What was found in the rows so far."""

    def __init__(self, question: prompts.Grounding, images: Path) -> None:
        if not images.is_dir():
            raise DataError(f"{images} is no folder; give the one that the images lie in as --images.")
        self.question, self.images = question, images
        self.asked = prompts.ground(question)["prompt"]
        self.findings, self.labels = list[Finding](), Counter[str]()
        self.answers: dict[str, tuple[str, str]] = {}

    def check(self, where: str, line: str) -> None:
        row = _row(line)
        if row is None:
            self.findings.append(Finding("row-form", where, "", shown(line)))
            return
        image, (width, height) = row["images"][0], (row["width"], row["height"])
        found = [*self._of_image(image, (width, height)), *self._of_prompt(row["prompt"])]
        answer = _text(row["completion"])
        view = prompts.View((height, width), (height, width), self.question.frame)
        found += self._of_answer(answer, view)
        first, told = self.answers.setdefault(image, (where, answer))
        found += [("image-twice", f"{first} answers {shown(told)}")] if told != answer else []
        self.findings += [Finding(rule, where, image, what) for rule, what in found]

    def _of_image(self, name: str, stated: tuple[int, int]) -> Iterator[tuple[str, str]]:
        path = self.images / name
        if leads_out(name):
            yield "image-outside", "not opened"
        elif not path.is_file():
            yield "image-missing", f"not in {self.images}"
        else:
            try:
                size, _ = looked(path)
            except DataError as error:
                yield "image-broken", str(error)
            else:
                if size != stated:
                    yield "image-size", f"{stated[0]} x {stated[1]}, the file's {size[0]} x {size[1]}"

    def _of_prompt(self, prompt: Any) -> Iterator[tuple[str, str]]:
        if prompt != self.asked:
            yield "prompt-other", shown(_text(prompt[-1:]))

    def _of_answer(self, answer: str, view: prompts.View) -> Iterator[tuple[str, str]]:
        try:
            read = prompts.read_answer(answer, view)
        except ParseError as error:
            yield "answer-unreadable", str(error)
            return
        self.labels.update(one.name for one in read.said)
        if read.cut:
            yield "answer-cut", f"after {len(read.said)} things"
        yield from (("answer-left-out", why) for why in read.left_out)
        yield from (("box-mended", what) for what in read.mended)
        strange = dict.fromkeys(one.name for one in read.said if one.name not in self.question.task.classes)
        yield from (("label-other", shown(name)) for name in strange)
        described = any(one.description for one in read.said)
        if prompts.render_answer(read.said, view, describe=described) != answer:
            yield "answer-form", shown(answer)


def _row(line: str) -> dict[str, Any] | None:
    """A line's row, None where it has not the form of one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not set(row) >= _PARTS or not isinstance(row["images"], list):
        return None
    sizes = all(type(row[name]) is int and row[name] > 0 for name in ("width", "height"))
    one = len(row["images"]) == 1 and isinstance(row["images"][0], str)
    texts = all(isinstance(row[name], list) and _text(row[name]) for name in ("prompt", "completion"))
    return row if sizes and one and texts else None


def _text(messages: Any) -> str:
    """The text of messages; empty where they have not the form of such."""
    try:
        return "".join(part.get("text") or "" for one in messages for part in one["content"])
    except (AttributeError, KeyError, TypeError):
        return ""
