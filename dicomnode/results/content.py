"""Walking an SR content tree as it stands in a data set (PS3.3 C.17.3), whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

# A tree deeper than this is no report; the limit keeps a hostile file from exhausting the stack.
MAXIMUM_DEPTH = 64


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is missing, empty or not a sequence."""
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def children(item: Dataset) -> list[Dataset]:
    """Content items right below one."""
    return items_of(item, "ContentSequence")


def walk(item: Dataset, depth: int = 0) -> Iterator[Dataset]:
    """An item and everything below it, parents first."""
    yield item
    if depth < MAXIMUM_DEPTH:
        for child in children(item):
            yield from walk(child, depth + 1)


def code_of(item: Dataset, keyword: str) -> tuple[str, str] | None:
    """Value and scheme of the first code in a code sequence, or None."""
    for code in items_of(item, keyword):
        value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue")
        return str(value), str(code.get("CodingSchemeDesignator", ""))
    return None


def meaning_of(item: Dataset, keyword: str) -> str:
    """Meaning of the first code in a code sequence, empty where there is none."""
    for code in items_of(item, keyword):
        return str(code.get("CodeMeaning") or "")
    return ""


def is_named(item: Dataset, name: Code) -> bool:
    """Whether the item's concept name is that code."""
    return code_of(item, "ConceptNameCodeSequence") == (name.value, name.scheme_designator)


def named(item: Dataset, name: Code, value_type: str | None = None) -> list[Dataset]:
    """The children of that concept name and, where given, that value type."""
    return [
        child
        for child in children(item)
        if is_named(child, name) and value_type in (None, child.get("ValueType"))
    ]


def number_of(item: Dataset) -> tuple[float, str] | None:
    """Value and unit code of a NUM item, or None where it has no value."""
    for measured in items_of(item, "MeasuredValueSequence"):
        unit = code_of(measured, "MeasurementUnitsCodeSequence")
        value: Any = measured.get("FloatingPointValue", measured.get("NumericValue"))
        if value is not None and unit is not None:
            return float(value), unit[0]
    return None
