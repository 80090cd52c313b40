"""A COCO file -> its content, parsed once, with what is wrong with it as JSON; ids and sizes as whole numbers."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_inspect.data.raw.exports import COCO_LISTS, is_coco, kind_of_json
from hf_inspect.errors import DataError

_MEMORY = 8  # bytes that a byte of the file takes while it is parsed; benchmarks/coco_inspect.py measures 7.3
_MARK = "\ufeff"
_WHOLE = re.compile(r"\s*([+-]?\d{1,18})(?:\.0*)?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Document:
    """What a COCO file holds: its three lists are there, and nothing is said of what they hold.

    `marked`: it begins with a byte order mark. `twice`: keys that one object gives more than once (the last counts),
    and how many objects do. `constants`: how many NaN and Infinity it holds, which JSON does not have.
    """

    name: str
    content: Mapping[str, Any]
    marked: bool = False
    twice: Mapping[str, int] = field(default_factory=dict)
    constants: int = 0
    path: Path | None = None

    @property
    def images(self) -> list[Any]:
        """The entries of images, as they are."""
        return self.content["images"]

    @property
    def annotations(self) -> list[Any]:
        """The annotations, as they are."""
        return self.content["annotations"]

    @property
    def categories(self) -> list[Any]:
        """The categories, as they are."""
        return self.content["categories"]


def read_document(path: Path, name: str | None = None) -> Document:
    """A COCO file by its path, called `name` in sentences; DataError for one that is none, or too large for memory."""
    name = name or path.name
    try:
        _refuse_larger(path, name)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); check its name and its permissions.") from None
    return replace(parsed(content, name), path=path)


@contextmanager
def shallow() -> Iterator[None]:
    """DataError for JSON that is nested deeper than Python follows; may decorate a function."""
    try:
        yield
    except RecursionError:
        raise DataError("The JSON is nested too deeply, which no COCO file is; export it again.") from None


@shallow()
def parsed(content: bytes, name: str) -> Document:
    """A COCO file by its bytes."""
    twice, constants = Counter[str](), list[str]()

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice.update(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        return made

    def constant(text: str) -> float:
        constants.append(text)
        return float(text)

    try:
        text = content.decode()
        found = json.loads(text.removeprefix(_MARK), object_pairs_hook=once, parse_constant=constant)
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise DataError(f"{name} is not JSON in UTF-8 ({where}); save it as UTF-8.") from None
    except MemoryError:
        raise DataError(_too_large(name, len(content))) from None
    except ValueError as error:
        raise DataError(f"{name} is not JSON ({error}); export it again.") from None
    if not is_coco(found):
        known = kind_of_json(found)
        what = known or f"is no COCO file: it needs the lists {', '.join(COCO_LISTS)}; export it again"
        raise DataError(f"{name} {what}.")
    return Document(name, found, text.startswith(_MARK), dict(twice), len(constants))


def text_of(content: Mapping[str, Any]) -> str:
    """A COCO file's content as JSON on one line; ValueError where it holds NaN or Infinity."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def whole(value: Any) -> int | None:
    """The whole number of up to 18 digits that an id or a size is, or spells: 7, 7.0, "7", "7.0"; None for all else."""
    if type(value) is int and abs(value) < 10**18:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    found = _WHOLE.fullmatch(value if isinstance(value, str) else str(value) if abs(value) < 10**18 else "")
    return int(found.group(1)) if found else None


def _refuse_larger(path: Path, name: str) -> None:
    """DataError for a file that memory does not suffice for, before it is read."""
    import psutil

    size = path.stat().st_size
    if size * _MEMORY > psutil.virtual_memory().available:
        raise DataError(_too_large(name, size))


def _too_large(name: str, size: int) -> str:
    return (
        f"{name} has {size / 2**30:.1f} GiB and takes about {size * _MEMORY / 2**30:.1f} GiB of memory, more than is "
        "free here; split it where it was made, or go on on a larger machine."
    )
