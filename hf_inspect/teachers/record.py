"""teacher.json beside an adapter: what kind of teacher it makes, of which base, of which classes, by which words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.hub.kinds import TEACHER_JSON
from hf_inspect.reading import Reading
from hf_inspect.schema import TaskSpec
from hf_inspect.teachers.lora import WEIGHTS
from hf_inspect.teachers.tiny import base_folder
from hf_inspect.training import content_of

TEACHER = TEACHER_JSON
FORMAT = 1
DINO, SAM = "dino", "sam"


@dataclass(frozen=True, slots=True)
class Stated:
    """What an adapter's folder says of itself.

    `base` is the name of its base, `base_sha256` the content that it was trained on. `synonyms` are the phrases of the
    classes that are called otherwise than by their names; a segmenter has none.
    """

    kind: str
    base: str
    base_sha256: str
    task: TaskSpec
    reading: Reading
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write teacher.json, the last file of a trained adapter: without it a folder is none."""
        value = {
            "format": FORMAT, "kind": self.kind, "base": self.base, "base_sha256": self.base_sha256,
            "weights_sha256": files.sha256(folder / WEIGHTS), "task": self.task.to_dict(),
            "reading": self.reading.to_dict(), "synonyms": {name: list(own) for name, own in self.synonyms.items()},
        }  # fmt: skip
        files.write_json(folder / TEACHER, value)

    @classmethod
    def read(cls, folder: Path, kind: str) -> "Stated":
        """What a folder states; DataError where it holds no whole adapter of this kind."""
        path = folder / TEACHER
        if not path.is_file():
            raise DataError(
                f"{folder} holds no trained teacher (no {TEACHER}); run recipes/teacher_lora/train.py, again where it "
                "was stopped."
            )
        value: dict[str, Any] = files.read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("kind") != kind:
            raise DataError(f"{path} is not of a {kind} of this version; train the teacher again.")
        if not (folder / WEIGHTS).is_file() or files.sha256(folder / WEIGHTS) != value["weights_sha256"]:
            raise DataError(f"{folder / WEIGHTS} is not what {TEACHER} states; run the training again.")
        said = {name: tuple(own) for name, own in value["synonyms"].items()}
        task, reading = TaskSpec.from_dict(value["task"], path), Reading.from_dict(value["reading"], path)
        return cls(kind, value["base"], value["base_sha256"], task, reading, said)

    def base_of(self, given: str | Path | None) -> Path:
        """The folder of its base, by another name where one is `given`; DataError where it is another base."""
        found = base_folder(given or self.base)
        if content_of(found) != self.base_sha256:
            raise DataError(
                f"{given or self.base} is another base than the adapter was trained on, {self.base}; give that one."
            )
        return found
