"""A split of a built data set + predictors -> a row of answers an image: the one loop that calibration and reports
rest on. Images are streamed and not kept; rows are appended as they come, so a run that was killed goes on.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.cascade import complexity as complexity_of
from hf_inspect.errors import DataError
from hf_inspect.faults import each, reason
from hf_inspect.images import Reading
from hf_inspect.prefetch import prefetched
from hf_inspect.schema import Prediction, Predictor, Progress, TaskSpec, no_progress

_AT_ONCE = 64  # images decoded and held in memory together
Row = dict[str, Any]  # source, class, label, group, complexity, and of each predictor its answer; or error


@dataclass(frozen=True, slots=True)
class Answers:
    """One predictor's answers to n images: severity (n,), NaN where it could not be read, and class probabilities
    (n, k) in the order of the data set's task.
    """

    severity: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def __getitem__(self, which: Any) -> "Answers":
        """The answers to some of the images."""
        return Answers(self.severity[which], self.probabilities[which])


@dataclass(frozen=True, slots=True)
class Scores:
    """The readable images of a split: class ids in the order of `task`, group ids, complexity in [0, 1] (NaN: not
    asked for), and `answers` by predictor. `numbers` are their places in the split; `file` holds a row of every image,
    after a first line that says what was asked (`rows`).
    """

    task: TaskSpec
    file: Path
    numbers: NDArray[np.int64]
    sources: list[str]
    classes: NDArray[np.int64]
    groups: NDArray[np.int64]
    complexity: NDArray[np.float64]
    answers: dict[str, Answers]
    not_scored: list[dict[str, str]]
    begun: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """1 where the class is a defect, 0 where it is good -> (n,)."""
        return self.task.is_defect[self.classes].astype(np.int64)

    def rows(self) -> Iterator[Row]:
        """What the file holds of every image of the split, in order."""
        return _rows(self.file)


def run(
    predictors: Mapping[str, Predictor],
    data: Path,
    split: str,
    out: Path,
    *,
    fitting: bool = False,
    complexity: bool = False,
    progress: Progress = no_progress,
) -> Scores:
    """Ask the predictors, by name, about every image of a split; `out` is the file of rows to go on from.

    LeakageError when one of them, or an ancestor, was trained on any of the images; `fitting` lifts that refusal, for
    choosing settings on the validation split, whose images stopped the training. DataError when a predictor answers
    another question than the data set asks, or was made of images read otherwise, or `out` is of another run. An image
    that cannot be read is a row with its reason, and so is the answer of a predictor that fails at one. `complexity`
    adds that of every image. `progress` counts images.
    """
    task = sets.read_task(data)
    for name, one in predictors.items():
        task.refuse_model(one.task, f"The data set {data.name}", _called(name))
        sets.read_reading(data).refuse_model(one.reading, f"The data set {data.name}", _called(name))
    if not fitting:
        for name, one in predictors.items():
            sets.refuse_seen(one.history, data, split, _called(name))
    manifest = sets.read_head(data)
    place = "/".join(sets.place_of(manifest, split))
    stated = {"data": manifest["fingerprint"], "split": place, "task": task.to_dict(), "complexity": complexity}
    stated["predictors"] = {name: one.identity for name, one in predictors.items()}
    begun, done = _resume(out, stated)
    for rows in _answered(predictors, task, data, split, done, complexity):
        with out.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        done += len(rows)
        progress(f"{split}, {' and '.join(predictors)}", done, sets.count(data, split))
    return _scores(task, out, list(predictors), begun, f"{data} {split}")


def read_rows(path: Path) -> list[Row]:
    """Rows of a file of JSON lines such as calibration.jsonl; DataError when it is missing or broken."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run 'hf-inspect calibrate' again.") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON lines."""
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _answered(
    predictors: Mapping[str, Predictor], task: TaskSpec, data: Path, split: str, done: int, complexity: bool
) -> Iterator[list[Row]]:
    """Rows some at a time, from image number `done` on; the next images are decoded while the predictors run."""
    column, decoded = sets.class_column(task), partial(_decoded, reading=sets.read_reading(data))
    batches = sets.stream(data, split, ["image", column, "group"], _AT_ONCE, start=done)
    for batch, loaded in prefetched(decoded, batches):
        rows = [_row(one, task, column) for one in batch]
        read = [i for i, image in enumerate(loaded) if isinstance(image, np.ndarray)]
        for i, image in enumerate(loaded):
            if isinstance(image, str):
                rows[i]["error"] = image
            elif complexity:
                rows[i]["complexity"] = complexity_of(image)
        pixels: list[Any] = [loaded[i] for i in read]
        for name, one in predictors.items() if read else ():
            order = task.order_in(one.task) if set(task.classes) == set(one.task.classes) else None
            found = each(one.predict, pixels, _failed)
            for i, answer in zip(read, found, strict=True):
                rows[i][name] = _in_order(answer.to_dict(), order)
        yield rows


def _failed(image: images.Rgb, error: Exception) -> Prediction:
    """The answer of a predictor that failed at an image."""
    return Prediction(None, unreadable=reason(error))


def _decoded(batch: list[Row], reading: Reading) -> tuple[list[Row], list[images.Rgb | str]]:
    """The batch, and each image's pixels or why it cannot be read."""
    loaded: list[images.Rgb | str] = []
    for row in batch:
        try:
            loaded.append(images.load(row["image"]["bytes"], reading).rgb)
        except DataError as error:
            loaded.append(str(error))
    return batch, loaded


def _row(one: Row, task: TaskSpec, column: str) -> Row:
    name = one[column]
    return {"source": one["image"]["path"], "class": name, "label": task.disposition(name), "group": one["group"]}


def _in_order(answer: Row, order: Sequence[int] | None) -> Row:
    """An answer with its class probabilities in the data set's order; without them where its classes are others."""
    p = answer.pop("probabilities", None)
    return answer if p is None or order is None else answer | {"probabilities": [p[i] for i in order]}


def _called(name: str) -> str:
    """A predictor in a sentence: of a cascade which part, else the model that was asked about."""
    return f"the {name}" if name in ("edge", "vlm") else "the model"


def _resume(out: Path, stated: Mapping[str, Any]) -> tuple[str, int]:
    """Which run a file of scores is of, and how many rows it holds; a torn last line is cut off, a new file begun."""
    if not out.exists() or not out.stat().st_size:
        head = {**stated, "begun": uuid4().hex}
        files.write_text(out, json.dumps(head) + "\n")
        return str(head["begun"]), 0
    whole, rows, head = 0, -1, {}  # the first line is no row
    try:
        with out.open("rb") as lines:
            for line in filter(lambda one: one.endswith(b"\n"), lines):
                found, whole, rows = json.loads(line), whole + len(line), rows + 1
                head = head if rows else found
        before = {key: head[key] for key in (*stated, "begun")}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{out} holds no scores that can be gone on from; give another --out, or delete it.") from None
    if changed := [key for key, value in stated.items() if before[key] != json.loads(json.dumps(value))]:
        raise DataError(
            f"{out} holds the scores of another run (other {', '.join(changed)}); give another --out, or delete it."
        )
    os.truncate(out, whole)
    return str(head["begun"]), rows


def _scores(task: TaskSpec, out: Path, names: Sequence[str], begun: str, where: str) -> Scores:
    """A file of scores as arrays, a row at a time; DataError when none of the images could be read."""
    held: dict[Any, list[Any]] = defaultdict(list)
    nothing = [np.nan] * len(task.classes)
    for number, row in enumerate(_rows(out)):
        if "error" in row:
            held["not_scored"].append({"source": row["source"], "reason": row["error"]})
            continue
        held["number"].append(number)
        held["source"].append(row["source"])
        held["class"].append(task.index(row["class"]))
        held["group"].append(row["group"])
        held["complexity"].append(row.get("complexity", np.nan))
        for name in names:
            held[name, "severity"].append(row[name].get("severity", np.nan))
            held[name, "p"].append(row[name].get("probabilities", nothing))
    if not held["number"]:
        raise DataError(f"None of the {len(held['not_scored'])} images of {where} could be read; build it again.")
    return Scores(
        task=task,
        file=out,
        numbers=np.array(held["number"], np.int64),
        sources=held["source"],
        classes=np.array(held["class"], np.int64),
        groups=np.array(held["group"], np.int64),
        complexity=np.array(held["complexity"], np.float64),
        answers={
            name: Answers(*(np.array(held[name, key], np.float64) for key in ("severity", "p"))) for name in names
        },
        not_scored=held["not_scored"],
        begun=begun,
    )


def _rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, islice(lines, 1, None))
