"""A folder of your own photos, a folder a class -> a cascade with a signed promise, measured, and a report to read.

    python recipes/own_parts/run.py photos --good ok --out outputs/parts

Builds the data set, trains an edge student and a VLM adapter, exports, certifies, measures, and writes the card and
OUT/report.html. Settings follow from the photos (hf_inspect/training/defaults.py) and stand in OUT/settings. Each step
is a command that is printed; run again, only what is missing or was made from something else is done.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from hf_inspect import files
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.students import LITE0
from hf_inspect.training import INSPECT, LAUNCH, Step, check_processes, check_splits, defaults, do, perform, run

EYES = {"demo-base": LITE0, "tiny-base": "random:test_efficientnet.r160_in1k"}  # a student of it starts the VLM's tower
EDGE_ONLY = "none"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Asked:
    """What is trained, for which promise, and where it lies."""

    out: Path
    edge: str
    vlm: str
    risk: dict[str, float]
    side: int | None
    steps: int | None

    @property
    def data(self) -> Path:
        """The built data set."""
        return self.out / "data"


@app.command()
def main(
    photos: Annotated[Path, typer.Argument(help="Folder of class folders: photos/ok, photos/crack, ...")],
    out: Annotated[Path, typer.Option(help="Folder to write; the same again goes on from what is there.")],
    good: Annotated[list[str] | None, typer.Option(help="Class folder of good parts; may be repeated.")] = None,
    escape: Annotated[float, typer.Option(help="Most defects the system may pass, as a share.")] = 0.05,
    overkill: Annotated[float, typer.Option(help="Most good parts the system may reject, as a share.")] = 0.10,
    confidence: Annotated[float, typer.Option(help="That both hold, over calibration draws.")] = 0.95,
    group_rule: Annotated[str | None, typer.Option(help="Regular expression whose group 1 names the part.")] = None,
    near: Annotated[str | None, typer.Option(help="One picture: normal, strict (fixed camera), off.")] = None,
    shares: Annotated[str | None, typer.Option(help="Percent: train/validation/calibration/test.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Of the photos; other without.")] = None,
    vlm: Annotated[
        str, typer.Option(help="demo-base, or none: the edge alone, in a fraction of the time.")
    ] = "demo-base",
    edge: Annotated[str, typer.Option(help="What the edge student starts from.")] = LITE0,
    side: Annotated[
        int | None, typer.Option(help="Pixels of the models' square images; by the photos without.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each training; by the photos without.")] = None,
) -> None:
    """Photos in class folders -> a certified cascade and OUT/report.html."""
    check_processes(1, "start it by python, its trainings start their own")
    if vlm not in (*EYES, EDGE_ONLY):
        raise DataError(
            f"--vlm {vlm} is not known here; give {', '.join(EYES)} or {EDGE_ONLY}. For other bases write a YAML of "
            "recipes/vlm_sft and run recipes/saec."
        )
    asked = Asked(out, edge, vlm, {"escape": escape, "overkill": overkill, "confidence": confidence}, side, steps)
    given = {"group-rule": group_rule, "near": near, "shares": shares, "license": licence}
    out.mkdir(parents=True, exist_ok=True)
    with files.locked(out / ".run.lock"):  # a second run waits, and finds all done
        build(photos, asked.data, good or [], given)
        check_splits(asked.data)
        write_settings(asked)
        fingerprint = read_head(asked.data)["fingerprint"]
        for step in steps_of(asked):
            do(step, out, fingerprint)
    print(f"\n{files.read_json(out / 'cascade' / 'cascade.json')['policies']['certified']['statement']}")
    print(f"Read {out / 'report.html'}")


def build(photos: Path, data: Path, good: list[str], given: dict[str, str | None]) -> None:
    """Build the data set, which is left alone where the photos and the options are the same."""
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    options += [word for name in good for word in ("--good", name)]
    if code := perform([INSPECT, "data", "build", "folder", "--src", str(photos), "--out", str(data), *options]):
        raise SystemExit(code)


def write_settings(asked: Asked) -> None:
    """OUT/settings: a YAML a training, whose first line says what it follows from."""
    amount = defaults.amount_of(asked.data)
    found = {"edge": defaults.edge_settings(amount, asked.side, asked.steps)}
    if asked.vlm != EDGE_ONLY:
        found["vlm"] = defaults.vlm_settings(amount, asked.side, asked.steps)
    for name, settings in found.items():
        why = f"{name}: {defaults.reasons(amount, settings)}"
        files.write_text(settings_of(asked, name), f"# {why}\n{yaml.safe_dump(settings, sort_keys=False)}")
        print(why, flush=True)


def settings_of(asked: Asked, name: str) -> Path:
    return asked.out / "settings" / f"{name}.yaml"


def train(asked: Asked, stage: str, settings: str, to: Path, given: dict[str, Any], reads: list[Path]) -> Step:
    """The step of a training, which begins anew where its data or settings have changed."""
    config = settings_of(asked, settings)
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    script = str(files.shipped("recipes") / stage / "train.py")
    command = [*LAUNCH, script, "--config", str(config), "--data", str(asked.data), "--output_dir", str(to), *words]
    return Step(to / "training_log.json", command, [config, *reads], anew=True)


def steps_of(asked: Asked) -> list[Step]:
    """The steps after the data set, in order."""
    out, data = asked.out, ["--data", str(asked.data)]
    student, exported, cascade = out / "student", out / "edge", out / "cascade"
    parts = {"edge": exported, **({} if asked.vlm == EDGE_ONLY else {"base": asked.vlm, "adapter": out / "adapter"})}
    words = [word for name, value in (parts | asked.risk).items() for word in (f"--{name}", str(value))]
    reads = [one for one in parts.values() if isinstance(one, Path)]
    results, page = cascade / "results.json", out / "report.html"
    export = [INSPECT, "export", str(student), "--calibrate", str(asked.data), "--out", str(exported)]
    return [
        train(asked, "edge_classifier", "edge", student, {"base": asked.edge}, []),
        Step(exported / "inspect.json", [*export, "--int8"], [student], instead=export),
        *([] if asked.vlm == EDGE_ONLY else second_look(asked, student)),
        Step(cascade / "cascade.json", [INSPECT, "calibrate", *words, *data, "--out", str(cascade)], reads),
        Step(results, [INSPECT, "eval", "cascade", str(cascade), *data, "--out", str(results)], [cascade]),
        Step(cascade / "README.md", [INSPECT, "card", str(cascade)], [cascade, results]),
        Step(page, [INSPECT, "report", str(cascade), *data, "--out", str(page)], [cascade, results]),
    ]


def second_look(asked: Asked, student: Path) -> list[Step]:
    """The adapter, whose tower starts from a student of its own architecture: the edge's, or one that sees for it."""
    eyes = student if EYES[asked.vlm] == asked.edge else asked.out / "eyes"
    given = {"base": asked.vlm, "student": eyes}
    own = [] if eyes == student else [train(asked, "edge_classifier", "edge", eyes, {"base": EYES[asked.vlm]}, [])]
    return [*own, train(asked, "vlm_sft", "vlm", asked.out / "adapter", given, [eyes])]


if __name__ == "__main__":
    run(app)
