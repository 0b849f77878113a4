"""Parsing equal sequences of a file once: frames of one slice repeat their functional groups."""

from __future__ import annotations

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.results.content import MAXIMUM_DEPTH

# Shorter ones cost as much to look up as to parse.
_LEAST = 16


def share_sequences(dataset: Dataset) -> None:
    """Parse the sequences of a data set, those of equal bytes once; they are shared from then on.

    Args:
        dataset: As read, for reading alone: what is changed in one item changes in its equals.
    """
    _share(dataset, {}, 0)


def _share(dataset: Dataset, known: dict[tuple[int, bytes], DataElement], depth: int) -> None:
    if depth > MAXIMUM_DEPTH:
        return
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if element.VR != "SQ":
            continue
        key = _key(element)
        same = None if key is None else known.get(key)
        if same is not None:
            dataset._dict[tag] = same  # what `Dataset` does, without its checks
            continue
        parsed = dataset[tag]
        if isinstance(parsed.value, Sequence):
            for item in parsed.value:
                _share(item, known, depth + 1)
        if key is not None:
            known[key] = parsed


def _key(element: DataElement | RawDataElement) -> tuple[int, bytes] | None:
    # One that is cut off has fewer bytes than it says, which its equal need not.
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    if element.length != len(element.value) or element.length < _LEAST:
        return None
    return int(element.tag), element.value
