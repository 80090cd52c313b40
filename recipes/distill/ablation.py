"""What a larger model's logits and features add to labels: a table and a plot over arms and seeds.

    python recipes/distill/ablation.py --config recipes/distill/ablation.yaml

Each cell is a command of recipes/edge_detector/train.py and a `hf-inspect eval detect` that are printed, and not given
again while their results stand. Writes ablation.json, ablation.md and ablation.png.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import yaml

from hf_inspect import files
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.tasks.canvas import new_figure, png_of
from hf_inspect.training import INSPECT, LAUNCH, LOG, Step, check_processes, do, parsed, run

ARMS = {"labels": (), "logits": ("logits",), "features": ("features",), "both": ("logits", "features")}
OF_TEACHER = ("teacher", "temperature", "alpha", "shares")  # settings that labels alone have no use for
FIGURES = {"map": "mAP", "ap50": "AP50"}
SPLITS = {"validation": "#0072B2", "test": "#D55E00"}


@dataclass
class Arguments:
    """What is trained how often; settings of a student are in its own YAML."""

    data: Path = field(metadata={"help": "folder of `hf-inspect data build coco`"})
    fit: Path = field(metadata={"help": "YAML of recipes/edge_detector/train.py"})
    teacher: Path = field(metadata={"help": "folder of the larger model"})
    output_dir: Path = field(default=Path("outputs/distill"))
    arms: list[str] = field(default_factory=lambda: list(ARMS), metadata={"help": ", ".join(ARMS)})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


def main():
    (chosen,) = parsed(Arguments)
    check_processes(1, "start it by python, its trainings start their own")
    if not chosen.seeds or not chosen.arms or set(chosen.arms) - set(ARMS):
        raise DataError(f"arms are {chosen.arms}, seeds {chosen.seeds}; give seeds, and some of {', '.join(ARMS)}.")
    fingerprint, out = read_head(chosen.data)["fingerprint"], chosen.output_dir
    rows = []
    for seed in chosen.seeds:
        for arm in chosen.arms:
            model = out / f"{arm}-{seed}"
            config = written(chosen, arm)
            by_one(trained(chosen, arm, seed, config, model), out, fingerprint)
            rows.append({"arm": arm, "seed": seed, **measured(chosen, model, fingerprint)})
    teacher = measured(chosen, chosen.teacher, fingerprint)
    said = table(rows, teacher)
    files.write_json(out / "ablation.json", {"teacher": teacher, "cells": rows})
    files.write_text(out / "ablation.md", said + "\n")
    files.write_bytes(out / "ablation.png", plot(rows, teacher, f"{chosen.data.name}, {len(chosen.seeds)} seeds"))
    print(said)


def written(chosen, arm):
    """The YAML of an arm, which is the student's own with the shares of what it does without at 0."""
    settings = yaml.safe_load(files.read_text(chosen.fit))
    if not ARMS[arm]:
        settings = {name: value for name, value in settings.items() if name not in OF_TEACHER}
    else:
        without = {name: 0.0 for name in ARMS["both"] if name not in ARMS[arm]}
        settings["shares"] = settings.get("shares", {}) | without
    path = chosen.output_dir / f"{arm}.yaml"
    files.write_text(path, yaml.safe_dump(settings, sort_keys=False))
    return path


def trained(chosen, arm, seed, config, model):
    """The step that trains a cell's student."""
    asked = ["--data", str(chosen.data), "--output_dir", str(model), "--seed", str(seed)]
    taught = ["--teacher", str(chosen.teacher), "--answers", str(chosen.output_dir / "answers")] if ARMS[arm] else []
    command = [*LAUNCH, "recipes/edge_detector/train.py", "--config", str(config), *asked, *taught]
    return Step(model / LOG, command, [config, *([chosen.teacher] if taught else [])], anew=True)


def measured(chosen, model, fingerprint):
    """mAP and AP50 of a model: on validation those of its best step, by which it was chosen; on test once."""
    results = chosen.output_dir / f"{model.name}.json"
    command = [INSPECT, "eval", "detect", str(model), "--data", str(chosen.data), "--out", str(results)]
    by_one(Step(results, command, [model]), chosen.output_dir, fingerprint)
    log, found = files.read_json(model / LOG), files.read_json(results)["detection"]
    best = log["best"]["checkpoint_step"]
    row = next(one for one in log["history"] if one["step"] == best and "eval_map" in one)
    return {
        "validation": {name: row[f"eval_{name}"] for name in FIGURES},
        "test": {name: found[name]["value"] for name in FIGURES},
    }


def by_one(step, out, fingerprint):
    """Do a step, or wait for the one who does: several run at once."""
    stamp = step.stamp(out)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(stamp.with_suffix(".lock")):
        do(step, out, fingerprint)


def values(rows, arm, split, name):
    """A figure of each seed of an arm."""
    return [row[split][name] for row in rows if row["arm"] == arm]


def table(rows, teacher):
    """A row an arm: mean and spread over the seeds; which validation chooses, and what a teacher adds."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    columns = [(split, name) for split in SPLITS for name in FIGURES]
    titles = [f"{split} {FIGURES[name]}" for split, name in columns]
    lines = ["| learns from | " + " | ".join(titles) + " | seeds |", "|" + "---|" * (len(columns) + 2)]
    for arm in arms:
        cells = [spread(values(rows, arm, *column)) for column in columns]
        lines.append(f"| {named(arm)} | " + " | ".join(cells) + f" | {len(values(rows, arm, *columns[0]))} |")
    whole = " | ".join(f"{teacher[split][name]:.3f}" for split, name in columns)
    lines += [f"| (the teacher itself) | {whole} | 1 |", ""]
    chosen = max(arms, key=lambda arm: mean(values(rows, arm, "validation", "ap50")))
    lines.append(f"Validation AP50 chooses: {named(chosen)}.")
    for arm in (one for one in arms if one != "labels" and "labels" in arms):
        said = ", ".join(f"{split} {signed(gains(rows, arm, split))}" for split in SPLITS)
        lines.append(f"{named(arm)} against labels alone, AP50 seed by seed: {said}.")
    return "\n".join(lines)


def gains(rows, arm, split):
    """AP50 of each seed of an arm less that of the labels alone, which began with the same weights and saw the same."""
    alone = {row["seed"]: row[split]["ap50"] for row in rows if row["arm"] == "labels"}
    return [row[split]["ap50"] - alone[row["seed"]] for row in rows if row["arm"] == arm]


def named(arm):
    return "labels alone" if not ARMS[arm] else "labels, " + " and ".join(ARMS[arm])


def spread(found):
    """Mean and standard deviation."""
    return f"{mean(found):.3f} ± {stdev(found):.3f}" if len(found) > 1 else f"{found[0]:.3f}"


def signed(found):
    """Mean and standard deviation of differences."""
    return f"{mean(found):+.3f} ± {stdev(found):.3f}" if len(found) > 1 else f"{found[0]:+.3f}"


def plot(rows, teacher, title):
    """AP50 of each seed as a dot, the mean as a bar, the teacher's as a line; validation beside test."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for shift, (split, colour) in zip((-0.2, 0.2), SPLITS.items(), strict=True):
        places = [i + shift for i in range(len(arms))]
        found = [values(rows, arm, split, "ap50") for arm in arms]
        axes.bar(places, [mean(one) for one in found], 0.36, color=colour, alpha=0.35, label=split)
        for place, one in zip(places, found, strict=True):
            axes.plot([place] * len(one), one, color=colour, marker="o", markersize=4, linestyle="none")
        axes.axhline(teacher[split]["ap50"], color=colour, linestyle="--", linewidth=1)
    axes.set_xticks(range(len(arms)), [named(arm) for arm in arms], fontsize=8)
    axes.set(ylabel="AP50 (dashed: the teacher's)", title=title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


if __name__ == "__main__":
    run(main)
