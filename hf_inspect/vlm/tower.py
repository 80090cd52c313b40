"""A vision tower's convolutions, laid out for the machine: channels last, and timm's in OpenVINO on a CPU."""

import copy
import functools
import warnings
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TimmWrapperModel

_IMAGES = 2  # a call: their activations stay in a CPU's cache, a batch's do not
_SIZES = 4  # image sizes whose networks are kept


def channels_last(model: "PreTrainedModel") -> None:
    """Lay two-dimensional convolutions out channels last: halves a convolutional vision tower's time."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def see_in_openvino(tower: "TimmWrapperModel") -> None:
    """Let OpenVINO run a vision tower of timm's, float32, in float32, for inference on a CPU.

    It takes about half of torch's bfloat16 time, and keeps features within 1e-4 of float32 torch's, where bfloat16
    convolutions move P(option) by up to 0.1.
    """
    network = tower.timm_model
    network.forward_features = _in_openvino(copy.deepcopy(network).eval().requires_grad_(False))


def _in_openvino(tower: Any) -> Any:
    """The tower's `forward_features`: (n, 3, h, w) -> (n, c, h', w'), float32; compiled when a size first comes.

    One size each, because `same` padding, which tracing makes constant, depends on it. Threads may share it: a size has
    one request, whose output the next call overwrites, so one of them is answered at a time, with a copy.
    """
    import torch

    compiled = functools.lru_cache(maxsize=_SIZES)(functools.partial(_compiled, tower))
    lock = Lock()

    def features(x: "torch.Tensor") -> "torch.Tensor":
        with lock:
            run = compiled(*x.shape[2:])
            return torch.cat([torch.from_numpy(run(some.float().numpy())[0].copy()) for some in x.split(_IMAGES)])

    return features


def _compiled(tower: Any, height: int, width: int) -> Any:
    """OpenVINO's network of a tower for images of one size.

    Converted by its PyTorch frontend itself: `openvino.convert_model` would report the conversion to its makers.
    """
    import openvino as ov
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(1, 3, height, width)
    with warnings.catch_warnings(), torch.inference_mode(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.trace, which OpenVINO reads best
        traced = torch.jit.trace(lambda x: tower.forward_features(x), example, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, graph_element=traced.graph)  # must outlive the conversion
    network = frontend.convert(frontend.load(decoder))
    network.reshape([-1, *example.shape[1:]])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return ov.compile_model(network, "CPU", settings)
