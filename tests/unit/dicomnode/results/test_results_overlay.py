"""The burned-in overlay: what it shows, what it leaves alone, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from ai.types import Answer, Confidence, Region
from dicomnode.frames import frame_headers
from dicomnode.results.drawing import draw_cut
from dicomnode.results.overlay import MOST_FRAMES, build_overlay, longest_side, shown_slices
from dicomnode.results.rendering import layout
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import cr_case, ct_case


def overlay_of(case):
    return build_overlay(case.answer, case.volume, case.sources, case.provenance)


def images_in(case, overlay):
    """The frames' images without what stands around them, as a reader finds them."""
    frames = dcmread(BytesIO(to_bytes(overlay))).pixel_array
    frames = frames if frames.ndim == 4 else frames[None]
    plain = draw_cut(case.volume, Answer(()), case.sources, 0, longest=longest_side(case.volume))
    rows, columns = plain.plain.shape[:2]
    model = case.provenance.model
    places = layout([(columns, rows)], case.answer, f"{model.name} {model.version}")
    ((left, top),) = places.corners
    return frames[:, top : top + rows, left : left + columns]


boxes = st.tuples(
    st.integers(0, 3), st.floats(0, 8), st.floats(0, 11), st.floats(1, 6), st.floats(1, 6)
)


@pytest.mark.feature("P16", "P17")
@given(st.lists(boxes, max_size=2))
@settings(max_examples=100, deadline=None)
def test_every_located_finding_is_in_a_frame_and_the_rest_is_the_source(places):
    case = ct_case()
    findings = tuple(
        replace(
            cr_case().answer.findings[0],
            name=f"f{number}",
            confidence=Confidence(0.5, "model"),
            region=Region(
                index,
                np.array([[left, top], [right, top], [right, bottom], [left, bottom]]),
            ),
        )
        for number, (index, top, left, height, width) in enumerate(places)
        for bottom, right in [(min(top + height, 9.0), min(left + width, 12.0))]
    )
    case = replace(case, answer=Answer(findings))
    before = case.volume.voxels.copy()
    images = images_in(case, overlay_of(case))
    shown = shown_slices(case.answer, 4)
    assert len(images) == len(shown)
    drawn = set()
    for image, index in zip(images, shown, strict=True):
        panel = draw_cut(case.volume, case.answer, case.sources, index, longest=384)
        drawn |= set(panel.regions)
        touched = np.zeros(panel.plain.shape[:2], bool)
        for mask in panel.regions.values():
            touched |= mask
            assert (image[mask] != panel.plain[mask]).any()
        np.testing.assert_array_equal(image[~touched], panel.plain[~touched])
    assert drawn == set(range(len(findings)))
    np.testing.assert_array_equal(case.volume.voxels, before)


def test_it_is_a_derived_picture_in_the_source_study_that_names_its_sources():
    case = ct_case()
    overlay = overlay_of(case)
    assert overlay.SOPClassUID.name == "Multi-frame True Color Secondary Capture Image Storage"
    assert list(overlay.ImageType) == ["DERIVED", "SECONDARY"]
    assert overlay.StudyInstanceUID == case.sources[0].StudyInstanceUID
    assert overlay.SeriesInstanceUID != case.sources[0].SeriesInstanceUID
    shown = shown_slices(case.answer, 4)
    assert list(overlay.FrameLabelVector) == [f"slice {index + 1}" for index in shown]
    assert [item.ReferencedSOPInstanceUID for item in overlay.SourceImageSequence] == [
        case.sources[index].SOPInstanceUID for index in shown
    ]
    assert "window centre 40 width 400 (LINEAR)" in overlay.DerivationDescription
    assert "licensed professional" in overlay.ImageComments


def test_frames_of_a_multi_frame_source_are_named():
    case = cr_case()
    source = case.sources[0]
    source.NumberOfFrames = 2
    frame = frame_headers(source)[1]
    overlay = overlay_of(replace(case, sources=(frame,)))
    (item,) = overlay.SourceImageSequence
    assert item.ReferencedFrameNumber == 2


@pytest.mark.parametrize(
    ("stated", "modality", "said"),
    [
        ("YES", "CT", "YES"),
        ("NO", "US", "NO"),
        (None, "CT", "NO"),
        (None, "US", "YES"),
        ("", "CR", "YES"),
    ],
)
def test_a_burned_in_name_is_denied_only_where_the_source_rules_it_out(stated, modality, said):
    case = cr_case()
    case.sources[0].Modality = modality
    if stated is not None:
        case.sources[0].BurnedInAnnotation = stated
    assert overlay_of(case).BurnedInAnnotation == said


def test_of_many_slices_those_that_are_needed_and_an_even_choice_are_shown():
    labels = np.zeros((200, 10, 13), np.uint8)
    labels[:, 2:5, 2:5] = 1
    labels[77, 8, 8] = 2
    answer = replace(ct_case().answer, labels=labels)
    shown = shown_slices(answer, 200)
    assert len(shown) == MOST_FRAMES
    assert 77 in shown
    assert shown == sorted(set(shown))
    assert max(np.diff(shown)) <= 8


def test_nothing_found_is_one_frame_that_says_so():
    case = replace(ct_case(), answer=Answer(()))
    overlay = overlay_of(case)
    assert overlay.NumberOfFrames == 1
    assert "FrameIncrementPointer" not in overlay
    (image,) = images_in(case, overlay)
    assert (image[..., 0] == image[..., 2]).all()


def test_its_millimetres_are_stated_only_where_they_are_the_patients():
    assert float(overlay_of(ct_case()).PixelSpacing[0]) == pytest.approx(13 * 1.25 / 384)
    case = cr_case()
    case = replace(case, volume=replace(case.volume, spacing=(None, 0.2, 0.2)))
    assert "PixelSpacing" not in overlay_of(case)


def test_the_patient_is_not_named_in_the_pixels():
    case = ct_case()
    other = ct_case()
    for source in other.sources:
        source.PatientName, source.PatientID = "Else^Somebody", "P-2"
    assert overlay_of(case).PixelData == overlay_of(other).PixelData


def test_sources_that_do_not_fit_are_refused():
    case = ct_case()
    with pytest.raises(ValueError, match="3 sources for 4 slices"):
        build_overlay(case.answer, case.volume, case.sources[:3], case.provenance)
