"""Simple statistics of a volume: what a reference keeps and what tells an unusual image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ai.types import Volume

MOST = 1 << 21  # voxels looked at; more say nothing new
_BINS = 64
_NEAR = 0.02  # of the way from the 1st to the 99th percentile: as good as the lowest value
_BEYOND_MEASURE = 1e15
# Units whose numbers mean nothing by themselves, so that only their proportions are compared.
_ARBITRARY = frozenset({"1", "{counts}"})


def statistics_of(volume: Volume) -> dict[str, float]:
    """Statistics of the voxels that do not depend on how the image lies.

    Returns:
        ``dark`` (share of voxels as good as the lowest value), ``median`` and ``mean`` (between
        the 1st and the 99th percentile, 0 to 1), ``entropy`` (bits, of 64 bins), ``roughness``
        (mean difference of neighbours in a row, of that range); ``slices_mm``, ``rows_mm`` and
        ``columns_mm`` (extent, where the spacing is known); and where the units have a meaning
        ``p1``, ``p50`` and ``p99`` in them. Nothing where values are not finite or beyond measure.
    """
    if not is_measurable(volume.voxels):
        return {}
    sample = thinned(volume.voxels)
    low, middle, high = (float(value) for value in np.percentile(sample, (1, 50, 99)))
    width = high - low or 1.0
    scaled = np.clip((sample - low) / width, 0.0, 1.0)
    counts, _ = np.histogram(scaled, _BINS, (0.0, 1.0))
    shares = counts[counts > 0] / scaled.size
    found = {
        "dark": float(np.mean(scaled <= _NEAR)),
        "median": (middle - low) / width,
        "mean": float(scaled.mean()),
        "entropy": float(-np.sum(shares * np.log2(shares))),
        "roughness": _roughness(volume.voxels, low, width),
    }
    names = ("slices_mm", "rows_mm", "columns_mm")
    for name, step, count in zip(names, volume.spacing, volume.voxels.shape, strict=True):
        if step is not None:
            found[name] = step * count
    if volume.units not in _ARBITRARY:
        found |= {"p1": low, "p50": middle, "p99": high}
    return found


def is_measurable(voxels: NDArray[np.generic]) -> bool:
    """Whether sums and squares of the values are numbers too."""
    if voxels.dtype.kind != "f":
        return True
    low, high = float(voxels.min()), float(voxels.max())  # either is NaN where any value is
    return max(abs(low), abs(high)) < _BEYOND_MEASURE


def thinned(voxels: NDArray[np.generic], most: int = MOST) -> NDArray[np.float32]:
    """Every n-th voxel along each axis that is longer than one, so that about `most` are left."""
    axes = sum(count > 1 for count in voxels.shape) or 1
    step = max(1, round((voxels.size / most) ** (1 / axes)))
    steps = tuple(slice(None, None, step if count > 1 else 1) for count in voxels.shape)
    return voxels[steps].astype(np.float32)


def _roughness(voxels: NDArray[np.generic], low: float, width: float) -> float:
    # Neighbours stay neighbours here: whole rows are left out, never voxels within one.
    step = max(1, voxels.size // MOST)
    rows = voxels.reshape(-1, voxels.shape[-1])[::step].astype(np.float32)
    if rows.shape[1] < 2:
        return 0.0
    scaled = np.clip((rows - low) / width, 0.0, 1.0)
    return float(np.abs(np.diff(scaled, axis=1)).mean())
