"""The samples and what the tests' factory makes are valid objects, by a validator of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.sample import write_sample_radiograph, write_sample_study
from tests import factories
from tests.interop.programs import dciodvfy_errors, run

pytestmark = pytest.mark.tools

MADE = {
    "ct": factories.ct_series()[0],
    "ct signed sagittal": factories.ct_series(signed=True, cosines=factories.SAGITTAL)[2],
    "localizer": factories.localizer(),
    "mr": factories.mr_series()[0],
    "cr": factories.cr_image(),
    "cr MONOCHROME1": factories.cr_image(photometric="MONOCHROME1", bits_stored=14),
    "dx": factories.dx_image(),
    "mg right": factories.mg_image(),
    "mg left": factories.mg_image(laterality="L"),
    "us": factories.us_image(),
    "us colour loop": factories.us_image(frames=3, colour=True),
    "screenshot": factories.secondary_capture(),
    "report": factories.structured_report(),
}


@pytest.mark.parametrize("name", MADE)
def test_what_the_factory_makes_is_valid(name: str, tmp_path: Path) -> None:
    image: Dataset = MADE[name]
    assert dciodvfy_errors(factories.write(image, tmp_path)[0]) == []


def test_the_samples_are_valid_and_each_a_study_of_one_patient(tmp_path: Path) -> None:
    study = write_sample_study(tmp_path / "ct")
    radiograph = write_sample_radiograph(tmp_path / "cr")
    for path in (*study, *radiograph):
        assert dciodvfy_errors(path) == []
    for paths in (study, radiograph):
        assert run("dcentvfy", *paths).returncode == 0


def test_the_validator_finds_what_is_broken(tmp_path: Path) -> None:
    image = factories.ct_series()[0]
    del image.ImageOrientationPatient
    assert dciodvfy_errors(factories.write(image, tmp_path)[0])
