"""Whatever the place and order of a series: what is unsound is refused for what it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from config.errors import SeriesError
from dicomnode.sample import decimal
from dicomnode.series.geometry import examine, locate
from dicomnode.series.headers import read_header
from dicomnode.series.quality import assess
from dicomnode.series.volume import load_series, outline
from tests import factories

EXAMPLES = settings(max_examples=100, deadline=None)


@st.composite
def cosines(draw: st.DrawFn) -> tuple[float, ...]:
    """Any two directions at right angles, from a quaternion."""
    parts = st.floats(-1, 1, allow_nan=False, allow_subnormal=False)
    q = np.array([draw(parts) for _ in range(4)])
    if np.linalg.norm(q) < 0.1:
        q = np.array([1.0, 0.0, 0.0, 0.0])
    w, x, y, z = q / np.linalg.norm(q)
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    column = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    return (*row, *column)


millimetres = st.floats(0.3, 6.0)
places = st.tuples(*[st.floats(-300, 300)] * 3)


@st.composite
def series(draw: st.DrawFn) -> list[Dataset]:
    """A sound series in any place, orientation, spacing and order of files."""
    images = factories.ct_series(
        draw(st.integers(2, 7)),
        rows=8,
        columns=9,
        cosines=draw(cosines()),
        origin=draw(places),
        pixel_spacing=(draw(millimetres), draw(millimetres)),
        step=draw(millimetres),
        signed=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )
    return draw(st.permutations(images))


@EXAMPLES
@given(images=series())
def test_the_outline_is_the_volume_in_all_but_its_voxels(images: list[Dataset]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = factories.write(images, Path(folder))
        loaded = load_series(paths).volume
        expected = outline(headers := [read_header(path) for path in paths], assess(headers))
    assert np.array_equal(expected.affine, loaded.affine)
    assert expected.voxels.shape == loaded.voxels.shape
    for field in ("units", "spacing", "value_range", "lowest_is_white"):
        assert getattr(expected, field) == getattr(loaded, field)
    low, high = loaded.value_range
    assert low <= loaded.voxels.min() <= loaded.voxels.max() <= high


def _shift(image: Dataset, along: int, by: float) -> None:
    position = np.array([float(each) for each in image.ImagePositionPatient])
    directions = np.array([float(each) for each in image.ImageOrientationPatient]).reshape(2, 3)
    axes = (*directions, np.cross(*directions))
    image.ImagePositionPatient = [decimal(each) for each in position + by * axes[along]]


def _gap(images: list[Dataset], place: int) -> None:
    del images[place]


def _duplicate(images: list[Dataset], place: int) -> None:
    images[place].ImagePositionPatient = images[place - 1].ImagePositionPatient


def _size(images: list[Dataset], place: int) -> None:
    images[place].Rows = 12


def _turned(images: list[Dataset], place: int) -> None:
    row = [float(each) for each in images[place].ImageOrientationPatient]
    images[place].ImageOrientationPatient = [decimal(each) for each in (*row[3:], *row[:3])]


def _uneven(images: list[Dataset], place: int) -> None:
    _shift(images[place], 2, 0.3 * float(images[place].SliceThickness))


def _sideways(images: list[Dataset], place: int) -> None:
    _shift(images[place], place % 2, 3.0)


def _without(keyword: str) -> Callable[[list[Dataset], int], None]:
    return lambda images, place: delattr(images[place], keyword)


def _other_frame(images: list[Dataset], place: int) -> None:
    images[place].FrameOfReferenceUID = "1.2.3.4"


FAULTS: dict[str, Callable[[list[Dataset], int], None]] = {
    "gap": _gap,
    "duplicate": _duplicate,
    "mixed-sizes": _size,
    "mixed-orientations": _turned,
    "uneven-spacing": _uneven,
    "shifted-slices": _sideways,
    "mixed-frames-of-reference": _other_frame,
    "no-position": _without("ImagePositionPatient"),
    "no-orientation": _without("ImageOrientationPatient"),
    "no-pixel-spacing": _without("PixelSpacing"),
}


@EXAMPLES
@given(
    code=st.sampled_from(sorted(FAULTS)),
    place=st.integers(2, 4),
    turn=cosines(),
    step=millimetres,
    order=st.permutations(range(7)),
)
def test_what_is_unsound_is_always_refused_with_its_code(
    code: str, place: int, turn: tuple[float, ...], step: float, order: list[int]
) -> None:
    images = factories.ct_series(7, rows=8, columns=9, cosines=turn, step=step)
    FAULTS[code](images, place)
    shuffled = [images[index] for index in order if index < len(images)]
    found = examine(shuffled)
    assert code in {reason.code for reason in found.reasons}
    assert not assess(shuffled).ok
    with pytest.raises(SeriesError):
        locate(shuffled)


@EXAMPLES
@given(degrees=st.floats(1.0, 30.0), slices=st.integers(3, 7), turn=cosines())
def test_a_leaning_stack_is_always_refused(
    degrees: float, slices: int, turn: tuple[float, ...]
) -> None:
    images = factories.ct_series(slices, rows=8, columns=9, cosines=turn, step=5.0, tilt=degrees)
    (reason,) = examine(images).reasons
    assert reason.code == "gantry-tilt"
    assert f"{degrees:.1f} degrees" in reason.text


@EXAMPLES
@given(slices=st.integers(21, 60), share=st.floats(0.02, 0.045))
def test_small_steps_that_add_up_are_refused(slices: int, share: float) -> None:
    images = factories.ct_series(slices, rows=8, columns=9, step=1.0)
    half = slices // 2
    for index, image in enumerate(images):
        z = index * (1 + share) if index <= half else half * (1 + share) + (index - half)
        image.ImagePositionPatient = ["0", "0", decimal(z)]
    even = np.linspace(0, z, slices)
    off = max(abs(even[i] - float(images[i].ImagePositionPatient[2])) for i in range(slices))
    codes = {reason.code for reason in examine(images).reasons}
    assert codes == ({"uneven-spacing"} if off > 0.25 * z / (slices - 1) else set())
