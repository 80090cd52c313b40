"""Work on many images at once, of which one may fail: what it breaks is not its neighbours'."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hf_inspect.errors import DataError, ForkError, ServerError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_LONGEST = 200  # letters of what a failure is told in


def each(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], failed: Callable[[Item, Exception], Answer]
) -> list[Answer]:
    """`work` of all items at once; where it raises, of each half, down to the one item that only `failed` answers.

    Memory may suffice for half a batch. ForkError and ServerError are of no single item, and are raised.
    """
    if not items:
        return []
    try:
        found = work(items)
        if len(found) != len(items):
            raise DataError(f"{len(found)} answers came for {len(items)} images")
        return found
    except (ForkError, ServerError):
        raise
    except Exception as error:
        if len(items) == 1:
            return [failed(items[0], error)]
    half = len(items) // 2  # out here, where the error no longer holds the memory of what failed
    return each(work, items[:half], failed) + each(work, items[half:], failed)


def reason(error: Exception) -> str:
    """An exception on one line, its kind first: `OutOfMemoryError: tried to allocate 2 GiB`."""
    said = " ".join(str(error).split())
    why = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return why if len(why) <= _LONGEST else why[: _LONGEST - 1] + "…"
