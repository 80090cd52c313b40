"""Paths -> a table of verdicts and a summary; with a file to write to, a run that can be stopped and goes on."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import images
from hf_inspect.console import plain
from hf_inspect.errors import DataError
from hf_inspect.images import SUFFIXES
from hf_inspect.inspector import AT_ONCE, Inspector
from hf_inspect.maps import Maps
from hf_inspect.prefetch import as_they_come
from hf_inspect.schema import Progress, Verdict, no_progress

if TYPE_CHECKING:
    from filelock import FileLock

_REASONS = 10  # that the summary lists; further ones are counted
_ROW_START = b'{"path": "'


def run(
    cascade: str | Path,
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    maps: Path | None = None,
    show: Callable[[str], None] = lambda line: None,
    progress: Progress = no_progress,
    **settings: Any,
) -> dict[str, dict[str, int]]:
    """Inspect files and folders with a cascade (folder, or org/name); returns the summary.

    `maps` is a folder for a picture of each image with its edge's map over it; DataError where the edge has none. The
    summary holds, of a VLM at a server, under `wire` what became of the parts: those `changed` were due to another VLM.
    `show` gets a line a file, and those of the summary. `settings` go to `Inspector.from_pretrained` (policy, fallback,
    revision, max_pixels, vlm, deadline, jpeg).
    """
    found, other = find_images(paths)
    inspector = Inspector.from_pretrained(cascade, **settings)
    pictures = None if maps is None else Maps.of(maps, inspector, paths)

    def shown() -> Iterator[dict[str, Any]]:
        for done, (name, row) in enumerate(predict(inspector, found, out, pictures), 1):
            progress("inspected", done, len(found))
            show(_line(name, row))
            yield row

    summary = summarise(shown())
    n = sum(summary["label"].values())
    show(f"{n} inspected: {_counted(summary['label'])}; decided by {_counted(summary['decided_by'])}")
    reasons = Counter(summary["reason"]).most_common()
    for reason, n in reasons[:_REASONS]:
        show(plain(f"  undecided {n}: {reason}"))
    if more := sum(n for _, n in reasons[_REASONS:]):
        show(f"  undecided {more}: for {len(reasons) - _REASONS} further reasons")
    if maps is not None:
        show(f"  pictures of where lie in {maps}; each row of --out names its own")
    if other:
        show(f"  {other} other files in these folders have no image's name and were left out")
    if (wire := inspector.wire) is not None:
        show(f"  {wire.summary()}")
        summary["wire"] = dict(wire.counts)
    return summary


def find_images(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Files to inspect, each once, and how many other files the folders hold.

    A path that is given is inspected whatever it is called, a missing one too; folders are walked for image names.
    Links to folders are followed, each folder is walked once, under its own name where it has one here. What cannot be
    looked into is kept, to become a row that says why: a folder that cannot be listed, a link to nothing or in a
    circle, and a folder that has an image's name and nothing in it, as it stands where an image was meant to be.
    """
    found: dict[Path, None] = {}
    other, walked, waiting = 0, set[tuple[int, int]](), list(paths)
    for path in waiting:  # which grows by folders behind links
        if not os.path.isdir(path):  # False where Path.is_dir would raise
            found[path] = None
            continue
        for inside, wanted in _walk(path, walked, waiting):
            if wanted:
                found[inside] = None
            else:
                other += 1
    return list(found), other


def predict(
    inspector: Inspector, paths: Iterable[Path], out: Path | None = None, maps: Maps | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Inspect the paths in order, yielding (path, row); a row is a Verdict as plain values and its file's `sha256`.

    Each file is read once, and the verdict is of the bytes that were hashed. With `out`, rows are appended to it as
    JSON lines, of which the last one of a path counts, and a file that has a row there under this path with this
    content is not inspected again, unless it, or a model's answer for it, was unreadable. DataError when `out` is of
    another cascade or of other settings, when another process is writing it, and when it cannot be written.

    With `maps`, a row names its picture as `map`, and a file whose row or folder lacks it is inspected again.
    """
    if out is None:
        yield from _rows(inspector, paths, None, maps)
        return
    with _opened(out, inspector.identity) as log:
        yield from _rows(inspector, paths, log, maps)


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many rows by label, by who decided, and by the reason of what is undecided; the rows are not kept."""
    label, decided_by, reason = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        label[row["label"]] += 1
        decided_by[row["decided_by"]] += 1
        if row["label"] == "undecided":
            reason[row["reason"]] += 1
    return {"label": dict(label), "decided_by": dict(decided_by), "reason": dict(reason)}


def _walk(folder: Path, walked: set[tuple[int, int]], linked: list[Path]) -> Iterator[tuple[Path, bool]]:
    """What lies in a folder, in order, and whether it is to be inspected; folders behind links go to `linked`.

    `walked` holds device and inode of the folders that were walked, which are not walked again.
    """
    try:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in walked:
            return
        walked.add((here.st_dev, here.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder, True  # reading it will say why
        return
    if not entries and folder.suffix.lower() in SUFFIXES:
        yield folder, True
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink() and os.path.isdir(path):
            linked.append(path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path, walked, linked)
        else:
            yield path, path.suffix.lower() in SUFFIXES or not os.path.exists(path)


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read: what it holds, or the verdict that this cannot be had."""

    name: str
    content: BytesIO | Verdict
    sha256: str | None = None


def _read(path: Path) -> _File:
    try:
        content = images.read(path)
    except DataError as error:
        return _File(str(path), Verdict("unreadable", "rule", str(error)))
    file = BytesIO(content)
    file.name = str(path)  # what the reasons call it
    return _File(file.name, file, hashlib.sha256(content).hexdigest())


def _rows(
    inspector: Inspector, paths: Iterable[Path], log: "_Log | None", maps: Maps | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for some in as_they_come(_read, paths, AT_ONCE):
        known = [_known(file, log, maps) for file in some]
        asked = [file.content for file, row in zip(some, known, strict=True) if row is None]
        verdicts = inspector.inspect([one for one in asked if isinstance(one, BytesIO)])
        for file, row in zip(some, known, strict=True):
            if row is None:
                verdict = file.content if isinstance(file.content, Verdict) else next(verdicts)
                row = {"sha256": file.sha256, **verdict.to_dict(), **_pictured(file, verdict, maps)}
                row = row if log is None else log.add(file.name, row)
            yield file.name, row


def _known(file: _File, log: "_Log | None", maps: Maps | None) -> dict[str, Any] | None:
    """The row of a file that need not be inspected again."""
    row = None if log is None else log.decided(file.name, file.sha256)
    return row if row is None or maps is None or maps.has(file.name, row) else None


def _pictured(file: _File, verdict: Verdict, maps: Maps | None) -> dict[str, str]:
    """What a row says of its picture, which is written."""
    if maps is None or file.sha256 is None or isinstance(file.content, Verdict):
        return {}
    return maps.write(file.name, file.sha256, file.content, verdict)


class _Log:
    """Rows of --out: the last one of a path is found again, further ones are appended; one process at a time.

    Of each path it keeps where its last row begins, and no row.
    """

    def __init__(self, out: Path, identity: str, last: dict[int, int]) -> None:
        self._out, self._identity, self._last = out, identity, last
        self._file = out.open("ab", buffering=0)  # nothing is held back that a full disk would refuse once more
        self._reader = out.open("rb")
        self._end = os.path.getsize(out)

    def decided(self, name: str, sha256: str | None) -> dict[str, Any] | None:
        """The row of a path if it is of this content; None too where the file or a model's answer was unreadable."""
        row = self._row(name)
        if row is None or row["sha256"] != sha256 or row["label"] == "unreadable":
            return None
        return None if any("unreadable" in one for one in row["evidence"].values()) else row

    def add(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        """Append the row of a path, unless its last one says the same; DataError where the disk does not take it."""
        before = self._row(name)
        if before is not None and before | {"ms": row["ms"]} == row:
            return before
        line = json.dumps({"path": name, "cascade": self._identity, **row}).encode() + b"\n"
        begin, left = self._end, memoryview(line)
        with _writing(self._out):
            while left:
                left = left[self._file.write(left) :]
        self._last[hash(name)], self._end = begin, begin + len(line)
        return row

    def close(self, whole: bool) -> None:
        """Close the file, once its content has reached the disk where the run is `whole`."""
        with self._reader, self._file, _writing(self._out):
            if whole:
                os.fsync(self._file.fileno())

    def _row(self, name: str) -> dict[str, Any] | None:
        begin = self._last.get(hash(name))
        if begin is None:
            return None
        self._reader.seek(begin)
        row = json.loads(self._reader.readline())
        of, _ = row.pop("path"), row.pop("cascade")
        return row if of == name else None  # two names of one hash


@contextmanager
def _opened(out: Path, identity: str) -> Iterator[_Log]:
    """The log of a file for the time of the block; what a killed run left half-written is cut off it first."""
    if out.exists() and not out.is_file():
        raise DataError(f"{out} is no regular file; give a file to write to.")
    with ExitStack() as stack:
        with _writing(out):
            _refuse_others(out)
            out.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(_locked(out.resolve()).release)  # one lock for a file, whatever link leads to it
            log = _Log(out, identity, _last_rows(out, identity))
        whole = False
        try:
            yield log
            whole = True
        finally:
            log.close(whole)


def _locked(out: Path) -> "FileLock":
    """The lock of a file, held; the system gives it back when the process ends, however it ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{out} is being written by another 'hf-inspect predict'; wait until it has ended, or give another --out."
        ) from None
    return lock


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror or error}); make room there, or give another --out. The same "
            "command then goes on after the last whole row."
        ) from error


def _refuse_others(out: Path) -> None:
    with suppress(FileNotFoundError), out.open("rb") as file:
        head = file.read(len(_ROW_START))
        if head != _ROW_START[: len(head)]:
            raise DataError(f"{out} was not written by 'hf-inspect predict'; give another --out.")


def _last_rows(out: Path, identity: str) -> dict[int, int]:
    """Where the last row of each path begins, by the path's hash; a torn last line is removed."""
    last: dict[int, int] = {}
    end = 0
    with out.open("a+b") as file:
        file.seek(0)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                name, of, _ = row["path"], row["cascade"], row["sha256"]
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{out}, line {number} is no row of 'hf-inspect predict'; give another --out."
                ) from None
            if of != identity:
                raise DataError(f"{out} was written by {of}, this run is {identity}; give another --out.")
            last[hash(name)] = end
            end += len(line)
        file.truncate(end)
    return last


def _line(name: str, row: dict[str, Any]) -> str:
    named = row["class"] if row["class"] not in (None, row["label"]) else None
    p = row["severity"] if row["p_class"] is None else row["p_class"]
    said = row["label"] + (f": {named}" if named else "") + ("" if p is None else f", {p:.3f}")
    notes = f" ({'; '.join(row['notes'])})" if row["notes"] else ""
    return plain(f"{said:17} {row['decided_by']:4}  {name}: {row['reason']}{notes}")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing"
