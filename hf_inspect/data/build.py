"""A data set's script -> a folder that plain `load_dataset` reads: Parquet, card and manifest.json."""

import hashlib
import importlib.util
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_inspect import files
from hf_inspect.data.partition import Row
from hf_inspect.errors import DataError

MANIFEST = "manifest.json"


def build(name: str, out: Path, seed: int = 0) -> dict[str, Any]:
    """Build the data set `name` (a folder of dataset_scripts/) into `out`; returns its manifest.

    A folder already built by the same script, version and seed is left alone.
    """
    script = _script(name)
    arguments = {"name": name, "version": str(script.BUILDER.VERSION), "seed": seed}
    if (out / MANIFEST).exists() and files.read_json(out / MANIFEST)["builder"] == arguments:
        return files.read_json(out / MANIFEST)
    with files.staged_folder(out) as stage:
        rows = _write_parquet(script, stage, name, seed)
        manifest = _manifest(rows, arguments, script.LICENCE)
        files.write_text(stage / "README.md", _card(script, manifest))
        head = {key: value for key, value in manifest.items() if key != "images"}
        files.write_table(stage / MANIFEST, head, "images", manifest["images"])
    return manifest


def _script(name: str) -> ModuleType:
    """The script's module, loaded from its file: dataset_scripts/ is no package."""
    folder = files.shipped("dataset_scripts")
    path = folder / name / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in folder.glob("*/*.py")))
        raise DataError(f"no data set {name!r}; there are: {known}.")
    spec = importlib.util.spec_from_file_location(f"hf_inspect_dataset_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # `datasets` imports a builder's module by name
    spec.loader.exec_module(module)
    return module


def _write_parquet(script: ModuleType, stage: Path, name: str, seed: int) -> list[Row]:
    """Run the builder, keep its Parquet shards under data/; returns its rows in the order of the source."""
    builder = script.BUILDER(seed=seed, cache_dir=str(stage / "cache"), dataset_name=name)
    builder.download_and_prepare(str(stage / "data"), file_format="parquet")
    shutil.rmtree(stage / "cache", ignore_errors=True)
    for extra in (*stage.glob("*.lock"), *(stage / "data").glob("*.json")):  # datasets' own bookkeeping
        extra.unlink()
    return builder.rows


def _manifest(rows: Sequence[Row], arguments: Mapping[str, Any], licence: str) -> dict[str, Any]:
    kept = [row.to_manifest() for row in rows]
    largest = Counter(row.group for row in rows).most_common(1)[0][1]
    return {
        "builder": dict(arguments),
        "licence": licence,
        "fingerprint": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest(),
        "counts": _counts(rows),
        "groups": {"n": len({row.group for row in rows}), "largest": largest, "largest_share": largest / len(rows)},
        "images": kept,
    }


def _counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        of_split = counts.setdefault(row.split, {})
        of_split[row.sample.label] = of_split.get(row.sample.label, 0) + 1
    return {split: dict(sorted(counts[split].items())) for split in sorted(counts)}


def _card(script: ModuleType, manifest: Mapping[str, Any]) -> str:
    """The card: YAML that makes `load_dataset` work, the script's text, and what was counted."""
    builder, groups = manifest["builder"], manifest["groups"]
    yaml = ["---", f"license: {script.LICENCE.lower()}", "task_categories:", "- image-classification", "configs:"]
    yaml += ["- config_name: default", "  data_files:"]
    for split in script.SHARES:
        yaml += [f"  - split: {split}", f"    path: data/{builder['name']}-{split}*.parquet"]
    table = ["| split | good | defect |", "|---|---|---|"]
    for split in script.SHARES:
        count = manifest["counts"].get(split, {})
        table.append(f"| {split} | {count.get('good', 0)} | {count.get('defect', 0)} |")
    text = Path(script.__file__ or "").with_name("card.md").read_text()
    grouped = (
        f"{groups['n']} groups of copies and near-duplicates; the largest has {groups['largest']} images "
        f"({groups['largest_share']:.2%})."
    )
    rebuild = f"hf-inspect data build {builder['name']} --seed {builder['seed']} --out DIR"
    facts = ["## Splits", "", *table, "", grouped, "", "## Build it again", "", f"    {rebuild}", ""]
    facts += [f"Fingerprint `{manifest['fingerprint']}`.", ""]
    return "\n".join([*yaml, "---", "", text, *facts])
