"""What a labelling tool exported -> which tool and format it is, and which export to choose; nothing of it is read."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_inspect.data.raw.sources import Inventory, relative

COCO_FILE = "is a COCO file; build it with `coco`"
COCO_LISTS = ("images", "annotations", "categories")
_LABEL_STUDIO = {"annotations", "completions", "annotation_id", "annotator", "lead_time"}
_LOOKED_INTO = 3  # files of each suffix
_HEAD = 1 << 12  # bytes of a text that tell what it is
_TO_COCO = "export it as COCO, and build that with `coco`"


def tool_of(inventory: Inventory, coco: bool = True) -> str | None:
    """A sentence on the export that lies in a raw folder (on COCO too, if `coco`), None where we know of none."""
    for suffix, said_of in _BY_SUFFIX.items():
        found = [p for p in inventory.files if p.suffix.lower() == suffix and not inventory.is_hidden(p)]
        for path in found[:_LOOKED_INTO]:
            if (said := said_of(path)) and (coco or said != COCO_FILE):
                return f"{relative(path, inventory.root)} {said}."
    return None


def kind_of_json(content: Any) -> str | None:
    """What a parsed JSON is, and what to do with it, as the end of a sentence; None for what we do not know."""
    first = content[0] if isinstance(content, list) and content else content
    keys = set(first) if isinstance(first, Mapping) else set()
    if isinstance(content, list):
        return f"is an export of Label Studio (JSON); {_TO_COCO}" if keys & _LABEL_STUDIO else None
    if is_coco(content):
        return COCO_FILE
    if {"shapes", "imagePath"} <= keys:
        return "is a file of LabelMe; convert all of them to one COCO file (labelme2coco), and build that with `coco`"
    return f"is a project of VIA; {_TO_COCO}" if "_via_img_metadata" in keys else None


def is_coco(content: Any) -> bool:
    """Whether a parsed JSON has the lists that a COCO file of objects has."""
    return isinstance(content, Mapping) and all(isinstance(content.get(name), list) for name in COCO_LISTS)


def _of_json(path: Path) -> str | None:
    try:
        return kind_of_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def _of_xml(path: Path) -> str | None:
    root = re.search(r"<(annotations?)[ >]", _head(path))
    tools = {"annotations": "is an export of CVAT (CVAT for images)", "annotation": "is an annotation of Pascal VOC"}
    return f"{tools[root.group(1)]}; {_TO_COCO}" if root else None


def _of_yaml(path: Path) -> str | None:
    keys = set(re.findall(r"^(\w+) *:", _head(path), re.MULTILINE))
    return f"is the head of a YOLO export; {_TO_COCO}" if "names" in keys and keys & {"train", "val", "path"} else None


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return ""


_BY_SUFFIX: Mapping[str, Callable[[Path], str | None]] = {
    ".json": _of_json, ".xml": _of_xml, ".yaml": _of_yaml, ".yml": _of_yaml,
}  # fmt: skip
