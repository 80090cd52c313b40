"""Raw data as it was downloaded -> a folder to read from: archives are unpacked beside, never out of their place.

An archive is read to its very end and comes out whole, or not at all: a `DataError` says what is wrong with it.
"""

import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, cast

from hf_inspect import files
from hf_inspect.console import plain
from hf_inspect.errors import DataError
from hf_inspect.faults import reason
from hf_inspect.schema import Progress, no_progress

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".zip")
_FOREIGN = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz", ".tar.lzma", ".tar.z")  # Python 3.11 unpacks none of these
_YOURSELF = "unpack it yourself, and give its folder as --src"
_BLOCK = 1 << 16
_LOCAL = struct.Struct("<26xHH")  # a zip member's own header, to its end: lengths of its name and extra field
_SIGNATURE = b"PK\3\4"
_DESCRIPTOR = 24  # bytes that may follow a zip member's content, at most
_ENCRYPTED = 0x1  # flag bits of a zip member
_UTF_8 = 0x800
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_WINDOWS = 0  # the system that a zip was made on
_CANNOT_STAND = {  # of a member's name on this disk
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOTDIR: "it lies in what is also a file",
    errno.EISDIR: "a folder has its name",
    errno.EEXIST: "another file has its name",
    errno.EILSEQ: "its name is none here",
    errno.EINVAL: "its name is none here",
}


@contextmanager
def opened(src: Path | None, work: Path, progress: Progress = no_progress) -> Iterator[Path | None]:
    """Yield what a data set's script reads: `src` itself, or the folder its archive was unpacked to, inside `work`."""
    if src is not None and not os.path.exists(src):
        raise DataError(f"{src} does not exist; give the raw data's folder or archive as --src.")
    if src is None or src.is_dir() or not src.name.lower().endswith(_ARCHIVES + _FOREIGN):
        yield src
        return
    folder = work / "unpacked"
    try:
        unpack(src, folder, progress)
        yield _inner(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(archive: Path, folder: Path, progress: Progress = no_progress) -> None:
    """Unpack a tar, plain or compressed, or a zip (which is told by its content) into the new folder `folder`.

    DataError for one that is damaged, cut short, locked or packed in a way that Python does not know; that wants more
    room than there is, or to write outside its folder; and whose files cannot all stand in one folder.
    """
    folder.mkdir(parents=True)
    try:
        if archive.name.lower().endswith(_FOREIGN):
            raise DataError(f"{archive.name} is an archive of a kind that is not read here; {_YOURSELF}.")
        _unzip(archive, folder, progress) if _is_zip(archive) else _untar(archive, folder, progress)
    except DataError:
        raise
    except tarfile.SpecialFileError as error:
        name = _short(error.tarinfo.name)
        raise DataError(f"{archive.name} holds {name}, which is no file, folder or link; {_YOURSELF}.") from None
    except tarfile.FilterError as error:
        raise _outside(archive, str(error)) from None
    except OSError as error:
        if error.filename and error.errno in _CANNOT_STAND:
            name, why = _short(os.path.relpath(error.filename, folder)), _CANNOT_STAND[error.errno]
            raise DataError(f"{archive.name} holds {name}, and {why}; rename it, and pack anew.") from None
        if error.errno in (None, errno.EINVAL):  # no disk's, but a decoder's, or a seek to nowhere
            raise _damaged(archive, error) from None
        raise
    except Exception as error:  # whatever the decoders raise
        raise _damaged(archive, error) from error


def _inner(folder: Path) -> Path:
    """The folder itself, or the one folder that is all it holds."""
    inside = [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive.name} is no whole archive ({reason(error)}); download or copy it again.")


def _outside(archive: Path, what: str) -> DataError:
    return DataError(f"{archive.name} tries to write outside its folder ({_short(what)}); do not trust it.")


def _short(name: str) -> str:
    """A name in a few letters, the last ones."""
    shown = plain(name)
    return shown if len(shown) <= 80 else f"...{shown[-77:]}"


def _refuse_twice(archive: Path, folder: Path, name: str) -> None:
    if os.path.lexists(folder / name):
        raise DataError(
            f"{archive.name} holds {_short(name)} twice, by names that are one on this disk; one would be lost. Unpack "
            "it yourself, and give its folder as --src."
        )


def _refuse_larger(archive: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{archive.name} unpacks to {files.sized(size)} and the disk of --out has {files.sized(free)} free; make "
            "room there. If it cannot be as much, download it again."
        )


def _is_zip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE or archive.suffix.lower() == ".zip"


def _untar(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack the members in their order, and links when all else is there: nothing is written through one."""
    size, links = archive.stat().st_size, []
    with archive.open("rb") as raw, tarfile.open(fileobj=_forwards(raw), mode="r|", tarinfo=_Member) as file:
        while (member := file.next()) is not None:
            file.members.clear()  # type: ignore[attr-defined]  # there may be a million
            if member.issym() or member.islnk():
                links.append(member)
            else:
                _refuse_larger(archive, folder, member.size)
                _extract(archive, file, member, folder)
            progress("unpack", raw.tell(), size)
        while block := file.fileobj.read(_BLOCK):
            if block.strip(b"\0"):
                raise tarfile.ReadError("something follows its end; several archives in one, or a damaged one")
        if file.fileobj.tell() % tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its last block is not whole")
        for member in sorted(links, key=tarfile.TarInfo.issym):
            _extract(archive, file, member, folder)


def _extract(archive: Path, file: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if not member.isdir():
        _refuse_twice(archive, folder, member.name.lstrip("/"))
    file.extract(member, folder, filter="data")


class _Member(tarfile.TarInfo):
    """A tar's member; where the next one should stand and does not, that is no end, as `tarfile` takes it."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Member":
        try:
            member = super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # typeshed lacks it
                raise
            raise tarfile.ReadError(str(error)) from None
        member.name, member.linkname = _readable(member.name), _readable(member.linkname)
        return member


def _readable(name: str) -> str:
    """A name that is no UTF-8 as Latin-1, by which any bytes are letters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")
    return name


def _forwards(raw: BinaryIO) -> BinaryIO:
    """What a file holds, unpacked, as the file that `tarfile` reads once, forwards."""
    blocks = _blocks(raw)
    return cast(BinaryIO, SimpleNamespace(read=lambda size: next(blocks, b"")))


def _blocks(raw: BinaryIO) -> Iterator[bytes]:
    """What a file holds, unpacked as its first bytes say; EOFError, or what the decoder raises, where it is damaged."""
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return iter(partial(gzip.GzipFile(fileobj=raw).read, _BLOCK), b"")
    if head.startswith(b"BZh"):
        return _streams(raw, bz2.BZ2Decompressor)
    if head == b"\xfd7zXZ\0":
        return _streams(raw, lzma.LZMADecompressor)
    return iter(partial(raw.read, _BLOCK), b"")


def _streams(
    raw: BinaryIO, begin: Callable[[], bz2.BZ2Decompressor] | Callable[[], lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """All streams of a file, to its very end; `bz2` and `lzma` would take a damaged second one for the end."""
    given = raw.read(_BLOCK)
    while given:
        stream = begin()
        while not stream.eof:
            if content := stream.decompress(given, _BLOCK):
                yield content
            given = raw.read(_BLOCK) if stream.needs_input and not stream.eof else b""
            if stream.needs_input and not (given or stream.eof):
                raise EOFError("it ends in the middle")
        given = stream.unused_data.lstrip(b"\0")
        while not given and (more := raw.read(_BLOCK)):
            given = more.lstrip(b"\0")


def _unzip(archive: Path, folder: Path, progress: Progress) -> None:
    with archive.open("rb") as raw, zipfile.ZipFile(raw) as file:
        members = file.infolist()
        for member in members:
            _rename(member)
            _refuse_member(archive, member)
        _refuse_unlisted(file, raw)
        _refuse_larger(archive, folder, sum(member.file_size for member in members))
        for done, member in enumerate(members, 1):
            if not member.is_dir():
                _refuse_twice(archive, folder, member.filename)
            file.extract(member, folder)
            progress("unpack", done, len(members))


def _rename(member: zipfile.ZipInfo) -> None:
    """Read a member's name as who wrote it meant it: UTF-8 that is not said to be (macOS), folders by `\\` (.NET)."""
    if not member.flag_bits & _UTF_8:
        with suppress(UnicodeError):
            member.filename = member.filename.encode("cp437").decode()
    if member.create_system == _WINDOWS:
        member.filename = member.filename.replace("\\", "/")


def _refuse_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """DataError for a zip's member that `zipfile` cannot unpack, or would unpack as something else."""
    name = _short(member.filename)
    if member.filename.startswith("/") or ".." in Path(member.filename).parts:
        raise _outside(archive, name)
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"{archive.name} is locked with a password ({name}); {_YOURSELF}.")
    if member.compress_type not in _READABLE:
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise DataError(f"{archive.name} is packed by {method} ({name}), which is not read here; {_YOURSELF}.")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{archive.name} holds {name}, which is no file or folder but a link, say; {_YOURSELF}.")


def _refuse_unlisted(file: zipfile.ZipFile, raw: BinaryIO) -> None:
    """BadZipFile where a member lies between those that the zip's list names: two zips in one file, a damaged list."""
    end = 0
    for member in sorted(file.infolist(), key=lambda member: member.header_offset):
        _refuse_between(raw, end, member.header_offset)
        raw.seek(member.header_offset)
        name, extra = _LOCAL.unpack(raw.read(_LOCAL.size))
        end = member.header_offset + _LOCAL.size + name + extra + member.compress_size
    _refuse_between(raw, end, file.start_dir)


def _refuse_between(raw: BinaryIO, begin: int, end: int) -> None:
    if end - begin < _LOCAL.size:
        return
    raw.seek(begin)
    if _SIGNATURE in raw.read(_DESCRIPTOR + len(_SIGNATURE)):
        raise zipfile.BadZipFile("it holds files that its list does not name")
