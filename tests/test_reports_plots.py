"""Plots are readable PNGs, repeat byte for byte, appear whole or not at all, and leave matplotlib's state alone."""

import subprocess
import sys
from dataclasses import asdict

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hf_inspect import metrics
from hf_inspect.cascade import CalibrationScores, Promise, redrawn
from hf_inspect.errors import DataError
from hf_inspect.reports import plots

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [360, 165])
EDGE = RNG.beta(np.where(LABELS, 5, 2), np.where(LABELS, 2, 5))
VLM = RNG.beta(np.where(LABELS, 6, 2), np.where(LABELS, 2, 6))


def draw_roc(out):
    plots.roc_plot(out, LABELS, {"edge": EDGE, "VLM": VLM})


def point(escape, *shares):
    return {"escape": escape} | {
        name: metrics.rate(k, 525) for name, k in zip(("edge", "vlm", "cascade"), shares, strict=True)
    }


def draw_undecided(out):
    points = [point(0.01 * i, 400 - 15 * i, 380 - 15 * i, 300 - 15 * i) for i in range(1, 16)]
    plots.undecided_plot(out, {"promise": asdict(Promise()), "undecided_curve": points})


def draw_sizes(out):
    scores = CalibrationScores(LABELS, np.arange(len(LABELS)).astype(str), EDGE, VLM)
    plots.sizes_plot(out, redrawn(scores, None, Promise()), Promise())


def draw_reliability(out):
    models = {"edge": metrics.reliability(LABELS, EDGE), "VLM": metrics.reliability(LABELS, VLM)}
    plots.reliability_plot(out, models)


def draw_classes(out):
    names = ["good", "crack", "dent"]
    labels = np.arange(90) // 30
    models = {"zero-shot": np.zeros(90, int), "with adapter": np.where(np.arange(90) % 5, labels, 0)}
    plots.classes_plot(out, {name: metrics.class_report(labels, said, names) for name, said in models.items()})


DRAW = [draw_roc, draw_undecided, draw_sizes, draw_reliability, draw_classes]


@pytest.mark.parametrize("draw", DRAW)
def test_plot_is_a_png_that_repeats(draw, tmp_path):
    draw(tmp_path / "new" / "a.png")
    draw(tmp_path / "b.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "b.png") as image:
        assert image.format == "PNG"
        assert min(image.size) >= 700
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["b.png"]


@pytest.mark.parametrize("draw", DRAW)
def test_a_failed_write_keeps_the_old_file(draw, tmp_path, monkeypatch):
    out = tmp_path / "plot.png"
    out.write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        draw(out)
    assert out.read_bytes() == b"old"


def test_settings_of_matplotlib_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_roc(tmp_path / "roc.png")
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded(tmp_path):
    draw = f"plots.roc_plot(pathlib.Path({str(tmp_path / 'roc.png')!r}), [0, 1], {{'edge': [0.1, 0.9]}})"
    check = "sys.exit('matplotlib.pyplot' in sys.modules)"
    code = f"import pathlib, sys; from hf_inspect.reports import plots; {draw}; {check}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "roc.png").exists()


def test_import_brings_no_matplotlib():
    code = "import sys, hf_inspect.reports.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_class_has_no_roc(tmp_path):
    with pytest.raises(DataError, match="both classes"):
        plots.roc_plot(tmp_path / "roc.png", [1, 1], {"edge": [0.1, 0.9]})
    assert not list(tmp_path.iterdir())


def test_models_of_other_classes_are_not_compared(tmp_path):
    models = {"a": metrics.class_report([0], [0], ["x", "y"]), "b": metrics.class_report([0], [0], ["x", "z"])}
    with pytest.raises(DataError, match="compare like with like"):
        plots.classes_plot(tmp_path / "classes.png", models)
