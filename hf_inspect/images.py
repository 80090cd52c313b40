"""An image in any form in, a checked RGB array out; and the one resize and normalisation of training, export, runtime.

Numpy and Pillow only. Every file that cannot be read whole is a `DataError` with a sentence, before its pixels are
decoded when the header already says so. How files are decoded stands in `pixels`.
"""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hf_inspect import pixels
from hf_inspect.errors import DataError
from hf_inspect.pixels import FORMATS, ORIENTATION, SUFFIXES, Pixels
from hf_inspect.reading import MAX_PIXELS, Reading

__all__ = [
    "FORMATS", "MAX_BYTES", "MAX_PIXELS", "ORIENTATION", "SUFFIXES", "Loaded", "Preprocess", "Reading", "Rgb", "Shown",
    "Source", "check_rgb", "check_source", "header", "load", "prepare", "read", "resize", "shown", "turned_points",
    "turned_size",
]  # fmt: skip

Rgb = NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.uint8]
MAX_BYTES = 2_000_000_000  # of a file: 100 megapixels of four floats are 1.6 GB
_ON_THEIR_SIDE = frozenset({5, 6, 7, 8})  # orientations whose width is the upright height


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image: `rgb` uint8 (h, w, 3), upright, and what was unusual about the file, in words.

    `orientation` is the file's own by EXIF, 1 to 8: how its stored pixels were turned.
    """

    rgb: Rgb
    notes: tuple[str, ...] = ()
    orientation: int = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """One image before it is an array: a `picture` of mode L or RGB, whose RGB is that of `Loaded`."""

    picture: Image.Image
    notes: tuple[str, ...]
    orientation: int


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What turns an image into a model's input: squashed to `height` x `width`, then (x / 255 - mean) / std.

    `mean` and `std` are three numbers on the scale [0, 1]. Equals timm's `crop_mode="squash"`, `crop_pct=1.0`.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    resize: str = "squash"

    def __post_init__(self) -> None:
        if not (_is_size(self.height) and _is_size(self.width)):
            raise DataError(f"Input size {self.height} x {self.width} is wanted as two whole numbers above 0.")
        if (self.resize, self.interpolation) != ("squash", "bilinear"):
            raise DataError(f"Resize {self.resize!r}, {self.interpolation!r} came; wanted is 'squash', 'bilinear'.")
        if not (_is_triple(self.mean) and _is_triple(self.std) and min(self.std) > 0):
            raise DataError(f"mean {self.mean} and std {self.std} came; wanted are 3 finite numbers each, std above 0.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Settings from `to_dict`; unknown or missing keys are a `DataError`."""
        wanted = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != wanted:
            raise DataError(f"preprocess is {values!r}; wanted are exactly the keys {', '.join(sorted(wanted))}.")
        if not all(isinstance(values[key], list | tuple) for key in ("mean", "std")):
            raise DataError(f"preprocess has mean {values['mean']!r} and std {values['std']!r}; wanted are lists.")
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def load(source: Source, reading: Reading = Reading()) -> Loaded:  # noqa: B008 - frozen
    """Read one image whole, in any of the forms that `check_source` lets through; `DataError` says why it cannot be.

    The first frame of an animation is taken, EXIF rotation applied, transparency laid over black, and values of more
    than 8 bits are scaled to 0..255, each with a note: those of a range that the file states by it, floats from 0..1,
    other 16-bit values from the bits that `reading` states, without which they are refused; none is clipped. An
    image of more pixels than `reading` lets in is refused from its header. An opened PIL image is read by the same
    rules, at the frame it stands at, and is left as it is (of 16-bit colours, what it has decoded already is 8 bits);
    an array is copied.
    """
    check_source(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, reading.max_pixels)
    if isinstance(source, Image.Image):
        name = f"the PIL image {getattr(source, 'filename', '')}".rstrip()
        return pixels.guarded(lambda: _loaded(pixels.decode(source, name, reading), name, reading), name)
    if isinstance(source, bytes | bytearray | memoryview):
        content, name = bytes(source), f"the image ({len(source)} bytes)"
    elif isinstance(source, str | os.PathLike):
        content, name = read(source), str(source)
    else:
        content, name = _content_of(source), str(getattr(source, "name", "the file"))
    return pixels.guarded(lambda: _loaded(pixels.read(content, name, reading), name, reading), name)


def check_source(source: Any) -> None:
    """Raise `DataError`, naming what came, unless `load` takes things of this kind.

    It takes a path; a file's content as bytes, or a file opened for reading them; a PIL image; and a uint8 array, RGB
    (h, w, 3) or grey (h, w).
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2 or 0 in source.shape:
            raise DataError(f"An image came as {source.dtype} {source.shape}; wanted is uint8 (h, w, 3) or (h, w).")
        return
    taken = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
    if not isinstance(source, taken) and not callable(getattr(source, "read", None)):
        raise DataError(
            f"An image came as {type(source).__name__}; give a path, bytes, a binary file, a PIL image, or a uint8 "
            "array (h, w, 3) or (h, w)."
        )


def read(path: str | os.PathLike[str]) -> bytes:
    """A file's content, read once and whole; `DataError` says why there is none, of folders and links too."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            os.scandir(path).close()  # says what is wrong with a folder that cannot be walked
            raise DataError(f"{path} is a folder; give the path of an image file.")
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a regular file; give the path of an image file.")
        if found.st_size > MAX_BYTES:
            raise DataError(f"{path} has {found.st_size} bytes, more than {MAX_BYTES}; give an image file.")
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        what = f"is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else "does not exist"
        raise DataError(f"{path} {what}; give the path of an image file.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be opened ({why}); check the name and its permissions.") from error


def shown(found: Pixels, name: str, reading: Reading) -> Shown:
    """Decoded pixels of any kind as a picture of 8 bits; DataError where white is not known, or is surpassed."""
    return pixels.guarded(lambda: _shown(found, name, reading), name)


def header(content: bytes) -> tuple[str, int, int]:
    """Format, width and height that an image file states, in pixels, upright; "", 0, 0 where it cannot be read."""
    try:
        image = pixels.opened(BytesIO(content), "the image")
        return str(image.format), *turned_size(image.size, pixels.orientation_in_header(image))
    except Exception:  # what Pillow raises on a hostile header; `load` says what is wrong with it
        return "", 0, 0


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of a stored frame once it is turned upright from an EXIF orientation, 1 to 8; and back."""
    return size[::-1] if orientation in _ON_THEIR_SIDE else size


def turned_points(points: ArrayLike, size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """Points (n, 2) of a stored frame -> where they lie once it is turned upright from an EXIF orientation, 1 to 8.

    x and y in pixels from the upper left corner, a pixel's own corners being whole numbers; `size` is width and height
    as stored. A box is turned by two of its opposite corners, which then need sorting.
    """
    (x, y), (width, height) = np.asarray(points, np.float64).reshape(-1, 2).T, size
    places = (
        (x, y), (width - x, y), (width - x, height - y), (x, height - y),
        (y, x), (height - y, x), (height - y, width - x), (y, width - x),
    )  # fmt: skip
    return np.stack(places[orientation - 1], axis=1)


def resize(rgb: Rgb, preprocess: Preprocess) -> Rgb:
    """An RGB image uint8 (h, w, 3) of any size -> uint8 (height, width, 3), by Pillow's antialiased filter."""
    check_rgb(rgb)
    if rgb.shape[:2] == (preprocess.height, preprocess.width):
        return rgb
    size = (preprocess.width, preprocess.height)
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


def prepare(rgb: Rgb, preprocess: Preprocess) -> NDArray[np.float32]:
    """An RGB image uint8 (h, w, 3) of any size -> the model's input, float32 (3, height, width)."""
    planes = resize(rgb, preprocess).transpose(2, 0, 1).astype(np.float32, order="C")
    mean, std = (np.array(three, np.float32)[:, None, None] for three in (preprocess.mean, preprocess.std))
    planes /= 255
    planes -= mean
    planes /= std
    return planes


def check_rgb(rgb: Rgb) -> None:
    """Raise `DataError` unless `rgb` is a uint8 array (h, w, 3) with at least one pixel."""
    if not isinstance(rgb, np.ndarray):
        raise DataError(f"An image came as {type(rgb).__name__}; give a path, bytes, or a uint8 array (h, w, 3).")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise DataError(f"An image came as {rgb.dtype} {rgb.shape}; wanted is uint8 (h, w, 3), as images.load gives.")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_triple(values: Any) -> bool:
    return len(values) == 3 and all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _content_of(file: IO[bytes]) -> bytes:
    """What an opened file holds, from its beginning where it can be rewound, as Pillow does."""
    name = str(getattr(file, "name", "the file"))
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise DataError(f"{name} cannot be read ({error}); give an open binary file.") from error
    if not isinstance(content, bytes):
        raise DataError(f"{name} was opened as text; open it with mode 'rb'.")
    return content


def _from_array(array: NDArray[np.uint8], max_pixels: int) -> Loaded:
    pixels.refuse_larger(array.shape[1], array.shape[0], f"the array {array.shape}", max_pixels)
    if array.ndim == 3:
        return Loaded(np.array(array, order="C"))  # a copy: a camera may write its next image into the same memory
    return Loaded(np.repeat(array[..., None], 3, axis=2))


def _shown(found: Pixels, name: str, reading: Reading) -> Shown:
    if found.picture is not None:
        return Shown(found.picture, found.notes, found.orientation)
    values, white, notes = found.values, found.white, found.notes
    assert values is not None
    if values.dtype != np.uint16:
        unit = np.rint(_unit_float(values, name) * 255).astype(np.uint8)
        return Shown(Image.fromarray(unit), notes, found.orientation)
    if white is None:
        white = _white(int(values.max()), name, reading)
        notes += (f"16-bit {'grey' if values.ndim == 2 else 'colour'}, scaled from 0..{white}",)
    scale = np.rint(np.arange(white + 1) / white * 255).astype(np.uint8)
    return Shown(Image.fromarray(scale[values]), notes, found.orientation)


def _loaded(found: Pixels, name: str, reading: Reading) -> Loaded:
    one = shown(found, name, reading)
    picture = one.picture if one.picture.mode == "RGB" else one.picture.convert("RGB")
    return Loaded(np.array(picture), one.notes, one.orientation)


def _white(largest: int, name: str, reading: Reading) -> int:
    """The value of white of 16-bit values; DataError where `reading` does not say, or one of them is larger."""
    if reading.bits is None:
        raise DataError(
            f"{name} holds 16-bit values up to {largest}, and what is white is not stated: whatever reads it was made "
            "of 8-bit images. Save it in 8 bits as those were, or build and train with 16-bit images."
        )
    white = 2**reading.bits - 1
    if largest > white:
        raise DataError(
            f"{name} holds values up to {largest}, above the {white} of {reading.bits} bits, as which it is read; save "
            "it as the others were, or build the data set with more --bits and train again."
        )
    return white


def _unit_float(grey: NDArray[Any], name: str) -> NDArray[Any]:
    """Float grey in [0, 1]; other floats and 32-bit integers have no range that the file states."""
    low, high = grey.min(), grey.max()
    if not (grey.dtype.kind == "f" and low >= 0 and high <= 1):
        raise DataError(f"{name} has {grey.dtype} pixels from {low} to {high}, of unknown range; save as 8 or 16 bits.")
    return grey
