"""Raw data as it was downloaded -> a folder to read from: archives are unpacked beside, never out of their place."""

import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hf_inspect.errors import DataError
from hf_inspect.images import SUFFIXES
from hf_inspect.schema import Progress, no_progress

_ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".zip")


@contextmanager
def opened(src: Path | None, work: Path, progress: Progress = no_progress) -> Iterator[Path | None]:
    """Yield what a data set's script reads: `src` itself, or the folder its archive was unpacked to, inside `work`."""
    if src is None or not src.name.lower().endswith(_ARCHIVES):
        if src is not None and not src.exists():
            raise DataError(f"{src} does not exist; give the raw data's folder or archive as --src.")
        yield src
        return
    folder = work / "unpacked"
    try:
        _unpack(src, folder, progress)
        yield _inner(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def relative(path: Path, root: Path) -> str:
    """`path` below `root` with '/', as manifests name it."""
    return path.relative_to(root).as_posix()


def images_in(folder: Path) -> list[Path]:
    """Every image file below `folder`, hidden ones left out, sorted by path."""
    inside = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def keys_by_rule(names: Sequence[str], rule: str) -> list[str | None]:
    """Group 1 of the regular expression `rule` in each file name, None where it does not match -> (n,).

    Images of one key are one group: `(.+)\\.rf\\.` joins the augmented copies of a photo. DataError for a rule that
    is none, has no group, or matches nothing.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"the group rule {rule!r} is no regular expression ({error}).") from None
    if not pattern.groups:
        raise DataError(f"the group rule {rule!r} has no group; put what names the part in parentheses: (.+)_tile.")
    found = [pattern.search(name) for name in names]
    if not any(found):
        raise DataError(f"the group rule {rule!r} matches none of {len(names)} file names, such as {names[:1]}.")
    return [match.group(1) if match else None for match in found]


def _inner(folder: Path) -> Path:
    """The folder itself, or the one folder that is all it holds."""
    inside = [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    folder.mkdir(parents=True)
    try:
        if archive.suffix.lower() == ".zip":
            _unzip(archive, folder, progress)
        else:
            _untar(archive, folder, progress)
    except tarfile.FilterError as error:
        raise DataError(f"{archive.name} tries to write outside its folder ({error}); do not trust it.") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive.name} is no whole archive ({error}); download it again.") from None


def _untar(archive: Path, folder: Path, progress: Progress) -> None:
    size = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw) as file:
        for member in file:
            file.extract(member, folder, filter="data")
            progress("unpack", raw.tell(), size)


def _unzip(archive: Path, folder: Path, progress: Progress) -> None:
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        for name in names:
            if name.startswith("/") or ".." in Path(name).parts:
                raise DataError(f"{archive.name} tries to write outside its folder ({name}); do not trust it.")
        for done, name in enumerate(names, 1):
            file.extract(name, folder)
            progress("unpack", done, len(names))
