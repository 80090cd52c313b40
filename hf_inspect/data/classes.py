"""Which column of a built data set's rows holds the class, and the class ids of a task in them."""

from typing import TYPE_CHECKING

from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, TaskSpec

if TYPE_CHECKING:
    import datasets

LABEL = "label"  # whether the image is good or a defect: in every built data set
CLASS_NAME = "class_name"


def class_column(task: TaskSpec) -> str:
    """The column that holds a row's class: `label` where the classes are good and defect, else `class_name`."""
    return LABEL if task.same_as(BINARY) else CLASS_NAME


def class_ids(rows: "datasets.Dataset", task: TaskSpec) -> list[int]:
    """Position in `task.classes` of each row's class, by name, whatever the column's own order.

    DataError when the rows have no such column, or it has a class that is not of the task.
    """
    column = class_column(task)
    names = getattr(rows.features.get(column), "names", None)
    if names is None:
        raise DataError(f"the rows have no column {column!r} of classes, which {task} needs; build the data set again.")
    ids = [task.index(name) for name in names]
    return [ids[own] for own in rows[column]]
