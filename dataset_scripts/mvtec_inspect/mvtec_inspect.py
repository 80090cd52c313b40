"""MVTec AD as one binary partition: `sft` to learn from and `holdout` to test on, which cannot overlap."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.partition import Placement, row_of, stratified_group_split
from hf_inspect.data.published import MVTEC_LICENCE, mvtec_columns, read_mvtec, what_is_missing
from hf_inspect.data.raw.sources import Raw
from hf_inspect.errors import DataError
from hf_inspect.schema import DEFECT, GOOD

BEYOND = "test images beyond the number asked for"
VALIDATION = 0.1  # of what `sft` holds


@dataclass(frozen=True)
class Options:
    """Seed, size of the holdout by class, and the share of the official test defects that is learnt from.

    `calibration_share` of what `sft` holds is kept for a cascade's thresholds: its good parts are official training
    images, which an official test need not resemble.
    """

    seed: int = 2025
    n_good: int = 500
    n_defect: int = 500
    defect_train_ratio: float = 0.5
    calibration_share: float = 0.0

    def __post_init__(self) -> None:
        if min(self.n_good, self.n_defect) < 1:
            raise DataError(f"a holdout of {self.n_good} good and {self.n_defect} defect; give 1 or more of each.")
        if not 0 <= self.defect_train_ratio < 1:
            raise DataError(f"--defect-train-ratio {self.defect_train_ratio} leaves no holdout; give one in [0, 1).")
        if not 0 <= self.calibration_share <= 0.5:
            raise DataError(f"--calibration-share {self.calibration_share} leaves too little; give one in [0, 0.5].")


class MvtecInspect(InspectionBuilder):
    """Keeps groups whole: what lies near a training image is learnt from or left out, never tested on."""

    VERSION = datasets.Version("1.1.0")
    LICENCE = MVTEC_LICENCE
    OPTIONS = Options
    COLUMNS: ClassVar = mvtec_columns()
    CONFIGS: ClassVar = {"sft": ("sft",), "holdout": ("holdout",)}
    EVALUATION = ("holdout", "test")

    @classmethod
    def read(cls, src: Path | None, options: Options) -> Raw:
        """The whole data set's folder, or one category's."""
        return read_mvtec(src)

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """Groups of training images and of the defects to learn from to `sft`; `holdout` is sampled from the rest."""
        official = {g for image, g in zip(examined, groups, strict=True) if _is_training(image)}
        learnt = _learnt(examined, groups, official, options)
        sft = [
            i
            for i, image in enumerate(examined)
            if _is_training(image) or (image.sample.class_name == DEFECT and groups[i] in learnt)
        ]
        free = [i for i, g in enumerate(groups) if g not in official and g not in learnt]
        holdout, notes = _holdout(examined, free, options)
        strata = [f"{examined[i].sample.columns['category']} {examined[i].sample.class_name}" for i in sft]
        shares = {"validation": VALIDATION, "calibration": options.calibration_share}
        shares = {"train": 1 - sum(shares.values())} | {name: share for name, share in shares.items() if share}
        split = stratified_group_split(strata, [groups[i] for i in sft], shares, options.seed)
        place = {i: (split[groups[i]], "sft") for i in sft} | dict.fromkeys(holdout, ("test", "holdout"))
        rows = [row_of(examined[i], groups[i], *place[i]) for i in sorted(place)]
        aside = sorted(set(range(len(examined))) - set(place))
        why = {examined[i].sample.source: _why(groups[i], official, learnt) for i in aside}
        return Placement(rows, what_is_missing(examined) + notes, why)


def _is_training(image: Examined) -> bool:
    return image.sample.columns["original_split"] == "train"


def _learnt(examined: Sequence[Examined], groups: Sequence[int], official: set[int], options: Options) -> set[int]:
    """Groups whose defects are learnt from: the share asked for, type by type, those near training images first.

    What a type rounds off is made up for by the next, so that the share holds over all of them.
    """
    defects: dict[int, Counter[str]] = defaultdict(Counter)
    for image, g in zip(examined, groups, strict=True):
        if image.sample.class_name == DEFECT:
            defects[g][image.sample.stratum] += 1
    by_type: dict[str, list[int]] = defaultdict(list)
    for g, counted in defects.items():  # a group of several types goes with its majority
        by_type[counted.most_common(1)[0][0]].append(g)
    shuffled, learnt, taken, wanted = random.Random(options.seed), set(), 0, 0.0
    for _, names in sorted(by_type.items()):
        shuffled.shuffle(names)
        wanted += options.defect_train_ratio * sum(defects[g].total() for g in names)
        for g in sorted(names, key=lambda g: g not in official):
            if taken + defects[g].total() / 2 <= wanted:
                learnt.add(g)
                taken += defects[g].total()
    return learnt


def _holdout(examined: Sequence[Examined], free: Sequence[int], options: Options) -> tuple[list[int], list[str]]:
    """Indices of the holdout, sampled from the `free` ones, and a note for each class that falls short."""
    sampled: list[int] = []
    notes = []
    for name, asked in ((GOOD, options.n_good), (DEFECT, options.n_defect)):
        strata: dict[str, list[int]] = defaultdict(list)
        for i in free:
            if examined[i].sample.class_name == name:
                strata[examined[i].sample.stratum].append(i)
        found = _in_turn(strata, random.Random(f"{options.seed} {name}"))[:asked]
        if not found:
            raise DataError(f"no {name} test image is left for the holdout; give more images or learn from fewer.")
        if len(found) < asked:
            notes.append(f"The holdout has {len(found)} {name} images, {asked} were asked for: there are no more.")
        sampled += found
    return sampled, notes


def _in_turn(strata: Mapping[str, Sequence[int]], shuffled: random.Random) -> list[int]:
    """All indices, one of each stratum in turn; strata and what is inside them in random order."""
    names = shuffled.sample(sorted(strata), len(strata))
    turns = [
        (turn, place, i)
        for place, name in enumerate(names)
        for turn, i in enumerate(shuffled.sample(strata[name], len(strata[name])))
    ]
    return [i for _, _, i in sorted(turns)]


def _why(group: int, official: set[int], learnt: set[int]) -> str:
    """Why an official test image of that group is in neither config."""
    if group in official:
        return "near-duplicates of official training images"
    return "good ones near defects that are learnt from" if group in learnt else BEYOND


BUILDER = MvtecInspect
