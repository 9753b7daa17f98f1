"""Torch networks spelled as ONNX graphs, node by node, and run by ONNX Runtime: the fastest engine on CPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from asd_cli.nn.pyramid import Cut, DensePyramid, PatchNetwork

# importing it must not tell its makers of each run, nor mark this machine in the home folder
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

OPSET, IR_VERSION = 18, 9  # of ONNX 1.14 (2023); any later runtime reads them
Dimension = int | str
_QUIET = 3  # errors only
_TO_THE_END = 2**31 - 1
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
        shape = {"strides": [stride] * 2, "dilations": [dilation] * 2, "group": layer.groups}
        return self.add("Conv", *inputs, **shape)

    def max_pool(self, x: str, *, stride: int = 1, dilation: int = 1) -> str:
        """2 x 2."""
        return self.add("MaxPool", x, kernel_shape=[2, 2], strides=[stride] * 2, dilations=[dilation] * 2)

    def trim(self, x: str, before: int, after: int = 0, *, step: int = 1) -> str:
        """Every `step`-th row and column without the first `before` and the last `after` ones."""
        if (before, after, step) == (0, 0, 1):
            return x
        ends = [-after or _TO_THE_END] * 2
        integers = [self.constant(values, np.int64) for values in ([before] * 2, ends, [_ROWS, _COLS], [step] * 2)]
        return self.add("Slice", x, *integers)

    def crop(self, x: str, size: str) -> str:
        """The first rows and columns, as many as `inner_size` says."""
        return self.add("Slice", x, self.constant([0, 0], np.int64), size, self.constant([_ROWS, _COLS], np.int64))

    def inner_size(self, x: str, halo: int) -> str:
        """(rows, columns) of an image less its halo, known where the graph runs."""
        return self.add("Sub", self.add("Shape", x, start=_ROWS), self.constant([2 * halo] * 2, np.int64))

    def mirror(self, x: str, margin: int) -> str:
        """Rows and columns mirrored beyond the edges, which are not repeated; the image is larger than the margin."""
        pads = self.constant([0, 0, margin, margin] * 2, np.int64)
        return self.add("Pad", x, pads, mode="reflect")

    def enlarge(self, x: str, factor: int) -> str:
        """Nearest neighbour: every pixel `factor` times in both directions."""
        sizes = self.constant([1, 1, factor, factor])
        return self.add(
            "Resize", x, "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def interpolate(self, x: str, factor: int) -> str:
        """Bilinear: `factor` pixels for each, in between the middles of the old ones."""
        sizes = self.constant([1, 1, factor, factor])
        return self.add("Resize", x, "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")

    def rename(self, x: str, name: str) -> str:
        """The same values under a name of one's own."""
        self._nodes.append(helper.make_node("Identity", [x], [name]))
        return name

    def model(
        self,
        output: str,
        shape: Sequence[Dimension],
        out_shape: Sequence[Dimension] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """The file that computes `output` from `x` (float32, of that shape; a name stands for any size)."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, out_shape)]
        graph = helper.make_graph(self._nodes, "asd", inputs, outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        helper.set_model_props(model, dict(metadata or {}))
        return bytes(model.SerializeToString())

    def session(self, output: str, shape: Sequence[int]) -> onnxruntime.InferenceSession:
        """What computes `output` from `x` (float32, of that shape) on one thread of the CPU, the caller's."""
        return session_of(self.model(output, shape))


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """What runs a file of `OnnxGraph.model` on one thread of the CPU, the caller's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_once(model: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Check a file of `OnnxGraph.model` against the standard and run it."""
    onnx.checker.check_model(model, full_check=True)
    result: NDArray[np.float32] = session_of(model).run(None, {"x": x})[0]
    return result


def array(tensor: Tensor) -> NDArray[Any]:
    """A parameter or buffer as a NumPy array."""
    found: NDArray[Any] = tensor.detach().cpu().numpy()
    return found


def add_pyramid(graph: OnnxGraph, pyramid: DensePyramid, x: str) -> list[str]:
    """`DensePyramid.parts` as nodes: for every scale what becomes (B, length, H, W), whatever the size of `x` is."""
    size = graph.inner_size(x, pyramid.halo)
    return [
        graph.crop(_add_branch(graph, cast(PatchNetwork, branch), exponent, x, pyramid.halo), size)
        for branch, exponent in zip(pyramid.branches, pyramid.exponents, strict=True)
    ]


def _add_branch(graph: OnnxGraph, branch: PatchNetwork, exponent: int, x: str, halo: int) -> str:
    """One scale; at those below 1 a little larger than wanted."""
    cut = Cut.of(branch, exponent, (0, 0), halo)
    if exponent < 0:
        x = graph.trim(x, 0, step=cut.factor)
        x = graph.trim(x, cut.start, 2 * halo // cut.factor - cut.start - cut.height)
        return graph.enlarge(_add_patches(graph, branch, x, 1), cut.factor)
    x = graph.trim(x, cut.start, 2 * halo - cut.start - cut.height)
    if cut.factor > 1:
        x = graph.trim(graph.enlarge(x, cut.factor), cut.skip)
    return _add_patches(graph, branch, x, cut.factor)


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
