"""A model that compares a CT with one of an earlier study."""

from __future__ import annotations

from onnx import TensorProto

from ai.models.graph import Graph

WHOLE = 'dimensions = "3D"\nlayout = "NCDHW"'
PRIOR = """
[[inputs]]
role = "before"
prior = true
{more}tensor = "p"
modality = ["CT"]
units = "[hnsf'U]"
pad_value = -2000.0
dimensions = "3D"
layout = "NCDHW"

[inputs.facts]
there = "present"
"""


def inputs(*, optional: bool) -> str:
    """The tables of both inputs, the first without its head."""
    return WHOLE + "\n" + PRIOR.format(more="optional = true\n" if optional else "")


def denser_graph() -> bytes:
    """1 where a voxel is denser than the earlier image is on average, whatever grid that has."""
    g = Graph("denser")
    shown = g.op("Add", g.op("ReduceMean", "p", keepdims=1), g.op("Mul", "there", g.real(0.0)))
    g.named("Cast", [g.op("Greater", "x", shown)], ["y"], to=TensorProto.UINT8)
    own, other = ("N", 1, "D", "H", "W"), ("N", 1, "E", "I", "X")
    given = [("x", TensorProto.FLOAT, own), ("p", TensorProto.FLOAT, other)]
    return g.serialized(
        [*given, ("there", TensorProto.FLOAT, (1,))], [("y", TensorProto.UINT8, own)]
    )
