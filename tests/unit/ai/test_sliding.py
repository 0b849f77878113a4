"""Patches blended slab by slab give what the whole gives."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from ai import slabs
from ai.engine import Engine
from ai.models.graph import Graph
from ai.package import Package
from ai.preprocess import plan
from ai.registry import Registry
from ai.session import SessionCache
from ai.sliding import windows
from ai.types import Volume
from config.errors import InferenceError, ModelError

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
CODES = 'category = ["85756007", "SCT", "Tissue"]\ntype = ["3138006", "SCT", "Bone"]'
LOCAL = ("N", 1, "D", "H", "W")


def output(layout: str, more: str = "") -> str:
    segments = "\n".join(
        f'[[output.segment]]\nnumber = {number}\nlabel = "class {number}"\ncolor = [1, 2, 3]\n'
        f'description = "One."\nseverity = 0.5\n{CODES}\n'
        for number in (1, 2)
    )
    return (
        '[output]\ntask = "segmentation"\nvolume = true\n\n[output.labels]\ntensor = "y"\n'
        f'layout = "{layout}"\nencoding = "channels"\nactivation = "softmax"\n'
        f'confidence = "mean"\n{more}\n{segments}'
    )


def scores_graph(axes: int) -> bytes:
    """Three scores of each voxel by itself: its negative, a constant, and itself."""
    g = Graph("scores")
    zero = g.op("Mul", "x", g.real(0.0))
    g.named("Concat", [g.op("Neg", "x"), zero, "x"], ["y"], axis=1)
    shape = ("N", 1, "H", "W") if axes == 2 else LOCAL
    return g.serialized(
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, (shape[0], 3, *shape[2:]))],
    )


def pair(
    make_package: PackageMaker, axes: int, input_: str, sliding: str, more: str = ""
) -> tuple[Package, Package]:
    """The same model on the whole image and on patches."""
    layout = "NCHW" if axes == 2 else "NCDHW"
    dimensions = f'dimensions = "{axes}D"\nlayout = "{layout}"\n{input_}\n'
    whole = make_package(
        scores_graph(axes), name="whole", basis="trained", input=dimensions,
        output=output(layout, more),
    )  # fmt: skip
    cut = make_package(
        scores_graph(axes), name="cut", basis="trained",
        input=f"{dimensions}[inputs.sliding]\n{sliding}\n", output=output(layout, more),
    )  # fmt: skip
    return whole, cut


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("axes", "input_", "patch"),
    [
        (3, "", "[8, 8, 8]"),
        (3, 'orientation = "SPL"\nspacing = [3.0, 0.9, 0.7]', "[8, 16, 12]"),
        (3, 'orientation = "LPS"\nspacing = [0.4, 0.5, 2.0]\npad = "centre"', "[16, 8, 8]"),
        (3, "size = [11, 17, 13]\nmultiple_of = 4", "[4, 8, 8]"),
        (3, 'crop = { to = "nonzero", margin = 1 }', "[8, 8, 8]"),
        (3, "", "[64, 64, 64]"),
        (2, 'apply = "slices"\nbatch = 4', "[8, 12]"),
        (2, 'apply = "slices"\nbatch = 3\nspacing = [0.9, 0.4]\nmultiple_of = 8', "[16, 8]"),
    ],
)
def test_patches_give_the_labels_of_the_whole(
    make_package: PackageMaker,
    make_volume: VolumeMaker,
    engine: Engine,
    *,
    axes: int,
    input_: str,
    patch: str,
    blend: str,
) -> None:
    whole, cut = pair(
        make_package, axes, input_, f'patch = {patch}\nblend = "{blend}"', "probabilities = true"
    )
    voxels = np.random.default_rng(5).integers(-3, 4, (21, 30, 26)).astype(np.int16)
    voxels[:2] = 0
    volume = {"image": make_volume(voxels)}
    wanted, given = engine.run(whole, volume), engine.run(cut, volume)
    assert np.array_equal(given.labels, wanted.labels)
    assert given.probabilities is not None
    np.testing.assert_allclose(given.probabilities, wanted.probabilities, atol=1e-5)
    for ours, theirs in zip(given.findings, wanted.findings, strict=True):
        assert ours.measurements == theirs.measurements
        assert ours.confidence.value == pytest.approx(theirs.confidence.value, abs=1e-5)


def test_the_middle_of_a_patch_counts_more_than_its_edge(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    # A voxel's score is the mean of its patch: two patches disagree where both reach.
    g = Graph("edge")
    mean = g.op("ReduceMean", "x", g.whole(2, 3, 4), keepdims=1)
    zero = g.op("Mul", "x", g.real(0.0))
    g.named("Concat", [zero, g.op("Add", zero, mean)], ["y"], axis=1)
    graph = g.serialized(
        [("x", TensorProto.FLOAT, LOCAL)], [("y", TensorProto.FLOAT, ("N", 2, "D", "H", "W"))]
    )
    voxels = np.zeros((8, 8, 24), np.int16)
    voxels[:, :, :8] = -1
    voxels[:, :, 16:] = 2
    found = {}
    for blend in ("gaussian", "constant"):
        package = make_package(
            graph, name=blend, basis="trained",
            input='dimensions = "3D"\nlayout = "NCDHW"\n[inputs.sliding]\npatch = [8, 8, 16]\n'
            f'blend = "{blend}"\n',
            output=output("NCDHW").split("[[output.segment]]\nnumber = 2")[0],
        )  # fmt: skip
        labels = engine.run(package, {"image": make_volume(voxels)}).labels
        assert labels is not None
        found[blend] = int(np.argmax(labels[0, 0]))  # where the second patch begins to win
    # Means -0.5 and +1: with equal weights the second wins wherever it reaches, else only where its
    # middle, at 15.5, is nearer than that of the first, at 7.5.
    assert found == {"constant": 8, "gaussian": 12}


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [(10, 10, 0.5), (11, 10, 0.0), (100, 7, 0.9), (97, 32, 0.25)]
)
def test_patches_cover_an_axis_and_their_weights_add_up_to_one(
    size: int, patch: int, overlap: float, blend: str
) -> None:
    made = windows(size, patch, overlap, blend)
    total = np.zeros(size)
    for start, weight in zip(made.starts, made.weights, strict=True):
        assert (weight > 0).all()
        total[start : start + patch] += weight
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert (made.starts[0], made.starts[-1]) == (0, size - patch)
    step = max(1, round(patch * (1 - overlap)))
    assert all(b - a <= step for a, b in zip(made.starts, made.starts[1:], strict=False))


@pytest.mark.parametrize(
    "input_",
    [
        "",
        'orientation = "RAS"\nspacing = [1.3, 0.8, 0.6]\nwindow = { center = 0.0, width = 50.0 }\n'
        'normalisation = { kind = "window", mean = [0.2], sd = [0.7] }',
        'orientation = "IPL"\nspacing = [0.7, 1.1, 1.0]\ninterpolation = "bspline"',
        'spacing = [5.0, 0.4, 0.4]\npad_value = -2.0\nleast = [40, 40, 40]\npad = "centre"',
        'spacing = [2.0, 0.7, 0.6]\ncrop = { to = "nonzero", margin = 2 }\n'
        'normalisation = { kind = "zscore", over = "nonzero", outside = 0.0 }',
    ],
)
@pytest.mark.parametrize("step", [1, 5, 64])
def test_a_slab_is_the_same_part_of_the_whole_tensor(
    make_package: PackageMaker, make_volume: VolumeMaker, input_: str, step: int
) -> None:
    _, package = pair(make_package, 3, input_, "patch = [8, 8, 8]")
    voxels = np.random.default_rng(2).integers(-40, 40, (24, 30, 26)).astype(np.int16)
    voxels[:3] = 0
    voxels[:, 27:] = 0
    made = plan(package.manifest.input, make_volume(voxels))
    whole = made.planes(0, made.shape[0])
    depth = whole.shape[1]
    parts = [slabs.prepared(made, at, at + step) for at in range(0, depth, step)]
    joined = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(joined[:, :depth], whole, atol=2e-3 * max(1, np.abs(whole).max()))
    assert (joined[:, depth:] == package.manifest.input.pad_value).all()
    numbers = np.arange(whole[0].size, dtype=np.int64).reshape(whole.shape[1:])
    back = [slabs.back(made, numbers[at : at + step], at) for at in range(0, depth, step)]
    assert np.array_equal(np.concatenate(back), made.back(numbers, made.shape[0]))
    kept = [slabs.unpadded(made, numbers[at : at + step], at) for at in range(0, depth, step)]
    assert np.array_equal(np.concatenate(kept), made.unpadded(numbers))


def test_a_long_series_needs_a_slab_and_its_labels(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    _, package = pair(make_package, 3, "", "patch = [16, 32, 32]\noverlap = 0.25")
    engine = Engine(Registry([]), SessionCache(("cpu",), 1))
    engine.sessions.get(package)
    voxels = np.zeros((1200, 64, 64), np.int16)
    voxels[:, 10:50, 10:50] = 3
    tracemalloc.start()
    try:
        answer = engine.run(package, {"image": make_volume(voxels)})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(answer.labels, np.where(voxels > 0, 2, 0))
    # The scores of the whole would be twelve bytes a voxel.
    assert peak < 2.0 * voxels.size


def test_a_patch_that_answers_in_another_shape_fails_the_job(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("smaller")
    half = g.op("MaxPool", "x", kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    g.named("Concat", [half] * 3, ["y"], axis=1)
    graph = g.serialized(
        [("x", TensorProto.FLOAT, LOCAL)], [("y", TensorProto.FLOAT, ("N", 3, "d", "h", "w"))]
    )
    package = make_package(
        graph, basis="trained",
        input='dimensions = "3D"\nlayout = "NCDHW"\n[inputs.sliding]\npatch = [8, 8, 8]\n',
        output=output("NCDHW"),
    )  # fmt: skip
    with pytest.raises(InferenceError, match=r"y has shape \(1, 3, 4, 4, 4\), which fits no"):
        engine.run(package, {"image": make_volume(np.zeros((9, 9, 9), np.int16))})


@pytest.mark.parametrize(
    ("sliding", "said"),
    [
        ("patch = [8, 8]", "sliding.patch has 3 entries"),
        ("patch = [8, 8, 8]\noverlap = 1.0", "less than or equal to 0.9"),
        ('patch = [8, 8, 8]\nblend = "cosine"', "'gaussian' or 'constant'"),
    ],
)
def test_sliding_that_cannot_be_is_refused(
    make_package: PackageMaker, sliding: str, said: str
) -> None:
    with pytest.raises(ModelError, match=said.replace("[", r"\[")):
        pair(make_package, 3, "", sliding)


def test_numbers_of_segments_cannot_be_blended(make_package: PackageMaker) -> None:
    with pytest.raises(ModelError, match="sliding needs scores to blend"):
        make_package(
            input='dimensions = "2D"\napply = "slices"\nlayout = "NCHW"\n'
            "[inputs.sliding]\npatch = [8, 8]\n"
        )
