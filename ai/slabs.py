"""A 3D image prepared, and its answer brought back, a few planes at a time.

`Plan.tensor` and `Plan.back` do the whole volume at once; these give the same values of a part of
it, so that a long series needs no second volume. Planes are those of the padded model grid.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ai.inputs import Interpolation
from ai.preprocess import Plan, resample

T = TypeVar("T", bound=np.generic)
Floats = NDArray[np.float32]
# Slices of the image beyond a plane that its values rest on. A B-spline rests on all of them, by a
# quarter less with each: after twelve nothing is left in single precision.
_REACH: dict[Interpolation, int] = {"nearest": 1, "linear": 1, "bspline": 12}


def prepared(plan: Plan, first: int, last: int) -> Floats:
    """Planes `first` to `last` (exclusive) as the model is given them; padding beyond the grid.

    Returns:
        ``(channels, planes, rows, columns)``.

    Raises:
        InferenceError: The image holds values that are not finite.
    """
    spec, whole = plan.spec, plan.padded_shape(plan.shape[0])
    made = np.full((spec.channels, last - first, *whole[1:]), spec.pad_value, np.float32)
    before = plan.pad_before(plan.shape[0])
    low, high = (min(max(at - before[0], 0), plan.model_shape[0]) for at in (first, last))
    if not plan.present or low >= high:
        return made
    step = plan.scale[0]
    reach = _REACH[spec.interpolation] if step != 1.0 else 0
    begin = max(0, math.floor((low + 0.5) * step - 0.5) - reach)
    end = min(plan.shape[0], math.ceil((high - 0.5) * step - 0.5) + reach + 1)
    slices = np.arange(begin, end)
    shape = (high - low, *plan.model_shape[1:])
    start = low * step - begin
    block = resample(plan.values(slices), plan.scale, shape, spec.interpolation, start)
    outline = plan.outline(slices)
    if outline is not None:
        outline = resample(outline, plan.scale, shape, "nearest", start)
    top, left = before[1:]
    rows, columns = plan.model_shape[1:]
    place = slice(low + before[0] - first, high + before[0] - first)
    for number, plane in enumerate(plan.channels(block, outline, high - low)):
        made[number, place, top : top + rows, left : left + columns] = plane
    return made


def unpadded(plan: Plan, planes: NDArray[T], first: int) -> NDArray[T]:
    """Some planes, the first being number `first`, without the padding among and around them."""
    before = plan.pad_before(plan.shape[0])
    rows, columns = plan.model_shape[1:]
    low = max(0, before[0] - first)
    high = max(low, min(len(planes), before[0] + plan.model_shape[0] - first))
    return planes[low:high, before[1] : before[1] + rows, before[2] : before[2] + columns]


def slices_of(plan: Plan, first: int, last: int) -> tuple[int, int]:
    """First and last-but-one slice of the oriented grid whose centres lie in some planes."""
    lies = _lies_in(plan, 0) + plan.pad_before(plan.shape[0])[0]
    start, stop = np.searchsorted(lies, [first, last])
    return int(start), int(stop)


def back(plan: Plan, planes: NDArray[T], first: int) -> NDArray[T]:
    """Those slices of the oriented grid whose centres lie in some planes.

    Each voxel of the image takes the value of the model voxel that its centre lies in.

    Args:
        plan: How the image was prepared.
        planes: ``(planes, rows, columns)``, padding included.
        first: Number of the first of them.
    """
    start, stop = slices_of(plan, first, first + len(planes))
    before = plan.pad_before(plan.shape[0])
    index = [_lies_in(plan, axis) + before[axis] for axis in range(3)]
    index[0] = index[0][start:stop] - first
    if plan.scale == (1.0, 1.0, 1.0):
        return planes[
            tuple(slice(each[0], each[-1] + 1) if len(each) else slice(0) for each in index)
        ]
    return planes[np.ix_(*index)]


def in_layout(layout: str, scores: NDArray[T]) -> NDArray[T]:
    """``(channels, planes, rows, columns)`` as a tensor of a graph; undoes `channels_first`."""
    axes, own = ("NCDHW", scores[None]) if "D" in layout else ("CNHW", scores)
    return np.moveaxis(own, range(len(axes)), [layout.index(axis) for axis in axes])


def _lies_in(plan: Plan, axis: int) -> NDArray[np.intp]:
    """In which voxel of the model grid each voxel of the oriented one lies, along an axis."""
    places = ((np.arange(plan.shape[axis]) + 0.5) / plan.scale[axis]).astype(np.intp)
    return np.minimum(places, plan.model_shape[axis] - 1)
