"""Two versions of one SOP instance: what makes them the same, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from config.errors import MalformedError
from dicomnode.work.revisions import Difference, compare
from tests import factories


def compared(tmp_path: Path, first: Dataset, second: Dataset) -> Difference:
    (one,) = factories.write(first, tmp_path / "one")
    (other,) = factories.write(second, tmp_path / "other")
    assert compare(one, other) is compare(other, one)
    return compare(one, other)


def rich_image() -> Dataset:
    """With what encodings say in their own way: ambiguous VRs, sequences, text, a private tag."""
    image = factories.ct_series(1, rows=32, columns=40, signed=True)[0]
    image.add_new("SmallestImagePixelValue", "SS", -900)
    image.add_new("PixelPaddingValue", "SS", -1000)
    image.PatientName = "Prüfling^Å"
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    image.RequestAttributesSequence = [request]
    return image


SYNTAXES = [
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_another_transfer_syntax_is_the_same_content(tmp_path: Path, syntax: str) -> None:
    image = rich_image()
    assert compared(tmp_path, image, factories.encoded(image, syntax)) is Difference.NONE


@pytest.mark.parametrize("syntax", SYNTAXES[:-1])  # too small an image for JPEG 2000
def test_colour_in_another_transfer_syntax_too(tmp_path: Path, syntax: str) -> None:
    image = factories.us_image(colour=True)
    assert compared(tmp_path, image, factories.encoded(image, syntax)) is Difference.NONE


def test_another_character_set_is_the_same_content(tmp_path: Path) -> None:
    image = rich_image()
    latin = deepcopy(image)
    latin.SpecificCharacterSet = "ISO_IR 100"
    assert compared(tmp_path, image, latin) is Difference.NONE


def test_padding_and_group_lengths_are_no_content(tmp_path: Path) -> None:
    image = rich_image()
    padded = deepcopy(image)
    padded.add_new(0x00080000, "UL", 1)
    padded.DataSetTrailingPadding = bytes(16)
    assert compared(tmp_path, image, padded) is Difference.NONE


def corrected_name(image: Dataset) -> None:
    image.PatientName = "Other^Name"


def nested(image: Dataset) -> None:
    image.RequestAttributesSequence[0].RequestedProcedureID = "RP2"


def private(image: Dataset) -> None:
    image.private_block(0x0029, "SYNTHETIC", create=True).add_new(1, "LO", "x")


def shown_inverted(image: Dataset) -> None:
    image.PhotometricInterpretation = "MONOCHROME1"


def rescaled(image: Dataset) -> None:
    image.RescaleIntercept = "-1000"


@pytest.mark.parametrize("change", [corrected_name, nested, private, shown_inverted, rescaled])
def test_other_attributes_over_the_same_pixels(
    tmp_path: Path, change: Callable[[Dataset], None]
) -> None:
    image = rich_image()
    other = deepcopy(image)
    change(other)
    assert compared(tmp_path, image, other) is Difference.ATTRIBUTES


def one_pixel(image: Dataset) -> None:
    image.PixelData = bytes([image.PixelData[0] ^ 1]) + image.PixelData[1:]


def transposed(image: Dataset) -> None:
    image.Rows, image.Columns = image.Columns, image.Rows


def read_unsigned(image: Dataset) -> None:
    image.PixelRepresentation = 0


@pytest.mark.parametrize("change", [one_pixel, transposed, read_unsigned])
def test_other_pixels(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    image = rich_image()
    other = deepcopy(image)
    change(other)
    assert compared(tmp_path, image, other) is Difference.PIXELS


def test_pixels_where_there_were_none_complete_the_object(tmp_path: Path) -> None:
    whole = rich_image()
    without = deepcopy(whole)
    del without.PixelData
    (first,) = factories.write(whole, tmp_path / "whole")
    (second,) = factories.write(without, tmp_path / "without")
    assert compare(second, first) is Difference.ATTRIBUTES
    assert compare(first, second) is Difference.PIXELS


def test_one_pixel_is_seen_through_another_transfer_syntax(tmp_path: Path) -> None:
    image = rich_image()
    other = deepcopy(image)
    one_pixel(other)
    other = factories.encoded(other, RLELossless)
    assert compared(tmp_path, image, other) is Difference.PIXELS


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_another_place(tmp_path: Path, keyword: str) -> None:
    image = rich_image()
    other = deepcopy(image)
    setattr(other, keyword, "1.2.3")
    assert compared(tmp_path, image, other) is Difference.PLACE


def test_objects_without_pixels_are_compared_too(tmp_path: Path) -> None:
    report = factories.structured_report()
    other = deepcopy(report)
    assert compared(tmp_path, report, other) is Difference.NONE
    other.ContentSequence[0].TextValue = "Changed."
    assert compared(tmp_path, report, other) is Difference.ATTRIBUTES


def test_what_cannot_be_read_cannot_be_compared(tmp_path: Path) -> None:
    image = factories.encoded(rich_image(), JPEGLSLossless)
    broken = deepcopy(image)
    broken.PixelData = image.PixelData[:40] + bytes(len(image.PixelData) - 40)
    (one,) = factories.write(image, tmp_path / "one")
    (other,) = factories.write(broken, tmp_path / "other")
    with pytest.raises(MalformedError, match="cannot be compared"):
        compare(one, other)
