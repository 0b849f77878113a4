"""Deliberately broken objects of every kind: each is named, with the clause it breaks.

A row is a fault: the kind it is done to, what is done, and a code and clause that the gate must
give. The good objects that they are made from pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicomnode.results import codes
from dicomnode.results.bundle import FORMS, Sources, build_bundle
from dicomnode.results.content import is_named, walk
from dicomnode.results.gate import CHECKS, inspect, prove
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    Case,
    cr_case,
    ct_case,
    with_probabilities,
    with_saliency,
)

Change = Callable[[Dataset], None]


@dataclass(frozen=True)
class Good:
    """A case and its good files by kind."""

    case: Case
    files: dict[str, bytes]


@cache
def good(name: str) -> Good:
    """Every kind that can be made of a volume (``ct``) or of a radiograph of a lossy file."""
    if name == "ct":
        case = with_saliency(with_probabilities(ct_case()))
    else:
        case = cr_case()
        for source in case.sources:
            source.LossyImageCompression = "01"
            source.LossyImageCompressionRatio = "8"
            source.LossyImageCompressionMethod = "ISO_10918_1"
    sources = Sources(case.answer, case.volume, case.sources, case.provenance)
    made = build_bundle(list(FORMS), sources)
    return Good(case, {k: to_bytes(v) for k, v in made.items() if isinstance(v, Dataset)})


def judged(each: Good, files: dict[str, bytes]) -> set[tuple[str, str]]:
    case = each.case
    found = prove(files, case.answer, case.volume, case.sources, case.provenance)
    return {(finding.code, finding.clause) for finding in found}


def at(path: str, value: Any = None) -> Change:
    """Set an attribute at a dotted path through first items; None deletes it."""

    def change(dataset: Dataset) -> None:
        *holders, keyword = path.split(".")
        for holder in holders:
            dataset = dataset[holder].value[0]
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)

    return change


def raw(path: str, vr: str, value: bytes, tag: int | None = None) -> Change:
    """Put bytes past pydicom's checks, at a dotted path or a tag below it."""

    def change(dataset: Dataset) -> None:
        *holders, keyword = path.split(".")
        for holder in holders:
            dataset = dataset[holder].value[0]
        where = Tag(tag if tag is not None else keyword)
        data = value + b" " * (len(value) % 2)
        dataset[where] = RawDataElement(where, vr, len(data), data, 0, False, True)

    return change


def outside_the_character_set(dataset: Dataset) -> None:
    """As another program might write it: `to_bytes` refuses to."""
    del dataset.SpecificCharacterSet
    dataset.set_original_encoding(False, True, dataset._character_set)
    raw("SeriesDescription", "LO", b"caf\xe9")(dataset)


def content(value_type: str, change: Change) -> Change:
    """Change the first content item of a value type."""
    return lambda dataset: change(
        next(each for each in walk(dataset) if each.get("ValueType") == value_type)
    )


def called(name: Any, change: Change) -> Change:
    """Change the first content item of a concept name."""
    return lambda dataset: change(next(each for each in walk(dataset) if is_named(each, name)))


def overlap(dataset: Dataset) -> None:
    # Two frames of a label map on one slice.
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = frames[0].PlanePositionSequence


def repeat_segment(dataset: Dataset) -> None:
    dataset.SegmentSequence[2].SegmentNumber = dataset.SegmentSequence[1].SegmentNumber


def mirror_bytes(dataset: Dataset) -> None:
    shape = (int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)
    count = int(np.prod(shape))
    frames = np.frombuffer(dataset.PixelData, np.uint8)[:count].reshape(shape)
    dataset.PixelData = frames[:, :, ::-1].tobytes() + b"\0" * (count % 2)


def mirror_floats(dataset: Dataset) -> None:
    shape = (int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)
    frames = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(shape)
    dataset.FloatPixelData = frames[:, :, ::-1].tobytes()


def not_a_number(dataset: Dataset) -> None:
    frames = np.frombuffer(dataset.FloatPixelData, "<f4").copy()
    frames[7] = np.nan
    dataset.FloatPixelData = frames.tobytes()


def cut_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


def without_warning(dataset: Dataset) -> None:
    for each in walk(dataset):
        if "validation by a licensed" in str(each.get("TextValue", "")):
            each.TextValue = "Looks fine."


def number(keyword: str, value: Any) -> Change:
    return content("NUM", at(f"MeasuredValueSequence.{keyword}", value))


def volume_below_zero(dataset: Dataset) -> None:
    for each in walk(dataset):
        if each.get("ValueType") == "NUM" and "mL" in str(each.MeasuredValueSequence):
            each.MeasuredValueSequence[0].NumericValue = "-4"
            each.MeasuredValueSequence[0].FloatingPointValue = -4.0


UNITS = "MeasuredValueSequence.MeasurementUnitsCodeSequence"
SEGMENT = "SegmentSequence"
SHARED = "SharedFunctionalGroupsSequence"
FRAME = "PerFrameFunctionalGroupsSequence"
EVIDENCE = "CurrentRequestedProcedureEvidenceSequence"
TYPE = f"{SEGMENT}.SegmentedPropertyTypeCodeSequence"

# kind, case, change, code, clause
FAULTS: dict[str, tuple[str, str, Change, str, str]] = {
    # modules and conditions
    "missing type 1": ("seg", "ct", at("ContentLabel"), "structure", "PS3.3 C.8.20.2"),
    "empty type 1": ("seg", "ct", at("ContentLabel", ""), "structure", "PS3.3 C.8.20.2"),
    "missing type 2": (
        "sr",
        "ct",
        at("PerformedProcedureCodeSequence"),
        "structure",
        "PS3.3 C.17.2",
    ),
    "no creator's name": (
        "labelmap",
        "ct",
        at("ContentCreatorName"),
        "structure",
        "PS3.3 C.8.20.2",
    ),
    "no dimension index": (
        "seg",
        "ct",
        at("DimensionIndexSequence"),
        "structure",
        "PS3.3 C.7.6.17",
    ),
    "no equipment serial": (
        "saliency",
        "ct",
        at("DeviceSerialNumber"),
        "structure",
        "PS3.3 C.7.5.2",
    ),
    "odd segmentation type": (
        "seg",
        "ct",
        at("SegmentationType", "OUTLINE"),
        "structure",
        "PS3.3 C.8.20.2",
    ),
    "no fractional type": (
        "fractional",
        "ct",
        at("SegmentationFractionalType"),
        "structure",
        "PS3.3 C.8.20.2",
    ),
    "no maximum of fractions": (
        "fractional",
        "ct",
        at("MaximumFractionalValue"),
        "structure",
        "PS3.3 C.8.20.2",
    ),
    "modality of another kind": ("seg", "ct", at("Modality", "CT"), "structure", "PS3.3 C.8.20.1"),
    "no algorithm name": (
        "seg",
        "ct",
        at(f"{SEGMENT}.SegmentAlgorithmName"),
        "structure",
        "PS3.3 C.8.20.2",
    ),
    "tracking UID alone": ("seg", "ct", at(f"{SEGMENT}.TrackingID"), "structure", "PS3.3 C.8.20.2"),
    "odd lossy flag": (
        "overlay",
        "ct",
        at("LossyImageCompression", "02"),
        "structure",
        "PS3.3 C.7.6.1",
    ),
    "verified without observer": (
        "sr",
        "ct",
        at("VerificationFlag", "VERIFIED"),
        "structure",
        "PS3.3 C.17.2",
    ),
    "not complete, not partial": (
        "sr-basic",
        "ct",
        at("CompletionFlag", "DONE"),
        "structure",
        "PS3.3 C.17.2",
    ),
    "no real world values": (
        "saliency",
        "ct",
        at(f"{SHARED}.RealWorldValueMappingSequence"),
        "structure",
        "PS3.3 C.7.6.16.2.11",
    ),
    "no frame type": (
        "saliency",
        "ct",
        at(f"{SHARED}.ParametricMapFrameTypeSequence"),
        "structure",
        "PS3.3 C.8.32.3.1",
    ),
    "no frame content": (
        "labelmap",
        "ct",
        at(f"{FRAME}.FrameContentSequence"),
        "structure",
        "PS3.3 C.7.6.16.2.2",
    ),
    "no pixel measures": (
        "seg",
        "ct",
        at(f"{SHARED}.PixelMeasuresSequence"),
        "structure",
        "PS3.3 C.7.6.16.2.1",
    ),
    "no frame's segment": (
        "seg",
        "ct",
        at(f"{FRAME}.SegmentIdentificationSequence"),
        "structure",
        "PS3.3 C.8.20.3.1",
    ),
    "frame count": ("seg", "ct", at("NumberOfFrames", 11), "structure", "PS3.3 C.7.6.16"),
    "no graphic layer": ("gsps", "cr", at("GraphicLayerSequence"), "structure", "PS3.3 C.10.5"),
    "no displayed area": (
        "gsps",
        "ct",
        at("DisplayedAreaSelectionSequence"),
        "structure",
        "PS3.3 C.10.4",
    ),
    "odd size mode": (
        "gsps",
        "ct",
        at("DisplayedAreaSelectionSequence.PresentationSizeMode", "BIG"),
        "structure",
        "PS3.3 C.10.4",
    ),
    "no presentation date": (
        "gsps",
        "ct",
        at("PresentationCreationDate"),
        "structure",
        "PS3.3 C.11.10",
    ),
    "no evidence of key objects": ("ko", "cr", at(EVIDENCE), "structure", "PS3.3 C.17.6.2"),
    "no document": ("pdf", "ct", at("EncapsulatedDocument"), "structure", "PS3.3 C.24.2"),
    "document of another kind": (
        "pdf",
        "ct",
        at("MIMETypeOfEncapsulatedDocument", "text/html"),
        "structure",
        "PS3.3 C.24.2",
    ),
    "no conversion type": ("overlay", "ct", at("ConversionType"), "structure", "PS3.3 C.8.6.1"),
    "colour without order": (
        "overlay",
        "ct",
        at("PlanarConfiguration"),
        "structure",
        "PS3.3 C.7.6.3",
    ),
    # pixels
    "truncated pixel data": ("labelmap", "ct", cut_pixels, "structure", "PS3.5 8.1.1"),
    "truncated bits": ("seg", "ct", cut_pixels, "structure", "PS3.5 8.1.1"),
    "truncated colours": ("overlay", "cr", cut_pixels, "structure", "PS3.5 8.1.1"),
    "wrong BitsAllocated": ("seg", "ct", at("BitsAllocated", 8), "structure", "PS3.3 C.8.20.2"),
    "wrong HighBit": ("labelmap", "ct", at("HighBit", 6), "structure", "PS3.5 8.1.1"),
    "doubles said, floats written": (
        "saliency",
        "ct",
        at("BitsAllocated", 64),
        "structure",
        "PS3.5 8.1.1",
    ),
    # segments
    "duplicate segment number": ("labelmap", "ct", repeat_segment, "structure", "PS3.3 C.8.20.4"),
    "duplicate number, binary": ("seg", "ct", repeat_segment, "structure", "PS3.3 C.8.20.4"),
    # geometry of the maps
    "mirrored label map": ("labelmap", "ct", mirror_bytes, "geometry", "PS3.3 C.7.6.16"),
    "mirrored fractions": ("fractional", "ct", mirror_bytes, "geometry", "PS3.3 C.7.6.16"),
    "mirrored heat map": ("saliency", "ct", mirror_floats, "geometry", "PS3.3 C.7.6.16"),
    "heat map with NaN": ("saliency", "ct", not_a_number, "geometry", "PS3.3 C.7.6.16"),
    "overlapping label map": ("labelmap", "ct", overlap, "geometry", "PS3.3 C.7.6.2.1.1"),
    "wrong PixelSpacing": (
        "seg",
        "ct",
        at(f"{SHARED}.PixelMeasuresSequence.PixelSpacing", [0.75, 1.5]),
        "geometry",
        "PS3.3 C.7.6.2.1.1",
    ),
    # values
    "wrong VR": ("sr", "ct", raw("InstanceNumber", "US", b"\1\0"), "value", "PS3.6 6"),
    "invalid UID": (
        "seg",
        "ct",
        raw("DimensionOrganizationSequence.DimensionOrganizationUID", "UI", b"2.25.01"),
        "value",
        "PS3.5 6.2",
    ),
    "nonsense date": ("sr", "ct", raw("ContentDate", "DA", b"20261399"), "value", "PS3.5 6.2"),
    "nonsense time": ("sr", "ct", raw("ContentTime", "TM", b"256199"), "value", "PS3.5 6.2"),
    "nonsense number": (
        "sr",
        "ct",
        content("NUM", raw("MeasuredValueSequence.NumericValue", "DS", b"NaN")),
        "value",
        "PS3.5 6.2",
    ),
    "small letters": ("seg", "ct", raw("ContentLabel", "CS", b"mask"), "value", "PS3.5 6.2"),
    "too long": ("seg", "ct", raw("ContentDescription", "LO", b"x" * 66), "value", "PS3.5 6.2"),
    "two values for one": (
        "seg",
        "ct",
        raw("ContentDescription", "LO", b"one\\two"),
        "value",
        "PS3.5 6.4",
    ),
    "backslash in a meaning": (
        "seg",
        "ct",
        raw(f"{TYPE}.CodeMeaning", "LO", b"Adipose\\tissue"),
        "value",
        "PS3.5 6.4",
    ),
    "control character": (
        "sr",
        "ct",
        content("TEXT", raw("TextValue", "UT", b"no\x07ise")),
        "value",
        "PS3.5 6.1.3",
    ),
    "outside the character set": (
        "sr",
        "ct",
        outside_the_character_set,
        "value",
        "PS3.3 C.12.1.1.2",
    ),
    "private element without block": (
        "seg",
        "ct",
        raw("", "LO", b"ours", 0x00091001),
        "structure",
        "PS3.5 7.8.1",
    ),
    "number of three bytes": ("seg", "ct", raw("Rows", "US", b"\x0a\0\0"), "value", "PS3.5 6.4"),
    # content items
    "stray quote in a meaning": (
        "sr",
        "ct",
        called(codes.FINDING, at("ConceptCodeSequence.CodeMeaning", 'Adipose" tissue')),
        "content",
        "PS3.3 8.8.3",
    ),
    "code without value": (
        "sr",
        "ct",
        called(codes.FINDING, at("ConceptCodeSequence.CodeValue")),
        "structure",
        "PS3.3 8.8",
    ),
    "nonsense unit": (
        "sr",
        "ct",
        number("MeasurementUnitsCodeSequence", None),
        "structure",
        "PS3.3 C.18.1",
    ),
    "unit that UCUM has not": (
        "sr",
        "ct",
        content("NUM", at(f"{UNITS}.CodeValue", "furlong")),
        "value",
        "PS3.16 7.2.2",
    ),
    "unit of another scheme": (
        "sr",
        "ct",
        content("NUM", at(f"{UNITS}.CodingSchemeDesignator", "99LOCAL")),
        "value",
        "PS3.16 7.2.2",
    ),
    "number not finite": (
        "sr",
        "ct",
        number("FloatingPointValue", float("nan")),
        "value",
        "PS3.3 C.18.1",
    ),
    "number twice, differing": (
        "sr",
        "ct",
        number("FloatingPointValue", 77.5),
        "value",
        "PS3.3 C.18.1",
    ),
    "negative volume": ("sr", "ct", volume_below_zero, "value", "PS3.3 C.18.1"),
    "number without value": ("sr", "ct", number("NumericValue", None), "structure", "PS3.3 C.18.1"),
    "item of no type": (
        "sr",
        "ct",
        content("TEXT", at("ValueType", "WORDS")),
        "structure",
        "PS3.3 C.17.3.2",
    ),
    "number in plain text": (
        "sr-basic",
        "ct",
        content("TEXT", at("ValueType", "NUM")),
        "structure",
        "PS3.3 A.35",
    ),
    "no relationship": (
        "sr",
        "ct",
        content("CODE", at("RelationshipType")),
        "structure",
        "PS3.3 C.17.3.1",
    ),
    "relationship it cannot have": (
        "sr",
        "ct",
        content("NUM", at("RelationshipType", "HAS CONCEPT MOD")),
        "structure",
        "PS3.3 C.17.3.2.4",
    ),
    "SCOORD without image": (
        "sr",
        "cr",
        content("SCOORD", at("ContentSequence")),
        "structure",
        "PS3.3 C.18.6",
    ),
    "odd coordinates": (
        "sr",
        "cr",
        content("SCOORD", at("GraphicData", [1.0, 2.0, 3.0])),
        "structure",
        "PS3.3 C.18.6.1.1",
    ),
    "coordinate that is none": (
        "sr",
        "cr",
        content("SCOORD", at("GraphicData", [1.0, 2.0, float("nan"), 4.0, 1.0, 2.0])),
        "value",
        "PS3.3 C.18.6.1.1",
    ),
    "finding outside the image": (
        "sr",
        "cr",
        content("SCOORD", at("GraphicData", [1.0, 2.0, 99.0, 2.0, 9.0, 9.0, 1.0, 2.0])),
        "coordinates",
        "PS3.3 C.18.6.1.2",
    ),
    "image without reference": (
        "ko",
        "cr",
        content("IMAGE", at("ReferencedSOPSequence")),
        "structure",
        "PS3.3 C.17.3.2",
    ),
    # references
    "dangling reference": (
        "seg",
        "ct",
        at("ReferencedSeriesSequence.ReferencedInstanceSequence.ReferencedSOPInstanceUID", "1.2.3"),
        "reference",
        "PS3.3 10.8",
    ),
    "IMAGE item without evidence": (
        "sr",
        "ct",
        at(
            f"{EVIDENCE}.ReferencedSeriesSequence.ReferencedSOPSequence.ReferencedSOPInstanceUID",
            "1.2.3",
        ),
        "reference",
        "PS3.3 C.17.2.3",
    ),
    "evidence of another study": (
        "sr",
        "ct",
        at(f"{EVIDENCE}.StudyInstanceUID", "1.2.3"),
        "reference",
        "PS3.3 C.17.2.3",
    ),
    # templates
    "missing tracking UID": (
        "sr",
        "ct",
        called(codes.TRACKING_UID, at("ConceptNameCodeSequence.CodeValue", "112039")),
        "template",
        "PS3.16 TID 1501",
    ),
    # identity
    "wrong patient": ("seg", "ct", at("PatientID", "P-2"), "identity", "PS3.3 C.7.1.1 and C.7.2.1"),
    "wrong patient of a page": (
        "pdf",
        "ct",
        at("PatientName", "Other^One"),
        "identity",
        "PS3.3 C.7.1.1 and C.7.2.1",
    ),
    "other study": (
        "ko",
        "cr",
        at("StudyInstanceUID", "1.2.3"),
        "identity",
        "PS3.3 C.7.1.1 and C.7.2.1",
    ),
    "frame of reference of another": (
        "labelmap",
        "ct",
        at("FrameOfReferenceUID", "1.2.3"),
        "identity",
        "PS3.3 C.7.4.1",
    ),
    "UID of another job": ("gsps", "ct", at("SeriesInstanceUID", "1.2.3"), "identity", "PS3.5 B.2"),
    "time of another job": (
        "sr",
        "ct",
        at("ContentDate", "20260103"),
        "identity",
        "PS3.3 C.12.1.1.8",
    ),
    "lossy flag not inherited": (
        "overlay",
        "cr",
        at("LossyImageCompression", "00"),
        "identity",
        "PS3.3 C.7.6.1.1.5",
    ),
    # labelling
    "no AI warning": ("sr", "ct", without_warning, "label", "P21"),
    "VERIFIED": ("sr", "ct", at("VerificationFlag", "VERIFIED"), "label", "PS3.3 C.17.2"),
    "made by hand": (
        "seg",
        "ct",
        at(f"{SEGMENT}.SegmentAlgorithmType", "MANUAL"),
        "label",
        "PS3.3 C.8.20.4",
    ),
    "no contributing equipment": (
        "overlay",
        "ct",
        at("ContributingEquipmentSequence"),
        "label",
        "PS3.3 C.12.1",
    ),
    "another model": (
        "pdf",
        "ct",
        at("ContributingEquipmentSequence.DeviceUID", "1.2.3"),
        "label",
        "IHE RAD TF-2 AIR, Contributing Equipment",
    ),
}


@pytest.mark.parametrize("name", ["ct", "cr"])
def test_the_good_objects_of_every_kind_pass(name: str) -> None:
    assert judged(good(name), good(name).files) == set()


def test_every_kind_is_broken_and_there_are_many_faults() -> None:
    assert {kind for kind, *_ in FAULTS.values()} | {"sr-comprehensive"} == set(CHECKS)
    assert len(FAULTS) >= 60


@pytest.mark.feature("P12")
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_clause(name: str) -> None:
    kind, case, change, code, clause = FAULTS[name]
    each = good(case)
    dataset = dcmread(BytesIO(each.files[kind]))
    change(dataset)
    # What the broken object refers to comes with it.
    others = {other: each.files[other] for other in ("seg",) if other in each.files}
    assert (code, clause) in judged(each, others | {kind: to_bytes(dataset)})


def test_lone_files_of_every_kind_pass_inspection(tmp_path: Any) -> None:
    for name in ("ct", "cr"):
        for kind, data in good(name).files.items():
            path = tmp_path / f"{kind}.dcm"
            path.write_bytes(data)
            assert inspect(path).findings == (), kind


@pytest.mark.feature("P16")
@pytest.mark.parametrize("name", ["ct", "cr"])
def test_the_same_job_gives_the_same_bytes_for_every_kind(name: str) -> None:
    first = good(name).files
    good.cache_clear()
    assert good(name).files == first
