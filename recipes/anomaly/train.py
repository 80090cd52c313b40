"""Fit anomaly models to the good images of a built data set: one model, or one a category.

    accelerate launch recipes/anomaly/train.py --config recipes/anomaly/mvtec.yaml

Writes a folder that `AnomalyDetector.from_pretrained` loads, with trained_on.json, a log and a card beside the weights;
of a data set of several categories a folder each. Run again, it leaves alone what is finished; a category that was
killed is fitted anew, to the same bits.
Where `pretext` names a task, the good images first fine-tune the network by it, of each category its own, into
OUTPUT_DIR-networks: folders that `base` takes as well. A training that was killed goes on from its newest checkpoint.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter

from transformers import TrainingArguments, set_seed

from hf_inspect import files
from hf_inspect import training as runs
from hf_inspect.anomaly import Settings, categories, fit
from hf_inspect.console import Bars
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.reports import write_card
from hf_inspect.students import LITE0

NONE = "none"


@dataclass
class AnomalyArguments:
    """What is fitted, and to what."""

    data: Path = field(default=Path("outputs/data/elpv"), metadata={"help": "folder of `hf-inspect data build`"})
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
    most: int = field(default=1024, metadata={"help": "components followed at most: bounds memory and time"})
    hold_out: float = field(default=0.2, metadata={"help": "of the good images, where validation has none"})
    batch: int = field(default=32, metadata={"help": "images at once: memory and speed, not results"})
    shots: int = field(default=0, metadata={"help": "good parts used, drawn by the seed; 0 is all"})


@dataclass
class PretextArguments(TrainingArguments):
    """transformers' TrainingArguments, which are of the pretext task, and what this task is.

    `output_dir`, `seed` and `bf16` are of the fit as well.
    """

    output_dir: str | None = field(default="outputs/anomaly", metadata={"help": "folder of the models"})
    seed: int = field(default=0, metadata={"help": "of the training, the draw of shots, and random networks"})
    num_train_epochs: float = field(default=5, metadata={"help": "over the good images"})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "images, each of two or three views"})
    learning_rate: float = field(default=1e-4, metadata={"help": "of AdamW, unless optim says otherwise"})
    weight_decay: float = 0.01
    lr_scheduler_type: str = "cosine"
    save_strategy: str = field(default="epoch", metadata={"help": "when a checkpoint is kept to go on from"})
    save_total_limit: int | None = 1
    logging_steps: float = 5
    pretext: str = field(default="none", metadata={"help": "simsiam; CutPaste's normal, scar or 3way; none"})
    pretext_side: int = field(default=0, metadata={"help": "pixels of its images; 0 is `side`"})
    min_crop: float = field(default=0.2, metadata={"help": "smallest share of an image that a view shows"})
    jitter: float = field(default=0.4, metadata={"help": "of a view's brightness, contrast and saturation"})
    projection: int = field(default=2048, metadata={"help": "outputs of SimSiam's projection"})
    prediction: int = field(default=512, metadata={"help": "hidden units of SimSiam's prediction"})
    head: list[int] = field(default_factory=lambda: [512, 512, 128], metadata={"help": "hidden units of CutPaste's"})
    area: list[float] = field(
        default_factory=lambda: [0.02, 0.15], metadata={"help": "share of the image under a normal patch"}
    )


def main():
    chosen, training = runs.parsed(AnomalyArguments, PretextArguments)
    runs.check_processes(1, "start one")
    if training.push_to_hub or training.eval_strategy != "no":
        raise DataError("push_to_hub and eval_strategy have no use here; send what is finished by `hf-inspect push`.")
    models = Path(training.output_dir)
    print("| category | fitted to | held out | components | share | a score says | seconds |\n|" + "---|" * 7)
    for category, name in categories(chosen.data, chosen.only).items():
        own = chosen
        if training.pretext != NONE:
            own = replace(chosen, base=str(tuned_base(chosen, training, category, Path(f"{models}-networks") / name)))
        log = fitted(own, training, category, models / name)
        print(row(name or chosen.data.name, log["ran"]), flush=True)


def tuned_base(chosen, training, category, out):
    """The folder of the category's own network."""
    from hf_inspect.anomaly.pretext import Pretext
    from hf_inspect.anomaly.tuning import Origin, tuned

    given = {name: getattr(training, name) for name in ("min_crop", "jitter", "projection", "prediction", "bf16")}
    given |= {name: tuple(getattr(training, name)) for name in ("head", "area")}
    pretext = Pretext(training.pretext, tuple(chosen.layers), training.pretext_side or chosen.side, **given)
    return tuned(Origin(chosen.base, chosen.data, category, chosen.shots), pretext, training, out)


def fitted(chosen, training, category, out):
    """The log of the category's model in the folder `out`, fitted unless it is there."""
    both = {"seed": training.seed, "bf16": training.bf16}
    made = runs.fit_made_from(read_head(chosen.data)["fingerprint"], chosen, ("only", "batch"))
    made["settings"] |= both
    log = files.read_json(out / runs.LOG) if (out / runs.LOG).is_file() else None
    if log is None:
        given = asdict(chosen) | both | {"layers": tuple(chosen.layers)}
        settings = Settings(**{name: value for name, value in given.items() if name in Settings.__dataclass_fields__})
        set_seed(training.seed)
        begin = perf_counter()
        with files.staged_folder(out, [chosen.data]) as stage, Bars() as bar:
            model = fit(settings, chosen.data, category, bar.of_many)
            model.save(stage)
            ran = model.figures | {"meaning": str(model.task.score), "seconds": round(perf_counter() - begin, 1)}
            log = runs.recipe_log(chosen) | {"made_from": made, "category": category, "ran": ran}
            log["recipe"] |= both | {"pretext": training.pretext}
            files.write_json(stage / runs.LOG, log)
            write_card(stage)
    elif unlike := runs.differences(log["made_from"], made):
        raise DataError(f"{out} was made from something else ({'; '.join(unlike)}); give another --output_dir.")
    return log


def row(name, ran):
    """A line of the table."""
    used = ran.get("image", ran["patch"])
    components = f"{used['components']} of {used['dimensions']}"
    cells = (name, ran["fitted"], ran["held_out"], components, f"{used['share']:.2%}", ran["meaning"], ran["seconds"])
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    runs.run(main)
