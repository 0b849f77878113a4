"""How the grid of a model lies in that of an image: which axes, which part, how fine.

Counted in voxels, slices first. The *oriented* grid is the image's own, its axes permuted and
flipped as the manifest asks, and cropped.
"""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ai import masks
from ai.inputs import Input
from ai.types import Volume

Shape = tuple[int, int, int]
Flips = tuple[bool, bool, bool]
T = TypeVar("T", bound=np.generic)
_TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


def turned(array: NDArray[T], order: Shape, flips: Flips) -> NDArray[T]:
    """An array with its axes permuted and flipped; a view."""
    return array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def orientation(spec: Input, volume: Volume) -> tuple[Shape, Flips]:
    """Which axis of the image becomes each axis of the oriented grid, and which are flipped."""
    if spec.orientation is None or volume.affine is None:
        return (0, 1, 2), (False, False, False)
    steps = volume.affine[:3, :3]
    unit = steps / np.linalg.norm(steps, axis=0)
    wanted = [_TOWARDS[letter] for letter in spec.orientation]
    # Of all ways to assign the image's axes to the wanted ones, the one they are nearest to.
    first, second, third = max(
        itertools.permutations((0, 1, 2)),
        key=lambda axes: sum(abs(unit[w[0], a]) for w, a in zip(wanted, axes, strict=True)),
    )
    order = (first, second, third)
    turned = [bool(unit[w[0], a] * w[1] < 0) for w, a in zip(wanted, order, strict=True)]
    return order, (turned[0], turned[1], turned[2])


def kept(
    spec: Input, volume: Volume, order: Shape, flips: Flips, body: masks.Mask | None
) -> masks.Box:
    """What the oriented grid keeps of the image; all of it where there is nothing to crop to.

    Args:
        spec: Says what is cropped.
        volume: The image.
        order: As `orientation`.
        flips: As `orientation`.
        body: The body, in the image's own grid, where it is asked for.
    """
    sizes = [volume.voxels.shape[axis] for axis in order]
    whole = (slice(0, sizes[0]), slice(0, sizes[1]), slice(0, sizes[2]))
    crop = spec.crop
    if crop is None:
        return whole
    if crop.to == "square":
        side = min(sizes[1:])
        top, left = ((n - side) // 2 for n in sizes[1:])
        found: masks.Box | None = (whole[0], slice(top, top + side), slice(left, left + side))
    else:
        mask = volume.voxels != 0 if body is None or crop.to == "nonzero" else body
        found = masks.bounds(turned(mask, order, flips))
    if found is None:
        return whole
    first, second, third = (
        slice(max(0, part.start - crop.margin), min(n, part.stop + crop.margin))
        for part, n in zip(found, sizes, strict=True)
    )
    return first, second, third


def resized(
    spec: Input, shape: Shape, spacing: list[float | None]
) -> tuple[Shape, tuple[float, float, float]]:
    """Size of the model grid without padding, and voxels of the oriented grid per voxel of it.

    Args:
        spec: Says what is resampled.
        shape: The oriented grid.
        spacing: Its voxels in mm, None where the image does not say.
    """
    sizes, scale = list(shape), [1.0, 1.0, 1.0]
    asked = range(3 - spec.axes, 3)
    if spec.size is not None and spec.fit == "inside":
        factor = max(shape[axis] / n for axis, n in zip(asked, spec.size, strict=True))
        spacing, wanted = [1.0] * 3, (factor,) * spec.axes
    else:
        wanted = spec.spacing or ()
    for at, axis in enumerate(asked):
        own = spacing[axis]
        if wanted and own is not None:
            scale[axis] = wanted[at] / own
            # Rounded up, so that every voxel of the image lies in a voxel of the model.
            sizes[axis] = max(1, math.ceil(shape[axis] / scale[axis] - 1e-6))
        elif spec.size is not None:
            sizes[axis] = spec.size[at]
            scale[axis] = shape[axis] / sizes[axis]
    return (sizes[0], sizes[1], sizes[2]), (scale[0], scale[1], scale[2])
