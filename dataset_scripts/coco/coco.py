"""The user's own parts with one COCO JSON -> boxes, polygons and good or defect, split by group.

What cannot be used is counted and named in the notes, never dropped in silence.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.partition import Placement, partition
from hf_inspect.data.shares import parse_shares
from hf_inspect.data.sources import images_in, relative
from hf_inspect.errors import DataError
from hf_inspect.schema import DEFECT, GOOD, Sample

NAMED = 10  # offenders a note names
FAR = 2**24  # pixels; float32 holds every whole number up to here, and no image is larger
NO_NAME = "entries of `images` without an integer id or a file_name were left out"
TWICE = "images are listed more than once; their annotations were united"
UNLISTED = "image files that the JSON does not list were left out"
OTHER_SIZE = "images of another size than the JSON says were left out, as their boxes may not fit"
NO_IMAGE = "annotations of no image that the JSON lists were left out"
NO_CATEGORY = "annotations of no category that the JSON lists were left out"
NO_BOX = "annotations with neither a box of four numbers nor a polygon were left out"
NO_AREA = "annotations whose box has no area inside the image were left out"
RLE = "annotations have an RLE mask, which was left out"
NO_POLYGON = "annotations have a polygon that is no list of three or more points, which was left out"

Problem = tuple[str, str]  # one of the sentences above, and where
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Options:
    r"""How the images are split and joined, and their licence (an id of the Hub's list).

    `shares`: percent of train/validation/calibration/test. `group_rule`: a regular expression whose group 1, found
    in the file name, names the photo: `(.+)\.rf\.` for augmented copies, `(.+)_tile` for tiles of one photo.
    """

    seed: int = 0
    shares: str = "55/10/15/20"
    group_rule: str | None = None
    license: str = "other"


@dataclass(frozen=True, slots=True)
class Shared:
    """What all images of a JSON share: names of the categories in use by id, in the order of the ids; problems."""

    categories: Mapping[int, str] = field(default_factory=dict)
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class Annotated(Sample):
    """A sample whose `columns` are its `entry` of `images` and its `annotations` as the JSON has them, until placed."""

    shared: Shared = field(default_factory=Shared)


class Coco(InspectionBuilder):
    """A row an image; `objects` holds its annotations as lists of equal length."""

    VERSION = datasets.Version("1.1.0")
    LICENCE = None
    OPTIONS = Options

    @classmethod
    def read(cls, src: Path | None, options: Options) -> list[Sample]:
        """Every image that the JSON lists, in its order; DataError where it is no COCO file."""
        path, root = _json_and_root(src)
        coco = _load(path)
        listed, problems = _listed(coco["images"], root)
        annotations, lost = _annotations(coco["annotations"], listed)
        shared = Shared(_used(coco["categories"], annotations), [*problems, *lost])
        strata = _strata(listed, annotations, shared)
        return [
            _sample(root, source, entries[0], annotations[source], stratum, shared)
            for (source, entries), stratum in zip(listed.items(), strata, strict=True)
        ]

    @classmethod
    def columns_of(cls, samples: Sequence[Annotated], options: Options) -> Mapping[str, Any]:
        """Id, size in pixels and objects of an image: boxes x0, y0, x1, y1, polygons x, y, x, y, ..., in pixels."""
        names = list(dict.fromkeys(samples[0].shared.categories.values()))
        number = datasets.Value("float32")
        objects = {
            "bbox": datasets.List(datasets.List(number, length=4)),
            "category": datasets.List(datasets.ClassLabel(names=names)),
            "polygons": datasets.List(datasets.List(datasets.List(number))),
            "iscrowd": datasets.List(datasets.Value("bool")),
        }
        whole = datasets.Value("int64")
        return {"image_id": whole, "width": whole, "height": whole, "objects": objects}

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """The option's shares, by group; images whose size belies the JSON are left out."""
        problems = list(examined[0].sample.shared.problems)
        kept, kept_groups = [], []
        for image, group in zip(examined, groups, strict=True):
            columns, found = _columns(image)
            problems += found
            if columns is not None:
                kept.append(replace(image, sample=replace(image.sample, columns=columns)))
                kept_groups.append(group)
        if not kept:
            raise DataError(f"no image can be used: {' '.join(_notes(problems))}")
        rows = partition(kept, kept_groups, parse_shares(options.shares), options.seed)
        return Placement(rows, _notes(problems))


def _json_and_root(src: Path | None) -> tuple[Path, Path]:
    """The one JSON of a folder, or `src` where it is the JSON, and the folder below which images are looked for."""
    if src is None or not src.exists():
        raise DataError(f"coco needs a COCO JSON or its folder as --src, got {src}.")
    if src.is_file():
        return src, src.parent.parent if src.parent.name == "annotations" else src.parent
    found = sorted(src.glob("*.json")) or sorted(src.rglob("*.json"))
    if len(found) != 1:
        named = f"several JSON files ({', '.join(relative(p, src) for p in found)})" if found else "no JSON file"
        raise DataError(f"{src} holds {named}; give the one to build from as --src.")
    return found[0], src


def _load(path: Path) -> dict[str, list[Any]]:
    """The JSON's lists, checked to be what COCO says as far as everything else rests on it."""
    try:
        coco = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); export it again.") from None
    wanted = ("images", "annotations", "categories")
    if not isinstance(coco, dict) or not all(isinstance(coco.get(name), list) for name in wanted):
        raise DataError(f"{path.name} is no COCO file: it needs the lists {', '.join(wanted)}.")
    for category in coco["categories"]:
        if not isinstance(category, dict) or not {"id": int, "name": str}.items() <= _types(category).items():
            raise DataError(f"{path.name}: a category needs an integer id and a name, got {category}.")
    return coco


def _types(entry: Mapping[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in entry.items()}


def _sample(
    root: Path,
    source: str,
    entry: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    stratum: str,
    shared: Shared,
) -> Annotated:
    class_name = DEFECT if annotations else GOOD
    columns = {"entry": entry, "annotations": annotations}
    return Annotated(source, root / source, class_name, stratum, columns, shared=shared)


def _listed(entries: Sequence[Any], root: Path) -> tuple[dict[str, list[Mapping[str, Any]]], list[Problem]]:
    """Path of each listed image below `root` -> its entries (one, in a sound file), and what is wrong with the list."""
    there = {relative(path, root): path.name for path in images_in(root)}
    by_name: dict[str, list[str]] = defaultdict(list)
    for source, name in there.items():
        by_name[name].append(source)
    listed: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in filter(_named, entries):
        listed[_source(entry["file_name"], there, by_name)].append(entry)
    ids = Counter(entry["id"] for of_file in listed.values() for entry in of_file)
    if repeated := [i for i, n in ids.items() if n > 1]:
        raise DataError(f"image id {repeated[0]} is given to several images; export the JSON again.")
    problems = [(NO_NAME, f"number {at}") for at, entry in enumerate(entries, 1) if not _named(entry)]
    problems += [(TWICE, source) for source, of_file in listed.items() if len(of_file) > 1]
    return listed, problems + [(UNLISTED, source) for source in there if source not in listed]


def _named(entry: Any) -> bool:
    types = _types(entry) if isinstance(entry, dict) else {}
    return types.get("id") is int and types.get("file_name") is str


def _source(file_name: str, there: Mapping[str, str], by_name: Mapping[str, Sequence[str]]) -> str:
    """Where a file_name lies: as it stands, in images/, or else the one file of that name anywhere below."""
    plain = file_name.replace("\\", "/")
    name = plain.rsplit("/", 1)[-1]
    found = [source for source in (plain, f"images/{plain}") if source in there][:1] or by_name.get(name) or [name]
    if len(found) > 1:
        raise DataError(f"{file_name} may be any of {', '.join(found)}; give their paths in the JSON's file_name.")
    return found[0]


def _annotations(
    annotations: Sequence[Any], listed: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[dict[str, list[Mapping[str, Any]]], list[Problem]]:
    """Path of each image -> its annotations, and those of no image."""
    source_of = {entry["id"]: source for source, entries in listed.items() for entry in entries}
    by_source: dict[str, list[Mapping[str, Any]]] = {source: [] for source in listed}
    lost = []
    for at, annotation in enumerate(annotations, 1):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if isinstance(image_id, int) and image_id in source_of:
            by_source[source_of[image_id]].append({"id": f"number {at}", **annotation})
        else:
            lost.append((NO_IMAGE, f"number {at}"))
    return by_source, lost


def _used(
    categories: Sequence[Mapping[str, Any]], annotations: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[int, str]:
    """Names of the categories that annotations use, in the order of their ids; exporters add parents nobody uses."""
    used = {str(one.get("category_id")) for of_image in annotations.values() for one in of_image}
    names = {one["id"]: one["name"] for one in sorted(categories, key=lambda one: one["id"]) if str(one["id"]) in used}
    if not names:
        raise DataError("no image has an annotation with a category that the JSON lists; use the data set `folder`.")
    return names


def _strata(listed: Iterable[str], annotations: Mapping[str, Sequence[Mapping[str, Any]]], shared: Shared) -> list[str]:
    """What the split keeps in proportion: an image's rarest category, `good` where it has no annotation."""
    names = {source: {_category(one, shared) or "unknown" for one in annotations[source]} for source in listed}
    images = Counter(name for of_image in names.values() for name in of_image)
    return [min(names[source], key=lambda name: (images[name], name), default="good") for source in listed]


def _category(annotation: Mapping[str, Any], shared: Shared) -> str | None:
    known = annotation.get("category_id")
    return shared.categories.get(known) if isinstance(known, int) else None


def _columns(image: Examined) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The further values of an image's row, None where its size is not the JSON's, and what is wrong with them."""
    entry, size = image.sample.columns["entry"], (image.width, image.height)
    if any(said and said != true for said, true in zip(map(entry.get, ("width", "height")), size, strict=True)):
        return None, [(OTHER_SIZE, image.sample.source)]
    found = [_object(one, image.sample.shared, size) for one in image.sample.columns["annotations"]]
    objects = {
        name: [value[name] for value, _ in found if value] for name in ("bbox", "category", "polygons", "iscrowd")
    }
    columns = {"image_id": entry["id"], "width": image.width, "height": image.height, "objects": objects}
    return columns, [problem for _, problems in found for problem in problems]


def _object(
    annotation: Mapping[str, Any], shared: Shared, size: tuple[int, int]
) -> tuple[dict[str, Any] | None, list[Problem]]:
    """An annotation as a row's object, None where it has no category or no area inside the image."""
    where = str(annotation["id"])
    polygons, problems = _polygons(annotation.get("segmentation"), where)
    category = _category(annotation, shared)
    box = _box(annotation.get("bbox")) or _around(polygons)
    if category is None or box is None:
        return None, [*problems, (NO_BOX if category else NO_CATEGORY, where)]
    x0, y0, x1, y1 = (min(max(value, 0.0), float(size[i % 2])) for i, value in enumerate(box))
    if x1 <= x0 or y1 <= y0:
        return None, [*problems, (NO_AREA, where)]
    crowd = bool(annotation.get("iscrowd"))
    return {"bbox": [x0, y0, x1, y1], "category": category, "polygons": polygons, "iscrowd": crowd}, problems


def _polygons(segmentation: Any, where: str) -> tuple[list[list[float]], list[Problem]]:
    """The polygons of a segmentation, each x, y, x, y, ..., and what else it holds."""
    if not segmentation:
        return [], []
    if not isinstance(segmentation, list):
        return [], [(RLE, where)]
    sound = [one for one in segmentation if _numbers(one) and len(one) >= 6 and len(one) % 2 == 0]
    return sound, [(NO_POLYGON, where)] if len(sound) < len(segmentation) else []


def _box(bbox: Any) -> Box | None:
    """COCO's x, y, width, height as corners."""
    if not _numbers(bbox) or len(bbox) != 4:
        return None
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _around(polygons: Sequence[Sequence[float]]) -> Box | None:
    """The tight box of polygons, for annotations that have no other."""
    xs, ys = [x for one in polygons for x in one[::2]], [y for one in polygons for y in one[1::2]]
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and abs(v) < FAR for v in values)


def _notes(problems: Iterable[Problem]) -> list[str]:
    """A sentence for each kind of problem, with how many there are and where the first ones are."""
    where: dict[str, list[str]] = defaultdict(list)
    for kind, place in problems:
        where[kind].append(place)
    return [
        f"{len(places)} {kind}: {', '.join(places[:NAMED])}{' and others' if len(places) > NAMED else ''}."
        for kind, places in where.items()
    ]


BUILDER = Coco
