"""The sample study is quick to make, the same every time, and different in every direction."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from dicomnode.sample import (
    SLICES,
    decimal,
    thorax_phantom,
    write_sample_radiograph,
    write_sample_study,
)
from dicomnode.series.volume import load_series


def test_the_study_is_a_sound_series_of_the_phantom(tmp_path: Path) -> None:
    start = time.perf_counter()
    paths = write_sample_study(tmp_path)
    assert time.perf_counter() - start < 2.0
    series = load_series(paths)
    assert len(paths) == SLICES
    np.testing.assert_array_equal(series.volume.voxels, thorax_phantom())
    assert series.volume.voxels.dtype == np.int16
    assert {str(header.PatientName) for header in series.headers} == {"SAMPLE^SYNTHETIC"}


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    for write in (write_sample_study, write_sample_radiograph):
        first, second = write(tmp_path / "1"), write(tmp_path / "2")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_no_flip_goes_unseen() -> None:
    gas = thorax_phantom(noise=0.0) < -800
    gas[0] &= False
    for axis in range(3):
        flipped = np.flip(gas, axis)
        assert np.mean(gas != flipped) > 0.02


def test_the_heart_lies_to_the_left_and_the_liver_at_the_right_towards_the_feet() -> None:
    phantom = thorax_phantom(noise=0.0)
    lung = phantom == -850
    middle = phantom.shape[2] // 2
    right, left = lung[:, :, :middle].sum(), lung[:, :, middle:].sum()
    assert right > 1.1 * left
    liver = np.argwhere(phantom == 60)
    assert liver[:, 2].mean() < middle
    assert liver[:, 0].mean() < np.argwhere(lung)[:, 0].mean()


def test_the_radiograph_is_one_sound_image(tmp_path: Path) -> None:
    volume = load_series(write_sample_radiograph(tmp_path)).volume
    assert volume.voxels.shape == (1, 480, 512)
    assert volume.lowest_is_white
    # The bare detector beside the body got the most.
    assert volume.voxels[0, -1, 0] > 3500
    assert volume.voxels.min() < 1000


def test_a_decimal_string_has_at_most_16_characters() -> None:
    for number in (0.1 + 0.2, -1e-17 / 3, 123456.789012345678, -0.7071067811865476, 0.0, 5.0):
        written = decimal(number)
        assert len(written) <= 16
        assert abs(float(written) - number) <= 1e-9 * max(1.0, abs(number))
