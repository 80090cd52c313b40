import contextlib
import io
import os
import resource
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hf_inspect.errors import DataError
from hf_inspect.images import (
    MAX_BYTES,
    ORIENTATION,
    Preprocess,
    Reading,
    header,
    load,
    prepare,
    resize,
    turned_points,
    turned_size,
)
from tests import zoo

DEEP = {name: content for name, content, _ in zoo.files(12) if name.startswith("deep")}
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
HALF = (0.5, 0.5, 0.5)


def encoded(image, fmt, **options):
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def png(array, **options):
    return encoded(Image.fromarray(array), "PNG", **options)


def bomb(side):
    """A whole and valid 1-bit PNG of side x side zeros in a few hundred kB, without building it in memory."""
    chunk, total = bytes(1 << 20), side * (side // 8 + 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    repeated = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(total % len(chunk))) + packer.flush()
    adler = struct.pack(">I", ((total % 65521) << 16) | 1)
    body = b"\x78\xda" + repeated + again * (total // len(chunk) - 1) + rest + adler
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# What must be refused, each with its reason.


def test_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(DataError, match=r"empty\.png is empty"):
        load(path)
    with pytest.raises(DataError, match="is empty"):
        load(b"")


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_truncated(fmt, kept):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, fmt)
    assert load(content).rgb.shape == (64, 64, 3)
    with pytest.raises(DataError, match="damaged image"):
        load(content[: int(len(content) * kept)])


@pytest.mark.parametrize("text", [b"x", b"P", b"BM", b"this is no image", b"P1 hello, world of text", b"\xff\xd8\xff"])
def test_text_named_png(tmp_path, text):
    path = tmp_path / "text.png"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"text\.png is (not an|a damaged) image"):
        load(path)


def test_formats_that_run_programs_are_not_read():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="not an image"):
        load(postscript)


def test_folder_missing_file_and_pipe(tmp_path):
    folder, pipe = tmp_path / "x.png", tmp_path / "pipe.png"
    folder.mkdir()
    os.mkfifo(pipe)
    for path, reason in ((folder, "is a folder"), (tmp_path / "no.png", "does not exist"), (pipe, "not a regular")):
        with pytest.raises(DataError, match=reason):
            load(path)
        with pytest.raises(DataError, match=reason):
            load(str(path))
    with pytest.raises(DataError, match="cannot be opened"):
        load("x" * 5000)


def test_pixel_bomb_is_refused_from_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(60_000))
    assert path.stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"60000 x 60000 pixels, more than the limit of 100000000"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB; decoded it is 3.6 million


def test_the_bomb_is_a_real_image():
    assert load(bomb(4_000)).rgb.shape == (4_000, 4_000, 3)


def test_the_limit_is_the_callers_own():
    content = png(np.zeros((10, 20), np.uint8))
    assert load(content, Reading(max_pixels=200)).rgb.shape == (10, 20, 3)
    with pytest.raises(DataError, match=r"20 x 10 pixels, more than the limit of 199"):
        load(content, Reading(max_pixels=199))


def test_pillows_own_limit_neither_warns_nor_refuses(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(png(np.zeros((10, 15), np.uint8))).rgb.shape == (10, 15, 3)
        assert load(png(np.zeros((30, 30), np.uint8))).rgb.shape == (30, 30, 3)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM"]), st.data())
def test_damage_anywhere_is_read_or_refused_in_words(fmt, data):
    content = bytearray(encoded(Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1)), fmt))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        assert load(bytes(content), Reading(max_pixels=10_000)).rgb.size > 0


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["deep.png", "deep_rgb.png", "deep_rgb.tif", "deep_lzw.tif", "deep_rgb.ppm", "deep.jp2"]), st.data()
)
def test_damage_of_16_bits_is_read_or_refused_in_words(name, data):
    content = bytearray(DEEP[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        assert load(bytes(content), Reading(bits=16, max_pixels=10_000)).rgb.size > 0


def test_unknown_ranges_are_refused():
    for array in (np.full((4, 4), 255.0, np.float32), np.full((4, 4), np.nan, np.float32), np.ones((4, 4), np.int32)):
        with pytest.raises(DataError, match="of unknown range; save as 8 or 16 bits"):
            load(encoded(Image.fromarray(array), "TIFF"))


def la16():
    """A PNG of one pixel, grey and alpha of 16 bits each."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 4, 0, 0, 0)), (b"IEND", b"")]
    parts.insert(1, (b"IDAT", zlib.compress(b"\0" + struct.pack(">HH", 300, 65535))))
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def decoded_pgm():
    image = Image.open(io.BytesIO(b"P5\n2 1\n1023\n" + struct.pack(">HH", 7, 1023)))
    image.load()
    return image


def white_is_zero():
    image = Image.fromarray(zoo.deep(zoo.grey(1), 12))
    return encoded(image, "TIFF", tiffinfo={262: 0})


def test_what_would_lose_bits_or_light_is_refused():
    see_through = np.dstack([zoo.deep(np.dstack([zoo.grey(1)] * 3), 16), zoo.deep(zoo.grey(2), 16)])
    colour = np.random.default_rng(0).integers(0, 2**16, (64, 64, 3)).astype(np.uint16)
    refused = {
        "16 bits a channel and transparency, which is not read": zoo.encoded(".png", see_through),
        "16 bits a channel as LA;16B, which is not read": la16(),
        "16 bits a channel as RGB, which is not read": b"P3\n1 1\n65535\n0 300 65535\n",
        "JPEG 2000 of 16 bits a channel, which is read in grey alone": zoo.encoded(".jp2", colour),
        "decoded before it came, and the range that it states is lost": decoded_pgm(),
        "stores white as 0, which is not read in more than 8 bits": white_is_zero(),
        "transparent all over, so that nothing is seen": png(np.full((4, 4, 4), (9, 9, 9, 0), np.uint8)),
    }
    for said, source in refused.items():
        with pytest.raises(DataError, match=said):
            load(source, Reading(bits=12))
    assert load(decoded_pgm(), Reading(bits=16)).rgb[0, :, 0].tolist() == [2, 255]


def test_16_bits_without_a_stated_depth_are_refused():
    for name in DEEP:
        with pytest.raises(DataError, match="holds 16-bit values up to 4095, and what is white is not stated"):
            load(DEEP[name])


# What must be read, to the pixel.


def test_rgb_and_grey():
    assert load(png(COLOURS)).rgb.tolist() == COLOURS.tolist()
    assert load(png(COLOURS)).notes == ()
    grey = load(png(np.array([[0, 7, 255]], np.uint8))).rgb
    assert grey.tolist() == [[[0] * 3, [7] * 3, [255] * 3]]
    assert grey.flags.writeable
    assert grey.flags.c_contiguous


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey(fmt):
    array = np.array([[0, 257, 300, 32768, 65535]], np.uint16)
    loaded = load(encoded(Image.fromarray(array), fmt), Reading(bits=16))
    assert loaded.rgb[..., 0].tolist() == [[0, 1, 1, 128, 255]]
    assert (loaded.rgb == loaded.rgb[..., :1]).all()
    assert loaded.notes == ("16-bit grey, scaled from 0..65535",)


def test_big_endian_16_bit_tiff():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0, 65535))
    assert load(encoded(image, "TIFF"), Reading(bits=16)).rgb[..., 0].tolist() == [[0, 255]]


def test_12_bits_packed_in_a_tiff_state_their_white():
    picture = zoo.grey(3)
    loaded = load(zoo.packed_12_bits(zoo.deep(picture, 12)))
    assert np.array_equal(loaded.rgb[..., 0], picture)
    assert loaded.notes == ("grey scaled from 0..4095",)


def test_a_header_states_the_upright_size():
    for orientation in range(1, 9):
        for fmt in ("PNG", "JPEG", "TIFF"):
            assert header(zoo.turned(zoo.grey(1), orientation, fmt)) == (fmt, *zoo.SIZE)
    assert header(b"none") == ("", 0, 0)


def test_float_tiff():
    loaded = load(encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"))
    assert loaded.rgb[..., 0].tolist() == [[0, 128, 255]]
    assert loaded.notes == ("float grey, scaled from 0..1",)


def test_palette_with_and_without_transparency():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([200, 100, 50, 1, 2, 3])
    assert load(encoded(image, "PNG")).rgb.tolist() == [[[200, 100, 50], [1, 2, 3]]]
    loaded = load(encoded(image, "PNG", transparency=0))
    assert loaded.rgb.tolist() == [[[0, 0, 0], [1, 2, 3]]]
    assert loaded.notes == ("transparency laid over black",)


def test_alpha():
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    loaded = load(png(rgba))
    assert loaded.rgb.tolist() == [[[200, 100, 50], [0, 0, 0], [100, 50, 25]]]
    assert loaded.notes == ("transparency laid over black",)
    assert load(png(rgba[:, :1])).notes == ()
    la = load(encoded(Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8), "LA"), "PNG"))
    assert la.rgb.tolist() == [[[90] * 3, [0] * 3]]


def test_1_bit():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert load(encoded(image, "PNG")).rgb.tolist() == [[[0] * 3, [255] * 3]]


def test_cmyk_jpeg():
    colour = np.array([200, 100, 50], np.uint8)
    cmyk = Image.fromarray(np.broadcast_to(colour, (16, 16, 3)).copy()).convert("CMYK")
    rgb = load(encoded(cmyk, "JPEG", quality=100)).rgb
    assert rgb.shape == (16, 16, 3)
    assert np.abs(rgb.astype(int) - colour).max() <= 2


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(fmt, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255
    undo = {5: np.rot90(upright[:, ::-1], 1), 6: np.rot90(upright, 1), 7: np.rot90(upright[:, ::-1], -1)}
    undo |= {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation]))
    loaded = load(encoded(stored, fmt, exif=exif, **({"quality": 100} if fmt == "JPEG" else {})))
    assert np.abs(loaded.rgb.astype(int) - upright).max() <= 2
    expected = () if orientation == 1 else (f"turned upright from EXIF orientation {orientation}",)
    assert loaded.notes == expected


@settings(deadline=None, max_examples=80)
@given(orientation=st.integers(1, 8), width=st.integers(1, 9), height=st.integers(1, 9), data=st.data())
def test_points_turn_as_pixels_do(orientation, width, height, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    stored = np.zeros((height, width), np.uint8)
    stored[y, x] = 255
    image = Image.fromarray(stored)
    image.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    corners = turned_points([[x, y], [x + 1, y + 1]], (width, height), orientation)
    (x0, y0), (x1, y1) = corners.min(0).astype(int), corners.max(0).astype(int)
    assert (x1 - x0, y1 - y0) == (1, 1)
    assert upright[y0, x0] == 255
    assert upright.shape[::-1] == turned_size((width, height), orientation)
    assert turned_size(turned_size((width, height), orientation), orientation) == (width, height)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animation_gives_its_first_frame(fmt):
    frames = [Image.new("RGB", (8, 8), (value,) * 3) for value in (0, 120, 240)]
    options = {"lossless": True} if fmt == "WEBP" else {}
    loaded = load(encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options))
    assert loaded.rgb.tolist() == np.zeros((8, 8, 3)).tolist()
    assert loaded.notes == ("first frame of 3",)


def test_paths_strings_and_bytes_agree(tmp_path):
    path = tmp_path / "colours.wrong-suffix"
    path.write_bytes(png(COLOURS))
    assert load(path).rgb.tolist() == load(str(path)).rgb.tolist() == load(path.read_bytes()).rgb.tolist()


def test_threads_do_not_disturb_each_other():
    contents = [png(np.full((40, 40, 3), value, np.uint8)) for value in range(8)]
    wrong = []

    def work(value):
        for _ in range(20):
            if not (load(contents[value]).rgb == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_importing_images_needs_no_torch():
    code = "import sys, hf_inspect.images; assert not {'torch', 'transformers', 'scipy', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Resize and normalise.

sizes = st.integers(1, 70)
unit = st.floats(0.1, 1.0)
units = st.tuples(unit, unit, unit)


@settings(deadline=None, max_examples=60)
@given(h=sizes, w=sizes, to_h=sizes, to_w=sizes, mean=units, std=units)
def test_shapes_and_ranges(h, w, to_h, to_w, mean, std):
    rgb = np.random.default_rng(h * 71 + w).integers(0, 256, (h, w, 3), np.uint8)
    preprocess = Preprocess(to_h, to_w, mean, std)
    small, planes = resize(rgb, preprocess), prepare(rgb, preprocess)
    assert small.dtype == np.uint8
    assert small.shape == (to_h, to_w, 3)
    assert (small.min((0, 1)) >= rgb.min((0, 1))).all()
    assert (small.max((0, 1)) <= rgb.max((0, 1))).all()
    assert planes.dtype == np.float32
    assert planes.shape == (3, to_h, to_w)
    assert planes.flags.c_contiguous
    back = (planes * np.array(std)[:, None, None] + np.array(mean)[:, None, None]).transpose(1, 2, 0) * 255
    assert np.abs(back - small).max() < 1e-2


@settings(deadline=None, max_examples=30)
@given(h=sizes, w=sizes, value=st.integers(0, 255))
def test_a_flat_image_stays_flat(h, w, value):
    rgb = np.full((h, w, 3), value, np.uint8)
    assert (resize(rgb, Preprocess(17, 23, HALF, HALF)) == value).all()


def test_prepare_does_not_change_its_input():
    rgb = COLOURS.copy()
    prepare(rgb, Preprocess(2, 2, HALF, HALF))
    assert rgb.tolist() == COLOURS.tolist()


@pytest.mark.parametrize(("mean", "std"), [(HALF, HALF), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
@pytest.mark.parametrize("shape", [(300, 300), (50, 400), (64, 96), (333, 20)])
def test_equals_the_image_processor_of_transformers(mean, std, shape):
    from transformers import TimmWrapperImageProcessor

    cfg = {"input_size": [3, 64, 96], "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
    processor = TimmWrapperImageProcessor(pretrained_cfg=cfg | {"mean": mean, "std": std})
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    theirs = processor(Image.fromarray(rgb), return_tensors="pt")["pixel_values"][0].numpy()
    assert np.abs(prepare(rgb, Preprocess(64, 96, mean, std)) - theirs).max() <= 1e-6


def test_preprocess_round_trip_and_refusals():
    preprocess = Preprocess(64, 96, HALF, (0.2, 0.3, 0.4))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    good = preprocess.to_dict()
    assert len(good) == 6
    broken = [{"height": 0}, {"width": 1.5}, {"mean": [0.5]}, {"std": [0, 1, 1]}, {"std": ["a", 1, 1]}, {"mean": 0.5}]
    broken += [{"interpolation": "nearest"}, {"resize": "letterbox"}, {"unknown": 1}, {"mean": [float("nan")] * 3}]
    for change in broken:
        with pytest.raises(DataError, match="wanted"):
            Preprocess.from_dict(good | change)
    with pytest.raises(DataError, match="exactly the keys"):
        Preprocess.from_dict({"height": 3})


def test_arrays_of_another_kind_are_refused():
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), [[0]]):
        with pytest.raises(DataError, match="An image came as"):
            resize(wrong, Preprocess(8, 8, HALF, HALF))


# Forms other than a file.


def test_an_opened_image_is_read_as_its_file_is_and_left_as_it_was(tmp_path):
    grey16 = Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(np.uint16))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    colours, frames = Image.fromarray(COLOURS), [Image.new("P", (9, 7), i) for i in range(3)]
    rgba = Image.fromarray(np.dstack([COLOURS, COLOURS[..., :1]]))
    saved = {
        "a.png": colours, "b.png": colours.quantize(4), "c.jpg": colours, "d.png": rgba, "e.png": grey16,
        "f.tif": grey16, "g.pgm": grey16, "h.bmp": colours, "i.tif": Image.new("F", (5, 4), 0.25),
        "j.png": colours.convert("1"), "k.webp": colours, "l.jpg": colours.convert("CMYK"),
    }  # fmt: skip
    for name, image in saved.items():
        image.save(tmp_path / name)
        if name in ("a.png", "c.jpg", "f.tif"):
            image.save(tmp_path / f"turned_{name}", exif=exif)
    frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 16
    deep = Reading(bits=16)
    for path in paths:
        wanted = load(path, deep)
        with Image.open(path) as opened:
            found = load(opened, deep)
            assert np.array_equal(found.rgb, wanted.rgb), path.name
            assert found.notes == wanted.notes
            opened.load()
            once_more = load(opened, deep)
            assert np.array_equal(once_more.rgb, wanted.rgb), path.name
    for level in ("RGB", "P", "L", "1", "LA", "I;16", "CMYK", "YCbCr", "HSV"):
        image = colours.convert(level) if level != "I;16" else grey16
        before = image.tobytes()
        assert load(image, deep).rgb.shape == (*image.size[::-1], 3)
        assert image.tobytes() == before


def test_an_opened_animation_is_read_where_it_stands(tmp_path):
    frames = [Image.fromarray(np.full((9, 7), level, np.uint8)) for level in (10, 100, 200)]
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "x.tif") as opened:
        opened.seek(1)
        found = load(opened)
    assert (int(found.rgb.mean()), found.notes) == (100, ("frame 2 of 3",))


def test_an_array_is_copied_and_limited():
    pixels = COLOURS.copy()
    loaded = load(pixels)
    pixels[:] = 0
    assert np.array_equal(loaded.rgb, COLOURS)
    assert np.array_equal(load(COLOURS[:, ::-1]).rgb, COLOURS[:, ::-1])
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(load(grey).rgb, load(png(grey)).rgb)
    height, width = COLOURS.shape[:2]
    for form in (COLOURS, Image.fromarray(COLOURS)):
        with pytest.raises(DataError, match=f"{width} x {height} pixels, more than the limit of {height * width - 1}"):
            load(form, Reading(max_pixels=height * width - 1))


def test_a_file_object_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(COLOURS))
    with path.open("rb") as file:
        file.read(10)
        assert np.array_equal(load(file).rgb, COLOURS)
    read_end, write_end = os.pipe()
    os.write(write_end, path.read_bytes())
    os.close(write_end)
    with open(read_end, "rb") as pipe:  # cannot be rewound
        assert np.array_equal(load(pipe).rgb, COLOURS)
    named = io.BytesIO(b"no image")
    named.name = "camera 3"
    with pytest.raises(DataError, match="camera 3 is not an image"):
        load(named)


def test_links_and_names_that_lead_nowhere_are_told_apart(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path, said in (("gone", f"is a link to {tmp_path / 'nothing'}, which is not there"),
                       ("circle", "cannot be opened .*symbolic links"), ("a\0b", "cannot be opened")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            load(tmp_path / path)


def test_a_file_too_large_for_any_image_is_not_read(tmp_path):
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(DataError, match="has 2000000001 bytes, more than 2000000000"):
        load(path)
