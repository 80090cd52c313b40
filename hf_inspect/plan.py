"""A wanted promise -> the labelled parts it takes, and with stored scores what stays undecided: table and picture."""

from collections.abc import Sequence
from pathlib import Path

from hf_inspect.cascade import (
    CalibrationScores,
    Outcome,
    Promise,
    Redrawn,
    composite_of,
    needs,
    outcome,
    redrawn,
)
from hf_inspect.scoring import read_rows

_WHOSE = {"edge": "edge alone", "vlm": "VLM alone", "cascade": "cascade"}


def run(promise: Promise, scores: Path | None = None, prevalence: float | None = None, plot: Path | None = None) -> str:
    """The plan in words and tables.

    `scores` is a cascade's calibration.jsonl, whose calibration parts are drawn again at several sizes (`redrawn`); the
    composite is fitted on its validation parts for this promise. `prevalence` is the share of defects among the parts
    that will be made; `plot` a picture to write of what the scores say. DataError names what cannot be used.
    """
    said = [needs_table(promise)]
    sizes = _redrawn(scores, promise) if scores else []
    if sizes:
        said.append(sizes_table(sizes, promise))
        said += [lacking] if (lacking := lacking_sentence(sizes, promise)) else []
        if plot:
            from hf_inspect.reports.plots import sizes_plot

            sizes_plot(plot, sizes, promise)
    if prevalence is not None:
        shipped = next((one.shipped[0] for one in sizes if one.times == 1.0), None)
        said.append(outcome_sentence(outcome(promise, prevalence, 1.0 if shipped is None else shipped), shipped))
    return "\n\n".join(said)


def needs_table(promise: Promise) -> str:
    """How many calibration parts the promise takes, in words and as a table by k."""
    rows = needs(promise)
    lines = [
        f"Escapes of at most {promise.escape:.2%} of the defects and overkill of at most {promise.overkill:.2%} of the "
        f"good parts, both with a confidence of {promise.confidence:.2%}: the calibration split must hold "
        f"{rows[0].defects} defects to say good at all, and {rows[0].goods} good parts to say defect. With "
        "more, k of them may lie beyond their limit, and fewer parts stay undecided.",
        "",
        "| k | defects | good parts |",
        "| --- | --- | --- |",
        *(f"| {row.k} | {row.defects} | {row.goods} |" for row in rows),
    ]
    return "\n".join(lines)


def sizes_table(sizes: Sequence[Redrawn], promise: Promise) -> str:
    """What stays undecided by number of calibration parts: mean over the draws, and 5 % to 95 % of them."""
    names = list(sizes[0].undecided)
    head = ["defects", "good parts", *(f"undecided, {_WHOSE[name]}" for name in names)]
    rows = [
        [
            str(one.defects),
            str(one.goods),
            *(f"{m:.1%} ({low:.1%} to {high:.1%})" for m, low, high in one.undecided.values()),
        ]
        for one in sizes
    ]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    note = (
        "Drawn again from the stored calibration parts, and counted on those: mean, and 5 % to 95 % of the draws. More "
        "parts of these kinds are assumed; a kind that they do not hold is not in it."
    )
    return "\n".join([*table, "", note])


def lacking_sentence(sizes: Sequence[Redrawn], promise: Promise) -> str:
    """What the stored parts are too few for, and how many more it takes; empty where there are enough."""
    there, least = next(one for one in sizes if one.times == 1.0), needs(promise, [0])[0]
    sides = (
        ("good", "defects", there.defects, least.defects, "of escapes nothing can be promised"),
        ("defect", "good parts", there.goods, least.goods, "of overkill nothing can be promised"),
    )
    return " ".join(
        f"The scores hold {n} {what}, and it takes {wanted}: until {wanted - n} more labelled {what} are in the "
        f"calibration split, {so}, and the system never says {verdict}."
        for verdict, what, n, wanted, so in sides
        if n < wanted
    )


def outcome_sentence(found: Outcome, shipped: float | None) -> str:
    """What a promise comes to at a prevalence; `shipped` None: nothing is known of how many good parts are shipped."""
    if shipped == 0:
        return (
            f"With {found.prevalence:.2%} defects among the parts, of 10,000 at most {found.false_alarms:.4g} good "
            "parts are rejected. With these scores no part is called good, so none is shipped unless a person says so."
        )
    how = "if every good part is shipped" if shipped is None else f"with {shipped:.1%} of the good parts shipped"
    further = "; the fewer of them are shipped, the more it is" if shipped is None else ""
    return (
        f"With {found.prevalence:.2%} defects among the parts, of 10,000 at most {found.escapes:.3g} defects are "
        f"shipped and at most {found.false_alarms:.4g} good parts rejected. P(defect | shipped) is at most "
        f"{found.defect_given_shipped:.3%} {how}{further}."
    )


def _redrawn(path: Path, promise: Promise) -> list[Redrawn]:
    rows = read_rows(path)
    sampled = CalibrationScores.from_rows(rows)
    return redrawn(sampled, None if sampled.cloud is None else composite_of(rows, promise), promise)
