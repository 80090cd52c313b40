"""TRL's trainer as the recipe needs it: learning rates by pattern, the answer's loss alone, scores by ranking."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl import SFTTrainer

from hf_inspect.training import Products, WholeEvaluation
from hf_inspect.vlm import rates
from hf_inspect.vlm import training as sft

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers.trainer_utils import EvalLoopOutput

    from hf_inspect.vlm.model import VLM


class GroupRates:
    """Goes before a Trainer: parameters learn at rates by pattern, those of `learning_rates`, set before training."""

    optimizer: "torch.optim.Optimizer | None"
    learning_rates: Mapping[str, float]

    def create_optimizer(self, model: Any = None) -> "torch.optim.Optimizer":
        """One group a pattern of `learning_rates`, with and without weight decay."""
        own: Any = self
        if self.optimizer is None:
            decayed = own.get_decay_parameter_names(own.model)
            groups = rates.optimizer_groups(own.model, self.learning_rates, decayed, own.args.weight_decay)
            optimizer, options = own.get_optimizer_cls_and_kwargs(own.args, own.model)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer


class AdapterTrainer(GroupRates, Products, WholeEvaluation, SFTTrainer):
    """SFTTrainer with learning rates by group, and scores of the validation split by ranking beside its loss.

    Set before training: `learning_rates` (pattern of parameters -> rate), `ranker`, which answers for the rows of
    `validation`, and these rows, with their `class_id`.
    """

    ranker: "VLM"
    validation: "datasets.Dataset"

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The answer's cross-entropy, without the head's work on the prompt; gradients are means over processes."""
        tokens = None if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        return sft.answer_loss(model, inputs, tokens)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> "EvalLoopOutput":
        """The loss, and how well ranking tells the validation images apart."""
        found = super().evaluation_loop(*args, **kwargs)
        with self.autocast_smart_context_manager():
            p = sft.rank_together(self.ranker, self.validation, self.accelerator)
        scores = sft.validation_scores(self.ranker.task, self.validation[sft.CLASS_ID], p)
        found.metrics.update({f"eval_{k}": v for k, v in scores.items()})
        return found

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's card calls every model text-generation; ours is made from results.json."""
