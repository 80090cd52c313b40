"""A folder that appears whole or not at all: written beside its place, brought to the disk, and renamed there.

Killed at any moment, the old folder or the new one stands in the place, or the next run puts it there.
"""

import errno
import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect.errors import DataError
from hf_inspect.files.marker import (
    KEPT,
    LOCK,
    MARKER,
    WORK,
    described,
    entries,
    foreign,
    read_marker,
    refuse_foreign,
    replace,
    write_marker,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NEW, _OLD, _GONE, _TAKEN, _LOCK = "new", "old", "gone-", "taken", "lock"  # in a work folder
_AT_ONCE = 16  # files brought to the disk at once: twenty times faster than one after the other


@contextmanager
def staged_folder(out: Path, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield an empty folder; it becomes `out` if the block succeeds, in place of an older one of ours.

    Files called as in `KEPT` are taken over from the older one. DataError when `out` is, holds or lies in one of
    `inputs`, is a file or a mount, or holds a file that no command of this package wrote, or that was changed since.
    """
    out = out.resolve()
    refuse_overlap(out, inputs)
    if out.is_file() or os.path.ismount(out):
        what = "a file" if out.is_file() else "a mount, which cannot be replaced as a whole"
        raise DataError(f"{out} is {what}; give a folder to write to.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _turn(out):
        for left in _left_beside(out):
            _recover(left, out)
        refuse_foreign(out, out)
        work, lock = _work_beside(out)
    try:
        try:
            yield work / _NEW
            _finish(work / _NEW)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        with _turn(out):
            _swap(work, out)
            _discard(work)
    finally:
        lock.release()


def refuse_overlap(out: Path, inputs: Iterable[str | Path]) -> None:
    """DataError when `out` is, holds or lies in one of the files and folders that are read, by whatever name."""
    for given in map(Path, inputs):
        if given.exists() and (_within(given, out) or _within(out, given)):
            raise DataError(f"{out} and {given}, which is read, overlap; give an --out beside it.")


def _within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies in it, as the disk tells: links, mounts and upper case are seen through."""
    here = path.resolve()
    return folder.exists() and any(one.exists() and one.samefile(folder) for one in (here, *here.parents))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file, made for this and deleted after it, that other processes and threads wait for."""
    from filelock import FileLock

    with FileLock(path, thread_local=False):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # who waits for it sees that, and makes it anew


def _turn(out: Path) -> AbstractContextManager[None]:
    """Runs into one folder look at it and replace it one after the other."""
    return locked(out.with_name(f".{out.name}{WORK}.lock"))


def _work_beside(out: Path) -> "tuple[Path, BaseFileLock]":
    """A new work folder with an empty stage; it is ours as long as the lock is held."""
    work = out.with_name(f".{out.name}.{_boot()}-{_machine()}-{secrets.token_hex(4)}{WORK}")
    (work / _NEW).mkdir(parents=True)
    if (lock := _locked(work)) is None:
        raise DataError(f"{out.parent} grants no lock on a file; give a folder on another disk.")
    return work, lock


def _locked(work: Path) -> "BaseFileLock | None":
    """The lock of a work folder, held; None where a living process holds it."""
    from filelock import FileLock

    lock = FileLock(work / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except OSError:  # filelock's Timeout is one
        return None
    return lock


def _finish(stage: Path) -> None:
    """Bring a stage to the disk, then say in its marker that it is whole."""
    found = entries(stage)
    plain = [path for path in found.values() if not path.is_symlink()]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(_sync, [*plain, *{path.parent for path in found.values()}]))
    write_marker(stage, {name: described(path) for name, path in found.items()})
    _sync(stage)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(work: Path, out: Path) -> None:
    """Put the finished stage of `work` in the place of `out`; what stood there lies in `work` then.

    Each step is a rename that overwrites nothing: stopped between any two, this may be called again.
    """
    new = work / _NEW
    try:
        while new.is_dir():
            stood = [out] if out.is_dir() else _olds(work)[:1]
            with ExitStack() as held:
                for folder in stood:
                    refuse_foreign(folder, out)
                    held.enter_context(_unwritten(folder))
                    _take_over(folder, new, out)
                _exchange(work, out)
    except BaseException as error:
        _put_back(work, out)
        if isinstance(error, DataError):
            raise DataError(f"{error} What was made waits beside it, in {work.name}, for the next run.") from None
        raise
    _sync(out.parent)


def _unwritten(folder: Path) -> "BaseFileLock":
    """The lock under which evaluations are counted in a folder; its file goes where the folder goes."""
    from filelock import FileLock

    return FileLock(folder / LOCK, thread_local=False)


def _exchange(work: Path, out: Path) -> None:
    """Rename the stage to `out`, and what stands there aside."""
    try:
        if out.exists():
            out.rename(work / f"{_OLD}-{secrets.token_hex(4)}")
        (work / _NEW).rename(out)
    except FileNotFoundError:  # another run was faster with either
        if not (out.exists() or (work / _NEW).exists()):
            raise
    except OSError as error:  # or has put its own there
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _take_over(old: Path, new: Path, out: Path) -> None:
    """Copy the `KEPT` files of a folder to the new one; DataError where that brings another one of a person's."""
    by_us, brought = read_marker(old) or {}, read_marker(new) or {}
    for name, path in entries(old).items():
        if path.name not in KEPT or (name in by_us and name in brought):
            continue
        content = path.read_bytes()
        if (new / name).is_file() and (new / name).read_bytes() == content:
            continue
        if name in brought:
            raise DataError(f"{out} holds a {name} of its own, and the new folder brings another; move it out.")
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        replace(new.with_name(_TAKEN), content, durable=True)  # not in the new folder, where a kill would leave a half
        new.with_name(_TAKEN).rename(new / name)


def _discard(work: Path) -> None:
    """Delete a work folder, but for what came into a folder of ours while it was renamed aside."""
    for old in _olds(work):
        if found := foreign(old):
            warnings.warn(f"{', '.join(found)} came into a folder as it was replaced; see {old}.", stacklevel=5)
            return
        old.rename(work / f"{_GONE}{old.name}")  # it may lose its marker first
    shutil.rmtree(work, ignore_errors=True)


def _olds(work: Path) -> list[Path]:
    """What was renamed aside, the last first."""
    return sorted(work.glob(f"{_OLD}-*"), key=lambda old: old.stat().st_ctime_ns, reverse=True)


def _put_back(work: Path, out: Path) -> None:
    """What was renamed aside last, where nothing stands at `out`."""
    if not out.exists() and (olds := _olds(work)):
        olds[0].rename(out)


def _left_beside(out: Path) -> list[Path]:
    """The work folders of `out`: of runs that live, and of those that were killed."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.(?:[0-9a-f]{{8}}-){{2}}[0-9a-f]{{8}}{re.escape(WORK)}")
    return [one for one in sorted(out.parent.glob(f".{glob.escape(out.name)}.*")) if ours.fullmatch(one.name)]


def _recover(work: Path, out: Path) -> None:
    """Bring to its end what a killed run left; what a living one holds is left alone.

    The lock tells within a machine. What another machine left is put in its place where nothing stands there, which
    harms nobody, and is deleted by no one but a person.
    """
    if (lock := _locked(work)) is None:
        return
    here = f".{_boot()}-" in work.name or f"-{_machine()}-" in work.name
    try:
        if (here or not out.exists()) and _is_whole(work / _NEW) and not _is_older(work / _NEW, out):
            _swap(work, out)
        _put_back(work, out)
        if here:
            _discard(work)
        else:
            warnings.warn(
                f"{work} was left by a run on another machine; delete it if nothing writes there.", stacklevel=5
            )
    finally:
        lock.release()


def _is_whole(stage: Path) -> bool:
    """Whether a stage was finished, and each file is as its marker says."""
    listed = read_marker(stage)
    return listed is not None and all(described(stage / name) == said for name, said in listed.items())


def _is_older(stage: Path, out: Path) -> bool:
    """Whether a folder of ours was finished at `out` after the stage was."""
    there = out / MARKER
    return there.is_file() and there.stat().st_mtime_ns > (stage / MARKER).stat().st_mtime_ns


@cache
def _boot() -> str:
    """Names this run of the kernel: its processes see each other's locks, in whatever container they are."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return _short(path.read_text() if path.is_file() else platform.node())


@cache
def _machine() -> str:
    """Names this machine over restarts; a container by its own name."""
    path = Path("/etc/machine-id")
    return _short(platform.node() + (path.read_text() if path.is_file() else ""))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
