"""The export command: student and data in; a folder with the model, inspect.json and trained_on.json out."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data import load_split, read_manifest, write_trained_on
from hf_inspect.errors import DataError
from hf_inspect.export.openvino import write_fp32, write_int8
from hf_inspect.export.parity import FP32, INT8, THRESHOLD, compare, refuse_beyond
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON, Engine
from hf_inspect.schema import LABELS
from hf_inspect.students import Student, load_student


def export_student(student: Path, out: Path, *, data: Path, int8: bool) -> dict[str, Any]:
    """Export a student's folder to OpenVINO in `out` and return the parity report that inspect.json carries.

    INT8 is calibrated on images of the train split of `data`. On every image of its validation split the written
    folder is run as the edge will run it and compared with the torch student in fp32; beyond the limits (none flips
    and |change of P(defect)| <= 1e-3; INT8: 1 % flips, accuracy falls by 0.5 points) nothing is written: ParityError.
    """
    source = load_student(student)
    if not {"fingerprint", "licence"} <= set(source.trained_on):
        raise DataError(f"{student / TRAINED_ON} states no fingerprint and licence; train the student again.")
    train, validation = load_split(data, "train"), load_split(data, "validation")
    limits = INT8 if int8 else FP32
    with files.staged_folder(out) as stage:
        if int8:
            write_int8(source, stage, train)
        else:
            write_fp32(source, stage)
        write_trained_on(stage / TRAINED_ON, source.trained_on)
        info = _describe(source, stage, "int8" if int8 else "fp32")
        files.write_json(stage / INSPECT, info)
        report = compare(Engine.from_pretrained(stage), source, validation, limits)
        refuse_beyond(report, limits, student)
        report["data"] = read_manifest(data)["fingerprint"]
        files.write_json(stage / INSPECT, info | {"parity": report})
    return report


def _describe(student: Student, folder: Path, weights: str) -> dict[str, Any]:
    """Everything the runtime and the cards need of an export, the parity report apart."""
    shipped = (MODEL, str(Path(MODEL).with_suffix(".bin")), TRAINED_ON)
    return {
        "format": FORMAT,
        "task": "image-classification",
        "architecture": student.architecture,
        "labels": list(LABELS),
        "threshold": THRESHOLD,
        "preprocess": student.preprocess.to_dict(),
        "weights": weights,
        "precision": PRECISION,
        "licence": " AND ".join(student.licences),
        "trained_on": student.trained_on["fingerprint"],
        "files": {name: files.sha256(folder / name) for name in shipped},
        "made_with": {n: version(n) for n in ("openvino", "optimum-intel", "nncf", "transformers")} | student.made_with,
    }
