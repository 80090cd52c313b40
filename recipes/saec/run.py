"""The table of an edge-cloud cascade from one built data set: every part trained, calibrated and measured.

    python recipes/saec/run.py --config recipes/saec/ksdd2.yaml

The data set has the splits train, validation, calibration and test (`mvtec_inspect --calibration-share 0.15`,
`ksdd2_balanced --shares 55/10/15/20`, or parts of your own). Each step is a command that is printed and can be given
by hand. It is not done again while its command, its YAML, the data and what it reads of the steps before are those
that made its result; steps/ says what they were. Writes results.json and table.md.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hf_inspect import files
from hf_inspect.data import read_head
from hf_inspect.reports import results_table
from hf_inspect.training import INSPECT, LAUNCH, Step, check_processes, check_splits, do, parsed, run


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


def steps(chosen: Arguments) -> list[Step]:
    """The steps in order."""
    out, data = chosen.output_dir, ["--data", str(chosen.data)]
    student, exported, adapter, cascade = (out / name for name in ("student", "edge", "adapter", "cascade"))
    risk = [f"--{name}={getattr(chosen, name)}" for name in ("escape", "overkill", "confidence")]
    asked = [INSPECT, "eval", "vlm", *data, "--split", "test"]

    def train(stage: str, config: Path, to: Path) -> Step:
        script = f"recipes/{stage}/train.py"
        command = [*LAUNCH, script, "--config", str(config), *data, "--output_dir", str(to)]
        return Step(to / "training_log.json", command, [config])

    def measure(model: str, name: str) -> Step:
        return Step(out / f"{name}.json", [*asked, "--model", model, "--out", str(out / f"{name}.json")], [Path(model)])

    to_edge = ["--calibrate", str(chosen.data), "--out", str(exported), *(["--int8"] if chosen.int8 else [])]
    parts = ["--edge", str(exported), "--base", chosen.base, "--adapter", str(adapter), "--out", str(cascade)]
    measured = out / "cascade.json"
    evaluate = [INSPECT, "eval", "cascade", str(cascade), *data, "--split", "test", "--out", str(measured)]
    return [
        train("edge_classifier", chosen.edge, student),
        Step(exported / "inspect.json", [INSPECT, "export", str(student), *to_edge], [student]),
        train("vlm_sft", chosen.vlm, adapter),
        measure(chosen.base, "vlm_zero_shot"),
        measure(chosen.baseline, "baseline"),
        Step(cascade / "cascade.json", [INSPECT, "calibrate", *parts, *data, *risk],
             [exported, adapter, Path(chosen.base)]),
        Step(measured, evaluate, [cascade]),
    ]  # fmt: skip


def main() -> None:
    (chosen,) = parsed(Arguments)
    check_processes(1, "start it by python, its trainings start their own")
    check_splits(chosen.data)
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
