"""YOLO, Pascal VOC, LabelMe, CVAT, COCO: from one to the other; boxes by globox; what is lost is counted."""

import json
import xml.etree.ElementTree as et
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_inspect import files
from hf_inspect.console import plain, shown
from hf_inspect.data.coco import outlines
from hf_inspect.data.coco.entries import leads_out, looked
from hf_inspect.data.coco.outlines import Described, Drawn
from hf_inspect.data.coco.splitting import checked
from hf_inspect.data.raw.document import read_document, whole
from hf_inspect.data.raw.objects import description_of, numbers
from hf_inspect.data.raw.sources import is_image, relative, walk
from hf_inspect.errors import DataError

if TYPE_CHECKING:
    from globox import Annotation, BoundingBox

FORMATS = ("coco", "yolo", "voc", "labelme", "cvat")
_NOT_READ = {
    "datumaro": "its library cannot be installed beside this package's; let Datumaro itself export COCO",
    "via": "its boxes have no sizes of images; let VIA export COCO",
}
BECAME_BOXES = "{} became boxes"
BECAME_POLYGONS = "{} became polygons"
BOXES_DRAWN = "boxes became polygons of four corners, as YOLO has no file of both"
JOINED = "things of several polygons became one outline each, as YOLO has no other"
LEFT_OUT = "{} left out"
NO_NEGATIVE = "images left out, as all they show was left out and they would pass for good parts"
YOLO_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "_darknet.labels")
_POINTS = 7  # values of a line of YOLO from which on it is a polygon: the class and three points

T = TypeVar("T")


@dataclass(slots=True)
class Labels:
    """Images with their boxes, the classes in order, how many of what were lost in reading, and of which images.

    `drawn` holds the polygons of boxes that are of some, `described` what was written of some.
    """

    images: list["Annotation"] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    drawn: Drawn = field(default_factory=dict)
    described: Described = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    losing: set[str] = field(default_factory=set)

    def lose(self, image: str, what: Iterable[str]) -> None:
        """Count what of an image is left out."""
        for one in what:
            self.lost[one] += 1
            self.losing.add(image)


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: images, things by class, how many of them are polygons, and what was lost, by what."""

    out: Path
    images: int
    boxes: Mapping[str, int]
    lost: Mapping[str, int]
    polygons: int = 0

    def table(self) -> str:
        """The same in words."""
        listed = ", ".join(f"{n:,} {plain(name)}" for name, n in self.boxes.items()) or "none"
        drawn = f", {self.polygons:,} of them drawn as polygons" if self.polygons else ""
        head = f"{self.out}: {self.images:,} images, {sum(self.boxes.values()):,} boxes ({listed}){drawn}"
        return "\n".join([head, *(f"  {n:,} {what}" for what, n in self.lost.items())])


def convert(src: Path, source: str, to: str, out: Path) -> Converted:
    """Read the labels of `src`, which are of the format `source`, and write them as `to` into the folder `out`.

    `src` is COCO's JSON, CVAT's XML, or the folder of the others. No image is copied; YOLO's are looked into for their
    sizes. DataError for a format that is not known, for labels that cannot be read, and where nothing is left.
    """
    for name in (source, to):
        if name not in FORMATS:
            why = _NOT_READ.get(name, f"there are {', '.join(FORMATS)}")
            raise DataError(f"{name!r} cannot be converted: {why}.")
    if source == to:
        raise DataError(f"The labels are {to} already; give another --to.")
    one_file = source in ("coco", "cvat")
    if not (src.is_file() if one_file else src.is_dir()):
        raise DataError(f"{src} is no {'file' if one_file else 'folder'}, as labels of {source} are; give that.")
    read = _READERS[source](src)
    kept = [one for one in read.images if one.boxes or one.image_id not in read.losing]
    lost = read.lost + Counter({NO_NEGATIVE: len(read.images) - len(kept)})
    if not kept:
        raise DataError(f"{src} holds no {source} labels that can be converted; is it the right --from?")
    with files.staged_folder(out, [src]) as stage:
        lost += _guarded(lambda: _WRITERS[to](kept, read, stage), str(src), to)
    lost += Counter({LEFT_OUT.format("descriptions"): 0 if to in ("coco", "labelme") else len(read.described)})
    boxes = Counter(box.label for one in kept for box in one.boxes)
    drawn = 0 if to == "voc" else len(read.drawn)
    return Converted(out, len(kept), {name: boxes[name] for name in read.classes}, dict(lost), drawn)


def _guarded(call: Callable[[], T], name: str, what: str) -> T:
    """Whatever globox raises on labels that are not what it takes them for becomes one `DataError`."""
    try:
        return call()
    except DataError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"{name} cannot be converted as {what} ({shown(why)}); export it again.") from error


def _image(name: str, size: tuple[Any, Any], boxes: list["BoundingBox"], of: str) -> "Annotation":
    """An image's labels, under a name that leads nowhere else."""
    from globox import Annotation

    plain_name = name.replace("\\", "/").removeprefix("./")
    if leads_out(plain_name) or not plain_name.strip():
        raise DataError(f"{of}: the image's name {shown(name)} leads out of its folder; name it by its path below it.")
    return Annotation(plain_name, size, boxes)


def _with_classes(read: Labels) -> Labels:
    """Labels whose classes are those that boxes have, in the order of their names."""
    read.classes += sorted({box.label for one in read.images for box in one.boxes})
    return read


# From.


def _from_coco(src: Path) -> Labels:
    from globox import BoundingBox, BoxFormat

    document = read_document(src)
    at, read = checked(document), Labels()
    named = {whole(one.get("id")): str(one.get("name")) for one in document.categories if isinstance(one, dict)}
    boxes: list[list[BoundingBox]] = [[] for _ in document.images]
    for number, one in enumerate(document.annotations, 1):
        place, label = at[whole(one["image_id"])], named.get(whole(one.get("category_id")))
        bbox, mask = one.get("bbox"), one.get("segmentation")
        if label is None or not numbers(bbox) or len(bbox) != 4 or min(bbox[2:]) <= 0:
            raise DataError(
                f"{document.name}: annotation number {number} has no box or no category that is listed. Run "
                f"'hf-inspect data validate {document.name} --images DIR --repair fixed.json', and convert that."
            )
        if one.get("iscrowd"):
            read.lose(document.images[place]["file_name"], [LEFT_OUT.format("crowds")])
            continue
        polygons, changed = _polygons(mask, document.images[place])
        read.lost += Counter(changed)
        read.lost += Counter([LEFT_OUT.format("sets of keypoints")] if one.get("keypoints") else [])
        box = BoundingBox.create(label=label, coords=tuple(bbox), box_format=BoxFormat.LTWH)
        boxes[place].append(box)
        if polygons:
            read.drawn[id(box)] = polygons
        if text := description_of(one):
            read.described[id(box)] = text
    used = {box.label for of_image in boxes for box in of_image}
    read.classes += [name for name in dict.fromkeys(named.values()) if name in used]
    for entry, of_image in zip(document.images, boxes, strict=True):
        size = whole(entry.get("width")), whole(entry.get("height"))
        made = partial(_image, entry["file_name"], size, of_image, src.name)
        read.images.append(_guarded(made, src.name, "COCO"))
    return read


def _polygons(mask: Any, entry: Mapping[str, Any]) -> tuple[list[list[float]], list[str]]:
    """The polygons of a mask of an image that is listed, and what was changed for them."""
    polygons = outlines.polygons_of(mask, (whole(entry.get("width")) or 0, whole(entry.get("height")) or 0))
    if isinstance(mask, dict):
        return polygons, [(BECAME_POLYGONS if polygons else BECAME_BOXES).format("RLE masks")]
    return polygons, [BECAME_BOXES.format("polygons")] if mask and not polygons else []


def _from_yolo(src: Path) -> Labels:
    """images/ with labels/ beside it, or both in one folder; an image without labels shows nothing."""
    inventory, read = walk(src), Labels()
    read.classes += _yolo_names(src, inventory.files)
    for path in filter(is_image, inventory.files):
        below = Path(relative(path, src))
        parts = ["labels" if part == "images" else part for part in below.parts]
        text = src.joinpath(*parts).with_suffix(".txt")
        size, _ = looked(path)
        boxes = _guarded(partial(_yolo_boxes, text, size, read), relative(path, src), "YOLO")
        name = "/".join(below.parts[1:] if below.parts[0] == "images" else below.parts)
        read.images.append(_image(name, size, boxes, str(below)))
    return read


def _yolo_boxes(path: Path, size: tuple[int, int], read: Labels) -> list["BoundingBox"]:
    from globox import BoundingBox

    boxes = list[BoundingBox]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if not line.strip():
            continue
        number, *values = line.split()
        drawn = len(values) + 1 >= _POINTS
        box = (BoundingBox.from_yolo_seg if drawn else BoundingBox.from_yolo_v5)(line, image_size=size)
        box.label = read.classes[int(number)]
        if drawn:
            read.drawn[id(box)] = [[float(value) * size[i % 2] for i, value in enumerate(values)]]
        boxes.append(box)
    return boxes


def _yolo_names(src: Path, there: Iterable[Path]) -> list[str]:
    """The names of YOLO's classes, of the one file that says them."""
    import yaml

    found = [path for path in there if path.name in YOLO_NAMES]
    if not found:
        raise DataError(f"{src} has no file with the names of YOLO's classes ({', '.join(YOLO_NAMES)}); add one.")
    text = files.read_text(found[0])
    if found[0].suffix not in (".yaml", ".yml"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    stated = _guarded(lambda: yaml.safe_load(text), found[0].name, "YOLO")
    names = stated.get("names") if isinstance(stated, dict) else None
    names = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
    if not isinstance(names, list) or not names or "kpt_shape" in stated:
        what = "is of YOLO's poses" if names else "has no names"
        raise DataError(
            f"{found[0].name} {what}; boxes and polygons of YOLO are read, with the names of their classes."
        )
    return [str(name) for name in names]


def _from_voc(src: Path) -> Labels:
    from globox import Annotation

    read = Labels()
    for path in _files(src, ".xml"):
        name = relative(path, src)
        found = _guarded(partial(Annotation.from_pascal_voc, path), name, "Pascal VOC")
        read.images.append(_image(Path(found.image_id.replace("\\", "/")).name, found.image_size, found.boxes, name))
    return _with_classes(read)


def _from_labelme(src: Path) -> Labels:
    from globox import Annotation

    read = Labels()
    for path in _files(src, ".json"):
        name = relative(path, src)
        found = _guarded(partial(Annotation.from_labelme, path), name, "LabelMe")
        shapes = json.loads(path.read_bytes())["shapes"]
        polygons = _guarded(
            partial(outlines.of_labelme, shapes, found.boxes, read.drawn, read.described), name, "LabelMe"
        )
        named = Path(found.image_id.replace("\\", "/")).name
        image = _image(named, found.image_size, [*found.boxes, *polygons], name)
        kinds = [shape["shape_type"] for shape in shapes]
        others = (LEFT_OUT.format(f"shapes ({kind})") for kind in kinds if kind not in ("polygon", "rectangle"))
        read.lose(image.image_id, others)
        read.images.append(image)
    return _with_classes(read)


def _from_cvat(src: Path) -> Labels:
    from globox import Annotation

    read = Labels()
    root = _guarded(lambda: et.parse(src).getroot(), src.name, "CVAT")
    for node in root.iter("image"):
        found = _guarded(partial(Annotation.from_cvat, node), src.name, "CVAT")
        polygons = _guarded(partial(outlines.of_cvat, node, read.drawn), src.name, "CVAT")
        image = _image(found.image_id, found.image_size, [*found.boxes, *polygons], src.name)
        others = (one.tag for one in node if one.tag not in ("box", "polygon"))
        read.lose(image.image_id, (LEFT_OUT.format(f"shapes ({tag})") for tag in others))
        read.images.append(image)
    return _with_classes(read)


def _files(src: Path, suffix: str) -> list[Path]:
    return [path for path in walk(src).files if path.suffix.lower() == suffix]


# To.


def _to_coco(images: list["Annotation"], read: Labels, out: Path) -> Counter[str]:
    from globox import AnnotationSet

    ids = {one.image_id: number for number, one in enumerate(images, 1)}
    content = AnnotationSet(images).to_coco(
        label_to_id={name: number for number, name in enumerate(read.classes, 1)}, imageid_to_id=ids
    )
    for annotation in content["annotations"]:
        annotation["id"] += 1  # globox counts from 0, which evaluators take for no annotation
    outlines.into_coco(content, images, read.drawn, read.described)
    files.write_json(out / "annotations.json", content)
    return Counter()


def _to_yolo(images: list["Annotation"], read: Labels, out: Path) -> Counter[str]:
    import yaml

    ids: Mapping[str, int] = {name: number for number, name in enumerate(read.classes)}
    boxes = 0
    for one, path in _places(images, out / "labels", ".txt"):
        one.save_yolo_v5(path, label_to_id=ids)
        boxes += outlines.into_yolo(path, one, read.drawn, ids)
    stated = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(read.classes))}
    files.write_text(out / "data.yaml", yaml.safe_dump(stated, sort_keys=False, allow_unicode=True))
    joined = sum(len(one) > 1 for one in read.drawn.values())
    return +Counter({BOXES_DRAWN: boxes, JOINED: joined})


def _to_voc(images: list["Annotation"], read: Labels, out: Path) -> Counter[str]:
    for one, path in _places(images, out / "Annotations", ".xml"):
        one.save_pascal_voc(path)
    return +Counter({BECAME_BOXES.format("polygons"): len(read.drawn)})


def _to_labelme(images: list["Annotation"], read: Labels, out: Path) -> Counter[str]:
    for one, path in _places(images, out, ".json"):
        one.save_labelme(path)
        outlines.into_labelme(path, one, read.drawn, read.described)
    return Counter()


def _to_cvat(images: list["Annotation"], read: Labels, out: Path) -> Counter[str]:
    from globox import AnnotationSet

    out.mkdir(parents=True, exist_ok=True)
    AnnotationSet(images).save_cvat(out / "annotations.xml")
    outlines.into_cvat(out / "annotations.xml", images, read.drawn)
    return Counter()


def _places(images: Iterable["Annotation"], folder: Path, suffix: str) -> Iterable[tuple["Annotation", Path]]:
    """Each image with the file its labels go to; DataError where two would go to one."""
    taken = dict[Path, str]()
    for one in images:
        path = (folder / one.image_id).with_suffix(suffix)
        if path in taken:
            raise DataError(f"{taken[path]} and {one.image_id} differ in their suffix alone; rename one of them.")
        taken[path] = one.image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        yield one, path


_READERS: Mapping[str, Callable[[Path], Labels]] = {
    "coco": _from_coco, "yolo": _from_yolo, "voc": _from_voc, "labelme": _from_labelme, "cvat": _from_cvat,
}  # fmt: skip
_WRITERS: Mapping[str, Callable[[list[Any], Labels, Path], Counter[str]]] = {
    "coco": _to_coco, "yolo": _to_yolo, "voc": _to_voc, "labelme": _to_labelme, "cvat": _to_cvat,
}  # fmt: skip
