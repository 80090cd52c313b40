"""results.json -> the Markdown tables of README, cards and the command line."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hf_inspect.data.card import cell

_COLUMNS = (
    "", "n", "accuracy", "AUROC", "escapes", "overkill", "undecided", "VLM asked", "ms an image", "one at a time",
)  # fmt: skip
_AT_PROMISE = ("at the promise", "undecided", "the cascade decides more by", "escapes", "overkill", "VLM asked")
NAMES = {
    "edge": "edge",
    "edge_int8": "edge, INT8 (shipped)",
    "vlm": "VLM with adapter",
    "vlm_zero_shot": "VLM zero-shot",
    "baseline": "another VLM, zero-shot",
    "certified": "cascade `certified`",
    "saec": "cascade `saec`",
}


def results_table(results: Mapping[str, Any]) -> str:
    """A row a model and policy, each figure with its 95 % interval; escapes are of defects, overkill of good parts.

    Of a cascade `promise_table` stands before it.
    """
    lines = [promise_table(results), ""] if "promise" in results else []
    lines += [_line(_COLUMNS), _line("---" for _ in _COLUMNS)]
    lines += [_line(_cells(name, report)) for name, report in _reports(results)]
    return "\n".join(lines)


def promise_table(results: Mapping[str, Any]) -> str:
    """What the same promise leaves undecided by the edge alone, the VLM alone, and the cascade; and what was measured.

    The rates that the promise bounds are measured on the split, of its defects and of its good parts.
    """
    promise, certified = results["promise"], results["cascade"]["certified"]
    head = [_AT_PROMISE[0] + _promised(promise), *_AT_PROMISE[1:]]
    lines = [_line(head), _line("---" for _ in head)]
    for name, report in results["alone"].items():
        cells = [f"{_WHOSE[name]} alone", _percent(results["undecided"][name])]
        cells += [
            _percent(results["fewer_undecided"][name]),
            *(_percent(report[key]) for key in ("escapes", "overkill")),
        ]
        lines.append(_line([*cells, "100.0%" if name == "vlm" else "-"]))
    cells = ["cascade", _percent(results["undecided"]["cascade"]), "-"]
    cells += [_percent(certified[key]) for key in ("escapes", "overkill", "vlm_calls")]
    return "\n".join([*lines, _line(cells)])


_WHOSE = {"edge": "edge", "vlm": "VLM"}


def _promised(promise: Mapping[str, float]) -> str:
    """The promise as a head of a table says it."""
    return f": escapes <= {promise['escape']:.1%}, overkill <= {promise['overkill']:.1%}, {promise['confidence']:.0%}"


def classes_table(report: Mapping[str, Any]) -> str:
    """A row a class of a model's section of results.json: recall and precision, each with its interval and counts.

    Of one that finds things, its mAP and AP50 before these.
    """
    found = {"map": "mAP", "ap50": "AP50"} if "told" in report else {}
    names = {**found, "recall": "recall", "precision": "precision"}
    lines = [_line(["class", *names.values()]), _line("---" for _ in ("class", *names))]
    for name, figures in report["classes"].items():
        said = (_percent(figures[key]) + (f", {_of(figures[key])}" if "k" in figures[key] else "") for key in names)
        lines.append(_line([cell(name), *said]))
    return "\n".join(lines)


def model_summary(report: Mapping[str, Any]) -> str:
    """A model's section of results.json for the terminal: its classes, what was not scored, what nobody knows of.

    Of one that knows no classes of whole images, what its severity means.
    """
    if "classes" in report:
        lines = [classes_table(report), "", f"macro F1 {_percent(report['macro_f1'])}"]
    else:
        means = report["score"]["means"] if "score" in report else "the highest score of a defect that it finds"
        lines = [f"Its severity is {means}."]
    if report["unreadable"]["k"]:
        lines.append(f"{report['unreadable']['k']} of {report['n']} answers could not be read and count as wrong.")
    if report["not_scored"]:
        lines.append(f"{len(report['not_scored'])} images could not be read and are not in n:")
        lines += [f"  {one['source']}: {one['reason']}" for one in report["not_scored"]]
    if unknown := report["history"]["unknown"]:
        lines.append(f"Not known is what {', '.join(unknown)} saw: no record says whether these images were among it.")
    return "\n".join([*lines, *_calibration_lines(report.get("calibration"))])


def vlm_table(reports: Iterable[Mapping[str, Any]]) -> str:
    """A row a VLM's section of results.json, of two classes, ranked: figures, and its calibration error."""
    figures = ("accuracy", "auroc", "escapes", "overkill")
    head = ("", "n", "accuracy", "AUROC", "escapes", "overkill", "calibration error", "after temperature")
    lines = [_line(head), _line("---" for _ in head)]
    for report in reports:
        of = report["calibration"]
        after = f"{of['error_with_temperature']:.1%} (T {of['temperature']:.2f})"
        cells = [_percent(report[key]) for key in figures]
        lines.append(_line([vlm_title(report), str(report["n"]), *cells, f"{of['error']:.1%}", after]))
    return "\n".join(lines)


def vlm_title(report: Mapping[str, Any]) -> str:
    """What tells one VLM's section of results.json from another's: adapter or whole fine-tune, crops, views, mode."""
    kind = "with adapter" if report["adapter"] else "fine-tuned" if report["history"]["data"] else "zero-shot"
    crops = f", {report['crops']} crops" if report["crops"] > 1 else ""
    views = f", {report['views']} views" if report.get("views", 1) > 1 else ""
    generated = ", generated" if report["mode"] == "generate" else ""
    return f"{kind}{crops}{views}{generated}"


def _calibration_lines(of: Mapping[str, Any] | None) -> Iterator[str]:
    if of is None:
        return
    if "temperature" in of:
        yield (
            f"Calibration error {of['error']:.1%}; {of['error_with_temperature']:.1%} with the temperature "
            f"{of['temperature']:.2f}, fitted on {of['fitted_on']['n']} images of {of['fitted_on']['split']}."
        )
    else:
        yield f"No temperature was fitted: {of['why']}."


def _reports(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each report with its name in the table."""
    names = NAMES | ({"edge": "edge, FP32"} if "edge_int8" in results else {})
    if "crops" in results.get("vlm", {}):
        names["vlm"] = f"VLM {vlm_title(results['vlm'])}"
    yield from ((names[name], results[name]) for name in names if name in results)
    for name, report in results.get("cascade", {}).items():
        yield names[name], report
        if "edge_alone" in report:
            yield f"edge alone, overkill of `{name}`", report["edge_alone"]


def _cells(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    yield name
    yield str(report["n"])
    for figure in ("accuracy", "auroc", "escapes", "overkill", "undecided", "vlm_calls"):
        yield _percent(report[figure]) if figure in report else "-"
    yield from _milliseconds(report.get("speed"))


def _milliseconds(speed: Mapping[str, Any] | None) -> Iterator[str]:
    yield from (f"{speed[how]:.1f}" if speed else "-" for how in ("in_batches", "one_at_a_time"))


def _percent(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return figure["method"]
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def _of(rate: Mapping[str, Any]) -> str:
    return f"{rate['k']} of {rate['n']}"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
