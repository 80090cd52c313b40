"""An exported folder and a cascade whose answers are known: P(defect) rises with the image's mean brightness."""

from pathlib import Path

import numpy as np

from hf_inspect import files
from hf_inspect.cascade import fit_calibrated, fit_saec
from hf_inspect.data import trained_on, write_trained_on
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON
from hf_inspect.scoring import write_scores

SLOPE = 8.0  # logit of P(defect) = SLOPE * (mean brightness - 0.5)


def brightness_engine(folder: Path, side: int = 16) -> Path:
    """Write an exported folder that needs no training and no torch."""
    import openvino as ov
    from openvino import opset13 as ops

    pixels = ops.parameter([-1, 3, side, side], np.float32)
    mean = ops.reduce_mean(pixels, np.array([1, 2, 3]), keep_dims=False)
    logit = ops.multiply(ops.unsqueeze(mean, np.array(1)), np.float32(SLOPE))
    logits = ops.concat([ops.multiply(logit, np.float32(0)), logit], axis=1)
    folder.mkdir(parents=True)
    ov.save_model(ov.Model([logits], [pixels]), folder / MODEL, compress_to_fp16=False)
    write_trained_on(folder / TRAINED_ON, trained_on({"fingerprint": "none", "licence": "CC0-1.0"}, []))
    preprocess = {
        "height": side, "width": side, "resize": "squash", "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0],
    }  # fmt: skip
    info = {
        "format": FORMAT,
        "labels": ["good", "defect"],
        "preprocess": preprocess,
        "precision": PRECISION,
        "files": {p.name: files.sha256(p) for p in sorted(folder.iterdir())},
    }
    files.write_json(folder / INSPECT, info)
    return folder


def brightness_cascade(folder: Path) -> Path:
    """Write a cascade folder without a VLM over a brightness engine: sure below 0.35 and above 0.65 or so."""
    brightness_engine(folder / "edge")
    rng = np.random.default_rng(0)
    goods, defects = rng.uniform(0.05, 0.6, 300), rng.uniform(0.4, 0.95, 300)
    p, labels = np.concatenate([goods, defects]), np.repeat([0, 1], 300)
    calibrated = fit_calibrated(p, labels, np.arange(600))
    policies = {policy.name: policy.to_dict() for policy in (calibrated, fit_saec(rng.uniform(0, 1, 100)))}
    stated = {"version": 1, "policy": "calibrated", "edge": "edge", "vlm": None, "policies": policies}
    files.write_json(folder / "cascade.json", stated)
    scored = zip(labels.tolist(), p.tolist(), strict=True)
    rows = [{"label": y, "group": i, "p_edge": x, "p_vlm": None} for i, (y, x) in enumerate(scored)]
    write_scores(folder / "calibration.jsonl", ({"split": "calibration"} | row for row in rows))
    return folder


def grey(level: int, side: int = 32) -> np.ndarray:
    """A flat RGB image of one brightness, 0..255."""
    return np.full((side, side, 3), level, np.uint8)
