"""Compares two versions of one SOP instance: the same UID came with other bytes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from config.errors import MalformedError, UnreadableError
from dicomnode.frames import number_of_frames
from dicomnode.series.decode import Decoder, FrameRequest, decode_here

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# What an encoding is free to say in its own way (PS3.5 8.2): not content. The colour space is so
# only of colour: MONOCHROME1 and MONOCHROME2 mean different images.
_OF_THE_ENCODING = frozenset(
    {
        *_PIXELS,
        "PlanarConfiguration",
        "SpecificCharacterSet",
        "NumberOfFrames",
        "DataSetTrailingPadding",
    }
)
_SHAPE = ("Rows", "Columns", "SamplesPerPixel", "PixelRepresentation")
_UNCOMPARABLE = "the two versions of this object cannot be compared"
_SAME_OBJECT = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")


class Difference(Enum):
    """How the second version differs from the first."""

    NONE = "none"  # the same content, in another transfer syntax or encoding
    ATTRIBUTES = "attributes"  # the same pixels, or the first ones, under other attributes
    PIXELS = "pixels"
    PLACE = "place"  # another SOP class, study or series


def compare(first: Path, second: Path, decoder: Decoder = decode_here) -> Difference:
    """How two stored versions of one SOP instance differ.

    Args:
        first: The file of the version that is kept.
        second: The file of the other.
        decoder: For pixels that have to be compared decoded.

    Raises:
        UnreadableError: The system refused to read one of them.
        MalformedError: One of them is no data set that can be read.
    """
    try:
        before, after = dcmread(first), dcmread(second)
        if any(before.get(keyword) != after.get(keyword) for keyword in _SAME_OBJECT):
            return Difference.PLACE
        same_pixels = _same_pixels(before, after)
        if same_pixels is None:
            same_pixels = _same_decoded(first, second, number_of_frames(before), decoder)
        if not same_pixels:
            return Difference.PIXELS
        same = _content(before) == _content(after) and _has_pixels(before) == _has_pixels(after)
    except OSError as error:
        if error.errno is None:  # no refusal of the system: pydicom says so of damaged bytes
            raise MalformedError(_UNCOMPARABLE) from error
        raise UnreadableError("the two versions of this object cannot be opened") from error
    except Exception as error:  # decoders of hostile bytes raise what they like
        raise MalformedError(_UNCOMPARABLE) from error
    return Difference.NONE if same else Difference.ATTRIBUTES


def _same_pixels(before: Dataset, after: Dataset) -> bool | None:
    """Whether the pixels are the same; None where only decoding them can tell."""
    if not _has_pixels(before):
        return True  # what came without pixels is not contradicted by what has them
    keywords = [keyword for keyword in _PIXELS if keyword in before or keyword in after]
    if any((keyword in before) != (keyword in after) for keyword in keywords):
        return False
    if any(before.get(keyword) != after.get(keyword) for keyword in _SHAPE):
        return False
    if number_of_frames(before) != number_of_frames(after):
        return False
    if before.file_meta.TransferSyntaxUID == after.file_meta.TransferSyntaxUID and all(
        before[keyword].value == after[keyword].value for keyword in keywords
    ):
        return True
    return None


def _same_decoded(first: Path, second: Path, frames: int, decoder: Decoder) -> bool:
    requests = [
        FrameRequest(path, frame, colour=True)
        for frame in range(frames)
        for path in (first, second)
    ]
    planes = decoder(requests)
    return all(np.array_equal(plane, next(planes)) for plane in planes)


def _has_pixels(dataset: Dataset) -> bool:
    return any(keyword in dataset for keyword in _PIXELS)


def _content(dataset: Dataset) -> dict[int, Any]:
    """Tag → value. Value representations are left out: implicit VR does not carry them."""
    colour = (dataset.get("SamplesPerPixel") or 1) > 1
    return {
        int(element.tag): [_content(item) for item in element.value]
        if element.VR == "SQ"
        else element.value
        for element in dataset
        if element.tag.element != 0  # group lengths (PS3.5 7.2)
        and element.keyword not in _OF_THE_ENCODING
        and not (colour and element.keyword == "PhotometricInterpretation")
    }
