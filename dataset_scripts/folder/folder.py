"""The user's own parts in class folders: `good`, `scratch`, `dent`, ... -> a class each, split by group or as given."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.partition import Placement
from hf_inspect.data.published import GivenSplit, across_published_split, check_splits, given_or_dealt, told_of_splits
from hf_inspect.data.raw.accounting import first_of
from hf_inspect.data.raw.exports import tool_of
from hf_inspect.data.raw.goods import USUAL, check_good, good_of, same_but_for_case
from hf_inspect.data.raw.layouts import Layout, read_layout
from hf_inspect.data.raw.sources import Inventory, Raw, relative, walk
from hf_inspect.errors import DataError
from hf_inspect.schema import TaskSpec


@dataclass(frozen=True)
class Options:
    """Which folders hold good parts, and how the images are split and joined.

    `good`: names of folders in any case, separated by commas; one with commas of its own alone, or in double quotes;
    `--good` may be repeated. `splits`: whether folders called train, val and test around the class folders are dealt
    anew (redeal) or kept. `shares`: percent of train/validation/calibration/test. `group_rule`: a regular expression
    whose group 1 names the part: found in the file name, or, where it holds a '/', in the path below the raw folder.
    """

    good: str = field(default=USUAL, metadata={"repeated": True})
    seed: int = 0
    shares: str = "55/10/15/20"
    splits: str = "redeal"
    group_rule: str | None = None
    license: str = "other"

    def __post_init__(self) -> None:
        check_splits(self, Options.shares)


class Folder(InspectionBuilder):
    """A class for each folder, called like it; those named as good are good, all others defects."""

    VERSION = datasets.Version("1.2.0")
    LICENCE = None
    OPTIONS = Options

    @classmethod
    def read(cls, src: Path | None, options: Options) -> Raw:
        """Every image below each class folder; DataError for another layout, or when none of the folders is good."""
        if src is None or not src.is_dir():
            raise DataError(f"folder needs a folder of class folders as --src, got {src}.")
        inventory = walk(src)
        layout = _layout(inventory)
        samples = [_sample(path, src, layout) for path in layout.images]
        _check_classes(sorted({sample.stratum for sample in samples}), layout, src, options)
        notes = told_of_splits({sample.split for sample in samples}, options.splits)
        return Raw(inventory, samples, left_out=layout.masks, notes=notes)

    @classmethod
    def task(cls, samples: Sequence[GivenSplit], options: Options) -> TaskSpec:
        """The classes that have images, sorted by name."""
        names = sorted({sample.stratum for sample in samples})
        return TaskSpec.of(names, good_of(options.good, names))

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """The option's shares, by group, or the splits of the folders."""
        rows = given_or_dealt(examined, groups, options)
        return Placement(rows, across_published_split(rows))


def _layout(inventory: Inventory) -> Layout:
    try:
        return read_layout(inventory)
    except DataError as error:
        if export := tool_of(inventory):
            raise DataError(export) from None
        raise error


def _check_classes(names: Sequence[str], layout: Layout, src: Path, options: Options) -> None:
    """DataError where two classes are called alike, none is good, or one is said to be that is not there."""
    if alike := same_but_for_case(names):
        raise DataError(f"the folders {' and '.join(alike)} differ in case alone; give them one name, or two.")
    check_good(options.good, names, "folders")
    if good_of(options.good, names):
        return
    below = {name for path in layout.images for name in path.relative_to(src).parts[layout.class_depth + 1 : -1]}
    if good_of(USUAL, sorted(below)):
        raise DataError(
            f"class folders lie deeper, in {first_of(names)}; give one of these as --src, or put the class "
            "folders side by side: good/1.png, scratch/2.png."
        )
    raise DataError(f"none of the folders {first_of(names)} is named as good ({options.good}); say which with --good.")


def _sample(path: Path, src: Path, layout: Layout) -> GivenSplit:
    """The sample of a file in a class folder, whose name is spelt alike whichever system it comes from."""
    parts = path.relative_to(src).parts
    name = unicodedata.normalize("NFC", parts[layout.class_depth])
    return GivenSplit(relative(path, src), path, name, name, split=layout.split_of(parts))


BUILDER = Folder
