"""From any acquisition to results that lie where the phantom lies, read without our code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from config.errors import SeriesError
from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.gate import prove
from dicomnode.results.provenance import ModelFacts, Provenance
from dicomnode.results.write import to_bytes
from dicomnode.sample import decimal
from dicomnode.series.volume import LoadedSeries, load_series
from tests import factories
from tests.geometries import (
    ACQUISITIONS,
    BALL,
    BALL_CENTRE,
    ENCODINGS,
    LEFT_LUNG,
    RIGHT_LUNG,
    Acquisition,
    answer_of,
    part_of,
    point_in_space,
    segments_in_space,
    turned,
)
from tests.volumes import Grid, Order

Shifts = Callable[[list[Dataset]], None]


def _provenance() -> Provenance:
    model = ModelFacts("phantom", "1.0.0", "Tests", "Knows it.", "cd" * 32, "rules", "Tests")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return Provenance("ab" * 32, moment, "MEDAI", "2.25.1", "0.1.0", model)


def _written(
    acquisition: Acquisition,
    encoding: str,
    folder: Path,
    kinds: Sequence[str],
    *,
    overlap: bool = False,
) -> tuple[LoadedSeries, dict[str, Dataset], list[Dataset]]:
    """Load, answer, build, write, prove: the series, the objects read back, the images sent."""
    form, syntax = ENCODINGS[encoding]
    images = acquisition.images(form, syntax)
    series = load_series(factories.write(images, folder))
    answer, provenance = answer_of(series.volume, overlap=overlap), _provenance()
    made = build_bundle(kinds, Sources(answer, series.volume, series.headers, provenance))
    files = {kind: to_bytes(each) for kind, each in made.items() if isinstance(each, Dataset)}
    assert prove(files, answer, series.volume, series.headers, provenance) == ()
    return series, {kind: dcmread(BytesIO(data)) for kind, data in files.items()}, images


def _assert_in_place(acquisition: Acquisition, written: Dataset, *, overlap: bool = False) -> None:
    """Each segment of the file against the formulas of the phantom, in patient space."""
    steps = np.linalg.norm(acquisition.grid.affine[:3, :3], axis=0)
    middles = {}
    for number, (places, mask) in segments_in_space(written).items():
        wanted = part_of(acquisition.labels_at(places), number, overlap=overlap)
        dice = 2 * np.count_nonzero(mask & wanted) / (mask.sum() + wanted.sum())
        assert dice >= 0.99
        middles[number] = places[mask].mean(axis=0)
        assert np.linalg.norm(middles[number] - places[wanted].mean(axis=0)) <= steps.min() / 2
        labels = acquisition.labels_at(acquisition.grid.points)
        everywhere = part_of(labels, number, overlap=overlap)
        assert mask.sum() == pytest.approx(everywhere.sum(), rel=0.01)
    # The patient's left is where x grows (PS3.3 C.7.6.2.1.1).
    assert middles[LEFT_LUNG][0] > acquisition.centre[0] > middles[RIGHT_LUNG][0]
    assert middles[BALL][2] > acquisition.centre[2]


def _assert_marked(acquisition: Acquisition, report: Dataset, images: list[Dataset]) -> None:
    """The region of the report lies on the ball."""
    steps = np.linalg.norm(acquisition.grid.affine[:3, :3], axis=0)
    ball = acquisition.centre + np.array(BALL_CENTRE) * acquisition.reach
    boxes = [item for item in _items(report) if item.get("ValueType") == "SCOORD"]
    middles = [point_in_space(item, images) for item in boxes if len(item.GraphicData) == 10]
    assert min(np.linalg.norm(middle - ball) for middle in middles) <= steps.max()


def _items(item: Dataset) -> list[Dataset]:
    below = [each for child in item.get("ContentSequence", []) for each in _items(child)]
    return [item, *below]


# The default form takes each acquisition in one encoding, so that each encoding comes six times,
# and a report with every third.
_SHORT = [
    (name, list(ENCODINGS)[number % len(ENCODINGS)], ("seg", "sr") if number % 3 == 0 else ("seg",))
    for number, name in enumerate(ACQUISITIONS)
]
_LONG = [(name, encoding, ("seg", "sr")) for name in ACQUISITIONS for encoding in ENCODINGS]


def _assert_right(name: str, encoding: str, kinds: Sequence[str], folder: Path) -> None:
    acquisition = ACQUISITIONS[name]
    _, written, images = _written(acquisition, encoding, folder, kinds)
    _assert_in_place(acquisition, written["seg"])
    if "sr" in kinds:
        _assert_marked(acquisition, written["sr"], images)


@pytest.mark.feature("P12")
@pytest.mark.parametrize(("name", "encoding", "kinds"), _SHORT)
def test_results_lie_where_the_phantom_lies(
    name: str, encoding: str, kinds: Sequence[str], tmp_path: Path
) -> None:
    _assert_right(name, encoding, kinds, tmp_path)


@pytest.mark.feature("P12")
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("oblique, in no order", "single-frame"),
        ("feet first, prone", "enhanced, compressed"),
        ("odd size, oblique", "big endian"),
    ],
)
def test_segments_that_overlap_lie_where_the_phantom_lies(
    name: str, encoding: str, tmp_path: Path
) -> None:
    acquisition = ACQUISITIONS[name]
    kinds = ("seg", "sr", "gsps", "overlay")
    _, written, images = _written(acquisition, encoding, tmp_path, kinds, overlap=True)
    assert written["seg"].SegmentsOverlap == "YES"
    _assert_in_place(acquisition, written["seg"], overlap=True)
    _assert_marked(acquisition, written["sr"], images)


@pytest.mark.slow
@pytest.mark.feature("P12")
@pytest.mark.parametrize(("name", "encoding", "kinds"), _LONG)
def test_results_lie_where_the_phantom_lies_in_every_encoding(
    name: str, encoding: str, kinds: Sequence[str], tmp_path: Path
) -> None:
    _assert_right(name, encoding, kinds, tmp_path)


@pytest.mark.parametrize("name", ["axial, in no order", "feet first, prone", "odd size, oblique"])
def test_a_segmentation_resampled_by_simpleitk_is_the_source(name: str, tmp_path: Path) -> None:
    acquisition = ACQUISITIONS[name]
    _, written, _ = _written(acquisition, "single-frame", tmp_path, ["seg"])
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    source = reader.Execute()  # SimpleITK's own reading of the images and their place
    for segment in written["seg"].SegmentSequence:
        number = int(segment.SegmentNumber)
        image = _as_image(written["seg"], number)
        there = SimpleITK.Resample(
            image, source, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
        )
        found = SimpleITK.GetArrayFromImage(there).astype(bool)
        wanted = np.rint((SimpleITK.GetArrayFromImage(source) + 1000) / 100) == number
        assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) >= 0.99


def _as_image(written: Dataset, number: int) -> SimpleITK.Image:
    """One segment as an image of SimpleITK, made of the functional groups alone."""
    shared = written.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    rows, columns = written.Rows, written.Columns
    bits = np.unpackbits(np.frombuffer(written.PixelData, np.uint8), bitorder="little")
    frames = bits[: int(written.NumberOfFrames) * rows * columns].reshape(-1, rows, columns)
    placed = sorted(
        (float(normal @ position), tuple(position), index)
        for index, group in enumerate(written.PerFrameFunctionalGroupsSequence)
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        for position in [np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)]
    )
    measures = shared.PixelMeasuresSequence[0]
    image = SimpleITK.GetImageFromArray(frames[[index for *_, index in placed]])
    image.SetOrigin(placed[0][1])
    image.SetSpacing(
        [*(float(e) for e in measures.PixelSpacing[::-1]), placed[1][0] - placed[0][0]]
    )
    image.SetDirection(np.column_stack([cosines[:3], cosines[3:], normal]).ravel())
    return image


def _placed(images: list[Dataset]) -> list[Dataset]:
    """What holds the position of each image or frame."""
    frames = images[0].get("PerFrameFunctionalGroupsSequence")
    return images if frames is None else [frame.PlanePositionSequence[0] for frame in frames]


def _move(place: Dataset, x: float, y: float, z: float) -> None:
    position = np.array(place.ImagePositionPatient, float) + np.array([x, y, z])
    place.ImagePositionPatient = [decimal(float(each)) for each in position]


def _gap(images: list[Dataset]) -> None:
    for place in _placed(images)[9:]:
        _move(place, 0, 0, 5)


def _twice(images: list[Dataset]) -> None:
    _placed(images)[4].ImagePositionPatient = _placed(images)[5].ImagePositionPatient


def _uneven(images: list[Dataset]) -> None:
    for number, place in enumerate(_placed(images)):
        _move(place, 0, 0, 1.7 * (number % 2))


def _sideways(images: list[Dataset]) -> None:
    _move(_placed(images)[7], 3, 0, 0)


def _nowhere(images: list[Dataset]) -> None:
    del _placed(images)[3].ImagePositionPatient


def _leaning(images: list[Dataset]) -> None:
    for number, place in enumerate(_placed(images)):
        _move(place, 0, 0.8 * number, 0)


def _two_planes(images: list[Dataset]) -> None:
    for image in images[:9]:
        image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _two_sizes(images: list[Dataset]) -> None:
    for image in images[:9]:
        image.PixelSpacing = [2, 2]


def _two_frames_of_reference(images: list[Dataset]) -> None:
    images[2].FrameOfReferenceUID = "1.2.3.4"


REFUSED: dict[str, tuple[Shifts, str]] = {
    "gap": (_gap, "gap"),
    "two slices in one place": (_twice, "duplicate"),
    "irregular spacing": (_uneven, "uneven-spacing"),
    "one slice sideways": (_sideways, "shifted-slices"),
    "no position": (_nowhere, "no-position"),
    "gantry tilt": (_leaning, "gantry-tilt"),
}
REFUSED_APART: dict[str, tuple[Shifts, str]] = {
    "two orientations": (_two_planes, "mixed-orientations"),
    "two pixel spacings": (_two_sizes, "mixed-pixel-spacing"),
    "two frames of reference": (_two_frames_of_reference, "mixed-frames-of-reference"),
}
_CASES = [
    *((name, encoding) for name in REFUSED for encoding in ENCODINGS),
    *((name, "single-frame") for name in REFUSED_APART),
]


@pytest.mark.parametrize(("name", "encoding"), _CASES)
def test_what_has_no_sound_place_is_refused_with_its_reason(
    name: str, encoding: str, tmp_path: Path
) -> None:
    spoil, code = (REFUSED | REFUSED_APART)[name]
    form, syntax = ENCODINGS[encoding]
    images = ACQUISITIONS["axial, head last"].images(form, syntax)
    spoil(images)
    with pytest.raises(SeriesError) as refused:
        load_series(factories.write(images, tmp_path))
    assert refused.value.reason == code


_parts = st.floats(-1, 1, allow_nan=False, allow_subnormal=False)


@st.composite
def acquisitions(draw: st.DrawFn) -> tuple[Acquisition, str]:
    """Any place, turn, spacing, size, order and encoding; no part of the phantom is too small."""
    turn = [draw(_parts) for _ in range(4)]
    if np.linalg.norm(turn) < 0.1:
        turn = [0.0, 0.0, 0.0, 1.0]
    reach = draw(st.floats(5.0, 80.0))
    shape = draw(st.tuples(*[st.integers(8, 10)] * 3))
    spacing = tuple(2 * reach / count * draw(st.floats(1.0, 1.1)) for count in shape)
    grid = Grid(
        shape,
        cosines=turned(*turn),
        spacing=spacing,
        origin=draw(st.tuples(*[st.floats(-900, 900)] * 3)),
    )
    orders: tuple[Order, ...] = ("along", "against", "shuffled")
    order = draw(st.sampled_from(orders))
    offset = draw(st.tuples(*[st.floats(-0.05, 0.05)] * 3))
    encoding = draw(st.sampled_from(["single-frame", "enhanced", "big endian"]))
    moved = (offset[0] * reach, offset[1] * reach, offset[2] * reach)
    return Acquisition(grid, order, moved), encoding


def _assert_any(case: tuple[Acquisition, str]) -> None:
    acquisition, encoding = case
    with tempfile.TemporaryDirectory() as folder:
        _, written, _ = _written(acquisition, encoding, Path(folder), ["seg"])
    _assert_in_place(acquisition, written["seg"])


@pytest.mark.feature("P12")
@settings(max_examples=100, deadline=None)
@given(case=acquisitions())
def test_results_of_any_acquisition_lie_where_the_phantom_lies(
    case: tuple[Acquisition, str],
) -> None:
    _assert_any(case)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.feature("P12")
@settings(max_examples=2000, deadline=None)
@given(case=acquisitions())
def test_results_of_two_thousand_acquisitions_lie_where_the_phantom_lies(
    case: tuple[Acquisition, str],
) -> None:
    _assert_any(case)
