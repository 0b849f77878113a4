"""A thin pen for ONNX graphs: each call writes one node and gives the name of its result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# Opset 18 and IR 9 are read by every ONNX Runtime since 1.14.
_OPSET, _IR = 18, 9


class Graph:
    """Writes a graph node by node, names counted up, so that two builds give the same bytes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Adds a node with one result."""
        result = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def named(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **more: object
    ) -> None:
        """Adds a node whose results have given names."""
        self._nodes.append(helper.make_node(kind, list(inputs), list(outputs), **more))

    def real(self, *values: float) -> str:
        """A constant of type float: a scalar for one value."""
        return self._constant(np.array(values if len(values) > 1 else values[0], np.float32))

    def whole(self, *values: int) -> str:
        """A one-dimensional constant of type int64."""
        return self._constant(np.array(values, np.int64))

    def array(self, values: NDArray[np.generic]) -> str:
        """A constant with the type and shape of an array."""
        return self._constant(values)

    def floats(self, name: str) -> str:
        """Truth values as 0 and 1."""
        return self.op("Cast", name, to=TensorProto.FLOAT)

    def integers(self, name: str) -> str:
        """Values as int64, cut towards zero."""
        return self.op("Cast", name, to=TensorProto.INT64)

    def dilated(self, name: str, width: int) -> str:
        """Highest value within a square of odd width; beyond the image there is nothing."""
        pad = width // 2
        return self.op("MaxPool", name, kernel_shape=[width, width], pads=[pad] * 4)

    def eroded(self, name: str, width: int) -> str:
        """Lowest value within a square of odd width."""
        return self.op("Neg", self.dilated(self.op("Neg", name), width))

    def opened(self, name: str, width: int) -> str:
        """Without what the square does not fit into."""
        return self.dilated(self.eroded(name, width), width)

    def closed(self, name: str, width: int) -> str:
        """Without the gaps that the square does not fit into."""
        return self.eroded(self.dilated(name, width), width)

    def between_rays(self, name: str) -> str:
        """1 where rays to the left, right, top and bottom all meet something that is 1."""
        met = [
            self.op("Min", self.op("CumSum", name, self.whole(axis), reverse=reverse), self.real(1))
            for axis in (2, 3)
            for reverse in (0, 1)
        ]
        return self.op("Min", *met)

    def _constant(self, array: NDArray[np.generic]) -> str:
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array, name)
        return str(self._constants[key].name)

    def serialized(
        self,
        inputs: Sequence[tuple[str, int, Sequence[int | str]]],
        outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    ) -> bytes:
        """The checked graph as bytes, the same at every build."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info(*entry) for entry in inputs],
            [helper.make_tensor_value_info(*entry) for entry in outputs],
            list(self._constants.values()),
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR, producer_name="medai")
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content
