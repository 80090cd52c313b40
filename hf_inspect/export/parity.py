"""The exported folder against the torch student on validation images: what changed, and whether that is too much."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect import images
from hf_inspect.data import class_column, stream
from hf_inspect.errors import ParityError
from hf_inspect.images import Rgb
from hf_inspect.runtime import Engine
from hf_inspect.schema import Prediction
from hf_inspect.students import Student
from hf_inspect.tasks import TASKS

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may change: share of decisions, |P(class)|, share of correct answers lost; all in [0, 1]."""

    flips: float
    max_change: float
    accuracy_fall: float


FP32 = Limits(flips=0.0, max_change=1e-3, accuracy_fall=0.0)
INT8 = Limits(flips=0.01, max_change=1.0, accuracy_fall=0.005)


def compare(engine: Engine, student: Student, data: Path, split: str, limits: Limits) -> dict[str, Any]:
    """Run both on every image of a split, some at a time -> what `TASKS` compares, the split and the limits."""
    task, column = student.task, class_column(student.task)
    classes: list[int] = []
    before: list[Prediction] = []
    after: list[Prediction] = []
    for rows in stream(data, split, ["image", column], _BATCH):
        classes += [task.index(row[column]) for row in rows]
        rgbs = [images.load(row["image"]["bytes"]).rgb for row in rows]
        before += predict(student, rgbs)
        after += engine.predict(rgbs)
    found = TASKS[task.kind].compare(task, np.array(classes), before, after)
    return {"split": split, **found, "limits": asdict(limits)}


def refuse_beyond(report: dict[str, Any], limits: Limits, student: Path) -> None:
    """Raise ParityError naming every limit that a report of `compare` breaks."""
    k, n = report["flips"]["k"], report["flips"]["n"]
    lost = report["accuracy"]["before"]["k"] - report["accuracy"]["after"]["k"]
    broken = []
    if k > limits.flips * n:
        broken.append(f"{k} of {n} decisions flip ({k / n:.2%}; limit {limits.flips:.2%})")
    if not report["max_change"] <= limits.max_change:
        broken.append(f"P(class) changes by up to {report['max_change']:.2g} (limit {limits.max_change:.2g})")
    if lost > limits.accuracy_fall * n:
        broken.append(f"accuracy falls by {lost} of {n} ({lost / n:.2%}; limit {limits.accuracy_fall:.2%})")
    if broken:
        raise ParityError(
            f"The export of {student} does not answer as the student does on validation images: "
            f"{'; '.join(broken)}. Nothing was written; keep FP32, or train the student further."
        )


def predict(student: Student, rgbs: list[Rgb]) -> list[Prediction]:
    """The torch student's answers in fp32, decoded as the runtime decodes its own."""
    import torch

    inputs = np.stack([images.prepare(rgb, student.preprocess) for rgb in rgbs])
    with torch.inference_mode():
        logits = student.model(pixel_values=torch.from_numpy(inputs)).logits
    return TASKS[student.task.kind].decode(logits.double().numpy(), student.task)
