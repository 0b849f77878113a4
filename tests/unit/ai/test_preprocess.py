from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

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


def slices_of(depth: int, **changes: object) -> tuple[Input, Volume]:
    voxels = np.arange(depth, dtype=np.int16)[:, None, None] * np.ones((1, 3, 4), np.int16)
    keys = {"dimensions": "2D", "apply": "slices", "layout": "NCHW", "batch": 3} | changes
    return spec(**keys), volume(voxels)


@pytest.mark.feature("F04", "F09")
@settings(max_examples=100, deadline=None)
@given(depth=st.integers(1, 9), reach=st.integers(1, 3), layout=st.sampled_from(["NCHW", "NHWC"]))
def test_a_slice_comes_with_its_neighbours_and_the_ends_are_repeated(
    depth: int, reach: int, layout: str
) -> None:
    keys = {"dimensions": "2.5D", "neighbours": reach, "channels": 2 * reach + 1, "layout": layout}
    made = plan(*slices_of(depth, **keys))
    seen = []
    for start, stop in made.blocks():
        tensor = made.tensor(start, stop)
        assert tensor.shape[0] == stop - start
        seen.append(tensor[:, :, 0, 0] if layout == "NCHW" else tensor[:, 0, 0, :])
    expected = [
        [min(max(k + step, 0), depth - 1) for step in range(-reach, reach + 1)]
        for k in range(depth)
    ]
    assert np.concatenate(seen).tolist() == expected


@pytest.mark.feature("F04")
def test_each_window_is_a_channel_of_its_own() -> None:
    image = volume(np.array([[[-100, 0, 50, 300]]], np.int16))
    keys = {
        "channels": 2,
        "windows": [{"center": 0, "width": 100}, {"center": 200, "width": 400}],
        "normalisation": {"kind": "window", "sd": [1, 2]},
    }
    tensor = plan(spec(**keys), image).tensor(0, 1).reshape(2, 4)
    assert tensor[0] == pytest.approx([0, 0.5, 1, 1])
    assert tensor[1] == pytest.approx([0, 0, 0.125 / 2, 0.75 / 2])


numbers = arrays.arrays(
    np.int16, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(-200, 200)
)


@pytest.mark.feature("F04")
@settings(max_examples=100, deadline=None)
@given(
    voxels=numbers,
    kind=st.sampled_from(["minmax", "percentiles", "zscore"]),
    nonzero=st.booleans(),
    floating=st.booleans(),
    turned=st.booleans(),
    ends=st.sampled_from([(0.0, 100.0), (0.5, 99.5), (10.0, 60.0)]),
)
def test_a_normalisation_looks_at_the_voxels_it_is_told_to(
    *,
    voxels: np.ndarray,
    kind: str,
    nonzero: bool,
    floating: bool,
    turned: bool,
    ends: tuple[float, float],
) -> None:
    image = volume(
        voxels.astype(np.float32) if floating else voxels,
        lowest_is_white=turned,
        value_range=(-200.0, 200.0),
    )
    norm = {"kind": kind, "over": "nonzero" if nonzero else "all", "percentiles": ends}
    made = plan(spec(normalisation=norm, black_lowest=True), image)
    tensor = made.tensor(0, len(voxels))[0, 0]
    shown = -voxels.astype(np.float64) if turned else voxels.astype(np.float64)
    seen = shown[voxels != 0] if nonzero else shown.reshape(-1)
    if seen.size == 0:
        assert np.isfinite(tensor).all()
        return
    if kind == "zscore":
        expected = (shown - seen.mean()) / (seen.std() or 1.0)
    else:
        low, high = (seen.min(), seen.max()) if kind == "minmax" else np.percentile(seen, ends)
        expected = shown - low if high <= low else (shown - low) / (high - low)
        if kind == "percentiles":
            expected = np.clip(shown, low, high) - low
            expected = expected / (high - low) if high > low else expected
    assert tensor == pytest.approx(expected, abs=2e-4)


def test_what_lies_outside_gets_the_declared_value_after_all_steps() -> None:
    voxels = np.zeros((2, 6, 6), np.int16)
    voxels[:, 2:5, 1:4] = 7
    norm = {"kind": "zscore", "over": "nonzero", "outside": -3.0}
    tensor = plan(spec(normalisation=norm), volume(voxels)).tensor(0, 2)[0, 0]
    assert np.array_equal(tensor, np.where(voxels == 0, -3.0, 0.0))


@settings(max_examples=100, deadline=None)
@given(image=placed(), code=st.sampled_from(CODES), margin=st.integers(0, 2))
def test_a_normalisation_over_the_crop_sees_what_the_model_is_given(
    image: Volume, code: str, margin: int
) -> None:
    crop = {"to": "nonzero", "margin": margin}
    norm = {"kind": "zscore", "over": "crop"}
    framed = dataclasses.replace(image, voxels=np.pad(image.voxels + 1, 3))
    made = plan(spec(crop=crop, normalisation=norm, orientation=code), framed)
    assert max(made.shape) <= max(image.voxels.shape) + 2 * margin
    tensor = made.tensor(0, made.shape[0]).astype(np.float64)
    assert tensor.mean() == pytest.approx(0.0, abs=1e-3)
    assert tensor.std() == pytest.approx(1.0, abs=1e-3) or np.ptp(tensor) == 0.0


def phantom() -> np.ndarray:
    """A body with a cavity in the air, a table apart from it, and noise."""
    voxels = np.random.default_rng(7).integers(-1010, -990, (6, 24, 30)).astype(np.int16)
    voxels[1:5, 5:15, 8:20] = 40
    voxels[2:4, 8:11, 12:16] = -950
    voxels[:, 20, 4:28] = 100
    return voxels


@pytest.mark.feature("F04")
@pytest.mark.parametrize("keys", [{}, {"body_above": -500.0}], ids=["Otsu", "declared"])
def test_the_body_is_found_and_labels_come_back_into_the_whole_image(keys: dict) -> None:
    image = volume(phantom())
    made = plan(spec(crop={"to": "body"}, **keys), image)
    assert made.shape == (4, 10, 12)
    assert np.array_equal(made.tensor(0, 4)[0, 0], image.voxels[1:5, 5:15, 8:20])
    labels = np.zeros(image.voxels.shape, np.uint8)
    made.oriented(labels)[:] = made.back(np.ones((4, 10, 12), np.uint8), 4)
    assert labels.sum() == labels[1:5, 5:15, 8:20].sum() == 4 * 10 * 12
    norm = {"kind": "minmax", "over": "body"}
    whole = plan(spec(normalisation=norm, **keys), image).tensor(0, 6)[0, 0]
    # The lowest value of the body is that of its cavity, which is filled.
    assert whole[3, 9, 13] == pytest.approx(0.0, abs=0.05)
    assert whole[3, 6, 9] == pytest.approx(1.0)
    assert whole[0, 20, 10] > 1.0


@settings(max_examples=100, deadline=None)
@given(image=placed(), code=st.sampled_from(CODES), margin=st.integers(0, 2), data=st.data())
def test_a_crop_holds_what_it_is_about_in_any_orientation(
    image: Volume, code: str, margin: int, data: st.DataObject
) -> None:
    kept = data.draw(arrays.arrays(np.bool_, image.voxels.shape))
    cut = dataclasses.replace(image, voxels=np.where(kept, image.voxels + 1, 0))
    made = plan(spec(orientation=code, crop={"to": "nonzero", "margin": margin}), cut)
    held = made.oriented(kept)
    assert held.sum() == kept.sum()
    if not kept.any():
        assert held.size == kept.size
        return
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        there = np.flatnonzero(held.any(axis=others))
        assert there[0] <= margin
        assert held.shape[axis] - 1 - there[-1] <= margin


def test_the_middle_square_is_kept() -> None:
    made = plan(spec(crop={"to": "square"}), volume(np.zeros((3, 5, 9), np.int16)))
    assert made.box == (slice(0, 3), slice(0, 5), slice(2, 7))


@pytest.mark.feature("F04")
def test_one_factor_for_all_axes_and_padding_around_the_centre() -> None:
    voxels = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 4)
    keys = {"dimensions": "2D", "layout": "NCHW", "interpolation": "nearest", "pad_value": -1.0}
    image = volume(voxels)
    made = plan(spec(**keys, size=(8, 8), fit="inside", pad="centre"), image)
    tensor = made.tensor(0, 1)[0, 0]
    assert tensor.shape == (8, 8)
    assert (tensor[:2] == -1).all()
    assert (tensor[6:] == -1).all()
    assert np.array_equal(tensor[2:6], np.repeat(np.repeat(voxels[0], 2, 0), 2, 1))
    assert np.array_equal(made.back(tensor[None], 1), voxels)
    least = plan(spec(**keys, least=(3, 7)), image).tensor(0, 1)[0, 0]
    assert least.shape == (3, 7)
    assert np.array_equal(least[:2, :4], voxels[0])


@pytest.mark.feature("F04")
def test_each_interpolation_gives_its_own_values() -> None:
    rows = np.array([0, 0, 4, 4, 8, 8], np.float32)
    image = volume(np.broadcast_to(rows, (6, 6, 6)))
    seen = {}
    for kind in ("nearest", "linear", "bspline"):
        made = plan(spec(spacing=(1.0, 1.0, 0.5), interpolation=kind), image)
        seen[kind] = made.tensor(0, 6)[0, 0, 2, 2]
    assert set(seen["nearest"].tolist()) == {0, 4, 8}
    assert seen["linear"][3:5] == pytest.approx([1, 3])
    # A cubic spline goes through the values and swings beyond them.
    assert seen["bspline"].min() < -0.05
    assert seen["bspline"].max() > 8.05
    few = plan(spec(spacing=(1.0, 1.0, 0.5), interpolation="bspline"), volume(np.ones((6, 3, 6))))
    with pytest.raises(InferenceError, match="too few for B-splines"):
        few.tensor(0, 6)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    keys=st.sampled_from(
        [
            {"pad": "centre", "multiple_of": 4},
            {"pad": "centre", "least": (9, 9, 9), "spacing": (0.5, 2.0, 1.0)},
            {"size": (5, 6, 7), "fit": "inside", "pad": "centre"},
            {"crop": {"to": "nonzero"}, "size": (4, 4, 4)},
        ]
    ),
)
def test_labels_come_back_whatever_the_padding(
    shape: tuple[int, int, int], keys: dict[str, object]
) -> None:
    made = plan(spec(**keys), volume(np.ones(shape, np.int16)))
    grid = made.padded_shape(shape[0])
    assert made.tensor(0, shape[0]).shape[2:] == grid
    for axis in range(3):
        index = np.indices(grid)[axis].astype(np.uint8)
        back = made.back(index, shape[0]) - made.pad_before(shape[0])[axis]
        assert back.shape == shape
        centers = (np.indices(shape)[axis] + 0.5) / made.scale[axis]
        assert ((back <= centers + 1e-6) & (centers - 1e-6 <= back + 1)).all()


@pytest.mark.feature("F04")
@settings(max_examples=50, deadline=None)
@given(rgb=arrays.arrays(np.uint8, (2, 4, 6, 3)), layout=st.sampled_from(["NCHW", "NHWC"]))
def test_red_green_and_blue_are_prepared_each_like_a_grey_image(
    rgb: np.ndarray, layout: str
) -> None:
    grey = rgb.mean(axis=-1).astype(np.uint8)
    norm = {"kind": "value_range", "mean": [0.1, 0.2, 0.3], "sd": [1.0, 2.0, 4.0]}
    keys = {"dimensions": "2D", "apply": "slices", "layout": layout, "size": (2, 3)}
    coloured = spec(**keys, colour="rgb", channels=3, normalisation=norm)
    image = volume(grey, colour=True, rgb=rgb, value_range=(0.0, 255.0))
    tensor = plan(coloured, image).tensor(0, 2)
    seen = np.moveaxis(tensor, layout.index("C"), 0)
    for number in range(3):
        alone = volume(rgb[..., number], value_range=(0.0, 255.0))
        single = {"mean": [norm["mean"][number]], "sd": [norm["sd"][number]]}
        one = spec(**keys, normalisation={"kind": "value_range"} | single)
        assert seen[number] == pytest.approx(plan(one, alone).tensor(0, 2).reshape(2, 2, 3))
    plain = plan(coloured, volume(grey, value_range=(0.0, 255.0))).tensor(0, 2)
    assert plain.shape == tensor.shape
