"""The values of an image as a model wants them: black and white, windows, normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai import masks
from ai.inputs import Input, Window
from ai.types import Volume

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """How a value becomes one of the tensor: limited, ``(value - center) * gain + offset``.

    Attributes:
        low: Values below become this one first.
        high: Values above become this one first.
    """

    low: float
    high: float
    center: float = 0.0
    gain: float = 1.0
    offset: float = 0.0

    def apply(self, block: Floats) -> None:
        """Scales values in place."""
        if math.isfinite(self.low) or math.isfinite(self.high):
            np.clip(block, self.low, self.high, out=block)
        block -= np.float32(self.center)
        block *= np.float32(self.gain)
        block += np.float32(self.offset)


AS_IT_COMES = Scale(-math.inf, math.inf)


@dataclass(frozen=True)
class Looks:
    """What is known of the values of an image before any block of it is prepared.

    Attributes:
        scales: One a channel, or one for all of them.
        inside: Where values are normalised; elsewhere they become `Normalisation.outside`. None
            where that is not asked for. In the image's own grid.
    """

    scales: tuple[Scale, ...]
    inside: masks.Mask | None


def plain(part: NDArray[Any], spec: Input, volume: Volume) -> Floats:
    """Values of a part of an image, the lowest one made black where that is asked for."""
    block = part.astype(np.float32)
    if spec.black_lowest and volume.lowest_is_white:
        low, high = volume.value_range
        np.subtract(np.float32(low + high), block, out=block)
    return block


def body(spec: Input, volume: Volume) -> masks.Mask | None:
    """The body, in the image's own grid, where an input asks for it."""
    if not spec.needs_body:
        return None
    return masks.body((plain(piece, spec, volume) for piece in volume.voxels), spec.body_above)


def looks(spec: Input, volume: Volume, region: masks.Mask | None) -> Looks:
    """Finds out what the normalisation needs to know; reads the values only where it must.

    Args:
        spec: What is to be done.
        volume: The image.
        region: The body, or what the crop keeps, where the normalisation looks at that.
    """
    norm = spec.normalisation
    inside = volume.voxels != 0 if norm.over == "nonzero" else region
    scales = tuple(
        _scale(spec, volume, window, inside) for window in spec.windows or (spec.window,)
    )
    return Looks(scales, None if norm.outside is None else inside)


def _scale(spec: Input, volume: Volume, window: Window | None, inside: masks.Mask | None) -> Scale:
    kind, (first, last) = spec.normalisation.kind, spec.normalisation.to
    low, high = (-math.inf, math.inf) if window is None else window.ends
    pieces = _Pieces(spec, volume, inside, (low, high))
    if kind == "none":
        return Scale(low, high)
    if kind == "zscore":
        mean, sd = pieces.moments()
        return Scale(low, high, mean, 1.0 / sd if sd > 0 else 1.0, 0.0)
    if kind == "window":
        begin, end = low, high
    elif kind == "value_range":
        begin, end = volume.value_range
    elif kind == "percentiles":
        begin, end = low, high = pieces.percentiles(spec.normalisation.percentiles)
    else:
        begin, end = pieces.extremes()
    gain = (last - first) / (end - begin) if end > begin else 1.0
    return Scale(low, high, begin, gain, first)


class _Pieces:
    """The values that count for a normalisation, slice by slice, so that no volume is copied."""

    def __init__(
        self, spec: Input, volume: Volume, inside: masks.Mask | None, ends: tuple[float, float]
    ) -> None:
        self._spec, self._volume, self._inside, self._ends = spec, volume, inside, ends

    def __iter__(self) -> Iterator[Floats]:
        """Values of each slice that has any, flat."""
        for index, piece in enumerate(self._volume.voxels):
            block = self._limited(piece)
            kept = block.reshape(-1) if self._inside is None else block[self._inside[index]]
            if kept.size:
                yield kept

    def _limited(self, part: NDArray[Any]) -> Floats:
        block = plain(part, self._spec, self._volume)
        return np.clip(block, *self._ends, out=block) if np.isfinite(self._ends).any() else block

    def extremes(self) -> tuple[float, float]:
        found = [(float(kept.min()), float(kept.max())) for kept in self]
        if not found:
            return 0.0, 0.0
        return min(pair[0] for pair in found), max(pair[1] for pair in found)

    def moments(self) -> tuple[float, float]:
        # In double precision around a value of the image itself, so that nothing cancels.
        shift, total, squares, count = None, 0.0, 0.0, 0
        for kept in self:
            shift = float(kept.mean()) if shift is None else shift
            values = kept.astype(np.float64) - shift
            total += float(values.sum())
            squares += float(np.vdot(values, values))
            count += kept.size
        if shift is None:
            return 0.0, 1.0
        mean = total / count
        return shift + mean, math.sqrt(max(0.0, squares / count - mean * mean))

    def percentiles(self, wanted: tuple[float, float]) -> tuple[float, float]:
        """Percentiles as numpy's linear ones; of up to 16 bits without a copy of the volume."""
        voxels = self._volume.voxels
        if voxels.dtype.kind not in "iu" or voxels.dtype.itemsize > 2:
            kept = list(self)
            low, high = np.percentile(np.concatenate(kept), wanted) if kept else (0.0, 0.0)
            return float(low), float(high)
        first = int(np.iinfo(voxels.dtype).min)
        counts = np.zeros(np.iinfo(voxels.dtype).max - first + 1, np.int64)
        for index, piece in enumerate(voxels):
            inside = piece.reshape(-1) if self._inside is None else piece[self._inside[index]]
            counts += np.bincount(inside.astype(np.int64) - first, minlength=counts.size)
        there = np.flatnonzero(counts)
        if not there.size:
            return 0.0, 0.0
        levels = self._limited(there + first).astype(np.float64)
        order = np.argsort(levels, kind="stable")
        last = np.cumsum(counts[there][order]) - 1
        low, high = (_between(levels[order], last, percent / 100.0) for percent in wanted)
        return low, high


def _between(levels: NDArray[np.float64], last: NDArray[np.int64], share: float) -> float:
    place = share * float(last[-1])
    below, above = np.searchsorted(last, [math.floor(place), math.ceil(place)])
    return float(levels[below] + (levels[above] - levels[below]) * (place - math.floor(place)))
