"""A built data set's evaluation split as folders: val/good, val/defect and a list of each."""

from collections.abc import Sequence
from pathlib import Path

from hf_inspect import files
from hf_inspect.data.partition import Row
from hf_inspect.schema import DEFECT, GOOD, TaskSpec

_LONGEST = 200  # bytes of a name; file systems take 255


def write_folders(folder: Path, name: str, rows: Sequence[Row], task: TaskSpec) -> None:
    """Copy the rows' images to val/<good or defect>/ and list each's in splits/<name>_good.txt, a path a line.

    A file is called by its number among the rows and its place in the source (`007_grid_test_bent_000.png`): the number
    alone tells it from every other, on any disk.
    """
    digits = len(str(len(rows)))
    paths: dict[str, list[str]] = {GOOD: [], DEFECT: []}
    for number, row in enumerate(rows, 1):
        disposition = task.disposition(str(row.sample.class_name))
        path = folder / "val" / disposition / f"{number:0{digits}}_{_flat(row.sample.source)}"
        files.write_bytes(path, row.sample.read())
        paths[disposition].append(path.relative_to(folder).as_posix())
    for label, of_label in paths.items():
        files.write_text(folder / "splits" / f"{name}_{label}.txt", "".join(f"{path}\n" for path in of_label))


def _flat(source: str) -> str:
    """A path as one name, on one line, its middle left out where it is long."""
    name = "".join(one if one.isprintable() and one != "/" else "_" for one in source)
    content, half = name.encode(), _LONGEST // 2
    return name if len(content) <= _LONGEST else (content[:half] + b"..." + content[-half:]).decode(errors="ignore")
