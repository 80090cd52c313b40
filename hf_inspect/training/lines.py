"""What a person reads of a training: its length, a line an evaluation, what was best; between them a bar on a terminal,
and elsewhere a line a minute.
"""

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

_NAMES = {"auroc": "AUROC", "macro_f1": "macro F1"}
_EVERY = 60  # seconds after which a line is due, where no bar is shown
_OF_THE_MACHINE = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def say_in_lines(trainer: "Trainer") -> None:
    """Let a Trainer print lines to read in place of its dictionaries; its bar stays where standard error is shown."""
    from transformers import PrinterCallback, ProgressCallback

    for theirs in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(theirs)
    trainer.add_callback(_lines(bar=sys.stderr.isatty() and not trainer.args.disable_tqdm))


def evaluation_line(logs: dict[str, Any], epochs: float, loss: float | None, seconds: float) -> str:
    """`epoch 2 of 8: loss 0.61; validation AUROC 0.911, accuracy 0.872 (12 s)` from what a Trainer logs of one."""
    own = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
    said = [f"{_NAMES.get(name, name)} {value:.3f}" for name, value in own.items() if name not in _OF_THE_MACHINE]
    learned = "" if loss is None else f"loss {loss:.3f}; "
    return f"epoch {logs['epoch']:.3g} of {epochs:.3g}: {learned}validation {', '.join(said)} ({seconds:.0f} s)"


def _lines(bar: bool) -> "TrainerCallback":
    from transformers import ProgressCallback, TrainerCallback

    class Lines(ProgressCallback if bar else TrainerCallback):  # type: ignore[misc]
        """One process of a training speaks for all."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_train_begin(args, state, control, **kwargs)
            self.loss, self.begun, self.said = None, perf_counter(), perf_counter()
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            done = f", {state.global_step} of them done" if state.global_step else ""
            self.say(state, f"{state.max_steps} steps of {batch} images{done} -> {args.output_dir}")

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = logs.get("loss", self.loss)
            seconds = perf_counter() - self.begun
            loss = None if self.loss is None else float(self.loss)
            if any(name.startswith("eval_") for name in logs):
                epochs = state.num_train_epochs if args.max_steps > 0 else args.num_train_epochs
                self.say(state, evaluation_line({"epoch": state.epoch, **logs}, epochs, loss, seconds))
            elif "loss" in logs and not bar and perf_counter() - self.said >= _EVERY:
                self.say(state, f"step {state.global_step} of {state.max_steps}: loss {loss:.3f} ({seconds:.0f} s)")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_train_end(args, state, control, **kwargs)
            if state.best_metric is not None:
                name = str(args.metric_for_best_model).removeprefix("eval_")
                best = f"{_NAMES.get(name, name)} {state.best_metric:.3f} on the validation split"
                self.say(state, f"best: step {state.best_global_step}, {best}")

        def say(self, state: Any, line: str) -> None:
            self.said = perf_counter()
            shown = getattr(self, "training_bar", None)
            if shown is not None:
                shown.write(line)
            elif state.is_world_process_zero:
                print(line, flush=True)

    return Lines()
