"""Evaluations during a training, of every image that they are of."""

from typing import Any


class WholeEvaluation:
    """Goes before a Trainer: its `dataloader_drop_last` drops a training batch alone, where the Trainer's own drops the
    last images of an evaluation as well.
    """

    args: Any

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The loader of all of `eval_dataset`."""
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]
        finally:
            self.args.dataloader_drop_last = dropped
