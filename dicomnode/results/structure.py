"""The structural part of the gate: modules, values, content items, functional groups, pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from dicomnode.results import rules
from dicomnode.results.content import items_of
from dicomnode.results.content_items import check_content_items
from dicomnode.results.functional_groups import check_functional_groups
from dicomnode.results.labelmap import LABEL_MAP_SEGMENTATION_STORAGE
from dicomnode.results.proof import GateFinding
from dicomnode.results.values import Inherited, check_values

_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_report(dataset: Dataset) -> bool:
    """Whether the object is a structured report (PS3.3 A.35), key objects aside."""
    return is_document(dataset) and not str(dataset.SOPClassUID).endswith(".59")


def is_document(dataset: Dataset) -> bool:
    """Whether the object has a tree of content items (PS3.3 A.35), key objects among them."""
    return str(dataset.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.88.")


def is_segmentation(dataset: Dataset) -> bool:
    """Whether the object is a segmentation (PS3.3 A.51) of any type."""
    return str(dataset.get("SOPClassUID", "")) in (
        SegmentationStorage,
        LABEL_MAP_SEGMENTATION_STORAGE,
    )


def check_structure(dataset: Dataset, inherited: Inherited) -> Iterator[GateFinding]:
    """Modules, value representations, codes, content items, functional groups and pixels.

    Args:
        dataset: As read from a file.
        inherited: What is the source's and not ours to judge.
    """
    yield from check_values(dataset, inherited)
    uid = str(dataset.get("SOPClassUID") or "")
    iod = rules.iod_of(uid)
    table = rules.general_rules(uid) if iod is None else iod.rules
    yield from _check_rules(dataset, table, inherited)
    if is_document(dataset):
        yield from check_content_items(dataset)
    if is_segmentation(dataset):
        yield from _check_segments(dataset)
    yield from check_functional_groups(dataset)
    yield from _check_pixels(dataset)


def unchecked(dataset: Dataset) -> str | None:
    """What of an object's structure the gate cannot judge, None where it knows the whole.

    Args:
        dataset: Any object.
    """
    if rules.iod_of(str(dataset.get("SOPClassUID") or "")) is not None:
        return None
    return (
        "the modules of this SOP class were not checked, only patient, study, series, values, "
        "codes and what lies within"
    )


def _check_rules(
    dataset: Dataset, table: Iterable[rules.Rule], inherited: Inherited
) -> Iterator[GateFinding]:
    for rule in table:
        if (rule.path or (rule.keyword,))[0] in inherited.keywords:
            continue
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
        return None if rule.type == "3" else f"is missing, type {rule.type}"
    if rule.type == "2":
        return None
    value = item.get(rule.keyword)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None if rule.type == "3" else "is empty, type 1"
    if rule.allowed is not None and str(value) not in rule.allowed:
        return f"is none of {', '.join(sorted(rule.allowed))}"
    return None


def _check_segments(dataset: Dataset) -> Iterator[GateFinding]:
    numbers = [item.get("SegmentNumber") for item in items_of(dataset, "SegmentSequence")]
    if len(set(numbers)) != len(numbers):
        text = "two segments have one number"
        yield GateFinding("structure", "PS3.3 C.8.20.4", text)
    # A label map may leave numbers out, and its 0 is the background.
    labelled = dataset.get("SegmentationType") == "LABELMAP"
    if not labelled and numbers != list(range(1, len(numbers) + 1)):
        text = "segment numbers do not run from 1 without a gap"
        yield GateFinding("structure", "PS3.3 C.8.20.4", text)


def _check_pixels(dataset: Dataset) -> Iterator[GateFinding]:
    keyword = next((each for each in _PIXELS if each in dataset), None)
    if keyword is None or _is_encapsulated(dataset):
        return
    stored = dataset.get("BitsStored") if keyword == "PixelData" else None
    if stored is not None and (
        stored > int(dataset.get("BitsAllocated") or 0) or dataset.get("HighBit") != stored - 1
    ):
        text = "BitsStored and HighBit do not fit BitsAllocated"
        yield GateFinding("structure", "PS3.5 8.1.1", text)
    sizes = [dataset.get(each) for each in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")]
    if not all(isinstance(each, int) for each in sizes):
        return  # named as missing already
    if str(dataset.get("PhotometricInterpretation")) in ("YBR_FULL_422", "YBR_PARTIAL_420"):
        return  # PS3.3 C.7.6.3.1.2: fewer samples than pixels
    frames = int(dataset.get("NumberOfFrames") or 1)
    expected = 2 * math.ceil(math.prod(sizes) * frames / 16)
    if len(dataset.get_item(keyword).value or b"") != expected:
        text = f"{keyword} has not the length its attributes ask for"
        yield GateFinding("structure", "PS3.5 8.1.1", text)


def _is_encapsulated(dataset: Dataset) -> bool:
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    return syntax.is_transfer_syntax and syntax.is_encapsulated
