"""A built data folder -> its rows and its manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data.build import MANIFEST, shards
from hf_inspect.data.partition import SPLITS
from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import datasets


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a built data folder."""
    return files.read_json(folder / MANIFEST)


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


def load_split(folder: Path, split: str) -> "datasets.Dataset":
    """One split (see `place_of`) of a built data folder; its image column holds undecoded files: {"bytes", "path"}."""
    import datasets

    manifest = read_manifest(folder)
    config, name = place_of(manifest, split)
    paths = [str(path) for path in shards(folder, config, name)]
    rows = datasets.load_dataset("parquet", data_files={name: paths}, split=name)
    stated = manifest["counts"][config][name]
    if len(rows) != sum(stated.values()):
        raise DataError(f"{folder}: {split} holds {len(rows)} rows, its manifest {stated}; build it again.")
    return rows.cast_column("image", datasets.Image(decode=False))
