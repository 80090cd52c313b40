"""Edge + VLM + a built data set -> a cascade folder: cascade.json (parts, policies, risk) and calibration.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import files, hub
from hf_inspect.cascade import (
    CALIBRATION,
    CASCADE,
    OUT_OF_FOLD,
    CalibrationScores,
    Certified,
    Policy,
    Promise,
    WhatIf,
    composite_of,
    fit_saec,
    what_if,
)
from hf_inspect.data import absences, fingerprint, images_of_fold, questions_of, read_head, read_manifest
from hf_inspect.data.pool import POOL
from hf_inspect.errors import DataError
from hf_inspect.runtime import Engine
from hf_inspect.schema import GOOD, Part, Predictor, Progress, TaskSpec, no_progress
from hf_inspect.scoring import Row, Scores, read_rows, run, write_rows

if TYPE_CHECKING:
    from hf_inspect.vlm.guiding import Guide
    from hf_inspect.vlm.openai import OpenAIVLM
    from hf_inspect.vlm.remote import RemoteVLM

VALIDATION, SAMPLED = "validation", "calibration"
SPLITS = (VALIDATION, SAMPLED)
MODELS = {"edge": "edge", "vlm": "VLM"}
_DEADLINE = 120.0  # seconds that a part waits for a server: one that is late here would be a gap in what is fitted
GROUNDED = (
    "The VLM says where things are: what counts is the score of the surest defect that it names, and a label that is "
    "no class is one. An answer that cannot be read, or breaks off before a defect, leaves the part undecided."
)
CLASSES = "It is of good against the rest: which class a defect is called is measured, not promised."


def calibrate(
    edge: str | Path,
    vlm: tuple[str | Path, str | Path | None] | str | None,
    data: Path,
    out: Path,
    *,
    model: str | None = None,
    exemplars: Path | None = None,
    num: int = 1,
    nearest: bool = False,
    siblings: Sequence[Path] = (),
    escape: float = 0.05,
    overkill: float = 0.10,
    confidence: float = 0.95,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Fit the policies and write the cascade folder; returns what cascade.json holds.

    `escape`, `overkill` and `confidence` are the promise of the policy `certified`, for the whole system.

    `edge` is an export, of an anomaly model too, `vlm` a base (also `demo-base`) and its adapter, or None for a base
    that was fine-tuned whole; each a folder or a repository. Folders are copied into the cascade's; a repository
    (`org/name`, `org/name@revision`) is named with its commit; `demo-base` by its name. `vlm` may also be a server's
    address: `http://host:port` of `hf-inspect serve`, or `openai+http://host:port/v1` of any that scores tokens, whose
    `model` is asked the data set's own question; ServerError where it leaves a part without an answer.

    A VLM that says where things are may be shown `num` exemplars first, of a pool that `data pool` wrote: its first
    ones, or those `nearest` to the image. The pool becomes a part; a server shows its own.

    The validation split fits the composite of `certified` and the complexity limit of `saec`, which an edge without
    class probabilities does not have; the calibration split sets the two limits of `certified` and nothing else but how
    maps are drawn. All answers are kept. Where both hold good parts alone, the edge's own severity is limited, and
    overkill alone is promised.

    `siblings` are cascades of the same recipes on folds of this data set (`data build --fold 1/2`): what they answered
    about parts that they were not trained on helps validation to choose the composite. DataError when data set, edge
    and VLM do not answer one question, and for a sibling on other data.

    Scores lie beside `out` until it is written: a run that was killed goes on.
    """
    promise = Promise(escape, overkill, confidence)
    named = vlm if isinstance(vlm, tuple) else ()
    given = {"edge": edge} | {role: part for role, part in zip(("base", "adapter"), named, strict=False) if part}
    given |= {"exemplars": _pool(exemplars, given)} if exemplars else {}
    kept = {split: out.with_name(f"{out.name}.{split}.scores.jsonl") for split in SPLITS}
    found = _found(given)
    with files.staged_folder(out, [data, *found.values()]) as stage:
        parts, places = hub.gather_parts(stage, given, found)
        lacks = _lacks(data)
        served = _served(vlm, data, model) if isinstance(vlm, str) else None
        guide = _guide(places, num, nearest)
        predictors = _predictors(places, served, guide)  # from the copies: what is hashed is what was asked
        if siblings and "vlm" not in predictors:
            raise DataError("Siblings choose how edge and VLM are fused, and no VLM is given; leave them out.")
        scores = {
            split: run(predictors, data, split, path, fitting=split == VALIDATION, complexity=True, progress=progress)
            for split, path in kept.items()
        }
        task = predictors["edge"].task
        rows = [*_rows(scores), *_of_siblings(siblings, data, task)]
        write_rows(stage / CALIBRATION, rows)
        hashes = {CALIBRATION: files.sha256(stage / CALIBRATION), **hub.file_hashes(places)}
        stated = {
            "version": hub.CASCADE_VERSION,
            **_tasks(predictors),
            **_stated(parts, served, guide),
            **_policies(predictors, rows, promise, scores[VALIDATION], [*lacks, *(served.caveats if served else ())]),
            **_heat(rows),
            "calibration": _provenance(data, scores) | {"scores": CALIBRATION},
            "files": hashes | (served.files if served else {}),
        }
        files.write_json(stage / CASCADE, stated)
    for path in kept.values():
        path.unlink()
    return stated


def _lacks(data: Path) -> list[str]:
    """A sentence on the kinds of images that the data set has, and its calibration split has not."""
    head = read_head(data)
    if "absent" not in head:
        raise DataError(f"{data} was built before its manifest said what its splits lack; build it again.")
    return absences({SAMPLED: head["absent"].get(SAMPLED, [])})


def _found(given: Mapping[str, str | Path]) -> dict[str, Path]:
    """The folder of each part, by role; a packaged base is assembled."""
    if "base" not in given:
        return {role: hub.resolve(part) for role, part in given.items()}
    from hf_inspect.vlm.base import base_folder

    return {role: base_folder(part) if role == "base" else hub.resolve(part) for role, part in given.items()}


def _served(url: str, data: Path, model: str | None) -> "RemoteVLM | OpenAIVLM":
    """The VLM at the server at an address; a part that it does not answer ends the calibration."""
    from hf_inspect.vlm.openai import SCHEME, OpenAIVLM
    from hf_inspect.vlm.remote import RemoteVLM

    served: RemoteVLM | OpenAIVLM
    if url.startswith(SCHEME):
        served = OpenAIVLM.connect(url, questions_of(data).question(), model, deadline=_DEADLINE)
    elif model is not None:
        raise DataError(f"{url} serves one VLM, and {model!r} was named; leave the model out, or give {SCHEME}{url}.")
    else:
        served = RemoteVLM.connect(url, deadline=_DEADLINE)
    served.wire.strict = True
    return served


def _pool(path: Path, given: Mapping[str, Any]) -> Path:
    """The folder of the pool at `path`, its own or that of its pool.jsonl; DataError where no VLM here is shown it."""
    if "base" not in given:
        raise DataError(
            "Exemplars are shown to a VLM that is calibrated with here; one at a server is shown the server's."
        )
    if not path.is_dir() and path.name != POOL:
        raise DataError(f"{path} is no folder that 'hf-inspect data pool' wrote, nor the {POOL} in it.")
    return path if path.is_dir() else path.parent


def _guide(places: Mapping[str, Path], num: int, nearest: bool) -> "Guide | None":
    """Who shows the exemplars that became a part; None where there are none."""
    if "exemplars" not in places:
        return None
    from hf_inspect.vlm.guiding import FIXED, NEAREST, Guide

    return Guide.from_path(places["exemplars"], num, NEAREST if nearest else FIXED)


def _stated(parts: Mapping[str, Part], served: "RemoteVLM | OpenAIVLM | None", guide: "Guide | None") -> dict[str, Any]:
    """The parts as cascade.json states them, a server with what its VLM is, exemplars with how they are shown."""
    if served is None:
        return hub.stated_parts(parts, guide.states if guide else None)
    return hub.stated_parts({**parts, "vlm": Part("server", served.address)}, served.states)


def _tasks(predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """What the cascade answers, as its edge does; and `vlm_task`, what its VLM does, where that knows other classes."""
    task, vlm = predictors["edge"].task, predictors.get("vlm")
    other = {} if vlm is None or task.same_as(vlm.task) else {"vlm_task": vlm.task.to_dict()}
    return {"task": task.to_dict()} | other


def _predictors(places: Mapping[str, Path], served: Predictor | None, guide: "Guide | None") -> dict[str, Predictor]:
    """The models in the folders of the parts; DataError for two that were made of images read in two ways."""
    edge = Engine.from_pretrained(places["edge"])
    if "base" not in places and served is None:
        return {"edge": edge}
    if served is None:
        from hf_inspect.vlm import load

        vlm: Predictor = load(places["base"], places.get("adapter"), guide)
    else:
        vlm = served
    edge.task.refuse_partner(vlm.task, "The cascade's edge", "its VLM")
    edge.reading.refuse_other(vlm.reading, "The cascade's edge", "its VLM")
    return {"edge": edge, "vlm": vlm}


def _rows(scores: Mapping[str, Scores]) -> Iterator[dict[str, Any]]:
    """What calibration.jsonl holds: the answers to every image, and the split it is of."""
    return ({"split": split, **row} for split, one in scores.items() for row in one.rows())


def _of_siblings(siblings: Sequence[Path], data: Path, task: TaskSpec) -> list[Row]:
    """The rows of all siblings; DataError where two are of one fold."""
    found = [_out_of_fold(sibling, data, task) for sibling in siblings]
    if len({rows[0]["split"] for rows in found}) < len(found):
        raise DataError("Two siblings are of one fold, each on a scale of its own; give one of each fold.")
    return [row for rows in found for row in rows]


def _out_of_fold(sibling: Path, data: Path, task: TaskSpec) -> list[Row]:
    """The rows of a sibling's calibration split, a fold of the data set's train; DataError where it is none."""
    stated, kept = hub.read_cascade(sibling), sibling / CALIBRATION
    task.refuse_other(TaskSpec.from_dict(stated["task"], sibling / CASCADE), "The cascade", f"its sibling {sibling}")
    if files.sha256(kept) != stated["files"][CALIBRATION]:
        raise DataError(f"{kept} is not the one that its {CASCADE} states; calibrate the sibling again.")
    fold, manifest = stated["calibration"].get("fold"), read_manifest(data)
    images = images_of_fold(manifest["images"], fold) if fold else []
    own = fingerprint(TaskSpec.from_dict(manifest["task"], data), images, manifest["reading"]["bits"])
    if stated["calibration"]["data"] != own:
        raise DataError(
            f"{sibling} was not calibrated on a fold of {data}: build that with the options of {data} and --fold 1/2, "
            "train both models on it, and calibrate them with it."
        )
    return [row | {"split": f"{OUT_OF_FOLD}{fold}"} for row in read_rows(kept) if row["split"] == SAMPLED]


def _policies(
    predictors: Mapping[str, Predictor],
    rows: Sequence[Row],
    promise: Promise,
    fitting: Scores,
    caveats: Sequence[str],
) -> dict[str, Any]:
    """The policies, which of them decides, and what the second look did, as cascade.json states them.

    `saec` is none of an edge whose class probabilities, of the data set's classes, are not known.
    """
    certified, second_look = _certified(predictors["edge"].task, rows, promise, caveats)
    grounded = certified.composite.vlm is not None and predictors["vlm"].task.finds
    named = ~np.isnan(fitting.answers["edge"].probabilities).all()
    policies: tuple[Policy, ...] = (certified, *([fit_saec(fitting.complexity)] if named else []))
    stated = {policy.name: policy.to_dict() for policy in policies}
    return {
        "policy": certified.name,
        "policies": stated,
        "second_look": f"{second_look} {GROUNDED}" if grounded else second_look,
    }


def _heat(rows: Sequence[Row]) -> dict[str, Any]:
    """From where to where the edge's maps are drawn, where it has any: `low`, `high`, by the good calibration parts.

    Half of these show nothing at all, one in a hundred is red somewhere.
    """
    own = [row["edge"] for row in rows if row["split"] == SAMPLED and row["label"] == GOOD and "edge" in row]
    highest = [one["map_highest"] for one in own if "map_highest" in one]
    if not highest:
        return {}
    low, high = np.quantile(highest, [0.5, 0.99]).tolist()
    return {"maps": {"low": low, "high": high}}


def _certified(task: TaskSpec, rows: Sequence[Row], promise: Promise, lacks: Sequence[str]) -> tuple[Certified, str]:
    """The policy `certified`, and a sentence on what the second look did on the calibration parts.

    Of the calibration split's severities nothing is known when the composite is fitted, of its labels the counts. The
    statement ends with what the promise is not about, and with what the calibration split lacks.
    """
    distance = task.score is not None and task.score.kind == "distance"
    sampled, composite = CalibrationScores.from_rows(rows, SAMPLED), composite_of(rows, promise, distance)
    fitted = sampled.certified(composite, promise)
    named = [CLASSES] if len(task.classes) > 2 else []
    fitted = replace(fitted, statement=" ".join([fitted.statement, *named, *lacks]))
    return fitted, _second_look(what_if(sampled, composite, promise))


def _second_look(found: WhatIf) -> str:
    """What each leaves undecided at the same promise, on the parts that set the limits."""
    models = found.undecided_alone.items()
    said = ", ".join(f"the {MODELS[name]} alone {one['value']:.1%}" for name, one in models)
    begin = f"At this promise undecided stay, on the calibration parts themselves: {said}"
    if found.policy.composite.vlm is not None:
        asked, both = found.asked["value"], found.undecided["value"]
        return f"{begin}, both together {both:.1%}; the VLM is asked about {asked:.1%}."
    why = ", for on validation it settled nothing more" if len(models) > 1 else ""
    return f"{begin}. No VLM is asked{why}."


def _provenance(data: Path, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The data, how many images of each split were scored, and which could not be read."""
    head = read_head(data)
    return {
        "data": head["fingerprint"],
        "fold": head["builder"]["rules"].get("fold"),
        "images": {split: len(one.classes) for split, one in scores.items()},
        "not_scored": [{"split": split, **image} for split, one in scores.items() for image in one.not_scored],
    }
