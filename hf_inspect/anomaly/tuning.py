"""A network fine-tuned on good images by a pretext task -> a folder that a fit takes as its `base`; Trainer's own loop.

transformers' Trainer is needed at the top.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from hf_inspect import data as sets
from hf_inspect import files
from hf_inspect import training as runs
from hf_inspect.anomaly.fitting import good_rows, place
from hf_inspect.anomaly.network import ancestors_of, check_layers, new_network
from hf_inspect.anomaly.pretext import Pretext, collate, learner_of, moved, to_views, views_of
from hf_inspect.errors import DataError

_MADE = "made_from"  # of training_log.json; written last, so that a log that has it is of a finished training
LEAST = 2  # images of a batch, whose statistics the heads take


@dataclass(frozen=True, slots=True)
class Origin:
    """What a network starts from, and which good images it learns from: fields of the fit's settings of these names."""

    base: str
    data: Path
    category: str = ""
    shots: int = 0


def tuned(origin: Origin, pretext: Pretext, training: TrainingArguments, out: Path) -> Path:
    """The network as the pretext task leaves it, in the folder `out`, with training_log.json and trained_on.json.

    Run again, it leaves alone what is finished, and goes on from the newest whole checkpoint of a run that was cut off.
    DataError for fewer good images than a batch, for weights that did not move, and for a folder of other settings.
    """
    own = _own(training, out)
    made = runs.made_from(sets.read_head(origin.data)["fingerprint"], origin, own)
    made["settings"] |= {"layers": list(pretext.layers), "side": pretext.side}
    if _is_finished(out, made):
        return out
    rows = good_rows(origin.data, origin.category, origin.shots, own.seed)
    _refuse_few(len(rows), own.train_batch_size)
    set_seed(own.seed)
    network, preprocess = new_network(origin.base, pretext.side)
    check_layers(network, pretext.layers)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    prepare = partial(
        to_views, views=views_of(pretext), preprocess=preprocess, reading=sets.read_reading(origin.data)
    )  # fmt: skip
    trainer = Trainer(
        model=learner_of(network, pretext),
        args=own,
        train_dataset=rows.with_transform(prepare),
        data_collator=partial(collate, preprocess=preprocess),
        callbacks=[runs.bound_checkpoints(made)],
    )
    runs.train(trainer, made)
    went = moved(before, network)
    _refuse_unmoved(went, origin.base)
    _save(network, rows, origin, out)
    runs.write_training_log(trainer, origin)
    further = {"pretext": asdict(pretext), "moved": went, _MADE: made}
    files.write_json(out / runs.LOG, files.read_json(out / runs.LOG) | further)
    return out


def _own(training: TrainingArguments, out: Path) -> TrainingArguments:
    """The settings of this training: whole batches alone, as their statistics are learned from."""
    own = copy.copy(training)
    own.output_dir, own.remove_unused_columns, own.dataloader_drop_last = str(out), False, True
    return own


def _is_finished(out: Path, made: Mapping[str, Any]) -> bool:
    """Whether `out` holds what these settings make; DataError where it holds what others made."""
    log = files.read_json(out / runs.LOG) if (out / runs.LOG).is_file() else {}
    if _MADE not in log:
        return False
    if unlike := runs.differences(log[_MADE], made):
        raise DataError(f"{out} was made from something else ({'; '.join(unlike)}); give another --output_dir.")
    return True


def _refuse_few(n: int, batch: int) -> None:
    if not LEAST <= batch <= n:
        raise DataError(
            f"there are {n} good images to learn from, and a batch takes {batch}; give --per_device_train_batch_size "
            f"of {LEAST} to {n}, or more good images."
        )


def _refuse_unmoved(went: Mapping[str, float], base: str) -> None:
    """DataError where every weight is what it was: a fit would be of the network that the training started from."""
    if not any(went.values()):
        raise DataError(f"no weight of {base} moved; raise learning_rate or num_train_epochs, or give pretext: none.")


def _save(network: PreTrainedModel, rows: Any, origin: Origin, out: Path) -> None:
    network.to(torch.float32).cpu().save_pretrained(out)
    seen = {place(origin.category, "train"): rows}
    sets.write_history(out, sets.record_history(origin.data, seen, [ancestors_of(origin.base)]))
