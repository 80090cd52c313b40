"""A student, a detection or an anomaly model -> a folder for the edge that answers as it does, or nothing."""

from pathlib import Path

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.export import anomaly, detector
from hf_inspect.export.anomaly import export_anomaly
from hf_inspect.export.detector import export_detector
from hf_inspect.export.formats import format_named
from hf_inspect.export.parity import described
from hf_inspect.export.student import export_student
from hf_inspect.schema import ANOMALY, DETECTION, SEGMENTATION
from hf_inspect.students.start import TASK

__all__ = ["described", "export", "export_anomaly", "export_detector", "export_student", "format_named"]


def export(model: Path, out: Path, *, data: Path, int8: bool = False, category: str = "", to: str = "openvino") -> str:
    """Export the folder of a student, a detection or an anomaly model, by its config.json; the report in lines.

    `to` is a name of `formats.FORMATS`.
    `category` is the config of the data that an anomaly model was fitted to, where it has several.
    """
    path = model / "config.json"
    stated = files.read_json(path).get(TASK) if path.is_file() else None
    kind = stated.get("kind") if isinstance(stated, dict) else None
    if kind != ANOMALY:
        if category:
            raise DataError(f"{model} is a student, which knows no category; leave out --category {category}.")
        if kind in (DETECTION, SEGMENTATION):
            return detector.described(export_detector(model, out, data=data, int8=int8, to=to))
        return described(export_student(model, out, data=data, int8=int8, to=to))
    if int8:
        raise DataError(
            f"{model} is an anomaly model, whose errors are smaller than 8 bits can tell; leave out --int8."
        )
    if to != "openvino":
        raise DataError(f"{model} is an anomaly model, which is exported to openvino alone; leave out --to {to}.")
    return anomaly.described(export_anomaly(model, out, data=data, category=category))
