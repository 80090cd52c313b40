"""Files, folders, patterns, videos and cameras -> what is to be inspected, one file or frame after the other."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.images import SUFFIXES, Rgb

VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
_CAMERA = re.compile(r"camera:(\d+)")
_EVERY = re.compile(r"(\d+)|(\d+(?:\.\d+)?)s")
_LOG_LEVELS = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}  # what breaks off is told by us, once
_ROUGH = 1  # frames by which what a video states of itself may be wrong: some count the one that would come next


@dataclass(frozen=True, slots=True)
class Every:
    """Which frames are inspected, the first one always: each `frames`-th, or the first of every `seconds`."""

    frames: int = 1
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or not (self.seconds is None or 0 < self.seconds < float("inf")):
            raise DataError(f"{self} came; a number of frames from 1 on, or of seconds above 0, is wanted.")

    @classmethod
    def parse(cls, text: str) -> "Every":
        """`10` for each tenth frame, `0.5s` for two a second; DataError for anything else."""
        found = _EVERY.fullmatch(text.strip())
        if found is None:
            raise DataError(f"--every is {text!r}; give a number of frames, 10 say, or of seconds, 0.5s say.")
        return cls(int(found[1])) if found[1] else cls(seconds=float(found[2]))

    def slot(self, number: int, seconds: float) -> int:
        """Which of the inspected ones the frame `number`, from 0, at a time belongs to: the first of each counts."""
        return number // self.frames if self.seconds is None else int(seconds / self.seconds)


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture of a video or a camera: `name`, unlike any other's, and `place`, what a row says of whence it is."""

    name: str
    rgb: Rgb
    place: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """A video or a camera that gave nothing, or ended before its time, and why that is thought."""

    name: str
    why: str


Item = Path | Frame | Broken


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Paths as they are, and in the place of a pattern (`*`, `?`, `[...]`, `**`) all that it matches, in order.

    What is there under just this name is no pattern. DataError for one that nothing matches.
    """
    found: list[Path] = []
    for path in paths:
        if os.path.lexists(path) or not glob.has_magic(str(path)):
            found.append(path)
            continue
        matched = sorted(glob.glob(str(path), recursive=True))
        if not matched:
            raise DataError(f"Nothing here matches {path}; give the path of an image, a folder, or another pattern.")
        found += map(Path, matched)
    return found


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


def is_camera(path: Path) -> bool:
    """Whether a path is `camera:0` or another one's number, and no file of that name is here."""
    return bool(_CAMERA.fullmatch(str(path))) and not os.path.lexists(path)


def is_video(path: Path) -> bool:
    """Whether a path is a file with a video's name."""
    return path.suffix.lower() in VIDEOS and os.path.isfile(path)


def items(paths: Sequence[Path], every: Every | None = None) -> Iterable[Item]:
    """The paths as they are; in the place of videos and cameras their frames, as they come.

    DataError for `every` where no path has frames, and for a camera that cannot be opened.
    """
    moving = [path for path in paths if is_camera(path) or is_video(path)]
    if every is not None and not moving:
        raise DataError("--every is of a video's or a camera's frames, and none was given; leave it out.")
    return _items(paths, every or Every()) if moving else paths


def _items(paths: Sequence[Path], every: Every) -> Iterator[Item]:
    for path in paths:
        if is_camera(path):
            yield from _of_camera(path, every)
        elif is_video(path):
            yield from _of_video(path, every)
        else:
            yield path


def _of_video(path: Path, every: Every) -> Iterator[Frame | Broken]:
    """The frames of a file, and at last why there are fewer than it states."""
    import cv2

    video = _opened(str(path))
    stated = round(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    number, slot = 0, -1
    while video.grab():
        seconds = max(0.0, video.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if (own := every.slot(number, seconds)) != slot:
            if (rgb := _rgb(video)) is None:
                break
            slot = own
            yield Frame(f"{path}/{number:06}", rgb, {"source": str(path), "frame": number, "seconds": seconds})
        number += 1
    video.release()
    if not number:
        yield Broken(str(path), f"{path} cannot be read as a video; convert it to MP4 with H.264, say.")
    elif number + _ROUGH < stated:
        why = f"{path} states {stated} frames, and {number} can be read; the rest was not inspected. Is it whole?"
        yield Broken(str(path), why)


def _of_camera(path: Path, every: Every) -> Iterator[Frame | Broken]:
    """The frames of a camera, each under the moment (UTC) that it came, until it gives no more."""
    camera = _opened(int(str(path).rpartition(":")[2]))
    if not camera.isOpened():
        raise DataError(f"{path} cannot be opened; is it connected, and may you use it (/dev/video*)?")
    begin, number, slot = datetime.now(UTC), 0, -1
    while camera.grab():
        now = datetime.now(UTC)
        if (own := every.slot(number, (now - begin).total_seconds())) != slot:
            if (rgb := _rgb(camera)) is None:
                break
            slot = own
            place = {"source": str(path), "frame": number, "time": now.isoformat()}
            yield Frame(f"{path}/{now:%Y%m%dT%H%M%S%fZ}", rgb, place)
        number += 1
    camera.release()
    yield Broken(str(path), f"{path} gave no further picture after {number}; look after it.")


def _opened(source: str | int) -> Any:
    """OpenCV's reader of a file or a camera, which says nothing by itself."""
    for name, value in _LOG_LEVELS.items():
        os.environ.setdefault(name, value)
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("Videos and cameras need OpenCV: pip install 'hf-inspect[edge]'") from error
    return cv2.VideoCapture(source)


def _rgb(video: Any) -> Rgb | None:
    """The pixels of the frame that was grabbed, upright; None where it cannot be decoded."""
    import cv2

    decoded, bgr = video.retrieve()
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) if decoded else None


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
