"""Sets of voxels: the body, connected parts, holes. Made with ITK, one mask at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    found = parts(bright, "faces")
    return without_holes(found.numbers == int(np.argmax(found.sizes)) + 1, slicewise=True)


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


@dataclass(frozen=True)
class Parts:
    """The connected parts of a mask.

    Attributes:
        numbers: ``(slices, rows, columns)``; the number of its part in each voxel, from 1 in the
            order in which their first voxels stand, 0 outside. A view of `held`.
        sizes: Voxels of each part, that of part 1 first.
        held: ITK's image, whose memory `numbers` is.
    """

    numbers: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    held: sitk.Image


def parts(mask: Mask, touching: Touching) -> Parts:
    """Parts a mask into what is connected.

    Args:
        mask: ``(slices, rows, columns)``.
        touching: Voxels are connected where they share a face, or a corner at least.
    """
    found = sitk.ConnectedComponent(_image(mask), touching == "corners")
    numbers: NDArray[np.uint32] = sitk.GetArrayViewFromImage(found)
    count = int(numbers.max()) + 1
    sizes = np.zeros(count, np.int64)
    for plane in numbers:
        sizes += np.bincount(plane.reshape(-1), minlength=count)
    return Parts(numbers, sizes[1:], found)


def _image(mask: Mask) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(mask).view(np.uint8))


def without_holes(mask: Mask, *, slicewise: bool) -> Mask:
    """A mask with what it encloses.

    Args:
        mask: ``(slices, rows, columns)``.
        slicewise: What is enclosed within a slice; otherwise what is enclosed on all sides, the
            first and last slice being open.
    """
    if not slicewise:
        filled = sitk.BinaryFillhole(_image(mask))
        return np.asarray(sitk.GetArrayViewFromImage(filled) != 0)
    made = np.zeros(mask.shape, bool)
    for plane, out in zip(mask, made, strict=True):
        filled = sitk.BinaryFillhole(_image(plane))
        out[...] = sitk.GetArrayViewFromImage(filled)
    return made
