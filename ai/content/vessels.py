"""Is there contrast medium in the large vessels of a trunk on CT? By what lies before the spine.

Aorta and inferior vena cava run along the spine on every level. Without contrast medium blood has
30 to 60 HU, as muscle has, and next to nothing there is brighter; with it there is at least one
long even column of more than 100 HU, as wide as a vessel, whose surroundings are darker. A vertebra
is as bright, but has a brighter shell and ends at each disc; bowel that holds contrast medium
winds. What is neither plainly the one nor the other is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.content.body import Body
from ai.content.families import membership
from ai.content.spine import HALF_WIDTH_MM, Strip, find_spine, strip_of
from ai.types import Volume

_BEFORE_MM = 60.0  # what lies before the spine
_BESIDE_MM = 30.0  # and beside it, where the aorta of the chest lies
_SIDE_MM = 40.0
_VERTEBRA_MM = 25.0  # half of its width
_BRIGHT_HU = 75.0  # more than blood has by itself

_VESSEL_HU = (100.0, 700.0)
_EVEN = 8.0  # HU per mm, at most
_VESSEL_CM2 = (0.4, 14.0)
_MOST_SPOTS = 1000
_WIDEST_MM = 45.0
_ROUND = 0.5  # of the box around it
_WALL_MM = 4.0  # is left out of what is called the surroundings
_AROUND_MM = 8.0
_DARKER_HU = 40.0
_DARKER = 0.5  # of the surroundings
_SKIPPED_MM = 20.0  # where a vein flows in
_SHIFT_MM = 5.0  # from one cross-section to the next, and half of their distance
_ALIKE = 0.2  # of the value


@dataclass(frozen=True)
class Vessels:
    """What was found before and beside the spine.

    Attributes:
        enhanced: Membership in what vessels with contrast medium look like, 0 to 1.
        unenhanced: The same without.
    """

    enhanced: float
    unenhanced: float


@dataclass(frozen=True)
class _Spot:
    plane: int
    row: float  # mm
    column: float  # mm
    hu: float


def find_contrast(volume: Volume, body: Body) -> Vessels:
    """Look at the vessels before the spine of a trunk in HU; both are 0 where it cannot be told."""
    strip = strip_of(volume, body)
    spine = None if strip is None else find_spine(strip)
    if strip is None or spine is None:
        return Vessels(0.0, 0.0)
    ahead = spine.front[:, None] - np.arange(strip.values.shape[1]) * strip.step[1]  # mm
    side = np.abs(np.arange(strip.values.shape[2]) - strip.values.shape[2] / 2) * strip.step[2]
    before = ((ahead > _WALL_MM) & (ahead < _BEFORE_MM))[:, :, None] & (side < _SIDE_MM)
    beside = ((ahead > -_BESIDE_MM) & (ahead < _BEFORE_MM))[:, :, None] & (side > _VERTEBRA_MM)
    soft = before & (strip.smooth > 0.0)
    tissue, bright = (
        np.sum(each, axis=(1, 2)) for each in (soft, soft & (strip.smooth > _BRIGHT_HU))
    )
    seen = spine.known & (tissue > 0)
    spots = _spots(strip, before | (beside & (side < HALF_WIDTH_MM)))
    if not seen.any() or spots is None:
        return Vessels(0.0, 0.0)
    usual = float(np.median(bright[seen] / tissue[seen]))
    height, hu = _longest(spots, strip)
    return Vessels(
        enhanced=min(
            membership(height, 60, 100), membership(hu, 105, 130), membership(usual, 0.1, 0.2)
        ),
        unenhanced=min(
            membership(float(seen.sum()) * strip.step[0], 60, 100),
            membership(usual, 0.25, 0.15),
            membership(height, 60, 30),
        ),
    )


def _spots(strip: Strip, near: NDArray[np.bool_]) -> list[_Spot] | None:
    """Cross-sections of what may be vessels, upwards; None where they are too many to be any."""
    across = np.gradient(strip.smooth, *strip.step[1:], axis=(1, 2))
    even = np.hypot(*across) < _EVEN
    low, high = _VESSEL_HU
    # Empty planes between them keep the planes apart.
    core = np.zeros((2 * len(near), *near.shape[1:]), np.uint8)
    core[::2] = near & even & (strip.smooth > low) & (strip.smooth < high)
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(core)))[::2]
    areas = np.bincount(labels.ravel()) * strip.step[1] * strip.step[2] / 100.0
    least, most = _VESSEL_CM2
    right = (areas >= least) & (areas <= most)
    right[0] = False
    if right.sum() > _MOST_SPOTS:
        return None
    given = [
        _spot(strip, plane, labels[plane] == number)
        for plane in range(len(labels))
        for number in np.unique(labels[plane])
        if right[number]
    ]
    return [spot for spot in given if spot is not None]


def _spot(strip: Strip, plane: int, inside: NDArray[np.bool_]) -> _Spot | None:
    rows, columns = np.nonzero(inside)
    ends = [(int(each.min()), int(each.max()) + 1) for each in (rows, columns)]
    sizes = [
        (last - first) * step for (first, last), step in zip(ends, strip.step[1:], strict=True)
    ]
    box = (ends[0][1] - ends[0][0]) * (ends[1][1] - ends[1][0])
    if max(sizes) > _WIDEST_MM or rows.size < _ROUND * box:
        return None
    smooth = strip.smooth[plane]
    hu = float(smooth[inside].mean())
    around = np.zeros(inside.shape, np.bool_)
    for width, value in ((_AROUND_MM, True), (_WALL_MM, False)):
        by_rows, by_columns = (round(width / step) for step in strip.step[1:])
        (top, bottom), (left, right) = ends
        around[
            max(0, top - by_rows) : bottom + by_rows, max(0, left - by_columns) : right + by_columns
        ] = value
    if np.mean(smooth[around] < hu - _DARKER_HU) < _DARKER:
        return None
    row, column = float(rows.mean()) * strip.step[1], float(columns.mean()) * strip.step[2]
    return _Spot(plane, row, column, hu)


def _longest(spots: list[_Spot], strip: Strip) -> tuple[float, float]:
    """Height in mm and median HU of the longest column of cross-sections above one another."""
    best: list[tuple[float, list[float]]] = []
    for index, spot in enumerate(spots):
        below = [
            (length + float(strip.height[spot.plane] - strip.height[other.plane]), [*hus, spot.hu])
            for other, (length, hus) in zip(spots[:index], best, strict=True)
            if _goes_on(other, spot, strip)
        ]
        best.append(max(below, default=(0.0, [spot.hu])))
    length, hus = max(best, default=(0.0, [0.0]))
    return length, float(np.median(hus))


def _goes_on(below: _Spot, above: _Spot, strip: Strip) -> bool:
    rise = float(strip.height[above.plane] - strip.height[below.plane])
    if not 0.0 < rise <= _SKIPPED_MM:
        return False
    shift = float(np.hypot(above.row - below.row, above.column - below.column))
    alike = abs(above.hu - below.hu) < _ALIKE * below.hu
    return alike and shift < _SHIFT_MM + 0.5 * rise
