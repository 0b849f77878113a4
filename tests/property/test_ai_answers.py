"""What the engine and the bundled models say of any image."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.engine import Engine
from ai.inputs import Input
from ai.models.build_ct_tissue import BONE_FROM, GAS_BELOW
from ai.package import Package
from ai.preprocess import plan
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from ai.types import Finding, Volume
from tests.model_packages import above_zero, write_package

CODES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "AP", "SI"))
    for letters in itertools.product(*order)
]
BODY_WIDTHS = 24  # pixels


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Registry([bundled_models_path()]), SessionCache(("cpu",), 1))


@pytest.fixture(scope="module")
def positive(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package whose graph labels what is above zero, of any 2D input."""
    text = (bundled_models_path() / "ct-tissue" / "1.0.0" / "model.toml").read_text("utf-8")
    text = text.replace('"ct-tissue"', '"positive"')
    text = text.replace('"hu"', '"x"').replace('"labels"', '"y"')
    folder = tmp_path_factory.mktemp("site") / "positive" / "1.0.0"
    return write_package(folder, above_zero(), text)


def with_input(package: Package, **changes: object) -> Package:
    """The same graph under a manifest that prepares its input in another way."""
    spec = Input.model_validate(package.manifest.input.model_dump() | changes)
    manifest = package.manifest.model_copy(update={"inputs": (spec,)})
    return dataclasses.replace(package, manifest=manifest)


@st.composite
def placed(draw: st.DrawFn) -> Volume:
    """Random values on a grid whose axes run anyhow in the patient."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 0.75, 1.0, 2.5])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.array(signs) * np.array(spacing)
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(-9, 9, shape)
    # Odd, so that no value lies on the threshold, where rounding would decide.
    odd = (2 * values + 1).astype(np.int16)
    return Volume(odd, "[hnsf'U]", affine, spacing, (-1024.0, 3071.0))


@st.composite
def preparations(draw: st.DrawFn) -> dict[str, object]:
    """Keys of an input that leave the sign of each value as it is."""
    return {
        "orientation": draw(st.none() | st.sampled_from(CODES)),
        "batch": draw(st.integers(1, 4)),
        "multiple_of": draw(st.sampled_from([1, 4])),
        "pad_value": 5.0,
        "window": {"center": 0.0, "width": 8.0},
    }


@pytest.mark.feature("F04", "P09", "P12")
@settings(max_examples=150, deadline=None)
@given(volume=placed(), keys=preparations(), finer=st.booleans())
def test_labels_come_back_exactly_on_the_image_s_own_grid(
    engine: Engine, positive: Package, volume: Volume, keys: dict[str, object], finer: bool
) -> None:
    if finer and keys["orientation"] is None:
        # Each pixel becomes nine, of which the middle one keeps its value.
        keys["size"] = [3 * n for n in volume.voxels.shape[1:]]
    answer = engine.run(with_input(positive, **keys), {"image": volume})
    assert answer.labels is not None
    assert answer.labels.dtype == np.uint8
    above = volume.voxels > 0
    assert np.array_equal(answer.labels, above)
    assert [entry.segment for entry in answer.findings] == [1] * bool(above.any())
    for entry in answer.findings:
        ml, mean = (part.value for part in entry.measurements)
        voxel = float(np.prod([step or 0.0 for step in volume.spacing]))
        assert ml == pytest.approx(np.count_nonzero(above) * voxel / 1000)
        assert mean == pytest.approx(volume.voxels[above].mean())


@pytest.mark.feature("F04")
@settings(max_examples=100, deadline=None)
@given(volume=placed(), code=st.sampled_from(CODES))
def test_each_axis_of_the_tensor_runs_towards_the_side_that_is_asked_for(
    volume: Volume, code: str
) -> None:
    towards = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    spec = {
        "role": "image",
        "primary": True,
        "tensor": "x",
        "modality": ["CT"],
        "units": "[hnsf'U]",
        "dimensions": "3D",
        "layout": "NDHW",
        "orientation": code,
    }
    assert volume.affine is not None
    index = np.indices(volume.voxels.shape).reshape(3, -1)
    places = volume.affine[:3, :3] @ index  # x, y, z of each voxel in LPS
    for axis, letter in enumerate(code):
        component, sign = towards[letter]
        along = (sign * places[component]).reshape(volume.voxels.shape).astype(np.float32)
        made = plan(Input.model_validate(spec), dataclasses.replace(volume, voxels=along))
        (tensor,) = made.tensor(0, made.shape[0])
        assert (np.diff(tensor, axis=axis) > 0).all()


@st.composite
def radiographs(draw: st.DrawFn) -> Volume:
    """Flat, noisy, collimated, clipped, of any size and depth of bits."""
    rows, columns = draw(st.tuples(*[st.integers(1, 70)] * 2))
    highest = 2 ** draw(st.sampled_from([8, 10, 12, 16])) - 1
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 2)))
    pixels = np.full((rows, columns), draw(st.sampled_from([0, highest, highest // 3])), np.uint16)
    top, left = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    bottom, right = draw(st.integers(top, rows)), draw(st.integers(left, columns))
    part = pixels[top:bottom, left:right]
    part[:] = np.round(random.uniform(low, high, part.shape) * highest)
    return Volume(
        pixels[None], "1", None, (None, None, None), (0.0, float(highest)), draw(st.booleans())
    )


def coded(finding: Finding) -> bool:
    return finding.category.scheme in {"SCT", "RADLEX", "DCM"} and bool(finding.category.value)


@pytest.mark.feature("P10", "P11", "P12")
@settings(max_examples=200, deadline=None)
@given(volume=radiographs())
def test_any_radiograph_has_a_coded_verdict_and_a_field_inside_it(
    engine: Engine, volume: Volume
) -> None:
    answer = engine.run("xr-quality", {"image": volume})
    pixels = volume.voxels[0] / volume.value_range[1]
    by_name = {finding.name: finding for finding in answer.findings}
    assert set(by_name) == {"exposed field", "technical quality"}
    assert all(coded(finding) for finding in answer.findings)
    assert {finding.confidence.basis for finding in answer.findings} == {"none: rule-based"}
    area, lows, highs, contrast = (m.value for m in by_name["exposed field"].measurements)
    region, inside = by_name["exposed field"].region, pixels
    if region is not None:
        (left, top), (right, bottom) = region.points[0], region.points[2]
        assert 0 <= left < right <= pixels.shape[1] - 1
        assert 0 <= top < bottom <= pixels.shape[0] - 1
        inside = pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
        assert area == pytest.approx(100 * inside.size / pixels.size, rel=1e-4)
        assert lows == pytest.approx(100 * np.mean(inside <= 0), abs=1e-3)
        assert highs == pytest.approx(100 * np.mean(inside >= 1), abs=1e-3)
        ends = np.quantile(inside, [0.05, 0.95], method="nearest")
        assert contrast == pytest.approx(100 * (ends[1] - ends[0]), abs=1e-2)
    quality, inverted = (entry.value for entry in by_name["technical quality"].evaluations)
    limited = area < 20 or lows > 40 or highs > 40 or contrast < 10 or inverted.meaning == "Yes"
    assert quality.value == ("RID13" if limited else "RID12")


@st.composite
def bodies(draw: st.DrawFn) -> Volume:
    """Boxes of tissue in air, with noise; any of them may be missing or touch an edge."""
    shape = (draw(st.integers(1, 3)), *draw(st.tuples(*[st.integers(1, 40)] * 2)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hu = np.full(shape, -1000.0)
    for value in draw(st.lists(st.sampled_from([-850.0, -100.0, 40.0, 400.0]), max_size=5)):
        top, left = random.integers(0, shape[1]), random.integers(0, shape[2])
        height, width = random.integers(1, BODY_WIDTHS, 2)
        hu[:, top : top + height, left : left + width] = value
    hu += random.normal(0, draw(st.sampled_from([0.0, 20.0, 300.0])), shape)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    return Volume(
        np.clip(np.round(hu), -1024, 3071).astype(np.int16),
        "[hnsf'U]",
        affine,
        (3.0, 0.5, 0.5),
        (-1024.0, 3071.0),
    )


@pytest.mark.feature("P10", "P11", "P13")
@settings(max_examples=100, deadline=None)
@given(volume=bodies(), axes=st.sets(st.sampled_from([0, 1, 2])))
def test_tissue_follows_its_thresholds_and_turns_with_the_image(
    engine: Engine, volume: Volume, axes: set[int]
) -> None:
    answer = engine.run("ct-tissue", {"image": volume})
    labels = answer.labels
    assert labels is not None
    assert (volume.voxels[labels == 1] < GAS_BELOW).all()
    assert (volume.voxels[(labels == 2) | (labels == 3)] >= GAS_BELOW).all()
    assert (volume.voxels[(labels == 2) | (labels == 3)] < BONE_FROM).all()
    assert (volume.voxels[labels == 4] >= BONE_FROM).all()
    assert {finding.segment for finding in answer.findings} == set(np.unique(labels)) - {0}
    assert all(coded(finding) for finding in answer.findings)
    sizes = [finding.measurements[0].value for finding in answer.findings]
    assert sizes == sorted(sizes, reverse=True)  # all weigh the same
    turn = tuple(slice(None, None, -1 if axis in axes else 1) for axis in range(3))
    turned = engine.run(
        "ct-tissue", {"image": dataclasses.replace(volume, voxels=volume.voxels[turn])}
    )
    assert turned.labels is not None
    assert np.array_equal(turned.labels, labels[turn])
    assert [entry.name for entry in turned.findings] == [entry.name for entry in answer.findings]
