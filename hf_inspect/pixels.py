"""An image file -> its pixels as it holds them, upright: 8 bits a channel, or values whose white is to be known.

Every decision on formats, frames, transparency, depth and orientation is made here, and nowhere else.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from hf_inspect.errors import DataError
from hf_inspect.reading import Reading

FORMATS: Mapping[str, tuple[str, ...]] = {  # Pillow's names, and the suffixes their files have; none runs a program
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
}
SUFFIXES = frozenset(chain.from_iterable(FORMATS.values()))
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_TURNS = {  # how pixels are turned upright, by what EXIF says
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_BITS, MAX_16_BIT = 16, 65535
_MAX_12_BIT = 4095
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF tag, and the value that Pillow heeds in 8 bits alone
_CODESTREAM, _PRECISION_AT = (
    b"\xff\x4f\xff\x51",
    42,
)  # JPEG 2000's first marks, and where its bits stand
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")  # formats whose values may not be those that were saved
_OTHER_END = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # reads the low bytes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pixels:
    """An upright image: a `picture` of mode L or RGB, or where 8 bits a channel are not all of it, its `values`.

    Those are uint16 (h, w) or (h, w, 3), or int32 or float32 (h, w); `white` is the value of white, None where the file
    does not say. `orientation` is the file's by EXIF, 1 to 8; `lossy` says that values are near those that were saved.
    """

    picture: Image.Image | None
    values: NDArray[Any] | None
    white: float | None
    notes: tuple[str, ...]
    orientation: int
    lossy: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if self.picture is not None:
            return self.picture.size
        assert self.values is not None
        return self.values.shape[1], self.values.shape[0]


def read(content: bytes, name: str, reading: Reading) -> Pixels:
    """Pixels of a file's first frame; DataError for a file that cannot be read whole or right."""
    return guarded(lambda: decode(opened(BytesIO(content), name), name, reading), name)


def guarded(decode: Callable[[], T], name: str) -> T:
    """Whatever Pillow's decoders raise on a hostile file becomes one `DataError`."""
    try:
        return decode()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} is a damaged image ({error}); export or copy it again.") from error


def opened(stream: IO[bytes], name: str) -> ImageFile:
    """Read the header only. `Image.open` would apply Pillow's process-wide pixel limit instead of the caller's."""
    prefix = stream.read(16)
    if not prefix:
        raise DataError(f"{name} is empty; copy the image again.")
    for load_plugins in (Image.preinit, Image.init):  # the common formats first: loading all plugins takes 40 ms
        load_plugins()
        for factory, accept in (Image.OPEN[fmt] for fmt in FORMATS if fmt in Image.OPEN):
            if accept is not None and accept(prefix) is True:
                stream.seek(0)
                return factory(stream, "")
    raise DataError(f"{name} is not an image (it begins with {prefix[:8]!r}); readable are {', '.join(FORMATS)}.")


def orientation_of(image: Image.Image) -> int:
    """How the file says that pixels are to be turned, 1 to 8; 1 where it says nothing, or no such number.

    A PNG may say it behind its pixels, and is decoded for it.
    """
    stated = image.getexif().get(ORIENTATION, 1)
    return stated if stated in _TURNS else 1


def orientation_in_header(image: Image.Image) -> int:
    """How `Image.size` is to be turned, as far as can be said without decoding.

    A TIFF's is upright by itself; what a PNG says behind its pixels is not looked for.
    """
    known = hasattr(image, "tag_v2") or (image.format == "PNG" and "exif" not in image.info)
    return 1 if known else orientation_of(image)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image turned upright from an EXIF orientation, 1 to 8."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def decode(image: Image.Image, name: str, reading: Reading) -> Pixels:
    """Pixels of the frame an image stands at (the first of a file just opened); the image is left as it is."""
    refuse_larger(*image.size, name, reading.max_pixels)
    file = _File.of(image)  # before anything is decoded, which PNG's EXIF already asks for
    orientation = orientation_of(image)  # before decoding too: the TIFF reader turns the pixels, and drops the tag
    held, white, note = _held(image, file, orientation, name, reading)
    frames, at = getattr(image, "n_frames", 1), image.tell()
    notes = (
        (f"frame {at + 1} of {frames}" if at else f"first frame of {frames}") if frames > 1 else "",
        f"turned upright from EXIF orientation {orientation}" if orientation != 1 else "",
        note,
    )
    picture, values = (held, None) if isinstance(held, Image.Image) else (None, held)
    return Pixels(picture, values, white, tuple(filter(None, notes)), orientation, image.format in _LOSSY)


def refuse_larger(width: int, height: int, name: str, max_pixels: int) -> None:
    """DataError for an image without pixels, or of more than `max_pixels`."""
    if not width * height:
        raise DataError(f"{name} has {width} x {height} pixels; give an image that shows something.")
    if width * height > max_pixels:
        raise DataError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels}; "
            "raise the limit (--max-pixels) if such images are expected."
        )


@dataclass(frozen=True, slots=True)
class _File:
    """How an image that is not decoded yet lies in its file; nothing is known of one that is.

    `tiles` are Pillow's: decoder, place, and kind of values, such as RGB;16B. `content` is the whole file where 8 bits
    a channel may not be all.
    """

    tiles: tuple[Any, ...] = ()
    content: bytes = b""

    @classmethod
    def of(cls, image: Any) -> "_File":
        file = cls(tuple(getattr(image, "tile", ())))
        if not file.tiles or not (file.is_deep_colour or image.format == "JPEG2000"):
            return file
        place = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(place)
        return replace(file, content=content)

    @property
    def kinds(self) -> list[str]:
        return [tile.args if isinstance(tile.args, str) else str(tile.args[0]) for tile in self.tiles if tile.args]

    @property
    def white(self) -> int | None:
        """The value of white that a file of more than 8 bits states: a PPM's, or that of 12 bits packed in a TIFF."""
        for tile in self.tiles:
            if tile.codec_name in ("ppm", "ppm_plain") and len(tile.args) > 1 and tile.args[1] > 255:
                return int(tile.args[1])
        return _MAX_12_BIT if any(kind.startswith("I;12") for kind in self.kinds) else None

    @property
    def is_deep_colour(self) -> bool:
        return any(";16" in kind and not kind.startswith("I;16") for kind in self.kinds) or self.white == MAX_16_BIT

    @property
    def jpeg2000_bits(self) -> int:
        """Bits a channel that a JPEG 2000 file states; 0 for other files."""
        begin = self.content.find(_CODESTREAM) if self.tiles and self.tiles[0].codec_name == "jpeg2k" else -1
        return 0 if begin < 0 else (self.content[begin + _PRECISION_AT] & 0x7F) + 1


def _held(
    image: Image.Image, file: _File, orientation: int, name: str, reading: Reading
) -> tuple[Image.Image | NDArray[Any], float | None, str]:
    """The upright picture or values of any mode, their white, and a note where a conversion was a choice."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image, file, orientation, name, reading)
    if file.is_deep_colour:
        return _deep_colour(image, file, orientation, name), None, ""
    if file.jpeg2000_bits > 8:
        bits = file.jpeg2000_bits
        raise DataError(f"{name} is JPEG 2000 of {bits} bits a channel, which is read in grey alone; save it as PNG.")
    picture, note = _eight_bits(upright(image, orientation), name)
    return picture, 255, note or (f"colour scaled from 0..{file.white}" if file.white else "")


def _grey(
    image: Image.Image, file: _File, orientation: int, name: str, reading: Reading
) -> tuple[NDArray[Any], float | None, str]:
    """Grey of more than 8 bits: uint16 that Pillow may have scaled, int32 without a white, or floats whose white is 1.

    A range that the file itself states is its white.
    """
    of_ppm, bits = (image.mode, image.format) == ("I", "PPM"), file.jpeg2000_bits
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise DataError(f"{name} stores white as 0, which is not read in more than 8 bits; save it with black as 0.")
    if of_ppm and not file.tiles and reading.bits != MAX_BITS:
        raise DataError(f"{name} was decoded before it came, and the range that it states is lost; give the file.")
    values = np.asarray(upright(image, orientation))
    if image.mode == "F":
        return values, 1.0, "float grey, scaled from 0..1"
    if image.mode == "I" and not of_ppm:
        return values, None, ""
    if 8 < bits < MAX_BITS:  # which Pillow has put into the upper bits
        white = 2**bits - 1
        return values.astype(np.uint16), white << (MAX_BITS - bits), f"grey scaled from 0..{white}"
    if file.white in (None, MAX_16_BIT):
        return values.astype(np.uint16), None, ""
    return values.astype(np.uint16), MAX_16_BIT if of_ppm else file.white, f"grey scaled from 0..{file.white}"


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The decoded pixels turned upright, which the TIFF reader does by itself."""
    image.load()
    return image if hasattr(image, "tag_v2") else turned(image, orientation)


def _deep_colour(image: Image.Image, file: _File, orientation: int, name: str) -> NDArray[np.uint16]:
    """Colours of 16 bits (h, w, 3), of which Pillow decodes 8: it is asked for the high bytes, then the low ones."""
    tiles = file.tiles
    if tiles[0].codec_name == "ppm":
        tiles = tuple(tile._replace(codec_name="raw", args=("RGB;16B", 0, 1)) for tile in tiles)
    if not all(kind[:-1] in ("RGB;16", "RGBA;16") for kind in _File(tiles).kinds):
        raise DataError(
            f"{name} holds 16 bits a channel as {file.kinds[0]}, which is not read; save it as RGB or grey."
        )
    file = replace(file, tiles=tiles)
    high, low = (_bytes_of(file, image.tell(), ends, orientation, name) for ends in ({}, _OTHER_END))
    if "transparency" in image.info or (high.mode == "RGBA" and high.getchannel("A").getextrema() != (255, 255)):
        raise DataError(f"{name} has 16 bits a channel and transparency, which is not read; save it without alpha.")
    return np.asarray(high.convert("RGB")).astype(np.uint16) << 8 | np.asarray(low.convert("RGB"))


def _bytes_of(file: _File, frame: int, ends: Mapping[str, str], orientation: int, name: str) -> Image.Image:
    """One byte of each 16-bit value of a file's frame: the high one, or by other `ends` in Pillow's words, the low."""
    image = opened(BytesIO(file.content), name)
    image.seek(frame)
    image.tile = [tile._replace(args=_with_end(tile.args, ends)) for tile in file.tiles]
    return upright(image, orientation)


def _with_end(args: Any, ends: Mapping[str, str]) -> Any:
    """A tile's arguments with another byte order."""
    kind = args if isinstance(args, str) else args[0]
    told = kind[:-1] + ends.get(kind[-1], kind[-1])
    return told if isinstance(args, str) else (told, *args[1:])


def _eight_bits(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """A decoded image in mode L or RGB, what shines through being black."""
    if not image.has_transparency_data:
        return (image if image.mode in ("L", "RGB") else image.convert("RGB")), ""
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A").getextrema()
    if alpha == (0, 0):
        raise DataError(f"{name} is transparent all over, so that nothing is seen; save it without its alpha channel.")
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    note = "" if alpha == (255, 255) else "transparency laid over black"
    return Image.alpha_composite(black, rgba).convert("RGB"), note
