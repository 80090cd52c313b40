"""How good an anomaly model is that was fitted to 1, 4 or 16 good images: a curve with its spread over the draws.

    python recipes/anomaly/few_shot.py --config recipes/anomaly/elpv_few_shot.yaml

Each draw is a command of recipes/anomaly/train.py that is printed, and not given again while its result stands; of the
split test a `hf-inspect eval anomaly` as well. Writes few_shot.json, few_shot.md and few_shot.png.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from hf_inspect import files
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.tasks.canvas import new_figure, png_of
from hf_inspect.training import INSPECT, LAUNCH, LOG, Step, check_processes, do, parsed, run

LEAST = {"patches": 1}  # good images that a score takes; 2 of any other
COLOURS = ("#0072B2", "#D55E00", "#009E73")


@dataclass
class Arguments:
    """What is fitted how often; settings of a fit are in its own YAML."""

    data: Path = field(metadata={"help": "folder of `hf-inspect data build`"})
    fit: Path = field(metadata={"help": "YAML of recipes/anomaly/train.py"})
    output_dir: Path = field(default=Path("outputs/anomaly/few_shot"))
    category: str = field(default="", metadata={"help": "of a data set that has some"})
    scores: list[str] = field(default_factory=lambda: ["patches", "fre"], metadata={"help": "as train.py has them"})
    shots: list[int] = field(default_factory=lambda: [1, 4, 16], metadata={"help": "good images, numbers of them"})
    draws: int = field(default=5, metadata={"help": "of each number, by the seeds 0, 1, ..."})
    split: str = field(default="validation", metadata={"help": "validation, to choose settings on, or test"})


def main():
    (chosen,) = parsed(Arguments)
    check_processes(1, "start it by python, its fits start their own")
    if chosen.split not in ("validation", "test") or chosen.draws < 1:
        raise DataError(f"split is {chosen.split}, draws {chosen.draws}; give validation or test, and 1 or more.")
    fingerprint = read_head(chosen.data)["fingerprint"]
    rows = []
    for score in chosen.scores:
        for shots in (n for n in chosen.shots if n >= LEAST.get(score, 2)):
            for draw in range(chosen.draws):
                steps, read = drawn(chosen, score, shots, draw)
                for step in steps:
                    do(step, chosen.output_dir, fingerprint)
                rows.append({"score": score, "shots": shots, "draw": draw, "auroc": read()})
    files.write_json(chosen.output_dir / "few_shot.json", {"split": chosen.split, "draws": rows})
    said = table(rows)
    files.write_text(chosen.output_dir / "few_shot.md", said + "\n")
    files.write_bytes(chosen.output_dir / "few_shot.png", curve(rows, f"{chosen.data.name}, {chosen.split}"))
    print(said)


def drawn(chosen, score, shots, draw):
    """The steps of one draw, and what reads its AUROC with interval when they are done."""
    out = chosen.output_dir / f"{score}-{shots}-{draw}"
    model, only = out / chosen.category, ["--only", chosen.category] if chosen.category else []
    asked = ["--data", str(chosen.data), "--output_dir", str(out), "--score", score, "--shots", str(shots)]
    command = [*LAUNCH, "recipes/anomaly/train.py", "--config", str(chosen.fit), *asked, "--seed", str(draw), *only]
    steps = [Step(model / LOG, command, [chosen.fit])]
    if chosen.split == "validation":
        return steps, lambda: on_validation(model)
    results, split = chosen.output_dir / f"{out.name}.json", f"{chosen.category}/test" if chosen.category else "test"
    evaluated = [INSPECT, "eval", "anomaly", str(model), "--data", str(chosen.data), "--split", split]
    steps.append(Step(results, [*evaluated, "--out", str(results)], [model]))
    return steps, lambda: files.read_json(results)["anomaly"]["auroc"]


def on_validation(model):
    """What the fit measured on validation."""
    ran = files.read_json(model / LOG)["ran"]
    if "validation" not in ran:
        raise DataError(f"{model} had no validation split to be measured on; give --split test.")
    return ran["validation"]["auroc"]


def by_score(rows):
    """Score -> good images -> the AUROC of each draw."""
    found = {}
    for row in rows:
        found.setdefault(row["score"], {}).setdefault(row["shots"], []).append(row["auroc"]["value"])
    return found


def table(rows):
    """A row a score and number of images."""
    lines = ["| score | good images | AUROC, mean | spread | lowest | highest | draws |", "|" + "---|" * 7]
    for score, of in by_score(rows).items():
        for shots, found in of.items():
            spread = f"{stdev(found):.3f}" if len(found) > 1 else "-"
            cells = (f"{mean(found):.3f}", spread, f"{min(found):.3f}", f"{max(found):.3f}", str(len(found)))
            lines.append(f"| `{score}` | {shots} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curve(rows, title):
    """The mean of each score over the number of images, with each draw as a dot and a band from lowest to highest."""
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    for colour, (score, of) in zip(COLOURS * len(rows), by_score(rows).items(), strict=False):
        x = list(of)
        axes.fill_between(x, [min(one) for one in of.values()], [max(one) for one in of.values()],
                          color=colour, alpha=0.15)  # fmt: skip
        axes.plot(x, [mean(one) for one in of.values()], color=colour, marker="o", label=score)
        for shots, found in of.items():
            axes.plot([shots] * len(found), found, color=colour, marker=".", linestyle="none", alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="Good images fitted to", ylabel="AUROC", title=title)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


if __name__ == "__main__":
    run(main)
