"""`hf-inspect predict` on patterns, videos and cameras: each frame a row of its own, and nothing lost in silence."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hf_inspect import Inspector, sources
from hf_inspect.cli import app
from hf_inspect.errors import DataError
from hf_inspect.predict import predict, run
from hf_inspect.sources import Broken, Every, Frame, expanded, find_images, items
from tests import finders
from tests.conftest import png
from tests.scripted import brightness_cascade, grey

LEVELS = (20, 240, 20, 240, 240, 20, 20, 20, 240, 240, 20, 240)  # grey of each frame: defect where bright
RATE = 10.0  # frames a second


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return brightness_cascade(tmp_path_factory.mktemp("cascade") / "cascade")


def film(path, levels=LEVELS, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), RATE, (64, 48))
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def predicted(cascade, *words):
    return CliRunner().invoke(app, ["predict", str(cascade), *map(str, words)])


def rows(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize(("name", "codec"), [("line.avi", "MJPG"), ("line.MP4", "mp4v"), ("line.mkv", "MJPG")])
def test_each_frame_of_a_video_is_a_row_with_its_place_and_time(cascade, tmp_path, name, codec):
    path, out = film(tmp_path / name, codec=codec), tmp_path / "out.jsonl"
    done = predicted(cascade, path, "--out", out)
    assert done.exit_code == 0, done.output
    found = rows(out)
    assert [row["label"] for row in found] == ["defect" if level > 100 else "good" for level in LEVELS]
    assert [row["path"] for row in found] == [f"{path}/{i:06}" for i in range(len(LEVELS))]
    assert [row["frame"] for row in found] == list(range(len(LEVELS)))
    assert [row["seconds"] for row in found] == pytest.approx([i / RATE for i in range(len(LEVELS))])
    assert {(row["source"], row["width"], row["height"]) for row in found} == {(str(path), 64, 48)}
    assert "12 inspected" in done.output


def test_colours_of_a_frame_are_those_of_a_file(tmp_path):
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 220), np.uint8))  # OpenCV's blue, green, red
    writer.release()
    [frame] = items([path])
    red, green, blue = frame.rgb.reshape(-1, 3).mean(0)
    assert red > 200
    assert max(green, blue) < 30


def test_every_takes_frames_by_number_or_by_time(cascade, tmp_path):
    path = film(tmp_path / "line.avi")
    for every, want in (("1", range(12)), ("5", (0, 5, 10)), ("0.3s", (0, 3, 6, 9)), ("100", (0,)), ("7s", (0,))):
        assert [one.place["frame"] for one in items([path], Every.parse(every))] == list(want), every
    for wrong in ("0", "0s", "-1", "x", "1m", "", "1.5"):
        with pytest.raises(DataError, match=r"--every|number of frames"):
            Every.parse(wrong)
    (tmp_path / "a.png").write_bytes(png(grey(20)))
    assert predicted(cascade, path, "--every", "5", "--out", tmp_path / "out.jsonl").exit_code == 0
    assert [row["frame"] for row in rows(tmp_path / "out.jsonl")] == [0, 5, 10]
    with pytest.raises(DataError, match="none was given"):
        run(cascade, [tmp_path / "a.png"], every=Every(2))


@given(st.integers(1, 40), st.integers(1, 200), st.sampled_from([0.25, 0.5, 3.0]))
def test_of_every_so_many_exactly_one_is_taken(frames, n, seconds):
    assert len({Every(frames).slot(i, 0.0) for i in range(n)}) == -(-n // frames)
    slots = [Every(seconds=seconds).slot(i, i / 8) for i in range(n)]  # of a video of 8 frames a second
    assert slots == sorted(slots)
    assert len(set(slots)) == -(-n // int(8 * seconds))


def test_a_run_goes_on_where_it_was_stopped(cascade, tmp_path):
    path, out = film(tmp_path / "line.avi"), tmp_path / "out.jsonl"
    inspector = Inspector.from_pretrained(cascade)
    going = predict(inspector, items([path]), out)
    for _ in range(5):
        next(going)
    going.close()  # as Ctrl-C does
    before = out.read_bytes()
    assert 5 <= len(rows(out)) < 12
    seen, own = [], inspector.edge.predict
    inspector.edge.predict = lambda images: seen.extend(images) or own(images)
    assert len(list(predict(inspector, items([path]), out))) == 12
    assert len(seen) == 12 - len(before.splitlines())
    assert out.read_bytes().startswith(before)
    assert [row["frame"] for row in rows(out)] == list(range(12))


@pytest.mark.parametrize("name", ["line.avi", "line.mkv"])
def test_of_a_broken_video_what_can_be_read_is_kept_and_the_rest_is_told(cascade, tmp_path, name):
    path, out = film(tmp_path / name), tmp_path / "out.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.7)])
    done = predicted(cascade, path, "--out", out, "--strict")
    assert done.exit_code == 2, done.output
    *kept, last = rows(out)
    assert 1 <= len(kept) < 12
    assert [row["label"] for row in kept] == ["defect" if level > 100 else "good" for level in LEVELS[: len(kept)]]
    assert last["path"] == str(path)
    assert (last["label"], last["sha256"]) == ("unreadable", None)
    assert f"states 12 frames, and {len(kept)} can be read" in last["reason"]
    path.write_bytes(whole)
    assert predicted(cascade, path, "--out", out, "--strict").exit_code == 0
    assert len(rows(out)) == 13


def test_what_is_no_video_is_a_sentence(cascade, tmp_path):
    for name, content in (("junk.mp4", b"junk" * 100), ("empty.avi", b""), ("text.mkv", b"a,b\n1,2\n")):
        (tmp_path / name).write_bytes(content)
        done = predicted(cascade, tmp_path / name, "--strict")
        assert done.exit_code == 2
        assert f"{name} cannot be read as a video" in done.output
        assert "1 inspected: unreadable 1" in done.output
    assert "does not exist" in predicted(cascade, tmp_path / "missing.mp4").output


def test_a_pattern_is_what_the_shell_would_have_made_of_it(cascade, tmp_path):
    for name in ("a1.png", "a2.png", "b1.png", "deep/a3.png", "[x].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(grey(20)))
    names = lambda pattern: [p.relative_to(tmp_path).as_posix() for p in expanded([tmp_path / pattern])]  # noqa: E731
    assert names("a*.png") == ["a1.png", "a2.png"]
    assert names("?1.png") == ["a1.png", "b1.png"]
    assert names("**/a*.png") == ["a1.png", "a2.png", "deep/a3.png"]
    assert names("[x].png") == ["[x].png"], "a file that is there is no pattern"
    assert "2 inspected" in predicted(cascade, tmp_path / "a*.png").output
    assert find_images(expanded([tmp_path / "d*"]))[0] == [tmp_path / "deep/a3.png"]
    with pytest.raises(DataError, match="Nothing here matches"):
        run(cascade, [tmp_path / "*.bmp"])


class Camera:
    """What OpenCV gives of a camera, that breaks off after some frames, or is interrupted by its operator."""

    def __init__(self, levels, interrupted=False):
        self.levels, self.interrupted, self.now = list(levels), interrupted, None

    def isOpened(self):
        return bool(self.levels)

    def grab(self):
        self.now = self.levels.pop(0) if self.levels else None
        if self.now is None and self.interrupted:
            raise KeyboardInterrupt
        return self.now is not None

    def retrieve(self):
        return True, np.full((48, 64, 3), self.now, np.uint8)

    def release(self):
        pass


def test_a_camera_gives_rows_under_their_time_until_it_is_interrupted(cascade, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    for turn in (1, 2):
        monkeypatch.setattr(sources, "_opened", lambda source: Camera(LEVELS, interrupted=source == 3))
        done = predicted(cascade, "camera:3", "--every", "2", "--out", out)
        assert done.exit_code == 0, done.output
        assert "6 inspected: defect 2, good 4" in done.output
        found = rows(out)
        assert len(found) == 6 * turn, "a later run adds its own"
        assert len({row["path"] for row in found}) == 6 * turn
        assert [row["frame"] for row in found[-6:]] == [0, 2, 4, 6, 8, 10]
    assert [row["time"] for row in found] == sorted(row["time"] for row in found)
    assert all(row["time"].endswith("+00:00") and row["source"] == "camera:3" for row in found)


def test_a_camera_that_fails_is_told_of(cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_opened", lambda source: Camera(LEVELS[:3]))
    *frames, last = items([Path("camera:0")])
    assert all(isinstance(one, Frame) for one in frames)
    assert last == Broken("camera:0", "camera:0 gave no further picture after 3; look after it.")
    monkeypatch.setattr(sources, "_opened", lambda source: Camera(()))
    with pytest.raises(DataError, match="camera:0 cannot be opened"):
        run(cascade, [Path("camera:0")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera:0").write_bytes(png(grey(20)))
    assert "1 inspected: good 1" in predicted(cascade, "camera:0").output, "a file of this name is that file"


def test_there_is_no_camera_here_and_no_traceback(cascade):
    command = Path(sys.executable).with_name("hf-inspect")
    done = subprocess.run([command, "predict", cascade, "camera:99"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("hf-inspect: camera:99 cannot be opened")


def test_frames_have_pictures_and_the_edge_by_itself_inspects(tmp_path):
    """What `export` wrote, without a cascade: nobody may say good or defect, and what is found is there."""
    edge, maps, out = finders.engine(tmp_path / "edge"), tmp_path / "maps", tmp_path / "out.jsonl"
    pictures = sorted(finders.pictures(tmp_path / "raw", 3, good=0.0).glob("*.png"))
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (finders.SIDE, finders.SIDE))
    for picture in pictures:
        writer.write(cv2.imread(str(picture)))
    writer.release()
    done = predicted(edge, path, pictures[0], "--maps", maps, "--out", out)
    assert done.exit_code == 0, done.output
    assert "4 inspected: undecided 4" in done.output
    assert "no limits are set: 'hf-inspect calibrate'" in done.output
    assert "; found " in done.output
    found = rows(out)
    assert all(row["evidence"]["edge"]["findings"] for row in found)
    assert [Path(row["map"]).name.partition("-")[0] for row in found] == ["000000", "000001", "000002", "001"]
    assert sorted(map(str, maps.iterdir())) == sorted(row["map"] for row in found)
    again = predicted(edge, path, pictures[0], "--fallback", "reject")
    assert "4 inspected: defect 4" in again.output
    with pytest.raises(DataError, match="an edge by itself"):
        run(edge, [path], policy="certified")
