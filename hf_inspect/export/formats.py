"""A network in torch -> a file that a runtime reads: OpenVINO's, or ONNX's for ONNX Runtime."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hf_inspect.anomaly.graph import converted
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.export.layers import Network, of_onnx, of_openvino
from hf_inspect.runtime import MODEL, NETWORKS, ONNX_RUNTIME, OPENVINO

if TYPE_CHECKING:
    import torch

_OPSET = 20  # of ONNX; 17 where torch's older exporter has to write it
_OLDER_OPSET = 17


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file that a network is exported to.

    `runtime` runs it. `convert`: a module on the CPU that takes `pixel_values` (n, 3, height, width), of this height
    and width, -> the network, for any n. `layers`: those of a network. `save`: a network into a folder. `files`: their
    names there. `made_with`: packages that decide what is in them.
    """

    runtime: str
    convert: Callable[["torch.nn.Module", int, int], Any]
    layers: Callable[[Any], Network]
    save: Callable[[Any, Path], None]
    files: tuple[str, ...]
    made_with: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        """The packages that made the files, NNCF among them, by name."""
        return {name: version(name) for name in (*self.made_with, "nncf", "transformers")}


def format_named(name: str) -> Format:
    """The format of a name; MissingExtraError for one that is made elsewhere, DataError for one that is not known."""
    if name in _ELSEWHERE:
        raise MissingExtraError(f"{name} is not written here: {_ELSEWHERE[name]}")
    if name not in FORMATS:
        raise DataError(f"{name!r} is not known; give {', '.join((*FORMATS, *_ELSEWHERE))}.")
    return FORMATS[name]


def _save_openvino(network: Any, folder: Path) -> None:
    import openvino

    openvino.save_model(network, folder / MODEL, compress_to_fp16=False)


def _to_onnx(module: "torch.nn.Module", height: int, width: int) -> Any:
    """By torch's exporter of today, or by its older one where that cannot follow the module, as of a DETR; checked."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch's exporter writes with
    except ImportError as error:
        raise MissingExtraError("ONNX needs onnx and onnxscript: pip install 'hf-inspect[export]'") from error
    import torch

    example, names = (torch.zeros(2, 3, height, width),), ["pixel_values"]
    with TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of sizes that are constants here, and of its own older exporter
        path = Path(folder) / NETWORKS[ONNX_RUNTIME]
        traced = _traced(module, example)
        if traced is None:
            torch.onnx.export(
                module, example, path, input_names=names, dynamo=False, opset_version=_OLDER_OPSET,
                dynamic_axes={"pixel_values": {0: "n"}},
            )  # fmt: skip
        else:
            torch.onnx.export(
                traced, (), path, input_names=names, dynamo=True, verbose=False, opset_version=_OPSET,
                external_data=False,
            )  # fmt: skip
        network = onnx.load(path)
    onnx.checker.check_model(network, full_check=True)
    return _without_places(network)


def _traced(module: "torch.nn.Module", example: tuple["torch.Tensor"]) -> Any | None:
    """The module's graph for any number of images; None where torch cannot follow it, for one reason or another.

    torch.onnx.export would try a strict way next, which takes twice as long and follows no more of our models.
    """
    import torch

    try:
        return torch.export.export(module, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    except Exception:  # of many kinds
        return None


def _without_places(network: Any) -> Any:
    """The network without what its exporter notes beside the nodes: lines of code, with the paths of this machine."""
    del network.metadata_props[:]
    for one in (network.graph, *network.graph.node, *network.graph.value_info, *network.graph.initializer):
        one.ClearField("doc_string")
        del one.metadata_props[:]
    return network


def _save_onnx(network: Any, folder: Path) -> None:
    import onnx

    onnx.save(network, folder / NETWORKS[ONNX_RUNTIME])


FORMATS: Mapping[str, Format] = {
    "openvino": Format(
        OPENVINO, converted, of_openvino, _save_openvino, (MODEL, str(Path(MODEL).with_suffix(".bin"))), ("openvino",)
    ),
    "onnx": Format(
        ONNX_RUNTIME, _to_onnx, of_onnx, _save_onnx, (NETWORKS[ONNX_RUNTIME],), ("torch", "onnx", "onnxruntime")
    ),
}
_ELSEWHERE = {  # formats whose files could not be run here to be compared with the model
    "tensorrt": "an engine is built on the GPU that will run it. Export with --to onnx and, where TensorRT is "
    "installed (pip install tensorrt), run: trtexec --onnx=OUT/model.onnx --saveEngine=model.plan",
    "tflite": "LiteRT's converter, litert-torch 0.10, does not install beside torch 2.15. Export with --to onnx, and "
    "convert that in an environment of its own (pip install onnx2tf, say).",
}
