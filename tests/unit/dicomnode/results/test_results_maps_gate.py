"""The gate on label maps, fractional segmentations, heat maps and fall-back reports."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.content import is_named, walk
from dicomnode.results.gate import prove
from dicomnode.results.write import deflated, to_bytes
from tests.unit.dicomnode.results.cases import (
    ORIENTATIONS,
    cr_case,
    ct_case,
    single_image_segment_case,
    with_probabilities,
    with_saliency,
)

MAPS = ("labelmap", "fractional", "saliency")
REPORTS = ("sr", "sr-comprehensive", "sr-basic")


def full(case):
    return with_saliency(case if case.answer.labels is None else with_probabilities(case))


def files(case, kinds=(*MAPS, *REPORTS)):
    sources = Sources(case.answer, case.volume, case.sources, case.provenance)
    made = build_bundle(kinds, sources)
    return {kind: to_bytes(each) for kind, each in made.items() if isinstance(each, Dataset)}


def judged(case, written):
    return prove(written, case.answer, case.volume, case.sources, case.provenance)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_good_bundle_of_all_forms_passes(orientation):
    case = full(ct_case(orientation))
    written = files(case)
    assert set(written) == {*MAPS, *REPORTS}
    assert judged(case, written) == ()


@pytest.mark.parametrize("make", [cr_case, single_image_segment_case])
def test_a_good_bundle_of_an_image_without_a_place_passes(make):
    case = full(make())
    assert judged(case, files(case)) == ()


def test_what_is_kept_deflated_passes_too():
    case = full(ct_case())
    assert judged(case, {kind: deflated(each) for kind, each in files(case).items()}) == ()


def frame(dataset, number=0):
    return dataset.PerFrameFunctionalGroupsSequence[number]


def swap_frames(dataset):
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = [frames[1], frames[0], *frames[2:]]


def swap_positions(dataset):
    one, other = (frame(dataset, at).PlanePositionSequence[0] for at in (0, 1))
    one.ImagePositionPatient, other.ImagePositionPatient = (
        other.ImagePositionPatient,
        one.ImagePositionPatient,
    )


def shift_rows(dataset):
    for each in dataset.PerFrameFunctionalGroupsSequence:
        position = each.PlanePositionSequence[0]
        x, y, z = position.ImagePositionPatient
        position.ImagePositionPatient = [x, float(y) + 1, z]


def lose_a_frame(dataset):
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-1]
    dataset.NumberOfFrames = len(dataset.PerFrameFunctionalGroupsSequence)


def change_a_pixel(dataset):
    keyword = "PixelData" if "PixelData" in dataset else "FloatPixelData"
    values = bytearray(dataset[keyword].value)
    values[3] ^= 0x40
    dataset[keyword].value = bytes(values)


def cut_pixels(dataset):
    keyword = "PixelData" if "PixelData" in dataset else "FloatPixelData"
    dataset[keyword].value = dataset[keyword].value[:-20]


BROKEN_MAPS = {
    "frames swapped": (swap_frames, "geometry"),
    "positions swapped": (swap_positions, "geometry"),
    "a millimetre off": (shift_rows, "geometry"),
    "a frame lost": (lose_a_frame, "geometry"),
    "a pixel changed": (change_a_pixel, "geometry"),
    "pixels cut": (cut_pixels, "structure"),
}


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", BROKEN_MAPS)
def test_a_broken_map_is_named(kind, name):
    change, code = BROKEN_MAPS[name]
    case = full(ct_case())
    dataset = dcmread(BytesIO(files(case, [kind])[kind]))
    change(dataset)
    findings = judged(case, {kind: to_bytes(dataset)})
    assert code in {finding.code for finding in findings}


@pytest.mark.parametrize("kind", ["labelmap", "fractional"])
def test_segments_of_another_type_or_number_are_named(kind):
    case = full(ct_case())
    for keyword, value in (("SegmentNumber", 9), ("SegmentedPropertyTypeCodeSequence", None)):
        dataset = dcmread(BytesIO(files(case, [kind])[kind]))
        segment = dataset.SegmentSequence[-1]
        if value is None:
            segment[keyword].value[0].CodeValue = "1"
        else:
            setattr(segment, keyword, value)
        findings = judged(case, {kind: to_bytes(dataset)})
        assert any("segments are not those of the model" in each.text for each in findings)


def test_a_heat_map_of_another_finding_or_scale_is_named():
    case = full(ct_case())
    for keyword, change in (
        ("RealWorldValueSlope", lambda mapping: setattr(mapping, "RealWorldValueSlope", 2.0)),
        ("QuantityDefinitionSequence", lambda mapping: mapping.QuantityDefinitionSequence.pop()),
    ):
        dataset = dcmread(BytesIO(files(case, ["saliency"])["saliency"]))
        (mapping,) = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        assert keyword in mapping
        change(mapping)
        assert judged(case, {"saliency": to_bytes(dataset)})


def test_a_fractional_segmentation_that_lacks_a_segment_is_named():
    case = full(ct_case())
    dataset = dcmread(BytesIO(files(case, ["fractional"])["fractional"]))
    slices = len(case.sources)
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-slices]
    dataset.NumberOfFrames = len(dataset.PerFrameFunctionalGroupsSequence)
    texts = [each.text for each in judged(case, {"fractional": to_bytes(dataset)})]
    assert any("not every slice has one frame" in text for text in texts)


@pytest.mark.feature("P21", "P19")
@pytest.mark.parametrize("kind", ["sr-comprehensive", "sr-basic"])
def test_a_fall_back_that_does_not_say_so_does_not_leave(kind):
    case = cr_case()
    dataset = dcmread(BytesIO(files(case, [kind])[kind]))
    for item in walk(dataset):
        if "fall-back form" in str(item.get("TextValue", "")):
            item.TextValue = "Nothing to say."
    texts = [each.text for each in judged(case, {kind: to_bytes(dataset)})]
    assert f"{kind}: the report does not say that it is a fall-back" in texts


def test_a_basic_report_that_loses_a_number_or_a_finding_is_named():
    case = cr_case()
    written = files(case, ["sr-basic"])["sr-basic"]
    dataset = dcmread(BytesIO(written))
    item = next(each for each in walk(dataset) if "195.5" in str(each.get("TextValue", "")))
    item.TextValue = item.TextValue.replace("195.5", "19.5")
    assert any(
        "lack something" in each.text for each in judged(case, {"sr-basic": to_bytes(dataset)})
    )
    dataset = dcmread(BytesIO(written))
    section = next(each for each in walk(dataset) if is_named(each, codes.FINDINGS))
    section.ContentSequence = section.ContentSequence[:1]
    texts = [each.text for each in judged(case, {"sr-basic": to_bytes(dataset)})]
    assert "sr-basic: 1 sentences for 2 findings" in texts


def outline(dataset):
    return next(item for item in walk(dataset) if is_named(item, codes.IMAGE_REGION))


@pytest.mark.parametrize("change", ["moved", "area"])
def test_an_outline_that_does_not_follow_its_finding_is_named(change):
    case = ct_case()
    dataset = dcmread(BytesIO(files(case, ["sr"])["sr"]))
    if change == "moved":
        item = outline(dataset)
        item.GraphicData = [float(value) + 2 for value in item.GraphicData]
        wanted = "an outline does not follow its finding"
    else:
        item = next(each for each in walk(dataset) if is_named(each, codes.AREA))
        item.MeasuredValueSequence[0].NumericValue = "1"
        del item.MeasuredValueSequence[0].FloatingPointValue
        wanted = "the area of an outline is not the one that it encloses"
    assert any(wanted in each.text for each in judged(case, {"sr": to_bytes(dataset)}))


def test_an_answer_without_findings_has_its_fall_back_forms():
    case = cr_case()
    case = replace(case, answer=replace(case.answer, findings=()))
    assert judged(case, files(case, REPORTS)) == ()


def test_the_report_refers_to_the_label_map_where_there_is_no_binary_one():
    case = ct_case()
    written = files(case, ["labelmap", "sr"])
    report = dcmread(BytesIO(written["sr"]))
    referred = {
        each.ReferencedSOPClassUID
        for item in walk(report)
        if is_named(item, codes.REFERENCED_SEGMENT)
        for each in item.ReferencedSOPSequence
    }
    assert referred == {"1.2.840.10008.5.1.4.1.1.66.7"}
    assert judged(case, written) == ()


def test_values_that_are_not_exact_are_not_taken_for_equal():
    case = full(ct_case())
    written = files(case, ["fractional"])
    moved = case.answer.probabilities + np.float32(1.5 / 255)
    case = replace(case, answer=replace(case.answer, probabilities=moved))
    assert judged(case, written)
