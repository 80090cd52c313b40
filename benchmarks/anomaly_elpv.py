"""Four ways to the features of good parts alone, three seeds each, on the test split of ELPV.

MODELS holds a folder a way and in it one a seed, as recipes/anomaly/train.py writes them: MODELS/simsiam/0, say. Each
is measured by `evaluate_anomaly`, which counts it as an evaluation of the split and refuses a model that has seen it.
The spread is the standard deviation over seeds; a way without chance in it has none. The interval is of the seed
whose AUROC is the middle one.
python benchmarks/anomaly_elpv.py MODELS --data DATA --out FOLDER
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median_low, stdev
from typing import Any

from hf_inspect import files
from hf_inspect.reports import evaluate_anomaly

MODEL = "inspection_anomaly"
WANTED = 0.88  # of the best way's mean
TITLES = ("way", "seeds", "AUROC, mean", "spread", "lowest", "highest", "95 % interval", "n", "on validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="folder of folders: way/seed")
    parser.add_argument("--data", type=Path, required=True, help="built ELPV data set")
    parser.add_argument("--out", type=Path, required=True, help="where results and answers are kept")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    configs = sorted(arguments.models.glob("*/*/config.json"))
    found = [path.parent for path in configs if files.read_json(path)["model_type"] == MODEL]  # not their networks
    if not found:
        raise SystemExit(f"{arguments.models} holds no models; fit some into MODELS/WAY/SEED.")
    ways: dict[str, list[dict[str, Any]]] = {}
    for model in found:
        ways.setdefault(model.parent.name, []).append(measured(model, arguments.data, arguments.split, arguments.out))
    said = table(ways)
    best = max(ways, key=lambda way: mean(value_of(one) for one in ways[way]))
    reached = mean(value_of(one) for one in ways[best])
    said += f"\n\nbest: {best}, {reached:.3f}; wanted: {WANTED}, {'reached' if reached >= WANTED else 'missed'}"
    files.write_text(arguments.out / "table.md", said + "\n")
    print(said)


def measured(model: Path, data: Path, split: str, out: Path) -> dict[str, Any]:
    """AUROC of a model on the split, and on validation as its fit logged it; results.json stays in `out`."""
    place = out / f"{model.parent.name}-{model.name}.json"
    if not place.is_file() or files.read_json(place)["inputs"]["models"] != files.weights(model):
        results, _ = evaluate_anomaly(model, data, split, place.with_suffix(".jsonl"))
        files.write_json(place, results)
    ran = files.read_json(model / "training_log.json")["ran"]
    return {
        "auroc": files.read_json(place)["anomaly"]["auroc"],
        "validation": ran.get("validation", {}).get("auroc", {}).get("value"),
    }


def value_of(one: Mapping[str, Any]) -> float:
    """AUROC of one seed."""
    return float(one["auroc"]["value"])


def table(ways: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row a way."""
    lines = [TITLES, ("---",) * len(TITLES)]
    for way, seeds in ways.items():
        values = [value_of(one) for one in seeds]
        middle = seeds[values.index(median_low(values))]["auroc"]
        checked = [one["validation"] for one in seeds if one["validation"] is not None]
        spread = f"{stdev(values):.3f}" if len(values) > 1 else "-"
        lines.append(
            (way, str(len(seeds)), f"{mean(values):.3f}", spread, f"{min(values):.3f}", f"{max(values):.3f}",
             f"{middle['low']:.3f} to {middle['high']:.3f}", str(middle["n"]),
             f"{mean(checked):.3f}" if checked else "-")
        )  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
