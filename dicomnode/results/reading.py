"""What a structured report says, in plain words, read from its content tree."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicomnode.results import codes
from dicomnode.results.content import (
    children,
    code_of,
    is_named,
    items_of,
    meaning_of,
    named,
    number_of,
    walk,
)

# Said at the head of the report or elsewhere in the group, not as findings of their own.
_NOT_EVALUATIONS = (
    codes.FINDING,
    codes.FINDING_CATEGORY,
    codes.FINDING_SITE,
    codes.ALGORITHM_FAMILY,
)


def describe(dataset: Dataset) -> tuple[str, ...]:
    """A structured report as lines for a reader.

    Args:
        dataset: An SR document (PS3.3 A.35), ours or another's; other objects give their kind.

    Returns:
        Title and verification, observer, procedure, each finding with what belongs to it, and the
        remarks of the whole report, the warning among them. No patient or study identifiers.
    """
    if not children(dataset):
        return (f"{UID(str(dataset.get('SOPClassUID', ''))).name}: no report content",)
    lines = [_title(dataset)]
    lines += _context(dataset)
    for group in (each for each in walk(dataset) if is_named(each, codes.MEASUREMENT_GROUP)):
        lines += _group(group)
    for container in named(dataset, codes.QUALITATIVE_EVALUATIONS):
        for item in children(container):
            lines += _statement(item)
    return tuple(lines)


def _title(dataset: Dataset) -> str:
    title = meaning_of(dataset, "ConceptNameCodeSequence") or "Structured report"
    flags = [dataset.get(keyword) for keyword in ("CompletionFlag", "VerificationFlag")]
    return f"{title} ({', '.join(str(flag).lower() for flag in flags if flag)})"


def _context(dataset: Dataset) -> list[str]:
    lines = []
    for item in children(dataset):
        if item.get("RelationshipType") in ("HAS OBS CONTEXT", "HAS CONCEPT MOD"):
            lines += _statement(item)
    models = {
        (_text(group, codes.ALGORITHM_NAME), _text(group, codes.ALGORITHM_VERSION))
        for group in walk(dataset)
        if named(group, codes.ALGORITHM_NAME)
    }
    return lines + [f"Model: {name} {version}".rstrip() for name, version in sorted(models)]


def _text(group: Dataset, name: Code) -> str:
    return next((str(item.get("TextValue", "")) for item in named(group, name)), "")


def _group(group: Dataset) -> list[str]:
    identifier = _text(group, codes.TRACKING_IDENTIFIER)
    kind = next((_code_value(item) for item in named(group, codes.FINDING)), "")
    category = next((_code_value(item) for item in named(group, codes.FINDING_CATEGORY)), "")
    site = next((_code_value(item) for item in named(group, codes.FINDING_SITE)), "")
    head = f"Finding {identifier}: {kind or 'not named'}"
    head += f" ({category})" if category else ""
    head += f" at {site}" if site else ""
    lines = [head, *_place(group)]
    for item in children(group):
        wanted = item.get("ValueType") in ("NUM", "CODE") or is_named(item, codes.COMMENT)
        if wanted and not any(is_named(item, name) for name in _NOT_EVALUATIONS):
            lines += [f"  {line}" for line in _statement(item)]
    return lines


def _place(group: Dataset) -> list[str]:
    lines = []
    for item in named(group, codes.REFERENCED_SEGMENT):
        for reference in items_of(item, "ReferencedSOPSequence"):
            lines.append(f"  in segment {reference.get('ReferencedSegmentNumber', '?')}")
    for item in named(group, codes.REFERENCED_SEGMENTATION_FRAME):
        for reference in items_of(item, "ReferencedSOPSequence"):
            lines.append(f"  in segmentation frame {reference.get('ReferencedFrameNumber', '?')}")
    for item in named(group, codes.IMAGE_REGION):
        points = len(item.get("GraphicData") or ()) // 2
        lines.append(f"  region: {str(item.get('GraphicType', '')).lower()} of {points} points")
    return lines


def _code_value(item: Dataset) -> str:
    return meaning_of(item, "ConceptCodeSequence")


def _statement(item: Dataset) -> list[str]:
    name = meaning_of(item, "ConceptNameCodeSequence")
    if item.get("ValueType") == "TEXT":
        text = str(item.get("TextValue", ""))
        return [text if is_named(item, codes.COMMENT) else f"{name}: {text}"]
    if item.get("ValueType") == "CODE":
        said = f"{name}: {_code_value(item)}"
    elif item.get("ValueType") == "NUM":
        number = number_of(item)
        said = f"{name}: not measured" if number is None else f"{name}: {number[0]:g} {number[1]}"
    else:
        return []
    modifiers = [
        line
        for child in children(item)
        if child.get("RelationshipType") in ("HAS CONCEPT MOD", "HAS PROPERTIES")
        or code_of(child, "ConceptNameCodeSequence") is None
        for line in _statement(child)
    ]
    return [said + (f" ({'; '.join(modifiers)})" if modifiers else "")]
