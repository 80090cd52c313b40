"""A built data set of boxes -> a pool of exemplars for a VLM: a few images with all that they show; and back."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from hf_inspect import files, images
from hf_inspect.data import sheet
from hf_inspect.data.covering import KINDS, Looked, counts, most_telling
from hf_inspect.data.hashing import sign_all
from hf_inspect.data.leakage import TRAINED_ON, read_history, record_history, write_history
from hf_inspect.data.load import count, load_split, place_of, read_head, read_objects, read_reading, stream, things_of
from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.metrics.findings import Thing
from hf_inspect.reading import Reading
from hf_inspect.schema import Finding, History, Progress, TaskSpec, no_progress

POOL, HEAD = "pool.jsonl", "pool.json"  # the exemplars, a line each; and what holds for all of them
FORMAT = 1
THINGS = 50  # of an exemplar at most: each is a line of every prompt that shows it
IMAGES = "images"
_KEYS = ("image", "sha256", "source", "group", "width", "height", "objects")
_AT_ONCE = 64  # images in memory
_KEPT = 8  # exemplars whose pixels are kept: they are shown before one image after the other
_SIDE = 256  # pixels of an exemplar on the sheet
_AGAIN = "run 'hf-inspect data pool' again"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An image file, read as `reading` says, with all that it shows.

    `source` and `group` are those of its data set, `size` its height and width in pixels, upright; boxes are in them.
    """

    file: Path
    sha256: str
    source: str
    group: int
    things: tuple[Thing, ...]
    size: tuple[int, int]
    reading: Reading = field(default_factory=Reading)

    @property
    def rgb(self) -> Rgb:
        """Its pixels, uint8 (h, w, 3), not to be written to: those of the last few exemplars are kept."""
        return _read(self.file, self.sha256, self.reading)


@dataclass(frozen=True, slots=True)
class Pool:
    """Exemplars, the most telling first; all are of one data set, of this `fingerprint`, and read as `reading` says.

    `history` records them as a training records its images: what is guided by them has seen them.
    """

    task: TaskSpec
    exemplars: tuple[Exemplar, ...]
    reading: Reading
    fingerprint: str
    history: History


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was written: how many images there were to choose from, what they have and what the pool has by aspect.

    `left_out` counts images that no exemplar may be, by the reason.
    """

    folder: Path
    split: str
    looked: int
    left_out: Mapping[str, int]
    there: Mapping[tuple[str, str], int]
    covered: Mapping[tuple[str, str], int]
    size: int

    @property
    def lacking(self) -> list[tuple[str, str]]:
        """Aspects that images have and no exemplar has."""
        return [aspect for aspect in self.there if not self.covered.get(aspect)]

    def table(self) -> str:
        """What is covered, for the terminal."""
        width = max(len(f"{kind} {name}") for kind, name in self.there)
        lines = [f"{self.folder}: {self.size} of {self.looked} images of {self.split}, each of another group."]
        lines += [f"{n} images are no exemplars: {why}." for why, n in self.left_out.items()]
        lines.append(f"{'images with':{width}}  {'data':>6}  {'pool':>4}")
        for kind, name in self.there:
            both = self.there[kind, name], self.covered.get((kind, name), 0)
            lines.append(f"{f'{kind} {name}':{width}}  {both[0]:6}  {both[1]:4}")
        lacking = ", ".join(f"{kind} {name}" for kind, name in self.lacking)
        lines.append(f"LACKING: {lacking}; a larger --size may have them." if lacking else "Nothing is lacking.")
        return "\n".join(lines)


def write_pool(
    folder: Path, out: Path, size: int = 10, seed: int = 42, split: str = "train", progress: Progress = no_progress
) -> Chosen:
    """Choose so many exemplars from a split (see `place_of`) of a built data set of boxes, and write them into `out`.

    They are chosen so that each class, density, place and size of a thing is shown, then for being like many images; at
    most one of a group. DataError where the data have no boxes, or the split fewer groups than that.
    """
    if size < 1:
        raise DataError(f"A pool of {size} exemplars was asked for; --size is 1 or more.")
    task, head = read_objects(folder), read_head(folder)
    place = "/".join(place_of(head, split))
    looked, left_out = _look(folder, place, task, progress)
    if not any(one.things for one in looked):
        raise DataError(f"{folder}: no image of {place} that an exemplar may be has a box; give another --split.")
    chosen = most_telling(looked, size, seed)
    rows = load_split(folder, place).select([one.number for one in chosen])
    history = record_history(folder, {place: rows})
    with files.staged_folder(out, [folder]) as stage:
        lines = [_line(row, one, stage) for row, one in zip(rows, chosen, strict=True)]
        files.write_text(stage / POOL, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))
        stated = {"name": head["builder"]["name"], "fingerprint": head["fingerprint"], "licence": head["licence"]}
        files.write_json(
            stage / HEAD,
            {
                "format": FORMAT, "task": task.to_dict(), "reading": read_reading(folder).to_dict(),
                "data": stated | {"split": place}, "size": size, "seed": seed,
            },
        )  # fmt: skip
        write_history(stage, history)
    there, covered = counts(looked), counts(chosen)
    ordered = sorted(there, key=lambda aspect: (KINDS.index(aspect[0]), -there[aspect], aspect[1]))
    return Chosen(out, place, len(looked), left_out, {one: there[one] for one in ordered}, covered, size)


def read_pool(path: Path) -> Pool:
    """The pool of a folder, or of the pool.jsonl in it; lines may be left out of that, and descriptions mended.

    DataError names what is wrong: a line that is none, a box outside its image, an image that is not the one that was
    chosen, one of which no record was kept.
    """
    folder = path if path.is_dir() else path.parent
    listed = folder / POOL if path.is_dir() else path
    if not listed.is_file():
        raise DataError(f"{listed} is missing; give what 'hf-inspect data pool' wrote, the folder or its {POOL}.")
    task, reading, fingerprint = _head(folder / HEAD)
    if not (folder / TRAINED_ON).is_file():
        raise DataError(f"{folder} has no {TRAINED_ON}, which keeps evaluations off its images; {_AGAIN}.")
    history = read_history(folder, str(folder))
    texts = [(n, text) for n, text in enumerate(files.read_text(listed).splitlines(), 1) if text.strip()]
    exemplars = tuple(_exemplar(text, f"{listed}, line {n}", folder, task, reading) for n, text in texts)
    if not exemplars:
        raise DataError(f"{listed} holds no exemplar; {_AGAIN}.")
    recorded = {signature[0] for signature in history.signatures}
    for (n, _), one in zip(texts, exemplars, strict=True):
        if one.sha256 not in recorded:
            raise DataError(
                f"{listed}, line {n}: {TRAINED_ON} has no record of {one.source}, so that an evaluation could not "
                f"refuse it; {_AGAIN}."
            )
    for what, values in (("image", [e.sha256 for e in exemplars]), ("group", [e.group for e in exemplars])):
        if len(set(values)) < len(values):
            raise DataError(f"{listed} has several exemplars of one {what}; leave all but one of them out.")
    return Pool(task, exemplars, reading, fingerprint, history)


def write_pool_sheet(pool: Pool, out: Path) -> None:
    """Draw the exemplars with their boxes, in their order, as one PNG."""
    from hf_inspect.tasks.detection import drawn
    from hf_inspect.tasks.heat import png_of

    cells = []
    for number, one in enumerate(pool.exemplars, 1):
        there = [Finding(thing.name, 1.0, thing.box) for thing in one.things]
        picture = png_of(drawn(one.rgb, there, pool.task, 0.0))
        cells.append((picture, f"{number}: {len(there)} things\n{one.source}"))
    sheet.of_images(cells, out, columns=5, side=_SIDE)


@lru_cache(maxsize=_KEPT)
def _read(file: Path, sha256: str, reading: Reading) -> Rgb:
    return images.load(file, reading).rgb


def _look(folder: Path, place: str, task: TaskSpec, progress: Progress) -> tuple[list[Looked], dict[str, int]]:
    """The images of a split that exemplars may be, and how many others there are, by the reason."""
    looked, left_out, n = list[Looked](), dict[str, int](), 0
    total, reading = count(folder, place), read_reading(folder)
    for batch in stream(folder, place, ["image", "group", "objects", "width", "height"], _AT_ONCE):
        fit = []
        for number, row in enumerate(batch, n):
            things = things_of(row["objects"], task.classes)
            if why := _unfit(things):
                left_out[why] = left_out.get(why, 0) + 1
            else:
                fit.append((number, row, things))
        signed = sign_all([row["image"]["bytes"] for _, row, _ in fit], reading)
        looked += [
            Looked(number, row["group"], things, (row["height"], row["width"]), signature.thumb)
            for (number, row, things), signature in zip(fit, signed, strict=True)
        ]
        n += len(batch)
        progress("look at the images", n, total)
    return looked, left_out


def _unfit(things: Sequence[Thing]) -> str:
    """Why an image with these is no exemplar; empty where it is one."""
    if any(thing.crowd for thing in things):
        return "a crowd in them is marked as one, and not thing by thing"
    return f"they have more than {THINGS} things" if len(things) > THINGS else ""


def _line(row: Mapping[str, Any], one: Looked, stage: Path) -> dict[str, Any]:
    """A line of the pool; the image's file is written to the stage."""
    content, source = row["image"]["bytes"], row["image"]["path"]
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{IMAGES}/{sha256}{PurePosixPath(source).suffix.lower()}"
    files.write_bytes(stage / name, content)
    objects = [
        {"label": thing.name, "box": list(thing.box)}
        | ({"description": thing.description} if thing.description else {})
        for thing in one.things
    ]
    values = (name, sha256, source, one.group, one.size[1], one.size[0], objects)
    return dict(zip(_KEYS, values, strict=True))


def _head(path: Path) -> tuple[TaskSpec, Reading, str]:
    """Task, reading and the data's fingerprint."""
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("data"), dict):
        raise DataError(f"{path} is of no pool of this version; {_AGAIN}.")
    task = TaskSpec.from_dict(value.get("task"), path)
    if not task.finds:
        raise DataError(f"{path}: exemplars show where things are, and this task is {task}; {_AGAIN}.")
    return task, Reading.from_dict(value.get("reading"), path), str(value["data"].get("fingerprint"))


def _exemplar(text: str, where: str, folder: Path, task: TaskSpec, reading: Reading) -> Exemplar:
    """The exemplar of a line; DataError names `where` it stands."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); {_AGAIN}.") from None
    if not isinstance(value, dict) or set(value) != set(_KEYS) or not isinstance(value["objects"], list):
        raise DataError(f"{where} is no exemplar, which has {', '.join(_KEYS)}; {_AGAIN}.")
    if not (isinstance(value["source"], str) and isinstance(value["group"], int)):
        raise DataError(
            f"{where}: source {value['source']!r} and group {value['group']!r}; a text and a number are wanted."
        )
    file, size = _image(value, where, folder)
    things = tuple(_things(value["objects"], where, size, task))
    return Exemplar(file, value["sha256"], value["source"], value["group"], things, size, reading)


def _image(value: Mapping[str, Any], where: str, folder: Path) -> tuple[Path, tuple[int, int]]:
    """A line's image file, checked to be the one that was chosen, and its height and width."""
    name = value["image"]
    if not isinstance(name, str) or name != f"{IMAGES}/{PurePosixPath(name).name}":
        raise DataError(f"{where}: the image {name!r} does not lie in {IMAGES}/ of the pool's folder; {_AGAIN}.")
    content = images.read(folder / name)
    if hashlib.sha256(content).hexdigest() != value["sha256"]:
        raise DataError(f"{where}: {name} is not the image that was chosen, its SHA-256 is another; {_AGAIN}.")
    _, width, height = images.header(content)
    if (width, height) != (value["width"], value["height"]):
        raise DataError(
            f"{where} says that {name} has {value['width']} x {value['height']} pixels, and it has {width} x {height}; "
            f"{_AGAIN}."
        )
    return folder / name, (height, width)


def _things(objects: Sequence[Any], where: str, size: tuple[int, int], task: TaskSpec) -> Iterator[Thing]:
    """The things of a line, each checked."""
    height, width = size
    for number, one in enumerate(objects, 1):
        if not isinstance(one, dict) or not {"label", "box"} <= set(one) <= {"label", "box", "description"}:
            raise DataError(f"{where}: object {number} is {one!r}; label, box and maybe description are wanted.")
        if one["label"] not in task.classes:
            raise DataError(f"{where}: object {number} is a {one['label']!r}; there are {', '.join(task.classes)}.")
        try:
            found = Finding.from_dict({"class": one["label"], "score": 1.0, **one})
            inside = len(found.box) == 4 and found.box[2] <= width and found.box[3] <= height
        except (DataError, ValueError):
            inside = False
        said = one.get("description", "")
        if not inside or not isinstance(said, str):
            raise DataError(
                f"{where}: object {number} has the box {one['box']!r} and the description {said!r}; wanted are x0, y0, "
                f"x1, y1 with area inside {width} x {height} pixels, and a text."
            )
        yield Thing(found.name, found.box, description=said)
