"""Models that go wrong in one way each when they are given an image that is not empty.

Each takes a radiograph and scores it by its mean. A blank image, with which the runtime sets itself
up, is scored at once; so is every image by the model `healthy`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ai.models.graph import Graph
from tests.model_packages import LOGIT, WHOLE, head, primary_input, scored, write_package

BOXES = 400_000
"""So many boxes that do not touch are compared each with each: minutes in a single operator."""

SIDE, PRODUCTS = 4096, 100
"""Of square matrices, multiplied so often: minutes too."""

ELEMENTS = 1 << 42
"""So many floats are sixteen tebibytes."""

FOREVER = 1 << 62


def _scored(g: Graph, extra: str | None) -> bytes:
    """The mean of the image, with something added that the fault gives."""
    mean = g.op("ReduceMean", g.op("Min", "image", g.real(1.0)), keepdims=0)
    total = mean if extra is None else g.op("Add", mean, extra)
    g.named("Reshape", [total, g.whole(1, 1)], ["logits"])
    return g.serialized(
        [("image", TensorProto.FLOAT, ("N", 1, "H", "W"))],
        [("logits", TensorProto.FLOAT, (1, 1))],
    )


def _when_seen(g: Graph, much: int, little: int) -> str:
    """A count that is much where the image holds anything, as int64 ``()``."""
    seen = g.op("Greater", g.op("ReduceMax", "image", keepdims=0), g.real(0.0))
    counts = [g.array(np.array(count, np.int64)) for count in (much, little)]
    return g.op("Where", seen, *counts)


def healthy() -> bytes:
    """Nothing goes wrong."""
    return _scored(Graph("healthy"), None)


def unlucky() -> bytes:
    """Nothing either; tests damage its file."""
    return _scored(Graph("unlucky"), None)


def endless() -> bytes:
    """A loop of many short rounds: it ends between two of them when it is told to."""
    g = Graph("endless")
    one = helper.make_tensor("one", TensorProto.FLOAT, (), [1.0])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ()),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, ()),
        ],
        [one],
    )
    truth = g.array(np.array(True))
    rounds = g.op("Loop", _when_seen(g, FOREVER, 0), truth, g.real(0.0), body=body)
    return _scored(g, rounds)


def deaf() -> bytes:
    """One operator that takes minutes: it hears of nothing meanwhile."""
    g = Graph("deaf")
    return _scored(g, _compared(g, _when_seen(g, BOXES, 1)))


def deaf_while_loading() -> bytes:
    """Products of constants: the runtime computes them, deaf to all, when it loads the graph."""
    g = Graph("deaf-while-loading")
    side = g.array(np.full(2, SIDE, np.int64))
    made = matrix = g.op("ConstantOfShape", side, value=_float(1e-9))
    for _ in range(PRODUCTS):
        made = g.op("MatMul", made, matrix)
    return _scored(g, g.op("ReduceMax", made, keepdims=0))


def _compared(g: Graph, count: str) -> str:
    """Non-maximum suppression over boxes that do not touch; gives 0 when it is done."""
    numbers = g.floats(g.op("Range", g.op("Sub", count, count), count, _one(g)))
    column = g.op("Reshape", numbers, g.whole(1, -1, 1))
    corners = [g.op("Add", column, g.real(by)) for by in (0.0, 0.0, 0.5, 0.5)]
    boxes = g.op("Concat", *corners, axis=2)
    scores = g.op("Reshape", g.op("Mul", numbers, g.real(-1.0)), g.whole(1, 1, -1))
    most = g.op("Reshape", count, g.whole(1))
    kept = g.op("NonMaxSuppression", boxes, scores, most, g.real(0.5))
    return g.op("Mul", g.op("ReduceMax", g.floats(kept), keepdims=0), g.real(0.0))


def _one(g: Graph) -> str:
    return g.array(np.array(1, np.int64))


def greedy() -> bytes:
    """It asks for more memory than any machine has."""
    g = Graph("greedy")
    shape = g.op("Reshape", _when_seen(g, ELEMENTS, 1), g.whole(1))
    zeros = g.op("ConstantOfShape", shape, value=_float(0.0))
    return _scored(g, g.op("ReduceMax", zeros, keepdims=0))


def _float(value: float) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([value], np.float32))


def wordless() -> bytes:
    """It answers with what is no number."""
    g = Graph("wordless")
    nothing = g.op("Sub", g.op("Mul", g.floats(_when_seen(g, 1, 0)), g.real(-1.0)), g.real(0.0))
    return _scored(g, g.op("Sqrt", nothing))


FAULTS: dict[str, Callable[[], bytes]] = {
    made.__name__.replace("_", "-"): made
    for made in (healthy, unlucky, endless, deaf, deaf_while_loading, greedy, wordless)
}


def write_model(folder: Path, name: str) -> Path:
    """Write one of `FAULTS` as a package below a folder of models; gives its graph."""
    image = primary_input(WHOLE, tensor="image", modality="CR", units="1")
    bright = scored("bright", LOGIT)
    place = folder / name / "1.0.0"
    write_package(place, FAULTS[name](), head(name) + image + bright)
    return place / "model.onnx"
