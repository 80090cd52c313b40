"""Raw data as it was downloaded -> a folder to read from: archives are unpacked beside, never out of their place."""

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_inspect.errors import DataError
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
