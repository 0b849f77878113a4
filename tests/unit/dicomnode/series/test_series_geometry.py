"""Slices lie where ImagePositionPatient says, or the reason why not is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset

from config.errors import SeriesError
from dicomnode.series.geometry import examine, locate, orientation
from tests import factories


def codes(images: list[Dataset]) -> list[str]:
    return [reason.code for reason in examine(images).reasons]


@pytest.mark.parametrize("cosines", [factories.AXIAL, factories.CORONAL, factories.SAGITTAL])
def test_the_affine_follows_the_equation_of_the_standard(cosines: tuple[float, ...]) -> None:
    images = factories.ct_series(4, cosines=cosines, pixel_spacing=(1.5, 0.5), step=2.5)
    found = locate(images)
    # PS3.3 Equation C.7.6.2.1-1: columns run along the first direction cosines, by the second
    # value of PixelSpacing.
    first = np.array(images[0].ImagePositionPatient, float)
    wanted = first + 3 * 0.5 * np.array(cosines[:3]) + 2 * 1.5 * np.array(cosines[3:])
    np.testing.assert_allclose((found.affine @ [0, 2, 3, 1])[:3], wanted, atol=1e-9)
    assert found.order == (0, 1, 2, 3)
    assert found.spacing == pytest.approx((2.5, 1.5, 0.5))
    normal = np.cross(cosines[:3], cosines[3:])
    np.testing.assert_allclose(found.affine[:3, 0], 2.5 * normal, atol=1e-9)


def test_instance_numbers_do_not_matter() -> None:
    images = factories.ct_series(5)
    for number, image in zip((3, 1, 5, 2, 4), images, strict=True):
        image.InstanceNumber = number
    assert locate(images[::-1]).order == (4, 3, 2, 1, 0)


def test_a_lone_slice_takes_its_thickness_and_else_says_none() -> None:
    image = factories.ct_series(1, step=3.0)[0]
    assert locate([image]).spacing[0] == 3.0
    del image.SliceThickness
    alone = locate([image])
    assert alone.spacing[0] is None
    np.testing.assert_allclose(alone.affine[:3, 0], [0, 0, 1])


def _set(keyword: str, value: object, index: int = 2) -> Callable[[list[Dataset]], None]:
    return lambda images: setattr(images[index], keyword, value)


def _delete(keyword: str) -> Callable[[list[Dataset]], None]:
    return lambda images: delattr(images[2], keyword)


def _delete_everywhere(images: list[Dataset]) -> None:
    for image in images:
        del image.FrameOfReferenceUID


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no-position", _delete("ImagePositionPatient")),
        ("no-orientation", _delete("ImageOrientationPatient")),
        ("no-pixel-spacing", _delete("PixelSpacing")),
        ("bad-geometry", _set("ImagePositionPatient", [1, 2])),
        ("bad-geometry", _set("ImagePositionPatient", [1, 2, "1e30"])),
        ("bad-geometry", lambda images: [setattr(i, "PixelSpacing", [0, 1]) for i in images]),
        (
            "bad-geometry",
            lambda images: [
                setattr(i, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]) for i in images
            ],
        ),
        ("mixed-orientations", _set("ImageOrientationPatient", [1, 0, 0, 0, 0, -1])),
        ("mixed-pixel-spacing", _set("PixelSpacing", [1.4, 1.25])),
        ("mixed-sizes", _set("Rows", 17)),
        ("mixed-frames-of-reference", _set("FrameOfReferenceUID", "1.2.3")),
        ("no-frame-of-reference", _delete_everywhere),
        ("uneven-spacing", _set("ImagePositionPatient", [-12.5, -20, 111])),
        ("shifted-slices", _set("ImagePositionPatient", [-10, -20, 110])),
    ],
)
def test_what_is_wrong_is_named(code: str, change: Callable[[list[Dataset]], None]) -> None:
    images = factories.ct_series(6)
    assert codes(images) == []
    change(images)
    assert code in codes(images)
    with pytest.raises(SeriesError):
        locate(images)


def test_gaps_duplicates_and_tilt_are_named_with_their_size() -> None:
    gap = examine(factories.ct_series(8, drop=[3])).reasons
    assert [reason.code for reason in gap] == ["gap"]
    assert "after slice 3: 10.00 mm where 5.00 mm" in gap[0].text
    assert codes(factories.ct_series(8, duplicate=[3])) == ["duplicate"]
    tilted = examine(factories.ct_series(8, tilt=12.0)).reasons
    assert [reason.code for reason in tilted] == ["gantry-tilt"]
    assert "12.0 degrees" in tilted[0].text


def test_several_faults_are_all_named() -> None:
    images = factories.ct_series(9, drop=[4], duplicate=[1])
    assert set(codes(images)) == {"gap", "duplicate"}


def test_all_images_at_one_place_are_duplicates() -> None:
    assert codes(factories.ct_series(3, step=0.0)) == ["duplicate"]


@pytest.mark.parametrize("decimals", [1, 2])
def test_rounded_positions_are_even(decimals: int) -> None:
    images = factories.ct_series(40, step=0.625 if decimals == 2 else 3.0)
    for image in images:
        image.ImagePositionPatient = [round(float(x), decimals) for x in image.ImagePositionPatient]
    assert codes(images) == []


def test_planes_are_named() -> None:
    for cosines, name in (
        (factories.AXIAL, "axial"),
        (factories.CORONAL, "coronal"),
        (factories.SAGITTAL, "sagittal"),
        ((1, 0, 0, 0, 0.7071, 0.7071), "oblique"),
    ):
        assert orientation(factories.ct_series(1, cosines=cosines)[0]) == name
    assert orientation(factories.cr_image()) is None
