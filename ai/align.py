"""Brings one input of a model onto the grid of another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.inputs import Interpolation
from ai.preprocess import INTERPOLATORS
from ai.types import Volume
from config.errors import InferenceError

_SAME_PLACE = 1e-3  # mm


def onto(grid: Volume, moving: Volume, interpolation: Interpolation = "linear") -> Volume:
    """A volume resampled to the voxels of another one, by their places in the patient alone.

    Both lie in one frame of reference, which is the caller's to know. Nothing is registered.

    Args:
        grid: Whose voxels the result has.
        moving: Whose values it has; its lowest value where it has none.
        interpolation: How values between its voxels are found.

    Returns:
        ``float32`` of the shape of `grid`, with its affine and spacing; `moving` itself where it
        has that grid already.

    Raises:
        InferenceError: One of them has no place in patient space, or they have none in common.
    """
    if grid.affine is None or moving.affine is None:
        raise InferenceError("inputs without a place in patient space cannot be brought together")
    if grid.voxels.shape == moving.voxels.shape and np.allclose(
        grid.affine, moving.affine, atol=_SAME_PLACE
    ):
        return moving
    values = moving.voxels.astype(np.float32)
    if not np.isfinite(values).all():
        raise InferenceError("the input holds values that are not finite")
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(INTERPOLATORS[interpolation])
    filter_.SetDefaultPixelValue(float("nan"))
    filter_.SetNumberOfThreads(1)
    origin, spacing, direction = _placed(grid.affine)
    filter_.SetSize([int(n) for n in reversed(grid.voxels.shape)])
    filter_.SetOutputOrigin(origin)
    filter_.SetOutputSpacing(spacing)
    filter_.SetOutputDirection(direction)
    voxels: NDArray[Any] = sitk.GetArrayFromImage(filter_.Execute(_image(values, moving.affine)))
    outside = np.isnan(voxels)
    if outside.all():
        raise InferenceError("an input shows no part of the body that the primary one shows")
    voxels[outside] = values.min()
    return replace(moving, voxels=voxels, affine=grid.affine, spacing=grid.spacing)


def _image(values: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    origin, spacing, direction = _placed(affine)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _placed(affine: NDArray[np.float64]) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction as ITK has them: columns first, LPS as here."""
    steps = affine[:3, 2::-1]
    spacing = np.linalg.norm(steps, axis=0)
    return affine[:3, 3].tolist(), spacing.tolist(), (steps / spacing).reshape(-1).tolist()
