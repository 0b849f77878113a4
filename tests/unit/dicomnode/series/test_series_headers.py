"""Headers are read fast and checked, and no error quotes what a file says."""

from __future__ import annotations

import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from config.errors import InputError, MalformedError, NotDicomError
from dicomnode.series import headers
from dicomnode.series.headers import read_header
from tests import factories
from tests.raw import Coding


def test_everything_but_the_pixels_is_read(tmp_path: Path) -> None:
    image = factories.ct_series(1)[0]
    header = read_header(factories.write(image, tmp_path)[0])
    del image.PixelData
    assert header == image


def test_a_file_of_another_kind_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not an image")
    with pytest.raises(NotDicomError, match="no DICM prefix"):
        read_header(path)


def test_a_missing_file_is_an_input_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_header(tmp_path / "DOE^JANE.dcm")
    assert "DOE" not in str(caught.value)


def test_a_directory_record_is_no_object(tmp_path: Path) -> None:
    image = factories.ct_series(1)[0]
    image.DirectoryRecordSequence = []
    with pytest.raises(InputError, match="DICOMDIR"):
        read_header(factories.write(image, tmp_path)[0])


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_named(tmp_path: Path, keyword: str) -> None:
    image = factories.ct_series(1)[0]
    delattr(image, keyword)
    with pytest.raises(MalformedError, match=keyword):
        read_header(factories.write(image, tmp_path)[0])


def test_a_header_that_is_cut_off_is_malformed(tmp_path: Path) -> None:
    path = factories.write(factories.ct_series(1), tmp_path)[0]
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(MalformedError):
        read_header(path)


def test_a_sequence_that_is_damaged_inside_its_length_is_malformed(tmp_path: Path) -> None:
    image = factories.ct_series(1)[0]
    del image.PixelData
    path = factories.write(image, tmp_path)[0]
    coding = Coding()
    item = coding.item(coding.head(0x00080018, "UI", 0xFFF0))  # its value would reach far beyond
    path.write_bytes(path.read_bytes() + coding.open_sequence(0x00880200, item))
    # pydicom says so by an OSError, which is no refusal of the disk: no later try reads it.
    with pytest.raises(MalformedError):
        read_header(path)


def test_a_data_set_that_inflates_without_end_is_malformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = factories.ct_series(1, rows=512, columns=512)
    image.PixelData = bytes(len(image.PixelData))
    small = factories.write(factories.encoded(image, DeflatedExplicitVRLittleEndian), tmp_path)[0]
    assert small.stat().st_size < 5000
    assert read_header(small).Rows == 512
    monkeypatch.setattr(headers, "MAX_INFLATED", 1 << 18)
    with pytest.raises(MalformedError, match="deflated from more than"):
        read_header(small)


def raw(keyword: str, stored: bytes) -> Dataset:
    """A data set as read from a file, whose element is parsed when it is asked for."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    vr = pydicom.datadict.dictionary_VR(tag)
    header = Dataset()
    header[tag] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), vr, len(stored), stored, 0, False, True
    )
    return header


@pytest.mark.parametrize(
    ("keyword", "stored"),
    [
        ("SliceThickness", b"DOE^JANE"),
        ("SliceThickness", b"nan "),
        ("SliceThickness", b"1e999 "),
        ("SliceThickness", b"1\\2 "),
        ("NumberOfFrames", b"2.5 "),
        ("NumberOfFrames", b"-1"),
        ("Rows", b"\x01"),
    ],
)
def test_an_absurd_number_is_named_and_not_quoted(keyword: str, stored: bytes) -> None:
    with pytest.raises(MalformedError, match=keyword) as caught:
        headers.count(raw(keyword, stored), keyword)
    assert "DOE" not in str(caught.value)


def test_an_empty_value_is_none() -> None:
    header = Dataset()
    header.SliceThickness = ""
    header.ImageType = None
    assert headers.number(header, "SliceThickness") is None
    assert headers.texts(header, "ImageType") == ()
    assert headers.text(header, "Modality") == ""


def test_two_hundred_headers_take_well_under_a_second(tmp_path: Path) -> None:
    paths = factories.write(factories.ct_series(200), tmp_path)
    best = min(_seconds(paths) for _ in range(3))
    assert best < 0.6  # 0.15 s on the reference machine; the rest is room for a busy one


def _seconds(paths: list[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        read_header(path)
    return time.perf_counter() - start
