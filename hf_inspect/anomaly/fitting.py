"""The good images of a built data set -> a fitted anomaly model; images are streamed, and seen twice at most."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_inspect import data as sets
from hf_inspect import images, metrics
from hf_inspect.anomaly.graph import quick_patches
from hf_inspect.anomaly.network import ancestors_of, check_layers, new_network, stated
from hf_inspect.anomaly.predictor import state, tensor
from hf_inspect.anomaly.subspace import MOST, Fitting
from hf_inspect.cascade.composite import meaning_of
from hf_inspect.data import write_history
from hf_inspect.data.partition import DEFAULT
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess, Reading, Rgb
from hf_inspect.schema import ANOMALY, BINARY, History, Meaning, Progress, TaskSpec, no_progress

if TYPE_CHECKING:
    import datasets
    import torch

    from hf_inspect.anomaly.model import SubspaceForAnomalyDetection

_Patches: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"  # images -> features of every position
_HELD_OUT = "train, held out of the fit"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides a fit but the data: the fields of `AnomalyConfig`, and what the subspaces keep.

    `keep` and `keep_patches` are shares of the variance, or numbers of components, of the image's and of its patches'
    features; `most` bounds the components followed. `hold_out` is the share of the good images that are kept from the
    fit where validation has none, to say what a score means. With `shots` only so many good parts are used at all, one
    image each, drawn by `seed`; 0 is all images.
    """

    base: str
    layers: tuple[str, ...]
    side: int = 224
    pool: int = 1
    keep: float = 0.99
    keep_patches: float = 0.99
    score: str = "fre"
    smooth: float = 4.0
    bf16: bool = False
    most: int = MOST
    hold_out: float = 0.2
    batch: int = 32
    shots: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model, what it saw, and the fit's `figures`: images, components, and the share of variance they keep."""

    model: "SubspaceForAnomalyDetection"
    task: TaskSpec
    history: History
    figures: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write model.safetensors, config.json and trained_on.json."""
        self.model.save_pretrained(folder)
        write_history(folder, self.history)


def fit(settings: Settings, data: Path, config: str = "", progress: Progress = no_progress) -> Fitted:
    """Fit the settings' model to the good images of the train split of a built data set, or of one of its `config`s.

    What its score means is set on validation: P(defect) where that holds good parts and defects, else a quantile of its
    good parts, else of good parts held out of the fit. DataError for too few good images, images without variance,
    layers that are not there, and features that are not finite.
    """
    import torch

    from hf_inspect.anomaly.model import AnomalyConfig, SubspaceForAnomalyDetection

    task, reading = sets.read_task(data), sets.read_reading(data)
    train, checked = _rows(data, config, "train"), _validation(data, config)
    good = _drawn(train, _good(train, task), settings.shots, settings.seed)
    fitting, held = (good, []) if _has_good(checked, task) else _held_out(train, good, settings.hold_out)
    _refuse_few(settings, len(fitting), f"{data} {config}".strip())
    network, preprocess = new_network(settings.base, settings.side)
    check_layers(network, settings.layers)
    given = {name: getattr(settings, name) for name in ("pool", "score", "smooth", "bf16")}
    own = AnomalyConfig(stated(network), settings.layers, preprocess=preprocess.to_dict(), **given)
    model = SubspaceForAnomalyDetection(own).eval()
    model.network.load_state_dict(network.state_dict())
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    seen_at_most = len(good) + (len(checked) if checked else 0)
    patches = quick_patches(model, preprocess.height, preprocess.width, seen_at_most)
    figures = _fit_subspaces(model, patches, settings, train.select(fitting), preprocess, reading, progress)
    if _has_good(checked, task):
        assert checked is not None
        scores, defect = _scored(model, patches, settings, checked, task, preprocess, reading)
        meaning = meaning_of(scores, defect, "validation")
        figures["validation"] = {"auroc": metrics.auroc(defect, scores, list(checked["group"]))}
    elif held:
        meaning = meaning_of(
            *_scored(model, patches, settings, train.select(held), task, preprocess, reading), _HELD_OUT
        )
        checked = None
    else:
        meaning, checked = Meaning("distance"), None
    answers = TaskSpec(BINARY.classes, BINARY.dispositions, ANOMALY, meaning)
    state(model.config, answers, reading)
    seen = {place(config, "train"): train.select(good)} | ({place(config, "validation"): None} if checked else {})
    history = sets.record_history(data, seen, [ancestors_of(settings.base)])
    return Fitted(model, answers, history, {"fitted": len(fitting), "held_out": len(held), **figures})


def categories(data: Path, only: Sequence[str] = ()) -> dict[str, str]:
    """Configs of a built data set that have a train split -> the folder of each one's model; "" -> "" of a plain one.

    `only` are the ones wanted; DataError for one that is not there, or where none has a train split.
    """
    counts = sets.read_head(data)["counts"]
    having = [name for name in counts if "train" in counts[name]]
    if not having:
        raise DataError(f"{data} has no train split, whose good images a model is fitted to; build it with one.")
    if unknown := [name for name in only if name not in having]:
        raise DataError(f"{data} has no category {unknown[0]!r} to fit to; it has {', '.join(having)}.")
    wanted = [name for name in having if not only or name in only]
    return {"": ""} if list(counts) == [DEFAULT] else {name: name for name in wanted}


def good_rows(data: Path, config: str = "", shots: int = 0, seed: int = 0) -> "datasets.Dataset":
    """The good images of the train split that `fit` uses."""
    rows = _rows(data, config, "train")
    return rows.select(_drawn(rows, _good(rows, sets.read_task(data)), shots, seed))


def place(config: str, split: str) -> str:
    """A split's name in a data set, of one of its configs; "" is a plain data set's."""
    return f"{config}/{split}" if config else split


def batches(rows: "datasets.Dataset", size: int, reading: Reading) -> Iterator[tuple[dict[str, Any], list[Rgb]]]:
    """Rows some at a time, with their pixels; DataError, which names it, for an image that cannot be read."""
    for some in rows.iter(size):
        yield some, [images.load(image["bytes"], reading).rgb for image in some["image"]]


def _fit_subspaces(
    model: "SubspaceForAnomalyDetection",
    patches: "_Patches",
    settings: Settings,
    rows: "datasets.Dataset",
    preprocess: Preprocess,
    reading: Reading,
    progress: Progress,
) -> dict[str, Any]:
    """Fit both subspaces in one pass over the rows, and give them to the model -> the figures of it."""
    import torch

    whole, patch, done = Fitting(settings.keep, settings.most), Fitting(settings.keep_patches, settings.most), 0
    by_image = settings.score != "patches"
    for _, rgbs in batches(rows, settings.batch, reading):
        with torch.inference_mode():
            found = patches(tensor(rgbs, preprocess, model.device))
            if by_image:
                whole.add(model.pooled(found).cpu().numpy())
            patch.add(found.permute(0, 2, 3, 1).flatten(0, 2).cpu().numpy())
        done += len(rgbs)
        progress("features of good images", done, len(rows))
    subspaces = {"image": whole.done()} if by_image else {}
    subspaces["patch"] = patch.done()
    model.take(subspaces.get("image"), subspaces["patch"])
    return {
        name: {"components": len(one.components), "dimensions": len(one.mean), "share": one.share, "features": one.n}
        for name, one in subspaces.items()
    }


def _scored(
    model: "SubspaceForAnomalyDetection",
    patches: "_Patches",
    settings: Settings,
    rows: "datasets.Dataset",
    task: TaskSpec,
    preprocess: Preprocess,
    reading: Reading,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Raw scores (n,) of some rows, and whether each is a defect (n,)."""
    import torch

    found = []
    for _, rgbs in batches(rows, settings.batch, reading):
        with torch.inference_mode():
            pixel_values = tensor(rgbs, preprocess, model.device)
            answers = model.answers(patches(pixel_values), pixel_values.shape[-2:])
        assert answers.scores is not None
        found.append(answers.scores.double().cpu().numpy())
    return np.concatenate(found), task.is_defect[sets.class_ids(rows, task)].astype(np.int64)


def _rows(data: Path, config: str, split: str) -> "datasets.Dataset":
    return sets.load_split(data, place(config, split))


def _validation(data: Path, config: str) -> "datasets.Dataset | None":
    """The validation split, None where there is none."""
    counts = sets.read_head(data)["counts"]
    having = [name for name in counts if "validation" in counts[name] and config in ("", name)]
    return _rows(data, config, "validation") if having else None


def _good(rows: "datasets.Dataset", task: TaskSpec) -> list[int]:
    """Numbers of the rows that are good parts."""
    return np.flatnonzero(~task.is_defect[sets.class_ids(rows, task)]).tolist()


def _drawn(rows: "datasets.Dataset", good: Sequence[int], shots: int, seed: int) -> list[int]:
    """So many of the good rows' numbers, each of another group, drawn by `seed` and in order; all of them with 0."""
    if not shots:
        return list(good)
    own, rng = rows["group"], np.random.default_rng(seed)
    first = {own[i]: i for i in rng.permutation(good).tolist()}
    if not 0 < shots <= len(first):
        raise DataError(f"shots is {shots}, and there are {len(first)} good parts to draw from; give 1 to that many.")
    return sorted(list(first.values())[:shots])


def _has_good(rows: "datasets.Dataset | None", task: TaskSpec) -> bool:
    return rows is not None and bool(_good(rows, task))


def _held_out(rows: "datasets.Dataset", good: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """The good rows' numbers in two: to fit to, and held out; groups stay together, and every so manieth is held out.

    None is held out where there are fewer than two times as many groups as that.
    """
    if not 0 <= share < 1:
        raise DataError(f"hold_out is {share}; give a share of the good images, 0 or more and below 1.")
    groups = list(dict.fromkeys(rows[i]["group"] for i in good))
    every = round(1 / share) if share else 0
    kept_back = set(groups[every - 1 :: every]) if every and len(groups) >= 2 * every else set()
    own = rows["group"]
    return [i for i in good if own[i] not in kept_back], [i for i in good if own[i] in kept_back]


def _refuse_few(settings: Settings, n: int, where: str) -> None:
    """DataError for too few good images: one is enough where the score is of patches."""
    least = 1 if settings.score == "patches" else 2
    if n < least:
        raise DataError(
            f"{where} has {n} good images to fit to, and the score {settings.score!r} takes at least {least}; add good "
            "images, or give score: patches, which takes one."
        )
