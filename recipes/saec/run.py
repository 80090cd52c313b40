"""The table of an edge-cloud cascade from one built data set: every part trained, calibrated and measured.

    python recipes/saec/run.py --config recipes/saec/ksdd2.yaml

The data set has the splits train, validation, calibration and test (`mvtec_inspect --calibration-share 0.15`,
`ksdd2_balanced --shares 55/10/15/20`, or parts of your own). Each step is a command that is printed and can be given
by hand. It is not done again while its command, its YAML, the data and what it reads of the steps before are those
that made its result; steps/ says what they were. Writes results.json and table.md.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hf_inspect import files
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.reports import results_table
from hf_inspect.training import check_processes, content_of, differences, parsed, run

NEEDED = {"train", "validation", "calibration", "test"}


@dataclass
class Arguments:
    """What is trained and compared; settings of a training are in its own YAML."""

    data: Path = field(metadata={"help": "folder of `hf-inspect data build`"})
    edge: Path = field(metadata={"help": "YAML of recipes/edge_classifier"})
    vlm: Path = field(metadata={"help": "YAML of recipes/vlm_sft"})
    base: str = field(metadata={"help": "the VLM's base, as its YAML has it"})
    baseline: str = field(metadata={"help": "another VLM, asked zero-shot: Hub repository, folder, or tiny-llava"})
    output_dir: Path = field(default=Path("outputs/saec"))
    int8: bool = True
    escape: float = 0.05
    overkill: float = 0.10
    confidence: float = 0.95


@dataclass(frozen=True)
class Step:
    """A command, the file that is there when it is done, and the files and folders beside the data that it reads."""

    made: Path
    command: list[str]
    reads: list[Path]

    def made_from(self, fingerprint):
        """All that decides its result, as plain JSON values."""
        contents = {files.portable_name(path): content_of(path) for path in self.reads if path.exists()}
        command = shlex.join([Path(self.command[0]).name, *self.command[1:]])
        return {"data": fingerprint, "command": command, "reads": contents}

    def stamp(self, out):
        """Where it is kept what made the result that is there."""
        return out / "steps" / f"{self.made.relative_to(out).as_posix().replace('/', '-')}"


def steps(chosen: Arguments) -> list[Step]:
    """The steps in order."""
    out, data = chosen.output_dir, ["--data", str(chosen.data)]
    beside = Path(sys.executable).parent  # the commands of this environment, activated or not
    launch, inspect = [str(beside / "accelerate"), "launch"], str(beside / "hf-inspect")
    student, exported, adapter, cascade = (out / name for name in ("student", "edge", "adapter", "cascade"))
    risk = [f"--{name}={getattr(chosen, name)}" for name in ("escape", "overkill", "confidence")]
    asked = [inspect, "eval", "vlm", *data, "--split", "test"]

    def train(stage: str, config: Path, to: Path) -> Step:
        script = f"recipes/{stage}/train.py"
        command = [*launch, script, "--config", str(config), *data, "--output_dir", str(to)]
        return Step(to / "training_log.json", command, [config])

    def measure(model: str, name: str) -> Step:
        return Step(out / f"{name}.json", [*asked, "--model", model, "--out", str(out / f"{name}.json")], [Path(model)])

    to_edge = ["--calibrate", str(chosen.data), "--out", str(exported), *(["--int8"] if chosen.int8 else [])]
    parts = ["--edge", str(exported), "--base", chosen.base, "--adapter", str(adapter), "--out", str(cascade)]
    measured = out / "cascade.json"
    evaluate = [inspect, "eval", "cascade", str(cascade), *data, "--split", "test", "--out", str(measured)]
    return [
        train("edge_classifier", chosen.edge, student),
        Step(exported / "inspect.json", [inspect, "export", str(student), *to_edge], [student]),
        train("vlm_sft", chosen.vlm, adapter),
        measure(chosen.base, "vlm_zero_shot"),
        measure(chosen.baseline, "baseline"),
        Step(cascade / "cascade.json", [inspect, "calibrate", *parts, *data, *risk],
             [exported, adapter, Path(chosen.base)]),
        Step(measured, evaluate, [cascade]),
    ]  # fmt: skip


def do(step: Step, out: Path, fingerprint: str) -> None:
    """Run a step's command, unless its result is there and was made from the same; SystemExit where it fails."""
    stamp, now = step.stamp(out), step.made_from(fingerprint)
    then = files.read_json(stamp) if stamp.exists() and step.made.exists() else None
    if then == now:
        print(f"{step.made} is there", flush=True)
        return
    if then:
        print(f"{step.made} was made from something else: {'; '.join(differences(then, now))}", flush=True)
    stamp.unlink(missing_ok=True)
    print("$", shlex.join(step.command), flush=True)
    if code := subprocess.run(step.command).returncode:
        raise SystemExit(f"saec: this step ended with {code}; mend what it says and run the same command again.")
    files.write_json(stamp, now)


def check(data: Path) -> None:
    """DataError unless the data set can train, stop, calibrate and test a cascade."""
    there = {split for splits in read_head(data)["counts"].values() for split in splits}
    if missing := NEEDED - there:
        raise DataError(
            f"{data} has no split {', '.join(sorted(missing))}; build it with --shares 55/10/15/20, or mvtec_inspect "
            "with --calibration-share 0.15."
        )


def main() -> None:
    (chosen,) = parsed(Arguments)
    check_processes(1, "start it by python, its trainings start their own")
    check(chosen.data)
    for step in steps(chosen):
        do(step, chosen.output_dir, read_head(chosen.data)["fingerprint"])
    results = files.read_json(chosen.output_dir / "cascade.json")
    for name in ("vlm_zero_shot", "baseline"):
        results[name] = files.read_json(chosen.output_dir / f"{name}.json")["vlm"]
    table = results_table(results)
    files.write_json(chosen.output_dir / "results.json", results)
    files.write_text(chosen.output_dir / "table.md", table + "\n")
    print(table)


if __name__ == "__main__":
    run(main)
