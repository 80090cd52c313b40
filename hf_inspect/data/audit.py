"""Built data sets -> which images are, exactly or nearly, in two places, by name; and a contact sheet of the pairs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_inspect.data.build import shards
from hf_inspect.data.hashing import Signature, sign_all
from hf_inspect.data.load import read_manifest, read_reading, refuse_chat, shard_rows
from hf_inspect.data.near import duplicates, stricter
from hf_inspect.data.partition import DEFAULT
from hf_inspect.data.rules import Near, evidence
from hf_inspect.data.sheet import of_pairs, thumbnail
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress, no_progress

Kind = Literal["crossing", "view", "inside"]
_SAID = {"crossing": "crosses", "view": "shown twice on purpose", "inside": "same split"}
_KEPT = 1000  # pairs of each kind that are kept by name: a film's frames make millions
_PRINTED = 20  # pairs of each kind that the table names
_ON_SHEET = 100
_ROWS_AT_ONCE = 32  # images in memory at a time


@dataclass(frozen=True, slots=True)
class Place:
    """A split of a built data set: `folder` as it was given."""

    folder: str
    config: str
    split: str

    def __str__(self) -> str:
        return f"{self.folder} {self.split}" if self.config == DEFAULT else f"{self.folder} {self.config}/{self.split}"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pairs of images with one in `a`, the other in `b`: `exact` have equal SHA-256, `near` only look the same.

    `rule` is the stricter of the two data sets' `--near`, by which these were compared.
    """

    a: Place
    b: Place
    exact: int
    near: int
    kind: Kind
    rule: Near


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that are the same picture, by the names their manifests give them."""

    a: Place
    source_a: str
    b: Place
    source_b: str
    exact: bool
    kind: Kind

    def __str__(self) -> str:
        return f"{self.a}: {self.source_a} {'=' if self.exact else '~'} {self.b}: {self.source_b}"


@dataclass(frozen=True, slots=True)
class Audit:
    """What `audit` found. `overlaps` counts every pair; `pairs` names at most 1,000 of each kind."""

    images: int
    places: int
    overlaps: tuple[Overlap, ...]
    pairs: tuple[Pair, ...]

    @property
    def crossing(self) -> tuple[Pair, ...]:
        """Pairs across two splits or two data sets, other than `views`."""
        return self._of("crossing")

    @property
    def views(self) -> tuple[Pair, ...]:
        """Pairs across two configs of a data set whose manifest says that its configs show the same images."""
        return self._of("view")

    @property
    def inside(self) -> tuple[Pair, ...]:
        """Pairs within one split."""
        return self._of("inside")

    def table(self) -> str:
        """The overlaps as a text table, and the first pairs of each kind by name."""
        head = ("place A", "place B", "exact", "near", "--near", "")
        rows = [(str(o.a), str(o.b), f"{o.exact:,}", f"{o.near:,}", o.rule, _SAID[o.kind]) for o in self.overlaps]
        a, b, exact, near, rule = (max(len(row[n]) for row in [head, *rows]) for n in range(5))
        table = [
            f"{r[0]:{a}}  {r[1]:{b}}  {r[2]:>{exact}}  {r[3]:>{near}}  {r[4]:{rule}}  {r[5]}".rstrip()
            for r in [head, *rows]
        ]
        count = {kind: sum(o.exact + o.near for o in self.overlaps if o.kind == kind) for kind in _SAID}
        lines = [f"{self.images:,} images in {self.places} places: {count['crossing']:,} pairs cross a split or a set."]
        lines += table if rows else []
        for kind, said in _SAID.items():
            named = self._of(kind)[:_PRINTED]
            lines += [f"{said}:", *(f"  {pair}" for pair in named)] if named else []
            lines += [f"  ... and {count[kind] - len(named):,} more"] if count[kind] > len(named) else []
        return "\n".join(lines)

    def _of(self, kind: str) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.kind == kind)


def audit(folders: Sequence[Path], sheet: Path | None = None, progress: Progress = no_progress) -> Audit:
    """Compare every image of built data sets with every other; `sheet` is a PNG to write of the first 100 pairs.

    Two images are compared by the stricter of the rules that their data sets were built under.
    DataError when a folder was not built by this package, or holds other images than its manifest lists.
    """
    manifests = {str(folder): read_manifest(folder) for folder in folders}
    places = [place for folder, manifest in manifests.items() for place in _places(folder, manifest)]
    signatures, sources, at = _signed(places, manifests, progress)
    rules = [evidence(manifests[place.folder]["builder"]) for place in places]
    i, j = duplicates(signatures, near=[rules[n] for n in at.tolist()]).T
    exact = np.array([s.sha256 for s in signatures], "S64")
    same = exact[i] == exact[j]
    kinds = [[_kind(a, b, manifests) for b in places] for a in places]
    kept = _kept(at[i], at[j], kinds)
    pairs = [
        Pair(places[at[p]], sources[p], places[at[q]], sources[q], bool(equal), kinds[at[p]][at[q]])
        for p, q, equal in zip(i[kept].tolist(), j[kept].tolist(), same[kept], strict=True)
    ]
    if sheet is not None:
        _draw(sheet, places, pairs[:_ON_SHEET], i[kept], j[kept])
    return Audit(len(signatures), len(places), _overlaps(at[i], at[j], same, places, kinds, rules), tuple(pairs))


def _places(folder: str, manifest: Mapping[str, Any]) -> list[Place]:
    if not isinstance(manifest, Mapping) or not {"counts", "images"} <= set(manifest):
        raise DataError(f"{folder} is no data set that `hf-inspect data build` wrote; audit what it was made from.")
    refuse_chat(folder, manifest)
    return [Place(folder, config, split) for config, splits in manifest["counts"].items() for split in splits]


def _signed(
    places: Sequence[Place], manifests: Mapping[str, Mapping[str, Any]], progress: Progress
) -> tuple[list[Signature], list[str], NDArray[np.int64]]:
    """Signature, manifest name and place (an index) of every image, place by place."""
    signatures: list[Signature] = []
    sources: list[str] = []
    at: list[int] = []
    total = sum(len(manifest["images"]) for manifest in manifests.values())
    for number, place in enumerate(places):
        listed = _listed(place, manifests[place.folder])
        reading = read_reading(Path(place.folder))
        for contents in _batches(place):
            signed = sign_all(contents, reading)
            sources += [_name(listed, signature, place) for signature in signed]
            signatures += signed
            at += [number] * len(signed)
            progress("read and sign", len(signatures), total)
        if any(listed.values()):
            raise _stale(place)
    return signatures, sources, np.array(at, np.int64)


def _batches(place: Place) -> Iterator[list[bytes]]:
    """The files of a place's images, some at a time."""
    for path in shards(Path(place.folder), place.config, place.split):
        for rows in shard_rows(path, ["image"], _ROWS_AT_ONCE):
            yield [row["image"]["bytes"] for row in rows]


def _listed(place: Place, manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of a place's images by SHA-256, the last first."""
    listed: dict[str, list[str]] = defaultdict(list)
    for row in reversed(manifest["images"]):
        if (row.get("config", DEFAULT), row["split"]) == (place.config, place.split):
            listed[row["sha256"]].append(row["source"])
    return listed


def _name(listed: Mapping[str, list[str]], signature: Signature, place: Place) -> str:
    if not listed.get(signature.sha256):
        raise _stale(place)
    return listed[signature.sha256].pop()


def _stale(place: Place) -> DataError:
    return DataError(f"{place} holds other images than its manifest lists; build {place.folder} again.")


def _kind(a: Place, b: Place, manifests: Mapping[str, Mapping[str, Any]]) -> Kind:
    if a == b:
        return "inside"
    views = a.folder == b.folder and a.config != b.config and manifests[a.folder].get("views", False)
    return "view" if views else "crossing"


def _kept(a: NDArray[np.int64], b: NDArray[np.int64], kinds: Sequence[Sequence[Kind]]) -> NDArray[np.int64]:
    """Which pairs are kept by name: the first 1,000 of each kind, those that cross first."""
    kind = np.array(kinds)[a, b] if len(a) else np.empty(0, str)
    return np.concatenate([np.flatnonzero(kind == one)[:_KEPT] for one in _SAID])


def _overlaps(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    same: NDArray[np.bool_],
    places: Sequence[Place],
    kinds: Sequence[Sequence[Kind]],
    rules: Sequence[Near],
) -> tuple[Overlap, ...]:
    """One for every two places that share a picture; those that cross first."""
    both, inverse = np.unique(np.stack([a, b], axis=1), axis=0, return_inverse=True)
    exact = np.bincount(inverse, weights=same, minlength=len(both)).astype(int)
    total = np.bincount(inverse, minlength=len(both))
    rows = zip(both.tolist(), exact.tolist(), (total - exact).tolist(), strict=True)
    found = [
        Overlap(places[p], places[q], equal, near, kinds[p][q], stricter(rules[p], rules[q]))
        for (p, q), equal, near in rows
    ]
    return tuple(sorted(found, key=lambda overlap: list(_SAID).index(overlap.kind)))


def _draw(
    sheet: Path, places: Sequence[Place], pairs: Sequence[Pair], i: NDArray[np.int64], j: NDArray[np.int64]
) -> None:
    """Write the contact sheet of the pairs; image n is the n-th that the places' Parquet holds."""
    wanted = {*i[: len(pairs)].tolist(), *j[: len(pairs)].tolist()}
    shown = (
        (content, reading)
        for place in places
        for reading in [read_reading(Path(place.folder))]
        for batch in _batches(place)
        for content in batch
    )
    small = {n: thumbnail(content, reading=reading) for n, (content, reading) in enumerate(shown) if n in wanted}
    rows = [
        (small[p], f"{pair.a}\n{pair.source_a}", small[q], f"{pair.b}\n{pair.source_b}")
        for pair, p, q in zip(pairs, i.tolist(), j.tolist(), strict=False)
    ]
    of_pairs(rows, sheet)
