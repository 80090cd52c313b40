"""Things found in images against those that are there -> COCO's mAP and its kin, of boxes and of masks.

Matching and accumulating are faster-coco-eval's. Intervals resample groups of images: what was matched stays, and is
accumulated anew by the same library.
"""

import copy
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.metrics.inputs import as_groups
from hf_inspect.metrics.intervals import CONFIDENCE, figure, grouped, undefined
from hf_inspect.schema import Box, Finding, TaskSpec

MOST = 100  # findings of a class in an image that are looked at, the surest: COCO's
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # COCO's, in pixels
DRAWS = 500  # resamples of the groups
TITLES = {"map": "mAP", "ap50": "AP50", "ap75": "AP75", "mar": "mAR"}
_AREAS = {"all": (0.0, 1e10), **SIZES}
_MIDDLE = (64.0**2, 16.0**2, 64.0**2, 256.0**2)  # an area within each of these
_AT_50, _AT_75 = 0, 5  # places of these IoU among 0.5, 0.55, ..., 0.95
_LEAST = 0.5  # IoU that something matches from
_SEED = 0
_BOTH = ("missed", "found")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Thing:
    """What an image truly shows: its class, and its box, xyxy in pixels of the upright image.

    `polygons` are x, y, x, y, ... each; without any, the box is its mask. What is found in a `crowd` counts as neither
    right nor wrong. `description` is what people wrote of it.
    """

    name: str
    box: Box
    polygons: tuple[tuple[float, ...], ...] = ()
    crowd: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of a height and a width in pixels: the things that are there, and those that were found."""

    height: int
    width: int
    things: tuple[Thing, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """What n images show and what was found in them, as the content of two COCO files, whose ids count from 1.

    An object's area is its mask's where it has polygons, and its box's else; `mask_area` is that of a finding's mask.
    """

    task: TaskSpec
    there: dict[str, Any]
    found: dict[str, Any]

    def __len__(self) -> int:
        return len(self.there["images"])

    @classmethod
    def of(cls, images: Iterable[Shown], task: TaskSpec, *, masks: bool = False) -> "Compared":
        """Those of images, one after the other; with `masks` an object or a finding without one has its box as such.

        DataError where none came, or something is of a class that is not of the task.
        """
        listed: list[dict[str, Any]] = []
        there: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for number, one in enumerate(images, 1):
            listed.append({"id": number, "height": one.height, "width": one.width})
            there += [_thing(thing, one, masks) | {"image_id": number} for thing in one.things]
            found += [_finding(finding, one, masks) | {"image_id": number} for finding in surest(one.findings)]
        if not listed:
            raise DataError("No images came; findings are measured on one or more.")
        for i, entry in (*enumerate(there, 1), *enumerate(found, 1)):
            entry |= {"id": i, "category_id": task.index(entry.pop("class")) + 1}
        names = [{"id": i, "name": name} for i, name in enumerate(task.classes, 1)]
        head = {"images": listed, "categories": names}
        return cls(task, head | {"annotations": there}, head | {"annotations": found})

    def content(self, masks: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copies of both for the library, whose findings' areas are those of their boxes or of their `masks`."""
        there, found = ([dict(one) for one in of["annotations"]] for of in (self.there, self.found))
        for one in found:
            mask_area = one.pop("mask_area", one["area"])
            one["area"] = mask_area if masks else one["area"]
        return self.there | {"annotations": there}, self.found | {"annotations": found}


def finding_report(
    compared: Compared, groups: ArrayLike | None = None, *, masks: bool = False, draws: int = DRAWS
) -> dict[str, Any]:
    """Figures of n images' findings by boxes, or by `masks`, as COCO has them: IoU 0.5 to 0.95, 100 findings a class.

    `map`, `ap50`, `ap75` and `mar` over the classes, the same of each of the `classes`, with its `curve` of recall and
    precision at an IoU of 0.5, and `ap` and `ar` by `sizes`; `objects` counts what is there, crowds apart. Limits are
    of `draws` resamples of `groups` (n,), None: each image is one, together with one group that was not seen, all of
    whose objects are missed (lower limit) or found before all else (upper limit).
    """
    task, of = compared.task, as_groups(groups, len(compared))
    matched = _Matched.of(compared, of, masks)
    precision, recall = matched.accumulated(np.arange(len(compared)))
    low, high = matched.limits(of, draws)
    method = f"bootstrap of {draws} draws with an unseen group {CONFIDENCE:.0%}".replace("%", " %")
    said = [
        undefined(n, "nothing of it is there")
        if np.isnan(value)
        else figure(value, min(a, value), max(b, value), n, method + grouped(np.bincount(of)))
        for value, a, b, n in zip(_figures(precision, recall), low, high, matched.numbers(), strict=True)
    ]
    report = _nested(dict(zip(_names(task), said, strict=True)))
    curves = precision[_AT_50, :, :, 0]
    for i, name in enumerate(task.classes):
        report["classes"][name] |= {"objects": int(matched.objects[i, 0]), "curve": _curve(curves[:, i])}
    return {"n": len(compared), "objects": int(matched.objects[:, 0].sum()), **report}


def point_figures(compared: Compared, *, masks: bool = False) -> dict[str, float]:
    """The figures of `TITLES` of n images' boxes, or masks, without limits, for choosing by; NaN where nothing is."""
    matched = _Matched.of(compared, as_groups(None, len(compared)), masks)
    return dict(zip(TITLES, _figures(*matched.accumulated(np.arange(len(compared)))).tolist(), strict=False))


def evaluator(there: Mapping[str, Any], found: Mapping[str, Any], *, masks: bool = False) -> Any:
    """faster-coco-eval's COCOeval of two COCO contents, to be evaluated; MissingExtraError without the library."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("mAP needs faster-coco-eval: pip install 'hf-inspect[train]'") from error
    made = COCOeval_faster(COCO(there), COCO(found), "segm" if masks else "bbox", separate_eval=True)
    made.params.maxDets = [MOST]
    made.params.areaRng, made.params.areaRngLbl = [list(one) for one in _AREAS.values()], list(_AREAS)
    return made


@dataclass(frozen=True, slots=True)
class _Matched:
    """The library's matches of each area, by class and image in one list; after the n images, those that nobody saw.

    `objects` (k, a) counts what is there by class and area; `settings` are the library's parameters of each area.
    """

    matches: list[list[Any]]
    settings: list[Any]
    objects: NDArray[np.int64]
    images: int

    @classmethod
    def of(cls, compared: Compared, groups: NDArray[np.int64], masks: bool) -> "_Matched":
        there, found = compared.content(masks)
        counts = _counts(there, len(compared.task.classes), groups)
        _add_unseen(there, found, counts)
        whole = _evaluated(there, found, masks, "all")
        near, listed = _near(whole, found), found["annotations"]
        made = [whole]
        for size, (least, most) in SIZES.items():
            own = [one for one in listed if one["id"] in near or least <= one["area"] <= most]
            made.append(_evaluated(there, found | {"annotations": own}, masks, size))
        matches, settings = [one._evalImgs_cpp for one in made], [one._paramsEval for one in made]
        return cls(matches, settings, counts.sum(2), len(compared))

    def accumulated(self, numbers: NDArray[np.int64], unseen: int = 0, side: int = 0) -> tuple[Floats, Floats]:
        """Precision (10, 101, k, a) and recall (10, k, a) of images by number, repeated where they are, NaN where
        nothing is there; together with so many unseen groups of a side of `_BOTH`.
        """
        from faster_coco_eval.faster_eval_api_cpp import COCOevalAccumulate

        k, areas = self.objects.shape
        every, arrays = self.images + len(_BOTH) * areas, []
        for a, (matches, settings) in enumerate(zip(self.matches, self.settings, strict=True)):
            own = copy.copy(settings)
            own.imgIds = range(len(numbers) + unseen)
            images = [*numbers.tolist(), *[self.images + side * areas + a] * unseen]
            arrays.append(COCOevalAccumulate(own, [matches[i * every + n] for i in range(k) for n in images]))
        precision, recall = (
            np.concatenate([one[key][..., 0] for one in arrays], -1) for key in ("precision", "recall")
        )
        return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)

    def limits(self, groups: NDArray[np.int64], draws: int) -> tuple[Floats, Floats]:
        """95 % limits of every figure: quantiles of so many resamples of the groups and of one unseen one."""
        n = int(groups.max()) + 1
        times = np.random.default_rng(_SEED).multinomial(n + 1, np.full(n + 1, 1 / (n + 1)), draws)

        def drawn(row: NDArray[np.int64]) -> list[Floats]:
            numbers, unseen = np.repeat(np.arange(len(groups)), row[groups]), int(row[n])
            sides = range(len(_BOTH)) if unseen else range(1)
            found = [_figures(*self.accumulated(numbers, unseen, side)) for side in sides]
            return [found[0], found[-1]]

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
            low, high = np.array(list(threads.map(drawn, times))).transpose(1, 0, 2)
        tail = (1 - CONFIDENCE) / 2
        return _quantile(low, tail), _quantile(high, 1 - tail)

    def numbers(self) -> list[int]:
        """Of every figure, of how many objects it is."""
        overall = [int(self.objects[:, 0].sum())] * len(TITLES)
        sizes = np.repeat(self.objects[:, 1:].sum(0), 2).tolist()
        classes = [
            n for row in self.objects.tolist() for n in [row[0]] * len(TITLES) + [x for x in row[1:] for _ in "pr"]
        ]
        return [*overall, *sizes, *classes]


def _evaluated(there: Mapping[str, Any], found: Mapping[str, Any], masks: bool, area: str) -> Any:
    """The library's COCOeval of one of the areas, its matches made."""
    made = evaluator(there, found, masks=masks)
    made.params.areaRng, made.params.areaRngLbl = [list(_AREAS[area])], [area]
    made.evaluate()
    return made


def _near(made: Any, found: Mapping[str, Any]) -> set[int]:
    """Ids of the findings that may match something: all others are ignored where their own area is not asked for."""
    held = defaultdict(list)
    for one in found["annotations"]:
        held[one["image_id"], one["category_id"]].append(one)
    near = set()
    for place, ones in held.items():
        surest = sorted(ones, key=lambda one: -one["score"])  # the library's order
        overlaps = np.asarray(made.ious[place])
        near |= {one["id"] for one, row in zip(surest, overlaps, strict=bool(len(overlaps))) if row.max() >= _LEAST}
    return near


def _figures(precision: Floats, recall: Floats) -> Floats:
    """The figures of `_names`, in order, from the library's arrays; NaN where nothing is there."""

    def of(p: Floats, r: Floats) -> Iterator[float]:
        yield from (_mean(p[..., 0]), _mean(p[_AT_50, ..., 0]), _mean(p[_AT_75, ..., 0]), _mean(r[..., 0]))
        for a in range(1, len(_AREAS)):
            yield from (_mean(p[..., a]), _mean(r[..., a]))

    classes = range(recall.shape[1])
    every = [*of(precision, recall), *(x for i in classes for x in of(precision[:, :, [i]], recall[:, [i]]))]
    return np.array(every)


def _names(task: TaskSpec) -> list[tuple[str, ...]]:
    """Where each figure stands in the report."""
    own = [*((key,) for key in TITLES), *(("sizes", size, key) for size in SIZES for key in ("ap", "ar"))]
    return [*own, *(("classes", name, *path) for name in task.classes for path in own)]


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (*path, last), value in flat.items():
        inner = nested
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return nested


def _mean(values: Floats) -> float:
    """COCO's mean: over what is defined."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def _quantile(values: Floats, share: float) -> Floats:
    """Of each column (draws, f), over the draws that have it; NaN where none has."""
    none = np.isnan(values).all(0)
    return np.where(none, np.nan, np.nanquantile(np.where(none, 0.0, values), share, axis=0))


def _curve(precision: Floats) -> list[list[float]]:
    """Recall and precision (101,) of a class, empty where nothing of it is there."""
    there = [] if np.isnan(precision).any() else [round(one, 4) for one in precision.tolist()]
    return [[round(i / 100, 2) for i in range(len(there))], there]


def _counts(there: Mapping[str, Any], classes: int, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many objects there are by class, area and group (k, a, g), crowds apart."""
    counts = np.zeros((classes, len(_AREAS), int(groups.max()) + 1), np.int64)
    for one in there["annotations"]:
        for a, (least, most) in enumerate(_AREAS.values()):
            within = least <= one["area"] <= most and not one["iscrowd"]
            counts[one["category_id"] - 1, a, groups[one["image_id"] - 1]] += within
    return counts


def _add_unseen(there: dict[str, Any], found: dict[str, Any], counts: NDArray[np.int64]) -> None:
    """Add to two COCO contents, for either side and each area, an image as nobody saw one.

    It has as many objects of a class as groups that have any have on average, all missed or all found with a score
    above any other.
    """
    square = {"bbox": [0, 0, 8, 8], "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]], "iscrowd": 0}
    holders = np.maximum((counts > 0).sum(2), 1)
    n = np.clip(np.rint(counts.sum(2) / holders), 0, MOST).astype(int)
    there["images"] = found["images"] = list(there["images"])
    for side in _BOTH:
        for a, area in enumerate(_MIDDLE):
            image = len(there["images"]) + 1
            there["images"].append({"id": image, "height": 8, "width": 8})
            of_class = [i + 1 for i, of in enumerate(n[:, a].tolist()) for _ in range(of)]
            for content, more in ((there, {}), *([(found, {"score": 2.0})] if side == "found" else [])):
                entries = content["annotations"]
                ids = range(len(entries) + 1, len(entries) + 1 + len(of_class))
                entries += [
                    {**square, **more, "id": i, "image_id": image, "category_id": c, "area": area}
                    for i, c in zip(ids, of_class, strict=True)
                ]


def surest(findings: Sequence[Finding]) -> list[Finding]:
    """The `MOST` surest of each class, in the order they came."""
    order = sorted(range(len(findings)), key=lambda i: -findings[i].score)
    kept = {i for name in {f.name for f in findings} for i in [j for j in order if findings[j].name == name][:MOST]}
    return [one for i, one in enumerate(findings) if i in kept]


def _thing(thing: Thing, image: Shown, masks: bool) -> dict[str, Any]:
    given = {"class": thing.name, "iscrowd": int(thing.crowd), **_sides(thing.box)}
    if not (thing.polygons or masks):
        return given
    from faster_coco_eval.core import mask

    x0, y0, x1, y1 = thing.box
    polygons = [list(one) for one in thing.polygons] or [[x0, y0, x1, y0, x1, y1, x0, y1]]
    runs = mask.merge(mask.frPyObjects(polygons, image.height, image.width))
    area = {"area": float(mask.area(runs))} if thing.polygons else {}
    return given | area | ({"segmentation": runs} if masks else {})


def _finding(found: Finding, image: Shown, masks: bool) -> dict[str, Any]:
    given = {"class": found.name, "score": found.score, "iscrowd": 0, **_sides(found.box)}
    if not masks:
        return given
    from faster_coco_eval.core import mask

    runs = mask.encode(np.asfortranarray(found.mask_in(image.height, image.width), np.uint8))
    return given | {"mask_area": float(mask.area(runs)), "segmentation": runs}


def _sides(box: Box) -> dict[str, Any]:
    """A box as COCO has it: x, y, width, height; and its area."""
    width, height = box[2] - box[0], box[3] - box[1]
    return {"bbox": [box[0], box[1], width, height], "area": width * height}
