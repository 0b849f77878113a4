"""Model packages made for a test: the parts of a manifest, graphs of a few nodes, both written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from ai.golden import Case, write_case
from ai.models.graph import Graph
from ai.package import MANIFEST, Package, read_package
from ai.seal import sealed
from ai.types import Volume

IMAGE = ("N", 1, "H", "W")
VOLUME = ("N", 1, "D", "H", "W")

WHOLE = 'dimensions = "2D"\nlayout = "NCHW"'
SLICES = 'dimensions = "2D"\napply = "slices"\nlayout = "NCHW"'
SPACE = 'dimensions = "3D"\nlayout = "NCDHW"'

HEAD = """\
name = "{name}"
version = "{version}"
vendor = "Test"
intended_use = "A test. Not for diagnosis."
description = "Made for a test: what it answers means nothing."
basis = "{basis}"
status = "{status}"
licence = "Apache-2.0"
clinical_domain = "Radiology"
graph = "model.onnx"
results = {results}
"""

INPUT = """
[[inputs]]
role = "{role}"
primary = true
tensor = "{tensor}"
modality = ["{modality}"]
units = "{units}"
{lines}
"""

# What `scored` rests on where the graph gives one logit an image.
LOGIT = 'tensor = "logits", index = 0, activation = "sigmoid", threshold = 0.0'

SCORED = """
[output]
task = "classification"

[[output.finding]]
name = "{name}"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["52988006", "SCT", "Lesion"]
description = "Made for a test."
severity = 0.5
score = {{ {score} }}
"""

BOXED = """
[output]
task = "detection"

[output.boxes]
tensor = "box"
format = "zyxzyx"
scores = "score"
{more}

[[output.object]]
name = "{name}"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["27925004", "SCT", "Nodule"]
description = "Bright."
severity = 0.5
"""

LABELS = """
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

# The probability of each voxel of a volume; what else its labels say and the segments follow.
PROBABILITIES = """
[output]
task = "segmentation"
volume = true

[output.labels]
tensor = "y"
layout = "NCDHW"
encoding = "channels"
select = "threshold"
confidence = "mean"
"""


OVERLAPPING = """
[output]
task = "segmentation"
volume = true

[output.labels]
tensor = "y"
layout = "{layout}"
encoding = "channels"
activation = "sigmoid"
select = "threshold"
overlap = {overlap}
{more}
"""


MEASURED = """
[output]
task = "measurement"

[[output.finding]]
name = "thickness"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["52988006", "SCT", "Lesion"]
description = "The mean of the image, called a length."

[[output.finding.measurement]]
tensor = "y"
name = ["118565006", "SCT", "Volume"]
unit = ["mL", "UCUM", "mL"]
"""


def head(
    name: str = "test-model",
    *,
    version: str = "1.0.0",
    basis: str = "trained",
    status: str = "production",
    results: Sequence[str] = ("sr",),
) -> str:
    """What a manifest says before its inputs."""
    return HEAD.format(
        name=name, version=version, basis=basis, status=status, results=json.dumps(list(results))
    )


def primary_input(
    lines: str = SLICES,
    *,
    role: str = "image",
    tensor: str = "x",
    modality: str = "CT",
    units: str = "[hnsf'U]",
) -> str:
    """The input whose geometry the results take; `lines` say how it is prepared."""
    return INPUT.format(role=role, tensor=tensor, modality=modality, units=units, lines=lines)


def scored(name: str, score: str) -> str:
    """An output of one finding; `score` says which number it rests on."""
    return SCORED.format(name=name, score=score)


def boxed(name: str, more: str = "") -> str:
    """An output of boxes of one class in a volume; `more` are further keys of the boxes."""
    return BOXED.format(name=name, more=more)


def unsealed(manifest: str) -> str:
    """A manifest as its parser wants it, with a digest of no file."""
    return f'{manifest}\n[files]\n"model.onnx" = "{"0" * 64}"\n'


def from_x_to_y(
    g: Graph, shape: tuple[str | int, ...] = IMAGE, gives: int = TensorProto.FLOAT
) -> bytes:
    """The graph of one tensor in and one of the same shape out, serialized."""
    return g.serialized([("x", TensorProto.FLOAT, shape)], [("y", gives, shape)])


def above_zero(shape: tuple[str | int, ...] = IMAGE) -> bytes:
    """1 where the input is above zero."""
    g = Graph("above zero")
    g.named("Cast", [g.op("Greater", "x", g.real(0.0))], ["y"], to=TensorProto.UINT8)
    return from_x_to_y(g, shape, TensorProto.UINT8)


def box_around(g: Graph, mask: str) -> str:
    """The six numbers of the box around what is not zero in a volume, as ``zyxzyx``."""
    ends: dict[int, list[str]] = {0: [], 1: []}
    for axis in (2, 3, 4):
        along = g.op("ReduceMax", mask, g.whole(*(a for a in range(5) if a != axis)), keepdims=0)
        for last in (0, 1):
            at = g.op("ArgMax", along, axis=0, keepdims=1, select_last_index=last)
            ends[last].append(g.op("Add", g.floats(at), g.real(float(last))))
    return g.op("Concat", *ends[0], *ends[1], axis=0)


def overlapping(
    layout: str = "NCDHW",
    more: str = 'confidence = "mean"',
    *,
    of_each: str = "",
    names: Sequence[str] = ("whole", "core", "rim"),
    overlap: bool = True,
) -> str:
    """An output of a segment a channel, each within the one before it."""
    text = OVERLAPPING.format(layout=layout, more=more, overlap=str(overlap).lower())
    for number, name in enumerate(names, 1):
        text += f"""
[[output.segment]]
number = {number}
label = "{name}"
channel = {number - 1}
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["108369006", "SCT", "Tumor"]
color = [{80 * number % 256}, 60, 60]
description = "Brighter than what lies around it."
severity = 0.5
{of_each}
"""
    return text


def nested(axes: int, limits: tuple[float, ...] = (100.0, 200.0, 300.0)) -> bytes:
    """A logit a channel: a hundredth of how far the input lies above the channel's limit."""
    g = Graph("nested")
    ones = [1] * axes
    limit = g.array(np.array(limits, np.float32).reshape(1, len(limits), *ones))
    g.named("Mul", [g.op("Sub", "x", limit), g.real(0.01)], ["y"])
    shape = ("D", "H", "W")[-axes:]
    return g.serialized(
        [("x", TensorProto.FLOAT, ("N", 1, *shape))],
        [("y", TensorProto.FLOAT, ("N", len(limits), *shape))],
    )


def write_package(
    folder: Path, graph: bytes, manifest: str, more: Mapping[str, bytes] | None = None
) -> Package:
    """Write a package, seal it and read it back.

    Args:
        folder: ``NAME/VERSION`` below a folder of models; made.
        graph: ``model.onnx``.
        manifest: Without its table of files.
        more: Further files by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"model.onnx": graph, **(more or {})}.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(sealed(manifest, folder), "utf-8")
    return read_package(folder)


def measuring(models: Path, volume: Volume, *, modality: str, units: str) -> Package:
    """A model that gives the mean of an image in mL, and a golden case that expects just that.

    Args:
        models: The folder of packages.
        volume: The image of the golden case, one slice.
        modality: What the model takes.
        units: The same.
    """
    g = Graph("mean")
    mean = g.op("ReduceMean", "x", g.whole(1, 2, 3), keepdims=0)
    g.named("Unsqueeze", [mean, g.whole(1)], ["y"])
    graph = g.serialized([("x", TensorProto.FLOAT, IMAGE)], [("y", TensorProto.FLOAT, ("N", 1))])
    folder = models / "measuring" / "1.0.0"
    golden = folder / "golden"
    golden.mkdir(parents=True)
    finding = {
        "name": "thickness",
        "confidence": None,
        "measurements": [float(volume.voxels.mean())],
        "evaluations": [],
        "region": None,
    }
    write_case(golden, Case("flat", volume, None, [finding], 0.0, 1e-6))
    files = {f"golden/{path.name}": path.read_bytes() for path in golden.iterdir()}
    manifest = head("measuring", basis="rules")
    manifest += primary_input(WHOLE, modality=modality, units=units) + MEASURED
    return write_package(folder, graph, manifest, files)
