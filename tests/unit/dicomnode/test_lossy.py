"""What is known of loss: from the attributes of an image, and from its transfer syntax."""

from __future__ import annotations

import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from dicomnode.frames import frame_headers
from dicomnode.lossy import is_lossy, loses, lossy_method


def header(transfer_syntax_uid: str | None, flag: str | None = None) -> Dataset:
    image = Dataset()
    if flag is not None:
        image.LossyImageCompression = flag
    if transfer_syntax_uid is not None:
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return image


@pytest.mark.parametrize(
    ("syntax", "method"),
    [
        (uid.JPEGBaseline8Bit, "ISO_10918_1"),
        (uid.JPEGExtended12Bit, "ISO_10918_1"),
        (uid.JPEGLSNearLossless, "ISO_14495_1"),
        (uid.MPEG2MPML, "ISO_13818_2"),
        (uid.MPEG4HP41F, "ISO_14496_10"),
        (uid.MPEG4HP42STEREO, "ISO_14496_10"),
        (uid.HEVCMP51, "ISO_23008_2"),
    ],
)
def test_what_cannot_be_without_loss_is_lossy_whatever_it_says(syntax, method):
    for flag in (None, "00", "01"):
        assert is_lossy(header(syntax, flag))
    assert loses(header(syntax))
    assert lossy_method(header(syntax)) == method


@pytest.mark.parametrize(
    ("syntax", "method"),
    [
        (uid.JPEG2000, "ISO_15444_1"),
        (uid.JPEG2000MC, "ISO_15444_1"),
        (uid.HTJ2K, "ISO_15444_15"),
    ],
)
def test_what_may_be_either_is_lossy_where_it_says_so(syntax, method):
    assert not is_lossy(header(syntax))
    assert not is_lossy(header(syntax, "00"))
    assert is_lossy(header(syntax, "01"))
    assert not loses(header(syntax, "01"))
    assert lossy_method(header(syntax, "01")) == method


@pytest.mark.parametrize(
    "syntax",
    [
        *(uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless),
        *(uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.DeflatedExplicitVRLittleEndian, None),
    ],
)
def test_what_loses_nothing_is_lossy_only_by_its_past(syntax):
    assert not is_lossy(header(syntax))
    assert is_lossy(header(syntax, "01"))
    assert lossy_method(header(syntax, "01")) is None


def test_the_frames_of_a_loop_are_lossy_as_their_file_is():
    loop = header(uid.JPEGBaseline8Bit)
    loop.NumberOfFrames = 2
    assert [is_lossy(frame) for frame in frame_headers(loop)] == [True, True]
