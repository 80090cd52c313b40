"""Images -> P(option): a base model, an adapter and the question it was trained on, checked against each other."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, prompts
from hf_inspect.errors import DataError
from hf_inspect.images import Rgb, check_rgb
from hf_inspect.metrics import softmax
from hf_inspect.vlm import parity
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.ranking import ahead, crops_of, option_scores
from hf_inspect.vlm.tower import channels_last, see_in_openvino

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

TRAINED_ON = "trained_on.json"
_FEEDS_PRODUCTS = re.compile(r"layers\.\d+\..*norm$|rotary_emb$")


class VLM:
    """Ranks a task's options for images.

    `model` and `processor` are transformers' own, `task` the question; `trained_on` is the record of the images the
    adapter was trained on, None where there is none.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        task: prompts.Task,
        trained_on: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.processor, self.task, self.trained_on = model, processor, task, trained_on
        self._options = _scored_ids(parity.answer_ids(processor, task))

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        *,
        task: prompts.Task | None = None,
        dtype: "torch.dtype | None" = None,
    ) -> "VLM":
        """Load a base (folder, repository, `demo-base` or a `tiny-` one) and merge an adapter (folder, repository).

        A repository is `org/name` or `org/name@revision`. `dtype` is that of matrix products and convolutions: by
        default bfloat16 where the machine has units for it (GPU, AMX), else float32. The task is the adapter's, or
        that of a base fine-tuned whole; without one, `task` (default: solar cells). ParityError when the prompt is not
        the trained one, DataError when the adapter does not fit the base.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        source, trained_on = base_folder(base), None
        adapter = adapter and hub.located(adapter)
        processor = AutoProcessor.from_pretrained(source)
        if adapter is not None:
            parity.use_images_of(adapter, processor)
        trained = Path(adapter or source)
        if adapter is not None or (trained / parity.PROMPT).is_file():
            task = parity.check_prompt(trained, processor, task)
            trained_on = files.read_json(trained / TRAINED_ON)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
        if adapter is not None:
            model = merge_adapter(model, trained)
        device = _device()
        if device == "cpu":
            see_in_openvino(model)
        products_in(model, dtype or fast_dtype())
        model = model.to(device).eval()
        channels_last(model)
        return cls(model, processor, task or prompts.SOLAR_CELL, trained_on)

    def rank(
        self, images: Sequence[Rgb], batch_size: int = 16, crops: int = 1, normalised: bool = False
    ) -> NDArray[np.float64]:
        """P(option | image, prompt) for RGB uint8 (h, w, 3) images of any sizes -> (n, n_options), rows sum to 1.

        With 5 crops, log-probabilities are means over the corners and the centre; a batch holds five rows an image.
        """
        for image in images:
            check_rgb(image)
        order = sorted(range(len(images)), key=lambda i: images[i].shape)  # like sizes together: less padding
        batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        log_p = np.empty((len(images), len(self.task.options)))
        made = ahead(lambda batch: self.prepare([images[i] for i in batch], crops), batches)
        for batch, inputs in zip(batches, made, strict=True):
            log_p[batch] = self.log_p(inputs, crops)
        return self.probabilities(log_p, normalised)

    def p_defect(self, images: Sequence[Rgb], batch_size: int = 16) -> NDArray[np.float64]:
        """P(defect) of each image -> (n,); the task's options must be good and defect, in this order of classes."""
        if len(self.task.options) != 2:
            raise DataError(f"P(defect) needs two options, the task has {list(self.task.options)}; use rank.")
        return self.rank(images, batch_size)[:, 1]

    def prepare(self, images: Sequence[Rgb], crops: int = 1) -> "BatchFeature":
        """Model inputs, on the CPU, of one batch: the rows of an image's crops follow each other."""
        return parity.encode(self.processor, self.task, [crop for image in images for crop in crops_of(image, crops)])

    def log_p(self, inputs: "BatchFeature", crops: int = 1) -> NDArray[np.float64]:
        """log P(option | image, prompt) of prepared -> (n, k); sums over an option's tokens, means over crops."""
        scores = option_scores(self.model, inputs.to(self.model.device), self._options).double().cpu().numpy()
        return scores.reshape(-1, crops, len(self._options)).mean(1)

    def probabilities(self, log_p: NDArray[np.float64], normalised: bool = False) -> NDArray[np.float64]:
        """log P (n, k) -> P over the options, rows sum to 1; `normalised` first divides by an option's tokens."""
        lengths = [len(ids) for ids in self._options] if normalised else 1
        return softmax(log_p / np.array(lengths))

    def generate(self, inputs: "BatchFeature") -> list[str]:
        """Greedy answers, of as many tokens as the longest option and its end; `prompts.parse` reads them."""
        import torch

        longest = max(map(len, parity.answer_ids(self.processor, self.task)))
        tokenizer = self.processor.tokenizer
        with torch.inference_mode():
            out = self.model.generate(
                **inputs.to(self.model.device), max_new_tokens=longest, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class ScriptedVLM:
    """A stand-in for tests: `answers` are the P(defect) it gives, in order and from the start again."""

    trained_on = None

    def __init__(self, answers: Sequence[float]) -> None:
        self.answers, self.asked = list(answers), 0

    def p_defect(self, images: Sequence[Rgb], batch_size: int = 16) -> NDArray[np.float64]:
        """The next scripted P(defect) for each image -> (n,)."""
        at = [(self.asked + i) % len(self.answers) for i in range(len(images))]
        self.asked += len(images)
        return np.array([self.answers[i] for i in at], dtype=np.float64)


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
    head, forward = model.get_output_embeddings(), model.forward
    connect_in_embedding_dtype(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.BatchNorm2d) and module is not head:
            module.to(dtype)
        elif _FEEDS_PRODUCTS.search(name):
            module.register_forward_hook(functools.partial(_cast_output, dtype=dtype))
    outside_autocast(head)

    def under_autocast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, dtype):
            return forward(*args, **kwargs)

    model.forward = functools.wraps(forward)(under_autocast)


def connect_in_embedding_dtype(model: "PreTrainedModel | PeftModel") -> None:
    """Give what SmolVLM's connector makes the embeddings' dtype: transformers puts it among them without a cast."""
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

    embedding = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, SmolVLMConnector | Idefics3Connector):
            module.register_forward_hook(lambda module, inputs, output: output.to(embedding.weight.dtype))


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

    fast = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _scored_ids(answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """The answers without the end they share, as far as none then begins another: 'good' ends before 'good part'."""
    ends = min(len(ids) for ids in answers) - 1
    while ends and len({tuple(ids[-ends:]) for ids in answers}) > 1:
        ends -= 1
    while ends:
        cut = [list(ids[:-ends]) for ids in answers]
        if not any(a is not b and b[: len(a)] == a for a in cut for b in cut):
            return cut
        ends -= 1
    return [list(ids) for ids in answers]
