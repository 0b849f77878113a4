"""One header a frame, from functional groups or without them."""

from __future__ import annotations

import copy

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from config.errors import MalformedError
from dicomnode.frames import MAX_FRAMES, frame_headers, frame_number
from tests import factories


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _group(z: float) -> Dataset:
    return _item(
        PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, z])],
        FrameContentSequence=[_item(FrameAcquisitionNumber=7, TemporalPositionIndex=2)],
    )


@pytest.fixture
def enhanced() -> Dataset:
    header = _item(SOPInstanceUID="1.2.3", NumberOfFrames=3, AcquisitionNumber=1, PatientID="P")
    header.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(PixelSpacing=[2, 3], SliceThickness=4)],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            CTImageFrameTypeSequence=[_item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER"])],
            PlanePositionSequence=[_item(ImagePositionPatient=[9, 9, 9])],
            FrameAnatomySequence=[_item(FrameLaterality="L")],
        )
    ]
    header.PerFrameFunctionalGroupsSequence = [_group(5.0 * frame) for frame in range(3)]
    return header


def test_a_frame_has_the_groups_attributes_in_their_classic_places(enhanced: Dataset) -> None:
    views = frame_headers(enhanced)
    assert [frame_number(view) for view in views] == [1, 2, 3]
    assert [view.ImagePositionPatient[2] for view in views] == [0, 5, 10]
    last = views[2]
    assert list(last.PixelSpacing) == [2, 3]
    assert list(last.ImageType)[2] == "LOCALIZER"
    assert (last.AcquisitionNumber, last.TemporalPositionIndex, last.ImageLaterality) == (7, 2, "L")
    assert (last.SOPInstanceUID, last.PatientID) == ("1.2.3", "P")
    for dropped in ("NumberOfFrames", "PerFrameFunctionalGroupsSequence"):
        assert dropped not in last
        assert dropped in enhanced


def test_a_view_is_its_own_only_frame_and_a_copy_stays_one(enhanced: Dataset) -> None:
    view = frame_headers(enhanced)[1]
    assert frame_headers(view) == (view,)
    assert frame_number(copy.deepcopy(view)) == 2


def test_a_group_cannot_change_who_the_patient_is(enhanced: Dataset) -> None:
    enhanced.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0].PatientID = "other"
    enhanced.PerFrameFunctionalGroupsSequence[0].SOPInstanceUID = "9.9"
    view = frame_headers(enhanced)[0]
    assert (view.PatientID, view.SOPInstanceUID) == ("P", "1.2.3")


def test_of_two_items_of_a_macro_none_is_taken(enhanced: Dataset) -> None:
    positions = enhanced.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    positions.append(positions[0])
    enhanced.SharedFunctionalGroupsSequence[0].PlanePositionSequence = []
    assert "ImagePositionPatient" not in frame_headers(enhanced)[0]


def test_a_single_frame_object_is_its_own_header() -> None:
    (image,) = factories.ct_series(1)
    assert frame_headers(image) == (image,)
    assert frame_number(image) is None


def test_a_loop_without_groups_has_a_header_a_frame() -> None:
    views = frame_headers(factories.us_image(frames=4))
    assert [frame_number(view) for view in views] == [1, 2, 3, 4]
    assert all(view.Rows == 24 for view in views)


@pytest.mark.parametrize("frames", [0, -1, MAX_FRAMES + 1, "many"])
def test_an_absurd_number_of_frames_is_refused(frames: int | str) -> None:
    header = Dataset()
    header.add_new("NumberOfFrames", "LO" if isinstance(frames, str) else "IS", frames)
    with pytest.raises(MalformedError, match=r"frames|NumberOfFrames"):
        frame_headers(header)


def test_groups_that_do_not_match_the_frames_are_refused(enhanced: Dataset) -> None:
    enhanced.NumberOfFrames = 2
    with pytest.raises(MalformedError, match="3 items for 2 frames"):
        frame_headers(enhanced)


def test_an_element_that_cannot_be_parsed_is_left_for_who_asks(enhanced: Dataset) -> None:
    for tag, length in ((0x00081030, 0), (0x00180050, 4)):
        stored = b"abcd"[:length] or None
        enhanced[tag] = RawDataElement(Tag(tag), "P?", length, stored, 0, False, True)
    enhanced.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = None
    view = frame_headers(enhanced)[0]
    with pytest.raises(NotImplementedError):
        view["StudyDescription"]
