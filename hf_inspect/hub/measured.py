"""results.json of a model's folder -> whether it is of the folder's own files, and the figures its card must state."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.cascade import CASCADE
from hf_inspect.data import read_manifest
from hf_inspect.data.build import MANIFEST
from hf_inspect.errors import HubError
from hf_inspect.hub.kinds import ADAPTERS, CARD, CASCADES, RESULTS, STUDENT, VLM, kind_of
from hf_inspect.hub.parts import part_of, parts_of, read_cascade

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MEASURED = (VLM, ADAPTERS, STUDENT, CASCADES)
SECTIONS = {STUDENT: "edge", ADAPTERS: "vlm", VLM: "vlm"}  # of results.json, by kind
METRICS = {  # figure of results.json: the metric's type and name in a card
    "accuracy": ("accuracy", "accuracy"),
    "auroc": ("roc_auc", "AUROC"),
    "escapes": ("escape_rate", "escape rate"),
    "overkill": ("overkill_rate", "overkill rate"),
}


def results_of(folder: Path) -> dict[str, Any] | None:
    """results.json of a model's folder, None without one; HubError when it is of other data or other files."""
    if not (folder / RESULTS).is_file():
        return None
    results = files.read_json(folder / RESULTS)
    measured = results.get("data", {}).get("fingerprint", "nothing stated")
    if wrong := [f"{name} ({stated[:12]})" for name, stated in _fingerprints(folder) if stated != measured]:
        raise HubError(f"{folder / RESULTS} is of the data {measured[:12]}, not of {', '.join(wrong)}; measure again.")
    models = results.get("inputs", {}).get("models", {})
    own = _weights(folder)
    inside = [files.weights(p) for p in folder.iterdir() if p.is_dir()] if kind_of(folder) == CASCADES else []
    held = {*own.values(), *chain.from_iterable(one.values() for one in inside)}
    if other := [name for name, sha256 in models.items() if sha256 not in held]:
        raise HubError(f"{folder / RESULTS} was measured on another {other[0]} than the folder's; measure again.")
    if unknown := [name for name, sha256 in own.items() if sha256 not in models.values()]:
        raise HubError(f"{folder / RESULTS} does not say that it was measured on {unknown[0]}; measure again.")
    return results


def sections(folder: Path) -> dict[str, tuple[str, ...]]:
    """Where results.json tells of the folder's model, by name: one section, or one a policy of a cascade.

    A cascade without a VLM decides as its edge does.
    """
    stated = files.read_json(folder / CASCADE) if kind_of(folder) == CASCADES else None
    if stated and stated["vlm"]:
        return {f"policy {name}": ("cascade", name) for name in stated["policies"]}
    return {"": ("edge" if stated else SECTIONS[kind_of(folder)],)}


def figures_of(folder: Path, results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of each of `sections` by name, as its kind needs them; HubError names one that is missing or half."""
    return {
        title: {name: _figure(results, *path, name) for name in _needed(at(results, *path))}
        for title, path in sections(folder).items()
    }


def eval_results(folder: Path, results: Mapping[str, Any]) -> "list[EvalResult]":
    """The figures of results.json as huggingface_hub states them in a card; one that is undefined is left out."""
    from huggingface_hub import EvalResult

    data = {key: at(results, "data", key) for key in ("name", "split", "fingerprint", "evaluations_of_this_split")}
    config, _, split = data["split"].rpartition("/")
    found = []
    for section, figures in figures_of(folder, results).items():
        for name, figure in ((name, one) for name, one in figures.items() if one["value"] is not None):
            kind, title = METRICS[name]
            found.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=data["name"],
                    dataset_name=data["name"],
                    dataset_config=config or None,
                    dataset_split=split,
                    dataset_args={key: data[key] for key in ("fingerprint", "evaluations_of_this_split")},
                    metric_type=kind,
                    metric_name=f"{title}, {section}" if section else title,
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
    if results is None and kind_of(folder) == VLM and not (folder / "trained_on.json").is_file():
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


def _weights(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights that must have been measured: the folder's, or those of a cascade's edge and adapter."""
    if kind_of(folder) != CASCADES:
        return files.weights(folder)
    stated = read_cascade(folder)
    roles = [role for role in ("edge", "adapter") if role in parts_of(stated)]
    every = (files.weights(Path(part_of(folder, stated, role)), role) for role in roles)
    return dict(chain.from_iterable(one.items() for one in every))


def _fingerprints(folder: Path) -> Iterator[tuple[str, str]]:
    """The fingerprint of the data that a cascade was calibrated on and is published beside."""
    if (folder / MANIFEST).is_file():
        yield MANIFEST, read_manifest(folder)["fingerprint"]
    if (folder / CASCADE).is_file() and (calibration := files.read_json(folder / CASCADE).get("calibration")):
        yield CASCADE, calibration["data"]


def _needed(section: Mapping[str, Any]) -> list[str]:
    """The figures a section must have: the rates of two classes, and an AUROC where there are scores."""
    if len(section.get("classes", ("good", "defect"))) != 2:
        return ["accuracy"]
    scored = section.get("mode", "rank") == "rank" and "share_escalated" not in section
    return ["accuracy", *(["auroc"] if scored else []), "escapes", "overkill"]


def _figure(results: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in ("value", "low", "high", "n", "method"):
        at(results, *path, key)
    return at(results, *path)
