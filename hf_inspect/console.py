"""What a person reads while a command works: its steps, what came out of each, and a bar on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

_LONGEST = 200  # letters of a name or a value in a sentence


class Steps:
    """The steps of a long command: the name of each as it begins, then what came out of it and how long it took."""

    def __init__(self, of: int, show: Callable[[str], None]) -> None:
        """`of` is how many there will be; `show` is given a line."""
        self.of, self.show, self.begun = of, show, 0

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """A step, within which the function that is yielded is told what came out of it."""
        self.begun += 1
        self.show(f"[{self.begun}/{self.of}] {title}")
        begin, said = perf_counter(), list[str]()
        yield said.append
        indent = " " * len(f"[{self.begun}/{self.of}] ")
        for line in said[:-1]:
            self.show(indent + line)
        self.show(f"{indent}{said[-1] if said else 'done'} ({perf_counter() - begin:.0f} s)")


class Bars:
    """A bar on standard error for every step that counts; silent where that is no terminal."""

    def __enter__(self) -> "Bars":
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: dict[str, Any] = {}
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def of_many(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` images of step `what` are through."""
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total)
        self.bar.update(self.tasks[what], completed=done, total=total)


def plain_lines(text: str) -> str:
    """A text of several lines, each `plain`."""
    return "\n".join(map(plain, text.split("\n")))


def shown(value: object) -> str:
    """A value out of somebody's file as a sentence names it: `plain`, and cut where it is long."""
    text = plain(str(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def plain(text: str) -> str:
    """A name on one line of a terminal: what would move its cursor, or is no Unicode, is shown as an escape."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
