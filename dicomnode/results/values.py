"""The part of the gate that judges raw values: representation, multiplicity, characters, codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.results.characters import TEXTS
from dicomnode.results.content import MAXIMUM_DEPTH
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
# PS3.5 6.1.3: the control characters that text may hold; of a line only ESC.
_CONTROLS: Final = {
    vr: re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
    if vr in ("ST", "LT", "UT")
    else re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")
    for vr in TEXTS
}
_DEFAULT_REPERTOIRE: Final = "ascii"
_PRIVATE_DATA: Final = 0x1000
_ONE_OF_MANY: Final = (
    "AE AS AT CS DA DS DT FL FD IS LO LT OB OW PN SH SL SS ST TM UC UI UL UR US UT"
)


@dataclass(frozen=True)
class Inherited:
    """What a result takes over from its sources and the gate does not judge for its form.

    Attributes:
        keywords: Attributes of the top level, whose equality with the source is checked instead.
        uids: UIDs of the sources, which must be referred to as they are.
    """

    keywords: frozenset[str] = frozenset()
    uids: frozenset[str] = frozenset()


def check_values(dataset: Dataset, inherited: Inherited) -> Iterator[GateFinding]:
    """Every element of an object, to the bottom: representation, multiplicity, characters, codes.

    Args:
        dataset: As read from a file, its values still raw.
        inherited: What is the source's and not ours to judge.
    """
    yield from _check_level(dataset, inherited, _encoding(dataset), 0, set())


def _encoding(dataset: Dataset) -> str | None:
    # Python's name for the character set; None for ISO 2022 with its escapes (PS3.3 C.12.1.1.2).
    value = dataset.get("SpecificCharacterSet") or "ISO_IR 6"
    if not isinstance(value, str):
        return None
    if value == "ISO_IR 6":
        return _DEFAULT_REPERTOIRE
    return python_encoding.get(value)


def _check_level(
    dataset: Dataset, inherited: Inherited, encoding: str | None, depth: int, seen: set[int]
) -> Iterator[GateFinding]:
    if depth > MAXIMUM_DEPTH:
        yield GateFinding("structure", "PS3.5 7.5", "sequences are nested too deep")
        return
    for tag in list(dataset.keys()):
        keyword = keyword_for_tag(tag)
        element = dataset.get_item(tag)
        if _is_cut(element):
            yield GateFinding("structure", "PS3.5 7.1", f"{keyword or 'an element'} is cut off")
        if tag.is_private and tag.element >= _PRIVATE_DATA and not _is_reserved(dataset, tag):
            text = "a private element stands in a block that nobody reserved"
            yield GateFinding("structure", "PS3.5 7.8.1", text)
        if depth == 0 and keyword in inherited.keywords:
            continue
        if (element.VR or _dictionary_vr(tag)) == "SQ":
            items = dataset[tag].value
            if id(items) in seen:  # shared, see `dicomnode.results.sharing`
                continue
            seen.add(id(items))
            for item in items if isinstance(items, Sequence) else ():
                yield from _check_level(item, inherited, encoding, depth + 1, seen)
                if keyword.endswith("CodeSequence"):  # after, since it parses the raw values
                    yield from _check_code(item, keyword)
        elif (wrong := _bad_value(element, keyword, encoding)) and not _is_one_of(
            element, inherited.uids
        ):
            clause, text = wrong
            yield GateFinding("value", clause, text)


def _is_one_of(element: Any, uids: frozenset[str]) -> bool:
    return (
        isinstance(element.value, bytes) and element.value.decode("latin-1").rstrip("\0 ") in uids
    )


def _is_reserved(dataset: Dataset, tag: Any) -> bool:
    return bool(dataset.get((tag.group, tag.element >> 8)))


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


def _bad_value(element: Any, keyword: str, encoding: str | None) -> tuple[str, str] | None:
    vr = str(element.VR or _dictionary_vr(element.tag))  # implicit VR leaves it out
    if keyword and vr != "UN" and vr not in _dictionary_vr(element.tag):
        return "PS3.6 6", f"{keyword} is written as {vr}"
    value = element.value
    name = keyword or "a private element"
    if isinstance(value, bytes) and value:
        if vr in _WIDTHS:
            return _bad_binary(name, vr, element.tag, value)
        if vr in _FORMS:
            return _bad_string(name, vr, element.tag, value)
        if vr in TEXTS and encoding is not None:
            return _bad_text(name, vr, element.tag, value, encoding)
    return None


def _bad_binary(name: str, vr: str, tag: int, value: bytes) -> tuple[str, str] | None:
    if len(value) % _WIDTHS[vr]:
        return "PS3.5 6.2", f"{name} has a broken length"
    return _bad_count(name, tag, len(value) // _WIDTHS[vr])


def _bad_string(name: str, vr: str, tag: int, value: bytes) -> tuple[str, str] | None:
    texts = value.decode("latin-1").rstrip("\0 ").split("\\")
    if not all(not text or _has_form(vr, text) for text in texts):
        return "PS3.5 6.2", f"{name} is not a valid {vr}"
    return _bad_count(name, tag, len(texts))


def _bad_text(name: str, vr: str, tag: int, value: bytes, encoding: str) -> tuple[str, str] | None:
    try:
        text = value.decode(encoding).rstrip(" \0")
    except (UnicodeDecodeError, LookupError):
        return "PS3.3 C.12.1.1.2", f"{name} has characters outside the stated character set"
    if _CONTROLS[vr].search(text):
        return "PS3.5 6.1.3", f"{name} has control characters"
    values = [text] if vr in ("ST", "LT", "UT") else text.split("\\")
    if any(len(each) > _LENGTHS.get(vr, len(each)) for each in values):
        return "PS3.5 6.2", f"{name} is longer than {vr} allows"
    return _bad_count(name, tag, len(values))


def _bad_count(name: str, tag: int, count: int) -> tuple[str, str] | None:
    least, most, step = _multiplicity(tag)
    if least <= count <= most and (count - least) % step == 0:
        return None
    return "PS3.5 6.4", f"{name} has {count} values"


@cache
def _multiplicity(tag: int) -> tuple[int, float, int]:
    # PS3.5 6.4: ``3``, ``1-2``, ``1-n``, ``2-2n``: least, most, step.
    try:
        least, _, most = dictionary_VM(tag).partition("-")
    except KeyError:  # private and retired elements
        return 1, float("inf"), 1
    if not most:
        return int(least), int(least), 1
    if most.endswith("n"):
        return int(least), float("inf"), int(most[:-1] or 1)
    return int(least), int(most), 1


@cache
def _dictionary_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:  # repeating groups and retired elements
        return _ONE_OF_MANY


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
