"""What a student learns from: rows -> pixels and target probabilities, a weighted loss, figures to choose by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images
from hf_inspect.data import class_column, class_ids
from hf_inspect.images import Preprocess, Reading
from hf_inspect.schema import DEFECT, TaskSpec
from hf_inspect.tasks import TASKS

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers import EvalPrediction

PROBABILITY = "probability"  # a column that some sets have: the experts' P(defect)


@dataclass(frozen=True, slots=True)
class Targets:
    """What rows say to learn, in the order of a task's classes.

    `ids` turns the values of the rows' class column into positions in the task. `soft` says that P(defect) is learned
    from the rows' column of it, on the task's one good and one defect class.
    """

    task: TaskSpec
    ids: tuple[int, ...]
    soft: bool

    @classmethod
    def of(cls, rows: "datasets.Dataset", task: TaskSpec, soft: bool) -> "Targets":
        """Targets of a split's rows; soft ones where they are asked for and the rows and the task have them."""
        two = len(task.good) == len(task.defects) == 1
        names = rows.features[class_column(task)].names
        return cls(task, tuple(task.index(name) for name in names), soft and two and PROBABILITY in rows.features)

    def classes(self, rows: Mapping[str, Sequence[Any]]) -> list[int]:
        """Positions in the task of some rows' classes (n,)."""
        return [self.ids[own] for own in rows[class_column(self.task)]]

    def probabilities(self, rows: Mapping[str, Sequence[Any]]) -> list[list[float]]:
        """Target probabilities of some rows (n, k): the experts', or 1 for the row's class."""
        if self.soft:
            return [
                [p if one == DEFECT else 1.0 - p for one in self.task.dispositions]
                for p in map(float, rows[PROBABILITY])
            ]
        return [[float(i == own) for i in range(len(self.ids))] for own in self.classes(rows)]


def to_inputs(
    rows: Mapping[str, Sequence[Any]],
    preprocess: Preprocess,
    targets: Targets,
    augment: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> dict[str, list[Any]]:
    """A batch of rows -> resized uint8 (3, h, w), augmented when asked, and target probabilities with the class."""
    import torch

    resized = [images.resize(images.load(image["bytes"], reading).rgb, preprocess) for image in rows["image"]]
    pixels = [torch.from_numpy(image).permute(2, 0, 1) for image in resized]
    pairs = zip(targets.probabilities(rows), targets.classes(rows), strict=True)
    return {
        "pixel_values": [augment(one) if augment else one for one in pixels],
        "labels": [[*p, float(own)] for p, own in pairs],
    }


def collate(rows: Sequence[Mapping[str, Any]], preprocess: Preprocess) -> "dict[str, torch.Tensor]":
    """Stack and normalise: uint8 (3, h, w) each -> float32 (n, 3, h, w); labels (n, k + 1), the class last."""
    import torch

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    pixels = torch.stack([row["pixel_values"] for row in rows]).float() / 255
    labels = torch.tensor([row["labels"] for row in rows], dtype=torch.float32)
    return {"pixel_values": (pixels - mean) / std, "labels": labels}


def weighted_loss(
    outputs: Mapping[str, Any],
    labels: "torch.Tensor",
    num_items_in_batch: Any = None,
    *,
    weights: Sequence[float],
) -> "torch.Tensor":
    """Cross-entropy of logits (n, k) against the target probabilities of `labels` (n, k + 1), weighted by class (k,).

    The mean over images, or their share of those of all processes and accumulated steps.
    """
    import torch
    from torch.nn.functional import cross_entropy

    p = labels[:, :-1]
    total = cross_entropy(outputs["logits"], p * torch.tensor(weights).to(p), reduction="sum")
    return total / (len(p) if num_items_in_batch is None else num_items_in_batch / labels.shape[1])


def class_weights(rows: "datasets.Dataset", task: TaskSpec, balance: float) -> list[float]:
    """Weight of each class (k,): (1 / (k * its share of the rows)) ** balance; 1 for all at balance 0.

    Every class has a row: `training.check_classes`.
    """
    counts = np.bincount(class_ids(rows, task), minlength=len(task.classes))
    weights: list[float] = ((counts.sum() / len(counts) / counts) ** balance).tolist()
    return weights


def validation_scores(prediction: "EvalPrediction", task: TaskSpec) -> dict[str, float]:
    """AUROC of good against defect by severity, accuracy and macro F1 of the classes, from logits and labels."""
    logits, classes = prediction.predictions, prediction.label_ids[:, -1].astype(np.int64)
    answers = TASKS[task.kind].decode(np.asarray(logits, np.float64), task)
    severity = np.array([one.severity for one in answers])
    p: NDArray[np.float64] = np.array([one.probabilities for one in answers])
    report = TASKS[task.kind].measure(task, classes, severity, p)
    return {name: report[name]["value"] for name in ("auroc", "accuracy", "macro_f1")}


def described(rows: "datasets.Dataset", targets: Targets) -> str:
    """What is learned, in a line: images by class, and whether from the experts' probabilities."""
    task = targets.task
    counts = np.bincount(class_ids(rows, task), minlength=len(task.classes))
    named = ", ".join(f"{n} {name}" for name, n in zip(task.classes, counts, strict=True))
    return f"to learn from: {named}; {'P(defect) of the experts' if targets.soft else 'one class an image'}"
