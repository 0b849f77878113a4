"""PET values become SUV by body weight exactly where the headers allow it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.series.quality import assess
from dicomnode.series.suv import pet_units
from dicomnode.series.volume import load_series
from tests import factories
from tests.volumes import Grid, images_of

GRID = Grid((3, 4, 5))
VOXELS = np.arange(60, dtype=np.uint16).reshape(GRID.shape)
HALF_LIFE = 6586.2
# 70 kg, 370 MBq, an hour of decay.
FACTOR = 70_000 / (370e6 * 2 ** (-3600 / HALF_LIFE))


def pet(form: str = "single-frame") -> list[Dataset]:
    return images_of(VOXELS, GRID, modality="PT", form=form, slope=2.5, intercept=0, order="along")


def drug(images: list[Dataset]) -> Dataset:
    return images[0].RadiopharmaceuticalInformationSequence[0]


@pytest.mark.parametrize("form", ["single-frame", "enhanced"])
def test_both_forms_give_suv(tmp_path: Path, form: str) -> None:
    volume = load_series(factories.write(pet(form), tmp_path)).volume
    assert volume.units == "{SUVbw}g/ml"
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, VOXELS * 2.5 * FACTOR, rtol=1e-6)
    assert volume.value_range == pytest.approx((0.0, 65535 * 2.5 * FACTOR))


def test_each_slice_keeps_its_own_rescale(tmp_path: Path) -> None:
    images = pet()
    for index, image in enumerate(images):
        image.RescaleSlope = str(index + 1)
    volume = load_series(factories.write(images, tmp_path)).volume
    slopes = np.arange(1, 4)[:, None, None]
    np.testing.assert_allclose(volume.voxels, VOXELS * slopes * FACTOR, rtol=1e-6)


def test_corrected_to_the_injection_nothing_decays() -> None:
    images = pet()
    for image in images:
        image.DecayCorrection = "ADMIN"
    assert pet_units(images).factor == pytest.approx(70_000 / 370e6)


def test_an_injection_before_midnight_belongs_to_the_day_before() -> None:
    images = pet()
    for image in images:
        image.SeriesTime = image.AcquisitionTime = "003000"
    drug(images).RadiopharmaceuticalStartTime = "233000"
    assert pet_units(images).factor == pytest.approx(FACTOR)


def test_a_series_time_after_the_frames_is_not_believed() -> None:
    images = pet()
    rate = math.log(2) / HALF_LIFE
    decay = rate * 60.0
    average = math.log(decay / (1 - math.exp(-decay))) / rate
    for image in images:
        image.SeriesTime = "180000"  # made later from the same data
        image.AcquisitionTime = "120200"
        image.FrameReferenceTime = str(120_000 + average * 1000)  # two minutes and to the average
    assert pet_units(images).factor == pytest.approx(FACTOR, rel=1e-5)


@pytest.mark.parametrize(
    ("units", "declared", "note"),
    [
        ("{counts}", "CNTS", "sent in {counts}"),
        ("{CM2ML}", "CM2ML", "sent in {CM2ML}"),
        ("{SUVbw}g/ml", "GML", ""),
    ],
)
def test_other_units_stay_what_they_are(units: str, declared: str, note: str) -> None:
    images = pet()
    for image in images:
        image.Units = declared
    found = pet_units(images)
    assert (found.units, found.factor) == (units, 1.0)
    assert (found.note == "") == (note == "")
    assert note in found.note


def test_lean_body_mass_is_not_taken_for_body_weight() -> None:
    images = pet()
    for image in images:
        image.Units, image.SUVType = "GML", "LBM"
    assert pet_units(images).units == "{GML}"


def _drop(keyword: str) -> Callable[[list[Dataset]], None]:
    return lambda images: [delattr(image, keyword) for image in images] and None


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_drop("PatientWeight"), "PatientWeight"),
        (_drop("RadiopharmaceuticalInformationSequence"), "radiopharmaceutical"),
        (lambda images: delattr(drug(images), "RadionuclideTotalDose"), "RadionuclideTotalDose"),
        (lambda images: delattr(drug(images), "RadionuclideHalfLife"), "RadionuclideHalfLife"),
        (lambda i: delattr(drug(i), "RadiopharmaceuticalStartTime"), "time of the injection"),
        (_drop("CorrectedImage"), "corrected for attenuation"),
        (_drop("DecayCorrection"), "corrected for decay"),
        (_drop("AcquisitionTime"), "time of the scan"),
    ],
)
def test_what_is_missing_is_named_and_the_values_stay(
    tmp_path: Path, spoil: Callable[[list[Dataset]], None], why: str
) -> None:
    images = pet()
    spoil(images)
    verdict = assess(images)
    assert verdict.ok
    assert verdict.units == "Bq/ml"
    (note,) = [note.text for note in verdict.notes if note.code == "not-suv"]
    assert why in note
    volume = load_series(factories.write(images, tmp_path)).volume
    np.testing.assert_array_equal(volume.voxels, (VOXELS * 2.5).astype(np.float32))
