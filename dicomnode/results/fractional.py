"""Fractional segmentation of a model's probabilities (PS3.3 A.51, C.8.20), 8 bits a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from ai.types import Answer, Volume
from dicomnode.results.multiframe import add_dimensions
from dicomnode.results.provenance import Provenance
from dicomnode.results.seg import add_frames, checked_numbers, new_segmentation

MAXIMUM: Final = 255
"""The stored value of probability 1; a probability is stored to within half of one 255th."""


def build_fractional(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The probabilities of an answer as a fractional segmentation.

    Args:
        answer: With `probabilities` ``(segments, slices, rows, columns)`` and `segments` 1 to n.
        volume: The primary input; its affine is None for an image without a place in space.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: The answer has no probabilities, or they, segments, volume and sources disagree.
    """
    probabilities = _checked(answer, volume)
    numbers = checked_numbers(answer)
    result = new_segmentation(
        answer,
        volume,
        sources,
        provenance,
        kind="fractional",
        sop_class_uid=SegmentationStorage,
        bits=8,
    )
    result.SegmentationType = "FRACTIONAL"
    result.SegmentationFractionalType = "PROBABILITY"
    result.MaximumFractionalValue = MAXIMUM
    result.SegmentsOverlap = "UNDEFINED"
    add_dimensions(result, provenance, "fractional", volume, segmented=True)
    add_frames(result, volume, sources, numbers)
    pixels = bytearray()
    for segment in probabilities:
        for plane in segment:
            pixels += np.rint(plane * np.float32(MAXIMUM)).astype(np.uint8).tobytes()
    result.add_new("PixelData", "OB", bytes(pixels) + b"\0" * (len(pixels) % 2))
    return result


def _checked(answer: Answer, volume: Volume) -> NDArray[np.float32]:
    probabilities = answer.probabilities
    if probabilities is None or not answer.segments:
        raise ValueError("the answer has no probabilities to encode")
    wanted = (len(answer.segments), *volume.voxels.shape)
    if probabilities.shape != wanted:
        raise ValueError(f"probabilities of shape {probabilities.shape}, not {wanted}")
    # Written so that what is no number fails too.
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("a probability lies outside 0 to 1")
    return probabilities
