"""Edge + VLM + a built data set -> a cascade folder: cascade.json (parts, policies, risk) and calibration.jsonl."""

import os
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.cascade import fit_calibrated, fit_saec
from hf_inspect.data import read_manifest
from hf_inspect.errors import DataError
from hf_inspect.runtime import Engine
from hf_inspect.schema import Progress, no_progress
from hf_inspect.scoring import Scores, score, write_scores

CASCADE = "cascade.json"
CALIBRATION = "calibration.jsonl"


def calibrate(
    edge: Path,
    vlm: tuple[str, Path] | None,
    data: Path,
    out: Path,
    *,
    escape: float = 0.05,
    overkill: float = 0.10,
    confidence: float = 0.95,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Fit both policies and write the cascade folder; returns what cascade.json holds.

    `edge` is an exported folder, `vlm` a base (folder, repository or `demo-base`) and its adapter's folder. The
    calibration split sets the thresholds of `calibrated` and nothing else; the validation split fits the
    complexity limit of `saec`. The VLM is loaded to see that it can be: its scores are kept for what-if plots.
    """
    engine, model = Engine.from_pretrained(edge), _load(vlm)
    fitted_on = score(data, "validation", engine, model, fitting=True, progress=progress)
    drawn = score(data, "calibration", engine, model, progress=progress)
    calibrated = fit_calibrated(drawn.p_edge, drawn.labels, drawn.groups, escape, overkill, confidence)
    stated = {
        "version": 1,
        "policy": calibrated.name,
        "edge": _part(edge, out),
        "vlm": vlm and {"base": _part(vlm[0], out), "adapter": _part(vlm[1], out)},
        "policies": {p.name: p.to_dict() for p in (calibrated, fit_saec(fitted_on.complexity))},
        "calibration": _provenance(data, fitted_on, drawn) | {"scores": CALIBRATION},
    }
    with files.staged_folder(out) as stage:
        rows = [*fitted_on.rows(split="validation"), *drawn.rows(split="calibration")]
        write_scores(stage / CALIBRATION, rows)
        files.write_json(stage / CASCADE, stated)
    return stated


def _load(vlm: tuple[str, Path] | None) -> Any:
    if vlm is None:
        return None
    from hf_inspect.vlm import VLM

    return VLM.from_pretrained(*vlm)


def _part(part: str | Path, out: Path) -> str:
    """A part as cascade.json names it: relative to the cascade's folder where it is a folder, else as given."""
    if not Path(part).exists():
        return str(part)
    try:
        return os.path.relpath(Path(part).resolve(), out.resolve())
    except ValueError:
        raise DataError(f"{part} and {out} lie on different drives; put the cascade beside its parts.") from None


def _provenance(data: Path, validation: Scores, calibration: Scores) -> dict[str, Any]:
    return {
        "data": read_manifest(data)["fingerprint"],
        "images": {"validation": len(validation.labels), "calibration": len(calibration.labels)},
    }
