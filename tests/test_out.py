"""`--out` of each command: what is not ours, or is read, is never replaced; the count of evaluations stays."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_inspect import files
from hf_inspect.cli import app
from hf_inspect.data import build
from hf_inspect.errors import DataError
from hf_inspect.reports.heading import count_evaluation
from tests import raw, tiny_edge
from tests.scripted import brightness_cascade

QUESTIONS = """
classes: {good: [is whole], crack: [has a crack]}
good: [good]
templates: ["What of this part?"]
direct: "Good or crack?"
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder to each name that a command reads; `raw` holds a config.json, and `parts` and `cells` are built ones."""
    root = tmp_path_factory.mktemp("given")
    raw.classes(root / "raw", {"good": 24, "crack": 24})
    files.write_text(root / "raw" / "config.json", "{}")
    build("folder", root / "parts", src=root / "raw")
    files.write_text(root / "questions" / "questions.yaml", QUESTIONS)
    raw.coco(root / "boxes" / "annotations.json", {f"{i}.png": ["dent"] * (i % 2) for i in range(24)})
    raw.pictures(root / "boxes", [f"{i}.png" for i in range(24)])
    shutil.copytree(tiny_edge.student(), root / "student")
    shutil.copytree(tiny_edge.data(), root / "cells")
    brightness_cascade(root / "cascade")
    return root


READS = {  # by command, where @ begins the name of a folder or file of `given`: what it reads
    "data build folder --src @raw": ("raw",),
    "data chat @parts --questions @questions/questions.yaml": ("parts", "questions"),
    "data ground @boxes": ("boxes",),
    "export @student --calibrate @cells": ("student", "cells"),
    "calibrate --edge @cascade/edge --data @parts": ("cascade/edge", "parts"),
    "bundle @cascade": ("cascade",),
}


def snapshot(folder):
    return {path: path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def command(words, root, out):
    """What a command says that reads from `root` and writes to `out`."""
    given = [str(root / word[1:]) if word.startswith("@") else word for word in words.split()]
    done = CliRunner().invoke(app, [*given, "--out", str(out)])
    assert isinstance(done.exception, DataError), done.output or done.exception
    return str(done.exception)


@pytest.mark.parametrize("words", READS)
def test_an_out_that_is_read_is_refused_by_every_command(given, tmp_path, words):
    root = Path(shutil.copytree(given, tmp_path / "given"))
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    before = snapshot(root)
    for name in READS[words]:
        for out in (root / name, tmp_path / "link" / name, root):
            assert "which is read, overlap; give an --out beside it" in command(words, root, out)
        if name != "questions":
            assert "which is read, overlap" in command(words, root, root / name / "new" / "folder")
    assert snapshot(root) == before


@pytest.mark.parametrize("words", [*READS, "demo-base"])
def test_a_folder_that_is_not_ours_is_refused_by_every_command(given, tmp_path, words):
    out = tmp_path / "out"
    for name in ("manifest.json", "inspect.json", "prompt.json", "cascade.json", "photo.png"):
        files.write_text(out / name, "a person's")
    before = snapshot(out)
    words = words.replace("--questions @questions/questions.yaml", "")
    assert "no .hf_inspect that says that this package wrote it" in command(words, given, out)
    assert snapshot(out) == before


@pytest.mark.parametrize("words", ["eval edge model", "eval cascade model", "eval vlm model"])
@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_file_that_an_evaluation_would_not_write_is_not_overwritten(tmp_path, words, option):
    for name, text in {"photo.jpg": "x", "cascade.json": '{"version": 2}', "list.json": "[1]"}.items():
        (tmp_path / name).write_text(text)
        others = {"--out": tmp_path / "new.json", "--plot": tmp_path / "new.png", option: tmp_path / name}
        arguments = [*words.split(), "--data", str(tmp_path), *(str(one) for pair in others.items() for one in pair)]
        done = CliRunner().invoke(app, arguments)
        assert "is another file than this command writes, and would be lost; give another name" in str(done.exception)
        assert (tmp_path / name).read_text() == text


def test_results_and_pictures_of_ours_are_written_over(tmp_path):
    files.write_json(tmp_path / "results.json", {"data": {}, "environment": {}, "edge": {}})
    assert files.refuse_other(tmp_path / "results.json", ("data", "environment")) == tmp_path / "results.json"
    (tmp_path / "plot.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    assert files.refuse_other(tmp_path / "plot.png") == tmp_path / "plot.png"
    with pytest.raises(DataError, match="is a folder; give the name of a file"):
        files.refuse_other(tmp_path)


def test_raw_images_are_not_lost_to_a_build_over_them(given, tmp_path):
    """`data build --src RAW --out RAW`, where RAW holds a config.json."""
    root = Path(shutil.copytree(given / "raw", tmp_path / "raw"))
    with pytest.raises(DataError, match="overlap"):
        build("folder", root, src=root)
    assert len(list(root.rglob("*.png"))) == 48


def test_the_count_of_evaluations_outlives_a_rebuild_and_is_of_the_data_that_were_evaluated(given, tmp_path):
    source, out = Path(shutil.copytree(given / "raw", tmp_path / "raw")), tmp_path / "data"
    build("folder", out, src=source)
    (out / "notes.md").write_text("a person's")
    assert [count_evaluation(out, "test", what) for what in ("a", "b")] == [1, 2]
    next(source.rglob("*.png")).rename(tmp_path / "one.png")
    build("folder", out, src=source)
    assert count_evaluation(out, "test", "c") == 1, "other images"
    (tmp_path / "one.png").rename(source / "crack" / "one.png")
    (out / "data").joinpath("more.txt").write_text("x")
    with pytest.raises(DataError, match=r"data/more\.txt"):
        build("folder", out, src=source, options={"seed": 1})
    (out / "data" / "more.txt").unlink()
    shutil.rmtree(source)
    shutil.copytree(given / "raw", source)
    build("folder", out, src=source)
    assert count_evaluation(out, "test", "d") == 3, "the first data again"
    assert count_evaluation(out, "validation", "e") == 1
    assert [entry["what"] for entry in files.read_json(out / "evaluations.json")] == list("abcde")
    assert (out / "notes.md").read_text() == "a person's"
    assert files.foreign(out) == []


def test_an_entry_of_an_older_version_counts_as_of_the_data_that_stand_there(given, tmp_path):
    data = Path(shutil.copytree(given / "parts", tmp_path / "data"))
    files.write_json(data / "evaluations.json", [{"time": "2026-01-01", "split": "test", "what": "x", "begun": "1"}])
    assert count_evaluation(data, "test", "x", "1") == 1
    assert count_evaluation(data, "test", "y", "2") == 2


def several(data):
    for i in range(10):
        count_evaluation(data, "test", str(i))


def patiently(data, what):
    """Count an evaluation, though the data are replaced just then."""
    while True:
        try:
            return count_evaluation(data, "test", what)
        except (DataError, FileNotFoundError):
            continue


def patiently_several(data):
    for i in range(15):
        patiently(data, str(i))


def test_evaluations_that_end_while_the_data_are_built_anew_are_all_counted(given, tmp_path):
    data = Path(shutil.copytree(given / "parts", tmp_path / "data"))
    manifest = (data / "manifest.json").read_text()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        counting = [processes.submit(patiently_several, data) for _ in range(2)]
        built = 0
        while built < 20 or not all(one.done() for one in counting):
            built += 1
            with files.staged_folder(data) as stage:
                (stage / "manifest.json").write_text(manifest)
        for one in counting:
            one.result()
    assert count_evaluation(data, "test", "last") == 31


def test_evaluations_that_end_at_once_are_all_counted(given, tmp_path):
    data = Path(shutil.copytree(given / "parts", tmp_path / "data"))
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as processes:
        list(processes.map(several, [data] * 3))
    assert count_evaluation(data, "test", "last") == 31
    assert files.foreign(data) == []
    assert not (data / files.LOCK).exists()
