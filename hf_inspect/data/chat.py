"""A built data set + questions.yaml -> rows of images, prompt, completion for SFT, as Parquet and JSON lines.

Each image is asked every template for every description of its class, and once for the class by name. Questions are
made after the split: a row lies where its image lies.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hf_inspect import files, prompts
from hf_inspect.data.build import MANIFEST, script_named
from hf_inspect.data.card import cell, configs, data_card, head, task_table, usage
from hf_inspect.data.classes import class_column
from hf_inspect.data.ground import ground_card
from hf_inspect.data.load import read_head, read_manifest, read_task
from hf_inspect.data.rows import Kind, Made, RowWriter, message_features, rows_table
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress, TaskSpec, no_progress

QUESTIONS = "questions.yaml"
_CHAT = "chat"  # what a chat data set's name ends in


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of an image and answered, by class; `good` are the classes that may ship."""

    classes: Mapping[str, Sequence[str]]
    good: Sequence[str]
    templates: Sequence[str]
    direct: str
    system: str = ""

    def task(self) -> TaskSpec:
        """The classes in the order of the questions, and which are good."""
        return TaskSpec.of(self.classes, self.good)

    def question(self) -> prompts.Question:
        """The direct question, answered by a class's name alone."""
        return prompts.Question(self.system, self.direct, self.task())

    def about(self, name: str) -> list[dict[str, list[prompts.Message]]]:
        """Prompt and completion of each row of an image of class `name`: templates x descriptions, then the direct."""
        described = [
            prompts.render(prompts.Question(self.system, template, self._descriptions()), at)
            for template in self.templates
            for at in map(self._descriptions().index, self.classes[name])
        ]
        return [*described, prompts.render(self.question(), self.task().index(name))]

    def _descriptions(self) -> TaskSpec:
        """Every description as an answer of its own."""
        good = [text for name in self.good for text in self.classes[name]]
        return TaskSpec.of([text for texts in self.classes.values() for text in texts], good)


def read_questions(path: Path) -> Questions:
    """The questions of a YAML file; DataError for unknown or missing keys and for a class without a description."""
    import yaml

    if not path.is_file():
        raise DataError(f"{path} is missing; write the data set's questions and give them as --questions.")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is not YAML ({error}).") from None
    keys = [field.name for field in fields(Questions)]
    if not isinstance(value, dict) or not set(keys[:-1]) <= set(value) <= set(keys):
        found = sorted(map(str, value)) if isinstance(value, dict) else value
        raise DataError(f"{path.name} has the keys {found}; questions are {', '.join(keys[:-1])} and maybe system.")
    _check(path.name, value)
    return Questions(**value)


def dataset_card(manifest: Mapping[str, Any], notes: str = "") -> str:
    """The card of a built data set or of its chat rows, from its manifest; `notes` are added to the letter."""
    name = manifest["builder"]["name"]
    if not {"task", "strata"} <= set(manifest) or "rules" not in manifest["builder"]:
        raise DataError(f"this {name} was built before its manifest held what a card needs; build it again.")
    if "grounding" in manifest:
        return ground_card(manifest, notes)
    if "rows" in manifest:
        return _card(name.removesuffix(f"-{_CHAT}"), manifest, Questions(**manifest["questions"]), notes)
    if not {"absent", "reading", "accounting"} <= set(manifest):
        raise DataError(
            f"this {name} was built before its manifest said what its splits lack, how its images are read and what was"
            " left out; build it again."
        )
    return data_card(script_named(name), manifest, notes)


def questions_of(folder: Path, questions: Path | None = None) -> Questions:
    """What is asked of a built data set: of the YAML file given, else of the one beside its script, else the default.

    DataError, with both printed, when the questions have other classes than the data set, or call others good; their
    order is the questions' own.
    """
    path = questions or _shipped_questions(read_head(folder)["builder"]["name"])
    own = read_task(folder)
    if path is None:
        return default_questions(own)
    asked = read_questions(path)
    own.refuse_other(asked.task(), f"The data set {folder}", f"the questions {path}")
    return asked


def default_questions(task: TaskSpec) -> Questions:
    """Which of its classes a part is of, asked once, for data sets that bring no questions."""
    *others, last = task.classes
    named = f"{', '.join(others)} and {last}" if others else last
    direct = f"Which of {named} is this part? Answer with the class name only."
    return Questions({name: () for name in task.classes}, task.good, (), direct)


def chat(folder: Path, out: Path, questions: Path | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Write the chat rows of a built data set into `out`; returns their manifest.

    `questions` is a YAML file; by default the one beside the data set's script. Images are embedded in the Parquet
    as they are, and lie in images/ under their SHA-256 for the JSON lines.
    """
    manifest, task = read_manifest(folder), read_task(folder)
    name = manifest["builder"]["name"]
    asked = questions_of(folder, questions)
    with files.staged_folder(out, [folder, *([questions] if questions else [])]) as stage:
        rows = RowWriter(folder, stage, manifest, _kind(task, asked), progress).write_all()
        made = _manifest(manifest, asked, rows)
        files.write_text(stage / "README.md", _card(name, made, asked))
        files.write_table(stage / MANIFEST, {k: v for k, v in made.items() if k != "images"}, "images", made["images"])
    return made


def _check(name: str, value: Mapping[str, Any]) -> None:
    """DataError unless the YAML's values are texts, lists of texts, and lists of texts by class."""
    for key in ("direct", "system"):
        if not isinstance(value.get(key, ""), str):
            raise DataError(f"{name}: {key} is {value[key]!r}; give a text, in quotes if need be.")
    if not _texts(value["templates"]) or not isinstance(value["classes"], dict):
        raise DataError(f"{name}: templates is a list of questions, classes a list of descriptions for each class.")
    if not _texts(value["good"]):
        raise DataError(f"{name}: good is {value['good']!r}; give the list of those classes that may ship.")
    for of_class, descriptions in value["classes"].items():
        if not isinstance(of_class, str) or not _texts(descriptions):
            raise DataError(f"{name}: class {of_class!r} needs a name and a list of one or more descriptions.")


def _shipped_questions(name: str) -> Path | None:
    """The questions beside a data set's script."""
    path = files.shipped("dataset_scripts") / name / QUESTIONS
    return path if path.is_file() else None


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _kind(task: TaskSpec, asked: Questions) -> Kind:
    """What is asked of an image, and as which class its answers are stored."""
    import datasets

    column, about = class_column(task), {name: asked.about(name) for name in task.classes}
    features = datasets.Features({**message_features(), "class": datasets.ClassLabel(names=list(task.classes))})

    def rows(row: Mapping[str, Any], source: str) -> list[Made]:
        name = row[column]
        return [{"images": [row["image"]], **one, "source": source, "class": name} for one in about[name]]

    return Kind(_CHAT, [column], features, rows, lambda row: {**row, "class": task.index(row["class"])})


def _manifest(source: Mapping[str, Any], asked: Questions, rows: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The source's manifest with the rows that were made of it; `counts` stays the images by class."""
    builder = source["builder"]
    content = json.dumps([source["fingerprint"], asdict(asked)])
    made = {
        "builder": {**builder, "name": f"{builder['name']}-{_CHAT}", "source_fingerprint": source["fingerprint"]},
        "questions": asdict(asked),
        "fingerprint": hashlib.sha256(content.encode()).hexdigest(),
        "rows": {config: dict(splits) for config, splits in rows.items()},
    }
    return {**source, **made, "images": source["images"]}


def _described(asked: Questions) -> str:
    """How the card says which questions there are; the direct one follows."""
    if not asked.templates:
        return "One question is answered, with"
    return f"{len(asked.templates)} questions are answered with each description of the image's class, and one with"


def _card(name: str, manifest: Mapping[str, Any], asked: Questions, notes: str = "") -> str:
    """The card: YAML that makes `load_dataset` work, counts, the direct question and where it all comes from."""
    loaded = configs(script_named(name), manifest, manifest["rows"])
    stated = {"license": manifest["licence"].lower(), "task_categories": ["visual-question-answering"]}
    return "\n".join(
        [
            head(stated | {"configs": loaded}), "", f"# Questions and answers on {name}", "",
            usage(loaded[0]["config_name"]), "",
            f"Rows `images`, `prompt`, `completion` for supervised fine-tuning, made of the data set `{name}` after",
            "its split: all questions on an image lie where the image lies, so none is answered in another split.",
            f"{_described(asked)} the class alone:", "", f"> {cell(asked.direct)}", "", task_table(asked.task()),
            "", *rows_table(manifest), "",
            "The JSON lines hold the same rows; their images lie in `images/`, called by their SHA-256.", "",
            *([notes, ""] if notes else []),
            "    hf-inspect data chat DIR --out DIR2", "",
            f"Fingerprint `{manifest['fingerprint']}`, of `{name}` `{manifest['builder']['source_fingerprint']}`,",
            f"whose card says where the images come from. Licence: {manifest['licence']}.", "",
        ]
    )  # fmt: skip
