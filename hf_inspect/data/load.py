"""A built data folder -> its rows and its manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data.build import MANIFEST
from hf_inspect.data.partition import SPLITS
from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import datasets


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a built data folder."""
    return files.read_json(folder / MANIFEST)


def load_split(folder: Path, split: str) -> "datasets.Dataset":
    """One split of a built data folder; its image column holds undecoded files: {"bytes", "path"}."""
    import datasets

    counts = read_manifest(folder)["counts"]
    if split not in counts:
        raise DataError(f"{folder} has no split {split!r}; it has {', '.join(s for s in SPLITS if s in counts)}.")
    shards = sorted(str(path) for path in (folder / "data").glob(f"*-{split}*.parquet"))
    rows = datasets.load_dataset("parquet", data_files={split: shards}, split=split)
    if len(rows) != sum(counts[split].values()):
        raise DataError(f"{folder}: {split} holds {len(rows)} rows, its manifest {counts[split]}; build it again.")
    return rows.cast_column("image", datasets.Image(decode=False))
