"""Raw labels of any format that is known, with their images -> what the data set `coco` is built from."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect.console import plain
from hf_inspect.data.coco.converting import FORMATS, YOLO_NAMES, convert
from hf_inspect.data.raw.coco import OF_OBJECTS
from hf_inspect.data.raw.exports import is_coco
from hf_inspect.data.raw.sources import relative, walk
from hf_inspect.errors import DataError

_LOOKED_INTO = 20  # files of a suffix
_HEAD = 1 << 12  # bytes of an XML that tell what it is
_ROOTS = {b"annotations": "cvat", b"annotation": "voc"}


def gathered(src: Path, source: str | None, folder: Path) -> tuple[Path, Mapping[str, int]]:
    """What the data set `coco` is built from, and what was lost on the way, by what.

    COCO is taken as it is; other labels (`source` names their format, or the files tell it) are converted into
    `folder`, where a link leads to their images. DataError where the format cannot be told.
    """
    kind = source or format_of(src)
    if kind == "coco":
        return src, {}
    made = convert(src, kind, "coco", folder)
    where = src if src.is_dir() else src.parent
    inside = where / "images"
    (folder / "images").symlink_to((inside if kind == "yolo" and inside.is_dir() else where).resolve())
    return made.out / "annotations.json", made.lost


def format_of(src: Path) -> str:
    """The format of labels by their files, one of `FORMATS`; DataError where it cannot be told."""
    if not src.exists():
        raise DataError(f"{src} is not there; give a built data set, or a file or folder of labels with their images.")
    found = [src] if src.is_file() else list(walk(src).files)
    jsons = sorted((p for p in found if p.suffix.lower() == ".json"), key=lambda p: not OF_OBJECTS.search(p.name))
    xmls = [path for path in found if path.suffix.lower() == ".xml"]
    told = dict[str, Path]()
    for path in jsons[:_LOOKED_INTO]:
        told |= {kind: path for kind in [_of_json(path)] if kind}
    for path in xmls[:_LOOKED_INTO]:
        told |= {kind: path for kind in [_of_xml(path)] if kind}
    told |= {kind: path for path in found for kind in (["yolo"] if path.name in YOLO_NAMES else [])}
    if len(told) != 1:
        named = ", ".join(f"{kind} ({plain(_shown(path, src))})" for kind, path in told.items())
        what = f"labels of several formats: {named}" if told else f"no labels of {', '.join(FORMATS)} that are known"
        raise DataError(f"{src} holds {what}; say which with --from, or give the folder of one.")
    return next(iter(told))


def _of_json(path: Path) -> str | None:
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if is_coco(content):
        return "coco"
    return "labelme" if isinstance(content, dict) and {"shapes", "imagePath"} <= set(content) else None


def _of_xml(path: Path) -> str | None:
    with path.open("rb") as file:
        root = re.search(rb"<(annotations?)[ >]", file.read(_HEAD))
    return _ROOTS[root.group(1)] if root else None


def _shown(path: Path, src: Path) -> str:
    return path.name if path == src else relative(path, src)
