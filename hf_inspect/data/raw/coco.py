"""COCO JSONs of a raw folder -> each image file with its annotations, ids and names matched; what matches nothing."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_inspect.console import shown
from hf_inspect.data.raw.accounting import first_of
from hf_inspect.data.raw.document import read_document, shallow, whole
from hf_inspect.data.raw.exports import tool_of
from hf_inspect.data.raw.layouts import split_named
from hf_inspect.data.raw.sources import Inventory, relative, walk
from hf_inspect.errors import DataError

ENTRIES, ANNOTATIONS = "image entries", "annotations"  # what manifests account for, besides files
NO_ENTRY = "without an id that is a whole number, or without a file_name"
NOT_THERE = "of files that are not in the folder"
NO_IMAGE = "of no image that the JSON lists"
BY_FILE_NAME = "images whose annotations name them otherwise than by their id"
BAD_ENTRY = f"images that the JSON lists {NO_ENTRY}"
UNLISTED = "images that the JSON does not list"

Key = tuple[int, int]  # number of the JSON, number of the entry in its list, both from 0
OF_OBJECTS = re.compile(r"^instances_.*\.json$|_annotations\.coco\.json$", re.IGNORECASE)
_SHOWN = 40  # characters of an id


@dataclass(frozen=True, slots=True)
class Annotation:
    """One of a JSON's annotations of an image; `category` is None where the JSON has no such one."""

    key: Key
    value: Mapping[str, Any]
    category: str | None


@dataclass(frozen=True, slots=True)
class Listed:
    """An image file that a JSON lists: by which of its entries (one, in a sound file), with what annotations."""

    path: Path
    entries: Sequence[tuple[Key, Mapping[str, Any]]]
    annotations: Sequence[Annotation]
    split: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """All that the COCO JSONs of a folder say: its images, and the names of all entries and annotations by their keys.

    `names` are those of the categories that annotations use, in the order of their ids, `known` those of all. `lost`
    says why an entry or an annotation is of no image here, `left_out` why an image file is not taken.
    """

    inventory: Inventory
    jsons: Sequence[Path]
    images: Sequence[Listed]
    names: Sequence[str]
    known: Sequence[str]
    entries: Mapping[Key, str]
    annotations: Mapping[Key, str]
    lost: Mapping[str, Mapping[Key, str]]
    left_out: Mapping[Path, str]


@dataclass(frozen=True, slots=True)
class _Json:
    """One file: its number and content, its split by name, and where its images may lie, the likeliest first."""

    number: int
    name: str
    content: Mapping[str, list[Any]]
    categories: Mapping[int, str]
    split: str | None
    bases: Sequence[str]


@dataclass(slots=True)
class _Reading:
    """What has been read so far: entries by file, files by JSON and id (or name), and what is lost, by key and file."""

    entries: dict[Path, list[tuple[Key, Mapping[str, Any]]]] = field(default_factory=dict)
    by_id: dict[tuple[int, int], Path | None] = field(default_factory=dict)
    by_name: dict[tuple[int, str], Path] = field(default_factory=dict)
    annotations: dict[Path, list[Annotation]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[str, dict[Key, str]] = field(default_factory=lambda: {ENTRIES: {}, ANNOTATIONS: {}})
    left_out: dict[Path, str] = field(default_factory=dict)


@shallow()
def read_coco(src: Path | None, *, hierarchy: bool = False) -> Listing:
    """Read the one COCO JSON of `src` (or `src` itself), or the JSONs of its splits; no image is opened.

    An id is a whole number, however it is written (7, 7.0, "7"). A file_name is matched by its path, then by its name
    alone, each as it stands, then in Unicode's composed form, then in any case. DataError where there is no such JSON,
    where several are no splits of one set, or where a name may be any of several files. With `hierarchy` a category is
    named by its supercategory and its name, `screw/install`.
    """
    root, paths, inventory = _jsons_of(src)
    jsons = [_loaded(number, path, root, hierarchy=hierarchy) for number, path in enumerate(paths)]
    find, reading = finder([p for p in inventory.files if p not in paths], root), _Reading()
    for one in jsons:
        _read_entries(one, find, reading)
        _read_annotations(one, reading)
    images = [
        Listed(path, entries, reading.annotations[path], jsons[entries[0][0][0]].split)
        for path, entries in reading.entries.items()
        if path not in reading.left_out
    ]
    if not reading.entries:
        listed = [entry for one in jsons for entry in _called([one], "images").values()]
        raise DataError(
            f"{root} holds none of the {len(listed)} images that its JSON lists ({first_of(listed, 1)}); give "
            "the folder that holds both as --src."
        )
    return Listing(
        inventory=inventory,
        jsons=paths,
        images=images,
        names=_used(jsons, images),
        known=[name for one in jsons for name in one.categories.values()],
        entries=_called(jsons, "images"),
        annotations=_called(jsons, "annotations"),
        lost=reading.lost,
        left_out={path: UNLISTED for path in inventory.images() if path not in reading.entries} | reading.left_out,
    )


def _jsons_of(src: Path | None) -> tuple[Path, list[Path], Inventory]:
    """The folder below which images are looked for, the JSONs to read, and all that lies in the folder."""
    if src is None or not src.exists():
        raise DataError(f"coco needs a COCO JSON or its folder as --src, got {src}.")
    if src.is_file():
        root = src.parent.parent if src.parent.name == "annotations" else src.parent
        return root, [src], walk(root)
    inventory = walk(src)
    found = [p for p in inventory.files if p.suffix.lower() == ".json" and not inventory.is_hidden(p)]
    named = [path for path in found if OF_OBJECTS.search(path.name)]
    chosen = named or [path for path in found if path.parent == src] or found
    if len(chosen) != 1 and not (chosen and all(_split_of(path, src) for path in chosen)):
        if export := tool_of(inventory, coco=False):
            raise DataError(export)
        names = first_of([relative(path, src) for path in chosen])
        what = f"several JSON files ({names}) that are no splits of one set" if chosen else "no JSON file"
        raise DataError(f"{src} holds {what}; give the one to build from as --src.")
    return src, chosen, inventory


def _split_of(path: Path, root: Path) -> str | None:
    """The split that a JSON is named after: instances_train2017.json, valid/_annotations.coco.json."""
    words = [*re.split(r"[_.\s-]+", path.stem), *path.relative_to(root).parts[-2:-1]]
    return next(filter(None, map(split_named, words)), None)


def _loaded(number: int, path: Path, root: Path, *, hierarchy: bool) -> _Json:
    """A JSON, checked to be what COCO says as far as everything else rests on it."""
    name = relative(path, root)
    content = read_document(path, name).content
    categories: dict[int, str] = {}
    for category in content["categories"]:
        said = category if isinstance(category, Mapping) else {}
        own_id, called = whole(said.get("id")), said.get("name")
        if own_id is None or not isinstance(called, str):
            raise DataError(f"{name}: a category needs a whole number as id and a name, got {shown(category)}.")
        full = composed(_called_in_full(called, said.get("supercategory")) if hierarchy else called)
        if categories.setdefault(own_id, full) != full:
            raise DataError(f"{name}: category id {own_id} is given to several categories; export it again.")
    return _Json(number, name, content, categories, _split_of(path, root), _bases(path, root))


def _called_in_full(name: str, above: Any) -> str:
    """A category's name below its supercategory's; with none, exporters say `none` or the category itself."""
    if not isinstance(above, str) or above.strip().lower() in ("", "none", name.strip().lower()):
        return name
    return name if name.startswith(f"{above}/") else f"{above}/{name}"


def _bases(path: Path, root: Path) -> list[str]:
    """Folders below the root, with '/', that file names of a JSON may start from; "" is the root."""
    folder = path.parent
    home = folder.parent if folder.name == "annotations" and folder != root else folder
    word = path.stem.removeprefix("instances_")
    places = [one for place in (folder, home, home / word, root) for one in (place, place / "images")]
    return ["" if one == root else relative(one, root) for one in (*places, home / "images" / word)]


def finder(files: Sequence[Path], root: Path) -> Callable[[str, Sequence[str]], Path | None]:
    """A function of a file_name and the folders it may start from -> the file that it means, None for none.

    The file is one of `files`, whatever the name says; DataError where it may be any of several.
    """
    by_path: list[dict[str, list[Path]]] = [defaultdict(list) for _ in _SPELLINGS]
    by_name: list[dict[str, list[Path]]] = [defaultdict(list) for _ in _SPELLINGS]
    for path in files:
        for at, spelling in enumerate(_SPELLINGS):
            by_path[at][spelling(relative(path, root))].append(path)
            by_name[at][spelling(path.name)].append(path)

    def find(file_name: str, bases: Sequence[str]) -> Path | None:
        plain = file_name.replace("\\", "/").removeprefix("./")
        name = plain.rsplit("/", 1)[-1]
        wholes = [(i, f"{base}/{plain}" if base else plain) for i in range(len(_SPELLINGS)) for base in bases]
        found = next((hit for i, one in wholes if (hit := by_path[i].get(_SPELLINGS[i](one)))), None)
        found = found or next((hit for i, one in enumerate(by_name) if (hit := one.get(_SPELLINGS[i](name)))), [])
        near = [path for path in found if bases[0] and path.is_relative_to(root / bases[0])]
        found = near if len(near) == 1 else found
        if len(found) > 1:
            places = first_of([relative(path, root) for path in found])
            raise DataError(f"{shown(file_name)} may be any of {places}; give their paths in the JSON's file_name.")
        return found[0] if found else None

    return find


def _read_entries(one: _Json, find: Callable[[str, Sequence[str]], Path | None], reading: _Reading) -> None:
    for at, entry in enumerate(one.content["images"]):
        key, said = (one.number, at), entry if isinstance(entry, Mapping) else {}
        image_id, file_name = whole(said.get("id")), said.get("file_name")
        named = isinstance(file_name, str) and bool(file_name.strip())
        path = find(str(file_name), one.bases) if named else None
        if image_id is None or not named:
            reading.lost[ENTRIES][key] = NO_ENTRY
            reading.left_out |= {path: BAD_ENTRY} if path else {}
            continue
        if (one.number, image_id) in reading.by_id:
            raise DataError(f"{one.name}: image id {image_id} is given to several images; export the JSON again.")
        reading.by_id[one.number, image_id] = path
        if path is None:
            reading.lost[ENTRIES][key] = NOT_THERE
            continue
        entries = reading.entries.setdefault(path, [])
        if entries and entries[0][0][0] != one.number:
            raise DataError(f"{shown(file_name)} is listed in two JSONs, lastly {one.name}; list each image in one.")
        entries.append((key, said))
        reading.by_name |= {(one.number, name): path for name in (str(file_name), Path(str(file_name)).stem, path.name)}


def _read_annotations(one: _Json, reading: _Reading) -> None:
    for at, annotation in enumerate(one.content["annotations"]):
        key, said = (one.number, at), annotation if isinstance(annotation, Mapping) else {}
        image_id = whole(said.get("image_id"))
        path = None if image_id is None else reading.by_id.get((one.number, image_id))
        if path is not None:
            number = whole(said.get("category_id"))
            category = None if number is None else one.categories.get(number)
            reading.annotations[path].append(Annotation(key, said, category))
        elif (one.number, image_id) not in reading.by_id:
            reading.lost[ANNOTATIONS][key] = NO_IMAGE
            meant = reading.by_name.get((one.number, str(said.get("image_id"))))
            reading.left_out |= {meant: BY_FILE_NAME} if meant else {}


def _used(jsons: Sequence[_Json], images: Sequence[Listed]) -> list[str]:
    """Names of the categories that annotations use, in the order of their ids; exporters add parents nobody uses."""
    used = {one.category for image in images for one in image.annotations}
    names = [name for one in jsons for _, name in sorted(one.categories.items()) if name in used]
    if not names:
        raise DataError("no image has an annotation with a category that the JSON lists; use the data set `folder`.")
    return list(dict.fromkeys(names))


def _called(jsons: Sequence[_Json], name: str) -> dict[Key, str]:
    """What each entry of a list of the JSONs is called, by its key: an image's file_name, else its number and id."""
    called = {}
    for one in jsons:
        before = f"{one.name} " if len(jsons) > 1 else ""
        for at, entry in enumerate(one.content[name]):
            said = entry if isinstance(entry, Mapping) else {}
            file_name, own_id = said.get("file_name"), str(said.get("id", ""))[:_SHOWN]
            number = f"number {at + 1}" + (f" (id {own_id})" if own_id else "")
            called[one.number, at] = before + (file_name if isinstance(file_name, str) and file_name else number)
    return called


def composed(text: str) -> str:
    """A text in Unicode's composed form."""
    return unicodedata.normalize("NFC", text)


def loose(text: str) -> str:
    """A text as it is compared with others in any case and any of Unicode's forms."""
    return composed(composed(text).casefold())


_SPELLINGS: Sequence[Callable[[str], str]] = (str, composed, loose)
