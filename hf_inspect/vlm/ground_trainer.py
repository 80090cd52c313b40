"""transformers' trainer as the recipe of grounded VLMs needs it: rates by group, losses apart, scores by findings."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback

from hf_inspect.training import Products, WholeEvaluation
from hf_inspect.vlm.conversation import IGNORED
from hf_inspect.vlm.ground_training import HEAD_LOSS, SHOWN_BEFORE, THERE, GroundedRows, token_losses
from hf_inspect.vlm.trainer import GroupRates

if TYPE_CHECKING:
    from transformers.trainer_utils import EvalLoopOutput

_TERMS = ("objectness", "bbox", "giou", "caption", "place")


class GroundTrainer(GroupRates, Products, WholeEvaluation, Trainer):
    """A trainer of answers and, where the model has one, of its detection head; every loss is told of by itself.

    Set before training: `learning_rates`, and `scored`, which gives figures of validation.
    """

    scored: Callable[[], dict[str, float]]
    shares_weights = True  # every process scores the same images, in step

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # tokens are counted over all batches of a step, in every family
        self._sums: defaultdict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._since, self._seen = perf_counter(), 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The answers' cross-entropy over the tokens of a whole step, and the head's mean loss; or that alone."""
        if "labels" not in inputs:
            out = model(**inputs)
            if model.training:
                self._count(**{name: (out[name], 1) for name in _TERMS})
            return out[HEAD_LOSS] / (1 if num_items_in_batch is None else self.current_gradient_accumulation_steps)
        labels, before = inputs["labels"], inputs[SHOWN_BEFORE]
        at = ((labels != IGNORED) | (before != IGNORED)).any(0).nonzero()[:, 0]
        given = {name: value for name, value in inputs.items() if name not in ("labels", SHOWN_BEFORE)}
        out = model(**given, use_cache=False, logits_to_keep=at - 1)
        (total, tokens), (told, told_tokens) = token_losses(out["logits"], labels[:, at], before[:, at])
        share = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
        whole = tokens if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = total / whole
        if THERE in inputs:
            loss = loss + out[HEAD_LOSS] / share
        if model.training:
            self._count(answer=(total, tokens), exemplar=(told, told_tokens))
            self._count(**{name: (out[name], 1) for name in _TERMS if THERE in inputs})
        return loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; samples are counted."""
        self._seen += int((inputs["labels"] != IGNORED).any(1).sum()) if THERE not in inputs else len(inputs[THERE])
        return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """The loss alone: what is found is another matter."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> "EvalLoopOutput":
        """The loss, and what is found in validation images."""
        found = super().evaluation_loop(*args, **kwargs)
        with self.autocast_smart_context_manager():
            found.metrics.update({f"eval_{name}": value for name, value in self.scored().items()})
        self._since, self._seen = perf_counter(), 0
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, with the mean of each loss since the last time, and samples a second of this process."""
        if "loss" in logs:
            logs |= {
                f"loss_{name}": float(self._sums[name] / self._sums[f"n {name}"])
                for name in ("answer", "exemplar", *_TERMS)
                if self._sums.get(f"n {name}", 0)
            }
            logs["samples_per_second"] = self._seen / (perf_counter() - self._since)
            self._sums.clear()
            self._since, self._seen = perf_counter(), 0
        super().log(logs, start_time)

    def _count(self, **means: tuple[torch.Tensor, torch.Tensor | int]) -> None:
        for name, (total, n) in means.items():
            self._sums[name] += total.detach()
            self._sums[f"n {name}"] += n


class Epochs(TrainerCallback):
    """Tells rows which epoch it is: their exemplars are others in each, and the same in a training that goes on."""

    def __init__(self, rows: Sequence[GroundedRows]) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The number of the epoch that begins, or goes on."""
        for one in self.rows:
            one.epoch = round(state.epoch or 0.0, 6).__floor__()
