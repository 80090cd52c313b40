"""A file -> why it must not be published: a pickle, a token, a path of somebody's machine."""

import re
from pathlib import Path

from hf_inspect.errors import HubError

TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}")
_TEXTS = (
    ".json", ".jsonl", ".md", ".txt", ".jinja", ".yaml", ".yml", ".py", ".xml", ".toml", ".cfg", ".csv", "",
)  # fmt: skip
_PROSE = (".md", ".txt", ".csv")  # a backslash in the other texts is escaped
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # every path is a word of theirs
_POSIX = re.compile(r"(?<![\w.:/<~-])/(?:home|root|Users|tmp|mnt|work|workspace|usr)/\w")
_WINDOWS = {True: re.compile(r"(?<!\w)[A-Za-z]:\\\w"), False: re.compile(r"(?<!\w)[A-Za-z]:\\\\\w")}
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_ZIP, _PROTOCOL = b"PK\x03\x04", re.compile(rb"\x80[\x02-\x05]")
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02"  # the pickled number that torch began its files with


def refuse_content(name: str, path: Path) -> None:
    """HubError when a file is or may be a pickle, or its text holds a token or an absolute path.

    The token itself is not shown.
    """
    if _pickled(path):
        raise HubError(f"{name} is a pickle, which can run code where it is loaded; save it as safetensors.")
    if path.suffix not in _TEXTS:
        return
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if TOKEN.search(line):
            raise HubError(f"{name}, line {number}, holds an access token. Take it out, and revoke it: it was written.")
        if path.name not in _VOCABULARIES and (found := _absolute(line, path.suffix in _PROSE)):
            raise HubError(f"{name}, line {number}, holds a path of a machine, {found!r}; write it relative.")


def _pickled(path: Path) -> bool:
    if path.suffix in _PICKLES or path.name == "training_args.bin":
        return True
    with path.open("rb") as file:
        head = file.read(len(_OLD_TORCH))
        file.seek(max(0, path.stat().st_size - 1))
        last = file.read(1)
    if path.suffix == ".safetensors":
        return head[8:9] != b"{"  # a header of JSON after its length
    zipped = head.startswith(_ZIP) and path.suffix != ".whl"
    return zipped or head == _OLD_TORCH or (bool(_PROTOCOL.match(head)) and last == b".")


def _absolute(line: str, prose: bool) -> str:
    """The start of an absolute path in a line; empty without one."""
    found = _POSIX.search(line) or _WINDOWS[prose].search(line)
    return line[found.start() : found.end() + 20].split('"')[0].split()[0] if found else ""
