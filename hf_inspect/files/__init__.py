"""Files that appear whole or not at all: write beside, then rename. SHA-256 of files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError
from hf_inspect.files.marker import KEPT, LOCK, MARKER, foreign, home_of, note, replace, sha256
from hf_inspect.files.swap import locked, refuse_overlap, staged_folder

__all__ = [
    "KEPT", "LOCK", "MARKER", "blob_id", "foreign", "locked", "portable_name", "read_json", "read_text",
    "refuse_other", "refuse_overlap", "sha256", "shipped", "sized", "staged_folder", "weights", "write_bytes",
    "write_json", "write_table", "write_text",
]  # fmt: skip


def shipped(name: str) -> Path:
    """A folder that ships with the package (`recipes`, `dataset_scripts`): inside a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return next(p for p in (package / name, package.parent / name) if p.is_dir())


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` by rename; its folder is made when missing.

    A file's name that is no UTF-8, as Python has it, stands there as its escape, which JSON reads back.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by rename; its folder is made when missing. In a folder of ours its marker names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    home = home_of(path)
    replace(path, content, durable=home is None or (home / MARKER).is_file())  # a stage goes to the disk as a whole
    if home is not None:
        note(home, path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented, keys in the order given, ending in a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, head: Mapping[str, Any], name: str, rows: Iterable[Any]) -> None:
    """Write `head` with one more key, `name`, whose rows take a line each: small, and a diff shows which changed."""
    opening = json.dumps(dict(head), indent=2, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    write_text(path, f"{opening},\n  {json.dumps(name)}: [\n{lines}\n]}}\n")


def refuse_other(path: Path, keys: Iterable[str] = ()) -> Path:
    """`path`, which may be written to; DataError where a file stands there that is no JSON of ours with these keys.

    Without keys it is to be a PNG.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of a file to write.")
    if not path.exists():
        return path
    content = path.read_bytes()
    if keys:
        try:
            ours = set(keys) <= set(json.loads(content))
        except (ValueError, TypeError):
            ours = False
    else:
        ours = content.startswith(b"\x89PNG\r\n\x1a\n")
    if not ours:
        raise DataError(f"{path} is another file than this command writes, and would be lost; give another name.")
    return path


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


def weights(folder: Path, under: str = "") -> dict[str, str]:
    """SHA-256 of each weights file right in a folder, by its name, or by `under`/name."""
    found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".onnx") and p.is_file())
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
