"""Fit anomaly models to the good images of a built data set: one model, or one a category.

    accelerate launch recipes/anomaly/train.py --config recipes/anomaly/mvtec.yaml

Writes a folder that `AnomalyDetector.from_pretrained` loads, with trained_on.json, a log and a card beside the weights;
of a data set of several categories a folder each. Run again, it leaves alone what is finished; a category that was
killed is fitted anew, to the same bits.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

from transformers import set_seed

from hf_inspect import files
from hf_inspect import training as runs
from hf_inspect.anomaly import Settings, categories, fit
from hf_inspect.console import Bars
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.reports import write_card
from hf_inspect.students import LITE0


@dataclass
class AnomalyArguments:
    """What is fitted, and to what."""

    data: Path = field(default=Path("outputs/data/elpv"), metadata={"help": "folder of `hf-inspect data build`"})
    output_dir: Path = field(default=Path("outputs/anomaly"))
    only: list[str] = field(default_factory=list, metadata={"help": "these categories; all that can be without"})
    base: str = field(default=LITE0, metadata={"help": "Hub repository, folder, timm's name, pypi:... or random:..."})
    layers: list[str] = field(
        default_factory=lambda: ["blocks.6"], metadata={"help": "whose features; a wrong name lists those there are"}
    )
    side: int = field(default=224, metadata={"help": "pixels; more shows finer defects, and costs its square in time"})
    pool: int = field(default=1, metadata={"help": "positions averaged each way: smaller models, coarser features"})
    keep: float = field(default=0.99, metadata={"help": "share of the variance, or a number of components"})
    keep_patches: float = field(default=0.99, metadata={"help": "the same, of the features that maps are made of"})
    score: str = field(default="fre", metadata={"help": "fre, mahalanobis, or patches (few good images)"})
    smooth: float = field(default=4.0, metadata={"help": "Gaussian over the maps, pixels of the network's images"})
    bf16: bool = field(default=False, metadata={"help": "the network in bfloat16"})
    most: int = field(default=1024, metadata={"help": "components followed at most: bounds memory and time"})
    hold_out: float = field(default=0.2, metadata={"help": "of the good images, where validation has none"})
    batch: int = field(default=32, metadata={"help": "images at once: memory and speed, not results"})
    seed: int = 0


def main():
    (chosen,) = runs.parsed(AnomalyArguments)
    runs.check_processes(1, "start one")
    given = {name: value for name, value in asdict(chosen).items() if name in Settings.__dataclass_fields__}
    settings = Settings(**given | {"layers": tuple(chosen.layers)})
    print("| category | fitted to | held out | components | share | a score says | seconds |\n|" + "---|" * 7)
    for category, name in categories(chosen.data, chosen.only).items():
        out = chosen.output_dir / name
        made = runs.fit_made_from(read_head(chosen.data)["fingerprint"], chosen, ("output_dir", "only", "batch"))
        log = files.read_json(out / runs.LOG) if (out / runs.LOG).is_file() else None
        if log is None:
            set_seed(chosen.seed)
            begin = perf_counter()
            with files.staged_folder(out, [chosen.data]) as stage, Bars() as bar:
                fitted = fit(settings, chosen.data, category, bar.of_many)
                fitted.save(stage)
                ran = fitted.figures | {"meaning": str(fitted.task.score), "seconds": round(perf_counter() - begin, 1)}
                log = runs.recipe_log(chosen) | {"made_from": made, "category": category, "ran": ran}
                files.write_json(stage / runs.LOG, log)
                write_card(stage)
        elif unlike := runs.differences(log["made_from"], made):
            raise DataError(f"{out} was made from something else ({'; '.join(unlike)}); give another --output_dir.")
        print(row(name or chosen.data.name, log["ran"]), flush=True)


def row(name, ran):
    """A line of the table."""
    used = ran.get("image", ran["patch"])
    components = f"{used['components']} of {used['dimensions']}"
    cells = (name, ran["fitted"], ran["held_out"], components, f"{used['share']:.2%}", ran["meaning"], ran["seconds"])
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    runs.run(main)
