"""A built data folder -> its manifest, its task, and its rows: all of a split for a trainer, or some at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data.build import MANIFEST, shards
from hf_inspect.data.partition import SPLITS
from hf_inspect.errors import DataError
from hf_inspect.metrics.findings import Thing
from hf_inspect.reading import Reading
from hf_inspect.schema import TaskSpec

if TYPE_CHECKING:
    import datasets
    from pyarrow.parquet import ParquetFile

_AT_ONCE = 64  # rows in memory
_IMAGES = '  "images": [\n'  # the line of manifest.json that its images follow


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a built data folder."""
    return files.read_json(folder / MANIFEST)


def read_head(folder: Path) -> dict[str, Any]:
    """manifest.json of a built data folder without its `images`, which are not read: there may be a million."""
    path = folder / MANIFEST
    if not path.is_file():
        return files.read_json(path)
    with path.open(encoding="utf-8") as lines:
        head = "".join(takewhile(lambda line: line != _IMAGES, lines))
    try:
        return json.loads(head.rstrip().removesuffix(",") + "}")
    except ValueError:  # not as `files.write_table` lays it out
        return {key: value for key, value in read_manifest(folder).items() if key != "images"}


def read_task(folder: Path) -> TaskSpec:
    """The classes of a built data folder and which are good; DataError where it was built before it said so."""
    return TaskSpec.from_dict(_head(folder).get("task"), folder / MANIFEST)


def read_objects(folder: Path) -> TaskSpec:
    """The classes of the things that a built data folder's images show; DataError where it says nothing of them."""
    stated = _head(folder).get("objects")
    if stated is None:
        raise DataError(
            f"{folder} says what its images are, and not what they show: it has no boxes. Build one of boxes with "
            "'hf-inspect data build coco'."
        )
    return TaskSpec.from_dict(stated, folder / MANIFEST)


def things_of(objects: Mapping[str, Any], names: Sequence[str]) -> tuple[Thing, ...]:
    """What a row's column of objects holds; its categories are places among the data set's `names`."""
    columns = [objects[key] for key in ("category", "bbox", "polygons", "iscrowd")]
    written = objects.get("description", [""] * len(columns[0]))  # sets built before version 1.5.0 have none
    return tuple(
        Thing(names[kind], tuple(box), tuple(map(tuple, polygons)), crowd, description)
        for kind, box, polygons, crowd, description in zip(*columns, written, strict=True)
    )


def refuse_chat(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """DataError where a folder holds questions and answers on a data set's images, and not the data set."""
    if "rows" in manifest:
        made_from = manifest["builder"]["source_fingerprint"]
        raise DataError(
            f"{folder} holds chat rows; give the data set that they were made from (fingerprint {made_from})."
        )


def read_reading(folder: Path) -> Reading:
    """How the images of a built data folder are to be read."""
    return Reading.from_dict(read_head(folder).get("reading"), folder / MANIFEST)


def place_of(manifest: dict[str, Any], split: str) -> tuple[str, str]:
    """Config and split of a built data set that `split` names: `test`, or `holdout/test`.

    The config may be left out where only one has such a split; DataError where several have, or none.
    """
    counts = manifest["counts"]
    config, _, name = split.rpartition("/")
    having = [known for known in counts if name in counts[known] and config in ("", known)]
    if len(having) == 1:
        return having[0], name
    if having:
        raise DataError(f"several configs have a split {name!r}; name one: {', '.join(f'{c}/{name}' for c in having)}.")
    known = [f"{c}/{s}" if len(counts) > 1 else s for c in counts for s in SPLITS if s in counts[c]]
    raise DataError(f"there is no split {split!r}; there is {', '.join(known)}.")


def count(folder: Path, split: str) -> int:
    """How many images a split (see `place_of`) of a built data folder has, by its manifest."""
    manifest = _head(folder)
    config, name = place_of(manifest, split)
    return sum(manifest["counts"][config][name].values())


def load_split(folder: Path, split: str) -> "datasets.Dataset":
    """One split (see `place_of`) of a built data folder; its image column holds undecoded files: {"bytes", "path"}."""
    import datasets
    from pyarrow.dataset import ParquetFragmentScanOptions

    manifest = _head(folder)
    config, name = place_of(manifest, split)
    paths = [str(path) for path in shards(folder, config, name)]
    scan = ParquetFragmentScanOptions(pre_buffer=False)  # else row groups are read ahead, up to 180 MB of them
    rows = datasets.load_dataset("parquet", data_files={name: paths}, split=name, fragment_scan_options=scan)
    _check_count(folder, split, len(rows), manifest["counts"][config][name])
    return rows.cast_column("image", datasets.Image(decode=False))


def stream(
    folder: Path, split: str, columns: Sequence[str], batch: int = _AT_ONCE, start: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a split (see `place_of`), up to `batch` at a time, straight from Parquet: nothing is kept.

    Those before number `start` are skipped, and hardly read. Images are {"bytes", "path"}, classes are names. DataError
    for a column that is not there, or more or fewer rows than the manifest says.
    """
    import pyarrow.parquet as pq

    manifest = _head(folder)
    config, name = place_of(manifest, split)
    paths = shards(folder, config, name)
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    _check_count(folder, split, sum(sizes), manifest["counts"][config][name])
    for path, size in zip(paths, sizes, strict=True):
        yield from shard_rows(path, columns, batch, start)
        start = max(0, start - size)


def shard_rows(
    path: Path, columns: Sequence[str], batch: int = _AT_ONCE, start: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """The rows of one Parquet file of a built data set, as `stream` gives them."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as shard:
        there = shard.schema_arrow
        if missing := [name for name in columns if name not in there.names]:
            raise DataError(f"{path.name} has no column {missing[0]!r}; it has {', '.join(there.names)}.")
        features = json.loads(there.metadata[b"huggingface"])["info"]["features"]
        classes = {name: features[name]["names"] for name in columns if features[name].get("_type") == "ClassLabel"}
        waiting: list[dict[str, Any]] = []
        for rows in _groups(shard, columns, start):
            waiting += [_named(row, classes) for row in rows]
            while len(waiting) >= batch:
                yield waiting[:batch]
                waiting = waiting[batch:]
        if waiting:
            yield waiting


def _head(folder: Path) -> dict[str, Any]:
    head = read_head(folder)
    refuse_chat(folder, head)
    return head


def _groups(shard: "ParquetFile", columns: Sequence[str], start: int) -> Iterator[list[dict[str, Any]]]:
    """The rows from number `start` on, one row group after the other: `iter_batches` would keep what it has read."""
    for number in range(shard.num_row_groups):
        size = shard.metadata.row_group(number).num_rows
        if start < size:
            yield shard.read_row_group(number, columns=list(columns)).slice(start).to_pylist()
        start = max(0, start - size)


def _named(row: dict[str, Any], classes: dict[str, list[str]]) -> dict[str, Any]:
    return row | {column: names[row[column]] for column, names in classes.items()}


def _check_count(folder: Path, split: str, n: int, stated: dict[str, int]) -> None:
    if n != sum(stated.values()):
        raise DataError(f"{folder}: {split} holds {n} rows, its manifest {stated}; build it again.")
