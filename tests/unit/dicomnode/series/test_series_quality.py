"""The verdict on a series names every reason, from headers alone."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from dicomnode.series.kinds import is_localizer, stands_alone
from dicomnode.series.quality import assess
from tests import factories


def codes(images: list[Dataset]) -> set[str]:
    return {reason.code for reason in assess(images).reasons}


@pytest.mark.parametrize(
    "images",
    [
        factories.ct_series(),
        factories.ct_series(signed=True),
        factories.mr_series(),
        [factories.localizer()],
        [factories.cr_image(photometric="MONOCHROME1")],
        [factories.dx_image()],
        [factories.mg_image()],
        [factories.us_image()],
        [factories.us_image(frames=3, colour=True)],
        [factories.secondary_capture()],
    ],
)
def test_a_sound_series_has_no_reasons(images: list[Dataset]) -> None:
    verdict = assess(images)
    assert verdict.reasons == ()
    assert (verdict.geometry is not None) == (verdict.modality in ("CT", "MR"))


@pytest.mark.parametrize(
    ("code", "images"),
    [
        ("no-position", [factories.enhanced_ct()]),
        ("not-taken", [factories.segmentation()]),
        ("several-images", [factories.cr_image(), factories.cr_image(seed=1)]),
        ("localizer-mixed", [*factories.ct_series(), factories.localizer()]),
        ("mixed-series", [*factories.ct_series(), *factories.ct_series(seed=1)]),
        ("mixed-modalities", [*factories.ct_series(), *factories.mr_series()]),
    ],
)
def test_what_is_not_taken_is_named(code: str, images: list[Dataset]) -> None:
    assert code in codes(images)


def _all(keyword: str, value: object) -> Callable[[list[Dataset]], None]:
    return lambda images: [setattr(image, keyword, value) for image in images] and None


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no-rescale", lambda images: delattr(images[1], "RescaleSlope")),
        ("units", _all("RescaleType", "Z_EFF")),
        ("bad-rescale", _all("RescaleSlope", "0")),
        ("bad-rescale", _all("RescaleIntercept", "1e300")),
        ("photometric", _all("PhotometricInterpretation", "CMYK")),
        ("pixel-format", _all("SamplesPerPixel", 3)),
        ("pixel-format", _all("BitsAllocated", 12)),
        ("pixel-format", _all("HighBit", 15)),
        ("pixel-format", _all("Rows", 0)),
        ("too-large", _all("Rows", 65535)),
        ("mixed-photometric", lambda i: setattr(i[1], "PhotometricInterpretation", "MONOCHROME1")),
        ("colour", _all("PhotometricInterpretation", "PALETTE COLOR")),
    ],
)
def test_what_is_wrong_is_named(code: str, change: Callable[[list[Dataset]], None]) -> None:
    images = factories.ct_series()
    if code == "too-large":
        images = factories.ct_series(3)
        _all("Columns", 65535)(images)
    change(images)
    assert code in codes(images)


def test_every_reason_is_listed() -> None:
    images = factories.ct_series(8, drop=[2], duplicate=[5])
    images[0].RescaleType = "US"
    images[1].Rows = 15
    assert {"units", "mixed-sizes"} <= codes(images)
    images[1].Rows = 16
    verdict = assess(images)
    assert {reason.code for reason in verdict.reasons} == {"units", "gap", "duplicate"}
    assert verdict.has_gap


def test_the_verdict_is_plain_json() -> None:
    verdict = json.loads(json.dumps(assess(factories.ct_series(6, drop=[2])).as_json()))
    assert verdict["ok"] is False
    assert verdict["images"] == 5
    assert [reason["code"] for reason in verdict["reasons"]] == ["gap"]


def test_what_stands_alone_and_localizers_are_known() -> None:
    alone = [factories.cr_image(), factories.dx_image(), factories.mg_image()]
    loops = [factories.us_image(), factories.us_image(frames=2), factories.secondary_capture()]
    assert all(map(stands_alone, [*alone, *loops, factories.enhanced_ct()]))
    assert not stands_alone(factories.ct_series(1)[0])
    assert is_localizer(factories.localizer())
    assert not is_localizer(factories.ct_series(1)[0])
