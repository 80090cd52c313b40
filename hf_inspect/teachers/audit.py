"""A teacher's labels against people's, class by class: may a student learn from them, and where do they disagree?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images, metrics
from hf_inspect.data import count, read_objects, read_reading, refuse_seen, sheet, stream
from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.metrics.intervals import LIMITS, figure, grouped, mean_limits, undefined
from hf_inspect.schema import Finding, Progress, TaskSpec, no_progress
from hf_inspect.tasks.detection import box_overlap, drawn
from hf_inspect.teachers.dino import as_detection
from hf_inspect.teachers.label import Labeller, labels_of

OVERLAP = 0.5  # IoU of boxes from which a label and a person's box are of one thing
SHOWN = 24  # images on the sheet, those with the most disagreements first
_AT_ONCE = 8  # images in memory
_SIDE = 256  # pixels of an image on the sheet


@dataclass(frozen=True, slots=True)
class Bar:
    """What every class of labels must reach: shares in [0, 1]. `iou` is of masks, and of boxes where there are none."""

    precision: float = 0.5
    recall: float = 0.5
    iou: float = 0.5


@dataclass(frozen=True, slots=True)
class Compared:
    """One image's labels beside people's: of each label whether it is right, of each object whether it was found.

    By class name; `overlaps` are the IoU of those that are one thing.
    """

    right: Mapping[str, Sequence[bool]]
    found: Mapping[str, Sequence[bool]]
    overlaps: Mapping[str, Sequence[float]]

    @property
    def disagreements(self) -> int:
        """Labels of nothing, and objects without one."""
        return sum(not one for side in (self.right, self.found) for own in side.values() for one in own)


@dataclass(slots=True)
class _Seen:
    """What came of a sample so far; `worst` holds what the sheet shows."""

    compared: list[Compared] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    worst: list[tuple[int, int, bytes, bytes, str]] = field(default_factory=list)


def audit(
    teacher: Labeller,
    data: Path,
    split: str,
    picture: Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Precision, recall and IoU of a teacher's labels on a split that people labelled, by class, with 95 % intervals.

    `picture` is a sheet to write of the images where they disagree: people's on the left, the teacher's on the right.
    LeakageError for images that the teacher was trained on or chosen by, DataError for data of other classes.
    """
    objects = read_objects(data)
    as_detection(teacher.task).refuse_other(as_detection(objects), "The teacher", str(data))
    refuse_seen(teacher.history, data, split, "the teacher")
    seen, total = _Seen(), count(data, split)
    for names, rgbs, groups, truths in _sample(data, split, objects):
        said = labels_of(teacher, rgbs)
        for i, (rgb, one, (people, crowds)) in enumerate(zip(rgbs, said, truths, strict=True)):
            found = compared(one, people, crowds, teacher.task)
            seen.compared.append(found)
            seen.groups.append(groups[i])
            if picture and found.disagreements:
                _keep_worst(seen, found, names[i], rgb, (people, one), teacher.task)
        progress("compare", len(seen.compared), total)
    if picture:
        sheet.of_pairs([(a, name, b, "teacher") for _, _, a, b, name in seen.worst], picture, 3, _SIDE)
    by_class = {name: _figures(name, seen) for name in teacher.task.classes}
    return {"split": split, "images": len(seen.compared), "overlap": OVERLAP, "classes": by_class}


def refuse_below(found: Mapping[str, Any], bar: Bar) -> None:
    """DataError unless every class that the sample shows reaches the bar; and where it shows none."""
    if not any(one["recall"]["n"] for one in found["classes"].values()):
        raise DataError(f"{found['split']} shows nothing that people labelled; audit on a split that does.")
    short = []
    for name, one in found["classes"].items():
        for what, least in (("precision", bar.precision), ("recall", bar.recall), ("iou", bar.iou)):
            value = one[what]["value"]
            if one["recall"]["n"] and (value or 0.0) < least:
                short.append(f"{name} {what} {'undefined' if value is None else f'{value:.2f}'} below {least:.2f}")
    if short:
        raise DataError(
            f"the teacher's labels are not good enough to learn from ({'; '.join(short)}); train the teacher longer, "
            "give its classes other words, or set another --least."
        )


def table(found: Mapping[str, Any]) -> str:
    """The figures of `audit` as a table of Markdown."""
    lines = ["| class | precision | recall | IoU |", "|---|---|---|---|"]
    for name, one in found["classes"].items():
        lines.append(f"| {name} | " + " | ".join(_told(one[what]) for what in ("precision", "recall", "iou")) + " |")
    return "\n".join(lines)


def compared(
    labels: Sequence[Finding], people: Sequence[Finding], crowds: Sequence[Finding], task: TaskSpec
) -> Compared:
    """An image's labels matched to people's of their class, the surest first, each to the one that it overlaps most.

    A label that lies in a crowd of its class is neither right nor wrong.
    """
    right: dict[str, list[bool]] = {name: [] for name in task.classes}
    taken, overlaps = set[int](), {name: list[float]() for name in task.classes}
    for one in sorted(labels, key=lambda label: -label.score):
        free = [i for i, other in enumerate(people) if other.name == one.name and i not in taken]
        best = max(free, key=lambda i: box_overlap(one.box, people[i].box), default=None)
        if best is not None and box_overlap(one.box, people[best].box) >= OVERLAP:
            taken.add(best)
            right[one.name].append(True)
            overlaps[one.name].append(_overlap(one, people[best]))
        elif not any(crowd.name == one.name and _inside(one, crowd) for crowd in crowds):
            right[one.name].append(False)
    found = {name: [i in taken for i, other in enumerate(people) if other.name == name] for name in task.classes}
    return Compared(right, found, overlaps)


def truths_of(objects: Mapping[str, Sequence[Any]], task: TaskSpec) -> tuple[list[Finding], list[Finding]]:
    """A row's objects as findings that are sure, with masks where they have polygons; and its crowds."""
    people, crowds = list[Finding](), list[Finding]()
    for box, class_id, polygons, crowd in zip(
        *(objects[name] for name in ("bbox", "category", "polygons", "iscrowd")), strict=True
    ):
        one = Finding(task.classes[class_id], 1.0, tuple(box))
        (crowds if crowd else people).append(with_mask(one, polygons) if polygons else one)
    return people, crowds


def with_mask(one: Finding, polygons: Sequence[Sequence[float]]) -> Finding:
    """A finding with the mask of its polygons, x, y, x, y, ... in pixels of the image."""
    from PIL import Image, ImageDraw

    (top, left), (rows, columns) = one.corner, one.extent
    picture = Image.new("L", (columns, rows))
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2) - (left, top) - 0.5  # to the centres of pixels
        ImageDraw.Draw(picture).polygon([*map(tuple, points)], fill=1, outline=1)
    return Finding(one.name, one.score, one.box, np.asarray(picture, np.bool_))


def _sample(data: Path, split: str, task: TaskSpec) -> Iterator[tuple[list[str], list[Rgb], list[int], list[Any]]]:
    """Names, images, groups and people's labels of a split, some at a time."""
    reading = read_reading(data)
    for rows in stream(data, split, ["image", "group", "objects"], _AT_ONCE):
        names = [row["image"]["path"] for row in rows]
        rgbs = [images.load(row["image"]["bytes"], reading).rgb for row in rows]
        yield names, rgbs, [row["group"] for row in rows], [truths_of(row["objects"], task) for row in rows]


def _figures(name: str, seen: _Seen) -> dict[str, Any]:
    """Precision, recall and mean IoU of a class; intervals count groups of images."""
    every = list(zip(seen.compared, seen.groups, strict=True))

    def of(side: str) -> tuple[list[Any], list[int]]:
        pairs = [(value, group) for one, group in every for value in getattr(one, side)[name]]
        return [value for value, _ in pairs], [group for _, group in pairs]

    (right, of_right), (found, of_found), (overlaps, of_overlaps) = of("right"), of("found"), of("overlaps")
    return {
        "precision": metrics.rate_of(right, of_right) if right else metrics.rate(0, 0),
        "recall": metrics.rate_of(found, of_found) if found else metrics.rate(0, 0),
        "iou": _mean(overlaps, of_overlaps),
    }


def _mean(values: Sequence[float], groups: Sequence[int]) -> metrics.Figure:
    if not values:
        return undefined(0, "n = 0")
    numbers = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(numbers)
    low, high = mean_limits(np.bincount(numbers, np.asarray(values)), sizes)
    return figure(float(np.mean(values)), low, high, len(values), LIMITS + grouped(sizes))


def _overlap(label: Finding, other: Finding) -> float:
    """IoU of two masks, of the boxes where one of the two has none."""
    if label.mask is None or other.mask is None:
        return box_overlap(label.box, other.box)
    height, width = (max(one.corner[side] + one.extent[side] for one in (label, other)) for side in (0, 1))
    a, b = label.mask_in(height, width), other.mask_in(height, width)
    return float((a & b).sum() / max(1, (a | b).sum()))


def _inside(label: Finding, crowd: Finding) -> bool:
    """Whether half of a label's box lies in a crowd's."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = label.box, crowd.box
    shared = max(0.0, min(a1, c1) - max(a0, c0)) * max(0.0, min(b1, d1) - max(b0, d0))
    return shared >= OVERLAP * (a1 - a0) * (b1 - b0)


def _keep_worst(
    seen: _Seen, found: Compared, name: str, rgb: Rgb, sides: Sequence[Sequence[Finding]], task: TaskSpec
) -> None:
    number = len(seen.compared)
    if len(seen.worst) == SHOWN and found.disagreements <= min(seen.worst)[0]:
        return
    left, right = (_png(drawn(rgb, one, task, 0.0)) for one in sides)
    seen.worst.append((found.disagreements, -number, left, right, name))
    seen.worst = sorted(seen.worst, reverse=True)[:SHOWN]


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def _told(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return f"- (n = {one['n']})"
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}] (n = {one['n']})"
