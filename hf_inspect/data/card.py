"""The card of a built data set: YAML that makes `load_dataset` work, the script's text, and what its manifest holds."""

import hashlib
import json
import random
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.data.joining import FOUND, LOOKS
from hf_inspect.data.partition import DEFAULT, SPLITS, Row
from hf_inspect.data.raw import accounting
from hf_inspect.data.rules import Rules
from hf_inspect.data.sheet import of_images
from hf_inspect.reading import MAX_PIXELS, Reading
from hf_inspect.schema import TaskSpec

if TYPE_CHECKING:
    from hf_inspect.data.builder import InspectionBuilder

SHEET = "contact_sheet.png"
_LACKS = {
    "calibration": "what is promised of thresholds set on it is not promised of them",
    "test": "no figure measured on it is of them",
}
_MARKDOWN = frozenset("\\`*_[]<>&|~$")  # what Markdown would read as its own
_ON_SHEET = 24  # images on the contact sheet
_REJECTED_NAMED = 20
_ABSENT_NAMED = 10


def write_sheet(folder: Path, rows: Sequence[Row], reading: Reading) -> None:
    """Write the contact sheet that the card shows into a built data set's folder."""
    of_images([(row.sample.read(), _caption(row)) for row in _sampled(rows)], folder / SHEET, reading=reading)


def data_card(script: "type[InspectionBuilder]", manifest: Mapping[str, Any], notes: str = "") -> str:
    """The card's text; `notes` are added to the letter."""
    text = Path(sys.modules[script.__module__].__file__ or "").with_name("card.md").read_text().rstrip()
    parts = [_yaml(script, manifest), text, f"![{_ON_SHEET} of the images]({SHEET})", _usage(script, manifest)]
    task = TaskSpec.from_dict(manifest["task"], f"the manifest of {manifest['builder']['name']}")
    parts += [f"## Classes\n\n{task_table(task)}"]
    parts += ["## Splits\n\n" + _table(manifest, task) + "\n\n" + _grouped(manifest), *_sections(manifest, task)]
    return "\n\n".join([*parts, *([notes] if notes else []), _origin(script, manifest)]) + "\n"


def absences(absent: Mapping[str, Sequence[str]], shown: Callable[[str], str] = str) -> list[str]:
    """A sentence for each split of which a manifest says that kinds of images are `absent`; `shown` writes a name."""
    return [
        f"{split} has no image of {_listed([shown(name) for name in names])}: {_LACKS[split]}."
        for split, names in absent.items()
        if names
    ]


def read_as(manifest: Mapping[str, Any]) -> list[str]:
    """A sentence on each choice that was made in reading the images."""
    reading = manifest["reading"]
    bits, most = reading["bits"], reading["max_pixels"]
    said = [f"{bits} bits of 16 carry the picture: {2**bits - 1} is white, more is refused."] if bits else []
    said += [f"Images of up to {most:,} pixels are read."] if most != MAX_PIXELS else []
    return [*said, *reading["warnings"], *(f"{n:,} images: {note}." for note, n in reading["notes"].items())]


def task_table(task: TaskSpec) -> str:
    """Each class and whether it is good or a defect, as a Markdown table."""
    lines = [f"| {cell(name)} | {one} |" for name, one in zip(task.classes, task.dispositions, strict=True)]
    return "\n".join(["| class | is |", "|---|---|", *lines])


def cell(text: str) -> str:
    """A text of any characters as the content of one cell of a Markdown table, shown as it is."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in " ".join(text.split()))


def head(values: Mapping[str, Any]) -> str:
    """The YAML at the head of a card."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}---"


def usage(config: str) -> str:
    """How a data set's folder or repository is loaded, as a block of Python."""
    named = "" if config == DEFAULT else f', "{config}"'
    call = f"print(load_dataset(str(Path.cwd()){named}))  # this folder, or org/name on the Hub"
    lines = ["from pathlib import Path", "", "from datasets import load_dataset", "", call]
    return "\n".join(["```python", *lines, "```"])


def _usage(script: "type[InspectionBuilder]", manifest: Mapping[str, Any]) -> str:
    """The first config that was built."""
    return usage(next(name for name, united in script.CONFIGS.items() if set(united) & set(manifest["counts"])))


def _yaml(script: "type[InspectionBuilder]", manifest: Mapping[str, Any]) -> str:
    values = {"license": manifest["licence"].lower(), "task_categories": ["image-classification"]}
    return head(values | {"configs": configs(script, manifest, manifest["counts"])})


def configs(
    script: "type[InspectionBuilder]", manifest: Mapping[str, Any], places: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What `load_dataset` reads from a card's head: each config's Parquet files by split.

    `places` are the configs and splits that were written. The description is there since `load_dataset` keeps what it
    read by the folder's name and these lines: without it, a folder that is built anew is answered from the old one.
    """
    name, made_of = manifest["builder"]["name"], json.dumps([manifest["builder"], manifest["fingerprint"]])
    description = f"build {hashlib.sha256(made_of.encode()).hexdigest()}"
    found = []
    for config, united in script.CONFIGS.items():
        by_split = {
            split: [_glob(name, part, split) for part in united if split in places.get(part, {})] for split in SPLITS
        }
        data_files = [{"split": split, "path": paths} for split, paths in by_split.items() if paths]
        named = {"config_name": config, "description": description, "data_files": data_files}
        found += [named] if data_files else []
    return found


def _glob(name: str, config: str, split: str) -> str:
    inside = "data" if config == DEFAULT else f"data/{config}"
    return f"{inside}/{name}-{split}*.parquet"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _ABSENT_NAMED
    return ", ".join(names[:_ABSENT_NAMED]) + (f" and {more} more kinds" if more > 0 else "")


def _table(manifest: Mapping[str, Any], task: TaskSpec) -> str:
    lines = [_row("config", "split", *map(cell, task.classes)), _row(*["---"] * (2 + len(task.classes)))]
    for config, splits in manifest["counts"].items():
        for split in (split for split in SPLITS if split in splits):
            lines.append(_row(config, split, *(splits[split].get(name, 0) for name in task.classes)))
    return "\n".join(lines)


def _code(text: str) -> str:
    """A text of any characters as a span of code."""
    plain = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    return f"{fence}{plain}{fence}" if len(fence) == 1 else f"{fence} {plain} {fence}"


def _row(*values: Any) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _grouped(manifest: Mapping[str, Any]) -> str:
    groups, builder = manifest["groups"], manifest["builder"]
    rule = builder["options"].get("group_rule")
    said = [
        f"{groups['n']} groups of copies and near-duplicates; the largest has {groups['largest']} images "
        f"({groups['largest_share']:.2%}).",
        f"Joined by `--near {builder['rules']['near']}`: {LOOKS[builder['rules']['near']]}.",
        f"By the group rule {_code(rule)}, images of one key are one group and of two keys are two, whatever they look "
        "like; images that it does not match are joined by their looks."
        if rule
        else "",
        FOUND if builder["rules"]["near"] != "off" else "",
    ]
    return " ".join(filter(None, said))


def _sections(manifest: Mapping[str, Any], task: TaskSpec) -> Iterator[str]:
    """Absent kinds, notes, reading, strata, all there was and what was rejected; strata where they tell most."""
    lacking = absences(manifest["absent"], cell)
    if lacking:
        yield "## What its splits lack\n\n" + "\n".join(f"- {sentence}" for sentence in lacking)
    if manifest["notes"]:
        yield "## What to know of this build\n\n" + "\n".join(f"- **{note}**" for note in manifest["notes"])
    if read := read_as(manifest):
        yield "## How its images are read\n\n" + "\n".join(f"- {cell(sentence)}" for sentence in read)
    strata = manifest["strata"]
    if len(strata) > 1 and not set(strata) <= set(task.classes):
        lines = [_row(cell(name), n) for name, n in strata.items()]
        yield "## By stratum\n\nWhat the split keeps in proportion.\n\n" + "\n".join(
            ["| stratum | images |", "|---|---|", *lines]
        )
    account = manifest["accounting"]
    said = (*map(cell, accounting.totals(account)), *accounting.lines(account, cell))
    yield "## What was there\n\n" + "\n".join(f"- {line}." for line in said)
    rejected = manifest["rejected"]
    if rejected:
        lines = [f"- {_code(one['source'])}: {cell(one['reason'])}" for one in rejected[:_REJECTED_NAMED]]
        more = [f"- ... and {len(rejected) - _REJECTED_NAMED} more, in manifest.json"]
        lines += more if len(rejected) > _REJECTED_NAMED else []
        yield f"## Left out: {len(rejected)} images\n\n" + "\n".join(lines)


def _origin(script: "type[InspectionBuilder]", manifest: Mapping[str, Any]) -> str:
    builder = manifest["builder"]
    options = "".join(map(_option, (*builder["options"].items(), *_changed(builder["rules"]))))
    src = " --src RAW" if builder["name"] != "elpv" else ""
    lines = ["## Build it again", "", f"    hf-inspect data build {builder['name']}{src}{options} --out DIR", ""]
    lines += [f"Fingerprint `{manifest['fingerprint']}`, script version {builder['version']}.", "", "## Licence", ""]
    if script.LICENCE is None:
        return "\n".join([*lines, f"{manifest['licence']}, as whoever built it stated."])
    return "\n".join([*lines, script.LICENCE.sentence() + ".", "", f"Cite: {script.LICENCE.citation}"])


def _changed(rules: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those rules of the build that are not as they are by themselves."""
    unchanged = asdict(Rules())
    return ((name, value) for name, value in rules.items() if value != unchanged[name])


def _option(named: tuple[str, Any]) -> str:
    """` --n-good 20`; a switch alone, nothing for one that is off or has no value."""
    name, value = f" --{named[0].replace('_', '-')}", named[1]
    if value is None or isinstance(value, bool):
        return name if value else ""
    return f"{name} {shlex.quote(str(value))}"


def _caption(row: Row) -> str:
    return f"{' '.join(str(row.sample.class_name).split())} {row.split}"


def _sampled(rows: Sequence[Row]) -> list[Row]:
    """Up to 24 rows, evenly over strata, the same for the same rows."""
    by_stratum: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_stratum[row.sample.stratum].append(row)
    shuffled = random.Random(0)
    piles = [shuffled.sample(pile, len(pile)) for _, pile in sorted(by_stratum.items())]
    turns = (pile[turn] for turn in range(_ON_SHEET) for pile in piles if turn < len(pile))
    return [row for row, _ in zip(turns, range(_ON_SHEET), strict=False)]
