"""Images -> predictions: a base model, an adapter and the question it was trained on, checked against each other."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, prompts
from hf_inspect.data import read_history
from hf_inspect.errors import DataError, ParseError
from hf_inspect.images import Reading, Rgb, check_rgb
from hf_inspect.metrics import softmax
from hf_inspect.prefetch import prefetched
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.runtime import LoadedHere
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.vlm import parity
from hf_inspect.vlm.asking import Asking
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.families import FAMILIES, set_side
from hf_inspect.vlm.identity import identity_of
from hf_inspect.vlm.ranking import crops_of, option_scores, scored_ids, views_of
from hf_inspect.vlm.tower import channels_last, see_in_openvino

if TYPE_CHECKING:
    import torch
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

_FEEDS_PRODUCTS = re.compile(r"layers\.\d+\..*norm$|rotary_emb$")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its processor, ready to answer, what they are asked, and what they come from.

    `parts` are the folders, `trained` the one of them that states the prompt of its training, if any does.
    """

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    question: parity.Asked
    history: History
    parts: Mapping[str, Path]
    reading: Reading | None
    trained: Path | None


class VLM:
    """A `Predictor` that answers a question about images, by ranking its options or by generating.

    `model` and `processor` are transformers' own. `question.task` has the classes in the order of the options;
    `history` is what the model and its ancestors were trained on, `reading` how the files were read that it was trained
    on, if it was. `parts` are the folders it was loaded from.

    Threads may share one: the processor prepares for one of them at a time, and the model answers one at a time. The
    model and the processor themselves are not to be shared, nor given to two VLMs of two threads. Processes may not
    share one: load it in each, by `spawn` (ForkError).
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        question: prompts.Question,
        history: History | None = None,
        asking: Asking | None = None,
        parts: Mapping[str, Path] | None = None,
        reading: Reading | None = None,
    ) -> None:
        self.model, self.processor, self.question, self.reading = model, processor, question, reading
        self.history, self.asking, self.parts = history or History(), (asking or Asking()).with_views(1), parts
        answers = parity.answer_ids(processor, question)
        self._options, self._longest = scored_ids(answers), max(map(len, answers))
        self._sizing = sizing_of(parity.image_settings(processor))
        self._loaded_here, self._preparing, self._answering = LoadedHere("A VLM"), Lock(), Lock()

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        *,
        question: prompts.Question | None = None,
        asking: Asking | None = None,
        dtype: "torch.dtype | None" = None,
    ) -> "VLM":
        """Load a base (folder, repository, `demo-base` or a `tiny-` one) and merge an adapter (folder, repository).

        A repository is `org/name` or `org/name@revision`. `dtype` is that of matrix products and convolutions: by
        default bfloat16 where the machine has units for it (GPU, AMX), else float32. The question is the adapter's, or
        that of a base fine-tuned whole; any other base is asked `question`. ParityError when the prompt is not the
        trained one, DataError when it is about other classes, when there is none, or when the adapter does not fit.
        """
        asking = asking or Asking()
        found = load_parts(base, adapter, question, asking.imgsz, dtype)
        if isinstance(found.question, prompts.Grounding):
            raise DataError(
                f"{adapter or base} was trained to say where things are; ask it by hf_inspect.vlm.GroundedVLM, or "
                "'hf-inspect eval ground'."
            )
        if found.trained is not None:
            asking = asking.with_views(parity.views_of(found.trained))
        return cls(found.model, found.processor, found.question, found.history, asking, found.parts, found.reading)

    @property
    def task(self) -> TaskSpec:
        """What it answers: the question's classes, in the order of its options."""
        return self.question.task

    @functools.cached_property
    def decides(self) -> dict[str, Any]:
        """The SHA-256 of every file that decides, by role and name, and the settings that change answers.

        Plain JSON values. DataError for a model that was put together in memory.
        """
        if self.parts is None:
            raise DataError("A VLM put together in memory has no files to know it by; load one with from_pretrained.")
        return {
            "files": hub.file_hashes(self.parts),
            "question": self.question.to_dict(),
            "asking": self.asking.to_dict(),
            "dtypes": sorted({str(weight.dtype) for weight in self.model.parameters()}),
            "device": self.model.device.type,  # a GPU's convolutions round otherwise than those of OpenVINO
        }

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of `decides`."""
        return identity_of(self.decides)

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """An answer for each RGB uint8 (h, w, 3) image of any size, in order; for files, what `images.load` gives.

        By ranking, the options' probabilities; a generated answer is sure of its class, or unreadable.
        """
        if self.asking.mode == "generate":
            return [_read(self.question, text) for text in self._in_batches(images, self.generate)]
        return TASKS[self.task.kind].decode(self._scores(images), self.task)

    def rank(self, images: Sequence[Rgb], batch_size: int | None = None) -> NDArray[np.float64]:
        """P(option | image, prompt) for RGB uint8 (h, w, 3) images of any sizes -> (n, n_options), rows sum to 1.

        With crops or views, log-probabilities are means over them; a batch holds as many rows an image.
        """
        return softmax(self._scores(images, batch_size))

    def prepare(self, images: Sequence[Rgb]) -> "BatchFeature":
        """Model inputs, on the CPU, of one batch: the rows of an image's crops and views follow each other."""
        crops = [self._sizing.fit(crop) for image in images for crop in crops_of(image, self.asking.crops)]
        shown = [view for crop in crops for view in views_of(crop, self.asking.views or 1)]
        with self._preparing:  # a tokenizer keeps its padding in itself
            return parity.encode(self.processor, self.question, shown)

    def log_p(self, inputs: "BatchFeature") -> NDArray[np.float64]:
        """log P(option | image, prompt) of prepared -> (n, k): sums over an option's tokens, means over its rows."""
        order = self.task.by_name  # the same forwards, to the last bit, in whatever order the classes are
        options = [self._options[i] for i in order]
        with self._answering:  # a model keeps positions of its last prompt in itself
            scores = option_scores(self.model, inputs.to(self.model.device), options).double().cpu().numpy()
        found = np.empty((len(scores) // self.asking.rows, len(options)))
        found[:, order] = scores.reshape(-1, self.asking.rows, len(options)).mean(1)
        return found

    def generate(self, inputs: "BatchFeature") -> list[str]:
        """Greedy answers, of as many tokens as the longest option and its end; `prompts.parse` reads them."""
        import torch

        tokenizer = self.processor.tokenizer
        with self._answering, torch.inference_mode():
            out = self.model.generate(
                **inputs.to(self.model.device), max_new_tokens=self._longest, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        with self._preparing:
            return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _scores(self, images: Sequence[Rgb], batch_size: int | None = None) -> NDArray[np.float64]:
        """log P of every option (n, k) up to a constant a row; `normalise` divides it by the option's tokens."""
        rows: list[NDArray[np.float64]] = self._in_batches(images, self.log_p, batch_size)
        lengths = [len(ids) if self.asking.normalise else 1 for ids in self._options]
        return np.reshape(rows, (len(images), len(lengths))) / np.array(lengths)

    def _in_batches(
        self,
        images: Sequence[Rgb],
        ask: "Callable[[BatchFeature], Iterable[Answer]]",
        batch_size: int | None = None,
    ) -> list[Answer]:
        """What `ask` says of each image, in order: like sizes share a batch, and a thread prepares the next one."""
        self._loaded_here.check()
        for image in images:
            check_rgb(image)
        size = batch_size or self.asking.batch_size
        order = sorted(range(len(images)), key=lambda i: images[i].shape)  # like sizes together: less padding
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        prepared = prefetched(lambda batch: self.prepare([images[i] for i in batch]), batches)
        said: dict[int, Answer] = {}
        for batch, inputs in zip(batches, prepared, strict=True):
            said |= dict(zip(batch, ask(inputs), strict=True))
        return [said[i] for i in range(len(images))]


def load_parts(
    base: str | Path,
    adapter: str | Path | None = None,
    question: parity.Asked | None = None,
    imgsz: int | None = None,
    dtype: "torch.dtype | None" = None,
) -> Loaded:
    """A base and its adapter, merged, with the question of the training; see `VLM.from_pretrained`."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    source = base_folder(base)
    parts, history = {"base": source}, read_history(source, files.portable_name(base))
    processor = AutoProcessor.from_pretrained(source)
    if adapter is not None:
        parts["adapter"] = hub.resolve(adapter)
        history = read_history(parts["adapter"], files.portable_name(adapter)).union(history)
        parity.use_images_of(parts["adapter"], processor)
    if imgsz is not None:
        set_side(processor, AutoConfig.from_pretrained(source), imgsz)
    folder, reading, trained = parts.get("adapter", source), None, None
    if adapter is not None or (folder / parity.PROMPT).is_file():
        question, reading = parity.check_prompt(folder, processor, question), parity.reading_of(folder)
        trained = folder
    if question is None:
        raise DataError(f"{base} was trained on no question; give one (prompts.Question), or an adapter.")
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    if adapter is not None:
        model = merge_adapter(model, folder)
    return Loaded(_on_device(model, dtype or fast_dtype()), processor, question, history, parts, reading, trained)


def merge_adapter(model: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    """`model` with the adapter's weights put in; DataError unless every one of them finds its module."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights, set_peft_model_state_dict
    from safetensors import SafetensorError

    config = PeftConfig.from_pretrained(str(adapter))
    config.base_model_name_or_path = None  # the caller says which base
    try:
        weights = load_peft_weights(str(adapter), device="cpu")
    except SafetensorError as error:
        raise DataError(f"the weights in {adapter} are cut off or damaged ({error}); copy the folder again.") from None
    try:
        wrapped = get_peft_model(model, config)
        loaded = set_peft_model_state_dict(wrapped, weights)
    except KeyError as error:
        raise DataError(
            f"the weights in {adapter} lack {error}, of a module that its adapter_config.json says was trained whole; "
            "copy the folder again."
        ) from None
    except (ValueError, RuntimeError) as error:  # PEFT: no module of these names, or of other shapes
        raise DataError(f"{adapter} does not fit this base ({error}); give the base it was trained on.") from None
    fresh = [name for name in loaded.missing_keys if "lora_" in name or "modules_to_save" in name]
    if loaded.unexpected_keys or fresh:
        named = ", ".join([*loaded.unexpected_keys, *fresh][:3])
        raise DataError(f"{adapter} does not fit this base (first misfits: {named}); give the base it was trained on.")
    return wrapped.merge_and_unload()


def products_in(model: "PreTrainedModel", dtype: "torch.dtype") -> None:
    """Give a float32 model's linear layers and convolutions `dtype`; norms, residual stream and head stay float32.

    All in bfloat16, P(option) would move by 0.06 with the batch size: logits near 20 then step by 0.125. A layer's
    norm is cast once for all that it feeds.
    """
    import torch

    if dtype == torch.float32:
        return
    head = model.get_output_embeddings()
    connect_in_embedding_dtype(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.BatchNorm2d) and module is not head:
            module.to(dtype)
        elif _FEEDS_PRODUCTS.search(name):
            module.register_forward_hook(functools.partial(_cast_output, dtype=dtype))
    outside_autocast(head)

    model.forward = _under_autocast(model, model.forward, dtype)
    if hasattr(model, "get_image_features"):  # asked for by itself where a head or exemplars rest on it
        model.get_image_features = _under_autocast(model, model.get_image_features, dtype)


def _under_autocast(model: "PreTrainedModel", ask: Callable[..., Any], dtype: "torch.dtype") -> Callable[..., Any]:
    import torch

    @functools.wraps(ask)
    def asked(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, dtype):
            return ask(*args, **kwargs)

    return asked


def connect_in_embedding_dtype(model: "PreTrainedModel") -> None:
    """Give what the projector makes the embeddings' dtype, in a family whose code puts it among them without a cast."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or not family.uncast:
        return
    embedding = model.get_input_embeddings()
    projector = model.get_submodule(family.projector)
    projector.register_forward_hook(lambda module, inputs, output: output.to(embedding.weight.dtype))


def outside_autocast(module: "torch.nn.Module") -> None:
    """Run `module` on float32 input whatever the autocast around it."""
    import torch

    forward = module.forward

    def in_float32(x: "torch.Tensor", *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float(), *args, **kwargs)

    module.forward = in_float32


def _cast_output(module: Any, inputs: Any, output: Any, dtype: "torch.dtype") -> Any:
    return tuple(part.to(dtype) for part in output) if isinstance(output, tuple) else output.to(dtype)


def fast_dtype() -> "torch.dtype":
    """bfloat16 on a GPU and on CPUs with AMX or AVX512-BF16 matrix units, else float32."""
    import torch

    fast = (torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported(), torch.cuda.is_available())
    return torch.bfloat16 if any(fast) else torch.float32


def _on_device(model: "PreTrainedModel", dtype: "torch.dtype") -> "PreTrainedModel":
    """A float32 model, laid out for inference where it runs."""
    import torch

    device, family = "cuda" if torch.cuda.is_available() else "cpu", FAMILIES.get(model.config.model_type)
    if device == "cpu" and family is not None and family.timm_tower:
        see_in_openvino(model.get_submodule(family.tower))
    products_in(model, dtype)
    model = model.to(device).eval()
    channels_last(model)
    return model


def _read(question: prompts.Question, text: str) -> Prediction:
    """A generated answer: all of the probability on its class, or why it names none."""
    try:
        class_id = prompts.parse(question, text)
    except ParseError as error:
        return Prediction(None, unreadable=str(error))
    p = tuple(float(i == class_id) for i in range(len(question.options)))
    return Prediction(float(question.task.is_defect[class_id]), p)
