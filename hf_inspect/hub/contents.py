"""A file -> why it must not be published: a pickle, a token, a path of somebody's machine."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hf_inspect import files
from hf_inspect.errors import HubError

TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf_|api_org_)(?:oauth_|jwt_)?[A-Za-z0-9]{30,}")
_TOKEN_STARTS = (b"hf_", b"api_org_")  # sought first, as `in` is ten times faster than the pattern
_TOKEN_BYTES = re.compile(TOKEN.pattern.encode())
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
_BLOCK, _LONGEST_TOKEN = 1 << 22, 256  # bytes read at a time, and kept from the block before


def refuse_content(name: str, path: Path) -> None:
    """HubError when a file is or may be a pickle or holds one, a token, or (a text) an absolute path.

    The token itself is not shown.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if suffix in _PICKLES or path.name == "training_args.bin" or _pickled(file, suffix, path.stat().st_size):
            raise HubError(f"{name} is a pickle, which can run code where it is loaded; save it as safetensors.")
    if suffix in _TEXTS:
        return _refuse_text(name, path)
    if suffix == ".whl":
        _refuse_members(name, path)
    with path.open("rb") as file:
        if _holds_token(file) or (suffix in _PICTURES and any(map(TOKEN.search, _words_in(path)))):
            raise HubError(f"{name} holds an access token. Take it out, and revoke it: it was written.")


def refuse_value(name: str, value: Any) -> None:
    """HubError when a value of a data set's row, or one within it, holds a token."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            refuse_value(name, one)
    elif isinstance(value, str | bytes):
        found = value if isinstance(value, bytes) else value.encode()
        if any(start in found for start in _TOKEN_STARTS) and _TOKEN_BYTES.search(found):
            raise HubError(f"{name} holds an access token. Take it out, and revoke it: it was written.")


def _refuse_text(name: str, path: Path) -> None:
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        if TOKEN.search(line):
            raise HubError(f"{name}, line {number}, holds an access token. Take it out, and revoke it: it was written.")
        if path.name not in _VOCABULARIES and (found := _absolute(line, path.suffix.lower() in _PROSE)):
            raise HubError(f"{name}, line {number}, holds a path of a machine, {found!r}; write it relative.")
    if path.name.endswith("config.json") and "auto_map" in files.read_json(path):
        raise HubError(f"{name} names code to run (auto_map), which no folder of ours brings; take it out.")


def _refuse_members(name: str, wheel: Path) -> None:
    """HubError when a file in a wheel is a pickle or holds a token."""
    try:
        with zipfile.ZipFile(wheel) as packed:
            for member in packed.infolist():
                suffix = Path(member.filename).suffix.lower()
                with packed.open(member) as file:
                    if suffix in _PICKLES or _pickled(file, suffix, member.file_size):
                        raise HubError(f"{name}: {member.filename} is a pickle; build the wheel without it.")
                with packed.open(member) as file:
                    if _holds_token(file):
                        raise HubError(f"{name}: {member.filename} holds an access token. Take it out, and revoke it.")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
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
        joined = tail + block
        if any(start in joined for start in _TOKEN_STARTS) and _TOKEN_BYTES.search(joined):
            return True
        tail = block[-_LONGEST_TOKEN:]
    return False


def _words_in(picture: Path) -> Iterator[str]:
    """The texts that a picture carries, compressed ones too; none where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(picture) as image:
            image.load()
            yield from (str(value) for value in {**image.info, **getattr(image, "text", {})}.values())
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return


def _absolute(line: str, prose: bool) -> str:
    """The start of an absolute path in a line; empty without one."""
    found = _POSIX.search(line) or _WINDOWS[prose].search(line)
    return line[found.start() : found.end() + 20].split('"')[0].split()[0] if found else ""
