"""What SR, SEG and any other object must hold, as tables (PS3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.dataset import Dataset

Condition = Callable[[Dataset], bool]


@dataclass(frozen=True)
class Rule:
    """One attribute that must be there.

    Attributes:
        path: Keywords of the sequences it lies in, outermost first; it counts for every item.
        keyword: The attribute.
        type: ``1`` present with a value, ``2`` present (PS3.5 7.4); a conditional type is one of
            these with a condition.
        clause: Where PS3.3 says so.
        allowed: The values it may have, None for any.
        condition: Of the item it lies in; the rule counts where it holds.
    """

    path: tuple[str, ...]
    keyword: str
    type: Literal["1", "2"]
    clause: str
    allowed: frozenset[str] | None = None
    condition: Condition | None = None


def _rules(
    clause: str, type_: Literal["1", "2"], keywords: str, *path: str, when: Condition | None = None
) -> tuple[Rule, ...]:
    return tuple(Rule(path, keyword, type_, clause, None, when) for keyword in keywords.split())


def _enumerated(clause: str, keyword: str, values: str, *path: str) -> Rule:
    return Rule(path, keyword, "1", clause, frozenset(values.split("|")))


def _in_space(item: Dataset) -> bool:
    return "FrameOfReferenceUID" in item


SOP_COMMON: Final = _rules("PS3.3 C.12.1", "1", "SOPClassUID SOPInstanceUID")

# Every composite object of a patient.
PATIENT_STUDY_SERIES: Final = (
    *_rules("PS3.3 C.7.1.1", "2", "PatientName PatientID PatientBirthDate PatientSex"),
    *_rules("PS3.3 C.7.2.1", "1", "StudyInstanceUID"),
    *_rules(
        "PS3.3 C.7.2.1",
        "2",
        "StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber",
    ),
    *_rules("PS3.3 C.7.3.1", "1", "Modality SeriesInstanceUID"),
)

_EVIDENCE: Final = "CurrentRequestedProcedureEvidenceSequence"

SR: Final = (
    _enumerated("PS3.3 C.17.1", "Modality", "SR"),
    *_rules("PS3.3 C.17.1", "1", "SeriesNumber"),
    *_rules("PS3.3 C.17.1", "2", "ReferencedPerformedProcedureStepSequence"),
    *_rules("PS3.3 C.17.2", "1", "InstanceNumber ContentDate ContentTime"),
    *_rules("PS3.3 C.17.2", "2", "PerformedProcedureCodeSequence"),
    _enumerated("PS3.3 C.17.2", "CompletionFlag", "PARTIAL|COMPLETE"),
    _enumerated("PS3.3 C.17.2", "VerificationFlag", "UNVERIFIED|VERIFIED"),
    *_rules(
        "PS3.3 C.17.2",
        "1",
        "VerifyingObserverSequence",
        when=lambda item: item.get("VerificationFlag") == "VERIFIED",
    ),
    *_rules("PS3.3 C.17.2.3", "1", "StudyInstanceUID ReferencedSeriesSequence", _EVIDENCE),
    *_rules(
        "PS3.3 C.17.2.3",
        "1",
        "SeriesInstanceUID ReferencedSOPSequence",
        _EVIDENCE,
        "ReferencedSeriesSequence",
    ),
    *_rules(
        "PS3.3 C.17.2.3",
        "1",
        "ReferencedSOPClassUID ReferencedSOPInstanceUID",
        _EVIDENCE,
        "ReferencedSeriesSequence",
        "ReferencedSOPSequence",
    ),
    _enumerated("PS3.3 C.17.3", "ValueType", "CONTAINER"),
    *_rules("PS3.3 C.17.3", "1", "ConceptNameCodeSequence ContentSequence"),
)

# PS3.3 C.17.3.2 to C.18.9: what a content item of each value type must hold.
CONTENT_ITEM: Final = {
    "CONTAINER": (("ContinuityOfContent", "1"),),
    "TEXT": (("TextValue", "1"), ("ConceptNameCodeSequence", "1")),
    "CODE": (("ConceptCodeSequence", "1"), ("ConceptNameCodeSequence", "1")),
    "NUM": (("MeasuredValueSequence", "2"), ("ConceptNameCodeSequence", "1")),
    "DATETIME": (("DateTime", "1"), ("ConceptNameCodeSequence", "1")),
    "DATE": (("Date", "1"), ("ConceptNameCodeSequence", "1")),
    "TIME": (("Time", "1"), ("ConceptNameCodeSequence", "1")),
    "UIDREF": (("UID", "1"), ("ConceptNameCodeSequence", "1")),
    "PNAME": (("PersonName", "1"), ("ConceptNameCodeSequence", "1")),
    "IMAGE": (("ReferencedSOPSequence", "1"),),
    "COMPOSITE": (("ReferencedSOPSequence", "1"),),
    "WAVEFORM": (("ReferencedSOPSequence", "1"),),
    "SCOORD": (("GraphicType", "1"), ("GraphicData", "1")),
    "SCOORD3D": (
        ("GraphicType", "1"),
        ("GraphicData", "1"),
        ("ReferencedFrameOfReferenceUID", "1"),
    ),
    "TCOORD": (("TemporalRangeType", "1"),),
}

_FRAMES: Final = "PerFrameFunctionalGroupsSequence"

SEG: Final = (
    _enumerated("PS3.3 C.8.20.1", "Modality", "SEG"),
    *_rules("PS3.3 C.8.20.1", "1", "SeriesNumber"),
    *_rules(
        "PS3.3 C.7.5.2",
        "1",
        "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions",
    ),
    *_rules("PS3.3 C.7.4.1", "2", "PositionReferenceIndicator", when=_in_space),
    *_rules(
        "PS3.3 C.8.20.2",
        "1",
        "ImageType InstanceNumber ContentLabel Rows Columns BitsAllocated BitsStored",
    ),
    *_rules("PS3.3 C.8.20.2", "1", "SegmentSequence"),
    *_rules("PS3.3 C.8.20.2", "2", "ContentDescription ContentCreatorName"),
    _enumerated("PS3.3 C.8.20.2", "SegmentationType", "BINARY|FRACTIONAL|LABELMAP"),
    _enumerated("PS3.3 C.8.20.2", "LossyImageCompression", "00|01"),
    _enumerated("PS3.3 C.8.20.2", "SamplesPerPixel", "1"),
    _enumerated("PS3.3 C.8.20.2", "PixelRepresentation", "0"),
    *_rules("PS3.3 C.8.20.4", "1", "SegmentNumber SegmentLabel", "SegmentSequence"),
    _enumerated(
        "PS3.3 C.8.20.4",
        "SegmentAlgorithmType",
        "AUTOMATIC|SEMIAUTOMATIC|MANUAL",
        "SegmentSequence",
    ),
    *_rules(
        "PS3.3 C.8.20.4",
        "1",
        "SegmentAlgorithmName",
        "SegmentSequence",
        when=lambda item: item.get("SegmentAlgorithmType") != "MANUAL",
    ),
    *_rules(
        "PS3.3 C.8.20.4",
        "1",
        "SegmentedPropertyCategoryCodeSequence SegmentedPropertyTypeCodeSequence",
        "SegmentSequence",
    ),
    *_rules(
        "PS3.3 C.8.20.4",
        "1",
        "TrackingUID",
        "SegmentSequence",
        when=lambda item: "TrackingID" in item,
    ),
    *_rules(
        "PS3.3 C.8.20.4",
        "1",
        "TrackingID",
        "SegmentSequence",
        when=lambda item: "TrackingUID" in item,
    ),
    *_rules(
        "PS3.3 C.7.6.16",
        "1",
        f"NumberOfFrames ContentDate ContentTime SharedFunctionalGroupsSequence {_FRAMES}",
    ),
    *_rules("PS3.3 C.7.6.17", "1", "DimensionOrganizationSequence DimensionIndexSequence"),
    *_rules("PS3.3 C.7.6.17", "1", "DimensionIndexPointer", "DimensionIndexSequence"),
    *_rules("PS3.3 C.7.6.16.2.2", "1", "FrameContentSequence", _FRAMES),
    *_rules("PS3.3 C.12.2", "1", "ReferencedSeriesSequence"),
    *_rules(
        "PS3.3 C.12.2",
        "1",
        "SeriesInstanceUID ReferencedInstanceSequence",
        "ReferencedSeriesSequence",
    ),
    *_rules("PS3.3 C.7.6.3", "1", "PixelData"),
)

# PS3.3 A.36 and others: composite objects that belong to no patient.
WITHOUT_PATIENT: Final = (
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
    "1.2.840.10008.5.1.4.1.1.200.1",
    "1.2.840.10008.5.1.4.1.1.200.3",
)
