"""Is it a head? By the skull, which is a bright ring on CT and a dark one on MR.

On CT bone is brighter than all else. On MR it gives next to no signal and lies between the scalp,
whose fat is bright, and the brain; where fat is suppressed there is no ring to see, and no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.content.body import Body
from ai.content.families import membership

_SECTORS = 36
_BIN_MM = 3.0
_BINS = 12
_OUTER = slice(0, 3)  # up to 9 mm deep: the scalp
_WALL = 7  # bins that the skull lies within
_INNER = slice(7, 12)  # 21 to 36 mm deep: the brain
_LEAST_CM2 = 60.0  # a smaller cross-section is asked nothing
_MOST_SLICES = 20
_BONE_HU = 250.0
_BRAIN_HU = (-50.0, 120.0)
_DARK = 0.6  # of the scalp and of the brain: bone on MR

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """How much of a head was found.

    Attributes:
        bright: Membership in what a head on CT looks like, 0 to 1.
        dark: The same for MR.
        upright: The vertex lies towards the head as the header has it: 1 sure, -1 surely not, 0
            where it cannot be told.
    """

    bright: float
    dark: float
    upright: float


def find_head(body: Body, units: str) -> Head:
    """Look for a skull in the cross-sections of a body; a single image must be one."""
    nothing = Head(0.0, 0.0, 0.0)
    if body.plane not in (None, "axial"):
        return nothing
    areas = body.areas
    asked = np.flatnonzero(areas >= _LEAST_CM2)
    if asked.size == 0:
        return nothing
    asked = asked[np.linspace(0, asked.size - 1, min(asked.size, _MOST_SLICES)).astype(int)]
    profiles = [_profiles(body, index) for index in asked]
    kinds: tuple[Literal["bright", "dark"], ...] = ("bright", "dark")
    found = {
        kind: _confidence(body, asked, np.array([_ring(each, kind) for each in profiles]))
        for kind in kinds
    }
    # Hounsfield units say which ring it must be; without them the image itself does.
    bright = found["bright"] if units == "[hnsf'U]" else 0.0
    sure = max(bright, found["dark"])
    return Head(bright, found["dark"], _upright(body) if sure >= 0.5 and len(areas) > 1 else 0.0)


def _profiles(body: Body, index: int) -> Floats:
    """Mean value by sector around the centre and by depth below the skin, ``(sectors, bins)``."""
    mask, values = body.mask[index], body.values[index]
    image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
    image.SetSpacing((body.spacing[2], body.spacing[1]))
    far = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    depth = sitk.GetArrayFromImage(far)[1:-1, 1:-1][mask]
    rows, columns = np.nonzero(mask)
    down = (rows - rows.mean()) * body.spacing[1]
    across = (columns - columns.mean()) * body.spacing[2]
    turn = (np.arctan2(down, across) + np.pi) / (2 * np.pi)
    sector = np.minimum((turn * _SECTORS).astype(int), _SECTORS - 1)
    bin_ = (np.maximum(depth, 0.0) / _BIN_MM).astype(int)
    inside = bin_ < _BINS
    place = (sector * _BINS + bin_)[inside]
    total = np.bincount(place, values[mask][inside], _SECTORS * _BINS)
    count = np.bincount(place, minlength=_SECTORS * _BINS)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(count, count, np.nan)).reshape(_SECTORS, _BINS)


def _ring(profiles: Floats, kind: Literal["bright", "dark"]) -> float:
    """Share of the sectors in which a skull is met on the way in."""
    return sum(_HITS[kind](sector) for sector in profiles) / _SECTORS


def _is_bright(sector: Floats) -> bool:
    wall, inner = sector[:_WALL], sector[_INNER]
    if np.isnan(wall).all() or np.isnan(inner).all():
        return False
    low, high = _BRAIN_HU
    return bool(np.nanmax(wall) > _BONE_HU and low < np.nanmedian(inner) < high)


def _is_dark(sector: Floats) -> bool:
    outer, inner = sector[_OUTER], sector[_INNER]
    if np.isnan(outer).all() or np.isnan(inner).all():
        return False
    scalp = int(np.nanargmax(outer))
    below = sector[scalp:_WALL]
    return bool(np.nanmin(below) < _DARK * min(sector[scalp], float(np.nanmedian(inner))))


_HITS = {"bright": _is_bright, "dark": _is_dark}


def _confidence(body: Body, asked: NDArray[np.intp], rings: Floats) -> float:
    """Skull around most of the cross-section, of the size of a head, over some height."""
    closed = asked[rings >= 0.5]
    if closed.size == 0:
        return 0.0
    across, along = body.extent(2)[closed].max(), body.extent(1)[closed].max()
    shares = [
        membership(float(np.percentile(rings, 75)), 0.4, 0.8),
        min(membership(across, 105, 125), membership(across, 215, 195)),
        min(membership(along, 130, 155), membership(along, 260, 240)),
        membership(float(body.extent(2).max()), 300, 240),  # and no shoulders below it
    ]
    if len(body.mask) > 1:
        height = (closed.max() - closed.min() + 1) * body.spacing[0]
        shares.append(membership(float(height), 15, 40))
    return min(shares)


def _upright(body: Body) -> float:
    """A head ends in a dome above; below, the neck runs out of the image."""
    areas = body.areas
    there = areas[areas > 0]
    ends = [1.0 - float(end) / float(there.max()) for end in (there[-1], there[0])]
    lean = ends[0] - ends[1]
    return float(np.sign(lean)) * membership(abs(lean), 0.2, 0.6)
