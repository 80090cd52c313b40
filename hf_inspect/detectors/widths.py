"""The widths of a network's layers as a config states them, and a network of such widths."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

Width = list[int]  # of a convolution outputs, inputs a group and groups; of a norm its features


def widths_of(model: nn.Module) -> dict[str, Width]:
    """The widths of all convolutions and batch norms, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            found[name] = [*module.weight.shape[:2], module.groups]
        elif isinstance(module, nn.BatchNorm2d):
            found[name] = [module.num_features]
    return found


def narrow(model: nn.Module, widths: Mapping[str, Sequence[int]]) -> None:
    """Give layers by their names new weights, of other widths."""
    for name, width in widths.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            outputs, inputs, groups = width
            module.out_channels, module.in_channels, module.groups = outputs, inputs * groups, groups
            module.weight = nn.Parameter(module.weight.new_empty(outputs, inputs, *module.kernel_size))
            module.bias = None if module.bias is None else nn.Parameter(module.bias.new_empty(outputs))
            nn.Conv2d.reset_parameters(module)
        elif isinstance(module, nn.BatchNorm2d):
            (module.num_features,) = width
            module.weight, module.bias = (nn.Parameter(torch.empty(width, device=module.weight.device)) for _ in "wb")
            module.running_mean, module.running_var = (torch.empty(width, device=module.weight.device) for _ in "mv")
            nn.BatchNorm2d.reset_parameters(module)
