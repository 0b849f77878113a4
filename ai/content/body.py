"""The body in a volume as a mask on a coarse grid, and the size of its cross-sections.

Axes are the patient's here: slices from the feet to the head, rows to the back, columns to the
left, as near as the image's own axes come to that; they are swapped and turned, never rotated.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.types import Volume

GRID_MM = 3.0  # of the coarse grid; a finer image is thinned, a coarser one stays
MOST_SLICES = 64  # of the coarse grid
_AIR_HU = -300.0
_ROUNDS = 12  # of the search for a threshold
_LOW = 0.15  # of the way from the dark mean to the bright one: dim tissue is tissue
_GAP_MM = 6.0  # what is narrower than this does not open the surface of the body
_COUCH_MM = 9.0  # what is thinner than this in both directions is no body

PLANES = ("axial", "coronal", "sagittal")  # by the axis that has a single slice

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Body:
    """The largest connected thing in a volume that is not air.

    Attributes:
        values: ``float32`` ``(slices, rows, columns)``, towards head, back and left.
        mask: The body, cavities filled, of the same shape.
        spacing: Millimetres between voxels along (slices, rows, columns).
        plane: one of `PLANES` where the image is a single one, else None.
    """

    values: NDArray[np.float32]
    mask: Mask
    spacing: tuple[float, float, float]
    plane: str | None

    @property
    def areas(self) -> NDArray[np.float64]:
        """Area of the body in each axial slice, in cm²."""
        pixel = self.spacing[1] * self.spacing[2] / 100.0
        return np.asarray(self.mask.sum(axis=(1, 2)) * pixel, np.float64)

    def extent(self, axis: int) -> NDArray[np.float64]:
        """Size of the body along rows (1) or columns (2) in each axial slice, in mm."""
        seen: Mask = np.any(self.mask, axis=3 - axis)
        first = seen.argmax(axis=1)
        last = seen.shape[1] - seen[:, ::-1].argmax(axis=1)
        return np.where(seen.any(axis=1), last - first, 0) * self.spacing[axis]

    def is_cut(self, axis: int) -> bool:
        """Whether the body reaches a border of the image along an axis on more than a few voxels.

        What is cut is at least as large as it looks.
        """
        faces = (self.mask.take(0, axis), self.mask.take(-1, axis))
        limit = 0.02 * self.mask.sum() / max(1, self.mask.shape[axis])
        return any(bool(face.sum() > limit) for face in faces)


def body_of(volume: Volume) -> Body | None:
    """The body of a volume, or None where there is none or its place is not known."""
    if volume.affine is None or None in volume.spacing[1:]:
        return None
    values, spacing, plane = _thinned(volume)
    if volume.units == "[hnsf'U]":
        mask = _largest(values > _AIR_HU, spacing, plane)
    else:
        # Bone and air within are as dark as the outside, and there is no couch to be filled too.
        bright = _closed(values > between(values), spacing)
        mask = _largest(_filled(bright, plane), spacing, plane)
    return None if mask is None else Body(values, mask, spacing, plane)


def between(values: NDArray[np.float32]) -> float:
    """A threshold between what is dark and what is bright (Ridler and Calvard)."""
    middle = dark = bright = float(values.mean())
    for _ in range(_ROUNDS):
        above = values > middle
        if above.all() or not above.any():
            break
        bright, dark = float(values[above].mean()), float(values[~above].mean())
        middle = (bright + dark) / 2
    return dark + _LOW * (bright - dark)


def in_patient_axes(
    volume: Volume,
) -> tuple[NDArray[np.generic], tuple[float, float, float], str | None]:
    """The voxels of a volume with a known place along the axes of a `Body`, without a copy.

    Returns:
        ``(slices, rows, columns)``; millimetres between voxels along them; the plane of a single
        image.
    """
    assert volume.affine is not None  # noqa: S101 - `body_of` asked
    steps = volume.affine[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    unit = steps / np.where(lengths > 0, lengths, 1.0)
    # Of all ways to assign the image's axes to z, y, x the one they are nearest to.
    order = max(
        itertools.permutations((0, 1, 2)),
        key=lambda axes: sum(abs(unit[2 - to, axis]) for to, axis in enumerate(axes)),
    )
    flips = [bool(unit[2 - to, axis] < 0) for to, axis in enumerate(order)]
    turned = volume.voxels.transpose(order)[
        tuple(slice(None, None, -1 if flip else None) for flip in flips)
    ]
    known = [step if step is not None else GRID_MM for step in volume.spacing]
    spacing = (known[order[0]], known[order[1]], known[order[2]])
    plane = PLANES[order.index(0)] if volume.voxels.shape[0] == 1 else None
    return turned, spacing, plane


def _thinned(
    volume: Volume,
) -> tuple[NDArray[np.float32], tuple[float, float, float], str | None]:
    turned, spacing, plane = in_patient_axes(volume)
    thin = [max(1, round(GRID_MM / step)) for step in spacing]
    thin[0] = max(thin[0], -(-turned.shape[0] // MOST_SLICES))
    view = turned[tuple(slice(None, None, step) for step in thin)]
    sizes = [step * count for step, count in zip(spacing, thin, strict=True)]
    return view.astype(np.float32), (sizes[0], sizes[1], sizes[2]), plane


def _largest(mask: Mask, spacing: tuple[float, float, float], plane: str | None) -> Mask | None:
    """The largest component after thin things are cut off, cavities filled plane by plane."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    opened = sitk.BinaryMorphologicalOpening(image, _radius(_COUCH_MM, spacing), sitk.sitkBox, 0, 1)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(opened))
    found: Mask = sitk.GetArrayFromImage(parts) == 1
    return _filled(found, plane) if found.any() else None


def _closed(mask: Mask, spacing: tuple[float, float, float]) -> Mask:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    radius = _radius(_GAP_MM, spacing)
    closed = sitk.BinaryMorphologicalClosing(image, radius, sitk.sitkBox, 1, True)
    found: Mask = sitk.GetArrayFromImage(closed).astype(bool)
    return found


def _radius(width: float, spacing: tuple[float, float, float]) -> list[int]:
    across = [round(width / 2 / step) for step in (spacing[2], spacing[1])]
    return [*across, 0]  # slices may be few


def _filled(mask: Mask, plane: str | None) -> Mask:
    axis = 0 if plane is None else PLANES.index(plane)
    filled = [_filled_plane(each) for each in np.moveaxis(mask, axis, 0)]
    return np.moveaxis(np.stack(filled), 0, axis)


def _filled_plane(plane: Mask) -> Mask:
    image = sitk.GetImageFromArray(plane.astype(np.uint8))
    filled: Mask = sitk.GetArrayFromImage(sitk.BinaryFillhole(image)).astype(bool)
    return filled
