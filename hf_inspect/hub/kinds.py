"""A folder -> which of six kinds it is, and its files; a file that this kind does not know is refused."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.cascade import CALIBRATION, CASCADE
from hf_inspect.data import read_manifest
from hf_inspect.data.build import MANIFEST, shards
from hf_inspect.errors import DataError, HubError
from hf_inspect.runtime import INSPECT, MODEL, TRAINED_ON

CARD, NOTES, RESULTS, ADAPTER = "README.md", "notes.md", "results.json", "adapter_config.json"
DATA_SET, VLM, ADAPTERS, STUDENT, CASCADES, SPACE = "data set", "vlm", "adapter", "student", "cascade", "Space"
REPO_TYPES = {DATA_SET: "dataset", SPACE: "space"}  # the others are models
SUMS, LICENCES = "SHA256SUMS", "LICENCES.md"  # of a bundle; the first as sha256sum writes it
LEFT = ("evaluations.json", ".DS_Store", "*.pyc")  # stay here: a ledger of this machine, what programs leave behind
_LEFT_FOLDERS = (".git", ".cache")  # git's, and what `hf download --local-dir` keeps
_EVERYWHERE = (
    CARD, NOTES, "LICENSE*", ".gitattributes", RESULTS, "training_log.json", TRAINED_ON, "plots/*.png",
)  # fmt: skip
WEIGHTS = "openvino_model.bin"
_WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
_PROCESSOR = (
    "tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "prompt.json",
)  # fmt: skip
_KNOWN = {
    DATA_SET: (MANIFEST, "contact_sheet.png", "splits/*.txt", "*.jsonl"),
    VLM: (*_WEIGHTS, *_PROCESSOR),
    ADAPTERS: (ADAPTER, "adapter_model.safetensors", *_PROCESSOR),
    STUDENT: (*_WEIGHTS, "preprocessor_config.json", INSPECT, MODEL, WEIGHTS),
    CASCADES: (CASCADE, CALIBRATION, SUMS, LICENCES, MANIFEST, "seeds.json", "test_scores.jsonl"),
    SPACE: ("app.py", "requirements.txt", "packages.txt", "*.whl", "examples/*"),
}
ROLES = {"edge": STUDENT, "base": VLM, "adapter": ADAPTERS}  # a cascade's parts and what they are
PART_FILES = sorted({*_EVERYWHERE, *(p for kind in ROLES.values() for p in _KNOWN[kind])} - {".gitattributes"})
_IMAGES = ("images/*", "val/*/*")  # of a data set, called by its manifest
_NAMED = 3  # files an error names


def kind_of(folder: Path) -> str:
    """`data set`, `vlm`, `adapter`, `student`, `cascade` or `Space`, by the files there; HubError for anything else."""
    marks = {"app.py": SPACE, CASCADE: CASCADES, ADAPTER: ADAPTERS, INSPECT: STUDENT, MANIFEST: DATA_SET}
    marked = [kind for name, kind in marks.items() if (folder / name).is_file()]
    if marked:
        return marked[0]
    config = files.read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = config.get("architectures") if isinstance(config, dict) else None
    architecture = str(next(iter(named or []), ""))
    if architecture.endswith("ForImageClassification"):
        return STUDENT
    if architecture.endswith("ForConditionalGeneration"):
        return VLM
    raise HubError(
        f"{folder} is none of data set, vlm, adapter, student, cascade and Space: it has none of "
        f"{', '.join(marks)} and no config.json of a known architecture. Give a folder this package wrote."
    )


def listed(folder: Path) -> dict[str, Path]:
    """Every file that goes up, by its path in the repository, in order; HubError for one that the kind does not know.

    A cascade's parts lie in folders of its own, each of a kind.
    """
    kind = kind_of(folder)
    every = inside(folder)
    if link := next((path for path, file in every.items() if file.is_symlink()), None):
        raise HubError(f"{folder}: {link} is a link, which may lead anywhere; put there what it leads to.")
    names = sorted({path.partition("/")[0] for path in every if "/" in path} - {"plots"}) if kind == CASCADES else []
    found = {f"{name}/{path}": file for name in names for path, file in _part(folder, folder / name).items()}
    own = {path: file for path, file in every.items() if path not in found and not _stays(path)}
    patterns = (*_EVERYWHERE, *_KNOWN[kind])
    unknown = [path for path in own if not _matches(path, patterns)]
    if kind == DATA_SET:
        unknown = list(_beyond_manifest(folder, unknown))
    if unknown:
        named = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if unknown[_NAMED:] else "")
        raise HubError(f"{folder} holds what is no part of a {kind}: {named}. Move it out of the folder.")
    return dict(sorted((found | own).items()))


def belongs(path: str, kind: str) -> bool:
    """Whether a file of a repository is one that a folder of this kind may bring, and so may take away."""
    brought = (*_EVERYWHERE, *_KNOWN[kind]) + (("data/*.parquet", "data/*/*.parquet") if kind == DATA_SET else ())
    in_part = kind == CASCADES and _matches(path.partition("/")[2], PART_FILES)
    return path != ".gitattributes" and (_matches(path, brought) or in_part)


def inside(folder: Path) -> dict[str, Path]:
    """Every file and link in a folder by its path there, in order; git's and huggingface_hub's own are left out."""
    found = {
        path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()
    }
    return {path.as_posix(): file for path, file in found.items() if path.parts[0] not in _LEFT_FOLDERS}


def belonging(folder: Path, role: str) -> dict[str, Path]:
    """The files of a `cascade` or of a part of one (`edge`, `base`, `adapter`), by path, in order; no others."""
    return {path: file for path, file in inside(folder).items() if belongs(path, ROLES.get(role, role))}


def deciding(folder: Path, role: str) -> dict[str, Path]:
    """The files of a part (`edge`, `base` or `adapter`) that its answers rest on: weights, settings, what it saw."""
    patterns = (*_KNOWN[ROLES[role]], TRAINED_ON)
    return {path: file for path, file in belonging(folder, role).items() if _matches(path, patterns)}


def shards_of(folder: Path, manifest: dict[str, Any]) -> dict[tuple[str, str], list[Path]]:
    """The Parquet files of a built data set, by config and split."""
    places = [(config, split) for config, splits in manifest["counts"].items() for split in splits]
    return {(config, split): shards(folder, config, split) for config, split in places}


def _stays(path: str) -> bool:
    return any(fnmatchcase(Path(path).name, one) for one in LEFT)


def _part(folder: Path, part: Path) -> dict[str, Path]:
    try:
        return listed(part)
    except (HubError, DataError) as error:
        raise HubError(f"{folder}: its part {part.name} cannot go up: {error}") from None


def _beyond_manifest(folder: Path, paths: list[str]) -> Iterator[str]:
    """Those that are neither a shard nor an image that manifest.json names."""
    manifest = read_manifest(folder)
    known = {path for every in shards_of(folder, manifest).values() for path in every}
    images = {image["sha256"] for image in manifest["images"]}
    for path in paths:
        is_image = _matches(path, _IMAGES) and files.sha256(folder / path) in images
        if not is_image and folder / path not in known:
            yield path


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path is of one of the patterns, whose * stays within a folder."""
    return any(path.count("/") == one.count("/") and fnmatchcase(path, one) for one in patterns)
