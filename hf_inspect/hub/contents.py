"""A file -> why it must not be published: a pickle, a token or key, a path of somebody's machine."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hf_inspect import files
from hf_inspect.errors import HubError
from hf_inspect.hub.secrets import OF_THE_HUB, holds_token, secret_in

_TEXTS = (
    ".json", ".jsonl", ".md", ".txt", ".jinja", ".yaml", ".yml", ".py", ".xml", ".toml", ".cfg", ".csv", "",
)  # fmt: skip
_PROSE = (".md", ".txt", ".csv")  # a backslash in the other texts is escaped
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # every path is a word of theirs
_ROOTS = "home|root|Users|tmp|mnt|work|workspace|usr|opt|var|srv|media|data|scratch|content|kaggle|private|Volumes"
_POSIX = re.compile(rf"(?:(?<![\w.:/<~-])|file://)/(?:{_ROOTS})/\w")
_WINDOWS = {
    True: re.compile(r"(?<!\w)[A-Za-z]:(?:\\|/)\w"), False: re.compile(r"(?<!\w)[A-Za-z]:(?:\\\\|/)\w"),
}  # fmt: skip
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".pdparams")
_ZIP, _PROTOCOL = b"PK\x03\x04", re.compile(rb"\x80[\x02-\x05]")
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02"  # the pickled number that torch began its files with
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif")
_LONGEST_HEAD = 100_000_000  # bytes; safetensors' own limit
_BLOCK, _LONGEST_TOKEN = 1 << 22, 256  # bytes read at a time, and kept from the block before


def refuse_content(name: str, path: Path) -> None:
    """HubError when a file is or may be a pickle or holds one, a secret, or (a text) an absolute path."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if suffix in _PICKLES or path.name == "training_args.bin" or _pickled(file, suffix, path.stat().st_size):
            raise HubError(f"{name} is a pickle, which can run code where it is loaded; save it as safetensors.")
    refuse_secret(name, path)
    if suffix in _TEXTS:
        _refuse_path(name, path)
    elif suffix == ".whl":
        _refuse_pickled_members(name, path)


def refuse_secret(name: str, path: Path) -> None:
    """HubError when a file holds a token of the Hub or a key of another service; the secret itself is not shown.

    Keys of others are sought in texts, in the texts of wheels and pictures and in the head of safetensors; tokens of
    the Hub in every byte.
    """
    suffix = path.suffix.lower()
    if suffix in _TEXTS:
        return _refuse_in_text(name, files.read_text(path))
    if suffix == ".whl":
        return _refuse_in_members(name, path)
    words = _words_in(path) if suffix in _PICTURES else _head_of(path) if suffix == ".safetensors" else ()
    with path.open("rb") as file:
        _refuse_kind(name, OF_THE_HUB if _holds_token(file) else None)
    for text in words:
        _refuse_kind(name, secret_in(text))


def refuse_value(name: str, value: Any) -> None:
    """HubError when a value of a data set's row, or one within it, holds a secret; in bytes, a token of the Hub."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            refuse_value(name, one)
    elif isinstance(value, bytes):
        _refuse_kind(name, OF_THE_HUB if holds_token(value) else None)
    elif isinstance(value, str):
        _refuse_kind(name, secret_in(value))


def _refuse_kind(where: str, kind: str | None) -> None:
    if kind:
        raise HubError(f"{where} holds {kind}. Take it out, and revoke it: it was written.")


def _refuse_in_text(name: str, text: str) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        _refuse_kind(f"{name}, line {number},", secret_in(line))


def _refuse_path(name: str, path: Path) -> None:
    """HubError when a line of a text holds a path of a machine, or a config names code to run."""
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        if path.name not in _VOCABULARIES and (found := _absolute(line, path.suffix.lower() in _PROSE)):
            raise HubError(f"{name}, line {number}, holds a path of a machine, {found!r}; write it relative.")
    if path.name.endswith("config.json") and "auto_map" in files.read_json(path):
        raise HubError(f"{name} names code to run (auto_map), which no folder of ours brings; take it out.")


def _refuse_pickled_members(name: str, wheel: Path) -> None:
    """HubError when a file in a wheel is a pickle."""
    for member, content in _members(name, wheel):
        suffix = Path(member).suffix.lower()
        if suffix in _PICKLES or _pickled(io.BytesIO(content), suffix, len(content)):
            raise HubError(f"{name}: {member} is a pickle; build the wheel without it.")


def _refuse_in_members(name: str, wheel: Path) -> None:
    """HubError when a file in a wheel holds a secret."""
    for member, content in _members(name, wheel):
        if Path(member).suffix.lower() in _TEXTS:
            _refuse_in_text(f"{name}: {member}", content.decode("utf-8", "replace"))
        else:
            _refuse_kind(f"{name}: {member}", OF_THE_HUB if holds_token(content) else None)


def _members(name: str, wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a wheel; HubError for a wheel that cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as packed:
            for member in packed.infolist():
                yield member.filename, packed.read(member)
    except Exception as error:  # whatever zipfile and its decoders raise on a damaged one
        raise HubError(f"{name} is no wheel that can be read ({error}); build it again.") from None


def _pickled(file: IO[bytes], suffix: str, size: int) -> bool:
    """Whether a file's beginning and end are a pickle's, or its beginning that of a zip that may hold one."""
    head = file.read(len(_OLD_TORCH))
    if suffix == ".safetensors":
        return head[8:9] != b"{"  # a header of JSON after its length
    zipped = head.startswith(_ZIP) and suffix != ".whl"
    if zipped or head == _OLD_TORCH or not _PROTOCOL.match(head):
        return zipped or head == _OLD_TORCH
    file.seek(size - 1)
    return file.read(1) == b"."


def _holds_token(file: IO[bytes]) -> bool:
    tail = b""
    while block := file.read(_BLOCK):
        if holds_token(tail + block):
            return True
        tail = block[-_LONGEST_TOKEN:]
    return False


def _head_of(safetensors: Path) -> Iterator[str]:
    """The JSON at the head of a safetensors file: names, and texts that whoever saved it put there."""
    with safetensors.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size <= _LONGEST_HEAD:
            yield file.read(size).decode("utf-8", "replace")


def _words_in(picture: Path) -> Iterator[str]:
    """The texts that a picture carries, compressed ones too; none where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(picture) as image:  # for its texts: no pixel of it is used
            image.load()
            yield from (str(value) for value in {**image.info, **getattr(image, "text", {})}.values())
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return


def _absolute(line: str, prose: bool) -> str:
    """The start of an absolute path in a line; empty without one."""
    found = _POSIX.search(line) or _WINDOWS[prose].search(line)
    return line[found.start() : found.end() + 20].split('"')[0].split()[0] if found else ""
