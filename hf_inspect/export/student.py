"""The export command: student and data in; a folder with the model, inspect.json and trained_on.json out."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data import load_split, read_head, read_reading, read_task, write_history
from hf_inspect.errors import DataError
from hf_inspect.export.formats import Format, format_named
from hf_inspect.export.int8 import calibration_rows, quantized
from hf_inspect.export.openvino import by_optimum
from hf_inspect.export.parity import FP32, INT8, compare, refuse_beyond, refuse_few
from hf_inspect.reading import Reading
from hf_inspect.runtime import FORMAT, INSPECT, OPENVINO, PRECISION, TRAINED_ON, Engine
from hf_inspect.students import Student, load_student

if TYPE_CHECKING:
    import datasets
    import torch


def export_student(student: Path, out: Path, *, data: Path, int8: bool, to: str = "openvino") -> dict[str, Any]:
    """Export a student's folder to a format in `out` and return the parity report that inspect.json carries.

    INT8 is calibrated on images of the train split of `data`. On every image of its validation split the written
    folder is run as the edge will run it and compared with the torch student in fp32; beyond the limits of
    `parity.FP32` or `parity.INT8`, which are of each side and class, nothing is written: ParityError. DataError where
    the student and the data are of different tasks or read otherwise, or where validation holds too few of a side to
    judge INT8 by.
    """
    form, source = format_named(to), load_student(student)
    if not source.history.sources:
        raise DataError(f"{student / TRAINED_ON} states no training data and licence; train the student again.")
    source.task.refuse_other(read_task(data), f"the student {student}", f"the data {data}")
    reading = read_reading(data)
    reading.refuse_model(source.reading, f"the data {data}", f"the student {student}")
    limits = INT8 if int8 else FP32
    refuse_few(source, data, "validation", limits)
    with files.staged_folder(out, [student, data]) as stage:
        _write(source, stage, form, load_split(data, "train") if int8 else None, reading)
        write_history(stage, source.history)
        info = _describe(source, stage, form, "int8" if int8 else "fp32")
        files.write_json(stage / INSPECT, info)
        report = compare(Engine.from_pretrained(stage), source, data, "validation", limits)
        refuse_beyond(report, limits, student)
        report["data"] = read_head(data)["fingerprint"]
        files.write_json(stage / INSPECT, info | {"parity": report})
    return report


def _write(student: Student, folder: Path, form: Format, train: "datasets.Dataset | None", reading: Reading) -> None:
    """Write the network, in 8 bits where training images for their ranges came."""
    if form.runtime == OPENVINO:
        network = by_optimum(student, folder)
    else:
        network = form.convert(_logits(student), student.preprocess.height, student.preprocess.width)
    if train is not None:
        rows = calibration_rows(train, student.task)
        network = quantized(form, network, rows, student.preprocess, reading, student.task)
    form.save(network, folder)


def _logits(student: Student) -> "torch.nn.Module":
    """The student's network, whose output is its logits and nothing beside."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = student.model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=pixel_values).logits

    return Logits().eval()


def _describe(student: Student, folder: Path, form: Format, weights: str) -> dict[str, Any]:
    """Everything the runtime and the cards need of an export, the parity report apart."""
    optimum = {"optimum-intel": version("optimum-intel")} if form.runtime == OPENVINO else {}
    return {
        "format": FORMAT,
        "task": student.task.to_dict(),
        "runtime": form.runtime,
        "architecture": student.architecture,
        "reading": student.reading.to_dict(),
        "preprocess": student.preprocess.to_dict(),
        "weights": weights,
        "precision": PRECISION,
        "licence": " AND ".join(student.licences),
        "trained_on": student.history.summary(),
        "files": {name: files.sha256(folder / name) for name in (*form.files, TRAINED_ON)},
        "made_with": form.versions() | optimum | student.made_with,
    }
