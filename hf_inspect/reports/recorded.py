"""Answers of a VLM that somebody recorded, as a `Predictor` over the images of a built data set.

Nobody recorded how sure it was: each thing it says has the score 1.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.console import shown
from hf_inspect.errors import DataError, ParseError
from hf_inspect.images import Rgb
from hf_inspect.prompts import PIXELS, View
from hf_inspect.prompts.reading import read_answer
from hf_inspect.reading import Reading
from hf_inspect.reports.asked import Asked, things_task
from hf_inspect.reports.evaluate import VALIDATION
from hf_inspect.schema import Finding, History, Prediction, TaskSpec

_KEYS, _SHOWN = {"image", "answer"}, "shown"
_LIKE = '{"image": "a/1.jpg", "answer": "[...]"}, and may have "shown": [height, width]'
_NO_ANSWER = "no answer about this image was recorded"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was said of an image, and at how many pixels (height, width) it was shown; None: at its own."""

    text: str
    shown: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """Says of an image what was recorded of it; `answers` are by the SHA-256 of its pixels, boxes in `frame`."""

    task: TaskSpec
    frame: str
    identity: str
    history: History
    answers: Mapping[str, _Answer]
    reading: Reading | None = None

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """What was said of each image, in order; unreadable where nothing was."""
        return [self._said(one, self.answers.get(_key(one))) for one in images]

    def _said(self, rgb: Rgb, answer: _Answer | None) -> Prediction:
        if answer is None:
            return Prediction(None, unreadable=_NO_ANSWER, findings=())
        size = rgb.shape[0], rgb.shape[1]
        try:
            read = read_answer(answer.text, View(size, answer.shown or size, self.frame))
        except ParseError as error:
            return Prediction(None, unreadable=str(error), findings=())
        found = tuple(Finding(one.name, 1.0, one.box, description=one.description) for one in read.said)
        bad = any(one.name not in self.task.good for one in found)
        broke = f"the answer breaks off after {len(found)} objects"
        notes = (*read.left_out, *read.mended, *((broke,) if read.cut else ()))
        if read.cut and not bad:
            return Prediction(None, unreadable=broke, findings=found, notes=notes)
        return Prediction(float(bad), findings=found, notes=notes)


def recorded(path: Path, data: Path, split: str, frame: str = PIXELS) -> Asked:
    """Who gave the answers of a file, JSON lines or a JSON list of {"image", "answer"}, as one who can be measured.

    An image is called as the data set calls it, or by a path that ends so. Its answer's boxes are in pixels of the
    image as it was `shown` (at its own size where that is not said), or in thousandths: `frame`. DataError for a file
    that is none, that has two answers of one image, or none of any image of the split.
    """
    answers = dict(_read(path))
    tails = {end: name for name in answers for end in _ends(name)}
    manifest = sets.read_head(data)
    config, name = sets.place_of(manifest, split)
    places = dict.fromkeys([f"{config}/{one}" for one in (name, VALIDATION) if one in manifest["counts"][config]])
    by_pixels, used, own = dict[str, _Answer](), dict[str, str](), 0
    for place in places:
        for source, key in _pixels(data, place):
            if (called := _called(source, answers, tails)) is None:
                continue
            if used.setdefault(called, source) != source:
                raise DataError(f"{path} says {called}, which may be {used[called]} or {source}; say more of its path.")
            by_pixels[key] = answers[called]
            own += place == f"{config}/{name}"
    if not own:
        raise DataError(f"{path} has no answer about an image of {data.name} {split}; it names {_some(answers)}.")
    identity = hashlib.sha256(json.dumps([files.sha256(path), frame]).encode()).hexdigest()
    model = Recorded(things_task(data), frame, identity, History(unknown=(path.name,)), by_pixels)
    stated = {"file": path.name, "answers": len(answers), "of_no_image": len(answers) - len(used), "frame": frame}
    return Asked(model, path.name, {"recorded": stated}, timed=False)


def _read(path: Path) -> Iterator[tuple[str, _Answer]]:
    """The answers by the names of their images."""
    if not path.is_file():
        raise DataError(f"{path} is missing; give a file of recorded answers, each {_LIKE}.")
    text, seen = files.read_text(path), set[str]()
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else [*map(json.loads, filter(None, _lines(text)))]
    except ValueError as error:
        raise DataError(f"{path} is neither a JSON list nor JSON lines ({error}); each is {_LIKE}.") from None
    for number, one in enumerate(listed, 1):
        if not isinstance(one, dict) or not _KEYS <= set(one) <= _KEYS | {_SHOWN} or not _texts(one):
            raise DataError(f"{path}: answer {number} is {shown(one)}; wanted is {_LIKE}.")
        name = one["image"].replace("\\", "/").removeprefix("./")
        if name in seen:
            raise DataError(f"{path}: answer {number} is the second one about {name}; leave one of them out.")
        seen.add(name)
        yield name, _Answer(one["answer"], tuple(one[_SHOWN]) if _SHOWN in one else None)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def _texts(one: Mapping[str, Any]) -> bool:
    sides = one.get(_SHOWN, [1, 1])
    sized = isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
    return sized and all(isinstance(one[key], str) for key in _KEYS)


def _pixels(data: Path, place: str) -> Iterator[tuple[str, str]]:
    """Of each image of a split that can be read, its name and the SHA-256 of its pixels."""
    reading = sets.read_reading(data)
    for batch in sets.stream(data, place, ["image"]):
        for row in batch:
            try:
                rgb = images.load(row["image"]["bytes"], reading).rgb
            except DataError:
                continue
            yield row["image"]["path"], _key(rgb)


def _key(rgb: Rgb) -> str:
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()


def _called(source: str, answers: Mapping[str, _Answer], tails: Mapping[str, str]) -> str | None:
    """What the answers call an image: its name or the end of that; or a path that ends in its name."""
    return next((end for end in _ends(source) if end in answers), tails.get(source))


def _ends(name: str) -> list[str]:
    """A path and what is left of it without its first folders, the longest first."""
    parts = PurePosixPath(name).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _some(answers: Mapping[str, _Answer]) -> str:
    return ", ".join(list(answers)[:3]) or "no image"
