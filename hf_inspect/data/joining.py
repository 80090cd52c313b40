"""Examined images -> their groups, and what a reader must know of how they were joined."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_inspect.data.examine import Examined
from hf_inspect.data.hashing import CHECK_BITS
from hf_inspect.data.near import (
    KEPT_APART,
    MAX_CHECK_DISTANCE,
    MAX_DISTANCE,
    MAX_GRAIN_DISTANCE,
    MAX_TURNED_DISTANCE,
    MIN_CORRELATION,
    differences,
    grouped,
)
from hf_inspect.data.rules import Near
from hf_inspect.schema import TaskSpec

LOOKS: dict[Near, str] = {
    "normal": f"at most {MAX_DISTANCE} of 256 bits of a perceptual hash differ (or {MAX_TURNED_DISTANCE} where one is "
    f"turned or mirrored), and there the pixels correlate by {MIN_CORRELATION} or at most {MAX_CHECK_DISTANCE} of "
    f"{CHECK_BITS} check bits differ",
    "strict": f"as by `normal`, and at most {MAX_GRAIN_DISTANCE} of 256 bits of grain differ besides",
    "off": "where the bytes are equal, and not otherwise",
}
FOUND = (  # of benchmarks/duplicates.py; the README of dataset_scripts/ has its table
    "Measured by `normal` on changed copies of 200 solar cells, 30 photos and 80 generated parts: of JPEG from 30 on, "
    "half the size, 20 % brighter or darker, contrast changed by 30 %, noise of 4 grey levels, and of mirrored and "
    "turned copies, 98.5 % and more are found; of copies moved by 4 pixels 0 to 23.3 %; of those cropped by 2.5 % a "
    "side or turned by 3 degrees, and of most changed copies of an even surface, none. `strict` finds the same copies "
    "of photos and parts, moved ones apart, and fewer of smooth pictures: 9.5 % of the cells' copies as JPEG 75."
)
_NAMED = 3  # pairs that a sentence names
_MANY_MIXED = 5  # groups of good parts and defects, from which on a note is written
_SEARCHED = 50  # images of a group among which pairs are looked for: a name or three is all that is wanted


@dataclass(frozen=True, slots=True)
class Joined:
    """Group of each image, numbered by first appearance, and notes."""

    groups: list[int]
    notes: list[str]


def join(examined: Sequence[Examined], keys: Sequence[str | None], near: Near, task: TaskSpec) -> Joined:
    """Groups of copies, near-duplicates by the rule `near`, and images of equal key, where None is no key."""
    found = grouped([image.signature for image in examined], keys, near)
    groups = found.ids.tolist()
    notes = [*_kept_apart(examined, found.apart), *(_mixed(examined, groups, task) if near == "normal" else [])]
    return Joined(groups, notes)


def pairs_in(examined: Sequence[Examined]) -> str:
    """Some pairs of images that were taken for one picture, by name, with how many bits they differ in."""
    pairs, hashes, grain = differences([image.signature for image in examined[:_SEARCHED]])
    named = [
        f"{examined[i].sample.source} and {examined[j].sample.source} ({h} bits of the hash differ, {g} of the grain)"
        for (i, j), h, g in zip(pairs[:_NAMED].tolist(), hashes.tolist(), grain.tolist(), strict=False)
    ]
    return "; ".join(named) if named else ", ".join(image.sample.source for image in examined[:_NAMED])


def _kept_apart(examined: Sequence[Examined], apart: NDArray[np.int64]) -> Iterator[str]:
    """A note where images of two keys look the same."""
    if not len(apart):
        return
    n = f"More than {KEPT_APART:,}" if len(apart) >= KEPT_APART else f"{len(apart):,}"
    named = [f"{examined[i].sample.source} and {examined[j].sample.source}" for i, j in apart[:_NAMED]]
    more = [] if len(apart) <= _NAMED else ["..."]
    yield (
        f"{n} pairs of images that the group rule gives two keys look the same ({', '.join([*named, *more])}): they "
        "were not joined, as the rule has it, and may lie in two splits."
    )


def _mixed(examined: Sequence[Examined], groups: Sequence[int], task: TaskSpec) -> Iterator[str]:
    """A note where most groups of several images hold good parts and defects: so a fixed camera's look."""
    kinds: dict[int, list[str]] = defaultdict(list)
    for image, g in zip(examined, groups, strict=True):
        kinds[g].append(task.disposition(str(image.sample.class_name)))
    several = [found for found in kinds.values() if len(found) > 1]
    mixed = sum(len(set(found)) > 1 for found in several)
    if mixed >= _MANY_MIXED and 2 * mixed > len(several):
        yield (
            f"{mixed} of the {len(several)} groups of images that look the same hold good parts and defects. If these "
            "are different parts before a fixed camera, build with --near strict: it joins images only where "
            f"{MAX_GRAIN_DISTANCE} of 256 bits of their grain differ, or fewer."
        )
