"""The user's own parts in class folders: `good`, `scratch`, `dent`, ... -> a class each, split by group."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.partition import Placement, partition
from hf_inspect.data.shares import parse_shares
from hf_inspect.data.sources import images_in, relative
from hf_inspect.errors import DataError
from hf_inspect.schema import Sample, TaskSpec


@dataclass(frozen=True)
class Options:
    """Which folders hold good parts, and how the images are split and joined.

    `good`: names of folders, separated by commas, in any case; or one name, its own commas and all. `shares`: percent
    of train/validation/calibration/test. `group_rule`: a regular expression whose group 1, found in the file name,
    names the part.
    """

    good: str = "good,ok,clean,normal"
    seed: int = 0
    shares: str = "55/10/15/20"
    group_rule: str | None = None
    license: str = "other"


class Folder(InspectionBuilder):
    """A class for each folder, called like it; those named as good are good, all others defects."""

    VERSION = datasets.Version("1.1.0")
    LICENCE = None
    OPTIONS = Options

    @classmethod
    def read(cls, src: Path | None, options: Options) -> list[Sample]:
        """Every image below each class folder; DataError when there are none, or none of them is a good one."""
        if src is None or not src.is_dir():
            raise DataError(f"folder needs a folder of class folders as --src, got {src}.")
        paths = images_in(src)
        depth = _class_depth([path.relative_to(src).parts for path in paths], src)
        samples = [_sample(path, src, depth) for path in paths]
        if not cls.task(samples, options).good:
            named = ", ".join(sorted({sample.stratum for sample in samples}))
            raise DataError(f"none of the folders {named} is named as good ({options.good}); say which with --good.")
        return samples

    @classmethod
    def task(cls, samples: Sequence[Sample], options: Options) -> TaskSpec:
        """The classes that have images, sorted by name."""
        names = sorted({sample.stratum for sample in samples})
        said = unicodedata.normalize("NFC", options.good).lower()
        good = {name.strip() for name in said.split(",")} if said not in map(str.lower, names) else {said}
        return TaskSpec.of(names, [name for name in names if name.lower() in good])

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """The option's shares, by group."""
        return Placement(partition(examined, groups, parse_shares(options.shares), options.seed), [])


def _class_depth(files: Sequence[tuple[str, ...]], src: Path) -> int:
    """How many folders lie around the class folders: those that are all there is on their level, without images."""
    if not files or any(len(parts) == 1 for parts in files):
        raise DataError(
            f"{src} is no folder of class folders; put each image into a folder of its class, side by side."
        )
    depth = 0
    while len({parts[depth] for parts in files}) == 1 and all(len(parts) > depth + 2 for parts in files):
        depth += 1
    return depth


def _sample(path: Path, src: Path, depth: int) -> Sample:
    """The sample of a file in a class folder, whose name is spelt alike whichever system it comes from."""
    source = relative(path, src)
    name = unicodedata.normalize("NFC", source.split("/")[depth])
    return Sample(source, path, name, name)


BUILDER = Folder
