"""A built data set's evaluation split as folders: val/good, val/defect and a list of each."""

from collections.abc import Sequence
from pathlib import Path

from hf_inspect import files
from hf_inspect.data.partition import Row
from hf_inspect.schema import DEFECT, GOOD, TaskSpec


def write_folders(folder: Path, name: str, rows: Sequence[Row], task: TaskSpec) -> None:
    """Copy the rows' images to val/<good or defect>/ and list each's in splits/<name>_good.txt, a path a line.

    A file is called by its place in the source (`grid_test_bent_000.png`), so that none overwrites another.
    """
    for disposition in (GOOD, DEFECT):
        paths = []
        for row in (row for row in rows if task.disposition(str(row.sample.class_name)) == disposition):
            path = folder / "val" / disposition / row.sample.source.replace("/", "_")
            files.write_bytes(path, row.sample.read())
            paths.append(path.relative_to(folder).as_posix())
        files.write_text(folder / "splits" / f"{name}_{disposition}.txt", "".join(f"{path}\n" for path in paths))
