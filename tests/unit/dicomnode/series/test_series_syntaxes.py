"""Native and deflated transfer syntaxes, and how much memory a long series takes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.series.volume import load_series
from tests import factories


@pytest.mark.feature("F19")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("signed", [False, True])
def test_each_gives_the_same_volume(tmp_path: Path, syntax: str, signed: bool) -> None:
    images = factories.ct_series(4, signed=signed)
    plain = load_series(factories.write(images, tmp_path / "plain")).volume
    others = [factories.encoded(image, syntax) for image in images]
    other = load_series(factories.write(others, tmp_path / "other")).volume
    assert np.array_equal(plain.voxels, other.voxels)
    assert plain.voxels.dtype == other.voxels.dtype == np.int16
    assert plain.value_range == other.value_range


def test_a_series_is_held_once_and_in_16_bits(tmp_path: Path) -> None:
    images = factories.ct_series(40, rows=256, columns=256)
    paths = factories.write(images, tmp_path)
    del images
    load_series(paths[:2])  # what is loaded on first use does not count
    tracemalloc.start()
    try:
        loaded = load_series(paths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.volume.voxels.nbytes == 40 * 256 * 256 * 2
    one_slice = 256 * 256 * 2
    assert peak < loaded.volume.voxels.nbytes + 40 * 64_000 + 12 * one_slice
