"""What a detection model learns from: rows -> pixels and boxes, and what its answers on validation come to."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import data as sets
from hf_inspect import images
from hf_inspect.cascade.composite import meaning_of
from hf_inspect.detectors.augment import sample_of
from hf_inspect.detectors.cut import Cut, sample_in, shown_in_tiles
from hf_inspect.detectors.predictor import BATCH, DECODING, PREPROCESS, TILES, Detector, state
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess, Reading
from hf_inspect.metrics.findings import Compared, Shown, Thing, point_figures
from hf_inspect.metrics.matches import Matches, best_threshold
from hf_inspect.schema import DEFECT, Prediction, TaskSpec
from hf_inspect.students.start import TASK
from hf_inspect.tasks.detection import Decoding, decode, severity_of
from hf_inspect.tasks.tiles import Tiles

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from transformers import EvalPrediction, PreTrainedModel

_STRIDE = 32

Sample = dict[str, Any]  # image uint8 (3, h, w), boxes xyxy in its pixels, labels: torchvision's tv_tensors
SEEN = "seen"  # of a batch: pixels before they are normalised
PLACE = "place"  # of a tile's labels: the number of its image, and x0, y0, x1, y1 in that
Augment = Callable[[Sample], Sample]


def names_of(rows: "datasets.Dataset") -> list[str]:
    """Names of the classes of a built data set's objects, in the order of its own ids."""
    return list(rows.features["objects"]["category"].feature.names)


def check_rows(rows: "datasets.Dataset", task: TaskSpec, split: str) -> None:
    """DataError unless each class of the task has an object in the split: one that is nowhere is not learnt."""
    names, found = names_of(rows), set[int]()
    for row in rows.select_columns(["objects"]):
        found |= set(row["objects"]["category"])
    if missing := [name for name in task.classes if name not in {names[i] for i in found}]:
        raise DataError(
            f"no image of {split} shows a {missing[0]}; build the data set with other shares or more images."
        )


def task_of(model: "PreTrainedModel") -> TaskSpec:
    """What a new model is to answer, in the order of its outputs."""
    return TaskSpec.from_dict(getattr(model.config, TASK), "config.json")


def settings_of(model: "PreTrainedModel") -> tuple[Preprocess, Decoding]:
    """How a model sees, and how its boxes become findings, as its config states both."""
    stated = Preprocess.from_dict(getattr(model.config, PREPROCESS))
    return stated, Decoding.from_dict(getattr(model.config, DECODING), "config.json")


def tiles_of(model: "PreTrainedModel") -> Tiles | None:
    """How a model's images are cut, as its config states it; None where it looks at whole ones."""
    return Tiles.from_dict(getattr(model.config, TILES, None), "config.json")


def part_of(preprocess: Preprocess, share: float) -> Preprocess:
    """How the parts of images are prepared that show `share` of their sides, at the scale of whole ones.

    Height and width are multiples of the stride of what all families look at, where the parts are not whole.
    """
    if share == 1:
        return preprocess
    height, width = (
        max(_STRIDE, round(side * share / _STRIDE) * _STRIDE) for side in (preprocess.height, preprocess.width)
    )
    return replace(preprocess, height=height, width=width)


def optimizer_groups(
    model: "nn.Module", rate: float, body_rate: float, decayed: set[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of an optimizer: the body's parameters at `body_rate` of the rate, each with and without weight decay."""
    groups = []
    for body in (True, False):
        for decay in (True, False):
            own = [
                p
                for name, p in model.named_parameters()
                if p.requires_grad and is_of_body(name) == body and (name in decayed) == decay
            ]
            lr = rate * (body_rate if body else 1.0)
            groups += [{"params": own, "lr": lr, "weight_decay": weight_decay if decay else 0.0}] if own else []
    return groups


def is_of_body(name: str) -> bool:
    """Whether a parameter is of the network below the pyramid or the encoder: what comes pretrained."""
    return name.startswith("network.") or ".backbone." in name


def to_inputs(
    rows: Mapping[str, Sequence[Any]],
    preprocess: Preprocess,
    ids: Sequence[int],
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    masks: bool = False,
    taught: Mapping[str, Mapping[str, Any]] = {},
) -> dict[str, list[Any]]:
    """A batch of rows -> pixels uint8 (3, height, width), and labels: class ids, boxes and `masks` of each image.

    `ids` turns the rows' own class ids into positions in the task. Boxes are centre x, centre y, width and height as
    shares of the image; masks are uint8 (m, height, width). Without `augment` images are resized by the one rule of
    training and runtime. Things that are a crowd are left out. `taught` has the objects of images, by the SHA-256 of
    their files, that a teacher labelled. Rows of a `Cut` are of their tiles alone, and labels state the `PLACE`.
    """
    import torch
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    found: dict[str, list[Any]] = {"pixel_values": [], "labels": []}
    tiles = rows.get("tile") or [None] * len(rows["image"])
    for number, (image, objects, tile) in enumerate(zip(rows["image"], rows["objects"], tiles, strict=True)):
        own = taught.get(hashlib.sha256(image["bytes"]).hexdigest(), objects)
        rgb = images.load(image["bytes"], reading).rgb
        sample = sample_of(rgb, own, ids) if tile is None else sample_in(rgb, own, ids, tile)
        sample = augment(sample) if augment else sample
        height, width = sample["image"].shape[-2:]
        rgb = sample["image"].permute(1, 2, 0).contiguous().numpy()
        shares = sample["boxes"].as_subclass(torch.Tensor) / torch.tensor([width, height, width, height])
        centred = torch.cat([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], 1)
        found["pixel_values"].append(torch.from_numpy(images.resize(rgb, preprocess)).permute(2, 0, 1))
        label = {"class_labels": sample["labels"], "boxes": centred}
        label |= {} if tile is None else {PLACE: torch.tensor([rows["number"][number], *tile])}
        if masks:
            whole = sample["masks"].as_subclass(torch.Tensor).to(torch.uint8)
            label["masks"] = resize(whole, [preprocess.height, preprocess.width], InterpolationMode.NEAREST)
        found["labels"].append(label)
    return found


def collate(rows: Sequence[Mapping[str, Any]], preprocess: Preprocess, seen: bool = False) -> dict[str, Any]:
    """Stack and normalise: uint8 (3, h, w) each -> float32 (n, 3, h, w); a dictionary of labels an image.

    `seen`: with the pixels as they were, for a teacher, whose mean and std may be others.
    """
    import torch

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    pixels = torch.stack([row["pixel_values"] for row in rows])
    given = {"pixel_values": (pixels.float() / 255 - mean) / std, "labels": [row["labels"] for row in rows]}
    return given | ({SEEN: pixels} if seen else {})


def validation_scores(
    prediction: "EvalPrediction", task: TaskSpec, decoding: Decoding, size: tuple[int, int], cut: Cut | None = None
) -> dict[str, float]:
    """mAP and its kin of a Trainer's raw batches; boxes lie in the frame of the model, `size` (height, width).

    Of tiles, `cut`, what is found is joined, and held against whole images in their own pixels.
    """
    if cut is not None:
        tiles = (
            ([label[PLACE].tolist() for label in labels], [said.findings or () for said in answers])
            for labels, answers in _answers(prediction, task, decoding)
        )
        return point_figures(Compared.of(shown_in_tiles(tiles, cut, task, decoding), task))
    shown = [
        Shown(*size, _things(label, task, size), said.findings or ())
        for labels, answers in _answers(prediction, task, decoding, size)
        for label, said in zip(labels, answers, strict=True)
    ]
    return point_figures(Compared.of(shown, task))


def set_thresholds(model: "PreTrainedModel", data: Path, reading: Reading, task: TaskSpec) -> dict[str, Any]:
    """Fit on validation from which score findings are told of (the best F1), and what severity means -> both.

    Both go into the model's config. Severity becomes P(defect), by Platt's scaling of the strongest defect's score,
    where validation has good parts and defects; else it stays that score.
    """
    preprocess, decoding = settings_of(model)
    detector = Detector(model, Path())
    shown, strongest, labels = list[Shown](), list[float](), list[int]()
    of_data = sets.read_task(data)
    column = sets.class_column(of_data)
    names = names_of(sets.load_split(data, "validation"))
    for rows in sets.stream(data, "validation", ["image", "objects", column], BATCH):
        rgbs = [images.load(row["image"]["bytes"], reading).rgb for row in rows]
        for row, rgb, said in zip(rows, rgbs, detector.predict(rgbs), strict=True):
            things = sets.things_of(row["objects"], names)
            shown.append(Shown(rgb.shape[0], rgb.shape[1], things, said.findings or ()))
            strongest.append(max(severity_of(said.findings or (), task, decoding.least), decoding.least))
            labels.append(int(of_data.disposition(row[column]) == DEFECT))
    told = best_threshold(Matches.of(Compared.of(shown, task)))
    if told is not None:
        decoding = replace(decoding, told=told)
    if 0 < sum(labels) < len(labels):
        task = replace(task, score=meaning_of(np.array(strongest), np.array(labels), "validation"))
    state(model, task, preprocess, decoding, reading, detector.tiles)
    return {"told": decoding.told, "severity": str(task.score or "the highest score of a defect")}


def _answers(
    prediction: "EvalPrediction", task: TaskSpec, decoding: Decoding, size: tuple[int, int] | None = None
) -> Iterator[tuple[Sequence[Mapping[str, Any]], list[Prediction]]]:
    """Labels and answers of each batch, in the frame of `size`, or of each label's tile."""
    for outputs, labels in zip(prediction.predictions, prediction.label_ids, strict=True):
        arrays = [np.asarray(one, np.float64) for one in outputs]
        sizes = [_extent(label[PLACE].tolist()) if size is None else size for label in labels]
        yield labels, decode(arrays, task, sizes, decoding.to_dict())


def _extent(place: Sequence[int]) -> tuple[int, int]:
    """Height and width of the tile at a `PLACE`."""
    _, x0, y0, x1, y1 = place
    return y1 - y0, x1 - x0


def _things(label: Mapping[str, Any], task: TaskSpec, size: tuple[int, int]) -> tuple[Thing, ...]:
    height, width = size
    scale = np.array((width, height, width, height), np.float64)
    found = []
    for number, (x, y, w, h) in zip(label["class_labels"], np.asarray(label["boxes"], np.float64), strict=True):
        corners = (np.array((x - w / 2, y - h / 2, x + w / 2, y + h / 2)) * scale).clip(0, scale)
        found.append(Thing(task.classes[int(number)], tuple(corners.tolist())))
    return tuple(found)


def described(rows: "datasets.Dataset", task: TaskSpec) -> str:
    """What is learned, in a line: images, and things by class."""
    counts = dict.fromkeys(task.classes, 0)
    names = names_of(rows)
    for row in rows.select_columns(["objects"]):
        for i in row["objects"]["category"]:
            counts[names[i]] += 1
    return f"to learn from: {len(rows)} images, " + ", ".join(f"{n} {name}" for name, n in counts.items())
