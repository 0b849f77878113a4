"""Segmentations: alignment, identity, bytes; read back by highdicom, which did not write them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicomnode.results.gate import prove
from dicomnode.results.readback import labels_of
from dicomnode.results.seg import build_segmentation
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    ORIENTATIONS,
    bundle,
    ct_case,
    single_image_segment_case,
    thin_case,
    written,
)


def build(case):
    return build_segmentation(case.answer, case.volume, case.sources, case.provenance)


def random_rotation(numbers):
    quaternion = np.array(numbers) / np.linalg.norm(numbers)
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z)],
            [2 * (x * z - y * w), 2 * (y * z + x * w)],
        ]
    ).T.reshape(-1)


number = st.floats(-1, 1, allow_nan=False)
spacing = st.floats(0.2, 8)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_another_reader_finds_every_voxel_in_its_place(orientation):
    case = ct_case(ORIENTATIONS[orientation])
    read = highdicom.seg.segread(BytesIO(to_bytes(build(case))))
    labels = read.get_volume(combine_segments=True)
    for segment in case.answer.segments:
        expected = np.argwhere(case.answer.labels == segment.number)
        found = np.argwhere(labels.array == segment.number)
        here = np.c_[expected, np.ones(len(expected))] @ case.volume.affine.T
        there = np.c_[found, np.ones(len(found))] @ labels.affine.T
        assert len(found) == len(expected)
        order = [np.lexsort(np.round(each[:, :3], 4).T) for each in (here, there)]
        np.testing.assert_allclose(here[order[0]], there[order[1]], atol=1e-3)


@given(
    st.tuples(number, number, number, number).filter(lambda q: np.linalg.norm(q) > 0.1),
    st.tuples(spacing, spacing, spacing),
    st.tuples(st.integers(2, 4), st.integers(4, 7), st.integers(4, 9)),
)
@settings(max_examples=100, deadline=None)
@pytest.mark.feature("P12")
def test_whatever_the_geometry_the_gate_finds_it_as_the_model_saw_it(quaternion, steps, shape):
    case = ct_case(random_rotation(quaternion), shape, steps)
    assert prove(written(case), case.answer, case.volume, case.sources, case.provenance) == ()


def test_all_frames_are_kept_and_empty_segments_are_described():
    result = build(ct_case())
    assert result.NumberOfFrames == 3 * 4
    assert [each.SegmentLabel for each in result.SegmentSequence] == ["fat", "bone", "muscle"]
    assert not np.any(ct_case().answer.labels == 3)


def test_segments_carry_the_codes_colour_and_tracking_of_their_finding():
    result = bundle(ct_case())
    segment = result["seg"].SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "55603005"
    color = highdicom.color.CIELabColor.from_dicom_value(
        tuple(segment.RecommendedDisplayCIELabValue)
    )
    assert np.abs(np.array(color.to_rgb()) - (255, 200, 0)).max() <= 1
    group = result["sr"].ContentSequence[-2].ContentSequence[0]
    assert segment.TrackingUID == group.ContentSequence[1].UID


def test_frames_that_do_not_fill_whole_bytes_are_packed_without_gaps():
    case = single_image_segment_case()
    read = dcmread(BytesIO(to_bytes(build(case))))
    frames = read.pixel_array
    for index in range(3):
        np.testing.assert_array_equal(frames[index], case.answer.labels[0] == index + 1)
    assert "FrameOfReferenceUID" not in read


def test_patient_study_and_request_are_those_of_the_source():
    case = ct_case()
    read = dcmread(BytesIO(to_bytes(build(case))))
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "StudyTime"):
        assert read[keyword].value == case.sources[0][keyword].value
    assert read.SpecificCharacterSet == "ISO_IR 100"
    assert str(read.PatientName) == "Prüfling^Å"
    assert read.RequestAttributesSequence[0].RequestedProcedureID == "RP1"


def test_lossy_compression_of_the_source_is_passed_on():
    case = ct_case()
    case.sources[2].LossyImageCompression = "01"
    case.sources[2].LossyImageCompressionRatio = "12.5"
    case.sources[2].LossyImageCompressionMethod = "ISO_10918_1"
    result = build(case)
    assert (result.LossyImageCompression, result.LossyImageCompressionRatio) == ("01", 12.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, sources=c.sources[::-1]), "lies"),
        (lambda c: replace(c, sources=c.sources[:-1]), "sources for"),
        (lambda c: replace(c, answer=replace(c.answer, labels=None)), "no labels"),
        (
            lambda c: replace(c, answer=replace(c.answer, labels=c.answer.labels[:, ::2])),
            "shape",
        ),
        (
            lambda c: replace(c, answer=replace(c.answer, labels=c.answer.labels.astype(int))),
            "uint8",
        ),
        (
            lambda c: replace(c, answer=replace(c.answer, segments=c.answer.segments[:1])),
            "no segment",
        ),
        (
            lambda c: replace(c, answer=replace(c.answer, segments=c.answer.segments[1:])),
            "without a gap",
        ),
        (
            lambda c: replace(
                c, volume=replace(c.volume, affine=c.volume.affine @ np.diag([1, 1, -1, 1]))
            ),
            "axes",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(change(ct_case()))


@pytest.mark.parametrize(
    "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"]
)
def test_sources_without_a_place_are_refused_where_the_volume_has_one(keyword):
    case = ct_case()
    for source in case.sources:
        delattr(source, keyword)
    with pytest.raises(ValueError, match=r"no place|no frame"):
        build(case)


@pytest.mark.parametrize(
    ("case", "thickness", "between"),
    [
        (ct_case(), 2.5, 2.5),
        (ct_case(shape=(1, 10, 13)), 2.5, 2.5),
        # A segmentation in space must have a thickness (PS3.3 C.7.6.16.2.1); a spacing need not be.
        (thin_case(), 1.0, None),
    ],
)
def test_a_spacing_of_slices_that_nobody_says_is_not_made_up(case, thickness, between):
    read = dcmread(BytesIO(to_bytes(build(case))))
    (measures,) = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == thickness
    assert measures.get("SpacingBetweenSlices") == between
    assert prove(written(case), case.answer, case.volume, case.sources, case.provenance) == ()


@pytest.mark.parametrize("make", [ct_case, single_image_segment_case])
def test_the_labels_are_read_back_from_the_file(make):
    case = make()
    read = dcmread(BytesIO(to_bytes(build(case))))
    np.testing.assert_array_equal(labels_of(read, case.volume, case.sources), case.answer.labels)
