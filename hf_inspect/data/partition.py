"""Samples -> signed, grouped and split rows; no group is ever in two splits."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_inspect.data.hashing import Signature, group, sign
from hf_inspect.errors import DataError
from hf_inspect.schema import Sample

SPLITS = ("train", "validation", "calibration", "test")
MAX_GROUP_SHARE = 0.05  # above it the grouping has chained unrelated images, or the set is mostly one photo


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a data set with its place in it."""

    sample: Sample
    signature: Signature
    group: int
    split: str

    def to_manifest(self) -> dict[str, Any]:
        """The row as manifest.json keeps it."""
        content = {"source": self.sample.source, "sha256": self.signature.sha256, "phash": self.signature.phash}
        return content | {"group": self.group, "split": self.split, "label": self.sample.label}


def partition(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> list[Row]:
    """Sign, group and split samples by group, stratified by `Sample.stratum`; same arguments, same rows.

    `shares` gives each split's share of the images, summing to 1. DataError when there is nothing to split, a
    share is off, or one group holds more than 5 % of the images.
    """
    if not samples or abs(sum(shares.values()) - 1) > 1e-9:
        raise DataError(f"{len(samples)} images and shares {dict(shares)}; give images, and shares that sum to 1.")
    signatures = [sign(sample.read()) for sample in samples]
    groups = group(signatures).tolist()
    _check_largest(groups)
    split = _split_groups([s.stratum for s in samples], groups, shares, seed)
    rows = zip(samples, signatures, groups, strict=True)
    return [Row(sample, signature, g, split[g]) for sample, signature, g in rows]


def _check_largest(groups: Sequence[int]) -> None:
    name, size = Counter(groups).most_common(1)[0]
    if size > max(1, MAX_GROUP_SHARE * len(groups)):
        raise DataError(
            f"group {name} joins {size} of {len(groups)} images as near-duplicates, above {MAX_GROUP_SHARE:.0%}; "
            "they would all land in one split. Remove the repeats, or split the images by part before building."
        )


def _split_groups(
    strata: Sequence[str], groups: Sequence[int], shares: Mapping[str, float], seed: int
) -> dict[int, str]:
    """Deal whole groups to splits, stratum by stratum, always to the split that lacks most of its share."""
    members = Counter(groups)
    inside: dict[int, Counter[str]] = defaultdict(Counter)
    for g, stratum in zip(groups, strata, strict=True):
        inside[g][stratum] += 1
    by_stratum: dict[str, list[int]] = defaultdict(list)
    for g, counted in inside.items():  # a mixed group goes with its majority
        by_stratum[counted.most_common(1)[0][0]].append(g)
    deal = random.Random(seed)
    placed: dict[int, str] = {}
    for stratum in sorted(by_stratum):
        names = by_stratum[stratum]
        deal.shuffle(names)
        names.sort(key=members.__getitem__, reverse=True)  # large groups first: small ones even out the rest
        wanted = {split: share * sum(members[g] for g in names) for split, share in shares.items()}
        for g in names:
            split = max(wanted, key=wanted.__getitem__)
            wanted[split] -= members[g]
            placed[g] = split
    return placed
