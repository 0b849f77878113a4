"""The pen for graphs: connected parts, grafts, and the graph that deepbet's networks become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ai.importing.brain_graph import brain_graph
from ai.masks import parts
from ai.models.graph import Graph

ENDS = (1, 1, "D", "H", "W")
Run = Callable[[np.ndarray], np.ndarray]


def session(content: bytes) -> Run:
    held = ort.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(values: np.ndarray) -> np.ndarray:
        (given,) = held.run(None, {held.get_inputs()[0].name: values[None, None]})
        return np.asarray(given)[0, 0]

    return run


@pytest.fixture(scope="module")
def largest_part() -> Run:
    g = Graph("part")
    g.named("Identity", [g.largest_part("mask")], ["part"])
    ends = [("mask", TensorProto.FLOAT, ENDS)], [("part", TensorProto.FLOAT, ENDS)]
    return session(g.serialized(*ends))


@pytest.mark.parametrize("share", [0.03, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_largest_part_is_the_one_that_a_library_finds(
    largest_part: Run, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(tuple(random.integers(2, 24, 3))) < share
    found = largest_part(mask.astype(np.float32)) > 0
    connected = parts(mask, "corners")
    assert found.sum() == connected.sizes.max(initial=0)
    assert not np.any(found & ~mask)
    assert np.unique(connected.numbers[found]).size <= 1


def test_a_winding_part_is_one_part(largest_part: Run) -> None:
    mask = np.zeros((3, 41, 41), np.float32)
    mask[1, ::2] = 1  # rows, joined at alternating ends
    mask[1, 1::4, -1] = mask[1, 3::4, 0] = 1
    mask[1, 0, 20] = 0  # and one piece cut off
    found = largest_part(mask)
    assert found.sum() == mask.sum() - 20
    assert found[1, 0, :20].sum() == 0


def test_of_nothing_the_largest_part_is_nothing(largest_part: Run) -> None:
    assert largest_part(np.zeros((4, 5, 6), np.float32)).sum() == 0


def network(threshold: float) -> onnx.ModelProto:
    """Two channels, the second 1 where the input is above a threshold."""
    nodes = [
        helper.make_node("Greater", ["x", "t"], ["above"]),
        helper.make_node("Cast", ["above"], ["yes"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["y"], axis=1),
    ]
    value = [
        helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("t", threshold), ("one", 1))
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "n", ends[:1], ends[1:], value)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_both_networks_see_lies_where_it_was() -> None:
    run = session(brain_graph(network(0.6), network(0.6)))
    z, y, x = np.indices((60, 140, 90))
    ball = ((z - 32) / 16) ** 2 + ((y - 70) / 40) ** 2 + ((x - 50) / 25) ** 2 < 1
    image = np.random.default_rng(2).normal(100, 5, ball.shape) + 900 * ball
    image[2:5, 3:7, 4:8] = 1000  # too far and too small to be in the box
    brain = run(image.astype(np.float32))
    assert brain.shape == ball.shape
    assert np.mean((brain > 0.5) != ball) < 0.002
    assert brain[:10].sum() == 0


def test_where_the_first_network_finds_nothing_the_second_sees_the_whole() -> None:
    run = session(brain_graph(network(9.0), network(0.6)))
    image = np.zeros((20, 30, 40), np.float32)
    image[5:10, 5:10, 5:10] = 1
    assert np.array_equal(run(image) > 0.5, image > 0.5)
    assert not run(np.zeros((20, 30, 40), np.float32)).any()


def spoilt(change: Callable[[onnx.ModelProto], Any]) -> onnx.ModelProto:
    model = network(0.5)
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.graph.output.append(m.graph.output[0]), "one input and one output"),
        (lambda m: m.graph.node.append(helper.make_node("Split", ["x"], ["a", "b"])), "Split is"),
    ],
)
def test_what_does_not_fit_is_not_grafted(
    change: Callable[[onnx.ModelProto], Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Graph("g").graft(spoilt(change), "p.", "x")
