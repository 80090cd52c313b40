"""A measured cascade -> one HTML file that whoever answers for the line reads: what went in, what is promised, what was
measured against it, pictures of what went wrong, and how to go on. It holds all it shows, and names no path but files'.
"""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import data as sets
from hf_inspect import files, hub
from hf_inspect.cascade import CASCADE, IS_DEFECT, IS_GOOD, UNDECIDED, Certified, Promise, needs, replay
from hf_inspect.data import absences
from hf_inspect.data.card import read_as
from hf_inspect.data.raw import accounting
from hf_inspect.data.sheet import thumbnail
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.hub import measured
from hf_inspect.hub.kinds import RESULTS
from hf_inspect.inspector import load_policies
from hf_inspect.reports.timing import contents
from hf_inspect.runtime import INSPECT, TITLES, runtime_of
from hf_inspect.schema import DEFECT
from hf_inspect.scoring import read_rows

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html.j2"
SHOWN = {"escapes": 16, "overkill": 16, "undecided": 8}  # pictures of each at most
SIDE = 160  # pixels of a picture's longer side
WHOSE = {"edge": "The edge model alone", "vlm": "The vision-language model alone", "cascade": "Both together"}
_TITLES = {
    "escapes": "Escapes: defects that the system called good",
    "overkill": "Overkill: good parts that the system called defects",
    "undecided": "Undecided: some of the parts that a person looks at",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A part of the test split as the report shows it: row number, file, class, and P(defect) by model."""

    number: int
    source: str
    class_name: str
    severities: dict[str, float | None]

    @property
    def caption(self) -> str:
        """`crack: edge 0.03, VLM 0.41`."""
        names = {"edge": "edge", "vlm": "VLM"}
        said = [f"{names[name]} {'-' if p is None else f'{p:.3f}'}" for name, p in self.severities.items()]
        return f"{self.class_name}: {', '.join(said)}"


def write_report(cascade: Path, data: Path, out: Path) -> Path:
    """Write the report of a cascade's folder, whose results.json `eval cascade` wrote there, on a built data set.

    DataError where it was not measured, or on other data, or `out` is a file of somebody else's.
    """
    if out.exists() and b"<!-- hf_inspect report -->" not in out.read_bytes()[:200]:
        raise DataError(f"{out} is another file than this command writes, and would be lost; give another name.")
    files.write_text(out, report_html(cascade, data))
    return out


def report_html(cascade: Path, data: Path) -> str:
    """The text that `write_report` writes."""
    results, manifest = _measured(cascade, data), sets.read_manifest(data)
    stated, policy = files.read_json(cascade / CASCADE), load_policies(cascade)[Certified.name]
    assert isinstance(policy, Certified)
    parts = sorted_out(cascade / _scores_name(cascade), policy)
    pictures = {name: _pictures(parts[name][:most], data, results["data"]["split"]) for name, most in SHOWN.items()}
    edge = files.read_json(hub.part_of(cascade, stated, "edge") / INSPECT)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            {
                "results": results,
                "task": manifest["task"]["classes"],
                "counts": manifest["counts"]["default"],
                "told": told_of(manifest),
                "rejected": manifest["rejected"],
                "licence": manifest["licence"],
                "statement": policy.statement,
                "promise": policy.promise,
                "second_look": stated["second_look"],
                "shortfall": shortfall(policy, calibration_share(manifest)),
                "needs": needs(policy.promise),
                "kept": against_promise(results),
                "undecided": {WHOSE[name]: rate for name, rate in results["undecided"].items()},
                "certified": results["cascade"][Certified.name],
                "edge": edge,
                "runtime": TITLES[runtime_of(edge)],
                "titles": _TITLES,
                "pictures": pictures,
                "of": {name: len(found) for name, found in parts.items()},
            }
        )
    )


def told_of(manifest: Mapping[str, Any]) -> list[str]:
    """What was there and what became of it, and what the splits lack, in sentences."""
    account = manifest["accounting"]
    lines = [*accounting.totals(account), *accounting.lines(account)]
    return [*(f"{line}." for line in lines), *absences(manifest["absent"]), *read_as(manifest), *manifest["notes"]]


def calibration_share(manifest: Mapping[str, Any]) -> float:
    """The share of all images that the calibration split has."""
    splits = {name: sum(classes.values()) for name, classes in manifest["counts"]["default"].items()}
    return splits.get("calibration", 0) / sum(splits.values())


def shortfall(policy: Certified, share: float) -> list[str]:
    """How many parts more the promise takes, a sentence for each verdict that is never said; `share` is calibration's.

    Empty where there are enough.
    """
    limits, least = policy.limits, needs(policy.promise, [0])[0]
    sides = (
        ("good", "defects", limits.low, limits.defects, least.defects),
        ("defect", "good parts", limits.high, limits.goods, least.goods),
    )
    said = []
    for verdict, what, limit, there, needed in sides:
        if limit is None:
            missing = needed - there
            photos = f", about {math.ceil(missing / share)} more photos of {what} in all" if share else ""
            said.append(
                f"The system never says {verdict}: calibration holds {there} {what}, and this promise takes {needed}; "
                f"{missing} more are wanted{photos} (calibration gets {share:.0%} of the photos)."
            )
    return said


def against_promise(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was promised beside what was measured on the test split, for escapes and overkill, and what that says."""
    promise, certified = Promise(**results["promise"]), results["cascade"][Certified.name]
    rows = (
        ("Defects called good (escapes)", promise.escape, certified["escapes"]),
        ("Good parts called defects (overkill)", promise.overkill, certified["overkill"]),
    )
    return [{"what": what, "promised": most, "measured": rate, "says": _says(rate, most)} for what, most, rate in rows]


def _says(rate: Mapping[str, Any], most: float) -> str:
    """Whether a measured rate bears a promise out, contradicts it, or is of too few parts to say."""
    if rate["value"] is None:
        return "nothing was measured: the test split has no such part"
    if rate["high"] <= most:
        return "borne out: even the upper end of the interval lies below"
    if rate["low"] > most:
        return (
            "CONTRADICTED: even the lower end of the interval lies above; do not use this cascade, look for the cause"
        )
    side = "below" if rate["value"] <= most else "above"
    return f"measured {side}, and the interval holds the promise: too few test parts to say more"


def sorted_out(scores: Path, policy: Certified) -> dict[str, list[Shown]]:
    """Parts of a file of answers by what went wrong: escapes and overkill, the surest first, and those undecided."""
    rows = [(n, row) for n, row in enumerate(read_rows(scores)[1:]) if "error" not in row]
    own = [(n, row) for n, row in rows if row["edge"].get("severity") is not None]
    edge = [row["edge"]["severity"] for _, row in own]
    vlm = [row["vlm"].get("severity", math.nan) for _, row in own] if own and "vlm" in own[0][1] else None
    codes = replay(policy, edge, vlm).codes.tolist()
    found: dict[str, list[Shown]] = {name: [] for name in SHOWN}
    for (number, row), code in zip(own, codes, strict=True):
        wrong = {(IS_GOOD, True): "escapes", (IS_DEFECT, False): "overkill"}.get((code, row["label"] == DEFECT))
        name = "undecided" if code == UNDECIDED else wrong
        if name:
            severities: dict[str, float | None] = {
                model: row[model].get("severity") for model in ("edge", "vlm") if model in row
            }
            found[name].append(Shown(number, row["source"], row["class"], severities))
    found["escapes"].sort(key=lambda one: one.severities["edge"] or 0.0)
    found["overkill"].sort(key=lambda one: -(one.severities["edge"] or 0.0))
    return found | {"undecided": _spread(found["undecided"], SHOWN["undecided"])}


def _spread(parts: Sequence[Shown], first: int) -> list[Shown]:
    """The parts with `first` of them, evenly from all over, before the rest."""
    step = max(1, len(parts) // first)
    return [*parts[::step], *(one for i, one in enumerate(parts) if i % step)]


def _measured(cascade: Path, data: Path) -> dict[str, Any]:
    results = measured.results_of(cascade)
    if results is None or "promise" not in results:
        raise DataError(f"{cascade} holds no {RESULTS} of a promise; run 'hf-inspect eval cascade' to write it there.")
    own, fingerprint = results["data"]["fingerprint"], sets.read_head(data)["fingerprint"]
    if own != fingerprint:
        raise DataError(f"{cascade} was measured on the data {own[:12]}, {data} is {fingerprint[:12]}; give that.")
    return results


def _scores_name(cascade: Path) -> str:
    name = RESULTS.replace(".json", ".scores.jsonl")
    if not (cascade / name).is_file():
        raise DataError(f"{cascade} lacks {name}, the answers that its pictures are chosen by; evaluate it again.")
    return name


def _pictures(parts: Sequence[Shown], data: Path, split: str) -> list[dict[str, str]]:
    """Each part's picture as a data URL, over its caption and its file."""
    reading = sets.read_reading(data)
    small = [thumbnail(one, SIDE, reading) for one in contents(data, split, [part.number for part in parts])]
    return [
        {"url": f"data:image/png;base64,{b64encode(png).decode()}", "caption": part.caption, "file": part.source}
        for part, png in zip(parts, small, strict=True)
    ]


def _environment() -> "Environment":
    """Jinja's, in which all that is filled in is text and what is missing is an error."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("Reports need jinja2: pip install 'hf-inspect[train]'") from error

    templates = Environment(
        loader=FileSystemLoader(files.shipped("model_cards")), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters["rate"] = _rate
    return templates


def _rate(one: Mapping[str, Any]) -> str:
    """`2.1% (0.4% to 6.0%; 3 of 141)`: a rate with its 95 % interval."""
    if one["value"] is None:
        return "not defined: there is none"
    return f"{one['value']:.1%} ({one['low']:.1%} to {one['high']:.1%}; {one['k']} of {one['n']})"
