"""What each kind of task needs done: a row a kind, five functions a row. Whoever calls them need not know the kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.schema import ANOMALY, DETECTION, SEGMENTATION, Prediction, TaskSpec
from hf_inspect.tasks import anomaly, classification, detection

__all__ = ["TASKS", "TaskFunctions"]

_Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TaskFunctions:
    """The functions of one kind of task.

    `decode`: a model's outputs (logits (n, k); raw scores (n,) and maps (n, h, w); or scores, boxes and masks), its
    task, the images' heights and widths, and how it decodes, where it states that -> an answer an image. `compare`:
    answers before and after an export -> what changed. `measure`: classes, severities (n,) and probabilities (n, k) ->
    the figures of results.json. `draw`: those figures -> a picture. `outputs`: the shapes of the model's outputs, for
    images of a height and a width; -1 stands for their number.
    """

    decode: Callable[..., list[Prediction]]
    compare: Callable[..., dict[str, Any]]
    measure: Callable[..., dict[str, Any]]
    draw: Callable[[Mapping[str, Any], Path], None]
    outputs: Callable[[TaskSpec, int, int], list[list[int]]]


TASKS: Mapping[str, TaskFunctions] = {
    "classification": TaskFunctions(
        classification.decode,
        classification.compare,
        classification.measure,
        classification.draw,
        classification.outputs,
    ),
    ANOMALY: TaskFunctions(anomaly.decode, anomaly.compare, anomaly.measure, anomaly.draw, anomaly.outputs),
    **dict.fromkeys(
        (DETECTION, SEGMENTATION),
        TaskFunctions(detection.decode, detection.compare, detection.measure, detection.draw, detection.outputs),
    ),
}
