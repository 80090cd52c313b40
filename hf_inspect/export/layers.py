"""The layers of a network's file, whichever runtime's, and which of them stay in float when the others go to 8 bits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_CONVOLUTIONS = {"Convolution", "GroupConvolution", "Conv"}  # OpenVINO's and ONNX's names
_PRODUCTS = {"MatMul", "Gemm"}
_SHAPES = {"ShapeOf", "Shape"}  # whose values are none of an image's


@dataclass(frozen=True, slots=True)
class Layer:
    """An operation: its name and type in its file, the names of the layers that its values come from.

    `height` is of its output, of a convolution, in the pixels there; `depthwise` one whose channels do not meet.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    height: int | None = None
    depthwise: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """Layers in the order they are computed in, the names of those whose values go out, and the images' height."""

    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    height: int


def kept_in_float(network: Network) -> list[str]:
    """Names of the layers that lose most by 8 bits and win least.

    Depthwise convolutions, and those at half resolution: on EfficientNet-Lite0 and ELPV's 262 validation images, 6
    decisions flip with all in 8 bits, none without these; a forward pass takes 4.3 and 5.5 ms, and 11.4 ms in float
    (medians of one interleaved run, 2 shared CPU cores).
    """
    return [
        one.name
        for one in network.layers
        if one.kind in _CONVOLUTIONS and (one.depthwise or 2 * (one.height or 0) >= network.height)
    ]


def last_of(network: Network) -> list[str]:
    """Names of the last layers with weights on every way to an output, and of all that comes after them.

    Of a detector these say class and box of each place, and the arithmetic that makes scores and corners of it: 256
    steps from one end of the image to the other are pixels apart.
    """
    by_name = {one.name: one for one in network.layers}
    found: dict[str, None] = {}
    ahead = list(network.outputs)
    while ahead:
        one = by_name.get(ahead.pop())
        if one is None or one.name in found or one.kind in _SHAPES:
            continue
        found[one.name] = None
        if one.kind not in _CONVOLUTIONS | _PRODUCTS:
            ahead += one.inputs
    return list(found)


def of_openvino(model: Any) -> Network:
    """The layers of an openvino.Model, its constants apart."""
    ops = [op for op in model.get_ordered_ops() if op.get_type_name() not in ("Constant", "Parameter", "Result")]
    layers = tuple(
        Layer(
            op.get_friendly_name(),
            op.get_type_name(),
            tuple(one.get_node().get_friendly_name() for one in op.input_values()),
            op.output(0).partial_shape[2].get_length() if op.get_type_name() in _CONVOLUTIONS else None,
            op.get_type_name() == "GroupConvolution",
        )
        for op in ops
    )
    outputs = (one.input_value(0).get_node().get_friendly_name() for one in model.get_results())
    return Network(layers, tuple(outputs), model.input(0).partial_shape[2].get_length())


def of_onnx(model: Any) -> Network:
    """The layers of an onnx.ModelProto."""
    from onnx import helper, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    heights = {one.name: _height(one) for one in (*graph.input, *graph.value_info, *graph.output)}
    makers = {name: node.name for node in graph.node for name in node.output}
    groups = {
        node.name: next((helper.get_attribute_value(a) for a in node.attribute if a.name == "group"), 1)
        for node in graph.node
    }
    layers = tuple(
        Layer(
            node.name,
            node.op_type,
            _made(node.input, makers),
            heights.get(node.output[0]) if node.op_type in _CONVOLUTIONS else None,
            groups[node.name] > 1,
        )
        for node in graph.node
    )
    return Network(layers, _made((one.name for one in graph.output), makers), heights[graph.input[0].name] or 0)


def _made(values: Iterable[str], makers: dict[str, str]) -> tuple[str, ...]:
    return tuple(makers[value] for value in values if value in makers)


def _height(value: Any) -> int | None:
    """Of a value of four dimensions, where it is known."""
    sizes: Sequence[Any] = value.type.tensor_type.shape.dim
    return sizes[2].dim_value or None if len(sizes) == 4 else None
