"""Objects of a JSON that a model wrote, as well as it could: with prose around it, broken off, or oddly punctuated.

Libraries that mend JSON lose where things stood; here every text and number keeps its place. Time is linear in length.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Union

Span = tuple[int, int]  # first character, and the one after the last

_ASCII = str.maketrans("｛｝［］【】，、：－−．", "{}[][],,:--.")  # noqa: RUF001 - as Chinese keyboards write them
_BREAK = r"{}\[\],:｛｝［］【】，、："  # noqa: RUF001 - characters that stand alone
_OPENERS = re.compile(r"[{\[｛［【]")  # noqa: RUF001
_BRACKETS = re.compile(r"[{}\[\]｛｝［］【】]")  # noqa: RUF001
_CLOSES = rf"(?!\s*+(?:[{_BREAK}]|\Z))"  # a quote that no such character follows stands within its text
_QUOTES = {'"': '"', "'": "'", "＂": "＂", "“": '”“"', "‘": "’‘'"}  # noqa: RUF001 - and what may close each
_TEXTS = {
    opens: re.compile(rf"{opens}((?:[^{closes}\\]++|\\.|[{closes}]{_CLOSES})*+)[{closes}]", re.DOTALL)
    for opens, closes in _QUOTES.items()
}
_NUMBER = re.compile(
    rf"[-+－−]?(?:\d++(?:[.．]\d*+)?|[.．]\d++)(?:[eE][-+]?\d++)?(?=[\s{_BREAK}]|\Z)"  # noqa: RUF001
)
_WORD = re.compile(rf"[^\s{_BREAK}]++")
_PIECE = re.compile(rf"[^\s(){_BREAK}]++")
_SPACE = re.compile(r"\s*+")
_ESCAPES = re.compile(r"(?P<unicode>(?:\\u[0-9a-fA-F]{4})+)|\\(?P<one>.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_NO_NUMBERS = {"nan", "inf", "infinity", "-inf", "-infinity", "+inf", "+infinity"}


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and where it stands between its quotes."""

    value: str
    at: Span


@dataclass(frozen=True, slots=True)
class Number:
    """A number, which may be NaN or infinite, and where it stands."""

    value: float
    at: Span


@dataclass(frozen=True, slots=True)
class Word:
    """Anything else."""

    value: str


@dataclass(slots=True)
class Items:
    """A list; `bare` while nothing at all stands between its brackets."""

    values: list["Value"] = field(default_factory=list)
    bare: bool = True


@dataclass(slots=True)
class Object:
    """An object that begins at a character, its pairs in order, doubled keys and all.

    `holds`: others lie within; `whole`: it is closed.
    """

    start: int
    pairs: list[tuple[str, "Value"]] = field(default_factory=list)
    holds: bool = False
    whole: bool = True
    key: str | None = None
    waits: bool = False  # for the value of the key


Value = Union[Text, Number, Word, Items, Object]  # noqa: UP007 - names of classes in quotes have no |


@dataclass(frozen=True, slots=True)
class Held:
    """The objects of a text in their order, inner ones too; `cut` where its end leaves something open.

    `roots` are the lists and objects that lie in no other, `brackets` how many brackets the text has in all.
    """

    objects: tuple[Object, ...]
    roots: tuple[Items | Object, ...]
    cut: bool
    brackets: int


def objects_in(text: str) -> Held:
    """Every object that stands in a text, whatever else does; also those that are still open at its end."""
    reader = _Reader()
    for mark, value, at in _tokens(text, lambda: bool(reader.stack)):
        if mark in ("{", "["):
            reader.open(Object(at) if mark == "{" else Items())
        elif mark in ("}", "]"):
            reader.close(Object if mark == "}" else Items)
        elif value is not None:
            reader.put(value)
        else:
            reader.divide(mark)
    cut = bool(reader.stack)
    while reader.stack:
        reader.pop(whole=False)
    found = tuple(sorted(reader.objects, key=lambda one: one.start))
    return Held(found, tuple(reader.roots), cut, len(_BRACKETS.findall(text)))


def numbers_in(text: Text) -> list[Number] | None:
    """The numbers that a text consists of, such as `"12"` or `"[1, 2, 3, 4]"`; None where it holds anything else."""
    if text.at[1] - text.at[0] != len(text.value):  # escapes: no number has any
        return None
    found = [(_plain(one[0], 0)[0], one.start()) for one in _PIECE.finditer(text.value)]
    begin, numbers = text.at[0], list[Number]()
    for value, at in found:
        if not isinstance(value, Number):
            return None
        numbers.append(Number(value.value, (begin + at + value.at[0], begin + at + value.at[1])))
    return numbers


def _tokens(text: str, inside: Callable[[], bool]) -> Iterator[tuple[str, Value | None, int]]:
    """Marks, in ASCII, or values, and where each begins; what stands outside of all brackets is prose."""
    at, may_quote = 0, True  # a quote right after a word is an apostrophe, or an inch
    while at < len(text):
        if not inside():
            opener = _OPENERS.search(text, at)
            if opener is None:
                return
            at = opener.start()
        mark = text[at].translate(_ASCII)
        if mark in "{}[],:":
            yield mark, None, at
            at, may_quote = at + 1, True
        elif text[at] in _TEXTS and may_quote:
            quoted = _TEXTS[text[at]].match(text, at)
            if quoted is None:  # it never ends
                return
            yield "", Text(_ESCAPES.sub(_unescaped, quoted[1]), quoted.span(1)), at
            at = quoted.end()
        else:
            value, at, begin = *_plain(text, at), at
            may_quote = isinstance(value, Number)
            yield "", value, begin
        at = _end(_SPACE.match(text, at), at)


def _plain(text: str, at: int) -> tuple[Number | Word, int]:
    """The number or the word that begins at a character, and where it ends."""
    if found := _NUMBER.match(text, at):
        return Number(float(found[0].translate(_ASCII)), found.span()), found.end()
    end = _end(_WORD.match(text, at), at + 1)
    word = text[at:end]
    if word.lower() in _NO_NUMBERS:
        return Number(float(word), (at, end)), end
    return Word(word), end


def _end(found: re.Match[str] | None, otherwise: int) -> int:
    return otherwise if found is None else found.end()


def _unescaped(found: re.Match[str]) -> str:
    """What an escape of JSON stands for; of one that JSON does not have, its letter."""
    one = found["one"]
    return json.loads(f'"{found["unicode"]}"') if one is None else _ESCAPED.get(one, one)


class _Reader:
    """What has been read so far: lists and objects that are open, and those that lie in no other."""

    def __init__(self) -> None:
        self.stack: list[Items | Object] = []
        self.opened: dict[type, list[Items | Object]] = {Items: [], Object: []}
        self.objects: list[Object] = []
        self.roots: list[Items | Object] = []

    def open(self, one: Items | Object) -> None:
        if self.stack and isinstance(self.stack[-1], Items):
            self.stack[-1].bare = False
        if isinstance(one, Object) and (around := self.opened[Object]):
            around[-1].holds = True  # type: ignore[union-attr]
        self.stack.append(one)
        self.opened[type(one)].append(one)

    def close(self, kind: type) -> None:
        """Close the innermost one of a kind, and what was left open within; a stray bracket is passed over."""
        while self.opened[kind] and not isinstance(self.pop(), kind):
            pass

    def pop(self, *, whole: bool = True) -> Items | Object:
        """The innermost one, given to that around it if it is whole."""
        one = self.stack.pop()
        self.opened[type(one)].pop()
        if isinstance(one, Object):
            one.whole = whole
            self.objects.append(one)
        if not self.stack:
            self.roots.append(one)
        elif whole:
            self.put(one)
        return one

    def put(self, value: Value) -> None:
        around = self.stack[-1]
        if isinstance(around, Items):
            around.values.append(value)
            around.bare = False
        elif around.waits and around.key is not None:
            around.pairs.append((around.key, value))
            around.key, around.waits = None, False
        elif isinstance(value, Text | Word):
            around.key = value.value

    def divide(self, mark: str) -> None:
        """A comma, or the colon that follows a key."""
        around = self.stack[-1]
        if isinstance(around, Items):
            around.bare = False
            around.values += [Word(mark)] if mark == ":" else []
        else:
            around.waits = mark == ":" and around.key is not None
            around.key = around.key if mark == ":" else None
