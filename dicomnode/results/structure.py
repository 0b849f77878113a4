"""The structural part of the gate: attributes, value representations, codes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, SegmentationStorage

from dicomnode.results import rules
from dicomnode.results.content import MAXIMUM_DEPTH, children, items_of, walk
from dicomnode.results.proof import GateFinding

_TIME = r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"
# PS3.5 6.2: the form of one value; the padding is taken off before.
_FORMS: Final = {
    "AE": re.compile(r"[ -\[\]-~]{1,16}"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{1,16}"),
    "DA": re.compile(r"\d{8}"),
    "DS": re.compile(r"(?=.{1,16}$) *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"),
    "DT": re.compile(r"\d{4}((0[1-9]|1[0-2])(\d\d(" + _TIME + r")?)?)?([+-]\d{4})?"),
    "IS": re.compile(r"(?=.{1,12}$) *[+-]?\d+ *"),
    "TM": re.compile(_TIME),
    "UI": re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+"),
}
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_LENGTHS: Final = {"SH": 16, "LO": 64, "ST": 1024, "LT": 10240}
_WIDTHS: Final = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "AT": 4, "FD": 8, "SV": 8, "UV": 8}


def is_report(dataset: Dataset) -> bool:
    """Whether the object is a structured report (PS3.3 A.35), key objects aside."""
    uid = str(dataset.get("SOPClassUID", ""))
    return uid.startswith("1.2.840.10008.5.1.4.1.1.88.") and not uid.endswith(".59")


def is_segmentation(dataset: Dataset) -> bool:
    """Whether the object is a segmentation (PS3.3 A.51)."""
    return str(dataset.get("SOPClassUID", "")) == SegmentationStorage


@dataclass(frozen=True)
class Inherited:
    """What a result takes over from its sources and the gate does not judge for its form.

    Attributes:
        keywords: Attributes of the top level, whose equality with the source is checked instead.
        uids: UIDs of the sources, which must be referred to as they are.
    """

    keywords: frozenset[str] = frozenset()
    uids: frozenset[str] = frozenset()


def check_structure(dataset: Dataset, inherited: Inherited) -> Iterator[GateFinding]:
    """Attributes, value representations and codes of an object.

    Args:
        dataset: As read from a file.
        inherited: What is the source's and not ours to judge.
    """
    yield from _check_values(dataset, inherited, _single_byte(dataset), 0)
    uid = str(dataset.get("SOPClassUID") or "")
    yield from _check_rules(dataset, rules.SOP_COMMON)
    if not uid.startswith(rules.WITHOUT_PATIENT):
        yield from _check_rules(dataset, rules.PATIENT_STUDY_SERIES)
    if is_report(dataset):
        yield from _check_rules(dataset, rules.SR)
        for item in walk(dataset):
            yield from _check_item(item)
    if is_segmentation(dataset):
        yield from _check_rules(dataset, rules.SEG)
        yield from _check_segmentation(dataset)


def _check_rules(dataset: Dataset, table: Iterable[rules.Rule]) -> Iterator[GateFinding]:
    for rule in table:
        items = [dataset]
        for keyword in rule.path:
            items = [child for item in items for child in items_of(item, keyword)]
        broken = next((text for item in items if (text := _broken(item, rule))), None)
        if broken:
            where = "/".join((*rule.path, rule.keyword))
            yield GateFinding("structure", rule.clause, f"{where} {broken}")


def _broken(item: Dataset, rule: rules.Rule) -> str | None:
    if rule.condition is not None and not rule.condition(item):
        return None
    if rule.keyword not in item:
        return f"is missing, type {rule.type}"
    if rule.type == "2":
        return None
    value = item.get(rule.keyword)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return "is empty, type 1"
    if rule.allowed is not None and str(value) not in rule.allowed:
        return f"is none of {', '.join(sorted(rule.allowed))}"
    return None


def _check_item(item: Dataset) -> Iterator[GateFinding]:
    # PS3.3 C.17.3: the document itself is the root container and has no relationship.
    value_type = str(item.get("ValueType", ""))
    wanted = rules.CONTENT_ITEM.get(value_type)
    if wanted is None:
        yield GateFinding("structure", "PS3.3 C.17.3.2", "a content item has no known ValueType")
        return
    for keyword, type_ in wanted:
        value = item.get(keyword)
        if keyword not in item or (type_ == "1" and (value is None or not _has_length(value))):
            text = f"a {value_type} content item has no {keyword}"
            yield GateFinding("structure", "PS3.3 C.17.3.2", text)
    if "SOPClassUID" not in item and not item.get("RelationshipType"):
        text = f"a {value_type} content item has no RelationshipType"
        yield GateFinding("structure", "PS3.3 C.17.3.1", text)
    if value_type == "NUM":
        yield from _check_number(item)
    if value_type == "SCOORD":
        images = [each for each in children(item) if each.get("ValueType") == "IMAGE"]
        if not any(each.get("RelationshipType") == "SELECTED FROM" for each in images):
            text = "spatial coordinates are not selected from an image"
            yield GateFinding("structure", "PS3.3 C.18.6", text)
    for reference in items_of(item, "ReferencedSOPSequence"):
        for keyword in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"):
            if not reference.get(keyword):
                yield GateFinding("structure", "PS3.3 10.8", f"a reference has no {keyword}")


def _has_length(value: Any) -> bool:
    return not hasattr(value, "__len__") or len(value) > 0


def _check_number(item: Dataset) -> Iterator[GateFinding]:
    for measured in items_of(item, "MeasuredValueSequence"):
        for keyword in ("NumericValue", "MeasurementUnitsCodeSequence"):
            if keyword not in measured or not _has_length(measured.get(keyword)):
                yield GateFinding("structure", "PS3.3 C.18.1", f"a number has no {keyword}")
        floating = measured.get("FloatingPointValue")
        if floating is not None and not math.isfinite(floating):
            yield GateFinding("value", "PS3.3 C.18.1", "a number is not finite")
        for unit in items_of(measured, "MeasurementUnitsCodeSequence"):
            if unit.get("CodingSchemeDesignator") != "UCUM":
                yield GateFinding("value", "PS3.16 7.2.2", "the unit of a number is not UCUM")


def _check_segmentation(dataset: Dataset) -> Iterator[GateFinding]:
    numbers = [item.get("SegmentNumber") for item in items_of(dataset, "SegmentSequence")]
    if numbers != list(range(1, len(numbers) + 1)):
        text = "segment numbers do not run from 1 without a gap"
        yield GateFinding("structure", "PS3.3 C.8.20.2", text)
    frames = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    if len(frames) != dataset.get("NumberOfFrames"):
        text = "NumberOfFrames is not the number of per-frame groups"
        yield GateFinding("structure", "PS3.3 C.7.6.16", text)
    bits = len(frames) * int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
    if dataset.get("SegmentationType") == "BINARY":
        expected = 2 * math.ceil(bits * int(dataset.get("BitsAllocated") or 0) / 16)
        syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
        encapsulated = syntax.is_transfer_syntax and syntax.is_compressed
        if not encapsulated and len(dataset.get("PixelData") or b"") != expected:
            text = "PixelData has not the length its attributes ask for"
            yield GateFinding("structure", "PS3.5 8.1.1", text)
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")
    for keyword in ("SegmentIdentificationSequence", "PlanePositionSequence"):
        needed = keyword != "PlanePositionSequence" or "FrameOfReferenceUID" in dataset
        if needed and not all(items_of(each, keyword) for each in (shared or frames)):
            if all(items_of(each, keyword) for each in frames):
                continue
            yield GateFinding("structure", "PS3.3 A.51.5", f"a frame has no {keyword}")


def _single_byte(dataset: Dataset) -> str | None:
    # The encoding in which characters can be counted, None for ISO 2022 with its escapes.
    value = dataset.get("SpecificCharacterSet") or ""
    if not isinstance(value, str):
        return None
    return "utf-8" if value in ("ISO_IR 192", "GB18030", "GBK") else "latin-1"


def _check_values(
    dataset: Dataset, inherited: Inherited, encoding: str | None, depth: int
) -> Iterator[GateFinding]:
    if depth > MAXIMUM_DEPTH:
        yield GateFinding("structure", "PS3.5 7.5", "sequences are nested too deep")
        return
    for tag in list(dataset.keys()):
        keyword = keyword_for_tag(tag)
        element = dataset.get_item(tag)
        if _is_cut(element):
            yield GateFinding("structure", "PS3.5 7.1", f"{keyword or 'an element'} is cut off")
        if depth == 0 and keyword in inherited.keywords:
            continue
        if (element.VR or _dictionary_vr(tag)) == "SQ":
            items = dataset[tag].value
            for item in items if isinstance(items, Sequence) else ():
                if keyword.endswith("CodeSequence"):
                    yield from _check_code(item, keyword)
                yield from _check_values(item, inherited, encoding, depth + 1)
        elif (text := _bad_value(element, keyword, encoding)) and not _is_one_of(
            element, inherited.uids
        ):
            yield GateFinding("value", "PS3.5 6.2", text)


def _is_one_of(element: Any, uids: frozenset[str]) -> bool:
    return (
        isinstance(element.value, bytes) and element.value.decode("latin-1").rstrip("\0 ") in uids
    )


def _is_cut(element: Any) -> bool:
    # pydicom takes what is left of a file for the value of its last element.
    if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
        return False
    return isinstance(element.value, bytes) and len(element.value) != element.length


def _check_code(item: Dataset, keyword: str) -> Iterator[GateFinding]:
    if not any(item.get(each) for each in ("CodeValue", "LongCodeValue", "URNCodeValue")):
        yield GateFinding("structure", "PS3.3 8.8", f"a code of {keyword} has no value")
    if "URNCodeValue" not in item and not item.get("CodingSchemeDesignator"):
        yield GateFinding("structure", "PS3.3 8.8", f"a code of {keyword} names no scheme")
    if not item.get("CodeMeaning"):
        yield GateFinding("structure", "PS3.3 8.8", f"a code of {keyword} has no meaning")


def _bad_value(element: Any, keyword: str, encoding: str | None) -> str | None:
    vr = str(element.VR or _dictionary_vr(element.tag))  # implicit VR leaves it out
    if keyword and vr != "UN" and vr not in _dictionary_vr(element.tag):
        return f"{keyword} is written as {vr}"
    value = element.value
    if not isinstance(value, bytes) or not value:
        return None
    if vr in _WIDTHS:
        return f"{keyword} has a broken length" if len(value) % _WIDTHS[vr] else None
    name = keyword or "a private element"
    if vr in _FORMS:
        texts = value.decode("latin-1").rstrip("\0 ").split("\\")
        if not all(not text or _has_form(vr, text) for text in texts):
            return f"{name} is not a valid {vr}"
    elif vr in _LENGTHS and encoding is not None:
        text = value.decode(encoding, "replace").rstrip(" ")
        values = [text] if vr in ("ST", "LT") else text.split("\\")
        if any(len(each) > _LENGTHS[vr] for each in values):
            return f"{name} is longer than {vr} allows"
    return None


def _dictionary_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:  # repeating groups and retired elements
        return "AE AS AT CS DA DS DT FL FD IS LO LT OB OW PN SH SL SS ST TM UC UI UL UR US UT"


def _has_form(vr: str, text: str) -> bool:
    text = text.strip(" ") if vr in ("AE", "CS", "TM", "DT") else text
    if not text:
        return True
    if not _FORMS[vr].fullmatch(text):
        return False
    if vr == "IS":
        return -(2**31) <= int(text) < 2**31
    if vr == "DA":
        try:
            datetime.strptime(text, "%Y%m%d")
        except ValueError:
            return False
    return True
