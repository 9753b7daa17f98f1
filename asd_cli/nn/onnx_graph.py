"""Torch networks spelled as ONNX graphs, node by node, and run by ONNX Runtime: the fastest engine on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from asd_cli.nn.pyramid import Cut, DensePyramid, PatchNetwork

_OPSET, _IR_VERSION = 18, 9  # of ONNX 1.14 (2023); any later runtime reads them
_QUIET = 3  # errors only
_ROWS, _COLS = 2, 3


class OnnxGraph:
    """Collects the nodes of a graph with one input, `x`; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of a kind of the ONNX standard, with one output."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: ArrayLike, dtype: Any = np.float32) -> str:
        """An array."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def conv(self, x: str, layer: nn.Conv2d, *, stride: int = 1, dilation: int = 1) -> str:
        """The weights of a layer, with another stride and dilation."""
        inputs = [x, self.constant(array(layer.weight))]
        if layer.bias is not None:
            inputs.append(self.constant(array(layer.bias)))
        return self.add("Conv", *inputs, strides=[stride] * 2, dilations=[dilation] * 2)

    def max_pool(self, x: str, *, stride: int = 1, dilation: int = 1) -> str:
        """2 x 2."""
        return self.add("MaxPool", x, kernel_shape=[2, 2], strides=[stride] * 2, dilations=[dilation] * 2)

    def crop(self, x: str, start: int, height: int, width: int, *, step: int = 1) -> str:
        """Rows ``start : start + height : step`` and columns likewise; less where the input ends before."""
        starts, ends = [start, start], [start + height, start + width]
        integers = [self.constant(values, np.int64) for values in (starts, ends, [_ROWS, _COLS], [step, step])]
        return self.add("Slice", x, *integers)

    def enlarge(self, x: str, factor: int) -> str:
        """Nearest neighbour: every pixel `factor` times in both directions."""
        sizes = self.constant([1, 1, factor, factor])
        return self.add(
            "Resize", x, "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def session(self, output: str, shape: Sequence[int]) -> onnxruntime.InferenceSession:
        """What computes `output` from `x` (float32, of that shape) on one thread of the CPU, the caller's."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "asd", inputs, outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def array(tensor: Tensor) -> NDArray[Any]:
    """A parameter or buffer as a NumPy array."""
    found: NDArray[Any] = tensor.detach().cpu().numpy()
    return found


def add_pyramid(graph: OnnxGraph, pyramid: DensePyramid, x: str, shape: tuple[int, int]) -> list[str]:
    """`DensePyramid.parts` as nodes: for every scale what becomes (1, length, *shape)."""
    return [
        _add_branch(graph, cast(PatchNetwork, branch), exponent, x, shape, pyramid.halo)
        for branch, exponent in zip(pyramid.branches, pyramid.exponents, strict=True)
    ]


def _add_branch(
    graph: OnnxGraph, branch: PatchNetwork, exponent: int, x: str, shape: tuple[int, int], halo: int
) -> str:
    height, width = shape
    cut = Cut.of(branch, exponent, shape, halo)
    if exponent < 0:
        x = graph.crop(x, 0, height + 2 * halo, width + 2 * halo, step=cut.factor)
    x = graph.crop(x, cut.start, cut.height, cut.width)
    if exponent < 0:
        x = graph.enlarge(_add_patches(graph, branch, x, 1), cut.factor)
    else:
        if cut.factor > 1:
            x = graph.enlarge(x, cut.factor)
            x = graph.crop(x, cut.skip, cut.factor * cut.height, cut.factor * cut.width)
        x = _add_patches(graph, branch, x, cut.factor)
    return graph.crop(x, 0, height, width)


def _add_patches(graph: OnnxGraph, branch: PatchNetwork, x: str, stride: int) -> str:
    """`PatchNetwork.forward` as nodes."""
    dilation = 1
    for layer in (branch.conv1, branch.conv2):
        x = graph.add("Relu", graph.conv(x, layer, dilation=dilation))
        if stride > 1:
            x = graph.max_pool(x, stride=2)
            stride //= 2
        else:
            x = graph.max_pool(x, dilation=dilation)
            dilation *= 2
    x = graph.add("Relu", graph.conv(x, branch.conv3, stride=stride, dilation=dilation))
    return graph.conv(x, branch.conv4)
