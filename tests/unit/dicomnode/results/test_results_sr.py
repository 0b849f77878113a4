"""Reports: what they hold, and what they say when read."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from ai.types import Answer, Code, Confidence
from dicomnode.frames import frame_headers
from dicomnode.results import codes
from dicomnode.results.content import code_of, is_named, meaning_of, named, number_of, walk
from dicomnode.results.planes import MOST_POINTS, largest_planes
from dicomnode.results.provenance import WARNING
from dicomnode.results.reading import describe
from dicomnode.results.regions import trace
from dicomnode.results.sr import build_report
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    bundle,
    cr_case,
    ct_case,
    single_image_segment_case,
)


def report(case):
    return dcmread(BytesIO(to_bytes(bundle(case)["sr"])))


def groups(dataset):
    return [
        item
        for item in walk(dataset)
        if code_of(item, "ConceptNameCodeSequence") == (codes.MEASUREMENT_GROUP.value, "DCM")
    ]


def templates(dataset):
    return [group.ContentTemplateSequence[0].TemplateIdentifier for group in groups(dataset)]


def test_a_segment_of_a_volume_is_a_volumetric_group():
    case = ct_case()
    dataset = report(case)
    assert templates(dataset)[:3] == ["1411"] * 3
    group = groups(dataset)[1]
    reference = named(group, codes.REFERENCED_SEGMENT)[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSegmentNumber == 2
    assert reference.ReferencedSOPInstanceUID == case.provenance.uid("seg/instance")
    series = named(group, codes.SOURCE_SERIES_FOR_SEGMENTATION)[0]
    assert case.sources[0].SeriesInstanceUID == series.UID
    volume = next(item for item in group.ContentSequence if item.ValueType == "NUM")
    assert number_of(volume) == (case.answer.findings[1].measurements[0].value, "mL")


def test_a_segment_of_one_image_is_a_planar_group_on_its_frame():
    dataset = report(single_image_segment_case())
    assert templates(dataset) == ["1410"] * 3
    reference = named(groups(dataset)[1], codes.REFERENCED_SEGMENTATION_FRAME)[0]
    assert reference.ReferencedSOPSequence[0].ReferencedFrameNumber == 2
    assert "ReferencedSegmentNumber" not in reference.ReferencedSOPSequence[0]


def test_a_polygon_and_the_whole_image_have_groups_of_their_own():
    assert templates(report(cr_case())) == ["1410", "1501"]


@pytest.mark.feature("P09", "P12")
def test_polygons_are_closed_and_measured_from_the_corner_of_the_first_pixel():
    case = cr_case()
    group = groups(report(case))[0]
    region = named(group, codes.IMAGE_REGION)[0]
    points = np.array(region.GraphicData).reshape(-1, 2)
    np.testing.assert_allclose(points[:-1], case.answer.findings[0].region.points + 0.5)
    np.testing.assert_array_equal(points[0], points[-1])
    assert region.GraphicType == "POLYLINE"


def test_the_first_number_of_a_polygon_is_inferred_from_coordinates_of_its_own():
    group = groups(report(cr_case()))[0]
    number = next(item for item in group.ContentSequence if item.ValueType == "NUM")
    (child,) = number.ContentSequence
    assert (child.ValueType, child.RelationshipType) == ("SCOORD", "INFERRED FROM")
    assert child.ContentSequence[0].RelationshipType == "SELECTED FROM"


@pytest.mark.feature("P07", "P11")
@given(st.one_of(st.none(), st.floats(0, 1)))
@settings(max_examples=100, deadline=None)
def test_a_confidence_stands_only_where_the_model_gives_one(value):
    case = cr_case()
    confidence = Confidence(value, "none: rule-based" if value is None else "model")
    finding = replace(case.answer.findings[0], confidence=confidence)
    group = groups(report(replace(case, answer=Answer((finding,)))))[0]
    certain = [number_of(item) for item in named(group, codes.CERTAINTY_OF_FINDING)]
    texts = [item.TextValue for item in named(group, codes.COMMENT)]
    if value is None:
        assert certain == []
        assert "Confidence: none: rule-based" in texts
    else:
        ((percent, unit),) = certain
        assert unit == "%"
        assert percent == pytest.approx(100 * value, abs=0.005)


def framed(case, slices):
    """The case on one enhanced object, whose frames stand in reverse."""
    file = deepcopy(case.sources[0])
    file.NumberOfFrames = slices
    file.SOPClassUID = EnhancedCTImageStorage
    file.PerFrameFunctionalGroupsSequence = []
    for source in reversed(case.sources):
        position, orientation, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = source.ImagePositionPatient
        orientation.ImageOrientationPatient = source.ImageOrientationPatient
        group.PlanePositionSequence = [position]
        group.PlaneOrientationSequence = [orientation]
        file.PerFrameFunctionalGroupsSequence.append(group)
    return replace(case, sources=tuple(reversed(frame_headers(file))))


def test_frames_of_an_enhanced_object_are_named_and_the_object_listed_once():
    case = framed(ct_case(), 4)
    objects = bundle(case)
    report, segmentation = (dcmread(BytesIO(to_bytes(objects[kind]))) for kind in ("sr", "seg"))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    listed = [
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert listed == [case.sources[0].SOPInstanceUID, segmentation.SOPInstanceUID]
    (series,) = segmentation.ReferencedSeriesSequence
    assert len(series.ReferencedInstanceSequence) == 1
    derived = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    assert derived == [4, 3, 2, 1] * 3
    library = next(item for item in walk(report) if is_named(item, codes.IMAGE_LIBRARY_GROUP))
    (image,) = [item for item in library.ContentSequence if item.ValueType == "IMAGE"]
    assert list(image.ReferencedSOPSequence[0].ReferencedFrameNumber) == [4, 3, 2, 1]
    regions = [item for item in walk(report) if is_named(item, codes.IMAGE_REGION)]
    frames = [item.ContentSequence[0].ReferencedSOPSequence[0] for item in regions]
    # Fat is largest on its first slice, the last frame; bone has only the last slice.
    assert [item.ReferencedFrameNumber for item in frames] == [4, 1]


def test_a_volumetric_finding_is_outlined_on_its_largest_slice():
    case = ct_case()
    dataset = report(case)
    # The third segment is empty, so it has no outline.
    assert templates(dataset) == ["1411"] * 3 + ["1410"] * 2
    group = groups(dataset)[3]
    region = named(group, codes.IMAGE_REGION)[0]
    points = np.array(region.GraphicData).reshape(-1, 2)
    mask = case.answer.labels[0] == 1
    assert region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (
        case.sources[0].SOPInstanceUID
    )
    rows, columns = np.nonzero(mask)
    np.testing.assert_array_equal(points.min(axis=0), [columns.min(), rows.min()])
    np.testing.assert_array_equal(points.max(axis=0), [columns.max() + 1, rows.max() + 1])
    (area,) = named(group, codes.AREA)
    assert number_of(area) == (pytest.approx(mask.sum() * 0.75 * 1.25), "mm2")
    assert area.ContentSequence[0].RelationshipType == "INFERRED FROM"


def test_of_a_scattered_finding_the_largest_part_is_outlined_without_holes():
    case = ct_case(shape=(2, 12, 16))
    labels = np.zeros((2, 12, 16), np.uint8)
    labels[1, 1:9, 2:11] = 1
    labels[1, 4:6, 5:7] = 0
    labels[1, 10, 13:15] = 1
    case = replace(case, answer=replace(case.answer, labels=labels))
    (plane,) = largest_planes(case.answer, case.volume)
    assert plane.slice_index == 1
    assert plane.pixels == 72.0
    corners = {tuple(point) for point in plane.points}
    assert corners == {(2.0, 1.0), (11.0, 1.0), (11.0, 9.0), (2.0, 9.0)}


@given(arrays.arrays(np.bool_, (9, 11)))
@settings(max_examples=150, deadline=None)
def test_any_part_has_one_outline_around_all_of_it(mask):
    case = ct_case(shape=(2, 9, 11))
    labels = np.zeros((2, 9, 11), np.uint8)
    labels[0][mask] = 1
    planes = list(largest_planes(replace(case.answer, labels=labels), case.volume))
    assert len(planes) == bool(mask.any())
    for plane in planes:
        assert plane.pixels >= max(len(part) for part in parts_of(mask))
        assert plane.pixels == pytest.approx(plane.square_millimetres / (0.75 * 1.25))


def parts_of(mask):
    """The places of each part of a mask whose pixels meet at edges."""
    left = {tuple(place) for place in np.argwhere(mask)}
    while left:
        part, ahead = set(), {left.pop()}
        while ahead:
            row, column = ahead.pop()
            part.add((row, column))
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)}
            ahead |= near & left
            left -= near
        yield part


def test_an_outline_that_coordinates_cannot_hold_is_left_out():
    case = ct_case(shape=(2, 258, 256))
    labels = np.zeros((2, 258, 256), np.uint8)
    # A comb whose teeth have teeth: one part, and tens of thousands of corners.
    labels[0, ::3] = labels[0, :, 0] = labels[0, 1::3, 2::2] = 1
    labels[1, 3:7, 4:9] = 2
    case = replace(case, answer=replace(case.answer, labels=labels))
    assert len(max(trace(labels[0] == 1), key=len)) > MOST_POINTS
    assert [plane.finding.segment for plane in largest_planes(case.answer, case.volume)] == [2]
    assert templates(report(case)) == ["1411"] * 3 + ["1410"]


def test_a_side_is_named_with_its_site():
    case = cr_case()
    left = Code("7771000", "SCT", "Left")
    finding = replace(case.answer.findings[0], laterality=left)
    group = groups(report(replace(case, answer=Answer((finding,)))))[0]
    (site,) = named(group, codes.FINDING_SITE)
    (side,) = site.ContentSequence
    assert code_of(side, "ConceptCodeSequence") == ("7771000", "SCT")
    assert code_of(side, "ConceptNameCodeSequence") == ("272741003", "SCT")


@pytest.mark.feature("F23")
@pytest.mark.parametrize(
    ("weight", "level"), [(0.0, None), (0.2, "Low"), (0.5, "Medium"), (1.0, "High")]
)
def test_the_severity_is_the_label_s_and_says_so(weight, level):
    case = cr_case()
    finding = replace(case.answer.findings[0], severity=weight)
    dataset = report(replace(case, answer=Answer((finding,))))
    said = [meaning_of(item, "ConceptCodeSequence") for item in walk(dataset) if
            is_named(item, codes.SEVERITY)]  # fmt: skip
    assert said == ([] if level is None else [level, level])
    texts = [str(item.get("TextValue", "")) for item in walk(dataset)]
    assert any("not judged here" in text for text in texts) == (level is not None)


def test_the_model_s_own_severity_is_not_overruled():
    case = cr_case()
    finding = replace(case.answer.findings[1], severity=0.9)
    group = groups(report(replace(case, answer=Answer((finding,)))))[0]
    said = [meaning_of(item, "ConceptCodeSequence") for item in named(group, codes.SEVERITY)]
    assert said == ["Mild"]


@pytest.mark.parametrize(("basis", "family"), [("rules", "RULES"), ("trained", "123110")])
def test_the_algorithm_s_family_follows_the_model(basis, family):
    case = ct_case()
    model = replace(case.provenance.model, basis=basis)
    objects = bundle(replace(case, provenance=replace(case.provenance, model=model)))
    said = {
        code_of(item, "ConceptCodeSequence")[0]
        for item in walk(objects["sr"])
        if is_named(item, codes.ALGORITHM_FAMILY)
    }
    (identification,) = (
        objects["seg"].SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    )
    assert said == {family} == {identification.AlgorithmFamilyCodeSequence[0].CodeValue}


@pytest.mark.feature("P19")
def test_an_answer_without_findings_is_reported_as_such():
    case = replace(cr_case(), answer=Answer(()))
    dataset = report(case)
    assert templates(dataset) == ["1501"]
    said = named(groups(dataset)[0], codes.FINDINGS_SUMMARY)[0]
    assert code_of(said, "ConceptCodeSequence") == ("111241", "DCM")


def test_a_region_on_a_slice_that_is_not_there_is_refused():
    case = cr_case()
    finding = case.answer.findings[0]
    moved = replace(finding, region=replace(finding.region, slice_index=1))
    with pytest.raises(ValueError, match="slice 1 of 1"):
        bundle(replace(case, answer=Answer((moved,))))


def test_the_procedure_is_the_source_s_own_where_it_names_one():
    case = ct_case()
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "36813-4", "LN", "CT Abdomen"
    for source in case.sources:
        source.ProcedureCodeSequence = [item]
    assert "Procedure reported: CT Abdomen" in describe(report(case))
    assert "Procedure reported: CT unspecified body region" in describe(report(ct_case()))


@pytest.mark.feature("P20", "P21", "P10")
def test_the_reader_says_what_the_report_holds():
    lines = describe(report(cr_case()))
    assert lines[0] == "Imaging Measurement Report (complete, unverified)"
    assert "Model: ct-tissue 1.0.0" in lines
    assert "Finding opacity: Lesion (Morphologically Abnormal Structure) at Chest" in lines
    assert "  Area: 195.5 {pixels}" in lines
    assert "  Certainty of Finding: 87 %" in lines
    assert "  Severity: Mild (Confidence: none: rule-based)" in lines
    assert "  Needs review: the model asks for a human look." in lines
    assert "Tissue by HU - thresholds, not trained." in lines
    assert WARNING in lines


@pytest.mark.feature("P20")
def test_the_report_names_the_model_by_its_hash():
    texts = [item.get("TextValue") for item in walk(report(ct_case()))]
    assert f"SHA-256: {'ab' * 32}" in texts


def test_the_reader_names_no_patient():
    text = "\n".join(describe(report(ct_case())))
    assert "Prüfling" not in text
    assert "P-1" not in text


def test_an_object_without_content_is_called_by_its_kind():
    assert describe(bundle(ct_case())["seg"]) == ("Segmentation Storage: no report content",)


@pytest.mark.feature("P22")
def test_two_reports_of_one_model_have_the_same_structure():
    def shape(case):
        return [
            (item.get("ValueType"), code_of(item, "ConceptNameCodeSequence"))
            for item in walk(report(case))
        ]

    assert shape(ct_case()) == shape(ct_case(spacing=(5.0, 0.5, 0.5)))


def test_the_request_of_the_source_is_referred_to():
    item = report(ct_case()).ReferencedRequestSequence[0]
    assert (item.RequestedProcedureID, item.AccessionNumber) == ("RP1", "A-77")


def test_sources_and_slices_must_agree_in_number():
    case = ct_case()
    with pytest.raises(ValueError, match="3 sources for 4 slices"):
        build_report(case.answer, case.volume, case.sources[:3], case.provenance, None)
