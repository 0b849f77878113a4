"""The part of the gate that judges the content items of documents, one by one (PS3.3 C.17.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    KeyObjectSelectionDocumentStorage,
)

from ai.ucum import is_ucum
from dicomnode.results.content import children, code_of, items_of, walk
from dicomnode.results.proof import GateFinding

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
    "TABLE": (("TabulatedValuesSequence", "1"),),
}

_PLAIN: Final = frozenset(CONTENT_ITEM) - {"NUM", "SCOORD", "SCOORD3D", "TCOORD", "TABLE"}
# PS3.3 A.35.1.3.1, A.35.3.3.1, A.35.13.3.1, A.35.4.3.1: value types that a document may hold.
VALUE_TYPES: Final[Mapping[str, frozenset[str]]] = {
    BasicTextSRStorage: _PLAIN,
    ComprehensiveSRStorage: _PLAIN | {"NUM", "SCOORD", "TCOORD"},
    Comprehensive3DSRStorage: _PLAIN | {"NUM", "SCOORD", "SCOORD3D", "TCOORD"},
    KeyObjectSelectionDocumentStorage: _PLAIN - {"DATETIME", "DATE", "TIME"},
}
# PS3.3 C.17.3.2.4 and Tables A.35.x-2: what may stand at the end of each relationship.
_CONTEXT: Final = _PLAIN - {"CONTAINER", "IMAGE", "COMPOSITE", "WAVEFORM"} | {"NUM"}
RELATIONSHIPS: Final[Mapping[str, frozenset[str]]] = {
    "CONTAINS": frozenset(CONTENT_ITEM),
    "HAS PROPERTIES": frozenset(CONTENT_ITEM),
    "INFERRED FROM": frozenset(CONTENT_ITEM),
    "HAS OBS CONTEXT": _CONTEXT | {"COMPOSITE"},
    "HAS ACQ CONTEXT": _CONTEXT | {"CONTAINER", "IMAGE", "WAVEFORM", "COMPOSITE"},
    "HAS CONCEPT MOD": frozenset({"TEXT", "CODE"}),
    "SELECTED FROM": frozenset({"IMAGE", "WAVEFORM", "SCOORD", "SCOORD3D"}),
}

# What is measured in these is a size and never below zero.
_SIZES: Final = ("mm", "cm", "m", "mm2", "cm2", "mm3", "cm3", "mL", "ml", "L", "l", "{pixels}")


def check_content_items(dataset: Dataset) -> Iterator[GateFinding]:
    """What each content item of a document must hold, and which may stand below which.

    Args:
        dataset: A structured report or key object selection.
    """
    root = items_of(dataset, "ConceptNameCodeSequence")
    if dataset.get("ValueType") != "CONTAINER" or not root or not children(dataset):
        text = "the root is no container with a title and content"
        yield GateFinding("structure", "PS3.3 C.17.3", text)
    allowed = VALUE_TYPES.get(str(dataset.get("SOPClassUID")), frozenset(CONTENT_ITEM))
    for item in walk(dataset):
        yield from _check_item(item, allowed)


def _check_item(item: Dataset, allowed: frozenset[str]) -> Iterator[GateFinding]:
    value_type = str(item.get("ValueType", ""))
    wanted = CONTENT_ITEM.get(value_type)
    if wanted is None:
        yield GateFinding("structure", "PS3.3 C.17.3.2", "a content item has no known ValueType")
        return
    if value_type not in allowed:
        text = f"this document may hold no {value_type} content item"
        yield GateFinding("structure", "PS3.3 A.35", text)
    for keyword, type_ in wanted:
        value = item.get(keyword)
        if keyword not in item or (type_ == "1" and (value is None or not _has_length(value))):
            text = f"a {value_type} content item has no {keyword}"
            yield GateFinding("structure", "PS3.3 C.17.3.2", text)
    # PS3.3 C.17.3: the document itself is the root container and has no relationship.
    if "SOPClassUID" not in item:
        yield from _check_relationship(item, value_type)
    for check in _OF_TYPE.get(value_type, ()):
        yield from check(item)
    for reference in items_of(item, "ReferencedSOPSequence"):
        for keyword in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"):
            if not reference.get(keyword):
                yield GateFinding("structure", "PS3.3 10.8", f"a reference has no {keyword}")


def _has_length(value: Any) -> bool:
    return not hasattr(value, "__len__") or len(value) > 0


def _check_relationship(item: Dataset, value_type: str) -> Iterator[GateFinding]:
    relationship = str(item.get("RelationshipType") or "")
    if not relationship:
        text = f"a {value_type} content item has no RelationshipType"
        yield GateFinding("structure", "PS3.3 C.17.3.1", text)
    elif value_type not in RELATIONSHIPS.get(relationship, ()):
        text = f"a {value_type} content item stands in a relationship that it cannot have"
        yield GateFinding("structure", "PS3.3 C.17.3.2.4", text)


def _check_number(item: Dataset) -> Iterator[GateFinding]:
    for measured in items_of(item, "MeasuredValueSequence"):
        for keyword in ("NumericValue", "MeasurementUnitsCodeSequence"):
            if keyword not in measured or not _has_length(measured.get(keyword)):
                yield GateFinding("structure", "PS3.3 C.18.1", f"a number has no {keyword}")
        unit = code_of(measured, "MeasurementUnitsCodeSequence") or ("", "")
        if unit[1] != "UCUM":
            yield GateFinding("value", "PS3.16 7.2.2", "the unit of a number is not UCUM")
        elif not is_ucum(unit[0]):
            text = "the unit of a number is no unit of UCUM"
            yield GateFinding("value", "PS3.16 7.2.2", text)
        yield from _check_figure(measured, unit[0])


def _check_figure(measured: Dataset, unit: str) -> Iterator[GateFinding]:
    numeric, floating = measured.get("NumericValue"), measured.get("FloatingPointValue")
    figures = [
        float(each) for each in (numeric, floating) if each is not None and _has_length(each)
    ]
    if not all(math.isfinite(each) for each in figures):
        yield GateFinding("value", "PS3.3 C.18.1", "a number is not finite")
    elif figures and min(figures) < 0 and unit in _SIZES:
        yield GateFinding("value", "PS3.3 C.18.1", "a size is negative")
    elif len(figures) == 2 and not math.isclose(*figures, rel_tol=1e-6, abs_tol=1e-9):
        text = "a number is written twice with two values"
        yield GateFinding("value", "PS3.3 C.18.1", text)


def _check_selection(item: Dataset) -> Iterator[GateFinding]:
    images = [each for each in children(item) if each.get("ValueType") == "IMAGE"]
    if not any(each.get("RelationshipType") == "SELECTED FROM" for each in images):
        text = "spatial coordinates are not selected from an image"
        yield GateFinding("structure", "PS3.3 C.18.6", text)


def _check_points(item: Dataset) -> Iterator[GateFinding]:
    # PS3.3 C.18.6.1.1 and C.18.9.1.1: how many numbers each graphic has.
    kind = str(item.get("GraphicType"))
    data = item.get("GraphicData")
    values = [] if data is None else [float(each) for each in data]
    each = 2 if item.get("ValueType") == "SCOORD" else 3
    points, rest = divmod(len(values), each)
    least, most = _POINTS.get(kind, (None, None))
    if least is None or rest or points < least or (most is not None and points > most):
        text = "coordinates do not have the points of their graphic type"
        yield GateFinding("structure", "PS3.3 C.18.6.1.1", text)
    elif not all(math.isfinite(value) for value in values):
        yield GateFinding("value", "PS3.3 C.18.6.1.1", "a coordinate is not finite")
    elif kind == "POLYGON" and values[:each] != values[-each:]:
        yield GateFinding("structure", "PS3.3 C.18.9.1.1", "a polygon is not closed")


# Least and most points of each graphic type, most None for any.
_POINTS: Final[Mapping[str, tuple[int | None, int | None]]] = {
    "POINT": (1, 1),
    "MULTIPOINT": (1, None),
    "POLYLINE": (2, None),
    "POLYGON": (3, None),
    "CIRCLE": (2, 2),
    "ELLIPSE": (4, 4),
    "ELLIPSOID": (6, 6),
}
_OF_TYPE: Final[Mapping[str, tuple[Any, ...]]] = {
    "NUM": (_check_number,),
    "SCOORD": (_check_selection, _check_points),
    "SCOORD3D": (_check_points,),
}
