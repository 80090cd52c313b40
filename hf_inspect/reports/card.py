"""A folder of ours -> its card, README.md: from its own records and notes.md, through the templates of model_cards/."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files, hub
from hf_inspect.data import dataset_card, read_manifest
from hf_inspect.data.build import MANIFEST
from hf_inspect.errors import DataError, HubError, MissingExtraError
from hf_inspect.hub import licences, measured
from hf_inspect.hub.kinds import ADAPTER, ADAPTERS, CARD, CASCADES, DATA_SET, RESULTS, SPACE, STUDENT, VLM
from hf_inspect.reports.table import results_table
from hf_inspect.reports.vlm import vlm_summary
from hf_inspect.runtime import INSPECT, TRAINED_ON
from hf_inspect.training import LOG

_PLOTS = {
    "escalation.png": "Accuracy and escapes against the share that goes to the vision-language model",
    "reliability.png": "How often a stated P(defect) comes true",
    "roc.png": "Caught defects against false alarms",
}
_LICENCE_LINKS = {"agpl-3.0": "https://ultralytics.com/license"}
_NOTES = "\x00"  # what the notes take the place of: they stand in a card to the letter


def write_card(folder: Path) -> Path:
    """Write README.md of a data set, vlm, adapter, student or cascade; returns its path.

    Figures come from results.json alone. HubError or DataError names the number that is missing, the file that
    results.json is not of, or the licence that nothing states. A model may be unmeasured, a cascade may not.
    """
    files.write_text(folder / CARD, card_of(folder))
    return folder / CARD


def card_of(folder: Path) -> str:
    """The text that `write_card` writes."""
    kind, (head, notes) = hub.kind_of(folder), hub.read_notes(folder)
    if kind == SPACE:
        raise HubError(f"{folder} is a Space, whose README.md is written by hand.")
    if kind == DATA_SET:
        return dataset_card(read_manifest(folder), notes)
    log, results = _read(folder / LOG), measured.results_of(folder)
    values = _OF_KIND[kind](folder) | {"results": results, "log": log, "plots": _plots(folder)}
    values |= {"trained_on": _read(folder / TRAINED_ON), "arguments": _arguments(log) if log else {}}
    values |= _figures(folder, results) if results else {}
    values["licences"] = _licences(values["parts"], head)
    values["terms"] = licences.terms(" and ".join(values["licences"].values()))
    if data := _data(results, log):
        values["title"] += f" on {data}"
    stated = measured.eval_results(folder, results) if results else []
    return render(kind, values | {"head": _head(values, head, data, stated)}, notes)


def render(kind: str, values: Mapping[str, Any], notes: str = "") -> str:
    """The card of a kind of model_cards/, such as `student`; DataError when the template names a value not there."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
    except ImportError as error:
        raise MissingExtraError("Cards need jinja2: pip install 'hf-inspect[train]'") from error

    folder = FileSystemLoader(files.shipped("model_cards"))
    templates = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters["figure"] = _figure
    try:
        text = templates.get_template(f"{kind}.md.j2").render(values, notes=_NOTES if notes else "")
    except (UndefinedError, KeyError) as error:
        raise DataError(f"the {kind} card cannot be written: a record lacks what it needs ({error}).") from None
    return re.sub(r"\n{3,}", "\n\n", text).strip().replace(_NOTES, notes) + "\n"


def _of_student(folder: Path) -> dict[str, Any]:
    """What a student's folder, or its export's, states of itself."""
    given: dict[str, Any] = {"base": None, "bases": [], "parts": {"": folder}, "pipeline": "image-classification"}
    if info := _read(folder / INSPECT):
        title = f"Edge model {info['architecture']} ({info['weights'].upper()} for OpenVINO)"
        named = {"library": "openvino", "tags": ["openvino"], "inspect": info, "preprocess": info["preprocess"]}
        return given | named | {"title": title}
    try:
        from transformers import AutoConfig

        from hf_inspect import students
    except ImportError as error:
        raise MissingExtraError("A student's card needs transformers: pip install 'hf-inspect[train]'") from error

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    title = f"Edge student {students.architecture_of(config)}"
    named = {"library": "transformers", "tags": [], "inspect": None, "preprocess": students.preprocess_of(config)}
    return given | named | {"title": title, "own_class": config.model_type != "timm_wrapper"}


def _of_vlm(folder: Path) -> dict[str, Any]:
    """What an adapter's folder, or a whole fine-tune's, states of itself."""
    adapter, log, prompt = (_read(folder / name) for name in (ADAPTER, LOG, "prompt.json"))
    base = log["recipe"]["base"] if log else adapter and adapter["base_model_name_or_path"]
    named = f"Adapter for {base}" if adapter else "Vision-language model" + (f" from {base}" if base else "")
    given = {"pipeline": "image-text-to-text", "base": base, "bases": [base] if base else [], "parts": {"": folder}}
    kind = {"library": "peft", "tags": [adapter["peft_type"].lower()]} if adapter else {"library": "transformers"}
    return {"tags": []} | given | kind | {"adapter": adapter, "prompt": prompt, "title": named}


def _of_cascade(folder: Path) -> dict[str, Any]:
    """What a cascade's folder states of itself and its parts; HubError for one that was not measured."""
    stated = hub.read_cascade(folder)
    vlm, seeds = stated["vlm"] or {}, _read(folder / "seeds.json")
    if not (folder / RESULTS).is_file():
        how = f"eval cascade {folder}" if vlm else f"eval edge {folder / stated['edge']}"
        raise HubError(f"{folder} was not measured; run 'hf-inspect {how} --data DATA --out {folder / RESULTS}'.")
    named = {"edge": stated["edge"]} | ({"adapter": vlm["adapter"]} if vlm else {})
    parts = {"": folder} | {name: Path(hub.part_of(folder, stated, name)) for name in named}
    given = {"library": "hf-inspect", "pipeline": "image-classification", "base": vlm.get("base"), "parts": parts}
    pinned = [part for part in named.values() if hub.is_pinned(part)]
    given["bases"] = [part.split("@")[0] for part in (*pinned, *([vlm["base"]] if vlm else []))]
    tags = ["cascade", *(["conformal"] if "calibrated" in stated["policies"] else [])]
    title = "Inspection cascade" if vlm else "Edge-only cascade"
    return given | {"cascade": stated, "seeds": seeds, "title": title, "tags": tags}


_OF_KIND = {STUDENT: _of_student, VLM: _of_vlm, ADAPTERS: _of_vlm, CASCADES: _of_cascade}


def _arguments(log: Mapping[str, Any]) -> dict[str, str]:
    """The training's arguments as YAML values."""
    arguments = log["trainer"] | log["recipe"]
    return {name: json.dumps(value, ensure_ascii=False) for name, value in arguments.items() if value is not None}


def _figures(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, figures and tables of results.json that the templates show; HubError for a missing number."""
    every = measured.figures_of(folder, results)
    try:
        table = results_table(results)
    except KeyError as error:
        raise HubError(f"{folder / RESULTS} lacks {error} of a model, which the card needs; measure again.") from None
    section = measured.at(results, *next(iter(measured.sections(folder).values())))
    figures = next(iter(every.values()))
    counted = [figures[name]["n"] if name in figures else 0 for name in ("escapes", "overkill")]
    return {
        "section": section,
        "figures": {measured.METRICS[name][1]: figure for name, figure in figures.items()},
        "defects": counted[0],
        "goods": counted[1],
        "summary": vlm_summary(section) if "classes" in section else "",
        "table": table,
    }


def _licences(parts: Mapping[str, Path], head: Mapping[str, Any]) -> dict[str, str]:
    """What a model is under, by what is: images and code of each part; HubError when nothing says so."""
    found: dict[str, str] = {}
    for name, folder in parts.items():
        of = f" of the {name}" if name else ""
        records = [_read(folder / file) or {} for file in (MANIFEST, TRAINED_ON, INSPECT, "config.json")]
        stated = [one for record in records for one in record.get("licence", "").split(" AND ") if one]
        images, *code = dict.fromkeys(stated) or [""]
        found |= {f"images{of}": images} if images else {}
        found |= {f"network's code{of}": " AND ".join(code)} if code else {}
    if not found and not head.get("license"):
        raise HubError("nothing here states a licence; write `license: ...` between --- lines at the head of notes.md.")
    return found or {"weights": head["license"]}


def _head(values: Mapping[str, Any], extra: Mapping[str, Any], data: str | None, stated: list[Any]) -> str:
    """The YAML at the card's head; `extra` is the notes' own, whose tags and other keys are added."""
    from huggingface_hub import ModelCardData

    bound = list(dict.fromkeys(licences.parts(" and ".join(values["licences"].values()))))
    several = {"license": "other", "license_name": "-and-".join(bound).replace(" ", "-")}
    link = next((_LICENCE_LINKS[one] for one in bound if one in _LICENCE_LINKS), None)
    bases = [base for base in values["bases"] if hub.is_repository(base)]
    given = {
        **({"license": bound[0]} if len(bound) == 1 else several | {"license_link": link}),
        "library_name": values["library"],
        "pipeline_tag": values["pipeline"],
        **({"base_model": bases} if bases else {}),
        **({"datasets": [data]} if data else {}),
        "tags": ["industrial-inspection", *values["tags"], *extra.get("tags", [])],
        **({"model_name": values["title"], "eval_results": stated} if stated else {}),
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
