"""SHA256SUMS of a bundle, as sha256sum writes and reads it, and what differs from it."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.hub.kinds import SUMS, all_files
from hf_inspect.schema import Progress, no_progress

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the list of a folder: SHA-256 by path, a line a file, in the order of the paths."""
    files.write_text(folder / SUMS, "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)))


def verify(folder: Path, progress: Progress = no_progress) -> list[str]:
    """What differs between a bundle and its SHA256SUMS, a sentence a file: changed, missing, not in the list.

    DataError when there is no such list, or one that is broken.
    """
    stated, there = _read_sums(folder), all_files(folder)
    there.pop(SUMS)
    different = [f"{path} is not in {SUMS}" for path in there if path not in stated]
    for number, (path, sha256) in enumerate(stated.items(), 1):
        if path not in there:
            different.append(f"{path} is missing")
        elif not there[path].is_file() or files.sha256(there[path]) != sha256:
            different.append(f"{path} has changed")
        progress("verified", number, len(stated))
    return sorted(different)


def _read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by path, as SHA256SUMS lists them."""
    if not (folder / SUMS).is_file():
        raise DataError(f"{folder} has no {SUMS}; give a folder that 'hf-inspect bundle' wrote.")
    found = {}
    for number, line in enumerate(files.read_text(folder / SUMS).splitlines(), 1):
        row = _LINE.fullmatch(line)
        if not row or PurePosixPath(row[2]).is_absolute() or ".." in PurePosixPath(row[2]).parts:
            raise DataError(f"{folder / SUMS}, line {number} is no `SHA-256  path`; bundle the cascade again.")
        found[row[2]] = row[1]
    return found
