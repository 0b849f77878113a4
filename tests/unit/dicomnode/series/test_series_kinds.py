"""What makes a unit: slices together, loops and whole volumes in one object by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, VLWholeSlideMicroscopyImageStorage

from dicomnode.frames import frame_number
from dicomnode.series.headers import read_header
from dicomnode.series.kinds import Kind, kind_of, stands_alone
from dicomnode.series.quality import assess
from dicomnode.series.unit import units_of
from dicomnode.series.volume import load_series
from tests import factories
from tests.volumes import Grid, images_of

GRID = Grid((4, 6, 7))
VOXELS = np.arange(168, dtype=np.uint16).reshape(GRID.shape)


def codes(images: list[Dataset]) -> set[str]:
    return {reason.code for reason in assess(images).reasons}


def units(images: list[Dataset], folder: Path) -> list[int]:
    """Files of each unit."""
    paths = factories.write(images, folder)
    return [len(unit.files) for unit in units_of(paths, [read_header(path) for path in paths])]


def in_one_series(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
    return images


def test_each_enhanced_object_is_a_unit_of_its_own(tmp_path: Path) -> None:
    images = [images_of(VOXELS, GRID, form="enhanced", seed=seed)[0] for seed in range(2)]
    assert all(map(stands_alone, images))
    assert units(in_one_series(images), tmp_path) == [1, 1]


def test_the_parts_of_a_concatenation_are_one_unit(tmp_path: Path) -> None:
    (image,) = images_of(VOXELS, GRID, form="enhanced", order="along")
    parts = []
    for at in (0, 2):
        part = Dataset.from_json(image.to_json())
        part.file_meta = image.file_meta
        part.SOPInstanceUID = f"2.25.{at + 1}"
        part.ConcatenationUID = "2.25.99"
        part.InConcatenationNumber = at // 2 + 1
        part.NumberOfFrames = 2
        groups = image.PerFrameFunctionalGroupsSequence
        part.PerFrameFunctionalGroupsSequence = groups[at : at + 2]
        part.PixelData = VOXELS[at : at + 2].tobytes()
        parts.append(part)
    assert not any(map(stands_alone, parts))
    assert units(parts, tmp_path / "units") == [2]
    series = load_series(factories.write(parts[::-1], tmp_path / "load"))
    np.testing.assert_array_equal(series.volume.voxels, VOXELS.astype(int) - 1024)
    assert [frame_number(header) for header in series.headers] == [1, 2, 1, 2]


def test_a_loop_is_a_unit_of_frames_without_a_place(tmp_path: Path) -> None:
    loops = in_one_series([factories.us_image(frames=3, seed=seed) for seed in range(2)])
    assert units(loops, tmp_path / "units") == [1, 1]
    series = load_series(factories.write(loops[0], tmp_path / "load"))
    np.testing.assert_array_equal(series.volume.voxels, loops[0].pixel_array)
    assert series.volume.affine is None
    assert series.volume.spacing == (None, None, None)
    assert [frame_number(header) for header in series.headers] == [1, 2, 3]


@pytest.mark.parametrize("modality", ["XA", "RF", "NM"])
def test_frames_in_time_are_taken_as_they_come(tmp_path: Path, modality: str) -> None:
    image = factories.us_image(frames=3)
    image.Modality = modality
    series = load_series(factories.write(image, tmp_path))
    assert series.volume.voxels.shape == (3, 24, 32)
    assert series.volume.units == ("{counts}" if modality == "NM" else "1")


@pytest.mark.parametrize("step", [4.0, -4.0])
def test_a_reconstructed_nm_stack_lies_where_its_detector_says(tmp_path: Path, step: float) -> None:
    image = nm_stack(step)
    series = load_series(factories.write(image, tmp_path))
    affine = series.volume.affine
    assert affine is not None
    frames = [frame_number(header) for header in series.headers]
    assert frames == ([1, 2, 3] if step > 0 else [3, 2, 1])
    for place, frame in enumerate(frames):
        assert frame is not None
        wanted = [-10.0, -20.0, 30.0 + (frame - 1) * step]
        np.testing.assert_allclose(affine @ (place, 0, 0, 1), [*wanted, 1.0])
        np.testing.assert_array_equal(series.volume.voxels[place], image.pixel_array[frame - 1])
    assert series.volume.spacing == pytest.approx((4.0, 3.0, 3.0))


def nm_stack(step: float) -> Dataset:
    image = factories.us_image(frames=3)
    image.Modality = "NM"
    image.FrameOfReferenceUID = "2.25.5"
    image.PixelSpacing = [3, 3]
    image.SpacingBetweenSlices = step
    image.SliceVector = [1, 2, 3]
    detector = Dataset()
    detector.ImagePositionPatient = [-10, -20, 30]
    detector.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.DetectorInformationSequence = [detector]
    return image


def test_a_screenshot_in_a_ct_series_stands_alone(tmp_path: Path) -> None:
    shot = factories.secondary_capture()
    shot.Modality = "CT"
    slices = factories.ct_series(4)
    assert sorted(units(in_one_series([*slices, shot]), tmp_path)) == [1, 4]
    assert "mixed-kinds" in codes(in_one_series([*slices, shot]))


def test_tiles_of_a_slide_are_not_taken() -> None:
    image = factories.us_image(frames=2, colour=True)
    image.SOPClassUID, image.Modality = VLWholeSlideMicroscopyImageStorage, "SM"
    assert kind_of(image) is Kind.TILES
    assert [reason.text for reason in assess([image]).reasons] == ["tiles of a slide are not taken"]


def test_a_secondary_capture_of_a_modality_has_no_units_of_it() -> None:
    image = factories.cr_image()
    image.SOPClassUID, image.Modality = SecondaryCaptureImageStorage, "CT"
    verdict = assess([image])
    assert (verdict.ok, verdict.units, verdict.geometry) == (True, "1", None)


def test_the_same_instance_twice_is_named() -> None:
    (image,) = images_of(VOXELS, GRID, form="enhanced")
    assert codes([image, image]) == {"same-instance"}


@pytest.mark.parametrize(
    ("keyword", "entries"),
    [
        ("AcquisitionNumber", [1, 2]),
        ("EchoTime", ["10", "80"]),
        ("TemporalPositionIdentifier", [1, 2]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]),
        ("DiffusionBValue", [0.0, 1000.0]),
    ],
)
def test_two_volumes_in_one_series_are_told_from_duplicates(
    keyword: str, entries: list[object]
) -> None:
    images = [*factories.mr_series(4), *factories.mr_series(4, seed=1)]
    for index, image in enumerate(in_one_series(images)):
        setattr(image, keyword, entries[index // 4])
        image.FrameOfReferenceUID = images[0].FrameOfReferenceUID
        image.StudyInstanceUID = images[0].StudyInstanceUID
    (reason,) = assess(images).reasons
    assert reason.code == "several-volumes"
    assert keyword in reason.text
    setattr(images[0], keyword, entries[1])
    assert {"duplicate"} <= codes(images)


def test_acquisitions_that_continue_each_other_are_one_volume() -> None:
    images = factories.ct_series(6)
    for index, image in enumerate(images):
        image.AcquisitionNumber = index // 3 + 1
    assert assess(images).ok
