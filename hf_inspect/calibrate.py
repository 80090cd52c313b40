"""Edge + VLM + a built data set -> a cascade folder: cascade.json (parts, policies, risk) and calibration.jsonl."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files, hub
from hf_inspect.cascade import CALIBRATION, CASCADE, fit_calibrated, fit_saec
from hf_inspect.data import read_manifest
from hf_inspect.errors import DataError
from hf_inspect.runtime import Engine
from hf_inspect.schema import Progress, no_progress
from hf_inspect.scoring import Scores, score, write_scores


def calibrate(
    edge: str | Path,
    vlm: tuple[str, str | Path] | None,
    data: Path,
    out: Path,
    *,
    escape: float = 0.05,
    overkill: float = 0.10,
    confidence: float = 0.95,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Fit both policies and write the cascade folder; returns what cascade.json holds.

    `edge` is an exported student, `vlm` a base (also `demo-base`) and its adapter, each a folder or a repository.
    Folders of edge and adapter are copied into the cascade's, a base's is named where it lies; a repository
    (`org/name`, `org/name@revision`) is named with its commit. The calibration split sets the thresholds of
    `calibrated` and nothing else; the validation split fits the complexity limit of `saec`. The VLM is loaded to see
    that it can be: its scores are kept for what-if plots.
    """
    given = {"edge": edge} | dict(zip(("base", "adapter"), vlm or (), strict=False))
    found = {role: hub.located(part) for role, part in given.items()}
    engine, model = Engine.from_pretrained(found["edge"]), _load(found)
    fitted_on = score(data, "validation", engine, model, fitting=True, progress=progress)
    drawn = score(data, "calibration", engine, model, progress=progress)
    calibrated = fit_calibrated(drawn.p_edge, drawn.labels, drawn.groups, escape, overkill, confidence)
    with files.staged_folder(out) as stage:
        rows = [*fitted_on.rows(split="validation"), *drawn.rows(split="calibration")]
        write_scores(stage / CALIBRATION, rows)
        named = {role: _named(role, hub.pinned(part, found[role]), out, stage) for role, part in given.items()}
        folders = {role: Path(folder) for role, folder in found.items() if Path(folder).is_dir()}
        stated = {
            "version": 1,
            "policy": calibrated.name,
            "edge": named.pop("edge"),
            "vlm": named or None,
            "policies": {p.name: p.to_dict() for p in (calibrated, fit_saec(fitted_on.complexity))},
            "calibration": _provenance(data, fitted_on, drawn) | {"scores": CALIBRATION},
            "files": {CALIBRATION: files.sha256(stage / CALIBRATION)} | hub.stated_files(folders),
        }
        files.write_json(stage / CASCADE, stated)
    return stated


def _load(found: Mapping[str, str | Path]) -> Any:
    if "base" not in found:
        return None
    from hf_inspect.vlm import VLM

    return VLM.from_pretrained(found["base"], found["adapter"])


def _named(role: str, part: str, out: Path, stage: Path) -> str:
    """A part as cascade.json names it; a folder of an edge or an adapter is copied to `stage` under its role."""
    if not Path(part).is_dir():
        return part
    if role == "base":
        return _relative(Path(part), out)
    for name, path in hub.belonging(Path(part), role).items():
        (stage / role / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, stage / role / name)
    return role


def _relative(base: Path, out: Path) -> str:
    try:
        return os.path.relpath(base.resolve(), out.resolve())
    except ValueError:
        raise DataError(f"{base} and {out} lie on different drives; put the cascade beside its base.") from None


def _provenance(data: Path, validation: Scores, calibration: Scores) -> dict[str, Any]:
    return {
        "data": read_manifest(data)["fingerprint"],
        "images": {"validation": len(validation.labels), "calibration": len(calibration.labels)},
    }
