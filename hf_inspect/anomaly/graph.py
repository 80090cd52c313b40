"""An anomaly model as an OpenVINO graph: whole, for the export; its features alone, which a CPU fits by sooner."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import MissingExtraError

if TYPE_CHECKING:
    import torch

    from hf_inspect.anomaly.model import SubspaceForAnomalyDetection

WORTH = 128  # images from which on the seconds that a conversion takes are saved again
PRECISION = "f32"


def converted(module: "torch.nn.Module", height: int, width: int) -> Any:
    """A module on the CPU that takes `pixel_values` (n, 3, height, width) -> its openvino.Model, for any n."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("A graph needs OpenVINO: pip install 'hf-inspect[train]'") from error
    import torch

    size = (3, height, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of sizes that are constants here, and of its own tracer
        example = {"pixel_values": torch.zeros(2, *size)}
        return openvino.convert_model(module, example_input=example, input=[openvino.PartialShape([-1, *size])])


def quick_patches(
    model: "SubspaceForAnomalyDetection", height: int, width: int, images: int
) -> "Callable[[torch.Tensor], torch.Tensor]":
    """`model.patches` for so many images of one size: on a CPU, in fp32 and where it is worth it, by OpenVINO.

    A network that OpenVINO cannot convert is left to torch, with a warning.
    """
    if model.device.type != "cpu" or model.config.bf16 or images < WORTH:
        return model.patches
    import openvino
    import torch
    from openvino.frontend import OpConversionFailure

    class Patches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model.patches(pixel_values)

    try:
        graph = converted(Patches(), height, width)
    except (RuntimeError, OpConversionFailure) as error:
        why = str(error).splitlines()[0]
        warnings.warn(f"OpenVINO cannot take this network, so torch computes its features: {why}", stacklevel=2)
        return model.patches
    settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def run(pixel_values: torch.Tensor) -> torch.Tensor:
        request.infer([pixel_values.numpy()], share_inputs=True)
        return torch.from_numpy(request.output_tensors[0].data.copy())

    return run
