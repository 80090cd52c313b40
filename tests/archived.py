"""Archives of every kind that is read, made in memory; and the ways a file comes to harm."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

_PACKED = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}
_ZIPPED = {"stored.zip": zipfile.ZIP_STORED, "deflated.zip": zipfile.ZIP_DEFLATED, "lzma.zip": zipfile.ZIP_LZMA}
KINDS = (*_PACKED, *_ZIPPED)


def packed(kind: str, content: Mapping[str, bytes]) -> bytes:
    """An archive of one of `KINDS` of files by name."""
    if kind in _ZIPPED:
        return zip_of(content, _ZIPPED[kind])
    return _PACKED[kind](tar_of({tarfile.TarInfo(name): held for name, held in content.items()}))


def tar_of(members: Mapping[tarfile.TarInfo, bytes]) -> bytes:
    """A plain tar of members, each with what it holds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, held in members.items():
            member.size = member.size or len(held)
            archive.addfile(member, io.BytesIO(held) if held else None)
    return buffer.getvalue()


def zip_of(content: Mapping[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of files by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, held in content.items():
            archive.writestr(name, held)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    """A tar's member: a file, or what `kind` says, a link to `to`, say."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def found_in(folder: Path) -> dict[str, bytes]:
    """What each file below a folder holds, by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def harmed(content: bytes, *harms: tuple[str, int, int, int]) -> bytes:
    """A file after harms: `cut` it, `flip` bits of a byte, `fill`, `drop` or `repeat` a stretch; places are modulo."""
    for what, at, n, value in harms:
        begin = at % (len(content) + 1)
        end = min(len(content), begin + 1 + n)
        head, stretch, tail = content[:begin], content[begin:end], content[end:]
        content = {
            "cut": head,
            "flip": head + bytes(one ^ (1 + value % 255) for one in stretch[:1]) + stretch[1:] + tail,
            "fill": head + bytes([value]) * len(stretch) + tail,
            "drop": head + tail,
            "repeat": head + stretch + stretch + tail,
        }[what]
    return content
