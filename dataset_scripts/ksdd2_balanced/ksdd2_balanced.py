"""KolektorSDD2, one good part for each defect in `balanced`, and the published train and test in `original`."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.licence import Licence
from hf_inspect.data.partition import Placement, partition, row_of
from hf_inspect.data.published import across_published_split
from hf_inspect.data.raw.sources import Inventory, Raw, relative, walk
from hf_inspect.data.shares import parse_shares
from hf_inspect.errors import DataError
from hf_inspect.schema import DEFECT, GOOD, Sample

IMAGES = {"train": 2331, "test": 1004}
URL = "https://www.vicos.si/resources/kolektorsdd2/"
MASK = "_GT"  # 10000.png has its mask in 10000_GT.png
WHOLE = "0/0/0/100"  # all of `balanced` is for testing what was trained elsewhere
ALONE_NOTE = "`balanced` is split, to train on too; `original` would show its images in other splits, and is left out."
NOT_SAMPLED = "good ones beyond one for each defect"
VIEWS_NOTE = "`balanced` shows images of `original`: test on it only what was not trained on `original`."


@dataclass(frozen=True)
class Options:
    """Seed of the random good parts, and of the split where there is one.

    `shares`: percent of train/validation/calibration/test that `balanced` is split into, by group.
    """

    seed: int = 1234
    shares: str = WHOLE


class Ksdd2Balanced(InspectionBuilder):
    """A part is a defect where any pixel of its mask is marked."""

    VERSION = datasets.Version("1.1.0")
    LICENCE = Licence(
        "CC-BY-NC-SA-4.0",
        commercial=False,
        url=URL,
        citation="Bozic, Tabernik, Skocaj, Mixed supervision for surface-defect detection: from weakly to fully "
        "supervised learning, Computers in Industry 129 (2021)",
    )
    OPTIONS = Options
    COLUMNS: ClassVar = {"mask": datasets.Image(), "original_split": datasets.Value("string")}
    CONFIGS: ClassVar = {"balanced": ("balanced",), "original": ("original",)}
    EVALUATION = ("balanced", "test")
    VIEWS = True

    @classmethod
    def read(cls, src: Path | None, options: Options) -> Raw:
        """Every image of train/ and test/, by number; DataError when one is missing, empty or without masks."""
        if src is None:
            raise DataError(f"KSDD2 is built from its download: get it from {URL} and give it as --src.")
        for split in IMAGES:
            if not (src / split).is_dir():
                raise DataError(f"{src} has no folder {split}/; give the folder that holds KSDD2's train/ and test/.")
        inventory = walk(src)
        return Raw(inventory, [sample for split in IMAGES for sample in _samples(inventory, split)])

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """All defects and as many good ones in `balanced`; every image in `original`, where it was published."""
        if options.shares != WHOLE:
            chosen, notes = _chosen(examined, options.seed)
            kept, theirs = [examined[i] for i in chosen], [groups[i] for i in chosen]
            rows = partition(kept, theirs, parse_shares(options.shares), options.seed)
            others = {image.sample.source for image in examined} - {image.sample.source for image in kept}
            balanced = [replace(row, config="balanced") for row in rows]
            return Placement(balanced, [ALONE_NOTE, *notes], dict.fromkeys(others, NOT_SAMPLED))
        pairs = list(zip(examined, groups, strict=True))
        original = [row_of(image, g, image.sample.columns["original_split"], "original") for image, g in pairs]
        chosen, notes = _chosen(examined, options.seed)
        balanced = [row_of(*pairs[i], "test", "balanced") for i in chosen]
        total = sum(IMAGES.values())
        if len(examined) != total:
            notes.append(f"{len(examined):,} of KSDD2's {total:,} images are here.")
        return Placement(balanced + original, [VIEWS_NOTE, *notes, *across_published_split(original)])


def _samples(inventory: Inventory, split: str) -> list[Sample]:
    """The samples of one published split; whatever has no mask beside it is rejected when it is read."""
    src, folder = inventory.root, inventory.root / split
    inside = [p for p in inventory.images() if p.parent == folder and p.suffix == ".png"]
    paths = [p for p in inside if not p.stem.endswith(MASK)]
    masks = [folder / f"{path.stem}{MASK}.png" for path in paths]
    if not any(mask.is_file() for mask in masks):
        raise DataError(f"{folder} has no image with its mask beside it (10000.png, 10000_GT.png); extract it again.")
    return [
        Sample(relative(path, src), path, None, f"published {split}", {"original_split": split}, mask)
        for path, mask in zip(paths, masks, strict=True)
    ]


def _chosen(examined: Sequence[Examined], seed: int) -> tuple[list[int], list[str]]:
    """Indices of all defects and as many good parts at random, in order, and a note when there are fewer of those."""
    defects = [i for i, image in enumerate(examined) if image.sample.class_name == DEFECT]
    goods = [i for i, image in enumerate(examined) if image.sample.class_name == GOOD]
    if not defects or not goods:
        raise DataError(f"{len(goods)} good and {len(defects)} defect images; `balanced` needs some of each.")
    sampled = random.Random(seed).sample(goods, min(len(goods), len(defects)))
    few = f"`balanced` has {len(sampled)} good images for {len(defects)} defects: there are no more."
    return sorted(defects + sampled), [few] if len(sampled) < len(defects) else []


BUILDER = Ksdd2Balanced
