"""Images, videos, cameras -> verdicts and a summary; with a file to write to, a run that can be stopped and goes on."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import images
from hf_inspect.cocos import Results
from hf_inspect.console import plain
from hf_inspect.errors import DataError
from hf_inspect.images import Source
from hf_inspect.inspector import AT_ONCE, Inspector
from hf_inspect.maps import Maps
from hf_inspect.prefetch import as_they_come
from hf_inspect.schema import Progress, Verdict, no_progress
from hf_inspect.sources import Broken, Every, Frame, Item, expanded, find_images, is_camera, items

if TYPE_CHECKING:
    from filelock import FileLock

_REASONS = 10  # that the summary lists; further ones are counted
_SAID = 100  # letters of what a VLM says of a thing that a line shows
_ROW_START = b'{"path": "'


def run(
    cascade: str | Path,
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    maps: Path | None = None,
    coco: Path | None = None,
    coco_ids: Path | None = None,
    every: Every | None = None,
    show: Callable[[str], None] = lambda line: None,
    progress: Progress = no_progress,
    **settings: Any,
) -> dict[str, dict[str, int]]:
    """Inspect files, folders, patterns, videos and cameras with a cascade (folder, or org/name); returns the summary.

    `maps` is a folder for a picture of each image with its edge's map, or what was found, over it; `coco` a file for
    what was found, whose ids are those of the COCO file `coco_ids` where one is given (see `cocos.Results`): DataError
    where neither edge nor VLM says where. What was found is the VLM's where it was asked and looks for things. `every`
    says which frames of videos and cameras are inspected. A camera is inspected until it is interrupted (Ctrl-C), which
    ends the run as the end of the images does. The summary holds, of a VLM at a server, under `wire` what became of the
    parts: those `changed` were due to another VLM.
    `show` gets a line a file, and those of the summary. `settings` go to `Inspector.from_pretrained` (policy, fallback,
    revision, max_pixels, vlm, deadline, jpeg).
    """
    given = expanded(paths)
    found, other = find_images(given)
    inspector = Inspector.from_pretrained(cascade, **settings)
    pictures = None if maps is None else Maps.of(maps, inspector, given)
    results = None if coco is None else Results.of(coco, inspector.things, coco_ids)
    endless = any(map(is_camera, found))

    def shown() -> Iterator[dict[str, Any]]:
        with suppress(KeyboardInterrupt) if endless else nullcontext():
            for done, (name, row) in enumerate(predict(inspector, items(found, every), out, pictures), 1):
                progress("inspected", done, max(done, len(found)))
                show(_line(name, row, inspector))
                if results is not None:
                    results.add(name, row)
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
    if results is not None:
        show(results.write())
    if other:
        show(f"  {other} other files in these folders have no image's name and were left out")
    if (wire := inspector.wire) is not None:
        show(f"  {wire.summary()}")
        summary["wire"] = dict(wire.counts)
    return summary


def predict(
    inspector: Inspector, paths: Iterable[Item], out: Path | None = None, maps: Maps | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Inspect the paths in order, yielding (path, row).

    A row is a Verdict as plain values (`found_by`: whose findings tell of it), its file's `sha256`, and `width` and
    `height` of the upright image in pixels; of a frame the SHA-256 is of its pixels, and `source`, `frame` (from 0) and
    `seconds` or `time` say whence it is.
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


@dataclass(frozen=True, slots=True)
class _File:
    """A file or a frame as it was read: what it holds, or the verdict that this cannot be had; `place` is its row's."""

    name: str
    content: Source | Verdict
    sha256: str | None = None
    place: Mapping[str, Any] = field(default_factory=dict)


def _read(item: Item) -> _File:
    if isinstance(item, Broken):
        return _File(item.name, Verdict("unreadable", "rule", item.why))
    if isinstance(item, Frame):
        height, width = item.rgb.shape[:2]
        place = {**item.place, "width": width, "height": height}
        return _File(item.name, item.rgb, hashlib.sha256(item.rgb.tobytes()).hexdigest(), place)
    try:
        content = images.read(item)
    except DataError as error:
        return _File(str(item), Verdict("unreadable", "rule", str(error)))
    file = BytesIO(content)
    file.name = str(item)  # what the reasons call it
    _, width, height = images.header(content)
    return _File(file.name, file, hashlib.sha256(content).hexdigest(), {"width": width, "height": height})


def _rows(
    inspector: Inspector, paths: Iterable[Item], log: "_Log | None", maps: Maps | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for some in as_they_come(_read, paths, AT_ONCE):
        known = [_known(file, log, maps) for file in some]
        asked = [file.content for file, row in zip(some, known, strict=True) if row is None]
        verdicts = inspector.inspect([one for one in asked if not isinstance(one, Verdict)])
        for file, row in zip(some, known, strict=True):
            if row is None:
                verdict = file.content if isinstance(file.content, Verdict) else next(verdicts)
                row = {"sha256": file.sha256, **verdict.to_dict(), **file.place, **_pictured(file, verdict, maps)}
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


def _line(name: str, row: dict[str, Any], inspector: Inspector) -> str:
    """A row as a person reads it, with what was found from the score on that is told of, and what the surest is."""
    named = row["class"] if row["class"] not in (None, row["label"]) else None
    p = row["severity"] if row["p_class"] is None else row["p_class"]
    said = row["label"] + (f": {named}" if named else "") + ("" if p is None else f", {p:.3f}")
    notes = f" ({'; '.join(row['notes'])})" if row["notes"] else ""
    return plain(f"{said:17} {row['decided_by']:4}  {name}: {row['reason']}{_found(row, inspector)}{notes}")


def _found(row: dict[str, Any], inspector: Inspector) -> str:
    """What was found in a part, in words; nothing where nobody looked."""
    if (by := row["found_by"]) is None:
        return ""
    told = [one for one in row["evidence"][by]["findings"] if one["score"] >= inspector.told_of(by)]
    said = next((one["description"] for one in told[:1] if one.get("description")), "")
    short = said if len(said) <= _SAID else f"{said[: _SAID - 1]}…"
    return f"; found {_counted(Counter(one['class'] for one in told))}" + (f' ("{short}")' if short else "")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing"
