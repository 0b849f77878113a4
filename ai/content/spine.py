"""The spine of a trunk on CT: the canal, which no contrast medium brightens, and what is before it.

The canal is dark amid bone on every level down to the sacrum, and at most some seven centimetres
before the tip of a spinous process. How deep a vertebra is has bounds, so that a bright vessel
which lies close to it is not taken for a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.content.body import Body, in_patient_axes
from ai.types import Volume

HALF_WIDTH_MM = 60.0  # of the strip around the spine
_PIXEL_MM = 2.0  # of its planes: means of finer pixels
_LEAST_CM2 = 330.0  # a cross-section of a trunk; neck, head and limbs are left out

_MIDDLE_MM = 15.0  # to either side
_WINDOW_MM = 25.0  # up and down, since the wall of the canal has gaps
_BONE_HU = 150.0
_FROM_TIP_MM = (20.0, 70.0)
_CANAL_MM = (10.0, 18.0, 28.0)  # squares: within the canal, around it, around its wall
_CANAL_HU = 100.0
_BRIGHTEST_HU = 400.0
_DARKER_HU = 60.0  # than its wall
_MOST_PLANES = 0.5
_DEPTH_MM = (26.0, 46.0)  # from the middle of the canal to the front of the vertebra

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Strip:
    """The middle of a trunk, towards head, back and left, in planes a few millimetres apart.

    Attributes:
        values: HU, ``(slices, rows, columns)``: means of finer pixels.
        smooth: Their means over three by three.
        step: Millimetres between voxels along (slices, rows, columns); the usual ones of slices,
            of which some may be left out.
        height: Millimetres of each slice above the first.
    """

    values: Floats
    smooth: Floats
    step: tuple[float, float, float]
    height: Floats

    def middle(self, of: Floats) -> Floats:
        """The highest value of each row near the middle, ``(slices, rows)``."""
        half, column = round(_MIDDLE_MM / self.step[2]), of.shape[2] // 2
        highest: Floats = np.max(of[:, :, max(0, column - half) : column + half + 1], axis=2)
        return highest


@dataclass(frozen=True)
class Spine:
    """Where the spine lies in a strip.

    Attributes:
        known: Whether a canal is seen, a slice.
        front: Where the vertebrae begin, in mm from the first row, a slice.
    """

    known: NDArray[np.bool_]
    front: Floats


def strip_of(volume: Volume, body: Body) -> Strip | None:
    """The strip around the spine of a trunk; None where fewer than two slices show a trunk."""
    voxels, spacing, _ = in_patient_axes(volume)
    chosen = np.flatnonzero(body.areas >= _LEAST_CM2) * round(body.spacing[0] / spacing[0])
    if chosen.size < 2:
        return None
    seen = np.flatnonzero(np.any(body.mask, axis=(0, 2)))
    rows = slice(*(int(end * body.spacing[1] / spacing[1]) for end in (seen[0], seen[-1] + 1)))
    weight = body.mask.sum(axis=(0, 1))
    center = float(np.average(np.arange(weight.size), weights=weight)) * body.spacing[2]
    ends = (round((center + shift) / spacing[2]) for shift in (-HALF_WIDTH_MM, HALF_WIDTH_MM))
    part = voxels[chosen][:, rows, slice(*(max(0, end) for end in ends))]
    by_rows, by_columns = (max(1, round(_PIXEL_MM / step)) for step in spacing[1:])
    height, width = part.shape[1] // by_rows, part.shape[2] // by_columns
    if min(height, width) < 3:
        return None
    part = part[:, : height * by_rows, : width * by_columns]
    blocks = part.reshape(len(part), height, by_rows, width, by_columns)
    values: Floats = blocks.mean(axis=(2, 4), dtype=np.float32)
    return Strip(
        values,
        _mean(values, (0, 1, 1)),
        (body.spacing[0], spacing[1] * by_rows, spacing[2] * by_columns),
        ((chosen - chosen[0]) * spacing[0]).astype(np.float32),
    )


def find_spine(strip: Strip) -> Spine | None:
    """The spine of a strip; None where most slices show none."""
    rows = np.arange(strip.values.shape[1]) * strip.step[1]
    bone = strip.middle(strip.smooth) > _BONE_HU
    # A spinous process does not reach every slice: the farthest tip of some neighbours counts.
    tip = _around(np.where(bone, rows, 0.0).max(axis=1)).max(axis=1, keepdims=True)
    canal, known = _canal(strip, (rows >= tip - _FROM_TIP_MM[1]) & (rows <= tip - _FROM_TIP_MM[0]))
    if known.mean() < _MOST_PLANES:
        return None
    shallow, deep = (canal[:, None] - depth for depth in _DEPTH_MM)
    body = bone & (rows >= deep) & (rows <= shallow)
    fronts = np.where(body.any(axis=1), rows[body.argmax(axis=1)], shallow[:, 0])
    return Spine(known, _settled(fronts))


def _canal(strip: Strip, near: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """The middle of the canal in mm from the first row, and whether it is seen, a slice."""
    clipped = np.clip(strip.values, 0.0, _BRIGHTEST_HU)
    (inner, _), (wall, small), (outer, large) = (_square(clipped, mm, strip) for mm in _CANAL_MM)
    ring = (outer * large - wall * small) / (large - small)
    darker = strip.middle(np.where(inner < _CANAL_HU, ring - inner, 0.0)) * near
    profile = _mean(darker, (max(1, round(_WINDOW_MM / strip.step[0])), 0))
    found = (profile.argmax(axis=1) * strip.step[1]).astype(np.float32)
    return _settled(found), profile.max(axis=1) > _DARKER_HU


def _square(values: Floats, width: float, strip: Strip) -> tuple[Floats, int]:
    """Means over squares of a width in mm, and how many pixels each has."""
    along, across = (max(1, round((width / step - 1) / 2)) for step in strip.step[1:])
    return _mean(values, (0, along, across)), (2 * along + 1) * (2 * across + 1)


def _mean(values: Floats, reach: tuple[int, ...]) -> Floats:
    """Means over boxes that reach so many voxels to either side along each axis."""
    for axis, each in enumerate(reach):
        if each:
            ends = [(each + 1, each) if other == axis else (0, 0) for other in range(values.ndim)]
            sums = np.cumsum(np.pad(values, ends, "edge"), axis=axis, dtype=np.float64)
            wide = 2 * each + 1
            later, sooner = (
                np.moveaxis(sums, axis, 0)[part] for part in (slice(wide, None), slice(-wide))
            )
            values = np.moveaxis((later - sooner) / wide, 0, axis).astype(np.float32)
    return values


def _settled(places: Floats) -> Floats:
    """Each the median of its neighbours and itself."""
    middle: Floats = np.median(_around(places), axis=1).astype(np.float32)
    return middle


def _around(places: Floats) -> Floats:
    """``(slices, 9)``: each with four neighbours on either side."""
    slices = np.arange(len(places))
    found: Floats = places[np.clip(slices[:, None] + np.arange(-4, 5), 0, len(places) - 1)]
    return found
