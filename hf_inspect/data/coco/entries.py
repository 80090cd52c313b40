"""A COCO file's images, held against the headers of files in a folder -> those that can be kept, and what is wrong."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from hf_inspect import pixels
from hf_inspect.data.coco.rules import Finding, seen
from hf_inspect.data.raw.coco import finder, loose
from hf_inspect.data.raw.document import whole
from hf_inspect.data.raw.objects import UNSURE, Frame, frame_of
from hf_inspect.data.raw.sources import relative, walk
from hf_inspect.errors import DataError
from hf_inspect.images import turned_size

Find = Callable[[str, Sequence[str]], Path | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that can be kept: its `value` as a repair writes it, and the `frame` that its boxes lie in."""

    value: dict[str, Any]
    frame: Frame

    @property
    def name(self) -> str:
        """Its file_name."""
        return self.value["file_name"]


@dataclass(slots=True)
class Entries:
    """`kept` by id, in order; `ids`: whichever id an annotation gives -> that of the image it means."""

    findings: list[Finding] = field(default_factory=list)
    kept: dict[int, Entry] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)
    there: int = 0


def judge_images(images: Sequence[Any], folder: Path, annotated: Mapping[int, int], exif: str | None) -> Entries:
    """What is wrong with entries of images whose files lie below `folder`; no file elsewhere is opened.

    `annotated` says how many annotations give an id; `exif` (stored, upright) how boxes lie where sizes do not tell.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that the images lie in as --images.")
    found, find = Entries(), finder(walk(folder).files, folder)
    sound = _sound(images, found)
    paths = {own_id: path for own_id, said in sound.items() if (path := _file_of(said, find, folder, found))}
    exact = {own_id for own_id, path in paths.items() if _is_path(sound[own_id]["file_name"], relative(path, folder))}
    taken = {path: own_id for own_id, path in reversed(paths.items()) if own_id in exact}
    for own_id, path in paths.items():
        said, name, first = sound[own_id], relative(path, folder), taken.setdefault(path, own_id)
        if first == own_id:
            found.there += 1
            entry = _entry(said, path, name, annotated.get(own_id, 0), exif, found)
            found.kept |= {own_id: entry} if entry else {}
        elif own_id in exact:
            found.findings.append(_of("file-twice", said, f"image {first} is the same file"))
        else:
            found.findings.append(_of("file-missing", said, f"only {seen(name)}, which image {first} is"))
            continue
        found.ids[own_id] = first
    found.ids = {own_id: first for own_id, first in found.ids.items() if first in found.kept}
    return found


def leads_out(file_name: str) -> bool:
    """Whether a file_name leads out of the folder it is looked for in, on any system."""
    absolute = file_name.startswith(("/", "\\")) or bool(PureWindowsPath(file_name).drive)
    return absolute or ".." in re.split(r"[/\\]", file_name) or "\0" in file_name


def _is_path(file_name: str, path: str) -> bool:
    """Whether a file_name is a file's path below the folder, in any spelling."""
    return loose(file_name.replace("\\", "/").removeprefix("./")) == loose(path)


def _of(rule: str, said: Mapping[str, Any], what: str) -> Finding:
    return Finding(rule, f"image {said['id']}", str(said.get("file_name", "")), what)


def _sound(images: Sequence[Any], found: Entries) -> dict[int, dict[str, Any]]:
    """Entries with an id and a file_name, by their ids."""
    by_id, listed, clashing = dict[int, dict[str, Any]](), set[int](), set[int]()
    for number, entry in enumerate(images, 1):
        said = entry if isinstance(entry, dict) else {}
        own_id, name = whole(said.get("id")), said.get("file_name")
        if own_id is None or not isinstance(name, str) or not name.strip():
            found.findings.append(Finding("image-form", f"image number {number}", "", seen(entry)))
            continue
        if type(said["id"]) is not int:
            found.findings.append(_of("id-form", {**said, "id": own_id}, seen(repr(said["id"]))))
        first = by_id.setdefault(own_id, {**said, "id": own_id})
        if own_id not in listed:
            listed.add(own_id)
        elif first["file_name"] == name:
            found.findings.append(_of("file-twice", first, "its entry stands there twice"))
        else:
            found.findings.append(_of("image-clash", first, f"{seen(name)} has it too"))
            clashing.add(own_id)
    return {own_id: said for own_id, said in by_id.items() if own_id not in clashing}


def _file_of(said: Mapping[str, Any], find: Find, folder: Path, found: Entries) -> Path | None:
    """The file that an entry means, None where there is none, which is then found."""
    name = said["file_name"]
    if leads_out(name):
        found.findings.append(_of("name-outside", said, "not opened"))
        return None
    try:
        path = find(name, [""])
    except DataError as error:
        found.findings.append(_of("file-unsure", said, str(error)))
        return None
    if path is None:
        found.findings.append(_of("file-missing", said, f"not in {folder}"))
    return path


def _entry(
    said: dict[str, Any], path: Path, name: str, annotated: int, exif: str | None, found: Entries
) -> Entry | None:
    try:
        upright, orientation = looked(path)
    except DataError as error:
        found.findings.append(_of("file-broken", said, str(error)))
        return None
    value = said
    if said["file_name"] != name:
        found.findings.append(_of("file-name", said, f"the file is {seen(name)}"))
        value = {**value, "file_name": name}
    stated = (said.get("width"), said.get("height"))
    sides = tuple(size if (size := whole(side)) and size > 0 else None for side in stated)
    if [type(side) for side in stated] != [int, int] or None in sides:
        found.findings.append(_of("size-form", said, f"{seen(stated[0])} x {seen(stated[1])}"))
    frame = frame_of(upright, orientation, (sides[0], sides[1]), exif, bool(annotated))
    if isinstance(frame, str) and frame == UNSURE:
        found.findings.append(_of("exif-unsure", said, f"EXIF orientation {orientation}, {upright[0]} x {upright[1]}"))
        frame = Frame(upright)
    elif isinstance(frame, str):
        what = f"{stated[0]} x {stated[1]}, the file's {upright[0]} x {upright[1]}"
        found.findings.append(_of("size-other", said, what))
        if annotated:
            return None
        frame = Frame(upright)
    if frame.orientation != 1:
        found.findings.append(_of("exif", said, f"EXIF orientation {orientation}, {frame.size[0]} x {frame.size[1]}"))
    return Entry({**value, "width": upright[0], "height": upright[1]}, frame)


def looked(path: Path) -> tuple[tuple[int, int], int]:
    """Width and height of an image file, upright, and its orientation by EXIF, from its header."""

    def header() -> tuple[tuple[int, int], int]:
        with path.open("rb") as stream:
            image = pixels.opened(stream, path.name)
            orientation = pixels.orientation_in_header(image)
            return turned_size(image.size, orientation), orientation

    return pixels.guarded(header, path.name)
