"""What a student learns from in place of people's labels: a teacher's, whether it is prompted or a larger student."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.detectors.predictor import Detector
from hf_inspect.errors import DataError
from hf_inspect.schema import DETECTION, Finding, TaskSpec
from hf_inspect.teachers import LABELS, Labeller, Teacher, read_labels
from hf_inspect.teachers.pseudo import polygons_of

if TYPE_CHECKING:
    import datasets

WHERE = ("all", "unmarked")  # images that a teacher's labels are of: every one, or those on which nobody marked a thing
Objects = Mapping[str, Any]  # as a row's column of them


def teacher_of(folder: Path, least: float | None = None) -> Labeller:
    """The teacher in a folder: adapters of recipes/teacher_lora, or a student of recipes/edge_detector.

    `least` is the score from which a finding is a label: 0.3 without, or what the student tells of.
    """
    config = folder / "config.json"
    if not config.is_file():
        return Teacher.from_folder(folder, LABELS.least if least is None else least)
    student = Detector.from_pretrained(folder)
    if least is not None:
        student.decoding = replace(student.decoding, told=least)
    return student


def task_taught(task: TaskSpec, labels: Path, data: Path) -> TaskSpec:
    """The task as far as a teacher's labels teach it: boxes alone where the teacher gave no masks."""
    stated, _ = read_labels(labels, data)
    return replace(task, kind=DETECTION) if stated.kind == DETECTION else task


def relabelled(
    rows: "datasets.Dataset", labels: Path, data: Path, task: TaskSpec, names: Sequence[str], where: str
) -> tuple["datasets.Dataset", dict[str, Objects]]:
    """The rows to learn from, and the objects of those that a teacher labelled, by the SHA-256 of their files.

    With `where` "all" rows without its labels are left out; with "unmarked" what people marked stays, and the teacher
    labels the rest. DataError for labels of another task or data, and where none is left.
    """
    if where not in WHERE:
        raise DataError(f"labels_where is {where!r}; give {' or '.join(WHERE)}.")
    stated, found = read_labels(labels, data)
    task.refuse_things(stated, "the student", f"the labels {labels}")
    objects, kept = dict[str, Objects](), list[int]()
    for number, row in enumerate(rows):
        sha256 = hashlib.sha256(row["image"]["bytes"]).hexdigest()
        marked = where == "unmarked" and bool(row["objects"]["bbox"])
        if sha256 in found and not marked:
            objects[sha256] = _objects(found[sha256], names)
        if sha256 in found or where == "unmarked":
            kept.append(number)
    if not kept:
        raise DataError(f"{labels} labels none of the images to train on; label that split.")
    return rows.select(kept), objects


def _objects(findings: Sequence[Finding], names: Sequence[str]) -> Objects:
    """Findings as a row's column of objects, whose classes are places among the data set's names."""
    return {
        "bbox": [list(one.box) for one in findings],
        "category": [names.index(one.name) for one in findings],
        "polygons": [[] if one.mask is None else polygons_of(one) for one in findings],
        "iscrowd": [False] * len(findings),
    }
