"""Things in images: raw boxes, scores and masks to findings, an export against its model, figures of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.schema import SEGMENTATION, Box, Finding, Prediction, TaskSpec
from hf_inspect.tasks import anomaly
from hf_inspect.tasks.canvas import as_text, draw_confusion, new_figure, png_of

_CANDIDATES = 1000  # boxes of an image that overlaps are looked for among, the surest
_SAME = 0.5  # IoU from which two findings of a class are one thing
_GREY, _COLOURS = "#888888", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a model's raw boxes become findings.

    Those with a score of `least` or more, of which boxes that overlap a surer one of their class by an IoU above
    `overlap` are left out (None: none is), and the `most` surest of an image. A finding is told of, and drawn, from the
    score `told` on; the others are for measuring.
    """

    least: float = 0.01
    overlap: float | None = 0.6
    most: int = 100
    told: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.least, self.told, 1.0 if self.overlap is None else self.overlap)
        if not all(0 <= one <= 1 for one in shares) or self.most < 1:
            raise DataError(f"{self} came; least, overlap and told lie in [0, 1], and most is 1 or more.")

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Decoding":
        """The settings that `to_dict` wrote into the record `where`; DataError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {one.name for one in fields(cls)}:
            raise DataError(f"{where} does not say how boxes become findings ({value!r}); train the model again.")
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)


def decode(
    outputs: Sequence[Floats], task: TaskSpec, sizes: Sequence[tuple[int, int]], decoding: Any
) -> list[Prediction]:
    """Raw boxes of n images, of heights and widths `sizes` -> an answer an image; DataError unless all are finite.

    `outputs`: scores (n, q, k) in [0, 1], in the order of the task's classes; boxes (n, q, 4), x0, y0, x1, y1 as shares
    of the image; and of a segmentation coefficients (n, q, m) of prototypes (n, m, h, w), whose sum is above 0 inside.
    Severity is the highest score of a defect's finding, as the task's `score` has it where it says so.
    """
    scores, boxes, *masks = outputs
    if scores.ndim != 3 or scores.shape[2] != len(task.classes) or boxes.shape != (*scores.shape[:2], 4):
        raise DataError(
            f"The model gave scores {scores.shape} and boxes {boxes.shape}; (n, q, {len(task.classes)}) and (n, q, 4) "
            "are wanted."
        )
    if (task.kind == SEGMENTATION) != (len(masks) == 2):
        raise DataError(f"The model gave {len(outputs)} outputs, which are not those of a {task.kind}.")
    if not all(np.isfinite(one).all() for one in outputs):
        raise DataError("The model gave values that are not finite; export it again, or train it with another rate.")
    how = Decoding.from_dict(decoding, "inspect.json")
    every = [_found(scores[i], boxes[i], [one[i] for one in masks], task, size, how) for i, size in enumerate(sizes)]
    return [Prediction(severity_of(found, task, how.least), findings=tuple(found)) for found in every]


def outputs(task: TaskSpec, height: int, width: int) -> list[list[int]]:
    """Scores and boxes of any number of queries; of a segmentation coefficients and prototypes as well."""
    masks = [[-1, -1, -1], [-1, -1, -1, -1]] if task.kind == SEGMENTATION else []
    return [[-1, -1, len(task.classes)], [-1, -1, 4], *masks]


def severity_of(findings: Sequence[Finding], task: TaskSpec, least: float) -> float:
    """The highest score of a defect among an image's findings, 0 without any, as the task's `score` has it.

    What has a name that is no class of the task counts as a defect: something is there that nobody can name.
    To that, nothing found is a score of `least`, from which on findings are kept: no one knows how far below it was.
    """
    raw = max((one.score for one in findings if one.name not in task.good), default=0.0)
    return raw if task.score is None else float(task.score.severity(np.array([max(raw, least)]))[0])


def apart(boxes: Floats, scores: Floats, classes: NDArray[np.int64], how: Decoding) -> list[int]:
    """Numbers of boxes (n, 4), the surest of which comes first, that overlap no surer one of their class too far."""
    if how.overlap is None or not len(boxes):
        return list(range(len(boxes)))
    import cv2

    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    kept = cv2.dnn.NMSBoxesBatched(sides.tolist(), scores.tolist(), classes.tolist(), how.least, how.overlap)
    return sorted(np.array(kept, np.int64).ravel().tolist())  # they came in the order of their scores


def compare(
    task: TaskSpec,
    classes: NDArray[np.int64],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    told: float = 0.5,
) -> dict[str, Any]:
    """Answers of n images before and after an export -> what changed; `classes` is not looked at.

    Findings from the score `told` on are matched to those of the other side of their class, whatever the score, by the
    largest overlap. `lost` {"k", "n"} counts those without a partner of half their area or more in common, on either
    side; `shift` is the most that a matched box's side moves, in pixels; `score` the most that a score changes, `iou`
    the least overlap of two masks. Besides max_change, of a severity.
    """
    shift, score, iou, lost, n = 0.0, 0.0, 1.0, 0, 0
    for one, two in zip(before, after, strict=True):
        for own, others in ((one, two), (two, one)):
            for found in (f for f in own.findings or () if f.score >= told):
                n += 1
                partner = _partner(found, others.findings or ())
                if partner is None:
                    lost += 1
                    continue
                shift = max(shift, float(np.abs(np.subtract(found.box, partner.box)).max()))
                score = max(score, abs(found.score - partner.score))
                if found.mask is not None:
                    iou = min(iou, _mask_overlap(found, partner))
    pairs = zip(before, after, strict=True)
    change = max((abs((a.severity or 0.0) - (b.severity or 0.0)) for a, b in pairs), default=0.0)
    return {
        "images": len(before),
        "told": told,
        "lost": {"k": lost, "n": n},
        "shift": shift,
        "score": score,
        "iou": iou,
        "max_change": change,
    }


def measure(
    task: TaskSpec,
    classes: NDArray[np.int64],
    severity: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    threshold: float | None = None,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Figures of whole images by severity, good parts against all others, as an anomaly's are.

    Those of the boxes need the truth, which is no class of an image: `metrics.findings`.
    """
    return anomaly.measure(task, classes, severity, probabilities, threshold, groups)


def draw(figures: Mapping[str, Any], out: Path) -> None:
    """Precision against recall of each class at an IoU of 0.5, and what was taken for what, to `out` (PNG).

    `figures` are those of `reports.detect`.
    """
    confusion, told = figures["told"]["confusion"], figures["told"]["threshold"]
    side = max(4.8, 1.6 + 0.75 * len(confusion["columns"]))
    figure = new_figure(6.4 + side, side)
    left, right = figure.subplots(1, 2, width_ratios=[6.4, side])
    for i, (name, one) in enumerate(figures["classes"].items()):
        area = one["ap50"]["value"]
        said = f"{as_text(name)}, AP50 {'-' if area is None else f'{area:.3f}'}, {one['objects']} objects"
        left.plot(*one["curve"], color=_COLOURS[i % len(_COLOURS)], linewidth=1.8, label=said)
    left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="Recall", ylabel="Precision", title=f"IoU 0.5, {figures['n']} images")
    left.legend(loc="lower left", fontsize=8, frameon=False)
    left.grid(color=_GREY, alpha=0.25)
    draw_confusion(right, confusion)
    right.set(xlabel="Found", ylabel="There", title=f"From a score of {told:.2f} on")
    files.write_bytes(out, png_of(figure))


def drawn(rgb: NDArray[np.uint8], findings: Sequence[Finding], task: TaskSpec, told: float) -> NDArray[np.uint8]:
    """An image uint8 (h, w, 3) with its findings from the score `told` on: boxes, masks, classes and scores.

    What is of no class of the task is grey.
    """
    from PIL import Image, ImageColor, ImageDraw

    told_of = [one for one in findings if one.score >= told]
    picture = np.array(rgb, copy=True)
    ink = {name: ImageColor.getrgb(_GREY) for name in {one.name for one in told_of}}
    ink |= {name: ImageColor.getrgb(_COLOURS[i % len(_COLOURS)]) for i, name in enumerate(task.classes)}
    for one in told_of:
        if one.mask is not None:
            inside = one.mask_in(*rgb.shape[:2])
            picture[inside] = (picture[inside] * 0.6 + np.array(ink[one.name]) * 0.4).astype(np.uint8)
    image = Image.fromarray(picture)  # pixels of ours, no file
    pen, width = ImageDraw.Draw(image), max(1, round(min(rgb.shape[:2]) / 240))
    for one in told_of:
        pen.rectangle(one.box, outline=ink[one.name], width=width)
        place = (one.box[0] + width, max(0.0, one.box[1] - 12))
        pen.text(place, f"{as_text(one.name)} {one.score:.2f}", fill=ink[one.name])
    return np.array(image)


def _found(
    scores: Floats, boxes: Floats, masks: Sequence[Floats], task: TaskSpec, size: tuple[int, int], how: Decoding
) -> list[Finding]:
    """The findings of one image (height, width), the surest first."""
    height, width = size
    query, kind = np.nonzero(scores >= how.least)
    sure = scores[query, kind]
    order = np.argsort(-sure, kind="stable")[:_CANDIDATES]
    query, kind, sure = query[order], kind[order], np.minimum(sure[order], 1.0)
    pixels = (boxes[query] * (width, height, width, height)).clip(0.0, (width, height, width, height))
    solid = (pixels[:, 2] > pixels[:, 0]) & (pixels[:, 3] > pixels[:, 1])
    query, kind, sure, pixels = query[solid], kind[solid], sure[solid], pixels[solid]
    kept = apart(pixels, sure, kind, how)[: how.most]
    found = []
    for i in kept:
        box: Box = tuple(pixels[i].tolist())
        one = Finding(task.classes[kind[i]], float(sure[i]), box)
        if masks:
            one = Finding(one.name, one.score, box, _mask(one, masks[0][query[i]], masks[1], size))
        found.append(one)
    return found


def _mask(found: Finding, coefficients: Floats, prototypes: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Coefficients (m,) of prototypes (m, h, w) -> where their sum is above 0, in the pixels of the finding's box."""
    from PIL import Image

    _, h, w = prototypes.shape
    (top, left), (rows, columns) = found.corner, found.extent
    scale_y, scale_x = h / size[0], w / size[1]
    total = np.tensordot(coefficients, prototypes, 1).astype(np.float32)
    part = (left * scale_x, top * scale_y, min(w, (left + columns) * scale_x), min(h, (top + rows) * scale_y))
    return np.array(Image.fromarray(total).resize((columns, rows), Image.Resampling.BILINEAR, box=part)) > 0


def _partner(found: Finding, others: Sequence[Finding]) -> Finding | None:
    """Of the others of its class the one that overlaps most, and by `_SAME` at least."""
    own = [one for one in others if one.name == found.name]
    best = max(own, key=lambda one: box_overlap(found.box, one.box), default=None)
    return best if best is not None and box_overlap(found.box, best.box) >= _SAME else None


def box_overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _mask_overlap(a: Finding, b: Finding) -> float:
    height = max(one.corner[0] + one.extent[0] for one in (a, b))
    width = max(one.corner[1] + one.extent[1] for one in (a, b))
    one, two = a.mask_in(height, width), b.mask_in(height, width)
    return float((one & two).sum() / (one | two).sum()) if (one | two).any() else 1.0
