"""Solar panels: photos in six class folders, from Kaggle -> clean or one of five faults, split by group."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.licence import Licence
from hf_inspect.data.partition import Placement, partition
from hf_inspect.data.raw.sources import Raw, relative, walk
from hf_inspect.data.shares import parse_shares
from hf_inspect.errors import DataError
from hf_inspect.schema import Sample, TaskSpec

CLASSES = ("Bird-drop", "Clean", "Dusty", "Electrical-damage", "Physical-Damage", "Snow-Covered")
CLEAN = "Clean"
WILD = {"dust": "Dusty", "electrical": "Electrical-damage", "physical": "Physical-Damage"}  # copies of it in the wild
HANDLE = "pythonafroz/solar-panel-images"


@dataclass(frozen=True)
class Options:
    """Seed and shares of the split, a regular expression that joins files by name, and whether Kaggle is asked.

    `shares`: percent of train/validation/calibration/test; a cascade needs a calibration split: 55/10/15/20.
    """

    seed: int = 0
    shares: str = "70/10/0/20"
    group_rule: str | None = None
    download: bool = False


class SolarPanels(InspectionBuilder):
    """Splits by group and stratified by class; a question about an image goes where the image goes."""

    VERSION = datasets.Version("1.1.0")
    LICENCE = Licence("unknown", False, f"https://www.kaggle.com/datasets/{HANDLE}", f"Kaggle data set {HANDLE}")
    OPTIONS = Options

    @classmethod
    def read(cls, src: Path | None, options: Options) -> Raw:
        """Every image below a class folder, wherever that is; DataError for other folders and for a missing class."""
        root = src or _download(options)
        if not root.is_dir():
            raise DataError(f"{root} is no folder; give the folder that holds all six classes.")
        inventory = walk(root)
        samples = [_sample(path, root) for path in inventory.images()]
        found = Counter(sample.stratum for sample in samples)
        if missing := [name for name in CLASSES if not found[name]]:
            raise DataError(
                f"{root} has no images of {', '.join(missing)}; give the folder that holds all six classes."
            )
        return Raw(inventory, samples)

    @classmethod
    def task(cls, samples: Sequence[Sample], options: Options) -> TaskSpec:
        """Six classes, of which the clean panels are good."""
        return TaskSpec.of(CLASSES, [CLEAN])

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """The option's shares, by group; 70/10/20 without a calibration split unless asked for."""
        return Placement(partition(examined, groups, parse_shares(options.shares), options.seed), [])


def class_of(folder: str) -> str | None:
    """The class a folder's name stands for, blind to case, '-', '_' and spaces; None when it stands for none."""
    plain = _plain(folder)
    return {_plain(name): name for name in CLASSES}.get(plain) or WILD.get(plain)


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _sample(path: Path, root: Path) -> Sample:
    source = relative(path, root)
    above = [name for name in map(class_of, source.split("/")[-2::-1]) if name]  # the nearest folder first
    if not above:
        raise DataError(f"{source} is in none of the class folders {', '.join(CLASSES)}; move it to one, or out.")
    return Sample(source, path, above[0], above[0])


def _download(options: Options) -> Path:
    if not options.download:
        raise DataError("solar_panels needs its images: give their folder as --src, or --download to ask Kaggle.")
    try:
        import kagglehub
    except ImportError:
        raise DataError("--download needs kagglehub: pip install 'hf-inspect[kaggle]', or give --src.") from None
    try:
        return Path(kagglehub.dataset_download(HANDLE))
    except Exception as error:  # its own classes, requests' and OSError: none is ours to tell apart
        raise DataError(f"Kaggle gave no {HANDLE} ({error}); check network and proxy, or give --src.") from None


BUILDER = SolarPanels
