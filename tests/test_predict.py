import dataclasses
import errno
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from hf_inspect import cli, images
from hf_inspect.errors import DataError
from hf_inspect.inspector import Inspector
from hf_inspect.predict import find_images, predict, run, summarise
from hf_inspect.runtime import Engine
from hf_inspect.schema import BINARY, History, Prediction
from hf_inspect.vlm import ScriptedVLM
from tests.conftest import png
from tests.scripted import brightness_cascade, brightness_engine, grey

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


UNREADABLE = {"b_empty.png", "c.jpg", "d_text.png", "e_bomb.png", "g_folder.png", "h16.png", "missing.png"}


def test_ugly_files_are_counted_and_the_run_goes_on(cascade, ugly):
    lines = []
    summary = run(cascade, [ugly, ugly / "missing.png"], show=lines.append)
    rows = {Path(line.split(": ")[0].split("  ")[-1]).name: line for line in lines[:13]}
    unreadable = {name for name, line in rows.items() if line.startswith("unreadable")}
    assert unreadable == UNREADABLE
    assert summary["label"]["unreadable"] == len(UNREADABLE)
    assert sum(summary["label"].values()) == 13
    assert "16-bit values up to 8184, and what is white is not stated" in rows["h16.png"]
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


def test_a_name_that_is_no_text_does_not_end_the_run(cascade, tmp_path):
    """A camera's file system of another encoding, and a name that would clear the operator's terminal."""
    folder = tmp_path / "line"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"a\n\x1b[2J.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(png(grey(20)))
    out = tmp_path / "out.jsonl"
    for _ in range(2):
        done = subprocess.run([COMMAND, "predict", cascade, folder, "--out", out], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert r"caf\udce9.png" in done.stdout
        assert r"a\n\x1b[2J.png" in done.stdout
        assert {row["path"] for row in read(out)} == {os.fsdecode(path) for path in folder.iterdir()}
        assert len(read(out)) == 2


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


def test_a_row_of_an_earlier_version_is_refused(cascade, line, tmp_path):
    out = tmp_path / "out.jsonl"
    inspector = Inspector.from_pretrained(cascade)
    list(predict(inspector, find_images([line])[0], out))
    rows = [{key: value for key, value in row.items() if key != "sha256"} for row in read(out)]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="line 1 is no row of"):
        list(predict(inspector, find_images([line])[0], out))


@pytest.mark.parametrize(
    "change",
    [
        {"fallback": "reject"},
        {"max_pixels": 10_000},
        {"policy": None},
        {"vlm": ScriptedVLM([0.7])},
        {"edge": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_all_that_decides_is_in_the_identity(cascade, line, tmp_path, change):
    inspector, out = Inspector.from_pretrained(cascade), tmp_path / "out.jsonl"
    if "policy" in change:
        change = {"policy": dataclasses.replace(inspector.policy, seed=1)}
    if "edge" in change:
        change = {"edge": Engine.from_pretrained(brightness_engine(tmp_path / "edge", side=24))}
    other = dataclasses.replace(inspector, **change)
    list(predict(inspector, [line / "000.png"], out))
    assert inspector.identity == Inspector.from_pretrained(cascade).identity
    with pytest.raises(DataError, match="another --out") as refused:
        list(predict(other, [line / "000.png"], out))
    assert inspector.identity in str(refused.value)
    assert other.identity in str(refused.value)
    assert len(read(out)) == 1


def test_an_overwritten_file_gets_a_verdict_of_its_own(cascade, line, tmp_path):
    """A camera that writes every part to one name: the second part was given the first one's `good`."""
    out, part = tmp_path / "out.jsonl", line / "007.png"
    part.write_bytes(png(grey(20)))
    inspector = Inspector.from_pretrained(cascade)
    first = dict(predict(inspector, find_images([line])[0], out))
    part.write_bytes(png(grey(240)))
    seen = watched(inspector)
    again = dict(predict(inspector, find_images([line])[0], out))
    assert [len(images) for images in seen] == [1]  # the other 59 were not inspected again
    assert (first[str(part)]["label"], again[str(part)]["label"]) == ("good", "defect")
    assert {k: v for k, v in again.items() if k != str(part)} == {k: v for k, v in first.items() if k != str(part)}
    rows = read(out)
    assert len(rows) == 61
    assert [row["label"] for row in rows if row["path"] == str(part)] == ["good", "defect"]
    for row in rows:
        if row["path"] != str(part) or row["label"] == "defect":
            assert row["sha256"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
    part.write_bytes(png(grey(20)))  # back again: the last row of a path counts, not any older one
    assert dict(predict(inspector, find_images([line])[0], out))[str(part)]["label"] == "good"
    assert [row["label"] for row in read(out) if row["path"] == str(part)] == ["good", "defect", "good"]


def watched(inspector):
    """Lists of the images that the edge is asked about from now on."""
    seen, edge = [], inspector.edge

    class Watched:
        task, identity, history, reading = edge.task, edge.identity, edge.history, edge.reading

        def predict(self, images):
            seen.append(images)
            return edge.predict(images)

    inspector.edge = Watched()
    return seen


def test_what_was_unreadable_is_tried_again(cascade, line, tmp_path, monkeypatch):
    out, part, inspector = tmp_path / "out.jsonl", line / "003.png", Inspector.from_pretrained(cascade)
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    missing = line / "new.png"
    paths = [*find_images([line])[0], missing]
    for _ in range(3):  # a file that stays broken gets no further rows
        rows = dict(predict(inspector, paths, out))
        assert [name for name, row in rows.items() if row["label"] == "unreadable"] == [str(part), str(missing)]
        assert "damaged" in rows[str(part)]["reason"]
        assert len(read(out)) == 61
    part.write_bytes(whole)
    missing.write_bytes(png(grey(250)))
    rows = dict(predict(inspector, paths, out))
    assert rows[str(missing)]["label"] == "defect"
    assert not [row for row in rows.values() if row["label"] == "unreadable"]
    assert len(read(out)) == 63


def test_what_could_not_be_read_for_a_moment_is_tried_again(cascade, line, tmp_path, monkeypatch):
    """A disk that fails, and memory that does not suffice: the content of the file is the same afterwards."""
    inspector, out, part = Inspector.from_pretrained(cascade), tmp_path / "out.jsonl", line / "001.png"

    def failing(error):
        def raised(*args, **kwargs):
            raise error

        return raised

    for name, error in (
        ("builtins.open", OSError(errno.EIO, "Input/output error")),
        ("hf_inspect.pixels._held", MemoryError("no memory left")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, failing(error))
            found = dict(predict(inspector, [part], out))
        assert found[str(part)]["label"] == "unreadable"
        assert str(error.args[-1]) in found[str(part)]["reason"]
    found = dict(predict(inspector, [part], out))
    assert found[str(part)]["label"] != "unreadable"
    assert [row["sha256"] for row in read(out)] == [None, found[str(part)]["sha256"], found[str(part)]["sha256"]]


def test_a_failed_answer_is_tried_again(tmp_path):
    part, out = tmp_path / "between.png", tmp_path / "out.jsonl"
    part.write_bytes(png(grey(128)))
    asking = brightness_cascade(tmp_path / "asking", with_vlm=True)

    class Flaky(ScriptedVLM):
        fails = True

        def predict(self, images):
            if self.fails:
                raise MemoryError("no memory left")
            return super().predict(images)

    inspector = dataclasses.replace(Inspector.from_pretrained(asking), vlm=Flaky([0.9]))
    for _ in range(2):
        [(_, row)] = predict(inspector, [part], out)
        assert (row["label"], row["decided_by"]) == ("undecided", "rule")
        assert "MemoryError: no memory left" in row["reason"]
    inspector.vlm.fails = False
    for _ in range(2):
        [(_, row)] = predict(inspector, [part], out)
        assert (row["label"], row["decided_by"]) == ("defect", "both")
    assert [row["label"] for row in read(out)] == ["undecided", "defect"]


def test_the_bytes_that_are_hashed_are_those_that_are_judged(cascade, tmp_path, monkeypatch):
    """The next part comes while the last one is inspected: a row is of one of them, never of both."""
    part, out, inspector = tmp_path / "part.png", tmp_path / "out.jsonl", Inspector.from_pretrained(cascade)
    dark, bright = png(grey(20)), png(grey(240))
    part.write_bytes(dark)
    seen = watched(inspector)
    own = images.read

    def overwritten(path):
        content = own(path)
        part.write_bytes(bright)
        return content

    monkeypatch.setattr(images, "read", overwritten)
    [(_, row)] = predict(inspector, [part], out)
    assert (row["label"], row["sha256"]) == ("good", hashlib.sha256(dark).hexdigest())
    assert len(seen) == 1
    [(_, row)] = predict(inspector, [part], out)
    assert (row["label"], row["sha256"]) == ("defect", hashlib.sha256(bright).hexdigest())


def test_two_runs_cannot_write_one_file(cascade, line, tmp_path):
    out, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(out)
    first = predict(Inspector.from_pretrained(cascade), find_images([line])[0], out)
    started = [next(first)]
    content = out.read_bytes()
    for name in (out, link):
        done = subprocess.run([COMMAND, "predict", cascade, line, "--out", name], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("hf-inspect: ")
        assert "is being written by another 'hf-inspect predict'" in done.stderr
        assert out.read_bytes() == content
    started += first
    assert Counter(row["path"] for row in read(out)) == {str(path): 1 for path in find_images([line])[0]}
    assert len(started) == 60
    done = subprocess.run([COMMAND, "predict", cascade, line, "--out", out], capture_output=True, text=True)
    assert (done.returncode, len(read(out))) == (0, 60)


def test_a_full_disk_is_a_sentence_and_the_run_goes_on(cascade, line, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [COMMAND, "predict", cascade, line, "--out", out]

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # the kernel takes a part of a row, then no more

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_disk)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"out\.jsonl cannot be written \(File too large\); make room", done.stderr)
    assert out.stat().st_size == 10_000
    assert not out.read_bytes().endswith(b"\n")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Counter(Counter(row["path"] for row in read(out)).values()) == {1: 60}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_the_disk_does_not_take_is_a_data_error(cascade, line, tmp_path, monkeypatch, number):
    def refused(*args):
        raise OSError(number, os.strerror(number))

    inspector, paths = Inspector.from_pretrained(cascade), find_images([line])[0]
    for name in ("mkdir", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{name}", refused)
            with pytest.raises(DataError, match=f"cannot be written .{os.strerror(number)}"):
                list(predict(inspector, paths, tmp_path / name / "out.jsonl"))
    rows = read(tmp_path / "fsync" / "out.jsonl")
    assert len(rows) == 60


def test_an_out_that_is_no_file(cascade, line, tmp_path):
    for out in (tmp_path, Path("/dev/full")):
        with pytest.raises(DataError, match="no regular file"):
            list(predict(Inspector.from_pretrained(cascade), find_images([line])[0], out))


class Flat:
    """An edge that answers at once."""

    task, history, identity, reading = BINARY, History(), "flat", None

    def predict(self, images):
        return [Prediction(0.0, (1.0, 0.0))] * len(images)


@pytest.mark.parametrize("again", [False, True], ids=["first run", "resumed"])
def test_rows_are_not_kept_in_memory(cascade, tmp_path, again):
    """3,000 rows of 1 kB: what is kept of a path is its name and a place."""
    folder, out = tmp_path / "parts", tmp_path / "out.jsonl"
    folder.mkdir()
    (folder / "0.png").write_bytes(png(grey(20)))
    paths = [folder / "0.png"]
    for i in range(1, 3000):
        paths.append(folder / f"{i}.png")
        os.link(paths[0], paths[-1])
    inspector = dataclasses.replace(Inspector.from_pretrained(cascade), edge=Flat())
    if again:
        summarise(row for _, row in predict(inspector, paths, out))
    predict_some = summarise(row for _, row in predict(inspector, paths[:40], tmp_path / "warm.jsonl"))
    assert predict_some["label"] == {"good": 40}
    tracemalloc.start()
    summary = summarise(row for _, row in predict(inspector, paths, out))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary["label"] == {"good": 3000}
    assert out.stat().st_size > 3000 * 300
    assert peak < 3000 * 250


def entries(folder):
    """Where a walk of the folder ends up: names relative to it, in order."""
    found, other = find_images([folder])
    return [path.relative_to(folder).as_posix() for path in found], other


def test_folders_behind_links_are_walked_once(cascade, tmp_path):
    root, mounted = tmp_path / "line", tmp_path / "mounted"
    for name in ("line/b/2.png", "mounted/1.png", "mounted/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(grey(240)))
    (root / "a").symlink_to(mounted)
    (root / "again").symlink_to(mounted / "deep")  # walked as part of a
    (root / "b" / "up").symlink_to(root)  # a circle
    (root / "a_latest").symlink_to(root / "b")  # a name that changes with the day: its own name is kept
    assert entries(root) == (["b/2.png", "a/1.png", "a/deep/3.png"], 0)
    assert entries(root / "a") == (["1.png", "deep/3.png"], 0)
    given, _ = find_images([root, mounted])  # its own name where it is given one
    assert given == [root / "b/2.png", mounted / "1.png", mounted / "deep/3.png"]
    assert run(cascade, [root])["label"] == {"defect": 3}


def test_what_cannot_be_looked_into_is_a_row(cascade, tmp_path, monkeypatch):
    """A camera whose folder was locked, or whose disk was not mounted, was left out without a word."""
    root = tmp_path / "line"
    for name in ("camera1", "camera2", "camera5"):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(png(grey(20)))
    (root / "camera3").symlink_to(tmp_path / "not_mounted")
    (root / "camera4").symlink_to(root / "camera4")
    (root / "notes.txt").write_text("shift 3")
    own = os.scandir

    def denied(path):
        if Path(path).name == "camera2":
            raise PermissionError(errno.EACCES, "Permission denied")
        return own(path)

    monkeypatch.setattr(os, "scandir", denied)
    out = tmp_path / "out.jsonl"
    summary = run(cascade, [root], out)
    assert summary["label"] == {"good": 2, "unreadable": 3}
    reasons = {Path(row["path"]).name: row["reason"] for row in read(out) if row["label"] == "unreadable"}
    assert "Permission denied" in reasons["camera2"]
    assert f"is a link to {tmp_path / 'not_mounted'}, which is not there" in reasons["camera3"]
    assert "symbolic links" in reasons["camera4"]
    with pytest.raises(typer.Exit) as left:
        cli.predict(str(cascade), [root], strict=True)
    assert left.value.exit_code == 2
    monkeypatch.undo()
    (tmp_path / "not_mounted").mkdir()
    assert run(cascade, [root], out)["label"] == {"good": 3, "unreadable": 1}  # camera4 alone: camera3 is empty


ROUNDS = 8


def test_kill_9_at_any_moment_loses_and_doubles_nothing(cascade, tmp_path):
    """Killed again and again while files change: each content of a path has one row, and the last one counts."""
    folder, out, rng = tmp_path / "parts", tmp_path / "out.jsonl", np.random.default_rng(0)
    folder.mkdir()
    levels = {folder / f"{i:03}.png": 20 for i in range(300)}
    for path in levels:
        path.write_bytes(png(grey(20, 256)))
    killed, contents = 0, Counter()
    for at in range(ROUNDS):
        contents |= Counter({(str(path), hashlib.sha256(path.read_bytes()).hexdigest()): 1 for path in levels})
        killed += killed_run(cascade, folder, out, rng.uniform(0, 0.15))
        whole = out.read_bytes() if out.exists() else b""
        rows = [json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith(b"\n")]
        found = Counter((row["path"], row["sha256"]) for row in rows)
        assert max(found.values(), default=1) == 1
        assert set(found) <= set(contents)
        for path in rng.choice(sorted(levels), 100, replace=False):
            levels[path] = 240 - at  # another content than ever
            path.write_bytes(png(grey(240 - at, 256)))
    assert killed >= 2
    last = dict(predict(Inspector.from_pretrained(cascade), find_images([folder])[0], out))
    assert {name: row["label"] for name, row in last.items()} == {
        str(path): "good" if level == 20 else "defect" for path, level in levels.items()
    }
    by_path = {row["path"]: row["sha256"] for row in read(out)}  # the last row of a path
    assert by_path == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in levels}
    assert max(Counter((row["path"], row["sha256"]) for row in read(out)).values()) == 1


def killed_run(cascade, folder, out, seconds):
    """Run `predict` in a process of its own and kill -9 it so long after it began; whether it was still running."""
    code = (
        "import sys; from pathlib import Path; from hf_inspect.inspector import Inspector;"
        "from hf_inspect.predict import find_images, predict; cascade, folder, out = map(Path, sys.argv[1:]);"
        "inspector, found = Inspector.from_pretrained(cascade), find_images([folder])[0];"
        "print('begun', flush=True); list(predict(inspector, found, out))"
    )
    command = [sys.executable, "-c", code, cascade, folder, out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(seconds)
        process.kill()
    return process.returncode == -signal.SIGKILL
