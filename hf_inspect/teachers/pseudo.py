"""A split's images -> a folder of a teacher's labels: COCO JSON with scores, and what made them; and back.

Images are named by the SHA-256 of their files, as the data set's manifest.json has them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files, images
from hf_inspect.data import count, read_head, read_reading, stream, write_history
from hf_inspect.data.coco.shapes import outlines
from hf_inspect.errors import DataError
from hf_inspect.schema import SEGMENTATION, Finding, Progress, TaskSpec, no_progress
from hf_inspect.teachers.audit import Bar, audit, refuse_below, table, with_mask
from hf_inspect.teachers.label import Labeller, labels_of

ANNOTATIONS, MANIFEST, SHEET = "annotations.json", "labels.json", "disagreements.png"
FORMAT = 1  # of labels.json
_AT_ONCE = 16  # images in memory


def write_labels(
    teacher: Labeller,
    data: Path,
    out: Path,
    *,
    split: str = "train",
    sample: str = "calibration",
    bar: Bar = Bar(),  # noqa: B008 - frozen
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Audit a teacher on the split `sample`, and label `split` with it into the folder `out`; returns labels.json.

    Below the bar nothing is labelled: DataError, and the sheet of disagreements stands beside `out`. The folder holds
    COCO annotations with scores, labels.json, the sheet, and the teacher's trained_on.json. Of a teacher of masks, an
    image with a box that has none is left out, and listed in labels.json.
    """
    beside = out.with_name(f"{out.name}_{SHEET}")
    found = audit(teacher, data, sample, beside, progress)
    try:
        refuse_below(found, bar)
    except DataError as error:
        raise DataError(f"{error} {beside} shows where they disagree.\n{table(found)}") from None
    with files.staged_folder(out, [data]) as stage:
        content, counts = _labelled(teacher, data, split, progress)
        files.write_json(stage / ANNOTATIONS, content)
        files.write_bytes(stage / SHEET, beside.read_bytes())
        write_history(stage, teacher.history)
        value = {
            "format": FORMAT, "teacher": teacher.identity, "task": teacher.task.to_dict(),
            "data": read_head(data)["fingerprint"], "split": split, "decoding": teacher.decoding.to_dict(),
            "annotations_sha256": files.sha256(stage / ANNOTATIONS), "counts": counts, "audit": found,
        }  # fmt: skip
        files.write_json(stage / MANIFEST, value)
    beside.unlink()
    return value


def read_labels(folder: Path, data: Path) -> tuple[TaskSpec, dict[str, list[Finding]]]:
    """The task of a folder's labels, and each image's findings by the SHA-256 of its file; [] for a negative.

    Masks are those of the polygons. DataError for a folder that is none, that changed, or that is of other data.
    """
    path = folder / MANIFEST
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DataError(f"{path} is none of this version; run 'hf-inspect label' again.")
    if value["data"] != (own := read_head(data)["fingerprint"]):
        raise DataError(f"{folder} holds labels of the data {value['data'][:12]}, and {data} is {own[:12]}; label it.")
    if files.sha256(folder / ANNOTATIONS) != value["annotations_sha256"]:
        raise DataError(f"{folder / ANNOTATIONS} is not what {MANIFEST} states; run 'hf-inspect label' again.")
    task, content = TaskSpec.from_dict(value["task"], path), files.read_json(folder / ANNOTATIONS)
    by_image: dict[int, list[Finding]] = defaultdict(list)
    for one in content["annotations"]:
        by_image[one["image_id"]].append(_finding(one, task))
    return task, {one["file_name"]: by_image[one["id"]] for one in content["images"]}


def described(value: Mapping[str, Any]) -> str:
    """What was labelled, for the terminal."""
    counts = value["counts"]
    by_class = ", ".join(f"{name} {n}" for name, n in counts["classes"].items())
    lines = [table(value["audit"]), f"{counts['images']} images, {counts['negatives']} of them negatives: {by_class}"]
    if counts["left_out"]:
        left_out = len(counts["left_out"])
        lines.append(
            f"LEFT OUT: {left_out} images with a box in which the segmenter sees nothing ({MANIFEST} lists them)"
        )
    return "\n".join(lines)


def polygons_of(found: Finding) -> list[list[float]]:
    """The outlines of a finding's mask, x, y, x, y, ... in pixels of the image; holes are filled."""
    assert found.mask is not None
    return outlines(found.mask, found.corner)


def _labelled(teacher: Labeller, data: Path, split: str, progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """A split as COCO, and what there is of what."""
    reading, total = read_reading(data), count(data, split)
    listed, annotations, left_out = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    for rows in stream(data, split, ["image"], _AT_ONCE):
        rgbs = [images.load(row["image"]["bytes"], reading).rgb for row in rows]
        for row, rgb, found in zip(rows, rgbs, labels_of(teacher, rgbs), strict=True):
            height, width = rgb.shape[:2]
            name = hashlib.sha256(row["image"]["bytes"]).hexdigest()
            if teacher.task.kind == SEGMENTATION and not all(
                one.mask is not None and polygons_of(one) for one in found
            ):
                left_out.append(name)  # something is there: no negative, and no whole lesson
                continue
            listed.append({"id": len(listed) + 1, "file_name": name, "width": width, "height": height})
            annotations += [
                _annotation(f, len(annotations) + i, len(listed), teacher.task) for i, f in enumerate(found, 1)
            ]
        progress("label", len(listed) + len(left_out), total)
    by_class = Counter(teacher.task.classes[one["category_id"] - 1] for one in annotations)
    counts = {
        "images": len(listed), "negatives": len(listed) - len({one["image_id"] for one in annotations}),
        "classes": {name: by_class[name] for name in teacher.task.classes}, "left_out": left_out,
    }  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(teacher.task.classes, 1)]
    return {"images": listed, "annotations": annotations, "categories": categories}, counts


def _annotation(one: Finding, number: int, image: int, task: TaskSpec) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    area = (x1 - x0) * (y1 - y0) if one.mask is None else float(one.mask.sum())
    outline = {} if one.mask is None else {"segmentation": polygons_of(one)}
    return {
        "id": number, "image_id": image, "category_id": task.index(one.name) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": area, "iscrowd": 0, "score": one.score, **outline,
    }  # fmt: skip


def _finding(one: Mapping[str, Any], task: TaskSpec) -> Finding:
    x, y, width, height = one["bbox"]
    found = Finding(task.classes[one["category_id"] - 1], one["score"], (x, y, x + width, y + height))
    return with_mask(found, one["segmentation"]) if "segmentation" in one else found
