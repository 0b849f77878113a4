"""Builds ``ct-tissue``: fixed rules on Hounsfield units, slice by slice, as an ONNX graph.

python -m ai.models.build_ct_tissue [FOLDER]
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

FOLDER = bundled_models_path() / "ct-tissue" / "1.0.0"
GAS_BELOW, FAT_BELOW, BONE_FROM = -300.0, -30.0, 180.0
BODY_WIDTH = 7  # pixels; what is thinner (tables, tubes, blankets) is no body
SMOOTH_WIDTH = 3  # pixels; fat that is thinner is taken as an edge between gas and soft tissue


def graph() -> bytes:
    """HU ``(N, 1, H, W)`` in, labels 0 to 4 of the same shape out."""
    g = Graph("ct-tissue")
    solid = g.floats(g.op("GreaterOrEqual", "hu", g.real(GAS_BELOW)))
    body = g.opened(solid, BODY_WIDTH)
    enclosed = g.between_rays(body)
    # The opening rounds corners off: give back the solid pixels that touch what it left, twice.
    for _ in range(2):
        body = g.op("Mul", g.dilated(body, 3), solid)
    within = g.op("Max", enclosed, body)
    bone = g.floats(g.op("GreaterOrEqual", "hu", g.real(BONE_FROM)))
    lean = g.floats(g.op("GreaterOrEqual", "hu", g.real(FAT_BELOW)))
    fat = g.closed(g.opened(g.op("Sub", solid, lean), SMOOTH_WIDTH), SMOOTH_WIDTH)
    fat = g.op("Mul", fat, g.op("Sub", solid, bone))
    gas = g.op("Sub", g.real(1.0), solid)
    # 3 soft tissue; 2 fat is one less, 1 gas two less, 4 bone one more; 0 outside the body.
    tissue = g.op("Sub", g.op("Add", g.real(3.0), bone), fat)
    tissue = g.op("Sub", tissue, g.op("Mul", gas, g.real(2.0)))
    g.named("Cast", [g.op("Mul", tissue, within)], ["labels"], to=TensorProto.UINT8)
    shape = ("N", 1, "H", "W")
    return g.serialized([("hu", TensorProto.FLOAT, shape)], [("labels", TensorProto.UINT8, shape)])


def phantom() -> tuple[Volume, np.ndarray]:
    """A body of boxes, different along every axis, and what it is made of by construction."""
    shape = (6, 64, 80)
    hu = np.full(shape, -1000.0, np.float32)
    labels = np.zeros(shape, np.uint8)
    boxes: list[tuple[slice, slice, slice, float, int]] = [
        (slice(0, 6), slice(10, 50), slice(12, 70), -100.0, 2),
        (slice(0, 6), slice(14, 46), slice(16, 66), 40.0, 3),
        (slice(1, 4), slice(18, 30), slice(20, 34), -800.0, 1),
        (slice(1, 5), slice(18, 34), slice(44, 58), -850.0, 1),
        (slice(0, 6), slice(37, 44), slice(30, 37), 700.0, 4),
        (slice(2, 3), slice(20, 25), slice(60, 64), 300.0, 4),
        (slice(0, 6), slice(56, 58), slice(5, 75), 200.0, 0),  # a table: too thin for a body
    ]
    for *place, value, label in boxes:
        hu[tuple(place)] = value
        labels[tuple(place)] = label
    affine = np.array(
        [[0.0, 0.0, 0.75, -30.0], [0.0, 0.75, 0.0, -24.0], [2.5, 0.0, 0.0, 100.0], [0, 0, 0, 1.0]]
    )
    volume = Volume(hu.astype(np.int16), "[hnsf'U]", affine, (2.5, 0.75, 0.75), (-1024.0, 3071.0))
    return volume, labels


def golden() -> Case:
    """The phantom with its tissues, volumes and mean HU as drawn, not as the model gave them."""
    volume, labels = phantom()
    names = {1: "gas in the body", 2: "fat", 3: "soft tissue", 4: "bone"}
    findings = []
    for number, name in names.items():
        inside = volume.voxels[labels == number].astype(np.float64)
        volume_ml = inside.size * 2.5 * 0.75 * 0.75 / 1000.0
        findings.append(expected(name, [volume_ml, float(inside.mean())]))
    return Case("phantom", volume, labels, findings, voxels=0.0, relative=1e-5)


def build(folder: Path = FOLDER) -> None:
    """Writes the package's files, into its own folder unless told otherwise."""
    write_model(folder, FOLDER, graph(), [golden()])


if __name__ == "__main__":
    build(*(Path(argument) for argument in sys.argv[1:2]))
