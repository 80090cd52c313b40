"""The exported folder against the torch student on validation images: what changed, and whether that is too much."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images, metrics
from hf_inspect.errors import ParityError
from hf_inspect.runtime import Engine
from hf_inspect.schema import LABELS
from hf_inspect.students import Student

if TYPE_CHECKING:
    import datasets

THRESHOLD = 0.5  # P(defect) from which an image counts as decided `defect` in the comparison
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may change: share of decisions, |P(defect)|, share of correct decisions lost; all in [0, 1]."""

    flips: float
    max_change: float
    accuracy_fall: float


FP32 = Limits(flips=0.0, max_change=1e-3, accuracy_fall=0.0)
INT8 = Limits(flips=0.01, max_change=1.0, accuracy_fall=0.005)


def compare(engine: Engine, student: Student, validation: "datasets.Dataset", limits: Limits) -> dict[str, Any]:
    """Run both on every image from its bytes -> flips {"k", "n"}, max_change, accuracy before and after, limits."""
    contents = [row["bytes"] for row in validation["image"]]
    labels = np.array(validation["label"])
    before, after = _torch_p_defect(student, contents), engine.predict(contents)
    decided = before >= THRESHOLD, after >= THRESHOLD
    correct = [int((decision == (labels == LABELS.index("defect"))).sum()) for decision in decided]
    return {
        "split": "validation",
        "flips": {"k": int((decided[0] != decided[1]).sum()), "n": len(labels)},
        "max_change": float(np.abs(after - before).max()),
        "accuracy": {when: metrics.rate(k, len(labels)) for when, k in zip(("before", "after"), correct, strict=True)},
        "limits": asdict(limits),
    }


def refuse_beyond(report: dict[str, Any], limits: Limits, student: Path) -> None:
    """Raise ParityError naming every limit that a report of `compare` breaks."""
    k, n = report["flips"]["k"], report["flips"]["n"]
    lost = report["accuracy"]["before"]["k"] - report["accuracy"]["after"]["k"]
    broken = []
    if k > limits.flips * n:
        broken.append(f"{k} of {n} decisions flip ({k / n:.2%}; limit {limits.flips:.2%})")
    if not report["max_change"] <= limits.max_change:
        broken.append(f"P(defect) changes by up to {report['max_change']:.2g} (limit {limits.max_change:.2g})")
    if lost > limits.accuracy_fall * n:
        broken.append(f"accuracy falls by {lost} of {n} ({lost / n:.2%}; limit {limits.accuracy_fall:.2%})")
    if broken:
        raise ParityError(
            f"The export of {student} does not answer as the student does on validation images: "
            f"{'; '.join(broken)}. Nothing was written; keep FP32, or train the student further."
        )


def _torch_p_defect(student: Student, contents: list[bytes]) -> NDArray[np.float64]:
    """P(defect) (n,) of the torch student in fp32."""
    import torch

    chunks = [contents[start : start + _BATCH] for start in range(0, len(contents), _BATCH)]
    probabilities = []
    for chunk in chunks:
        inputs = np.stack([images.prepare(images.load(content).rgb, student.preprocess) for content in chunk])
        with torch.inference_mode():
            logits = student.model(pixel_values=torch.from_numpy(inputs)).logits
        probabilities.append(logits.double().softmax(-1)[:, LABELS.index("defect")].numpy())
    return np.concatenate(probabilities)
