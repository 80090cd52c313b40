"""Images and captions -> a contact sheet: one PNG of a palette, small enough to lie in a repository."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect import files, images, pixels
from hf_inspect.errors import DataError
from hf_inspect.images import Reading

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SIDE = 128  # pixels of an image's longer side on the sheet
_COLOURS = 128  # of the palette
_GAP = 8  # pixels between images, or between pairs
_SEAM = 2  # pixels between the two images of a pair
_TEXT = 10  # pixels of the captions' letters
_LINE = 13  # pixels of a caption's line
_PAPER, _INK, _EMPTY = (255, 255, 255), (0, 0, 0), (200, 200, 200)


def of_images(
    rows: Sequence[tuple[bytes, str]],
    path: Path,
    columns: int = 8,
    side: int = SIDE,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> None:
    """Write the sheet of n image files' bytes, each over its caption, `columns` in a row; `side` is in pixels.

    A caption may have several lines; one that is too long loses its beginning. A file that cannot be shown as RGB
    leaves its place grey.
    """
    _write(rows, path, columns, side, 1, reading)


def of_pairs(pairs: Sequence[tuple[bytes, str, bytes, str]], path: Path, columns: int = 4, side: int = SIDE) -> None:
    """Write the sheet of n pairs (image file's bytes, caption, bytes, caption), `columns` pairs in a row."""
    cells = [cell for one, name, other, its_name in pairs for cell in ((one, name), (other, its_name))]
    _write(cells, path, 2 * columns, side, 2, Reading())


def thumbnail(content: bytes, side: int = SIDE, reading: Reading = Reading()) -> bytes:  # noqa: B008 - frozen
    """An image file's bytes as a PNG whose longer side is `side` pixels, grey where it cannot be shown."""
    return _png(_shrunk(content, side, reading))


def _write(
    cells: Sequence[tuple[bytes, str]], path: Path, columns: int, side: int, together: int, reading: Reading
) -> None:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_TEXT)
    lines = max((caption.count("\n") + 1 for _, caption in cells), default=1)
    columns = max(1, min(columns, len(cells)))
    step_x, step_y = side + _SEAM, side + lines * _LINE + _GAP
    width = 2 * _GAP + columns * step_x + (columns - 1) // together * _GAP
    sheet = Image.new("RGB", (width, _GAP + max(1, -(-len(cells) // columns)) * step_y), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for at, (content, caption) in enumerate(cells):
        row, column = divmod(at, columns)
        x, y = _GAP + column * step_x + column // together * _GAP, _GAP + row * step_y
        small = _shrunk(content, side, reading)
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
        for line, text in enumerate(caption.split("\n")):
            draw.text((x, y + side + line * _LINE), _cut(text, side, font), _INK, font)
    files.write_bytes(path, _png(sheet.quantize(_COLOURS, dither=Image.Dither.NONE)))


def _shrunk(content: bytes, side: int, reading: Reading) -> "Image.Image":
    from PIL import Image

    try:
        small = images.shown(pixels.read(content, "", reading), "", reading).picture
    except DataError:
        return Image.new("RGB", (side, side), _EMPTY)
    small.thumbnail((side, side))
    return small.convert("RGB")


def _cut(text: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """The end of `text` that fits `width` pixels: names of files differ at their ends."""
    if font.getlength(text) <= width:
        return text
    return next((f"…{text[n:]}" for n in range(1, len(text)) if font.getlength(f"…{text[n:]}") <= width), "…")


def _png(image: "Image.Image") -> bytes:
    buffer = BytesIO()
    image.save(buffer, "png", optimize=True)
    return buffer.getvalue()
