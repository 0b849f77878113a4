"""Builds ``mr-foreground``: what is not air on MR, by a threshold found in the volume itself.

python -m ai.models.build_mr_foreground [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto

from ai.golden import Case
from ai.models.building import expected, write_model
from ai.models.graph import Graph
from ai.registry import bundled_models_path
from ai.types import Volume

FOLDER = bundled_models_path() / "mr-foreground" / "1.0.0"
ROUNDS = 16  # of the search for the threshold; it stands still long before
LOW = 0.3  # of the way from the dark mean to the bright one: dim tissue is tissue
SPECK_WIDTH = 5  # pixels; what is thinner is noise or ghosting


def graph() -> bytes:
    """Signal ``(1, D, H, W)`` in, labels 0 and 1 of the same shape out."""
    g = Graph("mr-foreground")
    solid = g.opened(g.floats(g.op("Greater", "signal", _threshold(g))), SPECK_WIDTH)
    within = g.op("Max", g.between_rays(solid), solid)
    g.named("Cast", [within], ["labels"], to=TensorProto.UINT8)
    shape = (1, "D", "H", "W")
    return g.serialized(
        [("signal", TensorProto.FLOAT, shape)], [("labels", TensorProto.UINT8, shape)]
    )


def _threshold(g: Graph) -> str:
    """Between the means of what is darker and what is brighter than it (Ridler and Calvard)."""
    values = g.op("Reshape", "signal", g.whole(-1))
    count, total = g.floats(g.op("Size", values)), _sum(g, values)
    middle = g.op("Div", total, count)
    dark = bright = middle
    for _ in range(ROUNDS):
        above = g.floats(g.op("Greater", values, middle))
        many, much = _sum(g, above), _sum(g, g.op("Mul", values, above))
        bright = g.op("Div", much, g.op("Max", many, g.real(1.0)))
        rest = g.op("Max", g.op("Sub", count, many), g.real(1.0))
        dark = g.op("Div", g.op("Sub", total, much), rest)
        middle = g.op("Mul", g.op("Add", dark, bright), g.real(0.5))
    step = g.op("Mul", g.op("Sub", bright, dark), g.real(LOW))
    return g.op("Add", dark, step)


def _sum(g: Graph, values: str) -> str:
    return g.op("ReduceSum", values, keepdims=0)


def phantom() -> tuple[Volume, np.ndarray]:
    """Boxes in dim noise, different along every axis, and which voxels belong to them."""
    shape = (8, 60, 72)
    signal = np.random.default_rng(7).integers(0, 20, shape).astype(np.uint16)
    labels = np.zeros(shape, np.uint8)
    signal[1:7, 8:50, 10:60] = 300
    signal[2:6, 14:40, 20:50] = 150  # dim, and within
    signal[3:5, 20:30, 24:34] = 5  # no signal at all, and within
    signal[:, 54:56, :] = 200  # a ghost: too thin
    labels[1:7, 8:50, 10:60] = 1
    affine = np.array(
        [[0.0, 0.0, 1.5, -50.0], [0.0, 1.5, 0.0, -40.0], [3.0, 0.0, 0.0, 10.0], [0, 0, 0, 1.0]]
    )
    return Volume(signal, "1", affine, (3.0, 1.5, 1.5), (0.0, 4095.0)), labels


def golden() -> Case:
    """The phantom with its volume as drawn, not as the model gave it."""
    volume, labels = phantom()
    size = float(labels.sum()) * 3.0 * 1.5 * 1.5 / 1000.0
    findings = [expected("body", [size])]
    return Case("phantom", volume, labels, findings, voxels=0.0, relative=1e-5)


def build(folder: Path = FOLDER) -> None:
    """Writes the package's files, into its own folder unless told otherwise."""
    write_model(folder, FOLDER, graph(), [golden()])


if __name__ == "__main__":
    build(*(Path(argument) for argument in sys.argv[1:2]))
