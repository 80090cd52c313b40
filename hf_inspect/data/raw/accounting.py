"""What lay in a raw folder, and where each thing went: taken as what, or left out and why; nothing is in neither."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hf_inspect.console import shown
from hf_inspect.data.raw.sources import Raw, is_image
from hf_inspect.images import header

REJECTED = "images that cannot be used"  # `rejected` in the manifest says why, one by one
CONFLICT = "images of which another class has the same bytes"
UNPLACED = "images that no split takes"
MASK_LEFT = "masks of images that are left out"
NO_PLACE = "images outside the places where this data set has them"
HIDDEN = "hidden files"
NO_SUFFIX = "no images by their suffix: "  # and the suffix
BY_CONTENT = "images by their content, not by their suffix: "  # and the suffix
_NAMED = 10  # things that the manifest names of each kind
_SAID = 3  # and the terminal and the card
_HEAD = 1 << 16  # bytes that tell a format

Thing = TypeVar("Thing", bound=Hashable)


def account(there: Mapping[Thing, str], taken: Mapping[Thing, str], left_out: Mapping[Thing, str]) -> dict[str, Any]:
    """Counts of all that was `there` (thing -> name): `taken` by what as, `left_out` by why, with the first names.

    Taken and left out together are what was there: RuntimeError where a thing is in both or in neither.
    """
    if taken.keys() & left_out.keys() or taken.keys() | left_out.keys() != there.keys():
        raise RuntimeError(f"{len(there)} things, of which {len(taken)} are taken and {len(left_out)} are left out")
    by_reason: dict[str, list[str]] = defaultdict(list)
    for thing, name in there.items():
        if thing in left_out:
            by_reason[left_out[thing]].append(name)
    return {
        "there": len(there),
        "taken": dict(Counter(taken.values())),
        "left_out": {reason: {"n": len(names), "first": names[:_NAMED]} for reason, names in by_reason.items()},
    }


def of_files(raw: Raw, taken: Collection[str], why: Mapping[str, str]) -> dict[str, Any]:
    """The account of all files of a raw folder; `taken` and `why` (it is not) name samples by their source."""
    used: dict[Path, str] = dict.fromkeys(raw.records, "annotation files")
    reasons = dict(raw.left_out)
    for sample in raw.samples:
        if sample.source in taken:
            used |= {sample.path: "images"} | ({sample.mask: "masks"} if sample.mask else {})
    for sample in (sample for sample in raw.samples if sample.source not in taken):
        reasons |= {sample.path: why.get(sample.source, UNPLACED)} | ({sample.mask: MASK_LEFT} if sample.mask else {})
    there = raw.inventory.names()
    left = {path: reasons.get(path) or _by_name(path, raw) for path in there if path not in used}
    return account(there, used, left)


def lines(accounting: Mapping[str, Mapping[str, Any]], shown: Callable[[str], str] = str) -> list[str]:
    """What a manifest's accounting says, a line for each kind left out; `shown` writes a name.

    `12 files skipped: 10 .txt, 2 .xml`, then `3 files left out, hidden files: .a, .b, .c`.
    """
    said = []
    for things, one in accounting.items():
        suffixes = {r.removeprefix(NO_SUFFIX): n["n"] for r, n in one["left_out"].items() if r.startswith(NO_SUFFIX)}
        if suffixes:
            listed = ", ".join(f"{n} {shown(suffix)}" for suffix, n in sorted(suffixes.items()))
            said.append(f"{_count(sum(suffixes.values()), things)} skipped: {listed}")
        for reason, found in one["left_out"].items():
            if not reason.startswith(NO_SUFFIX):
                names = ", ".join(map(shown, found["first"][:_SAID])) + (", ..." if found["n"] > _SAID else "")
                said.append(f"{_count(found['n'], things)} left out, {shown(reason)}: {names}")
    return said


def totals(accounting: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each kind of thing: how many there were, and how many of them were taken as what and left out."""
    return [
        f"{_count(one['there'], things)} there: "
        + "".join(f"{n} taken as {kind}, " for kind, n in one["taken"].items())
        + f"{sum(found['n'] for found in one['left_out'].values())} left out"
        for things, one in accounting.items()
    ]


def noted(kinds: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each kind of thing to know, of pairs (kind, name): how many there are and which come first."""
    where: dict[str, list[str]] = defaultdict(list)
    for kind, name in kinds:
        where[kind].append(name)
    return [f"{len(names)} {kind}: {first_of(names)}." for kind, names in where.items()]


def first_of(names: Sequence[str], n: int = _NAMED) -> str:
    """The first names of a list, each on one line, and whether there are others."""
    return ", ".join(map(shown, names[:n])) + (" and others" if len(names) > n else "")


def _by_name(path: Path, raw: Raw) -> str:
    """Why a file that no sample is made of is left out, by what it is called, and by its content where that lies."""
    if path in raw.inventory.odd:
        return raw.inventory.odd[path]
    if raw.inventory.is_hidden(path):
        return HIDDEN
    if is_image(path):
        return NO_PLACE
    return (BY_CONTENT if _shows_an_image(path) else NO_SUFFIX) + (path.suffix.lower() or "no suffix")


def _shows_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return bool(header(file.read(_HEAD))[0])
    except OSError:
        return False


def _count(n: int, things: str) -> str:
    return f"{n} {things if n != 1 else things.removesuffix('s')}"
