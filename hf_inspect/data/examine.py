"""Samples -> each image read whole: its signature, size and mask checked, or the sentence why it is left out.

How deep 16-bit images are, and what masks mark, is found over all of them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect import images, pixels
from hf_inspect.data.hashing import Signature, signature_of
from hf_inspect.data.raw import masks
from hf_inspect.data.raw.masks import Mask
from hf_inspect.data.rules import Rules
from hf_inspect.errors import DataError
from hf_inspect.images import Reading, turned_points, turned_size
from hf_inspect.pixels import Pixels
from hf_inspect.reading import DEPTHS, bits_of
from hf_inspect.schema import DEFECT, GOOD, Progress, Sample, no_progress

_FEW = 0.05  # share of 16-bit images that alone need the bits found: more may be dead pixels than light


@dataclass(frozen=True, slots=True)
class Examined:
    """A sample whose image and mask decode: its class is decided, `width` and `height` are pixels, upright.

    `orientation` is the file's by EXIF, 1 to 8. `notes` say what was unusual about image and mask; `largest` is the
    largest value of 16 bits, None in an image that has none, or states its white. `mask_turn` is the orientation that
    the mask is turned by to fit, and `mask_sha256` is of its bytes then.
    """

    sample: Sample
    signature: Signature
    width: int
    height: int
    mask_sha256: str | None = None
    orientation: int = 1
    notes: tuple[str, ...] = ()
    largest: int | None = None
    mask_turn: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the file's pixels before they are turned upright."""
        return turned_size((self.width, self.height), self.orientation)

    def upright(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points (n, 2) of the stored pixels -> where they lie in the upright image (see `images.turned_points`)."""
        return turned_points(points, self.stored_size, self.orientation)


@dataclass(frozen=True, slots=True)
class Rejected:
    """An image that is not taken, and why."""

    source: str
    reason: str


def examine(
    samples: Sequence[Sample],
    num_proc: int = 1,
    progress: Progress = no_progress,
    *,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    good: Collection[str] = (GOOD,),
) -> tuple[list[Examined], list[Rejected]]:
    """Read every image in `num_proc` threads; the good ones in order, the rest with a reason.

    `good` are the classes that are: a mask on such a part marks nothing. Images of 16 bits are read twice where `rules`
    state no bits, the second time by those that all of them need.
    """
    with ThreadPoolExecutor(num_proc) as threads:
        looked = list(_counted(threads.map(partial(_look, rules=rules), samples), len(samples), progress))
        of_levels = masks.of_levels(one.mask for one in looked if isinstance(one, _Seen) and one.mask)
        judged = [_judged(one, of_levels, good) for one in looked]
        reading = _reading([one.largest for one in judged if isinstance(one, _Seen)], rules)
        found = list(threads.map(partial(_signed, reading=reading), judged))
    return [one for one in found if isinstance(one, Examined)], [one for one in found if isinstance(one, Rejected)]


def reading_of(examined: Sequence[Examined], rules: Rules) -> Reading:
    """How the images that were taken are to be read from now on."""
    return _reading([one.largest for one in examined], rules)


def notes_of(examined: Sequence[Examined]) -> dict[str, int]:
    """What was unusual about the images and their masks, and of how many, the most frequent first."""
    return dict(Counter(note for one in examined for note in one.notes).most_common())


def depth_notes(examined: Sequence[Examined], rules: Rules) -> list[str]:
    """A sentence where a few images alone make the others dark: their values need more bits."""
    needed = [bits_of(one.largest) for one in examined if one.largest is not None]
    if rules.bits is not None or not needed:
        return []
    most = max(needed)
    few = [one.sample.source for one in examined if one.largest is not None and bits_of(one.largest) == most]
    if len(few) > max(1, _FEW * len(needed)) or len(few) == len(needed):
        return []
    below = max(bits for bits in DEPTHS if bits < most)
    return [
        f"{len(few)} of {len(needed)} 16-bit images alone need {most} bits ({few[0]}), which makes all others darker; "
        f"--bits {below} leaves these out."
    ]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A sample that decodes; `signature` is None until the bits of its 16 are known."""

    sample: Sample
    signature: Signature | None
    width: int
    height: int
    orientation: int
    notes: tuple[str, ...]
    largest: int | None
    mask: Mask | None


def _counted(found: Iterator[Any], n: int, progress: Progress) -> Iterator[Any]:
    for done, one in enumerate(found, 1):
        yield one
        progress("read and sign", done, n)


def _refused(read: Callable[[], Any], sample: Sample) -> Any:
    """What `read` gives, or the sentence why it gives nothing."""
    try:
        return read()
    except DataError as error:
        return Rejected(sample.source, str(error))
    except OSError as error:
        return Rejected(sample.source, f"cannot be read ({error.strerror}).")


def _look(sample: Sample, rules: Rules) -> _Seen | Rejected:
    return _refused(lambda: _seen(sample, rules), sample)


def _seen(sample: Sample, rules: Rules) -> _Seen:
    content, name, reading = sample.read(), sample.path.name, Reading(rules.bits, rules.max_pixels)
    found = pixels.read(content, name, reading)
    values, signature, notes = found.values, None, found.notes
    largest = int(values.max()) if values is not None and values.dtype == np.uint16 and found.white is None else None
    if largest is None or rules.bits is not None:
        shown = images.shown(found, name, reading)
        signature, notes = signature_of(content, shown.picture), shown.notes
    mask = None if sample.mask is None else _mask(sample.mask, found, rules)
    return _Seen(sample, signature, *found.size, found.orientation, notes, largest, mask)


def _mask(path: Path, found: Pixels, rules: Rules) -> Mask:
    stored = turned_size(found.size, found.orientation)
    return masks.read_mask(path, found.size, stored, found.orientation, rules.max_pixels)


def _judged(one: _Seen | Rejected, of_levels: bool, good: Collection[str]) -> _Seen | Rejected:
    """The class of a part by its mask, where nothing else says it; a mask that belies the class is a reason."""
    if isinstance(one, Rejected) or one.mask is None:
        return one
    name, marks = one.sample.class_name, one.mask.share(of_levels) > 0
    problem = one.mask.problem(of_levels)
    if problem is None and name is not None and marks == (name in good):
        problem = f"it is said to be {name}, and its mask {one.mask.name} marks " + (
            f"{one.mask.share(of_levels):.1%} of it." if marks else "nothing."
        )
    if problem is not None:
        return Rejected(one.sample.source, problem)
    sample = replace(one.sample, class_name=name or (DEFECT if marks else GOOD))
    return replace(one, sample=sample, notes=(*one.notes, *one.mask.notes(of_levels)))


def _reading(largest: Sequence[int | None], rules: Rules) -> Reading:
    """How images are read whose largest values of 16 bits are these: by no bits where there are none."""
    deep = [value for value in largest if value is not None]
    bits = (rules.bits or bits_of(max(deep))) if deep else None
    return Reading(bits, rules.max_pixels)


def _signed(one: _Seen | Rejected, reading: Reading) -> Examined | Rejected:
    return one if isinstance(one, Rejected) else _refused(lambda: _examined(one, reading), one.sample)


def _examined(one: _Seen, reading: Reading) -> Examined:
    """The sample once all of it is known; an image whose bits were not is read again."""
    signature, notes = one.signature, one.notes
    if signature is None:
        content = one.sample.read()
        name = one.sample.path.name
        shown = images.shown(pixels.read(content, name, reading), name, reading)
        signature, notes = signature_of(content, shown.picture), tuple(dict.fromkeys((*shown.notes, *notes)))
    sha256, turn = (one.mask.sha256, one.mask.turn) if one.mask else (None, 1)
    return Examined(
        one.sample, signature, one.width, one.height, sha256, one.orientation, notes, one.largest, turn
    )  # fmt: skip
