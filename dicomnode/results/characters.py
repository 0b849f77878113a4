"""Text of a data set whose character set was changed after it was read (PS3.3 C.12.1.1.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydicom.charset import custom_encoders, python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

_DEFAULT_REPERTOIRE: Final = ("", "ISO_IR 6", "ISO 2022 IR 6")
# PS3.5 6.1.2.3: the representations that SpecificCharacterSet counts for.
TEXTS: Final = ("SH", "LO", "ST", "LT", "PN", "UC", "UT")


def recode(dataset: Dataset) -> None:
    """Read all text of a data set in the character set of its file, for writing in its new one.

    Elements are parsed when they are first asked for, in the character set they were read in; what
    is written without that would be the old bytes under the name of the new character set.

    Args:
        dataset: As read from a file, with another SpecificCharacterSet now; parsed to its bottom.

    Raises:
        ValueError: It names no character set, or one that lacks a character of the text.
    """
    _check(dataset, _stated(dataset, ()))


def _check(dataset: Dataset, terms: Sequence[str]) -> None:
    encodings = [_encoding(term) for term in terms] or ["ascii"]
    for element in dataset:  # which parses it
        if element.VR == "SQ":
            for item in element.value:
                _check(item, _stated(item, terms))
        elif element.VR in TEXTS:
            marks = {mark for text in _texts(element.value) for mark in text}
            if not all(any(_contains(each, mark) for each in encodings) for mark in marks):
                # Named by its tag: a private keyword may be anything.
                where = element.keyword or str(element.tag)
                raise ValueError(f"the character set stated does not contain the text of {where}")


def _stated(dataset: Dataset, above: Sequence[str]) -> Sequence[str]:
    """The defined terms of a data set, of an item without its own those of what it lies in."""
    if "SpecificCharacterSet" not in dataset:
        return above
    value = dataset.SpecificCharacterSet
    return [str(each) for each in value] if isinstance(value, MultiValue) else [str(value or "")]


def _encoding(term: str) -> str:
    """Python's name for a character set."""
    if term in _DEFAULT_REPERTOIRE:
        return "ascii"
    if term not in python_encoding:
        raise ValueError("the character set stated is none of PS3.3 C.12.1.1.2")
    return python_encoding[term]


def _texts(value: Any) -> Iterator[str]:
    for each in value if isinstance(value, MultiValue) else (value,):
        yield str(each or "")


def _contains(encoding: str, mark: str) -> bool:
    try:
        if encoding in custom_encoders:
            custom_encoders[encoding](mark)
        else:
            mark.encode(encoding)
    except UnicodeError:
        return False
    return True
