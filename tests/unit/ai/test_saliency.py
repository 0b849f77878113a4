"""Heat maps and kept probabilities, on graphs whose answer is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ai.engine import Engine
from ai.manifest import parse_manifest
from ai.outputs import ActivationMap, Occlusion
from ai.saliency import activation_map, occlusion, windows
from ai.types import Volume
from config.errors import InferenceError, ManifestError
from tests.model_packages import LABELS, WHOLE, scored
from tests.unit.ai.conftest import PackageMaker

ROWS, COLUMNS = 24, 32
SPOT = (slice(8, 12), slice(20, 24))

INPUT = f"{WHOLE}\nsize = [{ROWS}, {COLUMNS}]"
FINDING = (
    scored("spot", 'tensor = "y", index = 0, activation = "sigmoid", threshold = 0.5')
    + """\
site = ["51185008", "SCT", "Chest"]
laterality = ["7771000", "SCT", "Left"]
"""
)
OCCLUDE = """
[output.saliency]
method = "occlusion"
patch = [4, 4]
stride = [4, 4]
fill = 0.0
"""


def spot_graph(*, batch: str | int = "N") -> bytes:
    """Its logit is the sum over one spot of the image, less five; its map is where it looks."""
    mask = np.zeros((1, 1, ROWS, COLUMNS), np.float32)
    mask[0, 0][SPOT] = 1.0
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "bias"], ["y"]),
        helper.make_node("AveragePool", ["seen"], ["cam"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    graph = helper.make_graph(
        nodes,
        "spot",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 1, ROWS, COLUMNS))],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, 1)),
            helper.make_tensor_value_info("cam", TensorProto.FLOAT, (batch, 1, None, None)),
        ],
        [
            helper.make_tensor("mask", TensorProto.FLOAT, mask.shape, mask.ravel()),
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("bias", TensorProto.FLOAT, [1], [-5.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def image(rows: int = ROWS, columns: int = COLUMNS, value: float = 1.0) -> Volume:
    voxels = np.full((1, rows, columns), value, np.float32)
    return Volume(voxels, "[hnsf'U]", None, (None, None, None), (0.0, 1.0))


def answered(
    make: PackageMaker, engine: Engine, output: str, volume: Volume, **graph: int
) -> object:
    package = make(spot_graph(**graph), basis="trained", input=INPUT, output=output)
    return engine.run(package, {"image": volume})


@pytest.mark.feature("P14")
@pytest.mark.parametrize("copies", [1, 5])
def test_hiding_finds_the_place_that_a_score_rests_on(
    make_package: PackageMaker, engine: Engine, copies: int
) -> None:
    answer = answered(make_package, engine, f"{FINDING}{OCCLUDE}copies = {copies}\n", image())
    heat = answer.saliency
    assert heat.finding == "spot"
    assert heat.values.shape == (1, ROWS, COLUMNS)
    assert heat.values.dtype == np.float32
    inside = np.zeros((ROWS, COLUMNS), bool)
    inside[SPOT] = True
    # Without the spot the logit is -5 instead of 11.
    fall = 1 / (1 + np.exp(-11.0)) - 1 / (1 + np.exp(5.0))
    np.testing.assert_allclose(heat.values[0][inside], fall, rtol=1e-5)
    np.testing.assert_allclose(heat.values[0][~inside], 0.0, atol=1e-6)
    assert heat.meaning.value == "SCORE-FALL"
    assert answer.seconds["saliency"] > 0


def test_the_map_lies_in_the_image_s_own_grid(make_package: PackageMaker, engine: Engine) -> None:
    answer = answered(make_package, engine, FINDING + OCCLUDE, image(2 * ROWS, COLUMNS // 2))
    values = answer.saliency.values[0]
    assert values.shape == (2 * ROWS, COLUMNS // 2)
    rows, columns = np.nonzero(values > 0.5)
    assert (rows.min(), rows.max()) == (16, 23)
    assert (columns.min(), columns.max()) == (10, 11)


def test_nothing_is_explained_where_nothing_is_found(
    make_package: PackageMaker, engine: Engine
) -> None:
    answer = answered(make_package, engine, FINDING + OCCLUDE, image(value=0.0))
    assert answer.findings == ()
    assert answer.saliency is None


def test_a_side_is_told_with_its_site(make_package: PackageMaker, engine: Engine) -> None:
    (finding,) = answered(make_package, engine, FINDING, image()).findings
    assert finding.laterality.meaning == "Left"


def test_a_map_of_the_graph_is_stretched_over_the_image(
    make_package: PackageMaker, engine: Engine
) -> None:
    output = FINDING + '\n[output.saliency]\nmethod = "output"\ntensor = "cam"\nlayout = "NCHW"\n'
    heat = answered(make_package, engine, output, image()).saliency
    row, column = np.unravel_index(heat.values[0].argmax(), heat.values[0].shape)
    assert 8 <= row < 12
    assert 20 <= column < 24
    assert heat.meaning.value == "ACTIVATION"
    assert heat.values[0][0, 0] == 0.0


def test_copies_that_the_graph_does_not_take_are_told_before_anything_is_found(
    make_package: PackageMaker, engine: Engine
) -> None:
    said = "takes 1 images a run, saliency gives 4 copies"
    nothing = image(value=0.0)
    with pytest.raises(InferenceError, match=said):
        answered(make_package, engine, f"{FINDING}{OCCLUDE}copies = 4\n", nothing, batch=1)


def test_what_takes_too_long_is_left_out_and_never_half_made() -> None:
    spec = Occlusion(method="occlusion", patch=(2, 2), stride=(2, 2), seconds=1e-9)
    calls: list[int] = []

    def fall(copies: np.ndarray) -> list[float]:
        calls.append(len(copies))
        return [0.0] * len(copies)

    assert occlusion(spec, np.ones((1, 1, 8, 8), np.float32), "NCHW", fall) is None
    assert len(calls) < 16


@given(
    st.lists(st.integers(1, 70), min_size=2, max_size=3).flatmap(
        lambda shape: st.tuples(
            st.just(tuple(shape)),
            st.lists(st.integers(1, 20), min_size=len(shape), max_size=len(shape)),
            st.lists(st.integers(0, 10), min_size=len(shape), max_size=len(shape)),
            st.integers(4, 300),
        )
    )
)
@settings(max_examples=100, deadline=None)
def test_windows_cover_the_grid_within_their_number(
    drawn: tuple[tuple[int, ...], list[int], list[int], int],
) -> None:
    shape, stride, more, evaluations = drawn
    patch = tuple(step + extra for step, extra in zip(stride, more, strict=True))
    spec = Occlusion(method="occlusion", patch=patch, stride=tuple(stride), evaluations=evaluations)
    covered = np.zeros(shape, int)
    places = windows(spec, shape)
    for place in places:
        covered[place] += 1
    assert covered.min() >= 1
    assert len(places) <= evaluations


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW", "NCDHW"])
def test_every_layout_is_hidden_along_its_own_axes(layout: str) -> None:
    sizes = {"N": 1, "C": 2, "D": 3, "H": 4, "W": 6}
    patch = (1, 2, 3) if "D" in layout else (2, 3)
    spec = Occlusion(method="occlusion", patch=patch, stride=patch, fill=0.0)
    inside = np.ones([sizes[axis] for axis in layout], np.float32)
    target = tuple(slice(0, 2) if axis == "H" else slice(None) for axis in layout)

    def fall(copies: np.ndarray) -> list[float]:
        return [float(inside[target].sum() - copy[None][target].sum()) for copy in copies]

    heat = occlusion(spec, inside, layout, fall)
    assert heat is not None
    assert heat.shape == (3 if "D" in layout else 1, 4, 6)
    assert (heat[:, :2] > 0).all()
    assert (heat[:, 2:] == 0).all()


def test_a_map_without_its_channel_is_told() -> None:
    spec = ActivationMap(method="output", tensor="cam", layout="NCHW", channel=3)
    with pytest.raises(InferenceError, match="too few for its map"):
        activation_map(spec, np.zeros((1, 2, 4, 4), np.float32), (1, 8, 8))


CHANNELS = """\
[output]
task = "segmentation"

[output.labels]
tensor = "y"
layout = "NCHW"
encoding = "channels"
activation = "softmax"
probabilities = true
""" + "".join(
    f"""
[[output.segment]]
number = {number}
label = "part {number}"
category = ["85756007", "SCT", "Tissue"]
type = ["3138006", "SCT", "Bone"]
color = [240, 240, 220]
description = "A part."
channel = {channel}
"""
    for number, channel in ((2, 1), (1, 2))
)


def channel_graph() -> bytes:
    """Three channels: 0, the image, and twice the image."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "gain"], ["y"])],
        "channels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 1, "H", "W"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [helper.make_tensor("gain", TensorProto.FLOAT, [1, 3, 1, 1], [0.0, 1.0, 2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_probabilities_are_kept_by_number_of_their_segment(
    make_package: PackageMaker, engine: Engine
) -> None:
    voxels = np.random.default_rng(1).normal(size=(11, 6, 5)).astype(np.float32)
    volume = Volume(voxels, "[hnsf'U]", None, (1.0, 1.0, 1.0), (-9.0, 9.0))
    package = make_package(channel_graph(), basis="trained", output=CHANNELS)
    answer = engine.run(package, {"image": volume})
    powers = np.exp(np.stack([0 * voxels, voxels, 2 * voxels]))
    expected = (powers / powers.sum(axis=0))[[2, 1]]
    assert [segment.number for segment in answer.segments] == [1, 2]
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('results = ["sr"]', 'results = ["saliency"]', "output.saliency"),
        ('results = ["sr"]', 'results = ["fractional"]', "probabilities"),
        ('encoding = "index"', 'encoding = "index"\nprobabilities = true', "probabilities"),
        ("severity = 0.5", 'laterality = ["1", "SCT", "Up"]', "laterality"),
        ("[files]", OCCLUDE + "[files]", "no finding has one"),
        (
            "[files]",
            OCCLUDE.replace("stride = [4, 4]", "stride = [5, 4]") + "[files]",
            "no stride is above its patch",
        ),
        (LABELS, FINDING + OCCLUDE.replace("[4, 4]", "[4, 4, 4]"), "has 2 entries"),
    ],
)
def test_what_contradicts_itself_is_refused(
    manifest_text: str, old: str, new: str, said: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(manifest_text.replace(old, new))
    assert said in str(caught.value)
