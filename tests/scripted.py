"""An exported folder and a cascade whose answers are known: severity rises with the image's mean brightness."""

from pathlib import Path

import numpy as np

from hf_inspect import files
from hf_inspect.cascade import fit_calibrated, fit_saec
from hf_inspect.hub import CASCADE_VERSION
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON
from hf_inspect.schema import BINARY, History, Part, Source, TaskSpec
from hf_inspect.scoring import write_rows

SLOPE = 8.0  # logit of the severity = SLOPE * (mean brightness - 0.5)


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


def brightness_cascade(folder: Path, task: TaskSpec = BINARY) -> Path:
    """Write a cascade folder without a VLM over a brightness engine: sure below 0.35 and above 0.65 or so."""
    brightness_engine(folder / "edge", task=task)
    rng = np.random.default_rng(0)
    goods, defects = rng.uniform(0.05, 0.6, 300), rng.uniform(0.4, 0.95, 300)
    severity, labels = np.concatenate([goods, defects]), np.repeat([0, 1], 300)
    calibrated = fit_calibrated(severity, labels, np.arange(600))
    policies = {policy.name: policy.to_dict() for policy in (calibrated, fit_saec(rng.uniform(0, 1, 100)))}
    names = {0: ("good", task.good[0]), 1: ("defect", task.defects[0])}
    rows = [
        {"split": "calibration", "source": f"{i}.png", "class": names[y][1], "label": names[y][0], "group": i,
         "complexity": 0.5, "edge": {"severity": x, "probabilities": _shared(task, x)}}
        for i, (y, x) in enumerate(zip(labels.tolist(), severity.tolist(), strict=True))
    ]  # fmt: skip
    write_rows(folder / "calibration.jsonl", rows)
    deciding = [folder / "calibration.jsonl", *sorted((folder / "edge").iterdir())]
    stated = {
        "version": CASCADE_VERSION, "task": task.to_dict(), "policy": "calibrated",
        "edge": Part("folder", "edge").to_dict(), "vlm": None, "policies": policies,
        "files": {path.relative_to(folder).as_posix(): files.sha256(path) for path in deciding},
    }  # fmt: skip
    files.write_json(folder / "cascade.json", stated)
    return folder


def _shared(task: TaskSpec, severity: float) -> list[float]:
    """Class probabilities of a severity: all of it one defect class's, the rest one good class's."""
    of = {task.defects[0]: severity, task.good[0]: 1 - severity}
    return [of.get(name, 0.0) for name in task.classes]


def grey(level: int, side: int = 32) -> np.ndarray:
    """A flat RGB image of one brightness, 0..255."""
    return np.full((side, side, 3), level, np.uint8)
