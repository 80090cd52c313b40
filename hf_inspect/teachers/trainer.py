"""transformers' Trainer for a teacher: its loss is a function of model and batch. Needs transformers at its top."""

from collections.abc import Callable
from typing import Any

from transformers import Trainer

from hf_inspect.training import WholeEvaluation

Loss = Callable[[Any, Any], tuple[Any, Any]]


class TeacherTrainer(WholeEvaluation, Trainer):
    """Trainer whose loss is `teacher_loss` (model, batch) -> (loss, outputs), to be set before training."""

    teacher_loss: Loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The teacher's own loss; the outputs stay on the device and are not gathered."""
        loss, out = self.teacher_loss(model, inputs)
        return (loss, out) if return_outputs else loss
