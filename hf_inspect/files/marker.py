"""A folder of ours says in its marker which files this package wrote; what it does not name is somebody else's.

The marker is of this machine: it is neither pushed nor bundled, and a folder from the Hub has none.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError

MARKER = ".hf_inspect"
LOCK = f"{MARKER}.lock"  # held while what lies in such a folder is counted on
WORK = ".hf_inspect-work"  # ends the name of the hidden folder that a new folder is written in
KEPT = ("notes.md", "evaluations.json")  # a person's words and the count of evaluations: a new folder takes them over
_LATER = ("*.scores.*jsonl", f"{MARKER}.*", ".DS_Store", "Thumbs.db")  # what grows there, and what programs leave
_BY_HAND = (".md", ".json", ".jsonl", ".yaml", ".yml", ".txt")  # edited files: their content counts, of others the size
_LOOKED_INTO = 1_000_000  # bytes; a longer text is nobody's handiwork
_NAMED = 5  # files that an error names


def foreign(folder: Path) -> list[str]:
    """Paths in a folder, in order, that no command of this package wrote, or that were changed since."""
    listed = read_marker(folder)
    return [
        f"{name} (changed)" if name in (listed or {}) else name
        for name, path in entries(folder).items()
        if not _is_ours(name, path, listed)
    ]


def refuse_foreign(folder: Path, out: Path) -> None:
    """DataError when `folder`, which stands or stood at `out`, holds what is not ours."""
    if not (found := foreign(folder) if folder.is_dir() else []):
        return
    named = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if found[_NAMED:] else "")
    if read_marker(folder) is None:
        raise DataError(
            f"{out} holds {named}, and no {MARKER} that says that this package wrote it; older versions and the Hub "
            "leave none. Give a new folder, or delete this one yourself."
        )
    raise DataError(
        f"{out} holds what this package did not write, or not as it is now: {named}. Move it out of the folder, or "
        "give another one."
    )


def write_marker(folder: Path, listed: Mapping[str, Any]) -> None:
    """Say in a folder's marker that the files of `listed`, by path, were written as described there."""
    stated = {"written_by": "hf_inspect", "format": 1, "files": dict(sorted(listed.items()))}
    content = json.dumps(stated | {"sha256": _signature(stated)})
    replace(folder / MARKER, content.encode(), durable=True)


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What the marker of a folder says of each file, by path; None without a marker that is as we wrote it."""
    try:
        stated = json.loads((folder / MARKER).read_bytes())
        signature = stated.pop("sha256")
        return dict(stated["files"]) if signature == _signature(stated) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def home_of(path: Path) -> Path | None:
    """The folder of ours that a file lies in, or the work folder of the stage that it lies in; None elsewhere."""
    every = path.absolute().parents
    return next((one for one in every if one.name.endswith(WORK) or (one / MARKER).is_file()), None)


def note(home: Path, path: Path) -> None:
    """Say in the marker of the folder `home` that a command of ours wrote `path`; a stage has none yet."""
    if path.name not in KEPT and (listed := read_marker(home)) is not None:
        write_marker(home, listed | {path.absolute().relative_to(home).as_posix(): described(path)})


def entries(folder: Path) -> dict[str, Path]:
    """Every file and link below a folder, by its path there with '/', in order; OSError where one cannot be read."""

    def fail(error: OSError) -> None:
        raise error

    found = {}
    for at, folders, names in os.walk(folder, onerror=fail):
        links = [one for one in folders if os.path.islink(os.path.join(at, one))]
        for path in (Path(at, name) for name in (*names, *links)):
            found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def described(path: Path) -> list[Any]:
    """What a marker holds of a file: its size, and a text's SHA-256; nothing where it is no plain file."""
    if path.is_symlink() or not path.is_file():
        return []
    size = path.stat().st_size
    return [size, sha256(path)] if path.suffix in _BY_HAND and size <= _LOOKED_INTO else [size]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace(path: Path, content: bytes, durable: bool) -> None:
    """Write `content` to `path` by rename; `durable`: after a power cut too it is the old content or the new one."""
    beside = path.with_name(f"{MARKER}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _is_ours(name: str, path: Path, listed: Mapping[str, Any] | None) -> bool:
    """Whether a file may go when its folder is replaced: as its marker has it, or of those that are kept."""
    if listed is None:
        return path.name in KEPT or name == LOCK
    if name == MARKER or any(fnmatchcase(path.name, one) for one in _LATER):
        return True
    return described(path) == listed[name] if name in listed else path.name in KEPT


def _signature(stated: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
