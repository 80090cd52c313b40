"""A raw folder -> all that lies in it, walked once, in a fixed order; names below it, and what groups files by name."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_inspect.errors import DataError
from hf_inspect.images import SUFFIXES
from hf_inspect.schema import Sample

BROKEN = "links to what is not there"
AGAIN = "folders that are read at another place"  # a link leads back to one
NO_FILE = "neither files nor folders"


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that lies below `root`: its `files`, sorted by path, and the `odd` rest, each with what it is."""

    root: Path
    files: Sequence[Path]
    odd: Mapping[Path, str] = field(default_factory=dict)

    def names(self) -> dict[Path, str]:
        """All there is, files and the rest, with the name each has below the root."""
        return {path: relative(path, self.root) for path in (*self.files, *self.odd)}

    def images(self) -> list[Path]:
        """The files that are images by their suffix, hidden ones left out, in order."""
        return [path for path in self.files if is_image(path) and not self.is_hidden(path)]

    def is_hidden(self, path: Path) -> bool:
        """Whether a path's name, or that of a folder around it below the root, begins with a dot."""
        return any(part.startswith(".") for part in path.relative_to(self.root).parts)


@dataclass(frozen=True, slots=True)
class Raw:
    """What a data set's script makes of a raw folder, where each file is a sample's, a record, or left out.

    `samples` stand in a fixed order, nothing of them decoded. `records` are files that say what the images are (a JSON,
    a list); `left_out` says why a file is none of these, where the script knows more than its name tells. `notes` are
    what a reader must know.
    """

    inventory: Inventory
    samples: Sequence[Sample]
    records: Sequence[Path] = ()
    left_out: Mapping[Path, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def walk(root: Path) -> Inventory:
    """All that lies below `root`, behind links too; a folder that links lead back to is read once, where it lies.

    DataError for a folder that cannot be read.
    """
    files, odd, links, waiting = list[Path](), dict[Path, str](), list[Path](), [root]
    seen: set[tuple[int, int]] = set()
    while waiting or links:
        links.sort(reverse=True)  # after all that lies inside
        folder = waiting.pop() if waiting else links.pop()
        if (identity := _identity(folder)) in seen:
            odd[folder] = AGAIN
            continue
        seen.add(identity)
        for entry in _entries(folder):
            path = Path(entry.path)
            found: Path | os.DirEntry[str] = path if entry.is_symlink() else entry  # which raises for a circle
            if found.is_dir():
                (links if entry.is_symlink() else waiting).append(path)
            elif found.is_file():
                files.append(path)
            else:
                odd[path] = NO_FILE if path.exists() else BROKEN
    return Inventory(root, sorted(files), dict(sorted(odd.items())))


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix."""
    return path.suffix.lower() in SUFFIXES


def relative(path: Path, root: Path) -> str:
    """`path` below `root` with '/', as manifests name it."""
    return path.relative_to(root).as_posix()


def keys_by_rule(names: Sequence[str], rule: str) -> list[str | None]:
    """Group 1 of the regular expression `rule` in each file name, None where it does not match -> (n,).

    Images of one key are one group: `(.+)\\.rf\\.` joins the augmented copies of a photo. DataError for a rule that
    is none, has no group, or matches nothing.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"the group rule {rule!r} is no regular expression ({error}).") from None
    if not pattern.groups:
        raise DataError(f"the group rule {rule!r} has no group; put what names the part in parentheses: (.+)_tile.")
    found = [pattern.search(name) for name in names]
    if not any(found):
        raise DataError(f"the group rule {rule!r} matches none of {len(names)} file names, such as {names[:1]}.")
    return [match.group(1) if match else None for match in found]


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); give its permissions, or move it away.") from None
