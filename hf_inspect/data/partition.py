"""Examined images -> rows with a split and a config; no group is ever in two places."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_inspect.data.examine import Examined
from hf_inspect.data.hashing import Signature
from hf_inspect.data.joining import pairs_in
from hf_inspect.errors import DataError
from hf_inspect.schema import Sample, TaskSpec

SPLITS = ("train", "validation", "calibration", "test")
DEFAULT = "default"
OBJECTS = "objects"  # the column of what an image shows: boxes, classes, polygons
MAX_GROUP_SHARE = 0.05  # above it the grouping has chained unrelated images, or the set is mostly one photo


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a data set with its place in it."""

    sample: Sample
    signature: Signature
    group: int
    split: str
    config: str = DEFAULT
    mask_sha256: str | None = None
    mask_turn: int = 1  # EXIF orientation that the mask is turned by to fit its image

    def to_manifest(self) -> dict[str, Any]:
        """The row as manifest.json keeps it; a default config, a missing mask and missing objects are left out."""
        content = {"source": self.sample.source, "sha256": self.signature.sha256, "phash": self.signature.phash}
        place = {"group": self.group, "split": self.split, "class": self.sample.class_name}
        config = {} if self.config == DEFAULT else {"config": self.config}
        mask = {} if self.mask_sha256 is None else {"mask_sha256": self.mask_sha256}
        return content | place | config | mask | self._objects()

    def _objects(self) -> dict[str, str]:
        """SHA-256 of the image's boxes, classes and polygons: other annotations make another data set."""
        if OBJECTS not in self.sample.columns:
            return {}
        content = json.dumps(self.sample.columns[OBJECTS], sort_keys=True)
        return {"objects_sha256": hashlib.sha256(content.encode()).hexdigest()}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a data set's images go, in the order of the source, and what its reader must be told.

    `left_out` says why an image (by its source) has no row; `accounts` are of what else the raw data hold, such as
    annotations, as `accounting.account` makes them. `objects` names the classes of the things that images show, and
    which of them are good, where the rows have a column of them.
    """

    rows: list[Row]
    notes: list[str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    objects: TaskSpec | None = None


def row_of(image: Examined, group: int, split: str, config: str = DEFAULT) -> Row:
    """The row of an examined image."""
    return Row(image.sample, image.signature, group, split, config, image.mask_sha256, image.mask_turn)


def partition(examined: Sequence[Examined], groups: Sequence[int], shares: Mapping[str, float], seed: int) -> list[Row]:
    """Split images by group, stratified by `Sample.stratum`; a group's split depends on what images there are, and on
    `seed`, not on their order or names.

    `shares` gives each split's share of the groups, summing to 1. DataError when there is nothing to split or a
    share is off, or one group holds more than 5 % of the images.
    """
    if not examined or abs(sum(shares.values()) - 1) > 1e-9:
        raise DataError(f"{len(examined)} images and shares {dict(shares)}; give images, and shares that sum to 1.")
    check_largest(examined, groups)
    in_order = sorted(range(len(examined)), key=lambda i: examined[i].signature.sha256)
    strata = [examined[i].sample.stratum for i in in_order]
    split = stratified_group_split(strata, [groups[i] for i in in_order], shares, seed)
    return [row_of(image, g, split[g]) for image, g in zip(examined, groups, strict=True)]


def check_largest(examined: Sequence[Examined], groups: Sequence[int]) -> None:
    """DataError, which names pairs, when one group holds more than 5 % of the images."""
    name, size = Counter(groups).most_common(1)[0]
    if size > max(1, MAX_GROUP_SHARE * len(groups)):
        members = [image for image, g in zip(examined, groups, strict=True) if g == name]
        raise DataError(
            f"one group joins {size} of {len(groups)} images, above {MAX_GROUP_SHARE:.0%}; they would all land in one "
            f"split: {pairs_in(members)}. Remove the repeats; or, if these are different parts before a fixed camera, "
            "build with --near strict, which joins images only where their grain agrees too, or with a --group-rule "
            "that finds the part in the file name."
        )


def stratified_group_split(
    strata: Sequence[str], groups: Sequence[int], shares: Mapping[str, float], seed: int
) -> dict[int, str]:
    """Give whole groups to splits: each as likely to go to a split as its share says, whatever its stratum and size.

    Groups stand in a line, stratum by stratum, large ones first, at random where nothing else says. Turns that keep to
    the shares along any stretch of it are dealt out, from a random place on: strata are met to a group or two, and what
    one rounds off goes on into the next. `strata`, `groups` are of the same n images; returns each group's split.
    """
    members = Counter(groups)
    inside: dict[int, Counter[str]] = defaultdict(Counter)
    for g, stratum in zip(groups, strata, strict=True):
        inside[g][stratum] += 1
    by_stratum: dict[str, list[int]] = defaultdict(list)
    for g, counted in inside.items():  # a mixed group goes with its majority
        by_stratum[counted.most_common(1)[0][0]].append(g)
    shuffled, line = random.Random(seed), list[int]()
    for stratum in shuffled.sample(sorted(by_stratum), len(by_stratum)):
        names = shuffled.sample(by_stratum[stratum], len(by_stratum[stratum]))
        line += sorted(names, key=members.__getitem__, reverse=True)
    turns, first = _turns(shares, len(line)), shuffled.randrange(len(line))
    return dict(zip(line, turns[first:] + turns[:first], strict=True))


def absent(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Names of the strata and classes of which calibration, or test, where there is such a split, has no image."""
    kinds = {split: _kinds(row for row in rows if row.split == split) for split in ("calibration", "test")}
    every = _kinds(rows)
    return {split: sorted(every - own) for split, own in kinds.items() if own}


def _kinds(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows for name in (row.sample.stratum, str(row.sample.class_name))}


def _turns(shares: Mapping[str, float], n: int) -> list[str]:
    """n names of splits, each turn that of the split which is owed most; no split is ever owed as much as two turns."""
    owed, turns = dict.fromkeys(shares, 0.0), []
    for _ in range(n):
        owed = {split: due + shares[split] for split, due in owed.items()}
        turns.append(max(owed, key=owed.__getitem__))
        owed[turns[-1]] -= 1
    return turns
