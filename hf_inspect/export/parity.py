"""The exported folder against the torch student on validation images: what changed, and whether that is too much."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect import images
from hf_inspect.data import class_column, class_ids, load_split, read_reading, stream
from hf_inspect.errors import DataError, ParityError
from hf_inspect.images import Rgb
from hf_inspect.runtime import Engine
from hf_inspect.schema import DEFECT, GOOD, Prediction, TaskSpec
from hf_inspect.students import Student
from hf_inspect.tasks import TASKS

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may change; shares in [0, 1].

    Of all: decisions that flip, |change of P(class)|, correct answers lost. `crossings` is of the defects that newly
    pass and of the good parts that are newly rejected, at each threshold compared. `of_a_class` is of a class's images
    with another likeliest class, one of which may have it. `least` is the fewest images of each side to judge by.
    """

    flips: float
    max_change: float
    accuracy_fall: float
    crossings: float
    of_a_class: float
    least: int


FP32 = Limits(flips=0.0, max_change=1e-3, accuracy_fall=0.0, crossings=0.02, of_a_class=0.0, least=0)
INT8 = Limits(flips=0.01, max_change=1.0, accuracy_fall=0.005, crossings=0.02, of_a_class=0.05, least=10)


def refuse_few(student: Student, data: Path, split: str, limits: Limits) -> None:
    """DataError when a split has too few good images or defects to judge an export by; a warning when it lacks a side.

    Looked at before anything is exported.
    """
    rows = load_split(data, split)
    defects = int(student.task.is_defect[class_ids(rows, student.task)].sum())
    counts = {GOOD: len(rows) - defects, DEFECT: defects}
    if few := [f"{n} {side}" for side, n in counts.items() if n < limits.least]:
        raise DataError(
            f"{split} of {data} holds {' and '.join(few)} images, and an INT8 export is judged by at least "
            f"{limits.least} of each; build the data set with a larger share for {split}, or export FP32."
        )
    if missing := [side for side, n in counts.items() if not n]:
        warnings.warn(f"{split} of {data} holds no {missing[0]} image: how the export answers these was not compared.",
                      stacklevel=3)  # fmt: skip


def compare(engine: Engine, student: Student, data: Path, split: str, limits: Limits) -> dict[str, Any]:
    """Run both on every image of a split, some at a time -> what `TASKS` compares, the split and the limits."""
    found = compared(engine, partial(predict, student), student.task, data, split)
    return {"split": split, **found, "limits": asdict(limits)}


def compared(
    engine: Engine, model: Callable[[Sequence[Rgb]], list[Prediction]], task: TaskSpec, data: Path, split: str
) -> dict[str, Any]:
    """What `TASKS` says of a model's answers (`task` is of its classes) and its export's, on every image of a split."""
    column, reading = class_column(task), read_reading(data)
    classes: list[int] = []
    before: list[Prediction] = []
    after: list[Prediction] = []
    for rows in stream(data, split, ["image", column], _BATCH):
        classes += [task.index(row[column]) for row in rows]
        rgbs = [images.load(row["image"]["bytes"], reading).rgb for row in rows]
        before += model(rgbs)
        after += engine.predict(rgbs)
    return TASKS[engine.task.kind].compare(task, np.array(classes), before, after)


def refuse_beyond(report: dict[str, Any], limits: Limits, student: Path) -> None:
    """Raise ParityError naming every limit that a report of `compare` breaks."""
    k, n = report["flips"]["k"], report["flips"]["n"]
    lost = report["accuracy"]["before"]["k"] - report["accuracy"]["after"]["k"]
    broken = []
    if k > limits.flips * n:
        broken.append(f"{k} of {n} decisions flip ({k / n:.2%}; limit {limits.flips:.2%})")
    broken += [*_crossings_beyond(report, limits.crossings), *_classes_beyond(report, limits.of_a_class)]
    if not report["max_change"] <= limits.max_change:
        broken.append(f"P(class) changes by up to {report['max_change']:.2g} (limit {limits.max_change:.2g})")
    if lost > limits.accuracy_fall * n:
        broken.append(f"accuracy falls by {lost} of {n} ({lost / n:.2%}; limit {limits.accuracy_fall:.2%})")
    if broken:
        raise ParityError(
            f"The export of {student} does not answer as the student does on validation images: "
            f"{'; '.join(broken)}. Nothing was written; keep FP32, or train the student further."
        )


def described(report: dict[str, Any]) -> str:
    """A report of `compare`, in a line a figure."""
    lines = [f"{report['flips']['k']} of {report['flips']['n']} decisions on {report['split']} flip"]
    lines += [
        f"at severity {one['at']:.3g} ({one['why']}): {_counted(one['passed'])} defects newly pass, "
        f"{_counted(one['rejected'])} good parts are newly rejected"
        for one in report["thresholds"]
    ]
    return "\n".join([*lines, f"P(class) changes by up to {report['max_change']:.2g}"])


def _crossings_beyond(report: dict[str, Any], limit: float) -> Iterator[str]:
    for one in report["thresholds"]:
        for what, words in (("passed", "defects newly pass"), ("rejected", "good parts are newly rejected")):
            if one[what]["k"] > limit * one[what]["n"]:
                yield f"{_counted(one[what])} {words} at severity {one['at']:.3g} ({one['why']}; limit {limit:.0%})"


def _classes_beyond(report: dict[str, Any], limit: float) -> Iterator[str]:
    for name, one in report["classes"].items():
        if one["k"] > max(limit * one["n"], 1 if limit else 0):
            yield f"{_counted(one)} images of {name} are taken for another class (limit {limit:.0%}, or one)"


def _counted(rate: dict[str, Any]) -> str:
    """`3 of 60 (5.0%; 1.0% to 13.9%)`: a rate with its 95 % interval."""
    if rate["value"] is None:
        return "0 of 0"
    return f"{rate['k']} of {rate['n']} ({rate['value']:.1%}; {rate['low']:.1%} to {rate['high']:.1%})"


def predict(student: Student, rgbs: list[Rgb]) -> list[Prediction]:
    """The torch student's answers in fp32, decoded as the runtime decodes its own."""
    import torch

    inputs = np.stack([images.prepare(rgb, student.preprocess) for rgb in rgbs])
    with torch.inference_mode():
        logits = student.model(pixel_values=torch.from_numpy(inputs)).logits
    return TASKS[student.task.kind].decode(logits.double().numpy(), student.task)
