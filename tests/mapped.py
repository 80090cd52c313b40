"""A cascade whose edge says where, without any training: a map is the image's own brightness, its highest the score."""

from pathlib import Path

import numpy as np

from hf_inspect import files
from hf_inspect.cascade import Composite, Promise, fit_certified
from hf_inspect.hub import CASCADE_VERSION
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON
from hf_inspect.schema import ANOMALY, BINARY, Meaning, Part, TaskSpec
from hf_inspect.scoring import write_rows
from tests.scripted import HISTORY

SIDE = 16  # pixels of the network's images, and of its maps
TASK = TaskSpec(BINARY.classes, BINARY.dispositions, ANOMALY, Meaning("distance"))
HEAT = (0.5, 0.8)  # brightness from which on a map is drawn, and red
HIGH = 0.6  # or so: the brightness above which a part is a defect


def mapping_engine(folder: Path) -> Path:
    """Write an exported folder that needs no training and no torch."""
    import openvino as ov
    from openvino import opset13 as ops

    pixels = ops.parameter([-1, 3, SIDE, SIDE], np.float32)
    grey = ops.add(ops.reduce_mean(pixels, np.array([1]), keep_dims=False), np.float32(0.5))
    score = ops.reduce_max(grey, np.array([1, 2]), keep_dims=False)
    folder.mkdir(parents=True)
    ov.save_model(ov.Model([score, grey], [pixels]), folder / MODEL, compress_to_fp16=False)
    files.write_json(folder / TRAINED_ON, HISTORY.to_dict())
    preprocess = {
        "height": SIDE, "width": SIDE, "resize": "squash", "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0],
    }  # fmt: skip
    info = {"format": FORMAT, "task": TASK.to_dict(), "preprocess": preprocess, "precision": PRECISION}
    hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    files.write_json(folder / INSPECT, info | {"files": hashes})
    return folder


def mapping_cascade(folder: Path) -> Path:
    """A cascade of it from good parts alone: defect above HIGH, else undecided."""
    mapping_engine(folder / "edge")
    severity = np.linspace(0.1, HIGH, 100)
    policy = fit_certified(Composite(None), severity, None, np.zeros(100, int), np.arange(100), Promise())
    rows = [
        {"split": "calibration", "source": f"{i}.png", "class": "good", "label": "good", "group": i,
         "edge": {"severity": x, "map_highest": x}}
        for i, x in enumerate(severity.tolist())
    ]  # fmt: skip
    write_rows(folder / "calibration.jsonl", rows)
    deciding = [folder / "calibration.jsonl", *sorted((folder / "edge").iterdir())]
    stated = {
        "version": CASCADE_VERSION, "task": TASK.to_dict(), "policy": policy.name,
        "edge": Part("folder", "edge").to_dict(), "vlm": None, "policies": {policy.name: policy.to_dict()},
        "maps": dict(zip(("low", "high"), HEAT, strict=True)),
        "files": {path.relative_to(folder).as_posix(): files.sha256(path) for path in deciding},
    }  # fmt: skip
    files.write_json(folder / "cascade.json", stated)
    return folder


def spotted(bright: bool = True) -> np.ndarray:
    """A dark image (48, 64, 3); a bright spot lies in its upper left quarter."""
    image = np.full((48, 64, 3), 40, np.uint8)
    if bright:
        image[6:18, 8:24] = 240
    return image
