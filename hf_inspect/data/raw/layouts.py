"""Where images lie below a raw folder -> which folders are classes, which are splits, which images are masks."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_inspect import images, pixels
from hf_inspect.console import shown
from hf_inspect.data.raw.accounting import first_of
from hf_inspect.data.raw.sources import Inventory
from hf_inspect.errors import DataError
from hf_inspect.reading import Reading

Parts = tuple[str, ...]

WANTED = "wanted is a folder a class, side by side: good/1.png, good/2.png, scratch/3.png, dent/4.png"
MASKS = "masks of images that are here"
LONE_MASKS = "masks of no image that is here"
_SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "calib": "calibration", "calibration": "calibration", "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})(?:[ _-]?(?:set|data|images|imgs))?[ _-]?\d*")
_ALWAYS_MASKS = re.compile(r"masks?|ground[ _-]?truths?|gt")  # what no class is called
_OFTEN_MASKS = re.compile(r".+[ _-](?:masks?|ground[ _-]?truths?|gt|labels?)|labels?")  # `solder_mask` is a defect
_MASK_FILE = re.compile(r"(.+)[ _-](?:mask|ground[ _-]?truth|gt|label)", re.IGNORECASE)
_LOOKED_INTO = 3  # images of a folder that is called like masks
_LEVELS = 16  # values of a mask at most
_NEARLY, _MOST = 32, 0.98  # in a JPEG of black and white, grey levels from these two, and the share that keeps to it


@dataclass(frozen=True, slots=True)
class Layout:
    """The images that are parts' own, the masks and why each is none, and the depth of class and split folders."""

    images: Sequence[Path]
    masks: Mapping[Path, str]
    class_depth: int
    split_depth: int | None

    def split_of(self, parts: Parts) -> str | None:
        """The split that a path below the root is given by its folder."""
        return None if self.split_depth is None else split_named(parts[self.split_depth])


def split_named(name: str) -> str | None:
    """The split that a folder's or a file's name stands for: train2017, Valid, test_set; None for none."""
    found = _SPLIT.fullmatch(_plain(name))
    return _SPLITS[found.group(1)] if found else None


def read_layout(inventory: Inventory) -> Layout:
    """The layout of class folders below a root, with or without folders of splits around or inside them, and masks.

    DataError, with the layout that is wanted, for any other.
    """
    every = inventory.images()
    masks = _masks(every, inventory.root)
    own = [path for path in every if path not in masks]
    parts = [path.relative_to(inventory.root).parts for path in own]
    class_depth, split_depth = _depths(parts, inventory.root)
    return Layout(own, masks, class_depth, split_depth)


def _depths(files: Sequence[Parts], root: Path) -> tuple[int, int | None]:
    """How many folders lie around the class folders, and around those of the splits, where there are some."""
    if not files:
        raise DataError(f"{root} is no folder of class folders: it holds no image; {WANTED}.")
    depth, split_depth = 0, None
    while True:
        _refuse_loose(files, depth, root)
        names = sorted({parts[depth] for parts in files})
        given = [name for name in names if split_named(name)]
        if split_depth is None and len(given) == len(names) > 1:
            split_depth = depth
        elif len(names) > 1 or any(len(parts) <= depth + 2 for parts in files):
            break
        depth += 1
    _refuse_splits(names, given, split_depth, root)
    if split_depth is None and _are_splits(files, depth + 1):
        split_depth = depth + 1
    _refuse_two_depths(files, depth, split_depth)
    return depth, split_depth


def _refuse_loose(files: Sequence[Parts], depth: int, root: Path) -> None:
    loose = ["/".join(parts) for parts in files if len(parts) == depth + 1]
    if loose:
        beside = " beside class folders" if len(loose) < len(files) else ""
        raise DataError(
            f"{root} is no folder of class folders: {len(loose)} images lie in none{beside} ({shown(loose[0])}); "
            f"{WANTED}."
        )


def _refuse_splits(names: Sequence[str], given: Sequence[str], split_depth: int | None, root: Path) -> None:
    """DataError where folders of splits lie among class folders, or in their place; `valid` may well be a class."""
    if split_depth is not None or set(map(_plain, given)) <= {"valid"}:
        return
    others = [name for name in names if name not in given]
    where = f"beside {first_of(others)}" if others else "and holds images in no class folder"
    raise DataError(
        f"{root} is no folder of class folders: {given[0]} is a split, {where}; {WANTED}; or all of it in folders of "
        "splits: train/good/1.png, test/good/2.png, test/scratch/3.png."
    )


def _are_splits(files: Sequence[Parts], depth: int) -> bool:
    """Whether every image lies in a folder of a split at that depth, and not all in one."""
    names = {parts[depth] if len(parts) > depth + 1 else "" for parts in files}
    return len(names) > 1 and all(map(split_named, names))


def _refuse_two_depths(files: Sequence[Parts], depth: int, split_depth: int | None) -> None:
    """DataError where some class folders hold images and others folders of images, of which each may be a class."""
    inside: dict[str, set[str]] = defaultdict(set)
    for parts in files:
        inside[parts[depth]].add(parts[depth + 1] if len(parts) > depth + 2 else "")
    flat = [name for name, folders in inside.items() if "" in folders]
    deep = [name for name, folders in inside.items() if "" not in folders and len(folders) > 1]
    if flat and deep and split_depth != depth + 1:
        raise DataError(
            f"class folders lie at two depths: {flat[0]}/ holds images, {deep[0]}/ holds folders "
            f"({first_of(sorted(inside[deep[0]]))}); {WANTED}."
        )


def _masks(every: Sequence[Path], root: Path) -> dict[Path, str]:
    """The images that are masks, by where they lie or how they are called, by what they show, and whose they are."""
    inside: dict[Path, list[Path]] = defaultdict(list)
    for path in every:
        if (folder := _mask_folder(path, root)) is not None:
            inside[folder].append(path)
    called = {path for paths in inside.values() for path in paths}
    outside = [path for path in every if path not in called]
    found = _masks_beside(outside)
    stems = {_plain(path.stem) for path in outside if path not in found}
    for folder, paths in inside.items():
        if _holds_masks(folder, paths, stems, root):
            found |= {path: MASKS if _own_stem(path) & stems else LONE_MASKS for path in paths}
    return found


def _mask_folder(path: Path, root: Path) -> Path | None:
    """The outermost folder around an image that is called like a folder of masks."""
    parts = path.relative_to(root).parts[:-1]
    for at, name in enumerate(map(_plain, parts), 1):
        if _ALWAYS_MASKS.fullmatch(name) or _OFTEN_MASKS.fullmatch(name):
            return root.joinpath(*parts[:at])
    return None


def _holds_masks(folder: Path, paths: Sequence[Path], stems: set[str], root: Path) -> bool:
    """Whether a folder that is called like masks holds masks, or is a class; DataError where that cannot be told."""
    named, shown = any(_own_stem(path) & stems for path in paths), _show_masks(paths)
    if named and shown:
        return True
    if not shown and not _ALWAYS_MASKS.fullmatch(_plain(folder.name)):
        return False
    what = "no image has the name of one of its files" if shown else "its images have more grey levels than masks do"
    raise DataError(
        f"{folder.relative_to(root).as_posix()} is called like a folder of masks, but {what}; give its files the names "
        "of their images, or move it away; or give the folder another name where it is a class."
    )


def _masks_beside(every: Sequence[Path]) -> dict[Path, str]:
    """Masks that lie beside their image: 7.png, 7_mask.png or 7_GT.png."""
    there = {(path.parent, _plain(path.stem)) for path in every}
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in every:
        named = _MASK_FILE.fullmatch(path.stem)
        if named and (path.parent, _plain(named.group(1))) in there:
            by_folder[path.parent].append(path)
    return {path: MASKS for paths in by_folder.values() if _show_masks(paths) for path in paths}


def _own_stem(path: Path) -> set[str]:
    """What the image of a mask may be called, without suffix."""
    named = _MASK_FILE.fullmatch(path.stem)
    return {_plain(path.stem)} | ({_plain(named.group(1))} if named else set())


def _show_masks(paths: Iterable[Path]) -> bool:
    """Whether the first of these images that can be read show a few grey levels each, as masks do and photos do not."""
    seen = [levels for path in list(paths)[:_LOOKED_INTO] if (levels := _few_levels(path)) is not None]
    return all(seen)


def _few_levels(path: Path) -> bool | None:
    """None for a file that cannot be read."""
    try:
        found = pixels.read(images.read(path), path.name, Reading())
    except DataError:
        return None
    every = np.asarray(found.picture if found.values is None else found.values)
    values = every if every.ndim == 2 else every.max(axis=2)
    spread = (values < _NEARLY) | (values > 255 - _NEARLY)
    two = found.lossy and (values > 255 - _NEARLY).any() and spread.mean() > _MOST
    return bool(two or len(np.unique(values)) <= _LEVELS)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
