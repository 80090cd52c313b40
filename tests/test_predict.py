import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_inspect.errors import DataError
from hf_inspect.inspector import Inspector
from hf_inspect.predict import find_images, predict, run
from tests.conftest import png
from tests.scripted import brightness_cascade, grey

COMMAND = str(Path(sys.executable).with_name("hf-inspect"))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return brightness_cascade(tmp_path_factory.mktemp("cascade"))


def bomb(path):
    """A real PNG header of 60,000 x 60,000 pixels in front of a few bytes."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 1000)))


@pytest.fixture
def ugly(tmp_path):
    """Good images among files no line should stop for."""
    folder = tmp_path / "line"
    folder.mkdir()
    colour = np.random.default_rng(0).integers(0, 60, (40, 30, 3)).astype(np.uint8)
    (folder / "a_good.png").write_bytes(png(grey(20)))
    (folder / "b_empty.png").write_bytes(b"")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 200, 3)).astype(np.uint8)).save(folder / "c.jpg")
    whole = (folder / "c.jpg").read_bytes()
    (folder / "c.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "d_text.png").write_text("not an image")
    bomb(folder / "e_bomb.png")
    frames = [Image.fromarray(grey(level)) for level in (10, 250)]
    frames[0].save(folder / "f.gif", save_all=True, append_images=frames[1:])
    (folder / "g_folder.png").mkdir()
    Image.fromarray((np.arange(1024).reshape(32, 32) * 8).astype(np.uint16)).save(folder / "h16.png")
    Image.fromarray(colour).quantize(16).save(folder / "i_palette.png")
    Image.fromarray(np.dstack([colour, np.full((40, 30), 255, np.uint8)])).save(folder / "j_rgba.png")
    Image.fromarray(colour).convert("CMYK").save(folder / "k_cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour).save(folder / "l_rotated.jpg", exif=exif)
    (folder / "notes.txt").write_text("shift 3")
    return folder


UNREADABLE = {"b_empty.png", "c.jpg", "d_text.png", "e_bomb.png", "g_folder.png", "missing.png"}


def test_ugly_files_are_counted_and_the_run_goes_on(cascade, ugly):
    lines = []
    summary = run(cascade, [ugly, ugly / "missing.png"], show=lines.append)
    rows = {Path(line.split(": ")[0].split("  ")[-1]).name: line for line in lines[:13]}
    unreadable = {name for name, line in rows.items() if line.startswith("unreadable")}
    assert unreadable == UNREADABLE
    assert summary["label"]["unreadable"] == len(UNREADABLE)
    assert sum(summary["label"].values()) == 13
    assert "first frame" in rows["f.gif"].lower() or "first of" in rows["f.gif"].lower()
    assert any("1 other files" in line for line in lines)


def test_exit_code_is_zero_and_two_when_strict(cascade, ugly):
    for flags, code in (([], 0), (["--strict"], 2)):
        done = subprocess.run([COMMAND, "predict", cascade, ugly, *flags], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr + done.stdout
    good = subprocess.run([COMMAND, "predict", cascade, ugly / "a_good.png", "--strict"], capture_output=True)
    assert good.returncode == 0


def test_a_wrong_folder_is_one_sentence(tmp_path):
    done = subprocess.run([COMMAND, "predict", tmp_path, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("hf-inspect: ")
    assert "Traceback" not in done.stderr


def test_max_pixels_is_the_caller_s(cascade, tmp_path):
    (tmp_path / "x.png").write_bytes(png(grey(20, 64)))
    assert run(cascade, [tmp_path], max_pixels=64 * 64)["label"] == {"good": 1}
    assert run(cascade, [tmp_path], max_pixels=64 * 64 - 1)["label"] == {"unreadable": 1}


def test_paths_are_walked_once_in_order(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/3.tiff", "a/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found, other = find_images([tmp_path / "b", tmp_path, tmp_path / "b/2.png"])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["b/1.JPG", "b/2.png", "a/3.tiff"]
    assert other == 1


@pytest.fixture
def line(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for i, level in enumerate(np.random.default_rng(2).integers(0, 255, 60)):
        (folder / f"{i:03}.png").write_bytes(png(grey(int(level))))
    return folder


def read(out):
    return [json.loads(row) for row in out.read_text().splitlines()]


def test_a_torn_line_is_dropped_and_the_run_goes_on(cascade, line, tmp_path):
    out = tmp_path / "out.jsonl"
    inspector = Inspector.from_pretrained(cascade)
    whole = dict(predict(inspector, find_images([line])[0], out))
    undisturbed = read(out)
    content = out.read_bytes()
    for cut in (0, 5, len(content) // 3, len(content) - 1):
        out.write_bytes(content[:cut])
        again = dict(predict(inspector, find_images([line])[0], out))
        assert {k: v["label"] for k, v in again.items()} == {k: v["label"] for k, v in whole.items()}
        assert [(r["path"], r["label"]) for r in read(out)] == [(r["path"], r["label"]) for r in undisturbed]


def test_another_file_is_never_touched(cascade, line, tmp_path):
    inspector = Inspector.from_pretrained(cascade)
    for content in (b"a report without a newline", b"a,b\n1,2\n", b'{"x": 1}\n'):
        other = tmp_path / "report.csv"
        other.write_bytes(content)
        with pytest.raises(DataError, match="another --out"):
            list(predict(inspector, find_images([line])[0], other))
        assert other.read_bytes() == content


def test_results_of_other_settings_are_not_mixed(cascade, line, tmp_path):
    out = tmp_path / "out.jsonl"
    run(cascade, [line], out)
    with pytest.raises(DataError, match="another --out"):
        run(cascade, [line], out, fallback="reject")


def test_kill_9_loses_and_doubles_nothing(cascade, tmp_path):
    folder, out = tmp_path / "parts", tmp_path / "out.jsonl"
    folder.mkdir()
    for i in range(400):
        (folder / f"{i:03}.png").write_bytes(png(grey(i % 256, 512)))
    command = [COMMAND, "predict", cascade, folder, "--out", out]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while (not out.exists() or out.stat().st_size < 5000) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(first.pid, signal.SIGKILL)
    begun = out.read_bytes().count(b"\n")
    assert 0 < begun < 400
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Counter(Counter(row["path"] for row in read(out)).values()) == {1: 400}
    assert "400 inspected" in done.stdout
