"""A VLM's answer about where things are -> what it says, each with its place in the text; what `render_answer` writes,
and what models write besides.

An answer that cannot be read is unreadable, and never "nothing found": only a literal empty list is that.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hf_inspect.console import shown
from hf_inspect.errors import ParseError
from hf_inspect.prompts.boxes import View
from hf_inspect.prompts.lenient import Held, Items, Number, Object, Span, Text, Value, numbers_in, objects_in
from hf_inspect.schema import Box

_BOX = ("bbox_2d", "bbox", "box_2d", "bounding_box", "box")  # keys that models write, the likeliest first
_LABEL = ("label", "class", "category", "name")
_DESCRIPTION = ("description", "desc", "caption")
NO_BOX = "it has no box"
NO_LABEL = "it has no label"
NOT_FOUR = "its box is no list of four numbers"
NOT_FINITE = "its box has a number that is not finite"
OUTSIDE = "its box lies outside the image"
NO_AREA = "its box has no area"
REVERSED = "the corners of its box were reversed, and are put right"
CLIPPED = "its box reached outside the image, and is clipped"


@dataclass(frozen=True, slots=True)
class Said:
    """A thing as it is said: its box in pixels of the original; characters of the answer that its label and the four
    numbers of its box stand at, without quotes.
    """

    name: str
    box: Box
    description: str
    label_at: Span
    numbers_at: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says, in its order; `cut`: it breaks off, and may have had more to say.

    `left_out` says why of each object that is none, `mended` what was put right in those that are.
    """

    said: tuple[Said, ...]
    cut: bool
    left_out: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Left:
    """Why an object is left out."""

    why: str


def read_answer(text: str, view: View) -> Answer:
    """What an answer says of an image in a view.

    Prose around it, other keys, full-width marks and one object instead of a list are read; of an answer that breaks
    off, the objects before. Boxes are clipped to the image, and their corners put in order. ParseError where nothing
    can be read: no object and no empty list, none that names a thing with a box, or none before the end.
    """
    held = objects_in(text)
    said, left, mended = list[Said](), list[str](), list[str]()
    for one in held.objects:
        for found in _read(one, view, mended):
            if isinstance(found, Said):
                said.append(found)
            else:
                left.append(found.why)
    if not said and (left or held.cut or not _is_empty(held)):
        raise ParseError(_unreadable(text, left, held.cut))
    return Answer(tuple(said), held.cut, tuple(left), tuple(mended))


def _read(one: Object, view: View, mended: list[str]) -> Iterator[Said | _Left]:
    """The things that an object tells of: one, unless a key is doubled, or it has several boxes."""
    for part in _parts(one):
        box, label, described = (_first(part, keys) for keys in (_BOX, _LABEL, _DESCRIPTION))
        if box is None and (one.holds or _is_bare(one)):
            continue  # it is what the others, or none, are in
        if not one.whole and (box is None or label is None):
            continue  # the answer breaks off within
        boxes = _boxes(box)
        if box is None:
            yield _Left(NO_BOX)
        elif not isinstance(label, Text) or not label.value.strip():
            yield _Left(NO_LABEL)
        elif boxes is None:
            yield _Left(NOT_FOUR)
        else:
            description = described.value if isinstance(described, Text) else ""
            for four in boxes:
                yield _said(label, four, description, view, mended)


def _parts(one: Object) -> list[dict[str, Value]]:
    """An object's values by key; a key that comes again with another value begins a further part."""
    parts: list[dict[str, Value]] = [{}]
    for key, value in one.pairs:
        name = _name(key)
        if name in parts[-1]:
            if _same(parts[-1][name], value):
                continue
            parts.append({})
        parts[-1][name] = value
    return parts


def _name(key: str) -> str:
    return unicodedata.normalize("NFKC", key).strip().lower()


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, Text) and isinstance(b, Text):
        return a.value == b.value
    one, other = _numbers(a), _numbers(b)
    return one is not None and other is not None and [n.value for n in one] == [n.value for n in other]


def _first(part: dict[str, Value], keys: Sequence[str]) -> Value | None:
    return next((part[key] for key in keys if key in part), None)


def _numbers(value: Value | None, depth: int = 2) -> list[Number] | None:
    """The numbers of a list, or of lists in it, be they texts; None where it holds anything else."""
    if isinstance(value, Number):
        return [value]
    if isinstance(value, Text):
        return numbers_in(value)
    if not isinstance(value, Items) or not depth:
        return None
    found = list[Number]()
    for one in value.values:
        if (inner := _numbers(one, depth - 1)) is None:
            return None
        found += inner
    return found


def _boxes(value: Value | None) -> list[list[Number]] | None:
    """The four numbers of a box, or of each of several; None where a value is neither."""
    flat = _numbers(value)
    if flat is None or not isinstance(value, Items | Text):
        return None
    if len(flat) == 4:
        return [flat]
    inner = [_numbers(one) for one in value.values] if isinstance(value, Items) else []
    fours = [one for one in inner if one is not None and len(one) == 4]
    return fours if fours and len(fours) == len(inner) else None


def _said(label: Text, four: Sequence[Number], description: str, view: View, mended: list[str]) -> Said | _Left:
    """A thing whose box lies in the image and has an area, or why it is none."""
    x0, y0, x1, y1 = (one.value for one in four)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return _Left(NOT_FINITE)
    ordered = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    wide, high = view.units
    if ordered[0] >= wide or ordered[1] >= high or ordered[2] <= 0 or ordered[3] <= 0:
        return _Left(OUTSIDE)
    clipped = max(ordered[0], 0.0), max(ordered[1], 0.0), min(ordered[2], wide), min(ordered[3], high)
    box = view.box(clipped)
    if not (box[0] < box[2] and box[1] < box[3]):
        return _Left(NO_AREA)
    mended += [REVERSED] if ordered != (x0, y0, x1, y1) else []
    mended += [CLIPPED] if clipped != ordered else []
    return Said(label.value, box, description, label.at, tuple(one.at for one in four))


def _is_empty(held: Held) -> bool:
    """Whether a literal empty list stands in a text, alone or as a value of the one object, and no other bracket."""
    if len(held.roots) != 1:
        return False
    root = held.roots[0]
    if isinstance(root, Items):
        return root.bare and held.brackets == 2
    return _is_bare(root) and held.brackets == 4


def _is_bare(one: Object) -> bool:
    """Whether an object is whole, one of its values an empty list, and tells of no thing itself."""
    if not one.whole or any(_name(key) in (*_BOX, *_LABEL) for key, _ in one.pairs):
        return False
    return any(isinstance(value, Items) and value.bare for _, value in one.pairs)


def _unreadable(text: str, left: Sequence[str], cut: bool) -> str:
    """Why nothing can be read."""
    why = [f"{n} object{'s were' if n > 1 else ' was'} left out: {reason}" for reason, n in Counter(left).items()]
    why += ["it breaks off, so let it have more tokens"] if cut else []
    reasons = "; ".join(why) or "it has neither an object nor an empty list"
    return f"The answer {shown(text)!r} cannot be read, which is not to find nothing: {reasons}."
