"""Scores and results -> PNG files: ROC, what stays undecided, reliability, classes, what-if.

Figures are drawn on their own Agg canvas, so nothing of matplotlib's global state is read from a display or changed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect import files, metrics
from hf_inspect.cascade import CalibrationScores, Composite, Limits, Promise, Redrawn, WhatIf
from hf_inspect.errors import DataError
from hf_inspect.reports.table import vlm_title
from hf_inspect.tasks.canvas import as_text, new_figure, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: told apart by colour-blind eyes too
MARKERS = ("o", "s", "^", "D", "v")
GUIDE = "#888888"
UNDECIDED_BY = {"edge": "edge alone", "vlm": "VLM alone", "cascade": "cascade, edge and VLM fused"}
GOOD, BETWEEN, DEFECT = "#D6E6F2", "#EEEEEE", "#F8DDCB"  # what the system says, behind the scores
LOWEST = 0.001  # P(defect) at the ends of an axis of log-odds
BINS, EARLY = 32, 6  # bars over such an axis, and over that of the early verdicts at either end, one bar away
MODELS = {"edge": "edge", "vlm": "VLM"}


def roc_plot(out: Path, labels: ArrayLike, scores: Mapping[str, ArrayLike], groups: ArrayLike | None = None) -> None:
    """Caught defects over overkill for each named severity (n,), with its AUROC and 95 % interval, to `out` (PNG)."""
    figure = new_figure(5.2, 5.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GUIDE, linestyle=":", linewidth=1)
    for colour, (name, p) in zip(_colours(scores), scores.items(), strict=True):
        area = metrics.auroc(labels, p, groups)
        if area["value"] is None:
            raise DataError(f"No ROC of {name!r}: {area['method']}. Evaluate on parts of both classes.")
        legend = f"{name}: AUROC {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})"
        axes.plot(*metrics.roc_curve(labels, p), color=colour, linewidth=1.8, label=legend)
    _percent(axes, "Overkill: good parts rejected", "Caught: defects rejected", f"ROC, {np.size(labels)} parts")
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    _write(figure, out)


def undecided_plot(out: Path, results: Mapping[str, Any]) -> None:
    """Share undecided over the promised escape, by edge, VLM and cascade, with 95 % intervals, to `out` (PNG).

    `results` holds `promise` and `undecided_curve` of results.json.
    """
    promise, points = results["promise"], results["undecided_curve"]
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    x = [point["escape"] for point in points]
    names = [name for name in ("edge", "vlm", "cascade") if name in points[0]]
    for (colour, marker), name in zip(_styles(dict.fromkeys(names)), names, strict=True):
        rates = [point[name] for point in points]
        axes.fill_between(x, [one["low"] for one in rates], [one["high"] for one in rates], color=colour, alpha=0.12)
        axes.plot(
            x, [one["value"] for one in rates], color=colour, marker=marker, markersize=4, label=UNDECIDED_BY[name]
        )
    axes.axvline(promise["escape"], color=GUIDE, linestyle=":", linewidth=1.2)
    signed = f"overkill <= {promise['overkill']:.0%}, confidence {promise['confidence']:.0%}"
    said = f"{signed}, n = {points[0]['cascade']['n']}"
    _percent(axes, f"Promised escape of the whole system ({said})", "Undecided: a person looks", limits=None)
    axes.set(xlim=(0, max(x) * 1.03), ylim=(0, 1.02))
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    _write(figure, out)


def sizes_plot(out: Path, sizes: Sequence[Redrawn], promise: Promise) -> None:
    """Share undecided over the number of calibration defects, mean and 5 % to 95 % of the draws, to `out` (PNG).

    Over that of the good parts where there are no defects.
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    x = [one.defects or one.goods for one in sizes]
    names = list(sizes[0].undecided)
    for (colour, marker), name in zip(_styles(dict.fromkeys(names)), names, strict=True):
        mean, low, high = zip(*(one.undecided[name] for one in sizes), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.12)
        axes.plot(x, mean, color=colour, marker=marker, markersize=4, label=UNDECIDED_BY[name])
    risks = f"escapes <= {promise.escape:.1%}, overkill <= {promise.overkill:.1%}, {promise.confidence:.0%}"
    _percent(axes, "", "Undecided: a person looks", f"At the promise: {risks}", limits=None)
    of = "Calibration defects (and good parts in proportion)" if sizes[0].defects else "Good calibration parts"
    axes.set(xscale="log", xlabel=of, ylim=(0, 1.02))
    axes.set_xticks(x, [str(n) for n in x])
    axes.minorticks_off()
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    _write(figure, out)


def reliability_plot(out: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """How often a stated P(defect) came true, per bin with 95 % intervals, to `out` (PNG).

    `models` maps a name to what `metrics.reliability` returned for it.
    """
    figure = new_figure(5.2, 5.0)
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
    figure = new_figure(max(5.2, 1.1 * len(groups) + 1), 4.8)
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
    axes.set_xticks(range(len(groups)), [as_text(name) for name in groups], rotation=0 if len(groups) < 5 else 20)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=len(models))
    _write(figure, out)


def write_comparison(out: Path, results: Mapping[str, Any], beside: Path | None = None) -> None:
    """The picture of one results.json of a VLM class by class, beside another one's; they must be of one split."""
    both = [results]
    if beside is not None:
        both.insert(0, files.read_json(beside))
        places = [[one["data"][key] for key in ("fingerprint", "split")] for one in both]
        if "vlm" not in both[0] or places[0] != places[1]:
            raise DataError(f"{beside} is not of a VLM on the same split; measure both with 'hf-inspect eval vlm'.")
    titles = [vlm_title(one["vlm"]) for one in both]
    if len(set(titles)) < len(titles):
        raise DataError(f"Both results are {titles[0]}; draw results that differ in adapter, crops or mode.")
    classes_plot(out, {title: one["vlm"] for title, one in zip(titles, both, strict=True)})


def what_if_plot(scores: CalibrationScores, found: WhatIf, score: float | None = None) -> bytes:
    """The calibration parts' composite scores by class before another promise's limits, and what follows, as a PNG.

    What the edge settles early stands apart at the ends. `score` is where one more part lies, marked with a line.
    """
    figure = new_figure(5.4, 5.8)
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 2.4])
    _draw_scores(upper, scores, found.policy.composite)
    place = _placing(found.policy.composite)
    _draw_zones(upper, found.policy.limits, place)
    if score is not None:
        upper.axvline(place(score), color="black", linewidth=2, label="this image")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    alone = {f"undecided, {MODELS[name]} alone": (one, COLOURS[0]) for name, one in found.undecided_alone.items()}
    rates = {
        "undecided": (found.undecided, "black"),
        **alone,
        "asked of the VLM": (found.asked, COLOURS[3]),
        "escapes": (found.escapes, COLOURS[1]),
        "overkill": (found.overkill, COLOURS[2]),
    }
    for i, (one, colour) in enumerate(rates.values()):
        _mark_across(lower, one, len(rates) - 1 - i, colour)
    lower.set_yticks(range(len(rates)), reversed(rates), fontsize=10)
    lower.set(xlim=(-0.01, 1.01), ylim=(-0.6, len(rates) - 0.4))
    lower.set_title("On these same parts, each at this promise", fontsize=10)
    lower.grid(color="#DDDDDD", linewidth=0.6, axis="x")
    lower.spines[["top", "right"]].set_visible(False)
    _percents(lower.xaxis)
    return png_of(figure)


def _draw_scores(axes: "Axes", scores: CalibrationScores, composite: Composite) -> None:
    """How many parts of each class have which score, on an axis of log-odds; what has none is not drawn."""
    found = composite.scores(scores.edge, scores.vlm)
    if composite.edge is None:
        _draw_severities(axes, found[~np.isnan(found)], scores.labels[~np.isnan(found)])
        return
    low, high = _log_odds(LOWEST), _log_odds(1 - LOWEST)
    left = low if composite.early_good is None else _place(-1.0)
    right = high if composite.early_defect is None else _place(2.0)
    bins = np.linspace(left, right, round((right - left) / (high - low) * BINS) + 1).tolist()
    for label, name, colour in ((0, "good parts", COLOURS[0]), (1, "defects", COLOURS[1])):
        own = found[(scores.labels == label) & ~np.isnan(found)]
        axes.hist(_place(own), bins=bins, color=colour, alpha=0.65, label=name)
    ticks = {_log_odds(p): f"{p:g}" for p in (0.01, 0.1, 0.5, 0.9, 0.99)}
    ticks |= {(end + fused) / 2: "edge\nsure" for end, fused in ((left, low), (right, high)) if end != fused}
    axes.set_xticks([*ticks], [*ticks.values()])
    by = "the edge model" if composite.vlm is None else "edge and VLM together"
    axes.set(xlim=(left, right), xlabel=f"P(defect) by {by}", ylabel="calibration parts")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_severities(axes: "Axes", severity: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """How many parts of each class have which severity, in its own scale."""
    low, high = float(severity.min()), float(severity.max())
    bins = np.linspace(low, high if high > low else low + 1, BINS + 1).tolist()
    for label, name, colour in ((0, "good parts", COLOURS[0]), (1, "defects", COLOURS[1])):
        axes.hist(severity[labels == label], bins=bins, color=colour, alpha=0.65, label=name)
    axes.set(xlim=(bins[0], bins[-1]), xlabel="severity by the edge model", ylabel="calibration parts")
    axes.spines[["top", "right"]].set_visible(False)


def _placing(composite: Composite) -> Callable[[Any], Any]:
    """Where scores lie on the axis that `_draw_scores` draws."""
    return np.asarray if composite.edge is None else _place


def _draw_zones(axes: "Axes", limits: Limits, place: Callable[[Any], Any]) -> None:
    """What the system says left of the lower limit, between, and right of the upper; None: it never says it."""
    left, right = axes.get_xlim()
    at_low = left if limits.low is None else place(limits.low)
    at_high = right if limits.high is None else place(limits.high)
    zones = [(left, at_low, GOOD, "good"), (at_low, at_high, BETWEEN, "undecided"), (at_high, right, DEFECT, "defect")]
    for begin, end, colour, name in zones:
        axes.axvspan(begin, end, color=colour, zorder=0)
        if end - begin > 0.12 * (right - left):
            axes.text((begin + end) / 2, 1.02, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=10)
    for limit in (at_low, at_high):
        axes.axvline(limit, color=GUIDE, linestyle="--", linewidth=1)


def _place(score: Any) -> Any:
    """Where composite scores lie on the axis: log-odds; those of early verdicts at the ends, on a narrower one."""
    width, narrow = 2 * _log_odds(1 - LOWEST), EARLY / BINS
    beside = width * (0.5 + 1 / BINS + narrow / 2)
    return np.select(
        [np.less(score, 0), np.greater(score, 1)],
        [narrow * _log_odds(np.add(score, 1)) - beside, narrow * _log_odds(np.subtract(score, 1)) + beside],
        _log_odds(score),
    )


def _log_odds(p: Any) -> Any:
    clipped = np.clip(p, LOWEST, 1 - LOWEST)
    return np.log(clipped / (1 - clipped))


def _mark_across(axes: "Axes", found: metrics.Rate, y: float, colour: str) -> None:
    """One rate as a marker with its interval, lying; a rate of no parts is not drawn."""
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None:
        return
    axes.errorbar([value], [y], xerr=[[value - low], [high - value]], color=colour, marker="o", markersize=7, capsize=3)


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
    for axis in (axes.xaxis, axes.yaxis):
        _percents(axis)
    if limits is not None:
        axes.set(xlim=limits, ylim=limits)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _percents(axis: "Axis") -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def _write(figure: "Figure", out: Path) -> None:
    """The figure as a PNG that appears whole or not at all."""
    files.write_bytes(out, png_of(figure))
