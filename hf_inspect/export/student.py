"""The export command: student and data in; a folder with the model, inspect.json and trained_on.json out."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data import load_split, read_head, read_reading, read_task, write_history
from hf_inspect.errors import DataError
from hf_inspect.export.openvino import write_fp32, write_int8
from hf_inspect.export.parity import FP32, INT8, compare, refuse_beyond, refuse_few
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON, Engine
from hf_inspect.students import Student, load_student


def export_student(student: Path, out: Path, *, data: Path, int8: bool) -> dict[str, Any]:
    """Export a student's folder to OpenVINO in `out` and return the parity report that inspect.json carries.

    INT8 is calibrated on images of the train split of `data`. On every image of its validation split the written
    folder is run as the edge will run it and compared with the torch student in fp32; beyond the limits of
    `parity.FP32` or `parity.INT8`, which are of each side and class, nothing is written: ParityError. DataError where
    the student and the data are of different tasks or read otherwise, or where validation holds too few of a side to
    judge INT8 by.
    """
    source = load_student(student)
    if not source.history.sources:
        raise DataError(f"{student / TRAINED_ON} states no training data and licence; train the student again.")
    source.task.refuse_other(read_task(data), f"the student {student}", f"the data {data}")
    reading = read_reading(data)
    reading.refuse_model(source.reading, f"the data {data}", f"the student {student}")
    limits = INT8 if int8 else FP32
    refuse_few(source, data, "validation", limits)
    with files.staged_folder(out, [student, data]) as stage:
        if int8:
            write_int8(source, stage, load_split(data, "train"), reading)
        else:
            write_fp32(source, stage)
        write_history(stage, source.history)
        info = _describe(source, stage, "int8" if int8 else "fp32")
        files.write_json(stage / INSPECT, info)
        report = compare(Engine.from_pretrained(stage), source, data, "validation", limits)
        refuse_beyond(report, limits, student)
        report["data"] = read_head(data)["fingerprint"]
        files.write_json(stage / INSPECT, info | {"parity": report})
    return report


def _describe(student: Student, folder: Path, weights: str) -> dict[str, Any]:
    """Everything the runtime and the cards need of an export, the parity report apart."""
    decide = (MODEL, str(Path(MODEL).with_suffix(".bin")), TRAINED_ON)
    return {
        "format": FORMAT,
        "task": student.task.to_dict(),
        "architecture": student.architecture,
        "reading": student.reading.to_dict(),
        "preprocess": student.preprocess.to_dict(),
        "weights": weights,
        "precision": PRECISION,
        "licence": " AND ".join(student.licences),
        "trained_on": student.history.summary(),
        "files": {name: files.sha256(folder / name) for name in decide},
        "made_with": {n: version(n) for n in ("openvino", "optimum-intel", "nncf", "transformers")} | student.made_with,
    }
