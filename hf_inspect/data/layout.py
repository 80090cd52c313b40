"""A built data set's evaluation split as folders: val/good, val/defect and a list of each."""

from collections.abc import Sequence
from pathlib import Path

from hf_inspect import files
from hf_inspect.data.partition import Row
from hf_inspect.schema import LABELS


def write_folders(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Copy the rows' images to val/<label>/ and list them in splits/<name>_<label>.txt, a path a line.

    A file is called by its place in the source (`grid_test_bent_000.png`), so that none overwrites another.
    """
    for label in LABELS:
        paths = []
        for row in (row for row in rows if row.sample.label == label):
            path = folder / "val" / label / row.sample.source.replace("/", "_")
            files.write_bytes(path, row.sample.read())
            paths.append(path.relative_to(folder).as_posix())
        files.write_text(folder / "splits" / f"{name}_{label}.txt", "".join(f"{path}\n" for path in paths))
