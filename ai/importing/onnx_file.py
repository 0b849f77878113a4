"""What an ONNX file says about itself, and making one file of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai.importing.descriptions import one_line
from ai.importing.extra import need
from config.errors import ModelFileError

# The standard's own operators, and those that every build of the runtime holds.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MOST_BYTES = (1 << 31) - 1  # protobuf's own limit
_DECODE_FAULTS = (ValueError, TypeError, KeyError, IndexError, RecursionError)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        kind: Its element type as ONNX names it, ``FLOAT``.
        shape: A number for each fixed axis, None for the others; None without a shape.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return self.name
        sizes = (("?" if size is None else str(size)) for size in self.shape)
        return f"{self.name} ({' × '.join(sizes)})"


@dataclass(frozen=True)
class Graph:
    """The ends of a graph, and its bytes as one file."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    content: bytes


def read_graph(path: Path) -> Graph:
    """Reads an ONNX file with the weights beside it, if they are there.

    Raises:
        ModelFileError: It is no ONNX, holds operators that are not of the runtime, its weights
            lie elsewhere, or it is above 2 GB.
        UsageError: The package onnx is not installed.
    """
    onnx = need("onnx")
    model = _decoded(onnx, path)
    foreign = sorted(_foreign(model))
    if foreign:
        raise ModelFileError(f"{path.name} needs custom operators: {', '.join(foreign)[:200]}")
    for tensor in _tensors(model.graph):
        _check_place(tensor, path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        content: bytes = model.SerializeToString()
    except (onnx.checker.ValidationError, OSError, *_DECODE_FAULTS) as error:
        reason = one_line(error)
        raise ModelFileError(f"the weights of {path.name} cannot be read: {reason}") from error
    if len(content) > _MOST_BYTES:
        raise ModelFileError(f"{path.name} is above 2 GB")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_end(onnx, each) for each in model.graph.input if each.name not in constants]
    outputs = [_end(onnx, each) for each in model.graph.output]
    return Graph(tuple(inputs), tuple(outputs), content)


def _decoded(onnx: Any, path: Path) -> Any:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ModelFileError(f"{path.name} is above 2 GB")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError differs from build to build
        raise ModelFileError(f"{path.name} is no ONNX file") from error
    if not model.graph.output:
        raise ModelFileError(f"{path.name} is no ONNX file: it has no outputs")
    return model


def _foreign(model: Any) -> set[str]:
    own = {function.domain for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return {
        f"{node.domain}.{node.op_type}"
        for nodes in bodies
        for node in _nodes(nodes)
        if node.domain not in _DOMAINS | own
    }


def _nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for graph in _bodies(node):
            yield from _nodes(graph.node)


def _bodies(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant of a graph, those of its nodes and of graphs inside them too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in _bodies(node):
            yield from _tensors(inner)


def _check_place(tensor: Any, path: Path) -> None:
    """A file of weights lies beside the graph, or below it, and is no link elsewhere."""
    for entry in tensor.external_data:
        if entry.key == "location":
            folder = path.parent.resolve()
            if not (path.parent / entry.value).resolve().is_relative_to(folder):
                raise ModelFileError(f"{path.name} names weights that lie elsewhere")


def _end(onnx: Any, value: Any) -> Tensor:
    kind = value.type.tensor_type
    shape: tuple[int | None, ...] | None = None
    if kind.HasField("shape"):
        sizes = [each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim]
        shape = tuple(size if size and size > 0 else None for size in sizes)
    return Tensor(value.name, onnx.TensorProto.DataType.Name(kind.elem_type), shape)
