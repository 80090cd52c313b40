"""A built data set -> rows of images, prompt, completion, split as it is: Parquet that embeds images, and JSON lines.

What is asked of an image and answered, `chat` and `ground` say. A row lies where its image lies.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hf_inspect import files
from hf_inspect.data.build import shards
from hf_inspect.data.load import shard_rows
from hf_inspect.data.partition import DEFAULT, SPLITS
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress

if TYPE_CHECKING:
    import datasets

_IMAGES_AT_ONCE = 16  # of one Parquet row group, whose dictionary holds the bytes of each once, whatever is asked of it
_DICTIONARY_BYTES = 2**30  # room for them: a smaller limit would write the image again with each question
Made = dict[str, Any]  # a row: `images` holds one {"bytes", "path"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is made of a built row: a data set's name gets `-name`, `columns` of its rows are read.

    `rows` gives the rows of a built row and its image's source, `stored` one of them as Parquet has it.
    """

    name: str
    columns: Sequence[str]
    features: "datasets.Features"
    rows: Callable[[Mapping[str, Any], str], Sequence[Made]]
    stored: Callable[[Made], Made] = dict


@dataclass
class RowWriter:
    """Writes the rows of one split after the other from the built `folder` into `stage`."""

    folder: Path
    stage: Path
    manifest: Mapping[str, Any]
    kind: Kind
    progress: Progress
    done: int = 0

    def write_all(self) -> dict[str, dict[str, int]]:
        """Every split of every config; returns how many rows each has."""
        counts = self.manifest["counts"]
        return {config: {split: self._write(config, split) for split in splits} for config, splits in counts.items()}

    def _write(self, config: str, split: str) -> int:
        """A Parquet file for each of the source's, and one file of JSON lines."""
        images = [one for one in self.manifest["images"] if place_of(one) == (config, split)]
        pending, n = iter(images), 0
        with (self.stage / lines_of(config, split)).open("w", encoding="utf-8") as file:
            for path in shards(self.folder, config, split):
                n += self._shard(path, pending, file)
        if next(pending, None) is not None:
            raise DataError(f"{self.folder}: {split} has fewer rows than manifest.json says; build it again.")
        return n

    def _shard(self, path: Path, pending: Iterator[Mapping[str, Any]], lines: TextIO) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema, n = self.kind.features.arrow_schema, 0
        name = self.manifest["builder"]["name"]
        renamed = path.name.replace(name, f"{name}-{self.kind.name}", 1)
        target = self.stage / path.relative_to(self.folder).with_name(renamed)
        target.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(target, schema, dictionary_pagesize_limit=_DICTIONARY_BYTES) as writer:
            for batch in shard_rows(path, ["image", *self.kind.columns], _IMAGES_AT_ONCE):
                checked = self._checked(batch, pending, path)
                rows = [made for row, source in checked for made in self.kind.rows(row, source)]
                lines.writelines(self._line(row) for row in rows)
                writer.write_table(pa.Table.from_pylist([self.kind.stored(row) for row in rows], schema))
                n += len(rows)
        return n

    def _checked(
        self, batch: Sequence[Mapping[str, Any]], pending: Iterator[Mapping[str, Any]], path: Path
    ) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The batch's rows with their images' sources; DataError where manifest.json says another."""
        for row in batch:
            entry = next(pending, None)
            if entry is None or hashlib.sha256(row["image"]["bytes"]).hexdigest() != entry["sha256"]:
                raise DataError(f"{path} holds other images than manifest.json says; build the data set again.")
            self.done += 1
            self.progress(f"write {self.kind.name} rows", self.done, len(self.manifest["images"]))
            yield row, entry["source"]

    def _line(self, row: Made) -> str:
        """The row as a JSON line; its image is written to images/ with the first row that needs it."""
        image = row["images"][0]
        name = hashlib.sha256(image["bytes"]).hexdigest() + Path(image["path"]).suffix.lower()
        path = self.stage / "images" / name
        if not path.exists():
            files.write_bytes(path, image["bytes"])
        return json.dumps({**row, "images": [f"images/{name}"]}, ensure_ascii=False) + "\n"


def place_of(image: Mapping[str, Any]) -> tuple[str, str]:
    """Config and split of an image of manifest.json."""
    return image.get("config", DEFAULT), image["split"]


def lines_of(config: str, split: str) -> str:
    """The file of JSON lines of a split."""
    return f"{split}.jsonl" if config == DEFAULT else f"{config}-{split}.jsonl"


def message_features() -> "datasets.Features":
    """The columns that every row has: its image, prompt, completion and the image's source."""
    import datasets

    text = datasets.Value("string")
    messages = datasets.List({"role": text, "content": datasets.List({"type": text, "text": text})})
    return datasets.Features(
        {"images": datasets.List(datasets.Image()), "prompt": messages, "completion": messages, "source": text}
    )


def rows_table(manifest: Mapping[str, Any]) -> list[str]:
    """The lines of a card's table: images and rows of each split."""
    table = ["| config | split | images | rows |", "|---|---|---|---|"]
    for config, splits in manifest["rows"].items():
        for split in (split for split in SPLITS if split in splits):
            images = sum(manifest["counts"][config][split].values())
            table.append(f"| {config} | {split} | {images} | {splits[split]} |")
    return table
