"""Train dealt into folds, one of which stands for calibration: parts that models of the same recipes have not seen.

A build with `--fold 1/2` keeps validation, trains on the other folds, and leaves its own calibration and test out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from hf_inspect.data.partition import Placement, stratified_group_split
from hf_inspect.data.rules import fold_of
from hf_inspect.errors import DataError

TRAIN, VALIDATION, HELD_OUT = "train", "validation", "calibration"
NOT_OF_FOLD = "images of calibration and test, which a fold does not have"
_SEED = 0


def held_out(placement: Placement, fold: str) -> Placement:
    """A placement's train and validation, with the groups of a `fold` (`1/2`) of train under calibration.

    DataError where train has fewer groups than there are folds.
    """
    train = [row for row in placement.rows if row.split == TRAIN]
    images = ((row.signature.sha256, str(row.sample.class_name), row.group) for row in train)
    split = _splits(images, fold)
    kept = [row for row in placement.rows if row.split in (TRAIN, VALIDATION)]
    rows = [replace(row, split=split[row.group]) if row.split == TRAIN else row for row in kept]
    there = {row.sample.source for row in rows}
    gone = {source: NOT_OF_FOLD for row in placement.rows if (source := row.sample.source) not in there}
    note = f"Fold {fold} of train stands under calibration; what the whole data set has there and in test is left out."
    return replace(placement, rows=rows, left_out={**placement.left_out, **gone}, notes=[*placement.notes, note])


def images_of_fold(images: Sequence[dict[str, Any]], fold: str) -> list[dict[str, Any]]:
    """The rows that the manifest of a fold has, of the `images` that the whole data set's has."""
    split = _splits(((one["sha256"], one["class"], one["group"]) for one in images if one["split"] == TRAIN), fold)
    return [
        {**one, "split": split[one["group"]] if one["split"] == TRAIN else one["split"]}
        for one in images
        if one["split"] in (TRAIN, VALIDATION)
    ]


def _splits(images: Iterable[tuple[str, str, int]], fold: str) -> dict[int, str]:
    """The split of each group of train, whose images are given as (SHA-256, class, group); in any order."""
    number, k = fold_of(fold)
    in_order = sorted(images)
    groups = [group for _, _, group in in_order]
    if len(set(groups)) < k:
        raise DataError(f"--fold {fold}: train has {len(set(groups))} groups; give fewer folds, or more images.")
    shares = {str(i): 1 / k for i in range(1, k + 1)}
    dealt = stratified_group_split([name for _, name, _ in in_order], groups, shares, _SEED)
    return {group: HELD_OUT if own == str(number) else TRAIN for group, own in dealt.items()}
