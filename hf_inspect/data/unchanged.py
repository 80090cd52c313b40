"""Whether what a folder was built from is as it was: contents decide, sizes and times where they cannot deceive.

What the files' sizes and times were stands in a note in the built folder, which is of this machine, as its marker is.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data.examine import Examined, Rejected
from hf_inspect.data.raw.sources import Raw

NOTE = f"{files.MARKER}.sources"
_TICK = 2 * 10**9  # ns; the coarsest clock of a file system, FAT's: within a tick a file may change and keep its time


def said_of(raw: Raw) -> str:
    """SHA-256 (hex) of what a source says: the names of all that lies there, its annotation files, and the samples'."""
    names = raw.inventory.names()
    odd = {names.get(path, path.name): why for path, why in (*raw.inventory.odd.items(), *raw.left_out.items())}
    records = [[names.get(path, path.name), files.sha256(path)] for path in raw.records]
    samples = ([one.source, one.class_name, one.stratum, dict(one.columns)] for one in raw.samples)
    return _sha256([sorted(names.values()), odd, list(raw.notes), *records, *samples])


def take_note(stage: Path, raw: Raw, said: str) -> None:
    """Write down, before any is read, how the samples' files look from outside, and what is said of them."""
    newest, digest = 0, hashlib.sha256(said.encode())
    for sample in raw.samples:
        looks = [_look(path) for path in (sample.path, sample.mask) if path is not None]
        newest = max([newest, *(time for look in looks for time in look[1:])])
        digest.update(json.dumps(looks).encode())
    files.write_json(stage / NOTE, {"sha256": digest.hexdigest(), "newest_ns": newest})


def is_untouched(out: Path, stage: Path) -> bool:
    """Whether the note in `stage` is the one in the built folder `out`, and was taken when no file was young.

    A file that changes within a tick of its clock keeps its time: one that was written just before the note was taken
    may hold something else since then.
    """
    kept = out / NOTE
    if not kept.is_file() or kept.read_bytes() != (stage / NOTE).read_bytes():
        return False
    return int(files.read_json(kept)["newest_ns"]) + _TICK < kept.stat().st_mtime_ns


def keep_note(out: Path, stage: Path) -> None:
    """Put the note in `stage` into the built folder `out`, which was found to be of these contents."""
    (stage / NOTE).replace(out / NOTE)  # keeps the time at which it was taken


def contents_of(said: str, examined: Sequence[Examined], rejected: Sequence[Rejected]) -> str:
    """SHA-256 (hex) of all that a data set is made of: what is said of the images, their bytes and their masks'.

    Of what is left out the reason counts.
    """
    taken = ([image.sample.source, image.signature.sha256, image.mask_sha256] for image in examined)
    return _sha256([said, *taken, *([one.source, one.reason] for one in rejected)])


def _look(path: Path) -> list[int]:
    """Size of a file, and when (ns) it was last written and last changed in any way; nothing where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _sha256(values: Iterable[Any]) -> str:
    """SHA-256 (hex) of JSON values, a line each."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()
