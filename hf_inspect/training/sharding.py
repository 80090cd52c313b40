"""Models whose weights are shared out among processes: which recipes can, and one that is whole again."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer

SHARES = "shares_weights"  # what a Trainer has set whose recipe evaluates in step and saves by `whole_again`


def refuse_shared(trainer: "Trainer") -> None:
    """DataError where FSDP or ZeRO-3 would share out the weights of a recipe that needs them whole in each process."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        raise DataError("ZeRO-3 shares out weights that this recipe needs whole; take recipes/accelerate/zero2.yaml.")
    if trainer.is_fsdp_enabled and not getattr(trainer, SHARES, False):
        raise DataError(
            "FSDP shares out weights that this recipe needs whole in each process; start it without FSDP, or by "
            "recipes/accelerate/zero2.yaml."
        )


def whole_again(trainer: "Trainer", built: Callable[[], "nn.Module"]) -> "nn.Module":
    """The trained model, whole on process 0: where FSDP shared it out, what `built` makes with the trained weights.

    All processes must call it; on the others the model stays as it is.
    """
    model: nn.Module = trainer.model
    if not trainer.is_fsdp_enabled:
        return model
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return model
    whole = built()
    whole.load_state_dict(weights)
    return whole.to(trainer.args.device)
