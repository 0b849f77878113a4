"""Answers of whole runs, from the image to ordered findings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from ai.engine import Engine
from ai.models.graph import Graph
from ai.package import Package
from ai.types import Confidence, Volume
from config.errors import InferenceError

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
SHAPE = ("N", 1, "H", "W")
CODES = 'category = ["85756007", "SCT", "Tissue"]\ntype = ["3138006", "SCT", "Bone"]'

PROBABILITIES = f"""\
[output]
task = "segmentation"

[output.labels]
tensor = "y"
layout = "NCHW"
encoding = "channels"
select = "threshold"
confidence = "mean"

[[output.segment]]
number = 1
label = "likely"
channel = 0
threshold = 0.25
color = [1, 2, 3]
description = "One."
severity = 1.0
{CODES}
"""


@pytest.mark.feature("P07", "P11")
@pytest.mark.parametrize("size", ["", "size = [9, 15]\n"])
def test_a_segment_is_as_sure_as_its_voxels_are_and_padding_counts_for_nothing(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine, size: str
) -> None:
    g = Graph("probability")
    g.named("Identity", ["x"], ["y"])
    graph = g.serialized([("x", TensorProto.FLOAT, SHAPE)], [("y", TensorProto.FLOAT, SHAPE)])
    spec = (
        'dimensions = "2D"\napply = "slices"\nbatch = 2\nlayout = "NCHW"\n'
        f"multiple_of = 8\npad_value = 1.0\n{size}"
    )
    package = make_package(graph, basis="trained", input=spec, output=PROBABILITIES)
    voxels = np.zeros((3, 3, 5), np.float32)
    voxels[:2] = 0.5
    voxels[2] = 0.75
    voxels[:, :, 0] = 0.125
    answer = engine.run(package, {"image": make_volume(voxels)})
    assert answer.labels is not None
    assert set(np.unique(answer.labels)) == {0, 1}
    (finding,) = answer.findings
    assert finding.confidence.basis == "model"
    if not size:
        assert np.array_equal(answer.labels, 1 * (voxels >= 0.25))
        assert finding.confidence == Confidence(pytest.approx((2 * 0.5 + 0.75) / 3), "model")
    assert finding.confidence.value is not None
    assert 0.4 < finding.confidence.value < 0.7  # the padding would bring 1.0


BOXES = "\n".join(
    f"""\
[[output.finding]]
name = "{name}"
description = "One."
severity = {severity}
region = "{tensor}"
{CODES}
"""
    for name, severity, tensor in (
        ("small", 0.5, "few"),
        ("large", 0.5, "many"),
        ("large too", 0.5, "many"),
        ("grave", 1.0, "many"),
    )
)


@pytest.mark.feature("P13")
def test_of_equal_weight_the_larger_comes_first_and_ties_stay_as_declared(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("boxes")
    none = g.op("Mul", g.op("ReduceMax", "x", keepdims=0), g.real(0.0))
    g.named("Add", [none, g.real(1.0, 1.0, 2.0, 2.0)], ["few"])
    g.named("Add", [none, g.real(0.0, 0.0, 5.0, 6.0)], ["many"])
    graph = g.serialized(
        [("x", TensorProto.FLOAT, SHAPE)],
        [("few", TensorProto.FLOAT, [4]), ("many", TensorProto.FLOAT, [4])],
    )
    package = make_package(
        graph,
        input='dimensions = "2D"\nlayout = "NCHW"',
        output='[output]\ntask = "classification"\n\n' + BOXES,
    )
    answer = engine.run(package, {"image": make_volume(np.zeros((1, 8, 8), np.int16))})
    assert [entry.name for entry in answer.findings] == ["grave", "large", "large too", "small"]
    assert answer.findings[0].region is not None
    assert answer.findings[0].region.points[[0, 2]].tolist() == [[0, 0], [5, 6]]


CLASSES = "\n".join(
    f"""\
[[output.finding]]
name = "{name}"
description = "One."
severity = 0.5
score = {{ tensor = "s", index = {index}, activation = "softmax", best = true, threshold = 0.0 }}
{CODES}
"""
    for index, name in ((1, "medium"), (2, "bright"))
)


def classifier(axes: int, channels: int) -> bytes:
    """Logits of dark, medium and bright, by how far the mean lies from 0, 50 and 100."""
    g = Graph("classes")
    mean = g.op("ReduceMean", "x", g.whole(*range(1, axes + 2)), keepdims=0)
    column = g.op("Unsqueeze", mean, g.whole(1))
    apart = g.op("Abs", g.op("Sub", column, g.real(0.0, 50.0, 100.0)))
    g.named("Neg", [apart], ["s"])
    shape = ("N", channels, *"DHW"[3 - axes :])
    return g.serialized([("x", TensorProto.FLOAT, shape)], [("s", TensorProto.FLOAT, ("N", 3))])


@pytest.mark.feature("P09", "F09")
def test_a_whole_volume_is_classified_by_its_best_class(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package(
        classifier(3, 1),
        basis="trained",
        input='dimensions = "3D"\nlayout = "NCDHW"\nsize = [4, 4, 4]',
        output='[output]\ntask = "classification"\n' + CLASSES,
    )
    for value, expected in ((3, []), (40, ["medium"]), (90, ["bright"])):
        answer = engine.run(package, {"image": make_volume(np.full((6, 5, 7), value, np.int16))})
        assert [finding.name for finding in answer.findings] == expected


@pytest.mark.feature("P09", "F09")
@pytest.mark.parametrize(("over", "expected"), [("max", {"medium", "bright"}), ("mean", set())])
def test_slices_with_their_neighbours_are_classified_together(
    make_package: PackageMaker,
    make_volume: VolumeMaker,
    engine: Engine,
    over: str,
    expected: set[str],
) -> None:
    package = make_package(
        classifier(2, 3),
        basis="trained",
        input=(
            'dimensions = "2.5D"\nneighbours = 1\nchannels = 3\napply = "slices"\nbatch = 2\n'
            'layout = "NCHW"\nbody_above = -500.0\ncrop = { to = "body" }'
        ),
        output=f'[output]\ntask = "classification"\nover_slices = "{over}"\n'
        + CLASSES.replace("best = true, threshold = 0.0", "threshold = 0.9"),
    )
    voxels = np.zeros((7, 4, 4), np.int16)
    # With its neighbours one slice is bright for certain, and four are medium.
    voxels[2:5] = 100
    answer = engine.run(package, {"image": make_volume(voxels)})
    assert {finding.name for finding in answer.findings} == expected


def rows_of_scores(more: str) -> bytes:
    """One row of three logits an image; on a bright image, or on any, one row more."""
    g = Graph("rows")
    mean = g.op("ReduceMean", "x", g.whole(1, 2, 3), keepdims=0)
    column = g.op("Unsqueeze", mean, g.whole(1))
    scores = g.op("Mul", column, g.real(0.0, 0.5, 1.0))
    bright = g.op("Greater", g.op("ReduceMax", "x", keepdims=0), g.real(200.0))
    extra = {"bright": g.op("Cast", bright, to=TensorProto.INT64), "any": g.whole(1)}[more]
    rows = g.op("Reshape", g.op("Add", extra, g.whole(1)), g.whole(1))
    g.named("Tile", [scores, g.op("Concat", rows, g.whole(1), axis=0)], ["s"])
    return g.serialized([("x", TensorProto.FLOAT, SHAPE)], [("s", TensorProto.FLOAT, ("K", 3))])


@pytest.mark.feature("P09")
@pytest.mark.parametrize("flips", ["", '[ensemble]\nflips = [["columns"]]\n'])
def test_two_rows_for_one_image_are_no_answer(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine, flips: str
) -> None:
    package = make_package(
        rows_of_scores("bright"),
        basis="trained",
        input='dimensions = "2D"\nlayout = "NCHW"',
        output='[output]\ntask = "classification"\n' + CLASSES + flips,
    )
    answer = engine.run(package, {"image": make_volume(np.full((1, 8, 8), 90, np.int16))})
    assert [finding.name for finding in answer.findings] == ["bright"]
    with pytest.raises(InferenceError, match="gave 2 rows of s for one image"):
        engine.run(package, {"image": make_volume(np.full((1, 8, 8), 300, np.int16))})


def test_a_graph_that_always_gives_two_rows_is_refused_before_it_sees_an_image(
    make_package: PackageMaker, engine: Engine
) -> None:
    package = make_package(
        rows_of_scores("any"),
        basis="trained",
        input='dimensions = "2D"\nlayout = "NCHW"',
        output='[output]\ntask = "classification"\n' + CLASSES,
    )
    with pytest.raises(InferenceError, match="gave 2 rows of s for one image"):
        engine.load(package)
