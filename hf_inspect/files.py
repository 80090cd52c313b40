"""Files that appear whole or not at all: write beside, then rename. SHA-256 of files."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError

OURS = ("manifest.json", "config.json", "inspect.json", "prompt.json", "cascade.json")  # one marks a folder as ours


def shipped(name: str) -> Path:
    """A folder that ships with the package (`recipes`, `dataset_scripts`): inside a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    return next(p for p in (package / name, package.parent / name) if p.is_dir())


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` by rename; its folder is made when missing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by rename; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented, keys in the order given, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, head: Mapping[str, Any], name: str, rows: Iterable[Any]) -> None:
    """Write `head` with one more key, `name`, whose rows take a line each: small, and a diff shows which changed."""
    opening = json.dumps(dict(head), indent=2, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    write_text(path, f"{opening},\n  {json.dumps(name)}: [\n{lines}\n]}}\n")


def read_text(path: Path) -> str:
    """A text file's content; DataError when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8.") from None


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a DataError that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing; is {path.parent} the folder you meant?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); make its folder again.") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights(folder: Path, under: str = "") -> dict[str, str]:
    """SHA-256 of each weights file right in a folder, by its name, or by `under`/name."""
    found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin") and p.is_file())
    return {f"{under}/{p.name}" if under else p.name: sha256(p) for p in found}


def portable_name(path: str | Path) -> str:
    """A path or name as an artefact may hold it: an absolute one from the working folder on, or its last part alone."""
    whole = Path(path)
    if not whole.is_absolute():
        return str(path)
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else whole.name


def blob_id(path: Path) -> str:
    """git's id of a file's content, as hex: what a Hub calls a file that is not in LFS."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def sized(n: int) -> str:
    """Bytes in a unit to read: `312 MB`."""
    steps = [(10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B")]
    size, unit = next((step for step in steps if n >= step[0]), steps[-1])
    return f"{n / size:.3g} {unit}"


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; renamed to `out` if the block succeeds, in place of an older one of ours.

    Raises DataError when `out` is a file, or a folder with content that no command of this package wrote.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to write to.")
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in OURS):
        raise DataError(f"{out} holds files this package did not write; give a new or an empty folder.")
    for left in out.parent.glob(f".{glob.escape(out.name)}.*[0-9]"):  # by a run that was killed
        if not _alive(left.suffix[1:]):
            shutil.rmtree(left, ignore_errors=True)
    stage = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        shutil.rmtree(out, ignore_errors=True)
        stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _alive(process: str) -> bool:
    """Whether a process of this number runs; what is no number counts as running."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True
