"""A folder -> which of eleven kinds it is, and its files; a file that this kind does not know is refused."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.cascade import CALIBRATION
from hf_inspect.cascade import CASCADE as CASCADE_JSON
from hf_inspect.data import read_manifest
from hf_inspect.data.build import MANIFEST, shards
from hf_inspect.data.pool import HEAD as POOL_JSON
from hf_inspect.data.pool import IMAGES, POOL
from hf_inspect.errors import DataError, HubError
from hf_inspect.runtime import INSPECT, MODEL, NETWORKS, ONNX_RUNTIME, TRAINED_ON
from hf_inspect.schema import DETECTION, SEGMENTATION, TaskSpec

CARD, NOTES, RESULTS = "README.md", "notes.md", "results.json"
CONFIG, ADAPTER_CONFIG, PROMPT = "config.json", "adapter_config.json", "prompt.json"
TEACHER_JSON = "teacher.json"
SUMS, LICENCES = "SHA256SUMS", "LICENCES.md"  # of a bundle; the first as sha256sum writes it
WEIGHTS = ("openvino_model.bin", NETWORKS[ONNX_RUNTIME])  # of an export, by what runs it
_STAY = (
    "evaluations.json", "*.scores.*jsonl", ".DS_Store", "*.pyc",
)  # a ledger of this machine, answers that an evaluation goes on from, what programs leave behind  # fmt: skip
_TRAINERS = ("checkpoint-*", "runs")  # folders that a training goes on from, and TensorBoard's
_STAY_FOLDERS = (".git", ".cache")  # git's, and what `hf download --local-dir` keeps
_EVERYWHERE = (
    CARD, NOTES, "LICENSE*", ".gitattributes", RESULTS, "training_log.json", TRAINED_ON, "plots/*.png",
)  # fmt: skip
_NETWORK = (CONFIG, "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
_PROCESSOR = (
    "tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", PROMPT,
)  # fmt: skip
_HEAD = ("head.safetensors", "head.json")  # a detection head's, beside what it looks through
_IMAGES = ("images/*", "val/*/*")  # of a data set, called by its manifest
_NAMED = 3  # files an error names


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of results.json, in a part of its section where it has a dot, and its type and name in a card's head."""

    figure: str
    type: str
    name: str


ACCURACY = Metric("accuracy", "accuracy", "accuracy")
MACRO_F1 = Metric("macro_f1", "f1", "macro F1")  # of more than two classes: for two, escapes and overkill say more
AUROC = Metric("auroc", "roc_auc", "AUROC")
ESCAPES = Metric("escapes", "escape_rate", "escape rate")
OVERKILL = Metric("overkill", "overkill_rate", "overkill rate")
PRECISION = Metric("average_precision", "average_precision", "average precision")
METRICS = (ACCURACY, MACRO_F1, AUROC, ESCAPES, OVERKILL)
BOXES = (Metric("map", "map", "mAP"), Metric("ap50", "map_50", "AP50"), Metric("mar", "mar", "mAR"))
MASKS = (Metric("masks.map", "map_segm", "mask mAP"), Metric("masks.ap50", "map_50_segm", "mask AP50"))


@dataclass(frozen=True, slots=True)
class Kind:
    """All that a kind of folder differs in.

    A folder is of this kind by a file of `marks`, or by an end of its config.json's `architecture`; of those that share
    these, by the kind of its task, one that `answers` names. `files` are
    patterns of what it may hold, `listed` of what it may hold where its manifest says so; their * stays within a
    folder. `task` names the records that state its TaskSpec, the first of which counts, each with its key. A kind that
    is measured has a `section` of results.json, the `metrics` of its card, and the card's `template` and `pipeline`.
    """

    name: str
    files: tuple[str, ...]
    marks: tuple[str, ...] = ()
    architecture: str | tuple[str, ...] | None = None
    answers: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    repo_type: str = "model"
    task: tuple[tuple[str, str], ...] = ()
    section: str | None = None
    metrics: tuple[Metric, ...] = ()
    template: str | None = None
    pipeline: str | None = None

    def __str__(self) -> str:
        return self.name

    def knows(self, path: str) -> bool:
        """Whether a folder of this kind may hold a file at this path."""
        return _matches(path, (*_EVERYWHERE, *self.files))

    def brings(self, path: str) -> bool:
        """Whether a file of a repository is one that a folder of this kind may bring, and so may take away."""
        in_part = self is CASCADE and _matches(path.partition("/")[2], PART_FILES)
        return path != ".gitattributes" and (self.knows(path) or _matches(path, self.listed) or in_part)


SPACE = Kind(
    "Space",
    ("app.py", "requirements.txt", "packages.txt", "*.whl", "examples/*"),
    marks=("app.py",),
    repo_type="space",
)
CASCADE = Kind(
    "cascade",
    (CASCADE_JSON, CALIBRATION, SUMS, LICENCES, MANIFEST, "seeds.json", "test_scores.jsonl"),
    marks=(CASCADE_JSON,),
    task=((CASCADE_JSON, "task"),),
    section="cascade",
    metrics=(ACCURACY, ESCAPES, OVERKILL),
    template="cascade.md.j2",
    pipeline="image-classification",
)
TEACHER = Kind(
    "teacher",
    (TEACHER_JSON, ADAPTER_CONFIG, "adapter_model.safetensors"),
    marks=(TEACHER_JSON,),
    task=((TEACHER_JSON, "task"),),
    section="teacher",
    template="teacher.md.j2",
)
ADAPTER = Kind(
    "adapter",
    (ADAPTER_CONFIG, "adapter_model.safetensors", *_PROCESSOR, *_HEAD),
    marks=(ADAPTER_CONFIG,),
    task=((PROMPT, "task"),),
    section="vlm",
    metrics=METRICS,
    template="adapter.md.j2",
    pipeline="image-text-to-text",
)
STUDENT = Kind(
    "student",
    (*_NETWORK, "preprocessor_config.json", INSPECT, MODEL, *WEIGHTS),
    marks=(INSPECT,),
    architecture="ForImageClassification",
    task=((INSPECT, "task"), (CONFIG, "inspection_task")),
    section="edge",
    metrics=METRICS,
    template="student.md.j2",
    pipeline="image-classification",
)
DATA_SET = Kind(
    "data set",
    (MANIFEST, "contact_sheet.png", "splits/*.txt", "*.jsonl"),
    marks=(MANIFEST,),
    listed=("data/*.parquet", "data/*/*.parquet"),
    repo_type="dataset",
    task=((MANIFEST, "task"),),
)
VLM = Kind(
    "vlm",
    (*_NETWORK, *_PROCESSOR, *_HEAD),
    architecture="ForConditionalGeneration",
    task=((PROMPT, "task"),),
    section="vlm",
    metrics=METRICS,
    template="vlm.md.j2",
    pipeline="image-text-to-text",
)
ANOMALY = Kind(
    "anomaly model",
    _NETWORK,
    architecture="ForAnomalyDetection",
    task=((CONFIG, "inspection_task"),),
    section="anomaly",
    metrics=(AUROC, PRECISION),
    template="anomaly.md.j2",
    pipeline="image-classification",
)
DETECTOR = Kind(
    "detector",
    STUDENT.files,
    marks=STUDENT.marks,
    architecture=("ForInspectionDetection", "RTDetrV2ForObjectDetection", "DFineForObjectDetection"),
    answers=(DETECTION,),
    task=STUDENT.task,
    section="detection",
    metrics=BOXES,
    template="detector.md.j2",
    pipeline="object-detection",
)
SEGMENTER = replace(
    DETECTOR, name="segmenter", answers=(SEGMENTATION,), metrics=(*BOXES, *MASKS), pipeline="image-segmentation"
)
FINDERS = (DETECTOR, SEGMENTER)
EXEMPLARS = Kind("exemplar pool", (POOL_JSON, POOL, f"{IMAGES}/*"), marks=(POOL_JSON,), task=((POOL_JSON, "task"),))
KINDS = (
    SPACE, CASCADE, TEACHER, ADAPTER, STUDENT, DATA_SET, VLM, ANOMALY, *FINDERS, EXEMPLARS,
)  # a folder with marks of several is of the first, unless its task says which  # fmt: skip
GROUNDED = {  # VLMs that say where things are, by what they are but for that
    kind: replace(kind, name=f"grounded {kind}", section=DETECTOR.section, metrics=BOXES, template="ground.md.j2")
    for kind in (ADAPTER, VLM)
}
ROLES = {"edge": STUDENT, "base": VLM, "adapter": ADAPTER, "exemplars": EXEMPLARS}  # a cascade's parts, what they are
PART_FILES = sorted({*_EVERYWHERE, *(one for kind in ROLES.values() for one in kind.files)} - {".gitattributes"})


def kind_of(folder: Path) -> Kind:
    """Which of `KINDS` a folder is, by the files there; HubError for anything else."""
    if marked := [kind for kind in KINDS if any((folder / name).is_file() for name in kind.marks)]:
        return _answering(folder, marked)
    config = files.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    of_config = config.get("architectures") if isinstance(config, dict) else None
    architecture = str(next(iter(of_config or []), ""))
    if named := [kind for kind in KINDS if kind.architecture and architecture.endswith(kind.architecture)]:
        return _answering(folder, named)
    marks = dict.fromkeys(name for kind in KINDS for name in kind.marks)
    raise HubError(
        f"{folder} is none of {', '.join(kind.name for kind in KINDS)}: it has none of {', '.join(marks)} and no "
        "config.json of a known architecture. Give a folder this package wrote."
    )


def measured_as(folder: Path) -> Kind:
    """The kind by which a folder is measured, and told of in its card: of a VLM the task says which."""
    kind = kind_of(folder)
    task = task_of(folder) if kind in GROUNDED else None
    return GROUNDED[kind] if task is not None and task.finds else kind


def _answering(folder: Path, kinds: Sequence[Kind]) -> Kind:
    """Of the kinds that a folder may be of, the one that answers what its task asks; the first where none says so."""
    record, key = next(((folder / name, key) for name, key in kinds[0].task if (folder / name).is_file()), (None, ""))
    content = files.read_json(record) if record and len(kinds) > 1 else None
    task = content.get(key) if isinstance(content, dict) else None
    asked = task.get("kind") if isinstance(task, dict) else None
    alike = [kind for kind in kinds if kind.task == kinds[0].task]
    return next((kind for kind in alike if asked in kind.answers), kinds[0])


def task_of(folder: Path) -> TaskSpec | None:
    """What a folder states as its task; None where nothing asks it of such a folder, as of a base model.

    DataError for a record without one.
    """
    found = [(folder / name, key) for name, key in kind_of(folder).task if (folder / name).is_file()]
    if not found:
        return None
    path, key = found[0]
    record = files.read_json(path)
    return TaskSpec.from_dict(record.get(key) if isinstance(record, dict) else None, path)


def files_to_push(folder: Path) -> dict[str, Path]:
    """Every file that goes up, by its path in the repository, in order; HubError for one that the kind does not know.

    A cascade's parts lie in folders of its own, each of a kind.
    """
    kind = kind_of(folder)
    every = all_files(folder)
    if link := next((path for path, file in every.items() if file.is_symlink()), None):
        raise HubError(f"{folder}: {link} is a link, which may lead anywhere; put there what it leads to.")
    names = sorted({path.partition("/")[0] for path in every if "/" in path} - {"plots"}) if kind is CASCADE else []
    found = {f"{name}/{path}": file for name in names for path, file in _of_part(folder, folder / name).items()}
    own = {path: file for path, file in every.items() if path not in found and not _stays(path)}
    unknown = [path for path in own if not kind.knows(path)]
    if kind is DATA_SET:
        unknown = list(_beyond_manifest(folder, unknown))
    if unknown:
        named = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if unknown[_NAMED:] else "")
        raise HubError(f"{folder} holds what is no part of a {kind}: {named}. Move it out of the folder.")
    return dict(sorted((found | own).items()))


def all_files(folder: Path) -> dict[str, Path]:
    """Every file and link in a folder by its path there, in order; what git, the Hub and we note of it is left out."""
    found = {
        path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()
    }
    return {
        path.as_posix(): file
        for path, file in found.items()
        if path.parts[0] not in _STAY_FOLDERS and not path.name.startswith(files.MARKER)
    }


def own_files(folder: Path, kind: Kind) -> dict[str, Path]:
    """The files that belong to a folder of this kind, by path, in order; no others."""
    return {path: file for path, file in all_files(folder).items() if kind.brings(path)}


def deciding_files(folder: Path, kind: Kind) -> dict[str, Path]:
    """The files that the answers of such a folder rest on: weights, settings, and what it was trained on."""
    patterns = (*kind.files, TRAINED_ON)
    return {path: file for path, file in own_files(folder, kind).items() if _matches(path, patterns)}


def shards_of(folder: Path, manifest: dict[str, Any]) -> dict[tuple[str, str], list[Path]]:
    """The Parquet files of a built data set, by config and split."""
    places = [(config, split) for config, splits in manifest["counts"].items() for split in splits]
    return {(config, split): shards(folder, config, split) for config, split in places}


def _stays(path: str) -> bool:
    return any(fnmatchcase(Path(path).name, one) for one in _STAY) or any(
        "/" in path and fnmatchcase(path.partition("/")[0], one) for one in _TRAINERS
    )


def _of_part(folder: Path, part: Path) -> dict[str, Path]:
    try:
        return files_to_push(part)
    except (HubError, DataError) as error:
        raise HubError(f"{folder}: its part {part.name} cannot go up: {error}") from None


def _beyond_manifest(folder: Path, paths: list[str]) -> Iterator[str]:
    """Those that are neither a shard nor an image that manifest.json names."""
    manifest = read_manifest(folder)
    known = {path for every in shards_of(folder, manifest).values() for path in every}
    images = {image.get("shown_sha256", image["sha256"]) for image in manifest["images"]}
    for path in paths:
        is_image = _matches(path, _IMAGES) and files.sha256(folder / path) in images
        if not is_image and folder / path not in known:
            yield path


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path is of one of the patterns, whose * stays within a folder."""
    return any(path.count("/") == one.count("/") and fnmatchcase(path, one) for one in patterns)
