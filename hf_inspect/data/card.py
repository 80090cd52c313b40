"""The card of a built data set: YAML that makes `load_dataset` work, the script's text, and what its manifest holds."""

import random
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.data.partition import DEFAULT, SPLITS, Row
from hf_inspect.data.sheet import of_images
from hf_inspect.schema import LABELS

if TYPE_CHECKING:
    from hf_inspect.data.builder import InspectionBuilder

SHEET = "contact_sheet.png"
_SHOWN = 24  # images on the contact sheet
_REJECTED_SHOWN = 20


def write_sheet(folder: Path, rows: Sequence[Row]) -> None:
    """Write the contact sheet that the card shows into a built data set's folder."""
    of_images([(row.sample.read(), _caption(row)) for row in _drawn(rows)], folder / SHEET)


def data_card(script: "type[InspectionBuilder]", manifest: Mapping[str, Any], notes: str = "") -> str:
    """The card's text; `notes` are added to the letter."""
    text = Path(sys.modules[script.__module__].__file__ or "").with_name("card.md").read_text().rstrip()
    parts = [_yaml(script, manifest), text, f"![{_SHOWN} of the images]({SHEET})", _usage(script, manifest)]
    parts += ["## Splits\n\n" + _table(manifest) + "\n\n" + _grouped(manifest), *_sections(manifest)]
    return "\n\n".join([*parts, *([notes] if notes else []), _origin(script, manifest)]) + "\n"


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
    name, counts = manifest["builder"]["name"], manifest["counts"]
    lines = ["---", f"license: {manifest['licence'].lower()}", "task_categories:", "- image-classification", "configs:"]
    for config, united in script.CONFIGS.items():
        parts = [part for part in united if part in counts]
        lines += [f"- config_name: {config}", "  data_files:"] if parts else []
        for split in (split for split in SPLITS if any(split in counts[part] for part in parts)):
            lines += [f"  - split: {split}", "    path:"]
            lines += [f"    - {_glob(name, part, split)}" for part in parts if split in counts[part]]
    return "\n".join([*lines, "---"])


def _glob(name: str, config: str, split: str) -> str:
    inside = "data" if config == DEFAULT else f"data/{config}"
    return f"{inside}/{name}-{split}*.parquet"


def _table(manifest: Mapping[str, Any]) -> str:
    lines = ["| config | split | good | defect |", "|---|---|---|---|"]
    for config, splits in manifest["counts"].items():
        for split in (split for split in SPLITS if split in splits):
            good, defect = (splits[split].get(label, 0) for label in LABELS)
            lines.append(f"| {config} | {split} | {good} | {defect} |")
    return "\n".join(lines)


def _grouped(manifest: Mapping[str, Any]) -> str:
    groups = manifest["groups"]
    return (
        f"{groups['n']} groups of copies and near-duplicates; the largest has {groups['largest']} images "
        f"({groups['largest_share']:.2%})."
    )


def _sections(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Notes, classes and rejected images, each where there are any."""
    if manifest["notes"]:
        yield "## What to know of this build\n\n" + "\n".join(f"- **{note}**" for note in manifest["notes"])
    classes = manifest["classes"]
    if len(classes) > 1:
        lines = [f"| {name} | {n} |" for name, n in classes.items()]
        yield "## By class\n\n| class | images |\n|---|---|\n" + "\n".join(lines)
    rejected = manifest["rejected"]
    if rejected:
        lines = [f"- `{one['source']}`: {one['reason']}" for one in rejected[:_REJECTED_SHOWN]]
        more = [f"- ... and {len(rejected) - _REJECTED_SHOWN} more, in manifest.json"]
        lines += more if len(rejected) > _REJECTED_SHOWN else []
        yield f"## Left out: {len(rejected)} images\n\n" + "\n".join(lines)


def _origin(script: "type[InspectionBuilder]", manifest: Mapping[str, Any]) -> str:
    builder = manifest["builder"]
    options = "".join(map(_option, builder["options"].items()))
    src = " --src RAW" if builder["name"] != "elpv" else ""
    lines = ["## Build it again", "", f"    hf-inspect data build {builder['name']}{src}{options} --out DIR", ""]
    lines += [f"Fingerprint `{manifest['fingerprint']}`, script version {builder['version']}.", "", "## Licence", ""]
    if script.LICENCE is None:
        return "\n".join([*lines, f"{manifest['licence']}, as whoever built it stated."])
    return "\n".join([*lines, script.LICENCE.sentence() + ".", "", f"Cite: {script.LICENCE.citation}"])


def _option(named: tuple[str, Any]) -> str:
    """` --n-good 20`; a switch alone, nothing for one that is off or has no value."""
    name, value = f" --{named[0].replace('_', '-')}", named[1]
    if value is None or isinstance(value, bool):
        return name if value else ""
    return f"{name} {shlex.quote(str(value))}"


def _caption(row: Row) -> str:
    return f"{row.sample.label} {row.split}"


def _drawn(rows: Sequence[Row]) -> list[Row]:
    """Up to 24 rows, evenly over strata, the same for the same rows."""
    by_stratum: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_stratum[row.sample.stratum].append(row)
    deal = random.Random(0)
    piles = [deal.sample(pile, len(pile)) for _, pile in sorted(by_stratum.items())]
    turns = (pile[turn] for turn in range(_SHOWN) for pile in piles if turn < len(pile))
    return [row for row, _ in zip(turns, range(_SHOWN), strict=False)]
