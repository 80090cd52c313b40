"""results.json of a model's folder -> whether it is of the folder's own files, and the figures its card must state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.cascade import CASCADE
from hf_inspect.data import read_head
from hf_inspect.data.build import MANIFEST
from hf_inspect.errors import HubError
from hf_inspect.hub import kinds
from hf_inspect.hub.kinds import CARD, RESULTS, Metric, kind_of, measured_as, task_of
from hf_inspect.hub.parts import parts_of, read_cascade, weights_of
from hf_inspect.runtime import TRAINED_ON
from hf_inspect.schema import TaskSpec

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True, slots=True)
class Section:
    """A place in results.json that tells of a folder's model: its keys, and the metrics that it must hold."""

    path: tuple[str, ...]
    metrics: tuple[Metric, ...]


def results_of(folder: Path) -> dict[str, Any] | None:
    """results.json of a model's folder, None without one; HubError when it is of other data or other files.

    DataError when it states no task, or another one than the folder's.
    """
    if not (folder / RESULTS).is_file():
        return None
    results = files.read_json(folder / RESULTS)
    measured = results.get("data", {}).get("fingerprint", "nothing stated")
    if wrong := [f"{name} ({stated[:12]})" for name, stated in _fingerprints(folder) if stated != measured]:
        raise HubError(f"{folder / RESULTS} is of the data {measured[:12]}, not of {', '.join(wrong)}; measure again.")
    models = results.get("inputs", {}).get("models", {})
    own, held = _weights(folder)
    if other := [name for name, sha256 in models.items() if sha256 not in held]:
        raise HubError(f"{folder / RESULTS} was measured on another {other[0]} than the folder's; measure again.")
    if unknown := [name for name, sha256 in own.items() if sha256 not in models.values()]:
        raise HubError(f"{folder / RESULTS} does not say that it was measured on {unknown[0]}; measure again.")
    task = TaskSpec.from_dict(results.get("task"), folder / RESULTS)
    if stated := task_of(folder):
        task.refuse_model(stated, str(folder / RESULTS), str(folder))
    return results


def sections(folder: Path) -> dict[str, Section]:
    """Where results.json tells of the folder's model, by name: one section, or one a policy of a cascade.

    DataError or HubError for a folder that is of no model.
    """
    kind = measured_as(folder)
    if kind.section is None:
        raise HubError(f"{folder} is a {kind}, of which nothing is measured.")
    if kind is not kinds.CASCADE:
        return {"": Section((kind.section,), kind.metrics)}
    policies = read_cascade(folder)["policies"]
    return {f"policy {name}": Section((kind.section, name), kind.metrics) for name in policies}


def figures_of(folder: Path, results: Mapping[str, Any]) -> dict[str, dict[Metric, Mapping[str, Any]]]:
    """The figures of each of `sections` by name and metric; HubError names one that is missing or half."""
    task = TaskSpec.from_dict(results.get("task"), folder / RESULTS)
    return {
        title: {
            metric: _figure(results, *one.path, *metric.figure.split(".")) for metric in _needed(one, results, task)
        }
        for title, one in sections(folder).items()
    }


def eval_results(folder: Path, results: Mapping[str, Any]) -> "list[EvalResult]":
    """The figures of results.json as huggingface_hub states them in a card; one that is undefined is left out."""
    from huggingface_hub import EvalResult

    data = {key: at(results, "data", key) for key in ("name", "split", "fingerprint", "evaluations_of_this_split")}
    config, _, split = data["split"].rpartition("/")
    kind, found = measured_as(folder), []
    grounded = kind in kinds.GROUNDED.values()
    asked = "object-detection" if grounded else str(kind.pipeline) if kind in kinds.FINDERS else "image-classification"
    for section, figures in figures_of(folder, results).items():
        for metric, figure in ((metric, one) for metric, one in figures.items() if one["value"] is not None):
            found.append(
                EvalResult(
                    task_type=asked,
                    dataset_type=data["name"],
                    dataset_name=data["name"],
                    dataset_config=config or None,
                    dataset_split=split,
                    dataset_args={key: data[key] for key in ("fingerprint", "evaluations_of_this_split")},
                    metric_type=metric.type,
                    metric_name=f"{metric.name}, {section}" if section else metric.name,
                    metric_value=figure["value"],
                    metric_args={key: figure[key] for key in ("low", "high", "n", "method")},
                )
            )
    return found


def at(results: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of results.json; HubError names one that is not there."""
    value: Any = results
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            raise HubError(f"{RESULTS} lacks {'.'.join(path)}, which the card needs; measure again.")
        value = value[key]
    return value


def refuse_other_figures(folder: Path, index: Any) -> None:
    """HubError unless `index`, a card's model-index (None without one), states the figures of the folder's results.

    A folder that this package did not train may bring figures of its authors.
    """
    from huggingface_hub.repocard_data import model_index_to_eval_results

    results = results_of(folder)
    if results is None and kind_of(folder) is kinds.VLM and not (folder / TRAINED_ON).is_file():
        return
    wanted = eval_results(folder, results) if results else []
    try:
        stated = model_index_to_eval_results(index)[1] if index else []
    except (KeyError, TypeError, AttributeError, IndexError):
        raise HubError(f"{folder / CARD} has a model-index that cannot be read; run 'hf-inspect card'.") from None
    if missing := [one for one in wanted if one not in stated]:
        raise HubError(
            f"{folder / CARD} does not state the {missing[0].metric_name} {missing[0].metric_value:.4f} of {RESULTS}; "
            "run 'hf-inspect card'."
        )
    if beyond := [one for one in stated if one not in wanted]:
        raise HubError(
            f"{folder / CARD} states {beyond[0].metric_name or beyond[0].metric_type} {beyond[0].metric_value}, which "
            f"is not in {RESULTS} beside it; measure it, or take it out."
        )


def _weights(folder: Path) -> tuple[dict[str, str], set[str]]:
    """SHA-256 of the weights that must have been measured, by name, and of all that may have been.

    They are the folder's, or those of a cascade's edge and VLM; another model may lie beside these.
    """
    if kind_of(folder) is not kinds.CASCADE:
        own = files.weights(folder)
        return own, set(own.values())
    stated = read_cascade(folder)
    parts = {part.name for part in parts_of(stated).values()}  # their hashes are stated
    beside = [files.weights(path) for path in folder.iterdir() if path.is_dir() and path.name not in parts]
    return weights_of(stated), {*stated["files"].values(), *chain.from_iterable(one.values() for one in beside)}


def _fingerprints(folder: Path) -> Iterator[tuple[str, str]]:
    """The fingerprint of the data that a cascade was calibrated on and is published beside."""
    if (folder / MANIFEST).is_file():
        yield MANIFEST, read_head(folder)["fingerprint"]
    if (folder / CASCADE).is_file() and (calibration := files.read_json(folder / CASCADE).get("calibration")):
        yield CASCADE, calibration["data"]


def _needed(section: Section, results: Mapping[str, Any], task: TaskSpec) -> list[Metric]:
    """The metrics that a section must have: no macro F1 of two classes, no AUROC where a VLM wrote its answers."""
    without = {kinds.MACRO_F1} if len(task.classes) <= 2 else set()
    if at(results, *section.path).get("mode") == "generate":
        without.add(kinds.AUROC)
    return [metric for metric in section.metrics if metric not in without]


def _figure(results: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in ("value", "low", "high", "n", "method"):
        at(results, *path, key)
    return at(results, *path)
