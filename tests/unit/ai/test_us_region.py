"""`us-region` on loops that are drawn, and on a real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from ai.engine import Engine
from ai.models.build_us_region import phantom
from ai.package import Package
from ai.registry import Registry, bundled_models_path
from ai.types import Volume
from dicomnode.series.volume import load_series

pytestmark = pytest.mark.feature("F09")


@pytest.fixture(scope="module")
def package() -> Package:
    return Registry([bundled_models_path()]).find("us-region")


def region(package: Package, engine: Engine, volume: Volume) -> NDArray[np.bool_]:
    """The region, which is the same in all frames, ``(rows, columns)``."""
    labels = engine.run(package, {"image": volume}).labels
    assert labels is not None
    assert np.array_equal(labels, np.broadcast_to(labels[0], labels.shape))
    found: NDArray[np.bool_] = labels[0] > 0
    return found


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(one & other) / (one.sum() + other.sum()))


@pytest.mark.parametrize("grey", [40, 120, 255])
def test_banners_that_stand_still_are_never_scan_however_grey(
    package: Package, engine: Engine, grey: int
) -> None:
    volume, labels = phantom()
    loop = volume.voxels.copy()
    loop[:, :8] = loop[:, 134:, :60] = grey
    found = region(package, engine, replace(volume, voxels=loop))
    assert overlap(found, labels[0] > 0) > 0.98
    assert not found[:8].any()
    assert not found[134:, :60].any()


def test_brightness_does_not_matter(package: Package, engine: Engine) -> None:
    volume, labels = phantom()
    dim = replace(volume, voxels=volume.voxels // 3)
    assert overlap(region(package, engine, dim), labels[0] > 0) > 0.98


def test_of_two_scans_side_by_side_the_larger_one_is_found(
    package: Package, engine: Engine
) -> None:
    volume, _ = phantom()
    random = np.random.default_rng(3)
    loop = np.zeros((10, 100, 240), np.uint8)
    loop[:, 10:90, 10:100] = random.integers(0, 200, (10, 80, 90))
    loop[:, 10:90, 130:230] = random.integers(0, 200, (10, 80, 100))
    found = region(package, engine, replace(volume, voxels=loop))
    assert found[10:90, 130:230].mean() > 0.98
    assert not found[:, :120].any()


def test_a_loop_that_stands_still_has_no_region(package: Package, engine: Engine) -> None:
    volume, _ = phantom()
    still = np.broadcast_to(volume.voxels[0], volume.voxels.shape).copy()
    assert engine.run(package, {"image": replace(volume, voxels=still)}).findings == ()


def test_a_single_image_is_not_taken(package: Package) -> None:
    volume, _ = phantom()
    still = replace(volume, voxels=volume.voxels[:1])
    assert package.accepts(still, "US") == "1 slices, fewer than 8"


def test_the_sector_of_a_real_echocardiogram_is_found_without_its_frame(
    package: Package, engine: Engine
) -> None:
    path = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    volume = load_series([path]).volume
    found = region(package, engine, volume)
    rows, columns = np.nonzero(found)
    assert 0.3 < found.mean() < 0.45
    # As measured by eye on an enlarged frame; the blocks of its JPEG are eight pixels wide.
    assert [rows.min(), rows.max()] == pytest.approx([22, 201], abs=8)
    assert [columns.min(), columns.max()] == pytest.approx([39, 296], abs=8)
    # Lettering above on the left, the settings on the right, the row of buttons below.
    for part in (np.s_[:40, :38], np.s_[:, 306:], np.s_[215:, :]):
        assert volume.voxels[0][part].max() > 80
        assert not found[part].any()
