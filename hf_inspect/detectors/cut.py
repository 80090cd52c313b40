"""A split of a built data set in tiles: rows of their own to learn from, and what was found in them joined again.

Where images are cut, and how findings are joined, says `tasks.tiles`, which the runtime reads as well.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_inspect import data as sets
from hf_inspect.detectors.augment import LEAST_SHARE, LEAST_SIDE, Sample, opened, sample_of, settled
from hf_inspect.images import Rgb
from hf_inspect.metrics.findings import Shown
from hf_inspect.schema import Finding, TaskSpec
from hf_inspect.tasks.detection import Decoding
from hf_inspect.tasks.tiles import Tile, Tiles, merged

if TYPE_CHECKING:
    import datasets

Rows = Mapping[str, Sequence[Any]]


class Cut:
    """The tiles of a split's images, image after image, as a data set for a Trainer: each is a row of its image.

    Besides the image's columns a row has its `tile` and the `number` of its image. `transform` gets rows as those of a
    `datasets.Dataset` do, one at a time. `places` are the numbers and tiles of all rows.
    """

    def __init__(self, rows: "datasets.Dataset", tiles: Tiles, transform: Callable[[Rows], Rows] | None = None) -> None:
        self.rows, self.tiles, self._transform = rows, tiles, transform
        sizes = zip(rows["height"], rows["width"], strict=True)
        self.places: list[tuple[int, Tile]] = [(i, tile) for i, size in enumerate(sizes) for tile in tiles.of(*size)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> dict[str, Any]:
        number, tile = self.places[i]
        row = self.rows[number] | {"tile": tile, "number": number}
        if self._transform is None:
            return row
        return {name: values[0] for name, values in self._transform({k: [v] for k, v in row.items()}).items()}

    def showing(self) -> list[int]:
        """Numbers of the rows that a thing is learned from."""
        return [i for i, shares in enumerate(self._shares()) if any(shares)]

    def __str__(self) -> str:
        """How many tiles there are, and what is not learned of the things that they cut."""
        seen, rests = Counter[tuple[int, int]](), 0
        for (number, _), shares in zip(self.places, self._shares(), strict=True):
            seen.update((number, thing) for thing, learned in enumerate(shares) if learned)
            rests += sum(learned is False for learned in shares)
        things = sum(not crowd for objects in self.rows["objects"] for crowd in objects["iscrowd"])
        return (
            f"cut into {len(self)} tiles of {self.tiles.side} pixels that share {self.tiles.overlap:.0%}: "
            f"{len(self.showing())} show something, {rests} times less than {LEAST_SHARE:.0%} of a thing, which is not "
            f"learned there, and {things - len(seen)} of {things} things are so large that no tile shows as much"
        )

    def _shares(self) -> Iterator[list[bool | None]]:
        """Of each row whether its tile shows enough of each thing of the image, by its box; None: nothing of it."""
        every = self.rows["objects"][:]
        for number, tile in self.places:
            objects, found = every[number], list[bool | None]()
            for box, crowd in zip(objects["bbox"], objects["iscrowd"], strict=True):
                wide, high = min(box[2], tile[2]) - max(box[0], tile[0]), min(box[3], tile[3]) - max(box[1], tile[1])
                if crowd or min(wide, high) <= 0:
                    found.append(None)
                    continue
                share = wide * high / ((box[2] - box[0]) * (box[3] - box[1]))
                found.append(min(wide, high) >= LEAST_SIDE and share >= LEAST_SHARE)
            yield found


def sample_in(rgb: Rgb, objects: Mapping[str, Any], ids: Sequence[int], tile: Tile) -> Sample:
    """What a tile shows of an image and its `objects`, as `sample_of` has it of the whole.

    Boxes end where the tile does, or with what is left of their masks. Things are dropped of which less than
    `LEAST_SHARE` or `LEAST_SIDE` is left, as where augmentation cuts them.
    """
    from torchvision.transforms.v2 import functional as F

    left, top, right, bottom = tile
    boxes = enumerate(objects["bbox"])
    near = [i for i, (x0, y0, x1, y1) in boxes if x0 < right and x1 > left and y0 < bottom and y1 > top]
    before = opened(sample_of(rgb, {name: [values[i] for i in near] for name, values in objects.items()}, ids))
    moved = ("image", "boxes", "masks", "corners")
    shown = {name: F.crop(before[name], top, left, bottom - top, right - left) for name in moved}
    return settled(before, before | shown)


def shown_in_tiles(
    batches: Iterator[tuple[Sequence[Sequence[int]], Sequence[Sequence[Finding]]]],
    cut: Cut,
    task: TaskSpec,
    decoding: Decoding,
) -> list[Shown]:
    """What the images of a split show, and what was found in all of their tiles.

    A batch holds, of each tile, its place (the number of its image and x0, y0, x1, y1) and its findings.
    """
    found: dict[int, dict[Tile, Sequence[Finding]]] = defaultdict(dict)
    for places, answers in batches:
        for (number, *tile), findings in zip(places, answers, strict=True):
            x0, y0, x1, y1 = tile
            found[number][x0, y0, x1, y1] = findings
    names, shown = list(cut.rows.features["objects"]["category"].feature.names), []
    for number, row in enumerate(cut.rows.select_columns(["height", "width", "objects"])):
        own = cut.tiles.of(row["height"], row["width"])
        said = merged([found[number][tile] for tile in own], own, task, decoding)
        shown.append(Shown(row["height"], row["width"], sets.things_of(row["objects"], names), said.findings or ()))
    return shown
