"""Packages made for one test, with a graph of a few nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from ai.engine import Engine
from ai.models.graph import Graph
from ai.package import MANIFEST, Package, read_package
from ai.registry import Registry
from ai.seal import sealed
from ai.session import SessionCache
from ai.types import Volume

HEAD = """\
name = "{name}"
version = "{version}"
vendor = "Test"
intended_use = "A test."
description = "Fixed rules, not trained. Not a diagnosis."
basis = "{basis}"
status = "{status}"
licence = "Apache-2.0"
clinical_domain = "Radiology"
graph = "model.onnx"
results = ["sr"]

[[inputs]]
role = "image"
primary = true
tensor = "x"
modality = ["CT"]
units = "[hnsf'U]"
{input}

{output}
"""

SLICES = 'dimensions = "2D"\napply = "slices"\nlayout = "NCHW"'

LABELS = """\
[output]
task = "segmentation"
volume = true

[output.labels]
tensor = "y"
layout = "NCHW"
encoding = "index"

[output.intensity]
name = ["112031", "DCM", "Attenuation Coefficient"]
statistics = ["mean", "min", "max", "sd"]

[[output.segment]]
number = 1
label = "dense"
category = ["85756007", "SCT", "Tissue"]
type = ["3138006", "SCT", "Bone"]
color = [240, 240, 220]
description = "Above zero."
severity = 0.5
"""

PackageMaker = Callable[..., Package]


def threshold_graph(axes: int = 2) -> bytes:
    """1 where the input is above zero."""
    g = Graph("threshold")
    g.named("Cast", [g.op("Greater", "x", g.real(0.0))], ["y"], to=TensorProto.UINT8)
    shape = ("N", 1, "H", "W") if axes == 2 else ("N", 1, "D", "H", "W")
    return g.serialized([("x", TensorProto.FLOAT, shape)], [("y", TensorProto.UINT8, shape)])


@pytest.fixture
def make_package(tmp_path: Path) -> PackageMaker:
    """Writes a package under ``tmp_path / "site"`` and reads it back."""

    def make(
        graph: bytes | None = None,
        *,
        name: str = "test-model",
        version: str = "1.0.0",
        status: str = "production",
        basis: str = "rules",
        input: str = SLICES,
        output: str = LABELS,
    ) -> Package:
        folder = tmp_path / "site" / name / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(threshold_graph() if graph is None else graph)
        text = HEAD.format(
            name=name, version=version, status=status, basis=basis, input=input, output=output
        )
        (folder / MANIFEST).write_text(sealed(text, folder), "utf-8")
        return read_package(folder)

    return make


@pytest.fixture
def manifest_text() -> str:
    """A manifest without faults, as text."""
    text = HEAD.format(
        name="test-model",
        version="1.0.0",
        status="production",
        basis="rules",
        input=SLICES,
        output=LABELS,
    )
    return text + f'\n[files]\n"model.onnx" = "{"0" * 64}"\n'


@pytest.fixture
def engine() -> Engine:
    return Engine(Registry([]), SessionCache(("cpu",), 1))


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """A volume of HU with the usual axial geometry unless told otherwise."""

    def make(voxels: np.ndarray, **changes: object) -> Volume:
        affine = np.array(
            [[0.0, 0.0, 0.5, 0.0], [0.0, 0.5, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0, 0, 0, 1.0]]
        )
        given: dict[str, object] = {
            "units": "[hnsf'U]",
            "affine": affine,
            "spacing": (2.0, 0.5, 0.5),
            "value_range": (-1024.0, 3071.0),
        }
        return Volume(voxels, **(given | changes))  # type: ignore[arg-type]

    return make
