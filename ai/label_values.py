"""How the value of a voxel in a label volume says which segments it belongs to.

Segments that exclude each other: the value is the number of the one segment, 0 of none. Segments
that overlap: bit ``number - 1`` of the value is set for each segment that holds the voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LabelVolume = NDArray[np.unsignedinteger[Any]]
Mask = NDArray[np.bool_]

MOST: Final = {False: 255, True: 64}
"""Segments of one label volume at most, by whether they overlap."""


def type_of(segments: int, *, overlap: bool) -> np.dtype[np.unsignedinteger[Any]]:
    """The smallest type whose values say it of so many segments."""
    return np.min_scalar_type(value_of(segments, overlap=overlap))


def value_of(number: int, *, overlap: bool) -> int:
    """The value of a voxel that segment `number`, from 1, alone holds."""
    return 1 << (number - 1) if overlap else number


def mask_of(labels: LabelVolume, number: int, *, overlap: bool) -> Mask:
    """Which voxels a segment holds.

    Args:
        labels: Of any shape.
        number: The segment, from 1.
        overlap: What the values are.
    """
    if not overlap:
        return np.asarray(labels == number)
    made = np.empty(labels.shape, bool)
    bit = labels.dtype.type(value_of(number, overlap=True))
    # What is not 0 becomes True piece by piece, so that there is no second volume.
    np.bitwise_and(labels, bit, out=made, casting="unsafe")
    return made


def layers_of(labels: LabelVolume, *, overlap: bool) -> Iterator[LabelVolume]:
    """The labels as numbers of segments that exclude each other.

    Yields:
        The labels themselves; of segments that overlap one array a segment, by number, up to the
        highest that is there.
    """
    if not overlap:
        yield labels
        return
    for number in range(1, highest_in(labels, overlap=True) + 1):
        yield np.where(mask_of(labels, number, overlap=True), np.uint8(number), np.uint8(0))


def counts_of(labels: LabelVolume, *, overlap: bool) -> NDArray[np.int64]:
    """Voxels of each segment, ``(256,)`` by number; what entry 0 holds says nothing."""
    counts = np.zeros(MOST[False] + 1, np.int64)
    for layer in layers_of(labels, overlap=overlap):
        counts += np.bincount(layer.reshape(-1), minlength=len(counts))
    return counts


def highest_in(labels: LabelVolume, *, overlap: bool) -> int:
    """The highest number of a segment that holds a voxel, 0 where there is none."""
    if not overlap:
        return int(labels.max())
    return int(np.bitwise_or.reduce(labels, axis=None)).bit_length()


def is_shared(labels: LabelVolume, *, overlap: bool) -> bool:
    """Whether some voxel belongs to more than one segment."""
    # Without its lowest bit a value with a single one is 0.
    return overlap and any(bool((plane & (plane - 1)).any()) for plane in labels)
