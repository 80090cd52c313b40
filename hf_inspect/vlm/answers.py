"""A VLM's answers to the images of a data set, kept as JSON lines: a run that was killed goes on where it stopped.

An image that cannot be read is a row with its reason; the others are answered.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hf_inspect import files, images
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress, no_progress
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.model import VLM
from hf_inspect.vlm.ranking import CROPS, ahead

if TYPE_CHECKING:
    from transformers import BatchFeature

MODES = ("rank", "generate")
Row = dict[str, Any]  # split, index, source, ms and one of log_p (a list), answer (a text), error (a sentence)


@dataclass(frozen=True, slots=True)
class Asking:
    """How images are asked: `imgsz` is their side in pixels, None for the processor's own rule."""

    mode: str = "rank"
    crops: int = 1
    imgsz: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.crops not in CROPS:
            raise DataError(
                f"mode {self.mode!r} with {self.crops} crops came; modes are rank and generate, crops 1 or 5."
            )
        if self.mode == "generate" and self.crops != 1:
            raise DataError("A generated answer has no mean over crops; leave --crops out, or use --mode rank.")
        if self.imgsz is not None and self.imgsz < 1:
            raise DataError(f"imgsz is {self.imgsz}; give the side of the model's images in pixels.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Part:
    """One image to ask about: its place in a split, its name and its file's bytes."""

    split: str
    index: int
    source: str
    content: bytes


def answer(
    vlm: VLM,
    parts: Sequence[Part],
    path: Path,
    asking: Asking,
    evaluation: Mapping[str, Any],
    batch_size: int = 16,
    progress: Progress = no_progress,
) -> list[Row]:
    """A row a part, in the order of `parts`; rows that `path` holds already are not asked for again.

    `evaluation` names the model, the data and the settings; DataError when `path` is of another one. Images of like
    sizes share a batch. Rows are appended a batch at a time.
    """
    done = _resume(path, evaluation)
    waiting = [part for part in parts if (part.split, part.index) not in done]
    waiting.sort(key=lambda part: images.size(part.content))
    batches = [waiting[at : at + batch_size] for at in range(0, len(waiting), batch_size)]
    progress("asked", len(parts) - len(waiting), len(parts))
    for rows in _answered(vlm, batches, asking):
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        done |= {(row["split"], row["index"]): row for row in rows}
        progress("asked", len(done), len(parts))
    return [done[part.split, part.index] for part in parts]


def begun(path: Path) -> str | None:
    """The name of the evaluation whose scores `path` holds: a file that is made anew gets another."""
    with path.open(encoding="utf-8") as file:
        return json.loads(file.readline()).get("begun")


def identity(vlm: VLM, base: str, adapter: Path | None) -> dict[str, Any]:
    """What tells the weights from others: SHA-256 of a folder's weight files, the commit of a Hub repository's."""
    folder = Path(base_folder(base))
    stated: Any = getattr(vlm.model.config, "_commit_hash", None)
    if folder.is_dir():
        stated = [files.sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    own = files.sha256(adapter / "adapter_model.safetensors") if adapter else None
    return {"base": stated, "adapter": own, "dtypes": sorted({str(p.dtype) for p in vlm.model.parameters()})}


def _answered(vlm: VLM, batches: Sequence[Sequence[Part]], asking: Asking) -> Iterator[list[Row]]:
    """Rows of each batch, images decoded and prepared one batch ahead of the model."""
    begin = perf_counter()
    made = ahead(lambda batch: _prepared(vlm, batch, asking.crops), batches)
    for batch, (inputs, reasons) in zip(batches, made, strict=True):
        answers = iter(_ask(vlm, inputs, asking) if inputs else [])
        end = perf_counter()
        ms = round((end - begin) * 1e3 / len(batch), 3)
        begin = end
        yield [
            {"split": part.split, "index": part.index, "source": part.source, "ms": ms}
            | ({"error": reason} if reason else next(answers))
            for part, reason in zip(batch, reasons, strict=True)
        ]


def _prepared(vlm: VLM, batch: Sequence[Part], crops: int) -> "tuple[BatchFeature | None, list[str | None]]":
    """Inputs of the readable images of a batch, None where there are none, and why each other one is unreadable."""
    pixels, reasons = [], []
    for part in batch:
        reason = None
        try:
            pixels.append(images.load(part.content).rgb)
        except DataError as error:
            reason = str(error)
        reasons.append(reason)
    return (vlm.prepare(pixels, crops) if pixels else None), reasons


def _ask(vlm: VLM, inputs: "BatchFeature", asking: Asking) -> list[Row]:
    if asking.mode == "generate":
        return [{"answer": text} for text in vlm.generate(inputs)]
    return [{"log_p": [round(value, 6) for value in row]} for row in vlm.log_p(inputs, asking.crops).tolist()]


def _resume(path: Path, evaluation: Mapping[str, Any]) -> dict[tuple[str, int], Row]:
    """Rows that `path` holds, by split and index; a torn last line is cut off, a new file gets its first line."""
    if not path.exists() or not path.stat().st_size:
        files.write_text(path, json.dumps({"evaluation": evaluation, "begun": uuid4().hex}) + "\n")
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        first, *rows = map(json.loads, whole.splitlines())
        found = {(row["split"], row["index"]): row for row in rows}
        before = first["evaluation"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} was not written by 'hf-inspect eval vlm'; give another --out.") from None
    if before != json.loads(json.dumps(evaluation)):
        changed = [key for key in evaluation if before.get(key) != evaluation[key]]
        raise DataError(
            f"{path} holds the scores of another evaluation (other {', '.join(changed) or 'settings'}); "
            "give another --out, or delete it."
        )
    if len(whole) < len(content):
        files.write_bytes(path, whole)
    return found
