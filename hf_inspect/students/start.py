"""What a new student is asked for, and how a config.json says what the student answers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError
from hf_inspect.reading import Reading
from hf_inspect.schema import TaskSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TASK = "inspection_task"  # of config.json: the spec, in the order of the outputs
READING = "inspection_reading"  # of config.json: how the files of its images are read


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training starts: a base, the side of its square images in pixels, and what it is to answer.

    `model_args` go to the network (drop rates, say), `weights` is a file to start from, `weights_sha256` its content.
    """

    base: str
    side: int
    task: TaskSpec
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    weights_sha256: str | None = None


def refuse_weights(start: Start) -> None:
    """DataError for a file of weights beside a base that has its own."""
    if start.weights is not None or start.weights_sha256 is not None:
        raise DataError(f"weights are for a base like yolo11n-cls; {start.base} brings its own, leave them out.")


def config_of_task(task: TaskSpec) -> dict[str, Any]:
    """The fields of a config.json that say what the outputs mean: to us, and to transformers."""
    return {
        TASK: task.to_dict(),
        "id2label": dict(enumerate(task.classes)),
        "label2id": {name: i for i, name in enumerate(task.classes)},
    }


def reading_of(config: "PretrainedConfig", where: str | Path) -> Reading:
    """How the files are read that a student was trained on."""
    return Reading.from_dict(getattr(config, READING, None), where)


def task_of(config: "PretrainedConfig", where: str | Path) -> TaskSpec:
    """What a student answers, in the order of its outputs.

    DataError where config.json (`where`) does not say, or names its outputs otherwise than transformers would.
    """
    stated = getattr(config, TASK, None)
    if stated is None:
        raise DataError(
            f"{where} states no {TASK}: an older version made this student, or another program. Train it again with "
            "recipes/edge_classifier/train.py."
        )
    task = TaskSpec.from_dict(stated, where)
    named = tuple(config.id2label[i] for i in range(config.num_labels))
    if named != task.classes:
        raise DataError(
            f"{where} names its outputs {', '.join(map(str, named))}, and in {TASK} {', '.join(task.classes)}; one of "
            "them was changed: take the folder again from whoever made it, or train the student again."
        )
    task.refuse_one_sided(f"The student of {where}")
    return task
