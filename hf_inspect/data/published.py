"""Data sets with a split of their own: MVTec AD's layout -> samples; and what a reader must know of such a split."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hf_inspect.data.examine import Examined
from hf_inspect.data.licence import Licence
from hf_inspect.data.partition import SPLITS, Row, partition, row_of
from hf_inspect.data.raw.sources import Raw, relative, walk
from hf_inspect.data.shares import parse_shares
from hf_inspect.errors import DataError
from hf_inspect.schema import DEFECT, GOOD, Sample

MVTEC_CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
MVTEC_IMAGES = 5354  # 3,629 for training, 467 good and 1,258 defective ones to test on
MVTEC_URL = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
MVTEC_LICENCE = Licence(
    "CC-BY-NC-SA-4.0",
    commercial=False,
    url=MVTEC_URL,
    citation="Bergmann, Fauser, Sattlegger, Steger, A Comprehensive Real-World Dataset for Unsupervised Anomaly "
    "Detection, CVPR (2019)",
)


@dataclass(frozen=True, slots=True)
class GivenSplit(Sample):
    """A sample that its folder, or its JSON, gives a split: one of `partition.SPLITS`, None where there is none."""

    split: str | None = None


class SplitOptions(Protocol):
    """What the options of a data set say that may come with a split."""

    @property
    def seed(self) -> int:
        """Of a split that is dealt anew."""
        ...

    @property
    def shares(self) -> str:
        """Percent of train/validation/calibration/test, of a split that is dealt anew."""
        ...

    @property
    def splits(self) -> str:
        """`redeal` or `keep`."""
        ...


def check_splits(options: SplitOptions, shares: str) -> None:
    """DataError where the options' `splits` are not known, or kept while shares other than the default are given."""
    if options.splits not in ("redeal", "keep"):
        raise DataError(f"--splits {options.splits} is not known; use redeal or keep.")
    if options.splits == "keep" and options.shares != shares:
        raise DataError(f"--splits keep leaves nothing to share out as {options.shares}; leave out --shares.")


def told_of_splits(given: Collection[str | None], splits: str) -> list[str]:
    """A note on what becomes of the splits that the raw data come with; DataError where there are none to keep."""
    named = [split for split in SPLITS if split in given]
    if splits == "keep":
        if len(named) < 2:
            raise DataError("--splits keep: the raw data come without splits; leave it out, and they are dealt.")
        lacking = [split for split in SPLITS if split not in named]
        without = f"; there is no {' and no '.join(lacking)}, as --splits redeal would deal" if lacking else ""
        return [f"The splits are those that the raw data came with: {', '.join(named)}{without}."]
    dealt = "were put together and dealt anew by group; --splits keep keeps them"
    return [f"The splits that the raw data came with ({', '.join(named)}) {dealt}."] if len(named) > 1 else []


def given_or_dealt(examined: Sequence[Examined], groups: Sequence[int], options: SplitOptions) -> list[Row]:
    """Rows in the splits that their samples are given, or dealt by group with the options' shares and seed."""
    if options.splits != "keep":
        return partition(examined, groups, parse_shares(options.shares), options.seed)
    pairs = zip(examined, groups, strict=True)
    return [row_of(image, g, str(getattr(image.sample, "split", None))) for image, g in pairs]


def mvtec_columns() -> dict[str, Any]:
    """Features of an image's place in MVTec AD, and its mask."""
    import datasets

    names = ("category", "defect_type", "original_split")
    return {"mask": datasets.Image(), **{name: datasets.Value("string") for name in names}}


def read_mvtec(src: Path | None) -> Raw:
    """Every image of MVTec AD's folder, or of one category's, by category and path; columns of its place in it.

    DataError on a wrong root, a category that is none of the 15 or lacks its folders or all of its masks, and an
    image where MVTec AD has none. Nothing is decoded.
    """
    root, folders = _category_folders(src)
    inventory = walk(root)
    images = inventory.images()
    return Raw(inventory, [sample for folder in folders for sample in _category(folder, images)])


def what_is_missing(examined: Sequence[Examined]) -> list[str]:
    """A note when these are not all images of MVTec AD, none when they are."""
    if len(examined) == MVTEC_IMAGES:
        return []
    categories = {image.sample.columns["category"] for image in examined}
    return [
        f"{len(examined):,} of MVTec AD's {MVTEC_IMAGES:,} images are here, from {len(categories)} of its "
        f"{len(MVTEC_CATEGORIES)} categories."
    ]


def across_published_split(rows: Sequence[Row]) -> list[str]:
    """A note when near-duplicates lie on both sides of a split that is kept as it came."""
    splits: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    crossing = [row for row in rows if len(splits[row.group]) > 1]
    if not crossing:
        return []
    n, test = len({row.group for row in crossing}), sum(row.split == "test" for row in crossing)
    return [
        f"{test} test images are near-duplicates of training images ({n} groups): the published split is kept as it "
        "is, so a model trained on train has seen them."
    ]


def _category_folders(src: Path | None) -> tuple[Path, list[Path]]:
    """The raw folder, and the folders of the categories found: itself, or those inside it."""
    if src is None:
        raise DataError(f"MVTec AD is built from its download: get it from {MVTEC_URL} and give it as --src.")
    root = src.absolute()
    if not root.is_dir():
        raise DataError(f"{src} is no folder; give MVTec AD's folder, one category's, or the archive.")
    found = [root] if _looks_like_one(root) else [p for p in sorted(root.iterdir()) if _is_meant(p)]
    if not found:
        raise DataError(f"{src} holds no category of MVTec AD ({', '.join(MVTEC_CATEGORIES)}); give the folder above.")
    for folder in found:
        _check_category(folder)
    return root, found


def _looks_like_one(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() and (folder / "test").is_dir()


def _is_meant(folder: Path) -> bool:
    return folder.is_dir() and (folder.name in MVTEC_CATEGORIES or _looks_like_one(folder))


def _check_category(folder: Path) -> None:
    if folder.name not in MVTEC_CATEGORIES:
        raise DataError(
            f"{folder.name} is no category of MVTec AD ({', '.join(MVTEC_CATEGORIES)}); give the folder its name "
            "back, or build parts of your own with `folder`."
        )
    if not _looks_like_one(folder):
        raise DataError(f"{folder.name} has no train/good and test folders; extract its archive again.")


def _category(folder: Path, images: Sequence[Path]) -> Iterator[Sample]:
    """The category's samples, training images first; DataError when none of its defects has a mask."""
    paths = [path for split in ("train", "test") for path in images if path.is_relative_to(folder / split)]
    samples = [_sample(path, folder) for path in paths]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    if masks and not any(mask.is_file() for mask in masks):
        raise DataError(
            f"{folder.name} has no masks: ground_truth/ holds none for its {len(masks)} defects; extract the whole "
            "archive."
        )
    yield from samples


def _sample(path: Path, folder: Path) -> Sample:
    """The sample of <split>/<defect type>/<name>; a defect's mask is where it should be, whether it is there or not."""
    split, *between, _ = path.relative_to(folder).parts
    if len(between) != 1 or (split == "train" and between != ["good"]):
        raise DataError(
            f"{relative(path, folder.parent)} is out of place: MVTec AD has images in train/good/ and "
            "test/<defect type>/ only; move it there, or away."
        )
    kind, category = between[0], folder.name
    mask = None if kind == "good" else folder / "ground_truth" / kind / f"{path.stem}_mask.png"
    columns = {"category": category, "defect_type": kind, "original_split": split}
    class_name = GOOD if kind == "good" else DEFECT
    return Sample(relative(path, folder.parent), path, class_name, f"{category} {kind}", columns, mask)
