"""Trained models -> the shipped assets: exported, calibrated, measured, with cards and the README's table and picture.

`make demo-train` runs it last. The shipped edge is the seed with the best AUROC on validation; test picks nothing.
"""

import argparse
import shutil
from pathlib import Path

from hf_inspect import demo, files, hub
from hf_inspect.data import build
from hf_inspect.errors import ParityError
from hf_inspect.export import export_student
from hf_inspect.reports import evaluate_edge, results_table, write_card
from hf_inspect.schema import Part

EDGE_FILES = ("config.json", "model.safetensors", "trained_on.json", "training_log.json")
ADAPTER_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt")
FIGURES = ("accuracy", "auroc", "escapes", "overkill")
SECTIONS = {"edge": "edge", "edge_int8": "edge_int8", "adapter": "vlm"}  # of results.json, by part
EXAMPLE = Path("model_cards/examples/elpv_cascade")


def seeds_report(students: list[Path], data: Path, work: Path) -> dict:
    """INT8 figures on test of every seed's student, or the limit that its INT8 export broke."""
    report = {}
    for student in students:
        folder = work / f"{student.name}-int8"
        report[student.name] = {"validation_auroc": files.read_json(student / "training_log.json")["best"]["score"]}
        try:
            export_student(student, folder, data=data, int8=True)
        except ParityError as error:
            report[student.name]["refused"] = str(error)
            continue
        found = evaluate_edge(folder, data, "test", work / f"{student.name}.scores.jsonl")["edge"]
        report[student.name]["test"] = {key: found[key] for key in FIGURES}
    return report


def gather(train: Path, best: str, work: Path) -> Path:
    """edge/, edge_int8/ and adapter/, with nothing in them but what is shipped."""
    models = work / "models"
    shutil.rmtree(models, ignore_errors=True)
    for name in ("edge", "adapter"):
        (models / name).mkdir(parents=True)
    for name in EDGE_FILES:
        shutil.copy(train / best / name, models / "edge")
    for path in (train / "adapter").iterdir():
        if path.is_file() and path.suffix in ADAPTER_SUFFIXES:
            shutil.copy(path, models / "adapter")
    shutil.copytree(work / f"{best}-int8", models / "edge_int8")
    return models


def results_of_part(results: dict, part: str) -> dict:
    """results.json of a part by itself: the figures of its section, and its weights."""
    section = SECTIONS[part]
    models = {name.removeprefix(f"{part}/"): sha256 for name, sha256 in results["inputs"]["models"].items()
              if name.startswith(f"{part}/")}  # fmt: skip
    kept = {key: results[key] for key in ("data", "environment", "task")}
    own = {"edge" if part.startswith("edge") else section: results[section]}
    return kept | own | {"inputs": {"data": results["inputs"]["data"], "models": models}}


def write_cards(folder: Path, notes: Path) -> None:
    """README.md of the cascade and its parts, each beside its results.json and the notes.md kept in `notes`."""
    results = files.read_json(folder / "results.json")
    for part in SECTIONS:
        files.write_json(folder / part / "results.json", results_of_part(results, part))
    for part in (*SECTIONS, "."):
        if (notes / part / "notes.md").is_file():
            files.write_text(folder / part / "notes.md", (notes / part / "notes.md").read_text())
        write_card(folder / part)


def write_example(cascade: Path, out: Path) -> None:
    """The cascade's card and the pictures it shows, as an example."""
    shutil.copytree(cascade / "plots", out / "plots", dirs_exist_ok=True)
    shutil.copy(cascade / "README.md", out)


def write_assets(models: Path, made: Path, seeds: dict, out: Path) -> None:
    """Lay the shipped folder out: it is itself a cascade folder, its parts beside its cascade.json.

    Git has what stood at `out`, and shows what is no longer written.
    """
    whole = made / "assets"
    with files.staged_folder(whole) as stage:
        shutil.copytree(models, stage, dirs_exist_ok=True)
        stated = files.read_json(made / "cascade" / "cascade.json")
        parts = hub.parts_of(stated) | {"edge": Part("folder", "edge_int8")}
        files.write_json(stage / "cascade.json", stated | hub.stated_parts(parts))
        shutil.copy(made / "cascade" / "calibration.jsonl", stage)
        shutil.copy(made / "data" / "manifest.json", stage)
        for name in ("results.json", demo.TEST_SCORES):
            shutil.copy(made / name, stage)
        shutil.copytree(made / "plots", stage / "plots")
        files.write_json(stage / "seeds.json", seeds)
        files.write_text(stage / "LICENSE", files.shipped("model_cards").joinpath("LICENSE-assets").read_text())
        write_cards(stage, notes=out)
    shutil.copytree(whole, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(files.MARKER))


def update_readme(readme: Path, results: dict) -> None:
    """Put the table of results.json between the README's markers."""
    before, _, rest = readme.read_text().partition("<!-- results -->\n")
    _, _, after = rest.partition("<!-- /results -->")
    files.write_text(readme, f"{before}<!-- results -->\n{results_table(results)}\n<!-- /results -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="folder with edge-*/ and adapter/")
    parser.add_argument("--out", type=Path, required=True, help="assets folder to write")
    arguments = parser.parse_args()
    work = arguments.train / "ship"
    build("elpv", work / "data", accept_license=True)
    students = sorted(p for p in arguments.train.glob("edge-*") if (p / "training_log.json").is_file())
    seeds = seeds_report(students, work / "data", work)
    passed = [name for name in seeds if "test" in seeds[name]]
    if not passed:
        raise SystemExit(f"no seed's INT8 export kept the limits: {seeds}")
    best = max(passed, key=lambda name: seeds[name]["validation_auroc"])
    models = gather(arguments.train, best, work)
    print(demo.run(work, models=models))
    write_assets(models, work, seeds, arguments.out)
    write_example(arguments.out, EXAMPLE)
    update_readme(Path("README.md"), files.read_json(arguments.out / "results.json"))


if __name__ == "__main__":
    main()
