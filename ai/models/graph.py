"""A thin pen for ONNX graphs: each call writes one node and gives the name of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# Opset 18 and IR 9 are read by every ONNX Runtime since 1.14.
_OPSET, _IR = 18, 9
_MOST_ROUNDS = 4096  # of numbering a part; far more than any needs


class Graph:
    """Writes a graph node by node, names counted up, so that two builds give the same bytes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], onnx.TensorProto] = {}
        self._weights: list[onnx.TensorProto] = []

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

    def largest_part(self, name: str) -> str:
        """Of a mask ``(1, 1, D, H, W)`` the largest part whose voxels share corners, as 0 and 1.

        Voxels carry the highest number met so far and, in each round, take that of their
        neighbours and of the voxel they are numbered after: the rounds grow with the logarithm of
        the part's length. Numbers are floats, so there are at most 2²⁴ voxels; of parts of one size
        the last is taken.
        """
        shape = self.op("Shape", name)
        count = self.op("ReduceProd", shape, keepdims=0)
        rising = self.op(
            "Range", self._scalar(1), self.op("Add", count, self._scalar(1)), self._scalar(1)
        )
        numbers = self.op("Mul", self.op("Reshape", self.floats(rising), shape), name)
        body = _rounds(name, shape)
        truth = self._constant(np.array(True))
        found = self.op("Loop", self._scalar(_MOST_ROUNDS), truth, numbers, body=body)
        flat = self.integers(self.op("Reshape", found, self.whole(-1)))
        ones = self.floats(self.op("Greater", flat, self._scalar(0)))
        room = self.op(
            "ConstantOfShape",
            self.op("Reshape", self.op("Add", count, self._scalar(1)), self.whole(1)),
        )
        sizes = self.op("ScatterElements", room, flat, ones, reduction="add")
        largest = self.floats(self.op("ArgMax", sizes, axis=0, keepdims=0))
        return self.op("Mul", self.floats(self.op("Equal", found, largest)), name)

    def graft(self, model: onnx.ModelProto, prefix: str, given: str) -> str:
        """All of another graph of one input and one output; gives the name of its output.

        Raises:
            ValueError: It has more ends than that, or an operator that is not the same in the
                opset of this graph.
        """
        graph = model.graph
        if len(graph.input) != 1 or len(graph.output) != 1:
            raise ValueError("only a graph with one input and one output can be grafted")
        versions = {entry.domain: entry.version for entry in model.opset_import}
        for kind in {(node.domain, node.op_type) for node in graph.node}:
            own = onnx.defs.get_schema(kind[1], versions[kind[0]], kind[0]).since_version
            if kind[0] or onnx.defs.get_schema(kind[1], _OPSET).since_version != own:
                raise ValueError(f"{kind[1]} is another operator in opset {_OPSET}")
        names = {graph.input[0].name: given, "": ""}
        for tensor in graph.initializer:
            held = onnx.TensorProto()
            held.CopyFrom(tensor)
            held.name = names[tensor.name] = f"{prefix}{tensor.name}"
            self._weights.append(held)
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{prefix}{node.name}" if node.name else ""
            names |= {name: f"{prefix}{name}" for name in node.output if name}
            copy.input[:] = [names[name] for name in node.input]
            copy.output[:] = [names[name] for name in node.output]
            self._nodes.append(copy)
        return names[graph.output[0].name]

    def _scalar(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

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
            [*self._constants.values(), *self._weights],
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR, producer_name="medai")
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _rounds(mask: str, shape: str) -> onnx.GraphProto:
    """One round of `Graph.largest_part`: the body of its loop, which sees `mask` and `shape`."""
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("MaxPool", ["held"], "near", {"kernel_shape": [3, 3, 3], "pads": [1] * 6}),
        ("Mul", ["near", mask], "met", {}),
        ("Reshape", ["met", "all"], "flat", {}),
        ("Concat", ["none", "flat"], "by_number", {"axis": 0}),
        ("Cast", ["flat"], "number", {"to": TensorProto.INT64}),
        ("Gather", ["by_number", "number"], "followed", {"axis": 0}),
        ("Max", ["flat", "followed"], "best", {}),
        ("Reshape", ["best", shape], "taken", {}),
        ("Sub", ["taken", "held"], "gained", {}),
        ("ReduceMax", ["gained"], "most", {"keepdims": 0}),
        ("Greater", ["most", "zero"], "again", {}),
    ]
    held = helper.make_tensor_value_info("held", TensorProto.FLOAT, None)
    return helper.make_graph(
        [helper.make_node(kind, given, [made], **more) for kind, given, made, more in nodes],
        "round",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            held,
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("taken", TensorProto.FLOAT, None),
        ],
        [
            numpy_helper.from_array(np.array([-1], np.int64), "all"),
            numpy_helper.from_array(np.array([0.0], np.float32), "none"),
            numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
        ],
    )
