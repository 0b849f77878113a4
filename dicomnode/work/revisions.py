"""Compares two versions of one SOP instance: the same UID came with other bytes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array

from config.errors import MalformedError

# What an encoding is free to say in its own way (PS3.5 8.2): not content.
_OF_THE_ENCODING = frozenset(
    {
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "SpecificCharacterSet",
        "NumberOfFrames",
    }
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Difference(Enum):
    """How the second version differs from the first."""

    NONE = "none"  # the same content, in another transfer syntax or encoding
    ATTRIBUTES = "attributes"  # the same pixels under other attributes
    PIXELS = "pixels"


def compare(first: Path, second: Path) -> Difference:
    """How two stored versions of one SOP instance differ.

    Raises:
        MalformedError: One of them cannot be read.
    """
    try:
        before, after = dcmread(first), dcmread(second)
        if not _same_pixels(first, second, before, after):
            return Difference.PIXELS
        same = _attributes(before) == _attributes(after)
    except Exception as error:  # decoders of hostile bytes raise what they like
        raise MalformedError("the two versions of this object cannot be compared") from error
    return Difference.NONE if same else Difference.ATTRIBUTES


def _same_pixels(first: Path, second: Path, before: Dataset, after: Dataset) -> bool:
    keywords = [keyword for keyword in _PIXELS if keyword in before or keyword in after]
    if not keywords:
        return True
    if any((keyword in before) != (keyword in after) for keyword in keywords):
        return False
    if before.file_meta.TransferSyntaxUID == after.file_meta.TransferSyntaxUID and all(
        before[keyword].value == after[keyword].value for keyword in keywords
    ):
        return True
    return bool(np.array_equal(pixel_array(first), pixel_array(second)))


def _attributes(dataset: Dataset) -> Dataset:
    kept = Dataset()
    for element in dataset:
        if element.keyword not in _PIXELS and element.keyword not in _OF_THE_ENCODING:
            kept.add(element)
    return kept
