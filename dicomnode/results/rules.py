"""What objects must hold, as tables (PS3.3): modules, their attributes, types and conditions.

``iods.json`` has the modules with their usage for each SOP class that the node writes, and for each
module the attributes of types 1 and 2. Conditions and enumerated values stand here; content items
and functional groups have tables beside their checks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from pydicom.dataset import Dataset

from dicomnode.lossy import loses

Condition = Callable[[Dataset], bool]


@dataclass(frozen=True)
class Rule:
    """One attribute that must be there.

    Attributes:
        path: Keywords of the sequences it lies in, outermost first; it counts for every item.
        keyword: The attribute.
        type: ``1`` present with a value, ``2`` present (PS3.5 7.4), ``3`` optional; a conditional
            type is one of these with a condition.
        clause: Where PS3.3 says so.
        allowed: The values it may have where it is there, None for any.
        condition: Of the item it lies in; the rule counts where it holds.
    """

    path: tuple[str, ...]
    keyword: str
    type: Literal["1", "2", "3"]
    clause: str
    allowed: frozenset[str] | None = None
    condition: Condition | None = None


@dataclass(frozen=True)
class Iod:
    """An information object definition as the gate checks it.

    Attributes:
        name: As PS3.3 names it.
        clause: Its table of modules.
        rules: Of its mandatory modules; of the others what counts where they are there.
    """

    name: str
    clause: str
    rules: tuple[Rule, ...]


def _has(*keywords: str) -> Condition:
    return lambda item: any(keyword in item for keyword in keywords)


def _lacks(*keywords: str) -> Condition:
    return lambda item: not any(keyword in item for keyword in keywords)


def _equals(keyword: str, *values: str) -> Condition:
    return lambda item: str(item.get(keyword)) in values


def _differs(keyword: str, *values: str) -> Condition:
    return lambda item: str(item.get(keyword)) not in values


def _over(keyword: str, least: int) -> Condition:
    return lambda item: int(item.get(keyword) or 0) > least


def _rows(
    type_: Literal["1", "2", "3"],
    paths: str,
    when: Condition | None = None,
    allowed: str | None = None,
) -> tuple[Rule, ...]:
    values = None if allowed is None else frozenset(allowed.split("|"))
    split = (each.split("/") for each in paths.split())
    return tuple(Rule(tuple(path), name, type_, "", values, when) for *path, name in split)


# PS3.3 C.8.20.2: required if the instance itself has been compressed, or if the source images state
# them, which is held against those where they are known (`labelling.check_identity`).
_LOSSY: Final = (
    *_rows("1", "LossyImageCompression", loses, allowed="01"),
    *_rows("1", "LossyImageCompressionRatio LossyImageCompressionMethod", loses),
)
_SEGMENT: Final = "SegmentSequence"
_AREA: Final = "DisplayedAreaSelectionSequence"
_GRAPHIC: Final = "GraphicAnnotationSequence"
_TEXT: Final = f"{_GRAPHIC}/TextObjectSequence"
_LINE: Final = f"{_GRAPHIC}/GraphicObjectSequence"
_VOI: Final = "SoftcopyVOILUTSequence"

# Module → conditional types and enumerated values, where the object itself shows the condition.
_MORE: Final[Mapping[str, tuple[Rule, ...]]] = {
    "general-image": (
        *_rows("2", "PatientOrientation", _lacks("FrameOfReferenceUID", "ImageOrientationPatient")),
        *_rows("3", "LossyImageCompression", allowed="00|01"),
        *_rows("3", "BurnedInAnnotation", allowed="YES|NO"),
    ),
    "image-pixel": (
        *_rows("1", "PixelData", _lacks("PixelDataProviderURL", "FloatPixelData")),
        *_rows("1", "PlanarConfiguration", _over("SamplesPerPixel", 1), allowed="0|1"),
        *_rows(
            "1",
            "RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
            "BluePaletteColorLookupTableDescriptor",
            _equals("PhotometricInterpretation", "PALETTE COLOR"),
        ),
    ),
    "segmentation-series": _rows("1", "Modality", allowed="SEG"),
    "segmentation-image": (
        *_LOSSY,
        *_rows("2", "ContentCreatorName"),
        *_rows("1", "SegmentationType", allowed="BINARY|FRACTIONAL|LABELMAP"),
        *_rows("1", "SamplesPerPixel", allowed="1"),
        *_rows("1", "PixelRepresentation", allowed="0"),
        *_rows("1", "BitsAllocated", _equals("SegmentationType", "BINARY"), allowed="1"),
        *_rows("1", "BitsAllocated", _equals("SegmentationType", "FRACTIONAL"), allowed="8"),
        *_rows("1", "BitsAllocated", _equals("SegmentationType", "LABELMAP"), allowed="8|16"),
        *_rows(
            "1",
            "SegmentationFractionalType",
            _equals("SegmentationType", "FRACTIONAL"),
            allowed="PROBABILITY|OCCUPANCY",
        ),
        *_rows("1", "MaximumFractionalValue", _equals("SegmentationType", "FRACTIONAL")),
        *_rows("3", "SegmentsOverlap", allowed="YES|NO|UNDEFINED"),
        *_rows("1", f"{_SEGMENT}/SegmentAlgorithmType", allowed="AUTOMATIC|SEMIAUTOMATIC|MANUAL"),
        *_rows(
            "1",
            f"{_SEGMENT}/SegmentAlgorithmName",
            _differs("SegmentAlgorithmType", "MANUAL"),
        ),
        *_rows("1", f"{_SEGMENT}/TrackingUID", _has("TrackingID")),
        *_rows("1", f"{_SEGMENT}/TrackingID", _has("TrackingUID")),
    ),
    "common-instance-reference": (
        *_rows(
            "1",
            "ReferencedSeriesSequence/ReferencedInstanceSequence "
            "ReferencedSeriesSequence/SeriesInstanceUID",
        ),
        *_rows("1", "ReferencedSeriesSequence", _has("DerivationImageSequence")),
    ),
    "multi-frame-dimension": (
        *_rows("1", "DimensionIndexSequence", _has("DimensionOrganizationSequence")),
        *_rows("1", "DimensionIndexSequence/DimensionIndexPointer"),
        *_rows("1", "DimensionIndexSequence/DimensionOrganizationUID"),
    ),
    "parametric-map-image": (
        *_LOSSY,
        *_rows("1", "SamplesPerPixel", allowed="1"),
        *_rows("1", "PhotometricInterpretation", allowed="MONOCHROME2"),
        *_rows("1", "PresentationLUTShape", allowed="IDENTITY"),
        *_rows("1", "ContentQualification", allowed="PRODUCT|RESEARCH|SERVICE"),
        *_rows("1", "BurnedInAnnotation", allowed="NO"),
        *_rows("1", "RecognizableVisualFeatures", allowed="YES|NO"),
        *_rows("2", "ContentCreatorName"),
    ),
    "floating-point-image-pixel": (
        *_rows("3", "FloatPixelData"),
        *_rows("1", "BitsAllocated", _has("FloatPixelData"), allowed="32"),
    ),
    "sr-document-series": _rows("1", "Modality", allowed="SR"),
    "sr-document-general": (
        *_rows("1", "CompletionFlag", allowed="PARTIAL|COMPLETE"),
        *_rows("1", "VerificationFlag", allowed="UNVERIFIED|VERIFIED"),
        *_rows("3", "PreliminaryFlag", allowed="PRELIMINARY|FINAL"),
        *_rows("1", "VerifyingObserverSequence", _equals("VerificationFlag", "VERIFIED")),
    ),
    "key-object-document-series": _rows("1", "Modality", allowed="KO"),
    "encapsulated-document": (
        *_rows("1", "MIMETypeOfEncapsulatedDocument", allowed="application/pdf"),
        *_rows("1", "BurnedInAnnotation", allowed="YES|NO"),
    ),
    "presentation-series": _rows("1", "Modality", allowed="PR"),
    "presentation-state-identification": _rows("2", "ContentCreatorName"),
    "displayed-area": (
        *_rows("1", f"{_AREA}/PresentationSizeMode", allowed="SCALE TO FIT|TRUE SIZE|MAGNIFY"),
        *_rows(
            "1",
            f"{_AREA}/PresentationPixelSpacing",
            _equals("PresentationSizeMode", "TRUE SIZE"),
        ),
        *_rows("1", f"{_AREA}/PresentationPixelAspectRatio", _lacks("PresentationPixelSpacing")),
        *_rows(
            "1",
            f"{_AREA}/PresentationPixelMagnificationRatio",
            _equals("PresentationSizeMode", "MAGNIFY"),
        ),
    ),
    "graphic-annotation": (
        *_rows("1", "GraphicLayerSequence", _has(_GRAPHIC)),
        *_rows("1", f"{_TEXT}/BoundingBoxAnnotationUnits", _has("BoundingBoxTopLeftHandCorner")),
        *_rows("1", f"{_TEXT}/AnchorPoint", _lacks("BoundingBoxTopLeftHandCorner")),
        *_rows("1", f"{_TEXT}/AnchorPointAnnotationUnits", _has("AnchorPoint")),
        *_rows("1", f"{_TEXT}/AnchorPointVisibility", _has("AnchorPoint")),
        *_rows("1", f"{_LINE}/GraphicFilled", _equals("GraphicType", "CIRCLE", "ELLIPSE")),
        *_rows(
            "1",
            f"{_LINE}/GraphicType",
            allowed="POINT|POLYLINE|INTERPOLATED|CIRCLE|ELLIPSE",
        ),
    ),
    "softcopy-voi-lut": (
        *_rows("1", f"{_VOI}/WindowCenter", _lacks("VOILUTSequence")),
        *_rows("1", f"{_VOI}/WindowWidth", _has("WindowCenter")),
    ),
    "softcopy-presentation-lut": (
        *_rows("1", "PresentationLUTShape", _lacks("PresentationLUTSequence")),
        *_rows("3", "PresentationLUTShape", allowed="IDENTITY|INVERSE"),
    ),
    "sc-multi-frame-image": (
        *_rows("1", "FrameIncrementPointer", _over("NumberOfFrames", 1)),
        *_rows("1", "BurnedInAnnotation", allowed="YES|NO"),
    ),
    "sc-equipment": _rows("1", "ConversionType", allowed="DV|DI|DF|WSD|SD|SI|DRW|SYN"),
}

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

# Used where nothing more is known of a SOP class.
_GENERAL: Final = ("patient", "general-study", "general-series", "sop-common")
_WITHOUT_PATIENT: Final = ("sop-common",)


@cache
def iod_of(sop_class_uid: str) -> Iod | None:
    """The definition of a SOP class, None where the gate has no tables for it."""
    entry = _tables()["sop classes"].get(sop_class_uid)
    if entry is None:
        return None
    rules = tuple(_rules(entry["modules"].items()))
    return Iod(entry["name"], entry["clause"], rules)


@cache
def general_rules(sop_class_uid: str) -> tuple[Rule, ...]:
    """What every composite object must hold; those that belong to no patient hold less."""
    modules = _WITHOUT_PATIENT if sop_class_uid.startswith(WITHOUT_PATIENT) else _GENERAL
    return tuple(_rules((each, "M") for each in modules))


def _rules(modules: Iterable[tuple[str, str]]) -> Iterator[Rule]:
    for name, usage in modules:
        module = _tables()["modules"][name]
        clause = module["clause"]
        for type_ in ("1", "2"):
            for row in _rows(type_, " ".join(module.get(type_, ()))):
                # Of a module that need not be there only what lies in its sequences counts.
                if row.path or usage == "M":
                    yield replace(row, clause=clause)
        for row in _MORE.get(name, ()):
            if row.path or usage == "M" or row.condition is not None:
                yield replace(row, clause=clause)


@cache
def _tables() -> Any:
    source = resources.files(__package__) / "iods.json"
    return json.loads(source.read_text(encoding="utf-8"))
