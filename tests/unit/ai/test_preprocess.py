from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.inputs import Input
from ai.preprocess import plan
from ai.types import Volume
from config.errors import InferenceError

VolumeMaker = Callable[..., Volume]
CODES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "AP", "SI"))
    for letters in itertools.product(*order)
]


def spec(**changes: object) -> Input:
    given_keys: dict[str, object] = {
        "role": "image",
        "primary": True,
        "tensor": "x",
        "modality": ["CT"],
        "units": "[hnsf'U]",
        "dimensions": "3D",
        "layout": "NCDHW",
    }
    return Input.model_validate(given_keys | changes)


def volume(voxels: np.ndarray, steps: np.ndarray | None = None, **changes: object) -> Volume:
    steps = np.diag([1.0, 1.0, 1.0])[:, ::-1] if steps is None else steps
    affine = np.eye(4)
    affine[:3, :3] = steps
    spacing = tuple(np.linalg.norm(steps, axis=0))
    return Volume(
        voxels, **({"units": "[hnsf'U]", "affine": affine, "spacing": spacing,
                    "value_range": (0.0, 100.0)} | changes)
    )  # fmt: skip


@st.composite
def placed(draw: st.DrawFn) -> Volume:
    """Any volume, its axes permuted, flipped and tilted by up to 20° in the patient."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 4.0)] * 3))
    angle = np.deg2rad(draw(st.floats(-20, 20)))
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    steps = turn @ np.eye(3)[:, order] * np.array(signs) * np.array(spacing)
    return volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), steps)


@settings(max_examples=100, deadline=None)
@given(image=placed(), code=st.sampled_from(CODES))
def test_any_orientation_is_met_and_labels_come_back_to_their_own_voxels(
    image: Volume, code: str
) -> None:
    made = plan(spec(orientation=code), image)
    oriented = made.oriented(image.voxels)
    axes = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    assert image.affine is not None
    for axis, letter in enumerate(code):
        component, sign = axes[letter]
        step = image.affine[component, made.order[axis]] * (-1 if made.flips[axis] else 1)
        assert step * sign > 0
        assert abs(step) == pytest.approx(
            np.abs(image.affine[:3, made.order[axis]]).max()
        )  # the axis of the image nearest to the one asked for
    tensor = made.tensor(0, made.shape[0])[0, 0]
    assert np.array_equal(tensor, oriented)
    labels = np.zeros(image.voxels.shape, np.uint8)
    made.oriented(labels)[:] = made.back((tensor % 251).astype(np.uint8), made.shape[0])
    assert np.array_equal(labels, image.voxels % 251)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    scale=st.tuples(*[st.floats(0.2, 3.0)] * 3),
    many=st.sampled_from([1, 4]),
)
def test_labels_of_any_resampled_grid_have_the_image_s_shape_and_places(
    shape: tuple[int, int, int], scale: tuple[float, float, float], many: int
) -> None:
    made = plan(spec(spacing=scale, multiple_of=many), volume(np.zeros(shape, np.int16)))
    tensor = made.tensor(0, shape[0])[0, 0]
    assert tensor.shape == made.padded_shape(shape[0])
    assert all(n % many == 0 for n in tensor.shape)
    # Each model voxel is numbered by its index along one axis: what comes back must contain the
    # centre of the image's voxel.
    for axis in range(3):
        index = np.indices(tensor.shape)[axis].astype(np.uint8)
        back = made.back(index, shape[0])
        assert back.shape == shape
        centers = (np.indices(shape)[axis] + 0.5) / made.scale[axis]
        assert ((back <= centers + 1e-6) & (centers - 1e-6 <= back + 1)).all()


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    factor=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_survive_a_finer_grid_and_back_exactly(
    shape: tuple[int, int, int], factor: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 5, shape).astype(np.uint8)
    made = plan(spec(spacing=(1.0 / factor,) * 3), volume(labels.astype(np.int16)))
    assert made.model_shape == tuple(factor * n for n in shape)
    fine = labels
    for axis in range(3):
        fine = np.repeat(fine, factor, axis)
    assert np.array_equal(made.back(fine, shape[0]), labels)


@pytest.mark.feature("F04")
def test_resampling_keeps_a_linear_ramp() -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32), (4, 8, 16))
    made = plan(spec(spacing=(1.0, 1.0, 2.0)), volume(ramp))
    row = made.tensor(0, 4)[0, 0, 1, 2]
    # A voxel of twice the width is centred between two of the image's.
    assert row == pytest.approx(np.arange(0.5, 16, 2))


def test_a_fixed_size_is_met_from_any_image() -> None:
    image = volume(np.random.default_rng(1).normal(size=(3, 11, 17)).astype(np.float32))
    made = plan(spec(dimensions="2D", apply="slices", layout="NCHW", size=(8, 8), batch=2), image)
    assert made.blocks() == [(0, 2), (2, 3)]
    assert made.tensor(0, 2).shape == (2, 1, 8, 8)
    assert made.back(np.zeros((1, 8, 8), np.uint8), 1).shape == (1, 11, 17)


@pytest.mark.feature("F04")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [0, 25, 50, 100]),
        ({"window": {"center": 50, "width": 60}}, [20, 25, 50, 80]),
        (
            {
                "window": {"center": 50, "width": 50},
                "normalisation": {"kind": "window", "to": [-1, 1]},
            },
            [-1, -1, 0, 1],
        ),
        ({"normalisation": {"kind": "value_range", "to": [-1024, 1024]}}, [-1024, -512, 0, 1024]),
        ({"normalisation": {"kind": "minmax"}}, [0, 0.25, 0.5, 1]),
        ({"normalisation": {"mean": [50], "sd": [25]}}, [-2, -1, 0, 2]),
        (
            {"normalisation": {"kind": "zscore"}},
            (np.array([0, 25, 50, 100]) - 43.75) / np.std([0, 25, 50, 100]),
        ),
    ],
)
def test_values_are_scaled_as_declared(keys: dict[str, object], expected: list[float]) -> None:
    image = volume(np.array([[[0, 25, 50, 100]]], np.uint16))
    values = plan(spec(**keys), image).tensor(0, 1).reshape(-1)
    assert values == pytest.approx(np.asarray(expected, float), abs=1e-5)


def test_a_constant_image_gives_numbers() -> None:
    image = volume(np.full((2, 3, 3), 7, np.int16))
    for kind in ("zscore", "minmax"):
        assert np.isfinite(plan(spec(normalisation={"kind": kind}), image).tensor(0, 2)).all()


def test_white_lowest_is_turned_only_where_asked() -> None:
    image = volume(np.array([[[0, 30, 100]]], np.uint8), lowest_is_white=True)
    assert plan(spec(), image).tensor(0, 1).reshape(-1).tolist() == [0, 30, 100]
    turned = plan(spec(black_lowest=True), image).tensor(0, 1).reshape(-1)
    assert turned.tolist() == [100, 70, 0]


@pytest.mark.feature("F04")
@pytest.mark.parametrize(
    ("layout", "channels", "shape"),
    [
        ("NCDHW", 1, (1, 1, 2, 3, 4)),
        ("NCDHW", 3, (1, 3, 2, 3, 4)),
        ("NDHWC", 3, (1, 2, 3, 4, 3)),
        ("NDHW", 1, (1, 2, 3, 4)),
        ("NCHW", 3, (2, 3, 3, 4)),
        ("NHWC", 1, (2, 3, 4, 1)),
        ("NHW", 1, (2, 3, 4)),
    ],
)
def test_axes_stand_as_declared(layout: str, channels: int, shape: tuple[int, ...]) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    more = {} if "D" in layout else {"dimensions": "2D", "apply": "slices"}
    tensor = plan(spec(layout=layout, channels=channels, **more), volume(voxels)).tensor(0, 2)
    assert tensor.shape == shape
    kept = np.moveaxis(tensor, layout.index("C"), -1)[..., 0] if "C" in layout else tensor
    assert np.array_equal(kept.reshape(voxels.shape), voxels)


def test_each_channel_has_its_own_mean_and_sd() -> None:
    keys = {"channels": 3, "normalisation": {"mean": [1, 2, 3], "sd": [1, 2, 4]}}
    tensor = plan(spec(**keys), volume(np.full((1, 1, 1), 11.0))).tensor(0, 1)
    assert tensor.reshape(-1).tolist() == [10.0, 4.5, 2.0]


def test_padding_has_its_value_and_goes_to_the_end() -> None:
    made = plan(spec(multiple_of=4, pad_value=-5.0), volume(np.ones((2, 4, 3), np.int16)))
    tensor = made.tensor(0, 2)[0, 0]
    assert tensor.shape == (4, 4, 4)
    assert (tensor[:2, :, :3] == 1).all()
    assert (tensor[2:] == -5).all()
    assert (tensor[:, :, 3:] == -5).all()


def test_padding_is_not_normalised() -> None:
    keys = {"channels": 3, "normalisation": {"mean": [1, 2, 3], "sd": [2, 2, 2]}}
    made = plan(spec(multiple_of=2, pad_value=-5.0, **keys), volume(np.full((2, 2, 1), 5.0)))
    tensor = made.tensor(0, 2)
    assert tensor[0, :, 0, 0].tolist() == [[2.0, -5.0], [1.5, -5.0], [1.0, -5.0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_not_finite_is_refused(value: float) -> None:
    voxels = np.zeros((1, 2, 2), np.float32)
    voxels[0, 1, 1] = value
    with pytest.raises(InferenceError, match="not finite"):
        plan(spec(), volume(voxels)).tensor(0, 1)


def test_facts_of_the_image_are_fed_by_tensor_name() -> None:
    keys = {"facts": {"range": "value_range", "white": "lowest_is_white"}}
    facts = plan(spec(**keys), volume(np.zeros((1, 1, 1)), lowest_is_white=True)).facts()
    assert facts["range"].tolist() == [0.0, 100.0]
    assert facts["white"].tolist() == [1.0]
