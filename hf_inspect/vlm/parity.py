"""prompt.json: which token ids training saw for fixed samples, and the refusal to run on others.
Also the one rendering of a closed question that inference uses; that of open ones is `vlm.conversation`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import files, prompts
from hf_inspect.errors import DataError, ParityError
from hf_inspect.images import Reading, Rgb
from hf_inspect.vlm.asking import VIEWS
from hf_inspect.vlm.conversation import conversation

if TYPE_CHECKING:
    from transformers import BatchFeature, ProcessorMixin

PROMPT = "prompt.json"
Asked = prompts.Question | prompts.Grounding


def encode(processor: "ProcessorMixin", question: prompts.Question, images: Sequence[Rgb]) -> "BatchFeature":
    """Model inputs for the question about each image, up to where the answer begins; padded on the left."""
    prompt, _ = _texts(processor, question, 0)
    return processor(
        images=[[image] for image in images], text=[prompt] * len(images), padding=True, padding_side="left",
        add_special_tokens=False, return_tensors="pt",
    )  # fmt: skip


def answer_ids(processor: "ProcessorMixin", question: prompts.Question) -> list[list[int]]:
    """Token ids of every option as training has them after the prompt, end of turn included."""
    texts = [_texts(processor, question, class_id)[1] for class_id in range(len(question.options))]
    return processor.tokenizer(texts, add_special_tokens=False)["input_ids"]


def canonical_row(question: prompts.Question) -> dict[str, Any]:
    """The fixed sample in the columns of TRL's collator: a grey ramp, the question, the last option."""
    return {"images": [_ramp()], **prompts.canonical(question)}


def grounded_ids(processor: "ProcessorMixin", question: prompts.Grounding) -> list[int]:
    """Token ids of an open question's fixed samples, the standard and the guided one, one after the other."""
    ids = list[int]()
    for turns in prompts.canonical_turns(question):
        asked = sum(message["role"] == "user" for message in turns["prompt"])
        ids += conversation(processor, turns, [_ramp()] * asked).ids.tolist()
    return ids


def write_prompt(
    folder: Path,
    processor: "ProcessorMixin",
    question: Asked,
    token_ids: Sequence[int],
    reading: Reading = Reading(),  # noqa: B008 - frozen
    views: int = 1,
    more: Mapping[str, Any] = {},
) -> None:
    """Write prompt.json: `token_ids` are what training made of the fixed samples (`canonical_row`, `grounded_ids`).

    `views` is over how many orientations of an image answers are averaged, unless asked otherwise (`Asking`); `more`
    stands beside it.
    """
    rule = image_rule(processor)
    record = question.to_dict() | {
        "reading": reading.to_dict(),
        "views": views,
        **more,
        "image_rule": rule,
        "text": _readable(processor, token_ids),
        "sha256": prompts.fingerprint(token_ids, processor.image_token_id, rule, question.task),
    }
    files.write_json(folder / PROMPT, record)


def is_grounded(folder: Path) -> bool:
    """Whether an adapter, or a base fine-tuned whole, was trained to say where things are."""
    path = folder / PROMPT
    stated = files.read_json(path).get("question") if path.is_file() else None
    return isinstance(stated, dict) and "frame" in stated


def check_prompt(folder: Path, processor: "ProcessorMixin", question: Asked | None = None) -> Asked:
    """The question an adapter was trained on. ParityError, with the difference, when inference would ask another.

    `question`, where given, is the one the caller means to ask: DataError when its task is another one, ParityError
    when its text is. The order of the classes stays the trained one.
    """
    record = files.read_json(folder / PROMPT)
    kind = prompts.Grounding if is_grounded(folder) else prompts.Question
    asked: Asked = kind.from_dict(record, folder / PROMPT)
    if question is not None:
        question.task.refuse_other(asked.task, "the question to ask", f"the question that {folder.name} was trained on")
        asked = replace(question, task=asked.task)
    ids = _canonical_ids(processor, asked)
    rule = image_rule(processor)
    if prompts.fingerprint(ids, processor.image_token_id, rule, asked.task) != record["sha256"]:
        trained = record["text"] + "\n" + json.dumps(record["image_rule"], indent=1, sort_keys=True)
        now = _readable(processor, ids) + "\n" + json.dumps(rule, indent=1, sort_keys=True)
        raise ParityError(
            f"{folder} was trained on another prompt than would be asked now:\n{prompts.text_diff(trained, now)}\n"
            "Use the processor and the question it was trained with, or train it again."
        )
    return asked


def reading_of(folder: Path) -> Reading:
    """How the files are read that an adapter, or a base fine-tuned whole, was trained on."""
    return Reading.from_dict(files.read_json(folder / PROMPT).get("reading"), folder / PROMPT)


def views_of(folder: Path) -> int:
    """How many orientations of an image an adapter's answers are averaged over; 1 where prompt.json says nothing."""
    views = files.read_json(folder / PROMPT).get("views", 1)
    if views not in VIEWS:
        raise DataError(f"{folder / PROMPT} has views {views!r}; give 1, 2, 4 or 8.")
    return int(views)


def use_images_of(adapter: str | Path, processor: "ProcessorMixin") -> None:
    """Let `processor` prepare images as the adapter's training did; DataError where the base's kind does otherwise."""
    from transformers import AutoImageProcessor

    trained, own = AutoImageProcessor.from_pretrained(adapter), processor.image_processor
    if type(trained) is not type(own):
        raise DataError(
            f"{adapter} was trained on images from {type(trained).__name__}, this base takes those of "
            f"{type(own).__name__}; give the base it was trained on."
        )
    processor.image_processor = trained


def image_rule(processor: "ProcessorMixin") -> dict[str, Any]:
    """How an image becomes pixels, and how many image tokens the canonical one takes; plain JSON values."""
    stated = image_settings(processor)
    ids = processor(images=[[_ramp()]], text=[_image_text(processor)], add_special_tokens=False)["input_ids"][0]
    return stated | {"image_tokens": ids.count(processor.image_token_id)}


def image_settings(processor: "ProcessorMixin") -> dict[str, Any]:
    """The settings of how an image becomes pixels; plain JSON values."""
    stated = json.loads(processor.image_processor.to_json_string())
    of_the_run = ("processor_class", "device", "data_format", "return_tensors")
    return {key: value for key, value in stated.items() if value is not None and key not in of_the_run}


def _canonical_ids(processor: "ProcessorMixin", question: Asked) -> list[int]:
    if isinstance(question, prompts.Grounding):
        return grounded_ids(processor, question)
    asked: list[int] = encode(processor, question, [_ramp()])["input_ids"][0].tolist()
    return asked + answer_ids(processor, question)[-1]


def _image_text(processor: "ProcessorMixin") -> str:
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    return processor.apply_chat_template(messages, tokenize=False)


def _texts(processor: "ProcessorMixin", question: prompts.Question, class_id: int) -> tuple[str, str]:
    """Prompt text and completion text, split where TRL splits them: at the end of their common beginning."""
    if not processor.chat_template:
        raise DataError("the base's processor has no chat template; give an instruction-tuned base, which has one.")
    messages = prompts.render(question, class_id)
    asked = processor.apply_chat_template(messages["prompt"], add_generation_prompt=True, tokenize=False)
    whole = processor.apply_chat_template(messages["prompt"] + messages["completion"], tokenize=False)
    same = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), min(len(asked), len(whole)))
    return whole[:same], whole[same:]


def _ramp() -> Rgb:
    width, height = prompts.CANONICAL_SIZE
    row = np.linspace(0, 255, width).astype(np.uint8)
    return np.repeat(np.repeat(row[None, :, None], height, axis=0), 3, axis=2)


def _readable(processor: "ProcessorMixin", token_ids: Sequence[int]) -> str:
    return processor.tokenizer.decode(prompts.collapse(token_ids, processor.image_token_id))
