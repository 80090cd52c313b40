"""Image files of every kind that is read, and the pixels that each must give."""

import io
import struct
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from hf_inspect.images import ORIENTATION

SIZE = 40, 28  # width and height of every image of the zoo, upright


def grey(seed: int) -> np.ndarray:
    """A smooth random picture (h, w) from 0 to 255, unlike any other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 10), np.uint8)
    picture = np.array(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC))
    picture[0, :2] = 0, 255
    return picture


def deep(picture: np.ndarray, bits: int) -> np.ndarray:
    """A picture of 8 bits as uint16 whose white is that of `bits`; scaled back, it is itself."""
    return np.rint(picture / 255 * (2**bits - 1)).astype(np.uint16)


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    """An image as the content of a file."""
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def turned(picture: np.ndarray, orientation: int, fmt: str, **options: object) -> bytes:
    """A file whose stored pixels an EXIF orientation turns into `picture`."""
    undone = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)  # what turns the other way
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    image, exif = Image.fromarray(picture), Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(image.transpose(methods[undone]) if undone != 1 else image, fmt, exif=exif, **options)


def encoded(suffix: str, array: np.ndarray, *options: int) -> bytes:
    """An array as a file by OpenCV, which writes colours of 16 bits."""
    return cv2.imencode(suffix, array[..., ::-1] if array.ndim == 3 else array, options)[1].tobytes()


def files(bits: int, seed: int = 0) -> Iterator[tuple[str, bytes, np.ndarray | None]]:
    """Name, content and upright pixels (h, w, 3) of each file; None where a lossy format decides them.

    Those of 16 bits whose white is not stated have that of `bits`.
    """
    numbers = iter(range(seed, seed + 1000))

    def one() -> np.ndarray:
        return grey(next(numbers))

    def rgb(picture: np.ndarray) -> np.ndarray:
        return np.repeat(picture[..., None], 3, axis=2)

    def colours() -> np.ndarray:
        return np.dstack([one(), one(), one()])

    for name, fmt, options in (
        ("grey.png", "PNG", {}), ("grey.bmp", "BMP", {}), ("grey.tif", "TIFF", {}), ("grey.gif", "GIF", {}),
        ("grey.pgm", "PPM", {}), ("grey.jp2", "JPEG2000", {}), ("grey.TIFF", "TIFF", {"compression": "tiff_lzw"}),
    ):  # fmt: skip
        picture = one()
        yield name, saved(Image.fromarray(picture), fmt, **options), rgb(picture)
    for name, fmt, options in (("rgb.png", "PNG", {}), ("rgb.ppm", "PPM", {}), ("rgb.webp", "WEBP", {"lossless": True}),
                               ("rgb.tif", "TIFF", {}), ("rgb.j2k", "JPEG2000", {})):  # fmt: skip
        picture = colours()
        yield name, saved(Image.fromarray(picture), fmt, **options), picture
    for name, fmt, mode in (
        ("a.jpg", "JPEG", "L"), ("b.jfif", "JPEG", "RGB"), ("c.jpe", "JPEG", "CMYK"), ("d.JPEG", "JPEG", "RGB"),
        ("e.avif", "AVIF", "RGB"), ("f.webp", "WEBP", "RGB"),
    ):  # fmt: skip
        yield name, saved(Image.fromarray(colours()).convert(mode), fmt), None
    palette = Image.fromarray(colours()).quantize(60)
    yield "palette.png", saved(palette, "PNG"), np.asarray(palette.convert("RGB"))
    for name, fmt in (("bit.png", "PNG"), ("bit.pbm", "PPM"), ("bit.tif", "TIFF")):
        bit = Image.fromarray(one()).point(lambda v: 255 * (v > 127), "1")
        yield name, saved(bit, fmt), np.array(bit.convert("RGB"))
    picture, alpha = one(), np.where(grey(990) > 60, 255, 0).astype(np.uint8)
    yield "la.png", saved(Image.fromarray(np.dstack([picture, alpha]), "LA"), "PNG"), rgb(picture * (alpha > 0))
    picture = colours()
    yield "rgba.png", saved(Image.fromarray(np.dstack([picture, alpha])), "PNG"), picture * (alpha > 0)[..., None]
    for orientation in range(1, 9):
        picture = one()
        yield f"turned{orientation}.png", turned(picture, orientation, "PNG"), rgb(picture)
        yield f"turned{orientation}.jpg", turned(one(), orientation, "JPEG", quality=90), None
        picture = one()
        yield f"turned{orientation}.tif", turned(picture, orientation, "TIFF"), rgb(picture)
    picture = one()
    yield "unit.tif", saved(Image.fromarray((picture / 255).astype(np.float32)), "TIFF"), rgb(picture)
    picture = one()
    pages = [Image.fromarray(one()) for _ in range(3)]
    yield "pages.tif", saved(Image.fromarray(picture), "TIFF", save_all=True, append_images=pages), rgb(picture)
    picture = one()
    stated = b"P5\n%d %d\n1023\n" % SIZE + deep(picture, 10).astype(">u2").tobytes()
    yield "stated.pgm", stated, rgb(picture)
    picture = colours()
    yield "stated.ppm", b"P6\n%d %d\n1023\n" % SIZE + deep(picture, 10).astype(">u2").tobytes(), picture
    for name, fmt in (("deep.png", "PNG"), ("deep.tif", "TIFF"), ("deep.pgm", "PPM"), ("deep.jp2", "JPEG2000")):
        picture = one()
        yield name, saved(Image.fromarray(deep(picture, bits)), fmt), rgb(picture)
    picture = one()
    big = Image.frombytes("I;16B", SIZE, deep(picture, bits).astype(">u2").tobytes())
    yield "deep_big.tif", saved(big, "TIFF"), rgb(picture)
    picture = one()
    yield "deep_turned.png", turned(deep(picture, bits), 6, "PNG"), rgb(picture)
    for name, suffix, options in (
        ("deep_rgb.png", ".png", ()), ("deep_rgb.tif", ".tif", (cv2.IMWRITE_TIFF_COMPRESSION, 1)),
        ("deep_lzw.tif", ".tif", (cv2.IMWRITE_TIFF_COMPRESSION, 5)), ("deep_rgb.ppm", ".ppm", ()),
    ):  # fmt: skip
        picture = colours()
        yield name, encoded(suffix, deep(picture, bits), *options), picture


def packed_12_bits(values: np.ndarray) -> bytes:
    """An uncompressed TIFF of grey (h, w), w even, in 12 bits a pixel, as some cameras write it."""
    height, width = values.shape
    pairs = values.astype(np.uint32).reshape(-1, 2)
    packed = pairs[:, 0] << 12 | pairs[:, 1]
    body = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8).tobytes()
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, len(body))]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory + struct.pack("<I", 0)
