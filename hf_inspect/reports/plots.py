"""Scores and results -> PNG files: ROC, what escalating buys, reliability.

Figures are drawn on their own Agg canvas, so nothing of matplotlib's global state is read from a display or changed.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from hf_inspect import files, metrics
from hf_inspect.cascade import EscalationCurve
from hf_inspect.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: told apart by colour-blind eyes too
MARKERS = ("o", "s", "^", "D", "v")
GUIDE = "#888888"
DPI = 150
PALETTE = 128  # colours of a saved plot: no visible loss, and a third of the size


def roc_plot(out: Path, labels: ArrayLike, scores: Mapping[str, ArrayLike]) -> None:
    """Caught defects over overkill for each named P(defect) (n,), with its AUROC and 95 % interval, to `out` (PNG)."""
    figure = _figure(5.2, 5.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GUIDE, linestyle=":", linewidth=1)
    for colour, (name, p) in zip(_colours(scores), scores.items(), strict=True):
        area = metrics.auroc(labels, p)
        if area["value"] is None:
            raise DataError(f"No ROC of {name!r}: {area['method']}. Evaluate on parts of both classes.")
        legend = f"{name}: AUROC {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})"
        axes.plot(*metrics.roc_curve(labels, p), color=colour, linewidth=1.8, label=legend)
    _percent(axes, "Overkill: good parts rejected", "Caught: defects rejected", f"ROC, {np.size(labels)} parts")
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    _write(figure, out)


def escalation_curve_plot(out: Path, curve: EscalationCurve, policies: Mapping[str, Mapping[str, Any]]) -> None:
    """Accuracy and escapes over the share escalated, each policy marked with its 95 % intervals, to `out` (PNG).

    `policies` maps a name to its section of results.json: `share_escalated` with `total`, `accuracy`, `escapes`.
    """
    figure = _figure(6.4, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key, values in ((upper, "accuracy", curve.accuracy), (lower, "escapes", curve.escapes)):
        axes.plot(curve.share, values, color="#333333", linewidth=1.6, label="the edge's least sure parts escalated")
        for style, (name, report) in zip(_styles(policies), policies.items(), strict=True):
            _mark(axes, report["share_escalated"]["total"]["value"], report[key], name, style)
    _percent(upper, "", "Accuracy", "What escalating to the VLM buys", limits=None)
    _percent(
        lower, "Share of parts escalated (0: edge alone, 100 %: VLM alone)", "Escapes: defects passed", limits=None
    )
    lower.set_xlim(-0.02, 1.02)
    lower.set_ylim(bottom=0)
    upper.legend(loc="best", frameon=False, fontsize=9)
    _write(figure, out)


def reliability_plot(out: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """How often a stated P(defect) came true, per bin with 95 % intervals, to `out` (PNG).

    `models` maps a name to what `metrics.reliability` returned for it.
    """
    figure = _figure(5.2, 5.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GUIDE, linestyle=":", linewidth=1, label="calibrated")
    for i, (style, (name, found)) in enumerate(zip(_styles(models), models.items(), strict=True)):
        shift = 0.006 * (i - (len(models) - 1) / 2)  # so that two models' intervals do not cover each other
        legend = f"{name}: mean gap {found['calibration_error']:.1%}"
        for row in found["bins"]:
            _mark(axes, row["mean_p"] + shift, row["observed"], None, style)
        x, y = [row["mean_p"] + shift for row in found["bins"]], [row["observed"]["value"] for row in found["bins"]]
        axes.plot(x, y, color=style[0], marker=style[1], markersize=5, linewidth=1.4, label=legend)
    _percent(axes, "Stated P(defect), mean of the bin", "Share that were defects", "Reliability")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    _write(figure, out)


def classes_plot(out: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Recall of each class, and accuracy, side by side for each model, with 95 % intervals, to `out` (PNG).

    `models` maps a name (zero-shot, with adapter) to its `vlm` section of results.json; their classes must be the same.
    """
    names = {tuple(sorted(report["classes"])) for report in models.values()}
    if len(names) != 1:
        raise DataError(
            f"The models know different classes ({'; '.join(map(', '.join, names))}); compare like with like."
        )
    groups = [*next(iter(models.values()))["classes"], "accuracy"]
    figure = _figure(max(5.2, 1.1 * len(groups) + 1), 4.8)
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    for i, (colour, (name, report)) in enumerate(zip(_colours(models), models.items(), strict=True)):
        found = [*(report["classes"][group]["recall"] for group in groups[:-1]), report["accuracy"]]
        x = np.arange(len(groups)) + width * (i - (len(models) - 1) / 2)
        axes.bar(
            x, [one["value"] or 0 for one in found], width * 0.94, color=colour, label=f"{name}, n = {report['n']}"
        )
        for at, one in zip(x, found, strict=True):
            _mark(axes, at, one, None, ("#333333", ""))
    _percent(axes, "", "Recall: parts of the class answered right", "Class by class")
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylim=(0, 1.02))
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(groups)), groups, rotation=0 if len(groups) < 5 else 20)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=len(models))
    _write(figure, out)


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of that many inches on a canvas of its own."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Plots need matplotlib: pip install 'hf-inspect[train]'.") from None
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colours(names: Mapping[str, Any]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(names))]


def _styles(names: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(colour, MARKERS[i % len(MARKERS)]) for i, colour in enumerate(_colours(names))]


def _mark(axes: "Axes", x: float, found: metrics.Rate, label: str | None, style: tuple[str, str]) -> None:
    """One rate as a marker with its interval; a rate of no parts is not drawn."""
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None:
        return
    spread = [[value - low], [high - value]]
    colour, marker = style
    axes.errorbar(
        [x], [value], yerr=spread, color=colour, marker=marker, markersize=7, capsize=3, linewidth=1.2, label=label
    )


def _percent(axes: "Axes", x: str, y: str, title: str = "", limits: tuple[float, float] | None = (-0.02, 1.02)) -> None:
    """Percent on both axes, a light grid, names and title."""
    from matplotlib.ticker import PercentFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    if limits is not None:
        axes.set(xlim=limits, ylim=limits)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _write(figure: "Figure", out: Path) -> None:
    """The figure as a PNG that appears whole or not at all; the same figure gives the same bytes."""
    from PIL import Image

    drawn, png = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(png, "png", optimize=True)
    files.write_bytes(out, png.getvalue())
