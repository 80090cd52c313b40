"""Images -> P(option): a base model, an adapter and the question it was trained on, checked against each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import prompts
from hf_inspect.errors import DataError
from hf_inspect.images import Rgb, check_rgb
from hf_inspect.vlm import parity
from hf_inspect.vlm.base import demo_base

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

DEMO_BASE = "demo-base"


class VLM:
    """Ranks a task's options for images. `model` and `processor` are transformers' own, `task` the question."""

    def __init__(self, model: "PreTrainedModel", processor: "ProcessorMixin", task: prompts.Task) -> None:
        self.model, self.processor, self.task = model, processor, task
        self._options = _scored_ids(parity.answer_ids(processor, task))

    @classmethod
    def from_pretrained(
        cls, base: str | Path, adapter: str | Path | None = None, *, task: prompts.Task | None = None, dtype: Any = None
    ) -> "VLM":
        """Load a base (folder, Hub repository or `demo-base`) and merge an adapter's folder into it.

        `dtype` defaults to bfloat16 where the machine multiplies it fast (GPU, AMX), else float32. The task is the
        adapter's; without one, `task` (default: solar cells). ParityError when the prompt is not the trained one,
        DataError when the adapter does not fit the base.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        source = str(demo_base()) if str(base) == DEMO_BASE else str(base)
        processor = AutoProcessor.from_pretrained(str(adapter or source))
        if adapter is not None:
            task = parity.check_prompt(Path(adapter), processor, task)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype or fast_dtype())
        if adapter is not None:
            model = merge_adapter(model, Path(adapter))
        return cls(model.to(_device()).eval(), processor, task or prompts.SOLAR_CELL)

    def rank(self, images: Sequence[Rgb], batch_size: int = 16) -> NDArray[np.float64]:
        """P(option | image, prompt) for RGB uint8 (h, w, 3) images of any sizes -> (n, n_options), rows sum to 1."""
        for image in images:
            check_rgb(image)
        batches = [images[at : at + batch_size] for at in range(0, len(images), batch_size)]
        parts = [self._rank_batch(batch) for batch in batches]
        return np.concatenate(parts) if parts else np.empty((0, len(self.task.options)))

    def p_defect(self, images: Sequence[Rgb], batch_size: int = 16) -> NDArray[np.float64]:
        """P(defect) of each image -> (n,); the task's options must be good and defect, in this order of classes."""
        if len(self.task.options) != 2:
            raise DataError(f"P(defect) needs two options, the task has {list(self.task.options)}; use rank.")
        return self.rank(images, batch_size)[:, 1]

    def _rank_batch(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        import torch

        inputs = parity.encode(self.processor, self.task, images).to(self.model.device)
        several = any(len(ids) > 1 for ids in self._options)
        with torch.inference_mode():
            out = self.model(**inputs, use_cache=several, logits_to_keep=1)
            first = out.logits[:, -1].float().log_softmax(-1)
            scores = torch.stack([first[:, ids[0]] for ids in self._options], dim=1)
            if several:
                scores += self._later_tokens(inputs["attention_mask"], out.past_key_values)
            return scores.double().softmax(-1).cpu().numpy()

    def _later_tokens(self, mask: "torch.Tensor", cache: Any) -> "torch.Tensor":
        """Log-probability of each option's tokens after its first, (n, n_options), on the prompts' cache."""
        import torch

        n, length = mask.shape
        scores = torch.zeros(n, len(self._options), device=mask.device)
        for at, ids in enumerate(self._options):
            if len(ids) == 1:
                continue
            given, wanted = (torch.tensor(part, device=mask.device).expand(n, -1) for part in (ids[:-1], ids[1:]))
            seen = torch.cat([mask, torch.ones_like(given)], dim=1)
            out = self.model(input_ids=given, attention_mask=seen, past_key_values=cache, use_cache=True)
            scores[:, at] = out.logits.float().log_softmax(-1).gather(2, wanted[..., None]).sum((1, 2))
            cache.crop(length)
        return scores


class ScriptedVLM:
    """A stand-in for tests: `answers` are the P(defect) it gives, in order and from the start again."""

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

    weights = load_peft_weights(str(adapter), device="cpu")
    try:
        wrapped = get_peft_model(model, PeftConfig.from_pretrained(str(adapter)))
    except ValueError as error:
        raise DataError(f"{adapter} matches no module of this base ({error}); it belongs to another base.") from None
    own = wrapped.state_dict()
    loaded = set_peft_model_state_dict(wrapped, weights)
    fresh = [name for name in loaded.missing_keys if "lora_" in name or "modules_to_save" in name]
    if loaded.unexpected_keys or fresh or not own:
        named = ", ".join([*loaded.unexpected_keys, *fresh][:3])
        raise DataError(f"{adapter} does not fit this base (first misfits: {named}); give the base it was trained on.")
    return wrapped.merge_and_unload()


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
