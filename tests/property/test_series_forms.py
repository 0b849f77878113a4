"""For any volume in space, whatever its encoding: the same voxels at the same places."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicomnode.frames import frame_headers, frame_number
from dicomnode.series.facts import facts_of
from dicomnode.series.quality import assess
from dicomnode.series.volume import load_series
from tests import factories
from tests.property.test_series_space import cosines, millimetres, places
from tests.volumes import Form, Grid, images_of

EXAMPLES = settings(max_examples=100, deadline=None)

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)
DTYPES = (np.uint16, np.int16, np.uint8)


@dataclass(frozen=True)
class Case:
    """A volume and how it is sent."""

    grid: Grid
    voxels: NDArray[np.generic]
    modality: str
    form: Form
    images: list[Dataset]
    shuffled: list[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    grid = Grid(
        (draw(st.integers(2, 5)), 6, 7),
        cosines=draw(cosines()),
        spacing=(draw(millimetres), draw(millimetres), draw(millimetres)),
        origin=draw(places),
    )
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 99))
    info = np.iinfo(dtype)
    voxels = np.random.default_rng(seed).integers(info.min, info.max, grid.shape, dtype)
    modality = draw(st.sampled_from(["CT", "MR"]))
    form: Form = draw(st.sampled_from(["single-frame", "enhanced"]))
    images = images_of(
        voxels,
        grid,
        modality=modality,
        form=form,
        order=draw(st.sampled_from(["along", "against", "shuffled"])),
        intercept=-1024.0 if modality == "CT" else 0.0,
        syntax=draw(st.sampled_from(SYNTAXES)),
        seed=seed,
    )
    return Case(grid, voxels, modality, form, images, draw(st.permutations(range(len(images)))))


@pytest.mark.feature("P12", "F19")
@EXAMPLES
@given(case=cases())
def test_every_form_gives_the_voxels_where_they_lie(case: Case) -> None:
    grid, voxels, modality, form = case.grid, case.voxels, case.modality, case.form
    with tempfile.TemporaryDirectory() as folder:
        paths = factories.write(case.images, Path(folder))
        series = load_series([paths[index] for index in case.shuffled])
    wanted = voxels.astype(int) - (1024 if modality == "CT" else 0)
    np.testing.assert_array_equal(series.volume.voxels, wanted)
    affine = series.volume.affine
    assert affine is not None
    farthest = [(0, 0, 0, 1), (grid.shape[0] - 1, 5, 6, 1)]
    for index in farthest:
        assert np.abs(affine @ index - grid.affine @ index).max() < 1e-4
    for place, header in enumerate(series.headers):
        position = [float(entry) for entry in header.ImagePositionPatient]
        assert np.abs(position - (grid.affine @ (place, 0, 0, 1))[:3]).max() < 1e-4
        assert (frame_number(header) is None) == (form == "single-frame")
    if form == "enhanced":
        frames = {frame_number(header) for header in series.headers}
        assert frames == set(range(1, grid.shape[0] + 1))


@EXAMPLES
@given(data=st.data(), slices=st.integers(2, 6))
def test_dimension_indices_and_instance_numbers_never_decide_the_order(
    data: st.DataObject, slices: int
) -> None:
    voxels = np.arange(slices * 30, dtype=np.uint16).reshape(slices, 5, 6)
    (image,) = images_of(voxels, Grid(voxels.shape), form="enhanced")
    lies = data.draw(st.permutations(range(1, slices + 1)))
    for group, lie in zip(image.PerFrameFunctionalGroupsSequence, lies, strict=True):
        content = group.FrameContentSequence[0]
        content.DimensionIndexValues = [1, lie]
        content.InStackPositionNumber = lie
    with tempfile.TemporaryDirectory() as folder:
        volume = load_series(factories.write(image, Path(folder))).volume
    np.testing.assert_array_equal(volume.voxels, voxels.astype(int) - 1024)


ENHANCED = images_of(
    np.zeros((4, 6, 7), np.uint16), Grid((4, 6, 7)), form="enhanced", order="along"
)[0]


def _groups(image: Dataset) -> list[Dataset]:
    return list(image.PerFrameFunctionalGroupsSequence)


def _move(image: Dataset, axis: int, by: Callable[[int], float]) -> None:
    for index, group in enumerate(_groups(image)):
        group.PlanePositionSequence[0].ImagePositionPatient[axis] += by(index)


def _same_place(image: Dataset, frame: int) -> None:
    before, after = (_groups(image)[at].PlanePositionSequence[0] for at in (frame - 1, frame))
    after.ImagePositionPatient = before.ImagePositionPatient


def _own(macro: str, keyword: str, value: object) -> Callable[[Dataset, int], None]:
    def change(image: Dataset, frame: int) -> None:
        item = Dataset()
        setattr(item, keyword, value)
        setattr(_groups(image)[frame], macro, [item])

    return change


def _shared_without(macro: str) -> Callable[[Dataset, int], None]:
    return lambda image, _: delattr(image.SharedFunctionalGroupsSequence[0], macro)


def _other_units(image: Dataset, _: int) -> None:
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence[0].RescaleType = "US"


def _without_a_group(image: Dataset, frame: int) -> None:
    del image.PerFrameFunctionalGroupsSequence[frame]


FAULTS: dict[str, Callable[[Dataset, int], None]] = {
    "gap": lambda image, frame: _move(image, 2, lambda at: 5.0 * (at > frame)),
    "duplicate": _same_place,
    "shifted-slices": lambda image, frame: _move(image, 0, lambda at: 3.0 * (at == frame)),
    "gantry-tilt": lambda image, _: _move(image, 1, lambda at: 2.0 * at),
    "uneven-spacing": lambda image, frame: _move(image, 2, lambda at: 1.5 * (at == frame)),
    "mixed-orientations": _own(
        "PlaneOrientationSequence", "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]
    ),
    "localizer-mixed": _own(
        "CTImageFrameTypeSequence", "FrameType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ),
    "no-position": _own("PlanePositionSequence", "ImagePositionPatient", None),
    "no-orientation": _shared_without("PlaneOrientationSequence"),
    "no-pixel-spacing": _shared_without("PixelMeasuresSequence"),
    "no-rescale": _shared_without("PixelValueTransformationSequence"),
    "units": _other_units,
    "malformed": _without_a_group,
}


@EXAMPLES
@given(code=st.sampled_from(sorted(FAULTS)), frame=st.integers(1, 2))
def test_what_is_unsound_about_frames_is_always_named(code: str, frame: int) -> None:
    image = Dataset.from_json(ENHANCED.to_json())
    assert assess([image]).ok
    FAULTS[code](image, frame)
    assert code in {reason.code for reason in assess([image]).reasons}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_functional_groups_of_any_shape_are_judged_without_a_fault(data: st.DataObject) -> None:
    image = Dataset.from_json(ENHANCED.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        _mangle(data, image)
    verdict = assess([image])
    facts_of([image])
    assert verdict.images >= 1
    if verdict.ok:
        assert verdict.geometry is not None
        assert len(verdict.geometry.order) == len(frame_headers(image))


def _mangle(data: st.DataObject, dataset: Dataset) -> None:
    """Drop or replace one element anywhere in the tree of sequences."""
    tag = data.draw(st.sampled_from(sorted(dataset.keys())))
    element = dataset.get_item(tag)  # as it is: parsing what is odd already would fail here
    items = element.value if isinstance(element, DataElement) and element.VR == "SQ" else ()
    if items and data.draw(st.integers(0, 9)) < 8:
        item = data.draw(st.sampled_from(list(items)))
        if len(item):
            _mangle(data, item)
        return
    del dataset[tag]
    if data.draw(st.booleans()):
        odd = data.draw(st.sampled_from([b"", b"x", b"1\\2", b"-1", b"1e400", b"\x00\xff" * 9]))
        dataset[tag] = RawDataElement(tag, element.VR, len(odd), odd, 0, False, True)
