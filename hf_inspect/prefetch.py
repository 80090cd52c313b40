"""What is made next while the caller uses what was made before, one by one or as many as have come meanwhile."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
_LEAVES = 1.0  # seconds a reader is given to end: one that waits for its source ends with the source's next item


def prefetched(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`make` of each item, in order; a thread makes the next one while the caller uses this one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            following = pool.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def as_they_come(make: Callable[[Item], Made], items: Iterable[Item], most: int) -> Iterator[list[Made]]:
    """`make` of each item, in order, in lists of 1 to `most`.

    Of a list or tuple each list but the last is full. Any other source is read by a thread, at most `most` ahead, and
    each list holds what has come by then: nobody waits for more. Each item is made before the next one is asked for,
    since a source may use its memory or its file again. What `items` or `make` raises comes after all that was made.
    """
    made = map(make, items)
    if isinstance(items, list | tuple):
        yield from _full(made, most)
        return
    reader = _Reader(made, most)
    try:
        yield from reader.lists()
    finally:
        reader.stop()


def _full(made: Iterator[Made], most: int) -> Iterator[list[Made]]:
    while True:
        some: list[Made] = []
        error = None
        try:
            some.extend(islice(made, most))  # what came before an error is kept
        except Exception as raised:
            error = raised
        if some:
            yield some
        if error is not None:
            raise error
        if len(some) < most:
            return


class _Reader(Generic[Made]):
    """A thread that reads an iterator, at most `most` ahead, until the iterator ends or raises, or it is stopped."""

    def __init__(self, source: Iterator[Made], most: int) -> None:
        self._come: deque[Made] = deque()
        self._most, self._ended, self._stopped = most, False, False
        self._changed = Condition()  # guards all of these
        self._error: BaseException | None = None
        self._thread = Thread(target=self._read, args=(source,), daemon=True, name="hf_inspect source")
        self._thread.start()

    def lists(self) -> Iterator[list[Made]]:
        """What has come since the last list, one item or more; then the source's error, if that is how it ended."""
        while some := self._taken():
            yield some
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let the thread end; one whose source waits for its next item ends when that comes."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(_LEAVES)

    def _taken(self) -> list[Made]:
        """All that is there, as soon as that is anything; nothing once the source has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._come or self._ended)
            some = list(self._come)
            self._come.clear()
            self._changed.notify_all()
        return some

    def _read(self, source: Iterator[Made]) -> None:
        try:
            for made in source:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._come) < self._most or self._stopped)
                    if self._stopped:
                        return
                    self._come.append(made)
                    self._changed.notify_all()
        except BaseException as error:  # the caller's to see, whatever it is
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
