"""A built data set + questions.yaml -> rows of images, prompt, completion for SFT, as Parquet and JSON lines.

Each image is asked every template for every description of its class, and once for the class by name. Questions are
made after the split: a row lies where its image lies.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hf_inspect import files, prompts
from hf_inspect.data.build import MANIFEST, script_named, shards
from hf_inspect.data.card import data_card, usage
from hf_inspect.data.load import read_manifest
from hf_inspect.data.partition import DEFAULT, SPLITS
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress, no_progress

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

QUESTIONS = "questions.yaml"
_CHAT = "-chat"  # what a chat data set's name ends in
_IMAGES_AT_ONCE = 16  # of one Parquet row group, whose dictionary holds the bytes of each once, whatever is asked of it
_Image = tuple[dict[str, Any], str, int]  # {"bytes", "path"}, source, class id
_DICTIONARY_BYTES = 2**30  # room for them: a smaller limit would write the image again with each question


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of an image and answered, by class; `column` is the data set's column that holds the class."""

    column: str
    classes: Mapping[str, Sequence[str]]
    templates: Sequence[str]
    direct: str
    system: str = ""

    def task(self) -> prompts.Task:
        """The direct question, answered by a class's name alone."""
        return prompts.Task(self.system, self.direct, tuple(self.classes))

    def about(self, name: str) -> list[dict[str, list[prompts.Message]]]:
        """Prompt and completion of each row of an image of class `name`: templates x descriptions, then the direct."""
        every = [text for of_class in self.classes.values() for text in of_class]
        described = [
            prompts.render(prompts.Task(self.system, template, tuple(every)), every.index(text))
            for template in self.templates
            for text in self.classes[name]
        ]
        return [*described, prompts.render(self.task(), list(self.classes).index(name))]


def read_questions(path: Path) -> Questions:
    """The questions of a YAML file; DataError for unknown or missing keys and for a class without a description."""
    import yaml

    if not path.is_file():
        raise DataError(f"{path} is missing; write the data set's questions and give them as --questions.")
    try:
        value = yaml.safe_load(path.read_text())
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
    if "classes" not in manifest:
        raise DataError(f"this {name} was built before its manifest held what a card needs; build it again.")
    if "rows" in manifest:
        return _card(name.removesuffix(_CHAT), manifest, Questions(**manifest["questions"]), notes)
    return data_card(script_named(name), manifest, notes)


def questions_of(folder: Path, questions: Path | None = None) -> Questions:
    """What is asked of a built data set: of the YAML file given, else of the one beside the data set's script."""
    name = read_manifest(folder)["builder"]["name"]
    return read_questions(questions or files.shipped("dataset_scripts") / name / QUESTIONS)


def answers_of(rows: "datasets.Dataset", asked: Questions) -> list[int]:
    """Index among the options of `asked.task()` of each row's class; DataError where the classes differ."""
    names = _class_names(rows.features, asked)
    index = [list(asked.classes).index(name) for name in names]
    return [index[label] for label in rows[asked.column]]


def chat(folder: Path, out: Path, questions: Path | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Write the chat rows of a built data set into `out`; returns their manifest.

    `questions` is a YAML file; by default the one beside the data set's script. Images are embedded in the Parquet
    as they are, and lie in images/ under their SHA-256 for the JSON lines.
    """
    manifest = read_manifest(folder)
    name, counts = manifest["builder"]["name"], manifest["counts"]
    if out.absolute() == folder.absolute():
        raise DataError(f"{out} is the data set itself; give another folder for its chat rows.")
    asked = questions_of(folder, questions)
    with files.staged_folder(out) as stage:
        writer = _Writer(folder, stage, manifest, asked, progress)
        rows = {config: {split: writer.write(config, split) for split in splits} for config, splits in counts.items()}
        made = _manifest(manifest, asked, rows)
        files.write_text(stage / "README.md", _card(name, made, asked))
        files.write_table(stage / MANIFEST, {k: v for k, v in made.items() if k != "images"}, "images", made["images"])
    return made


def _check(name: str, value: Mapping[str, Any]) -> None:
    """DataError unless the YAML's values are texts, lists of texts, and lists of texts by class."""
    for key in ("column", "direct", "system"):
        if not isinstance(value.get(key, ""), str):
            raise DataError(f"{name}: {key} is {value[key]!r}; give a text, in quotes if need be.")
    if not _texts(value["templates"]) or not isinstance(value["classes"], dict):
        raise DataError(f"{name}: templates is a list of questions, classes a list of descriptions for each class.")
    for of_class, descriptions in value["classes"].items():
        if not isinstance(of_class, str) or not _texts(descriptions):
            raise DataError(f"{name}: class {of_class!r} needs a name and a list of one or more descriptions.")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


@dataclass
class _Writer:
    """Writes the chat rows of one split after the other."""

    folder: Path
    stage: Path
    manifest: Mapping[str, Any]
    asked: Questions
    progress: Progress
    done: int = 0

    def write(self, config: str, split: str) -> int:
        """A Parquet file for each of the source's, and one file of JSON lines; returns how many rows there are."""
        images = [one for one in self.manifest["images"] if _place(one) == (config, split)]
        lines = f"{split}.jsonl" if config == DEFAULT else f"{config}-{split}.jsonl"
        pending, n = iter(images), 0
        with (self.stage / lines).open("w", encoding="utf-8") as file:
            for path in shards(self.folder, config, split):
                n += self._shard(path, pending, file)
        if next(pending, None) is not None:
            raise DataError(f"{self.folder}: {split} has fewer rows than manifest.json says; build it again.")
        return n

    def _shard(self, path: Path, pending: Iterator[Mapping[str, Any]], lines: TextIO) -> int:
        import datasets
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = _class_names(datasets.Features.from_arrow_schema(pq.read_schema(path)), self.asked)
        schema, about = _features(names).arrow_schema, [self.asked.about(name) for name in names]
        name = self.manifest["builder"]["name"]
        target = self.stage / path.relative_to(self.folder).with_name(path.name.replace(name, f"{name}-chat", 1))
        target.parent.mkdir(parents=True, exist_ok=True)
        n = 0
        with pq.ParquetWriter(target, schema, dictionary_pagesize_limit=_DICTIONARY_BYTES) as writer:
            for batch in pq.ParquetFile(path).iter_batches(_IMAGES_AT_ONCE, columns=["image", self.asked.column]):
                rows = [row for one in self._checked(batch, pending, path) for row in _rows(one, about[one[2]])]
                writer.write_table(pa.Table.from_pylist(rows, schema))
                lines.writelines(self._line(row, names) for row in rows)
                n += len(rows)
        return n

    def _checked(self, batch: "pa.RecordBatch", pending: Iterator[Mapping[str, Any]], path: Path) -> Iterator[_Image]:
        """The batch's images with their sources; DataError where manifest.json says another."""
        for row in batch.to_pylist():
            entry = next(pending, None)
            if entry is None or hashlib.sha256(row["image"]["bytes"]).hexdigest() != entry["sha256"]:
                raise DataError(f"{path} holds other images than manifest.json says; build the data set again.")
            self.done += 1
            self.progress("write chat rows", self.done, len(self.manifest["images"]))
            yield row["image"], entry["source"], row[self.asked.column]

    def _line(self, row: Mapping[str, Any], names: Sequence[str]) -> str:
        """The row as a JSON line; its image is written to images/ with the first row that needs it."""
        image = row["images"][0]
        name = hashlib.sha256(image["bytes"]).hexdigest() + Path(image["path"]).suffix.lower()
        path = self.stage / "images" / name
        if not path.exists():
            files.write_bytes(path, image["bytes"])
        shown = {"images": [f"images/{name}"], "class": names[row["class"]]}
        return json.dumps({**row, **shown}, ensure_ascii=False) + "\n"


def _place(image: Mapping[str, Any]) -> tuple[str, str]:
    return image.get("config", DEFAULT), image["split"]


def _rows(image: _Image, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    content, source, of_class = image
    return [{"images": [content], **message, "source": source, "class": of_class} for message in messages]


def _class_names(features: "datasets.Features", asked: Questions) -> list[str]:
    """The classes of the asked column; DataError unless the questions know these and no others."""
    import datasets

    classes = {name: one.names for name, one in features.items() if isinstance(one, datasets.ClassLabel)}
    if asked.column not in classes:
        raise DataError(f"the data set has no class column {asked.column!r}; it has {', '.join(classes)}.")
    if wrong := set(classes[asked.column]) ^ set(asked.classes):
        raise DataError(
            f"the questions describe {', '.join(asked.classes)}, but {asked.column} has the classes "
            f"{', '.join(classes[asked.column])}; the difference is {', '.join(sorted(wrong))}."
        )
    return classes[asked.column]


def _features(names: Sequence[str]) -> "datasets.Features":
    import datasets

    text = datasets.Value("string")
    messages = datasets.List({"role": text, "content": datasets.List({"type": text, "text": text})})
    return datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "prompt": messages,
            "completion": messages,
            "source": text,
            "class": datasets.ClassLabel(names=list(names)),
        }
    )


def _manifest(source: Mapping[str, Any], asked: Questions, rows: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The source's manifest with the rows that were made of it; `counts` stays the images by label."""
    builder = source["builder"]
    content = json.dumps([source["fingerprint"], asdict(asked)])
    made = {
        "builder": {**builder, "name": f"{builder['name']}{_CHAT}", "source_fingerprint": source["fingerprint"]},
        "questions": asdict(asked),
        "fingerprint": hashlib.sha256(content.encode()).hexdigest(),
        "rows": {config: dict(splits) for config, splits in rows.items()},
    }
    return {**source, **made, "images": source["images"]}


def _card(name: str, manifest: Mapping[str, Any], asked: Questions, notes: str = "") -> str:
    """The card: YAML that makes `load_dataset` work, counts, the direct question and where it all comes from."""
    import yaml

    head = {"license": manifest["licence"].lower(), "task_categories": ["visual-question-answering"]}
    head["configs"] = [
        {"config_name": config, "data_files": data_files}
        for config, united in script_named(name).CONFIGS.items()
        if (data_files := list(_data_files(manifest, united)))
    ]
    table = ["| config | split | images | rows |", "|---|---|---|---|"]
    for config, splits in manifest["rows"].items():
        for split in (split for split in SPLITS if split in splits):
            images = sum(manifest["counts"][config][split].values())
            table.append(f"| {config} | {split} | {images} | {splits[split]} |")
    answers = ", ".join(f"`{of_class}`" for of_class in asked.classes)
    return "\n".join(
        [
            "---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# Questions and answers on {name}", "",
            usage(head["configs"][0]["config_name"]), "",
            f"Rows `images`, `prompt`, `completion` for supervised fine-tuning, made of the data set `{name}` after",
            "its split: all questions on an image lie where the image lies, so none is answered in another split.",
            f"{len(asked.templates)} questions are answered with each description of the image's class, and one",
            f"(\"{asked.direct}\") with the class alone: {answers}.",
            "", *table, "",
            "The JSON lines hold the same rows; their images lie in `images/`, called by their SHA-256.", "",
            *([notes, ""] if notes else []),
            "    hf-inspect data chat DIR --out DIR2", "",
            f"Fingerprint `{manifest['fingerprint']}`, of `{name}` `{manifest['builder']['source_fingerprint']}`,",
            f"whose card says where the images come from. Licence: {manifest['licence']}.", "",
        ]
    )  # fmt: skip


def _data_files(manifest: Mapping[str, Any], united: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The files of each split of a config that unites these written ones."""
    name = manifest["builder"]["name"]
    for split in SPLITS:
        inside = [
            "data" if part == DEFAULT else f"data/{part}" for part in united if split in manifest["rows"].get(part, {})
        ]
        if inside:
            yield {"split": split, "path": [f"{folder}/{name}-{split}*.parquet" for folder in inside]}
