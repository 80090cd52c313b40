"""What the fine-tuning recipes need of this package: rows for TRL's collator, what they start from, a fast vision tower
on a CPU, and the trained folder.
"""

import functools
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, images, metrics, prompts
from hf_inspect.data import class_ids, load_split, read_history
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.images import Reading
from hf_inspect.prefetch import prefetched
from hf_inspect.prompts.sizing import Sizing
from hf_inspect.schema import DEFECT, GOOD, History, TaskSpec
from hf_inspect.vlm import parity
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.families import family_of, set_side
from hf_inspect.vlm.model import VLM, connect_in_embedding_dtype, merge_adapter, outside_autocast

if TYPE_CHECKING:
    import datasets
    import torch
    from accelerate import Accelerator
    from peft import LoraConfig, PeftModel
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin

Scores = NDArray[np.float64]
Augment = Callable[["torch.Tensor"], "torch.Tensor"]
CLASS_ID = "class_id"  # a row's class, as its place among the question's options
PROBABILITY = "probability"  # of a defect, where a data set states how sure its experts were
_AT_ONCE = 64  # images in memory


@dataclass
class Tuning:
    """What both recipes are told of a base, of what trains of it, and of how that is computed.

    DataError for LoRA on a base that an adapter is merged into or that lost layers: what comes out would be read by
    the base as it is.
    """

    base: str = field(default="demo-base", metadata={"help": "Hub repository, folder, demo-base or a tiny- one"})
    side: int = field(default=288, metadata={"help": "pixels; more shows smaller things, and costs its square in time"})
    adapter: str | None = field(default=None, metadata={"help": "go on from this adapter, merged into the base first"})
    layers: int | None = field(default=None, metadata={"help": "the language model's first so many alone; lora_r 0"})
    lora_r: int = field(default=16, metadata={"help": "0: no LoRA, learning_rates names what trains"})
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: str = field(default="", metadata={"help": "pattern of the layers that get LoRA; default: family's"})
    full_modules: list[str] = field(default_factory=list, metadata={"help": "modules trained whole, beside LoRA"})
    learning_rates: dict[str, float] = field(default_factory=dict, metadata={"help": "pattern: rate; all that trains"})
    float32_tower: str | None = field(default=None, metadata={"help": "convolutional module, kept out of autocast"})
    attention: str | None = field(default=None, metadata={"help": "transformers' attn_implementation"})
    bfloat16: bool = field(default=True, metadata={"help": "autocast, where the machine multiplies bfloat16 fast"})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "evaluations without a better score"})
    max_rows: int | None = field(default=None, metadata={"help": "so many rows of each split alone"})

    def __post_init__(self) -> None:
        if self.adapter and self.lora_r:
            raise DataError(
                "an adapter on a merged adapter would not fit the base alone; set lora_r to 0, to train whole."
            )
        if self.layers is not None and self.lora_r:
            raise DataError("an adapter on some layers would not fit the base of all; set lora_r to 0, to train whole.")

    def lora(self, config: "PretrainedConfig", *whole: str) -> "LoraConfig":
        """PEFT's settings of LoRA on a base, with `whole` modules trained beside `full_modules`."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora_r, lora_alpha=self.lora_alpha, lora_dropout=self.lora_dropout,
            target_modules=self.lora_targets or family_of(config).lora, modules_to_save=[*self.full_modules, *whole],
        )  # fmt: skip


def rows_with_class_ids(folder: Path, split: str, task: TaskSpec, max_rows: int | None = None) -> "datasets.Dataset":
    """A split of a built data set with a column `class_id`: the place of the row's class in `task`.

    With `max_rows`, so many of them, sampled from a fixed seed.
    """
    rows = load_split(folder, split)
    rows = rows.add_column(CLASS_ID, class_ids(rows, task))
    return rows.shuffle(seed=0).select(range(min(max_rows, len(rows)))) if max_rows else rows


def chat_rows(
    batch: Mapping[str, list[Any]],
    question: prompts.Question,
    *,
    soft_labels: bool = False,
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    sizing: Sizing = Sizing(),  # noqa: B008 - frozen
) -> dict[str, list[Any]]:
    """Rows of `rows_with_class_ids` -> columns images, prompt, completion; for `Dataset.with_transform`.

    Images are uint8 tensors (3, h, w), augmented or at the size of `sizing`, as the VLM will see them. With
    `soft_labels`, a column `probability` (of a defect) and a task of one good and one defect class, the answer is
    sampled anew each time; else it is the row's class.
    """
    import torch

    whole = [images.load(row["bytes"], reading).rgb for row in batch["image"]]
    pixels = [torch.from_numpy(one if augment else sizing.fit(one)).permute(2, 0, 1) for one in whole]
    answers = batch[CLASS_ID]
    if soft_labels and PROBABILITY in batch and has_soft_labels(question.task):
        by_side = torch.tensor([question.task.dispositions.index(side) for side in (GOOD, DEFECT)])
        answers = by_side[(torch.rand(len(pixels)) < torch.tensor(batch[PROBABILITY])).int()].tolist()
    messages = [prompts.render(question, class_id) for class_id in answers]
    return {
        "images": [[augment(p) if augment else p] for p in pixels],
        "prompt": [m["prompt"] for m in messages],
        "completion": [m["completion"] for m in messages],
    }


def has_soft_labels(task: TaskSpec) -> bool:
    """Whether P(defect) says how likely each class is: there is one good and one defect class."""
    return (len(task.good), len(task.defects)) == (1, 1)


def parents_of(base: str | Path, *others: str | Path | None) -> list[History]:
    """The histories of what a training starts from: the base and, where given, an adapter's and a student's folder."""
    found = [(base_folder(base), base), *((hub.resolve(one), one) for one in others if one is not None)]
    return [read_history(folder, files.portable_name(name)) for folder, name in found]


def load_base(
    base: str | Path,
    side: int,
    dtype: "torch.dtype",
    attention: str | None = None,
    quantized: str | None = None,
    adapter: str | Path | None = None,
    layers: int | None = None,
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The base in `dtype`, an adapter merged into it, and its processor for images of `side` pixels.

    With `layers`, the language model keeps its first so many; DataError where it has fewer.
    With `quantized` nf4, bitsandbytes holds its matrices in 4 bits, their scales quantised again; the family's vision
    tower, projector and head stay as they are. DataError with both: 4 bits would round the adapter away.
    """
    import torch
    from accelerate import PartialState
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    source = base_folder(base)
    config, processor = AutoConfig.from_pretrained(source), AutoProcessor.from_pretrained(source)
    set_side(processor, config, side)
    given: dict[str, Any] = {"dtype": dtype if adapter is None else torch.float32, "attn_implementation": attention}
    if quantized is not None and adapter is not None:
        raise DataError("an adapter is not merged into 4 bits; leave quantized out, or start from the base alone.")
    if quantized is not None:
        bits = _four_bits(quantized, dtype, family_of(config).kept_whole)
        given |= {"quantization_config": bits, "device_map": {"": PartialState().device}}
    model = AutoModelForImageTextToText.from_pretrained(source, **given)
    if adapter is not None:
        model = merge_adapter(model, hub.resolve(adapter)).to(dtype)
    if layers is not None:
        _keep_first(model, layers)
    connect_in_embedding_dtype(model)
    return model, processor


def _keep_first(model: "PreTrainedModel", layers: int) -> None:
    words, config = model.get_decoder(), model.config.get_text_config()
    there = len(words.layers)
    if not 0 < layers <= there:
        raise DataError(f"layers is {layers}, but the base's language model has {there}; take 1 to so many.")
    words.layers = words.layers[:layers]
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def check_lengths(
    processor: "ProcessorMixin",
    splits: Sequence["datasets.Dataset"],
    question: prompts.Question,
    max_length: int | None,
) -> str:
    """A line on the longest sample and its image; DataError if `max_length` would cut it.

    A blank image of every size that occurs is prepared to count its tokens.
    """
    sizes = {images.header(content)[1:] for rows in splits for some in _contents(rows) for content in some}
    counts = {size: _tokens_of(processor, question, size) for size in sizes}
    (width, height), (longest, seen) = max(counts.items(), key=lambda item: item[1])
    if max_length is not None and longest > max_length:
        raise DataError(
            f"max_length is {max_length}, but the longest sample takes {longest} tokens, {seen} of them its image's; "
            f"set max_length to {longest} or null, or lower side."
        )
    return f"longest sample: {longest} tokens, {seen} of them for its image of {width} x {height}"


def rank_together(vlm: VLM, rows: "datasets.Dataset", accelerator: "Accelerator") -> "Scores":
    """P(option) of every row's image, each process ranking its share -> (n, n_options), the same on all of them.

    Images are read some at a time, the next ones while the model runs.
    """
    from accelerate.utils import gather_object

    first, every = accelerator.process_index, accelerator.num_processes
    share = rows.select(range(first, len(rows), every))
    k = len(vlm.task.classes)
    decoded = functools.partial(_decoded, reading=vlm.reading or Reading())
    ranked = [vlm.rank(some) for some in prefetched(decoded, _contents(share))]
    found = np.empty((len(rows), k))
    for at, part in enumerate(gather_object([np.concatenate([np.empty((0, k)), *ranked])])):
        found[at::every] = part
    return found


def validation_scores(task: TaskSpec, classes: Sequence[int], p: "Scores") -> dict[str, float | None]:
    """Of P(option) (n, n_options): accuracy and macro F1 of the likeliest, and AUROC of good against defect classes."""
    ids = np.asarray(classes)
    of_classes = metrics.class_report(ids, task.likeliest(p), task.classes)
    return {
        "accuracy": of_classes["accuracy"]["value"],
        "macro_f1": of_classes["macro_f1"]["value"],
        "auroc": metrics.auroc(task.is_defect[ids], task.severity(p))["value"],
    }


def start_tower_from(model: "PreTrainedModel", student: Path) -> None:
    """Load a trained student's body (a folder of `recipes/edge_classifier`) into a model's vision tower, in its dtype.

    DataError unless the two are of one architecture; the student's head, of however many classes, is left out.
    """
    from safetensors.torch import load_file

    family = family_of(model.config)
    if not family.timm_tower:
        raise DataError(f"a student is no vision tower of {model.config.model_type}; leave student out.")
    tower = model.get_submodule(family.tower)
    if not (student / "model.safetensors").is_file():
        raise DataError(f"{student} holds no trained student; train recipes/edge_classifier first.")
    own = tower.timm_model.state_dict()  # a student is saved under timm's names
    body = {name: value for name, value in load_file(student / "model.safetensors").items() if name in own}
    if missing := [name for name in own if name not in body or body[name].shape != own[name].shape]:
        raise DataError(f"{student} is of another architecture than the vision tower ({missing[0]} does not fit).")
    tower.timm_model.load_state_dict(body)


def float32_where_trained(model: "torch.nn.Module") -> None:
    """Give every module that holds a trainable parameter float32 parameters and buffers (batch norms' statistics)."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own):
            module.float()


def answer_loss(
    model: "torch.nn.Module", inputs: Mapping[str, "torch.Tensor"], n_tokens: "torch.Tensor | float | None" = None
) -> "torch.Tensor":
    """Mean cross-entropy over the tokens whose label is not -100; `n_tokens` counts those of a whole step.

    The head runs from the first answer's position on. TRL's own loss scores every position on a CPU, which takes as
    long as all the rest of the step.
    """
    import torch
    from torch.nn.functional import cross_entropy

    labels = inputs["labels"]
    start = int((labels != -100).any(0).nonzero()[0, 0])
    given = {name: value for name, value in inputs.items() if name != "labels"}
    kept = torch.arange(start - 1, labels.shape[1] - 1, device=labels.device)  # not a slice: 200 times slower on a CPU
    logits = model(**given, use_cache=False, logits_to_keep=kept).logits.float().flatten(0, 1)
    wanted = labels[:, start:].flatten()
    total = cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
    return total / ((wanted != -100).sum() if n_tokens is None else n_tokens)


def compile_training(model: "torch.nn.Module", pattern: str) -> int:
    """Compile the modules whose names match `pattern` whole, for training steps; returns how many.

    About twice as fast on a CPU, where small operations cost the most. Evaluation stays uncompiled, so that no other
    batch size compiles again. Without a C++ compiler all stays as it is, and a line says so.
    """
    import torch

    found = [module for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    if not found:
        raise DataError(f"compiled is {pattern!r}, which matches no module; print model.named_modules() for the names.")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        print("No C++ compiler found: training runs uncompiled, at about half the speed.")
        return 0
    for module in found:
        plain, fast = module.forward, torch.compile(module.forward)
        module.forward = functools.partial(_by_mode, module, plain, fast)
    return len(found)


def convolutions_in_float32(tower: "torch.nn.Module") -> None:
    """Run `tower` in float32 inside autocast, channels last: on a CPU, its backward gains nothing from bfloat16."""
    import torch

    tower.to(memory_format=torch.channels_last)
    outside_autocast(tower)


def save(model: "PreTrainedModel | PeftModel", processor: "ProcessorMixin", folder: Path, base: str) -> None:
    """Write what was trained: an adapter and its images' rule, or a whole model in bfloat16 with its processor."""
    import torch
    from peft import PeftModel

    if isinstance(model, PeftModel):
        save_adapter(model, folder, base)
        processor.image_processor.save_pretrained(str(folder))  # the tokenizer is the base's
    else:
        model.to(torch.bfloat16).save_pretrained(str(folder))
        processor.save_pretrained(str(folder))


def save_adapter(model: "PeftModel", folder: Path, base: str) -> None:
    """Write the adapter of a trained model: matrices and kernels in bfloat16, vectors and statistics as they are.

    `base` is the name other people know the base by. The embeddings, tied to the head, are not in it.
    """
    import torch
    from safetensors.torch import load_file, save_file

    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    small = {k: v.to(torch.bfloat16) if v.ndim > 1 else v for k, v in weights.items()}
    save_file(small, path, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card knows nothing of this run
    config = files.read_json(folder / "adapter_config.json")
    files.write_json(folder / "adapter_config.json", {**config, "inference_mode": True})


def _four_bits(kind: str, products: "torch.dtype", kept_whole: list[str]) -> "BitsAndBytesConfig":
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if kind != "nf4":
        raise DataError(f"quantized is {kind!r}; give nf4, or leave it out.")
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("4 bits need bitsandbytes: pip install 'hf-inspect[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=products,
        llm_int8_skip_modules=kept_whole,
    )  # fmt: skip


def _contents(rows: "datasets.Dataset") -> Iterator[list[bytes]]:
    """The files of the rows' images, some at a time."""
    for batch in rows.with_format(None).select_columns(["image"]).iter(_AT_ONCE):
        yield [image["bytes"] for image in batch["image"]]


def _decoded(contents: Sequence[bytes], reading: Reading) -> list[images.Rgb]:
    return [images.load(content, reading).rgb for content in contents]


def _tokens_of(processor: "ProcessorMixin", question: prompts.Question, size: tuple[int, int]) -> tuple[int, int]:
    """Tokens of the sample with the longest answer, and of the image alone, for an image of (width, height)."""
    blank = np.zeros((size[1], size[0], 3), np.uint8)
    ids = parity.encode(processor, question, [blank])["input_ids"][0].tolist()
    return len(ids) + max(map(len, parity.answer_ids(processor, question))), ids.count(processor.image_token_id)


def _by_mode(
    module: "torch.nn.Module", plain: Callable[..., Any], fast: Callable[..., Any], *args: Any, **kw: Any
) -> Any:
    return (fast if module.training else plain)(*args, **kw)
