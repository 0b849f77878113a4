"""Sets of voxels: the body, connected parts, holes. Made with ITK, one mask at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]
Touching = Literal["faces", "corners"]


def body(values: Iterator[NDArray[Any]], above: float | None) -> Mask:
    """The largest connected part that is brighter than air, without holes within a slice.

    Args:
        values: The slices of a volume, ``(rows, columns)`` each.
        above: What is above is body; Otsu's threshold of the whole volume where it is None.

    Returns:
        ``(slices, rows, columns)``; all set where nothing is brighter than the rest.
    """
    whole = np.stack(list(values))
    cut = _otsu(whole) if above is None else above
    bright: Mask = whole > cut
    if not bright.any():
        return np.ones(whole.shape, bool)
    numbers, sizes = parts(bright, "faces")
    return without_holes(numbers == int(np.argmax(sizes)) + 1, slicewise=True)


def _otsu(values: NDArray[Any]) -> float:
    filter_ = sitk.OtsuThresholdImageFilter()
    filter_.SetNumberOfHistogramBins(256)
    filter_.SetNumberOfThreads(1)
    filter_.Execute(sitk.GetImageFromArray(values))
    return float(filter_.GetThreshold())


def bounds(mask: Mask) -> Box | None:
    """The smallest box around a mask, or None around nothing."""
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        held = np.flatnonzero(mask.any(axis=others))
        if held.size == 0:
            return None
        found.append(slice(int(held[0]), int(held[-1]) + 1))
    return found[0], found[1], found[2]


def parts(mask: Mask, touching: Touching) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The connected parts of a mask.

    Args:
        mask: ``(slices, rows, columns)``.
        touching: Voxels are connected where they share a face, or a corner at least.

    Returns:
        The number of its part in each voxel, from 1 in the order in which their first voxels
        stand, 0 outside; and the voxels of each part, that of part 1 first.
    """
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    found = sitk.ConnectedComponent(image, touching == "corners")
    numbers: NDArray[np.uint32] = sitk.GetArrayFromImage(found)
    sizes = sum(
        (np.bincount(plane.reshape(-1), minlength=int(numbers.max()) + 1) for plane in numbers),
        start=np.zeros(int(numbers.max()) + 1, np.int64),
    )
    return numbers, np.asarray(sizes[1:], np.int64)


def without_holes(mask: Mask, *, slicewise: bool) -> Mask:
    """A mask with what it encloses.

    Args:
        mask: ``(slices, rows, columns)``.
        slicewise: What is enclosed within a slice; otherwise what is enclosed on all sides, the
            first and last slice being open.
    """
    if not slicewise:
        filled = sitk.BinaryFillhole(sitk.GetImageFromArray(mask.astype(np.uint8)))
        return np.asarray(sitk.GetArrayViewFromImage(filled) != 0)
    made = np.zeros(mask.shape, bool)
    for plane, out in zip(mask, made, strict=True):
        filled = sitk.BinaryFillhole(sitk.GetImageFromArray(plane.astype(np.uint8)))
        out[...] = sitk.GetArrayViewFromImage(filled)
    return made
