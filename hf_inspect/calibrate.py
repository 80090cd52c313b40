"""Edge + VLM + a built data set -> a cascade folder: cascade.json (parts, policies, risk) and calibration.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files, hub
from hf_inspect.cascade import CALIBRATION, CASCADE, Calibrated, Saec, fit_calibrated, fit_saec
from hf_inspect.data import read_manifest
from hf_inspect.runtime import Engine
from hf_inspect.schema import Predictor, Progress, no_progress
from hf_inspect.scoring import Scores, run, write_rows

SPLITS = ("validation", "calibration")


def calibrate(
    edge: str | Path,
    vlm: tuple[str | Path, str | Path | None] | None,
    data: Path,
    out: Path,
    *,
    escape: float = 0.05,
    overkill: float = 0.10,
    confidence: float = 0.95,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Fit both policies and write the cascade folder; returns what cascade.json holds.

    `edge` is an exported student, `vlm` a base (also `demo-base`) and its adapter, or None for a base that was
    fine-tuned whole; each a folder or a repository. Folders are copied into the cascade's; a repository (`org/name`,
    `org/name@revision`) is named with its commit; `demo-base` by its name. The calibration split sets the thresholds of
    `calibrated` and nothing else; the validation split fits the complexity limit of `saec`. The VLM's scores are kept
    for what-if plots. DataError when data set, edge and VLM do not answer one question.

    Scores lie beside `out` until it is written: a run that was killed goes on.
    """
    given = {"edge": edge} | {role: part for role, part in zip(("base", "adapter"), vlm or (), strict=False) if part}
    found = {role: hub.resolve(part) for role, part in given.items() if role != "base"}
    predictors: dict[str, Predictor] = {"edge": Engine.from_pretrained(found["edge"])}
    if vlm:
        found["base"], predictors["vlm"] = _vlm(*vlm)
    kept = {split: out.with_name(f"{out.name}.{split}.scores.jsonl") for split in SPLITS}
    scores = {
        split: run(
            predictors, data, split, path, fitting=split == "validation", complexity=True, progress=progress
        )
        for split, path in kept.items()
    }  # fmt: skip
    with files.staged_folder(out) as stage:
        rows = [{"split": split, **row} for split, one in scores.items() for row in one.rows]
        write_rows(stage / CALIBRATION, rows)
        parts, hashes = hub.gather_parts(stage, given, found)
        calibrated, saec = _policies(scores, escape, overkill, confidence)
        stated = {
            "version": hub.CASCADE_VERSION,
            "task": predictors["edge"].task.to_dict(),
            "policy": calibrated.name,
            **hub.stated_parts(parts),
            "policies": {policy.name: policy.to_dict() for policy in (calibrated, saec)},
            "calibration": _provenance(data, scores) | {"scores": CALIBRATION},
            "files": {CALIBRATION: files.sha256(stage / CALIBRATION)} | hashes,
        }
        files.write_json(stage / CASCADE, stated)
    for path in kept.values():
        path.unlink()
    return stated


def _vlm(base: str | Path, adapter: str | Path | None) -> tuple[Path, Predictor]:
    """The folder of the base, and the model."""
    from hf_inspect.vlm import VLM
    from hf_inspect.vlm.base import base_folder

    return base_folder(base), VLM.from_pretrained(base, adapter)


def _policies(
    scores: Mapping[str, Scores], escape: float, overkill: float, confidence: float
) -> tuple[Calibrated, Saec]:
    sampled, validation = scores["calibration"], scores["validation"]
    severity = sampled.answers["edge"].severity
    calibrated = fit_calibrated(severity, sampled.labels, sampled.groups, escape, overkill, confidence)
    return calibrated, fit_saec(validation.complexity)


def _provenance(data: Path, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The data, how many images of each split were scored, and which could not be read."""
    return {
        "data": read_manifest(data)["fingerprint"],
        "images": {split: len(one.classes) for split, one in scores.items()},
        "not_scored": [{"split": split, **image} for split, one in scores.items() for image in one.not_scored],
    }
