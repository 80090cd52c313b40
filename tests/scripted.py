"""An exported folder and a cascade whose answers are known: severity rises with the image's mean brightness."""

from pathlib import Path

import numpy as np

from hf_inspect import files
from hf_inspect.cascade import Composite, Promise, fit_certified, fit_saec
from hf_inspect.cascade.composite import Platt
from hf_inspect.hub import CASCADE_VERSION
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON
from hf_inspect.schema import BINARY, History, Part, Source, TaskSpec
from hf_inspect.scoring import write_rows

SLOPE = 8.0  # logit of the severity = SLOPE * (mean brightness - 0.5)
AS_IT_IS = Platt("odds", 1.0, 0.0)  # a severity is taken for P(defect)
EDGE_ALONE = Composite(AS_IT_IS)
BOTH = Composite(AS_IT_IS, AS_IT_IS, Platt("plain", 1.0, 0.0), 0.5, early_good=0.35, early_defect=0.65)

HISTORY = History((Source("none", "none", "CC0-1.0", 0),))


def brightness_engine(folder: Path, side: int = 16, task: TaskSpec = BINARY) -> Path:
    """Write an exported folder that needs no training and no torch.

    The first good class of the task has logit 0, its first defect class one that rises with brightness; any others are
    never likely.
    """
    import openvino as ov
    from openvino import opset13 as ops

    pixels = ops.parameter([-1, 3, side, side], np.float32)
    mean = ops.reduce_mean(pixels, np.array([1, 2, 3]), keep_dims=False)
    logit = ops.multiply(ops.unsqueeze(mean, np.array(1)), np.float32(SLOPE))
    zero = ops.multiply(logit, np.float32(0))
    of_class = dict.fromkeys(task.classes, ops.add(zero, np.float32(-100)))
    of_class |= {task.good[0]: zero, task.defects[0]: logit}
    logits = ops.concat([of_class[name] for name in task.classes], axis=1)
    folder.mkdir(parents=True)
    ov.save_model(ov.Model([logits], [pixels]), folder / MODEL, compress_to_fp16=False)
    files.write_json(folder / TRAINED_ON, HISTORY.to_dict())
    preprocess = {
        "height": side, "width": side, "resize": "squash", "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0],
    }  # fmt: skip
    info = {
        "format": FORMAT,
        "task": task.to_dict(),
        "preprocess": preprocess,
        "precision": PRECISION,
        "files": {p.name: files.sha256(p) for p in sorted(folder.iterdir())},
    }
    files.write_json(folder / INSPECT, info)
    return folder


def brightness_cascade(folder: Path, task: TaskSpec = BINARY, *, with_vlm: bool = False) -> Path:
    """Write a cascade folder without a VLM over a brightness engine: good below 0.42, defect above 0.58 or so.

    With `with_vlm` its policy asks a VLM, which a test brings (`Inspector.vlm`): the edge alone says good below 0.35
    and defect above 0.65, and the stored VLM's severities settle most between. Then the mean of both log-odds says
    good below, and defect above, one half or so.
    """
    brightness_engine(folder / "edge", task=task)
    rng = np.random.default_rng(0)
    severity, labels = _overlapping(rng), np.repeat([0, 1], 300)
    vlm = _overlapping(rng) if with_vlm else None
    certified = fit_certified(BOTH if with_vlm else EDGE_ALONE, severity, vlm, labels, np.arange(600), Promise())
    policies = {policy.name: policy.to_dict() for policy in (certified, fit_saec(rng.uniform(0, 1, 100)))}
    names = {0: ("good", task.good[0]), 1: ("defect", task.defects[0])}
    rows = [
        {"split": "calibration", "source": f"{i}.png", "class": names[y][1], "label": names[y][0], "group": i,
         "complexity": 0.5, "edge": _answer(task, x)} | ({} if vlm is None else {"vlm": _answer(task, float(vlm[i]))})
        for i, (y, x) in enumerate(zip(labels.tolist(), severity.tolist(), strict=True))
    ]  # fmt: skip
    write_rows(folder / "calibration.jsonl", rows)
    deciding = [folder / "calibration.jsonl", *sorted((folder / "edge").iterdir())]
    stated = {
        "version": CASCADE_VERSION, "task": task.to_dict(), "policy": certified.name,
        "edge": Part("folder", "edge").to_dict(), "vlm": None, "policies": policies,
        "files": {path.relative_to(folder).as_posix(): files.sha256(path) for path in deciding},
    }  # fmt: skip
    files.write_json(folder / "cascade.json", stated)
    return folder


def _overlapping(rng: np.random.Generator) -> np.ndarray:
    """Severities (600,) of 300 good parts and 300 defects, which overlap between 0.4 and 0.6."""
    return np.concatenate([rng.uniform(0.05, 0.6, 300), rng.uniform(0.4, 0.95, 300)])


def _answer(task: TaskSpec, severity: float) -> dict:
    """A model's answer as calibration.jsonl has it."""
    return {"severity": severity, "probabilities": _shared(task, severity)}


def _shared(task: TaskSpec, severity: float) -> list[float]:
    """Class probabilities of a severity: all of it one defect class's, the rest one good class's."""
    of = {task.defects[0]: severity, task.good[0]: 1 - severity}
    return [of.get(name, 0.0) for name in task.classes]


def grey(level: int, side: int = 32) -> np.ndarray:
    """A flat RGB image of one brightness, 0..255."""
    return np.full((side, side, 3), level, np.uint8)
