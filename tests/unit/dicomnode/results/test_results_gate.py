"""The gate: good bundles pass, and each way of breaking one is named."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from config.errors import MalformedError, NotDicomError
from dicomnode.results import codes
from dicomnode.results.content import is_named, named, walk
from dicomnode.results.gate import inspect, prove
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    ORIENTATIONS,
    bundle,
    cr_case,
    ct_case,
    single_image_segment_case,
    written,
)


def judged(case, files):
    return prove(files, case.answer, case.volume, case.sources, case.provenance)


def broken(case, kind, change):
    """Findings after one object of the bundle was changed in its written form."""
    files = written(case)
    dataset = dcmread(BytesIO(files[kind]))
    change(dataset)
    return judged(case, files | {kind: to_bytes(dataset)})


def item(dataset, name):
    return next(each for each in walk(dataset) if is_named(each, name))


def parent(dataset, name):
    return next(each for each in walk(dataset) if named(each, name))


def remove(dataset, name):
    holder = parent(dataset, name)
    holder.ContentSequence = [each for each in holder.ContentSequence if not is_named(each, name)]


def frames_of(dataset):
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    size = dataset.NumberOfFrames * dataset.Rows * dataset.Columns
    return bits[:size].reshape(dataset.NumberOfFrames, dataset.Rows, dataset.Columns)


def put_frames(dataset, frames):
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)


def mirror_columns(dataset):
    put_frames(dataset, frames_of(dataset)[:, :, ::-1])


def mirror_rows(dataset):
    put_frames(dataset, frames_of(dataset)[:, ::-1])


def reverse_slices(dataset):
    put_frames(dataset, frames_of(dataset).reshape(3, 4, 10, 13)[:, ::-1])


def shift_frames(dataset):
    put_frames(dataset, np.roll(frames_of(dataset).reshape(3, 4, 10, 13), 1, axis=1))


def shift_pixels(dataset):
    put_frames(dataset, np.roll(frames_of(dataset), 1, axis=2))


def swap_segments(dataset):
    put_frames(dataset, frames_of(dataset).reshape(3, 4, 10, 13)[[1, 0, 2]])


def lose_pixels(dataset):
    frames = frames_of(dataset).copy()
    frames[0, 2:, :] = 0
    put_frames(dataset, frames)


def move_positions(dataset):
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [position[0] + 5, *position[1:]]


def swap_positions(dataset):
    frames = dataset.PerFrameFunctionalGroupsSequence
    first, last = frames[0].PlanePositionSequence[0], frames[3].PlanePositionSequence[0]
    first.ImagePositionPatient, last.ImagePositionPatient = (
        last.ImagePositionPatient,
        first.ImagePositionPatient,
    )


def turn_plane(dataset):
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def thicken(dataset):
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 3.0


def swap_spacings(dataset):
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = measures.PixelSpacing[::-1]


def without_positions(dataset):
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def assign(path, value):
    """A change that sets, or with None deletes, an attribute at a dotted path."""

    def change(dataset):
        *holders, keyword = path.split(".")
        target = dataset
        for holder in holders:
            target = target[holder].value[0]
        if value is None:
            delattr(target, keyword)
        else:
            setattr(target, keyword, value)

    return change


def raw(tag, vr, value):
    """A change that puts bytes as they are, past pydicom's own checks."""

    def change(dataset):
        data = value.encode() + b" " * (len(value) % 2)
        dataset[tag] = RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)

    return change


def point_elsewhere(dataset):
    reference = item(dataset, codes.REFERENCED_SEGMENT).ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = generate_uid()


def other_segment(dataset):
    reference = item(dataset, codes.REFERENCED_SEGMENT).ReferencedSOPSequence[0]
    reference.ReferencedSegmentNumber = 2


def other_number(dataset):
    number = next(
        each
        for each in walk(dataset)
        if each.get("ValueType") == "NUM" and each.get("RelationshipType") == "CONTAINS"
    )
    number.MeasuredValueSequence[0].FloatingPointValue = 99.0


def not_ucum(dataset):
    for each in walk(dataset):
        if each.get("ValueType") == "NUM":
            unit = each.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
            unit.CodingSchemeDesignator = "99LOCAL"


def drop_evidence(dataset):
    series = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence = series[:1]


def foreign_evidence(dataset):
    study = dataset.CurrentRequestedProcedureEvidenceSequence[0]
    reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = generate_uid()


def silence(dataset):
    for each in walk(dataset):
        if str(each.get("TextValue", "")).startswith("AI output"):
            each.TextValue = "Looks fine."


def drop_group(dataset):
    holder = parent(dataset, codes.MEASUREMENT_GROUP)
    holder.ContentSequence = holder.ContentSequence[1:]


def other_finding(dataset):
    item(dataset, codes.FINDING).ConceptCodeSequence[0].CodeValue = "1"


SEG_FAULTS = {
    "mirrored columns": (mirror_columns, "geometry"),
    "mirrored rows": (mirror_rows, "geometry"),
    "reversed slices": (reverse_slices, "geometry"),
    "shifted frames": (shift_frames, "geometry"),
    "shifted by a pixel": (shift_pixels, "geometry"),
    "swapped segments": (swap_segments, "geometry"),
    "lost pixels": (lose_pixels, "geometry"),
    "moved positions": (move_positions, "geometry"),
    "swapped positions": (swap_positions, "geometry"),
    "turned plane": (turn_plane, "geometry"),
    "thicker slices": (thicken, "geometry"),
    "swapped spacings": (swap_spacings, "geometry"),
    "no positions": (without_positions, "geometry"),
    "no positions, structure": (without_positions, "structure"),
    "cut pixel data": (assign("PixelData", b"\0\0"), "structure"),
    "no segmentation type": (assign("SegmentationType", None), "structure"),
    "no series number": (assign("SeriesNumber", None), "structure"),
    "no device serial": (assign("DeviceSerialNumber", ""), "structure"),
    "no property type": (
        assign("SegmentSequence.SegmentedPropertyTypeCodeSequence", None),
        "structure",
    ),
    "code without meaning": (
        assign("SegmentSequence.SegmentedPropertyTypeCodeSequence.CodeMeaning", None),
        "structure",
    ),
    "tracking id alone": (assign("SegmentSequence.TrackingUID", None), "structure"),
    "double segment number": (assign("SegmentSequence.SegmentNumber", 2), "structure"),
    "frame of an unknown segment": (
        assign(
            "PerFrameFunctionalGroupsSequence.SegmentIdentificationSequence"
            ".ReferencedSegmentNumber",
            7,
        ),
        "reference",
    ),
    "source not listed": (
        assign(
            "PerFrameFunctionalGroupsSequence.DerivationImageSequence.SourceImageSequence"
            ".ReferencedSOPInstanceUID",
            "1.2.3",
        ),
        "reference",
    ),
    "wrong SOP class of a source": (
        assign("ReferencedSeriesSequence.ReferencedInstanceSequence.ReferencedSOPClassUID", "1.2"),
        "reference",
    ),
    "other patient": (assign("PatientID", "P-2"), "identity"),
    "other accession": (assign("AccessionNumber", "A-78"), "identity"),
    "other frame of reference": (assign("FrameOfReferenceUID", "1.2.3"), "identity"),
    "other instance UID": (assign("SOPInstanceUID", "1.2.3"), "identity"),
    "manual segment": (assign("SegmentSequence.SegmentAlgorithmType", "MANUAL"), "label"),
    "no contributing equipment": (assign("ContributingEquipmentSequence", None), "label"),
    "other device": (assign("ContributingEquipmentSequence.DeviceUID", "1.2.3"), "label"),
    "date that is none": (raw(0x00080023, "DA", "20261301"), "value"),
    "code string in small letters": (raw(0x00700080, "CS", "small"), "value"),
    "label too long": (raw(0x0008103E, "LO", "x" * 65), "value"),
}

SR_FAULTS = {
    "verified": (assign("VerificationFlag", "VERIFIED"), "label"),
    "verified, no observer": (assign("VerificationFlag", "VERIFIED"), "structure"),
    "no warning": (silence, "label"),
    "no completion flag": (assign("CompletionFlag", None), "structure"),
    "odd completion flag": (assign("CompletionFlag", "DONE"), "structure"),
    "no content date": (assign("ContentDate", ""), "structure"),
    "dangling segment reference": (point_elsewhere, "reference"),
    "segment of another finding": (other_segment, "content"),
    "other number": (other_number, "content"),
    "other finding": (other_finding, "content"),
    "lost group": (drop_group, "content"),
    "unit not UCUM": (not_ucum, "value"),
    "evidence incomplete": (drop_evidence, "reference"),
    "evidence of nobody": (foreign_evidence, "reference"),
    "evidence of another study": (
        assign("CurrentRequestedProcedureEvidenceSequence.StudyInstanceUID", "1.2.3"),
        "reference",
    ),
    "no tracking UID": (lambda d: remove(d, codes.TRACKING_UID), "template"),
    "no tracking identifier": (lambda d: remove(d, codes.TRACKING_IDENTIFIER), "template"),
    "no algorithm": (lambda d: remove(d, codes.ALGORITHM_NAME), "template"),
    "no procedure": (lambda d: remove(d, codes.PROCEDURE_REPORTED), "template"),
    "no library": (lambda d: remove(d, codes.IMAGE_LIBRARY), "template"),
    "no observer UID": (lambda d: remove(d, codes.DEVICE_OBSERVER_UID), "template"),
    "no finding": (lambda d: remove(d, codes.FINDING), "template"),
    "no source series": (lambda d: remove(d, codes.SOURCE_SERIES_FOR_SEGMENTATION), "template"),
    "no template": (assign("ContentTemplateSequence.TemplateIdentifier", "1"), "template"),
    "wrong study": (assign("StudyInstanceUID", "1.2.3"), "identity"),
    "other name": (assign("PatientName", "Other^One"), "identity"),
    "not a report": (assign("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), "structure"),
}


def outside(dataset):
    item(dataset, codes.IMAGE_REGION).GraphicData[2] = 36.5


def negative(dataset):
    item(dataset, codes.IMAGE_REGION).GraphicData[1] = -0.25


def displaced(dataset):
    region = item(dataset, codes.IMAGE_REGION)
    region.GraphicData = [each + 0.5 for each in region.GraphicData]


def without_image(dataset):
    del item(dataset, codes.IMAGE_REGION).ContentSequence


def overconfident(dataset):
    item(dataset, codes.CERTAINTY_OF_FINDING).MeasuredValueSequence[0].FloatingPointValue = 870.0


CR_FAULTS = {
    "coordinates outside": (outside, "coordinates"),
    "coordinates negative": (negative, "coordinates"),
    "coordinates displaced": (displaced, "coordinates"),
    "coordinates without image": (without_image, "coordinates"),
    "coordinates without image, structure": (without_image, "structure"),
    "no region": (lambda d: remove(d, codes.IMAGE_REGION), "template"),
    "certainty over 100": (overconfident, "template"),
    "certainty lost": (lambda d: remove(d, codes.CERTAINTY_OF_FINDING), "content"),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_good_bundle_passes_in_every_orientation(orientation):
    case = ct_case(ORIENTATIONS[orientation])
    assert judged(case, written(case)) == ()


@pytest.mark.parametrize("make", [cr_case, single_image_segment_case])
def test_a_good_bundle_without_a_place_in_space_passes(make):
    assert judged(make(), written(make())) == ()


def test_a_bundle_in_files_passes(tmp_path):
    case = ct_case()
    paths = {}
    for kind, data in written(case).items():
        paths[kind] = tmp_path / kind
        paths[kind].write_bytes(data)
    assert judged(case, paths) == ()


def test_a_good_report_without_findings_passes():
    case = replace(cr_case(), answer=replace(cr_case().answer, findings=()))
    assert judged(case, written(case)) == ()


@pytest.mark.parametrize("name", SEG_FAULTS)
def test_a_broken_segmentation_is_named(name):
    change, code = SEG_FAULTS[name]
    assert code in {finding.code for finding in broken(ct_case(), "seg", change)}


@pytest.mark.parametrize("name", SR_FAULTS)
def test_a_broken_report_is_named(name):
    change, code = SR_FAULTS[name]
    assert code in {finding.code for finding in broken(ct_case(), "sr", change)}


@pytest.mark.feature("P12")
@pytest.mark.parametrize("name", CR_FAULTS)
def test_a_broken_region_is_named(name):
    change, code = CR_FAULTS[name]
    assert code in {finding.code for finding in broken(cr_case(), "sr", change)}


def test_a_mirrored_mask_is_found_on_another_side_of_the_patient():
    texts = [finding.text for finding in broken(ct_case(), "seg", mirror_columns)]
    assert any("side of the patient" in text for text in texts)
    assert any("mm from where the model saw it" in text for text in texts)


def test_a_mirrored_mask_of_one_image_is_found_too():
    case = single_image_segment_case()
    codes_found = {each.code for each in broken(case, "seg", mirror_columns)}
    assert "geometry" in codes_found


@pytest.mark.feature("P21")
def test_a_report_without_its_warning_does_not_leave():
    texts = [finding.text for finding in broken(ct_case(), "sr", silence)]
    assert any("validation by a licensed professional" in text for text in texts)


def test_findings_quote_no_patient_and_no_identifier():
    case = ct_case()
    findings = broken(case, "seg", assign("PatientID", "SECRET-ID"))
    assert findings
    assert not any("SECRET-ID" in str(each) or "P-1" in str(each) for each in findings)


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00101010, "AS", "45"),
        (0x00100030, "DA", "1960.02.29"),
        (0x00100040, "CS", "male"),
        (0x00100020, "LO", "x" * 70),
        (0x0020000D, "UI", "1.2.03"),
        (0x0020000E, "UI", "1.2.03"),
        (0x00200052, "UI", "1.2.03"),
        (0x00280030, "DS", "0.75000000000000000000\\1.25000000000000000000"),
        (0x00180050, "DS", "2.500000000000000000000"),
    ],
)
def test_an_odd_value_of_the_source_does_not_stop_its_result(tag, vr, value):
    case = ct_case()
    for source in case.sources:
        raw(tag, vr, value)(source)
    assert judged(case, written(case)) == ()


@pytest.mark.parametrize("data", [b"", b"not dicom at all", b"\0" * 128 + b"DICM\x02\x00"])
def test_what_cannot_be_read_is_a_finding(data):
    case = ct_case()
    found = judged(case, written(case) | {"seg": data})
    assert any(each.code == "structure" and each.text.startswith("seg:") for each in found)


def test_every_cut_of_a_file_is_a_finding_or_refused(tmp_path):
    data = written(ct_case())["sr"]
    path = tmp_path / "cut.dcm"
    for length in range(0, len(data) - 1, len(data) // 200):
        path.write_bytes(data[:length])
        try:
            assert inspect(path).findings
        except (NotDicomError, MalformedError):
            continue


@pytest.mark.parametrize("make", [ct_case, cr_case, single_image_segment_case])
def test_lone_results_pass_inspection(make, tmp_path):
    for kind, data in written(make()).items():
        path = tmp_path / kind
        path.write_bytes(data)
        assert inspect(path).findings == ()


def test_inspection_names_what_a_lone_file_lacks(tmp_path):
    case = ct_case()
    dataset = bundle(case)["sr"]
    silence(dataset)
    del dataset.CompletionFlag
    path = tmp_path / "sr.dcm"
    path.write_bytes(to_bytes(dataset))
    assert {finding.code for finding in inspect(path).findings} == {"label", "structure"}


def test_inspection_of_an_image_judges_structure_alone():
    found = inspect(Path(get_testdata_file("CT_small.dcm")))
    assert not {"label", "template"} & {each.code for each in found.findings}
    assert any("modules of this SOP class" in text for text in found.unchecked)


def test_inspection_refuses_what_is_not_dicom(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    with pytest.raises(NotDicomError):
        inspect(path)
