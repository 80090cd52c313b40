"""Products in bfloat16 during a training, by autocast alone: no weight is turned into another type."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Products:
    """Goes before a Trainer: its losses, and what it scores by, are computed under autocast where `products`, set
    before training, is bfloat16.

    accelerate's mixed precision would wrap one process alike, but have FSDP and DeepSpeed turn all weights into
    bfloat16, those of a head and of a tower that compute in float32 too. DeepSpeed goes by its own file:
    `torch_autocast` of recipes/accelerate/zero2.json.
    """

    args: Any
    products: "torch.dtype | None" = None

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """What the Trainer enters around each loss."""
        import torch

        low = self.products == torch.bfloat16
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=low, cache_enabled=cache_enabled)
