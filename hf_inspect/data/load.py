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


def config_of(manifest: dict[str, Any], split: str, config: str | None = None) -> str:
    """The config of a built data set that has `split`: the one asked for, or the only one; else DataError."""
    counts = manifest["counts"]
    having = [name for name in counts if split in counts[name] and config in (None, name)]
    if len(having) == 1:
        return having[0]
    if having:
        raise DataError(f"{len(having)} configs have a split {split!r}; name one of {', '.join(having)}.")
    there = {name: [s for s in SPLITS if s in splits] for name, splits in counts.items()}
    known = "; ".join(f"{name}: {', '.join(splits)}" for name, splits in there.items())
    asked = f"config {config!r}" if config else "config"
    raise DataError(f"no {asked} with a split {split!r}; there is {known}.")


def load_split(folder: Path, split: str, config: str | None = None) -> "datasets.Dataset":
    """One split of a built data folder; its image column holds undecoded files: {"bytes", "path"}.

    `config` may be left out where only one config has such a split.
    """
    import datasets

    manifest = read_manifest(folder)
    config = config_of(manifest, split, config)
    paths = [str(path) for path in shards(folder, config, split)]
    rows = datasets.load_dataset("parquet", data_files={split: paths}, split=split)
    stated = manifest["counts"][config][split]
    if len(rows) != sum(stated.values()):
        raise DataError(f"{folder}: {split} holds {len(rows)} rows, its manifest {stated}; build it again.")
    return rows.cast_column("image", datasets.Image(decode=False))
