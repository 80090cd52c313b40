"""A folder of ours -> its card, README.md: from its own records and notes.md, through the templates of model_cards/."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files, hub
from hf_inspect.data import dataset_card, read_history, read_manifest
from hf_inspect.data.build import MANIFEST
from hf_inspect.data.card import cell
from hf_inspect.errors import DataError, HubError, MissingExtraError
from hf_inspect.hub import Kind, kinds, licences, measured
from hf_inspect.hub.kinds import ADAPTER_CONFIG, CARD, CONFIG, PROMPT, RESULTS, TEACHER_JSON
from hf_inspect.hub.pull import HUB
from hf_inspect.reports.table import classes_table, results_table
from hf_inspect.runtime import INSPECT, ONNX_RUNTIME, OPENVINO, TITLES, TRAINED_ON, runtime_of
from hf_inspect.schema import History, Part, TaskSpec
from hf_inspect.training import LOG

_PLOTS = {
    "confusion.png": "What each class (row) was taken for (column)",
    "reliability.png": "How often a stated probability of a defect comes true",
    "roc.png": "Caught defects against false alarms",
    "found.png": "Precision against recall by class, and what was found (column) of what is there (row)",
    "worst.png": "Images with most errors: what is there beside what was found",
    "undecided.png": "What stays undecided against the promised escape: edge alone, VLM alone, and both",
}
_LIBRARIES = {OPENVINO: "openvino", ONNX_RUNTIME: "onnx"}  # what a Hub calls an export, by what runs it
_LICENCE_LINKS = {"agpl-3.0": "https://ultralytics.com/license"}
_NOTES = "\x00"  # what the notes take the place of: they stand in a card to the letter


def write_card(folder: Path) -> Path:
    """Write README.md of a data set or of a model of any kind; returns its path.

    Figures come from results.json alone. HubError or DataError names the number that is missing, the file that
    results.json is not of, or the licence that nothing states. A model may be unmeasured, a cascade may not.
    """
    files.write_text(folder / CARD, card_of(folder))
    return folder / CARD


def card_of(folder: Path) -> str:
    """The text that `write_card` writes."""
    kind, (head, notes) = kinds.measured_as(folder), hub.read_notes(folder)
    if kind is kinds.SPACE:
        raise HubError(f"{folder} is a Space, whose README.md is written by hand.")
    if kind is kinds.EXEMPLARS:
        raise HubError(f"{folder} holds exemplars, which have no card of their own; a cascade's tells of them.")
    if kind is kinds.DATA_SET:
        return dataset_card(read_manifest(folder), notes)
    log, results = _read(folder / LOG), measured.results_of(folder)
    stating = _of_vlm if kind in kinds.GROUNDED.values() else _OF_SECTION[kind.section or ""]
    values = stating(folder) | {"results": results, "log": log, "plots": _plots(folder)}
    values |= {"task": _task(folder, results), "arguments": _arguments(log) if log else {}}
    values |= _figures(folder, results) if results else {}
    values["licences"] = _licences(values["parts"], head)
    every = " and ".join(values["licences"].values())
    values |= {"bound": list(dict.fromkeys(licences.split(every))), "terms": licences.terms(every)}
    data = _data(results, log)
    stated = measured.eval_results(folder, results) if results else []
    given = values | {"head": _head(values | {"kind": kind}, head, data, stated)}
    return render(kind, given | {"title": values["title"] + (f" on {cell(data)}" if data else "")}, notes)


def render(kind: Kind, values: Mapping[str, Any], notes: str = "") -> str:
    """The card of a kind from its template of model_cards/; DataError when that names a value not there."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
    except ImportError as error:
        raise MissingExtraError("Cards need jinja2: pip install 'hf-inspect[train]'") from error

    folder = FileSystemLoader(files.shipped("model_cards"))
    templates = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"figure": _figure, "cell": cell}
    try:
        text = templates.get_template(kind.template or "").render(values, notes=_NOTES if notes else "")
    except (UndefinedError, KeyError) as error:
        raise DataError(f"the {kind} card cannot be written: a record lacks what it needs ({error}).") from None
    return re.sub(r"\n{3,}", "\n\n", text).strip().replace(_NOTES, notes) + "\n"


def _of_student(folder: Path) -> dict[str, Any]:
    """What a student's folder, or its export's, states of itself."""
    given: dict[str, Any] = {"base": None, "bases": [], "parts": {"": folder}, "history": read_history(folder, "it")}
    if info := _read(folder / INSPECT):
        runtime = runtime_of(info)
        library, on = _LIBRARIES[runtime], TITLES[runtime]
        named = {"library": library, "tags": [library], "inspect": info, "preprocess": info["preprocess"]}
        title = f"Edge model {info['architecture']} ({info['weights'].upper()} for {on})"
        return given | named | {"title": title, "runtime": on}
    try:
        from transformers import AutoConfig

        from hf_inspect import students
    except ImportError as error:
        raise MissingExtraError("A student's card needs transformers: pip install 'hf-inspect[train]'") from error

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    title = f"Edge student {students.architecture_of(config)}"
    named = {"library": "transformers", "tags": [], "inspect": None, "preprocess": students.preprocess_of(config)}
    return given | named | {"title": title, "own_class": type(config).__module__.startswith("hf_inspect.")}


def _of_anomaly(folder: Path) -> dict[str, Any]:
    """What an anomaly model's folder states of itself."""
    config, task, log = files.read_json(folder / CONFIG), hub.task_of(folder), _read(folder / LOG)
    if task is None or task.score is None:
        raise HubError(f"{folder / CONFIG} does not say what its severity means; fit the model again.")
    network = config["network"]
    stated = {"layers": config["layers"], "preprocess": config["preprocess"], "kind": task.score.kind}
    stated |= {"meaning": str(task.score), "network": network.get("architecture", network["model_type"])}
    category = f", {log['category']}" if log and log["category"] else ""
    given: dict[str, Any] = {"base": None, "bases": [], "parts": {"": folder}, "history": read_history(folder, "it")}
    named = {"library": "transformers", "tags": ["anomaly-detection"], "anomaly": stated}
    return given | named | {"title": f"Anomaly model on {stated['network']}{category}"}


def _of_finder(folder: Path) -> dict[str, Any]:
    """What the export of a model that finds things states of itself; HubError for one that was not exported."""
    info = _read(folder / INSPECT)
    if info is None:
        raise HubError(f"{folder} was not exported, and its card is its export's; run 'hf-inspect export {folder}'.")
    given = _of_student(folder)
    return given | {"title": f"{hub.kind_of(folder).name.capitalize()} {given['title'].removeprefix('Edge model ')}"}


def _of_teacher(folder: Path) -> dict[str, Any]:
    """What an adapter of Grounding DINO or SAM states of itself, whose labels students learn from."""
    stated, adapter = files.read_json(folder / TEACHER_JSON), files.read_json(folder / ADAPTER_CONFIG)
    boxes = stated["kind"] == "dino"
    given = {"base": stated["base"], "bases": _repositories(stated["base"]), "parts": {"": folder}, "adapter": adapter}
    named = {"library": "peft", "tags": [adapter["peft_type"].lower(), "teacher"], "boxes": boxes, "stated": stated}
    named |= {"pipeline": "zero-shot-object-detection" if boxes else "mask-generation"}
    title = f"Teacher of {'boxes' if boxes else 'masks'}, an adapter for {stated['base']}"
    return given | named | {"title": title, "history": read_history(folder, "it")}


def _of_vlm(folder: Path) -> dict[str, Any]:
    """What an adapter's folder, or a whole fine-tune's, states of itself."""
    adapter, log, prompt = (_read(folder / name) for name in (ADAPTER_CONFIG, LOG, PROMPT))
    named = log["recipe"]["base"] if log else adapter and adapter["base_model_name_or_path"]
    base = named.removeprefix(HUB) if named else None
    title = f"Adapter for {base}" if adapter else "Vision-language model" + (f" from {base}" if base else "")
    given = {"base": base, "bases": _repositories(named), "parts": {"": folder}, "history": read_history(folder, "it")}
    kind = {"library": "peft", "tags": [adapter["peft_type"].lower()]} if adapter else {"library": "transformers"}
    return {"tags": []} | given | kind | {"adapter": adapter, "prompt": prompt, "title": title}


def _of_cascade(folder: Path) -> dict[str, Any]:
    """What a cascade's folder states of itself and its parts; HubError for one that was not measured."""
    stated = hub.read_cascade(folder)
    if not (folder / RESULTS).is_file():
        how = f"eval cascade {folder} --data DATA --out {folder / RESULTS}"
        raise HubError(f"{folder} was not measured; run 'hf-inspect {how}'.")
    parts = hub.parts_of(stated)
    away = ("packaged", "server")
    places = {role: hub.part_of(folder, stated, role) for role, part in parts.items() if part.kind not in away}
    given = {"library": "hf-inspect", "cascade": stated, "seeds": _read(folder / "seeds.json"), "roles": parts}
    given |= {"base": str(parts["base"]) if "base" in set(parts) - set(places) else None}
    given |= {"served": _served(stated)}
    given["bases"] = [part.name for part in parts.values() if part.kind == "hub"]
    tags = ["cascade", *(["conformal"] if "certified" in stated["policies"] else [])]
    title = "Inspection cascade" if len(parts) > 1 else "Edge-only cascade"
    seen = {"parts": {"": folder} | places, "history": _united(parts, places)}
    return given | seen | {"title": title, "tags": tags}


_OF_SECTION: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "edge": _of_student, "vlm": _of_vlm, "cascade": _of_cascade, "anomaly": _of_anomaly, "detection": _of_finder,
    "teacher": _of_teacher,
}  # fmt: skip


def _united(parts: Mapping[str, Part], places: Mapping[str, Path]) -> History:
    """What a cascade's edge and VLM were trained on; an adapter's record holds its base's."""
    telling = [role for role in parts if role != "base" or "adapter" not in parts]
    known = [
        read_history(places[role], f"the {role}") if role in places else History(unknown=(str(parts[role]),))
        for role in telling
    ]
    return History().union(*known)


def _served(stated: Mapping[str, Any]) -> str | None:
    """What a card says of a VLM that a server answers for; None where it is none."""
    url = hub.server_of(stated)
    states = stated["vlm"]["states"] if url else {}
    if url is None or "model" in states:
        return url and f"the model `{states['model']}` of the server `{url}`, scored by `{states['scoring']}`"
    return f"served by `hf-inspect serve` at `{url}`, known by its files (identity `{states['identity'][:12]}`)"


def _repositories(base: str | None) -> list[str]:
    """The repository that a base's name means, for a card's head; nothing for a folder or a packaged one."""
    found = hub.repository_of(base) if base else None
    return [found.name] if found else []


def _task(folder: Path, results: Mapping[str, Any] | None) -> TaskSpec | None:
    """What the model answers; None for a base that was neither trained nor measured on anything."""
    return TaskSpec.from_dict(results["task"], folder / RESULTS) if results else hub.task_of(folder)


def _arguments(log: Mapping[str, Any]) -> dict[str, str]:
    """The training's arguments as YAML values."""
    arguments = log.get("trainer", {}) | log["recipe"]
    return {name: json.dumps(value, ensure_ascii=False) for name, value in arguments.items() if value is not None}


def _figures(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, figures and tables of results.json that the templates show; HubError for a missing number."""
    every = measured.figures_of(folder, results)
    section = measured.at(results, *next(iter(measured.sections(folder).values())).path)
    try:
        table = results_table(results)
        classes = {whose: classes_table(report) for whose, report in _by_class(section, results).items()}
    except KeyError as error:
        raise HubError(f"{folder / RESULTS} lacks {error} of a model, which the card needs; measure again.") from None
    figures = {metric.name: figure for metric, figure in next(iter(every.values())).items()}
    counted = {name: section.get(metric.figure, {}).get("n", 0) for name, metric in _COUNTED.items()}
    return {"section": section, "figures": figures, "table": table, "classes": classes} | counted


def _by_class(section: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The reports that tell of single classes, by whose they are: the model's, or those of a cascade's models."""
    if "classes" in section:
        return {"": section}
    names = {"edge": ", the edge alone", "vlm": ", the vision-language model alone"}
    return {whose: results[name] for name, whose in names.items() if "classes" in results.get(name, {})}


_COUNTED = {"defects": kinds.ESCAPES, "goods": kinds.OVERKILL}  # whose n says how many of these there were


def _licences(parts: Mapping[str, Path], head: Mapping[str, Any]) -> dict[str, str]:
    """What a model is under, by what is: images and code of each part; HubError when nothing says so."""
    found: dict[str, str] = {}
    for name, folder in parts.items():
        of = f" of the {name}" if name else ""
        images, others = (_stated(folder, names) for names in ((MANIFEST, TRAINED_ON), (INSPECT, CONFIG)))
        code = [one for one in others if one.lower() not in {image.lower() for image in images}]
        found |= {f"images{of}": " AND ".join(images)} if images else {}
        found |= {f"network's code{of}": " AND ".join(code)} if code else {}
        if name and not (images or code) and (own := _stated(folder, (CARD,))):
            found[f"weights{of}"] = " AND ".join(own)
    if not found and not head.get("license"):
        raise HubError("nothing here states a licence; write `license: ...` between --- lines at the head of notes.md.")
    return found or {"weights": head["license"]}


def _stated(folder: Path, names: tuple[str, ...]) -> list[str]:
    """The licences that these records of a folder state, each once."""
    stated = licences.stated_licences({name: folder / name for name in names if (folder / name).is_file()})
    return list(dict.fromkeys(one for several in stated.values() for one in several.split(" AND ")))


def _head(values: Mapping[str, Any], extra: Mapping[str, Any], data: str | None, stated: list[Any]) -> str:
    """The YAML at the card's head; `extra` is the notes' own, whose tags and other keys are added."""
    from huggingface_hub import ModelCardData

    bound = values["bound"]
    several = {"license": "other", "license_name": "-and-".join(bound).replace(" ", "-")}
    link = next((_LICENCE_LINKS[one] for one in bound if one in _LICENCE_LINKS), None)
    title = values["title"] + (f" on {data}" if data else "")
    given = {
        **({"license": bound[0]} if len(bound) == 1 else several | {"license_link": link}),
        "library_name": values["library"],
        "pipeline_tag": values.get("pipeline", values["kind"].pipeline),
        **({"base_model": values["bases"]} if values["bases"] else {}),
        **({"datasets": [data]} if data else {}),
        "tags": ["industrial-inspection", *values["tags"], *extra.get("tags", [])],
        **({"model_name": title, "eval_results": stated} if stated else {}),
    }
    return ModelCardData(**{**extra, **given}).to_yaml()


def _data(results: Mapping[str, Any] | None, log: Mapping[str, Any] | None) -> str | None:
    """The name of the data that it was measured on, or trained on."""
    if results:
        return measured.at(results, "data", "name")
    return Path(log["recipe"]["data"]).name if log else None


def _read(path: Path) -> Any:
    """A JSON record, None where there is none."""
    return files.read_json(path) if path.is_file() else None


def _plots(folder: Path) -> dict[str, str]:
    found = sorted(path.name for path in (folder / "plots").glob("*.png"))
    return {name: _PLOTS.get(name, Path(name).stem) for name in found}


def _figure(figure: Mapping[str, Any]) -> str:
    """A figure with n and its 95 % interval, or why it is undefined."""
    if figure["value"] is None:
        return figure["method"]
    return f"{figure['value']:.1%} (95 % interval {figure['low']:.1%} to {figure['high']:.1%}, n = {figure['n']})"
