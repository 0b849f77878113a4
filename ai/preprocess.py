"""From an image to the tensor a graph wants, and back to the image's own grid.

Two grids are told apart. The *oriented* grid is the image's own, its axes permuted and flipped as
the manifest asks; it is a view, so what is written into it stands in the image's grid exactly. The
*model* grid is the oriented one resampled. Both are counted in voxels, slices first.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.manifest import Input
from ai.types import Volume
from config.errors import InferenceError

Shape = tuple[int, int, int]
T = TypeVar("T", bound=np.generic)
Floats = NDArray[np.float32]
_TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Plan:
    """How one image is prepared for one model.

    Attributes:
        order: Axis of the image that becomes each axis of the oriented grid.
        flips: Which axes of the oriented grid run against the image's.
        shape: Oriented grid.
        model_shape: Model grid, before padding.
        scale: Voxels of the oriented grid per voxel of the model grid, along each axis.
        center: Subtracted from each value.
        gain: Multiplied with after that.
        offset: Added after that.
        present: False for an optional input that is not there.
    """

    spec: Input
    volume: Volume
    order: Shape
    flips: tuple[bool, bool, bool]
    shape: Shape
    model_shape: Shape
    scale: tuple[float, float, float]
    center: float
    gain: float
    offset: float
    present: bool = True

    def oriented(self, array: NDArray[T]) -> NDArray[T]:
        """An array of the image's grid, seen in the oriented grid; a view, never a copy."""
        turned = array.transpose(self.order)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def blocks(self) -> list[tuple[int, int]]:
        """First and last-but-one slice of the oriented grid for each run of the graph."""
        step = self.spec.batch if self.spec.axes == 2 else self.shape[0]
        return [(at, min(at + step, self.shape[0])) for at in range(0, self.shape[0], step)]

    def tensor(self, start: int, stop: int) -> Floats:
        """The graph's input for slices `start` to `stop` (exclusive), in the declared layout.

        Raises:
            InferenceError: The image holds values that are not finite.
        """
        if not self.present:
            channels = (self.spec.channels, *self.padded_shape(stop - start))
            return self._layout(np.full(channels, self.spec.pad_value, np.float32))
        block = _plain(self.oriented(self.volume.voxels)[start:stop], self.spec, self.volume)
        if not np.isfinite(block).all():
            raise InferenceError("the input holds values that are not finite")
        block = resample(block, self.scale, (self._depth(len(block)), *self.model_shape[1:]))
        _limit(block, self.spec)
        block -= np.float32(self.center)
        block *= np.float32(self.gain)
        block += np.float32(self.offset)
        planes = [self._pad(plane) for plane in self._planes(block)]
        return self._layout(planes[0][None] if len(planes) == 1 else np.stack(planes))

    def facts(self) -> dict[str, Floats]:
        """Further inputs of the graph that tell it about the image, by tensor name."""
        known = {
            "value_range": np.asarray(self.volume.value_range, np.float32),
            "lowest_is_white": np.asarray([self.volume.lowest_is_white], np.float32),
            "present": np.asarray([self.present], np.float32),
        }
        return {tensor: known[fact] for tensor, fact in self.spec.facts.items()}

    def back(self, values: NDArray[T], slices: int) -> NDArray[T]:
        """Labels, probabilities or a map of the (padded) model grid in the oriented grid.

        Each voxel of the image takes the value of the model voxel that its centre lies in.

        Args:
            values: ``(slices, rows, columns)`` as the graph gave them, padding included.
            slices: How many slices of the oriented grid the block has.
        """
        full = (slices, *self.shape[1:])
        if self.scale == (1.0, 1.0, 1.0):
            return values[: full[0], : full[1], : full[2]]
        limits = (self._depth(slices), *self.model_shape[1:])
        index = [
            np.minimum(((np.arange(n) + 0.5) / step).astype(np.intp), limit - 1)
            for n, step, limit in zip(full, self.scale, limits, strict=True)
        ]
        return values[np.ix_(*index)]

    def unpadded(self, block: NDArray[T]) -> NDArray[T]:
        """A block of the model grid without its padding."""
        depth = len(block) if self.spec.axes == 2 else self.model_shape[0]
        return block[:depth, : self.model_shape[1], : self.model_shape[2]]

    def padded_shape(self, slices: int) -> Shape:
        """Model grid of a block of so many slices, padding included."""
        many = self.spec.multiple_of
        rows, columns = (-(-n // many) * many for n in self.model_shape[1:])
        depth = self._depth(slices)
        return (depth if self.spec.axes == 2 else -(-depth // many) * many, rows, columns)

    def _depth(self, slices: int) -> int:
        return slices if self.spec.axes == 2 else self.model_shape[0]

    def _pad(self, block: Floats) -> Floats:
        wanted = self.padded_shape(len(block) if self.spec.axes == 2 else self.shape[0])
        if block.shape == wanted:
            return block
        padded = np.full(wanted, self.spec.pad_value, np.float32)
        padded[tuple(slice(n) for n in block.shape)] = block
        return padded

    def _planes(self, block: Floats) -> list[Floats]:
        """The block as each channel sees it."""
        norm, channels = self.spec.normalisation, self.spec.channels
        if norm.mean is None and norm.sd is None:
            return [block] * channels
        mean = norm.mean or (0.0,) * channels
        sd = norm.sd or (1.0,) * channels
        return [(block - np.float32(m)) / np.float32(s) for m, s in zip(mean, sd, strict=True)]

    def _layout(self, planes: Floats) -> Floats:
        # 2D: a slice is an item of the batch; 3D: the volume is the only one.
        batch = np.moveaxis(planes, 0, 1) if self.spec.axes == 2 else planes[None]
        if "C" not in self.spec.layout:
            batch = batch[:, 0]
        elif self.spec.layout.endswith("C"):
            batch = np.moveaxis(batch, 1, -1)
        return np.ascontiguousarray(batch)


def plan(spec: Input, volume: Volume) -> Plan:
    """Decides how an image is prepared; reads its values only where a normalisation needs them."""
    order, flips = _orientation(spec, volume)
    oriented = tuple(volume.voxels.shape[axis] for axis in order)
    shape: Shape = (oriented[0], oriented[1], oriented[2])
    model_shape, scale = _grid(spec, shape, [volume.spacing[axis] for axis in order])
    center, gain, offset = _normalisation(spec, volume)
    return Plan(spec, volume, order, flips, shape, model_shape, scale, center, gain, offset)


def absent(spec: Input, grid: Volume) -> Plan:
    """Stands for an optional input that is not there, on the grid of the primary one."""
    order, flips = _orientation(spec, grid)
    oriented = tuple(grid.voxels.shape[axis] for axis in order)
    shape: Shape = (oriented[0], oriented[1], oriented[2])
    model_shape, scale = _grid(spec, shape, [grid.spacing[axis] for axis in order])
    return Plan(spec, grid, order, flips, shape, model_shape, scale, 0.0, 1.0, 0.0, present=False)


def resample(block: Floats, scale: tuple[float, float, float], shape: Shape) -> Floats:
    """Linear interpolation onto a grid that begins at the same corner as the block.

    Args:
        block: ``(slices, rows, columns)``.
        scale: Voxels of the block per voxel of the result, along each axis.
        shape: Shape of the result; beyond the block's last voxel centre the edge is repeated.
    """
    if scale == (1.0, 1.0, 1.0):
        return block
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(sitk.sitkLinear)
    filter_.SetUseNearestNeighborExtrapolator(True)
    filter_.SetSize([int(n) for n in reversed(shape)])
    filter_.SetOutputSpacing(list(reversed(scale)))
    # Voxel centres: the first of the result lies half a step from the common corner at -0.5.
    filter_.SetOutputOrigin([0.5 * step - 0.5 for step in reversed(scale)])
    filter_.SetNumberOfThreads(1)
    result: Floats = sitk.GetArrayFromImage(filter_.Execute(sitk.GetImageFromArray(block)))
    return result


def _plain(part: NDArray[np.generic], spec: Input, volume: Volume) -> Floats:
    block = part.astype(np.float32)
    if spec.black_lowest and volume.lowest_is_white:
        low, high = volume.value_range
        np.subtract(np.float32(low + high), block, out=block)
    return block


def _limit(block: Floats, spec: Input) -> None:
    if spec.window is not None:
        half = spec.window.width / 2.0
        np.clip(block, spec.window.center - half, spec.window.center + half, out=block)


def _values(part: NDArray[np.generic], spec: Input, volume: Volume) -> Floats:
    block = _plain(part, spec, volume)
    _limit(block, spec)
    return block


def _orientation(spec: Input, volume: Volume) -> tuple[Shape, tuple[bool, bool, bool]]:
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


def _grid(
    spec: Input, shape: Shape, spacing: list[float | None]
) -> tuple[Shape, tuple[float, float, float]]:
    sizes, scale = list(shape), [1.0, 1.0, 1.0]
    for axis in range(3 - spec.axes, 3):
        own = spacing[axis]
        if spec.size is not None:
            sizes[axis] = spec.size[axis - (3 - spec.axes)]
            scale[axis] = shape[axis] / sizes[axis]
        elif spec.spacing is not None and own is not None:
            scale[axis] = spec.spacing[axis - (3 - spec.axes)] / own
            # Rounded up, so that every voxel of the image lies in a voxel of the model.
            sizes[axis] = max(1, math.ceil(shape[axis] / scale[axis] - 1e-6))
    return (sizes[0], sizes[1], sizes[2]), (scale[0], scale[1], scale[2])


def _normalisation(spec: Input, volume: Volume) -> tuple[float, float, float]:
    kind, (first, last) = spec.normalisation.kind, spec.normalisation.to
    if kind == "none":
        return 0.0, 1.0, 0.0
    if kind == "zscore":
        mean, sd = _moments(spec, volume)
        return mean, 1.0 / sd if sd > 0 else 1.0, 0.0
    if kind == "window" and spec.window is not None:
        half = spec.window.width / 2.0
        low, high = spec.window.center - half, spec.window.center + half
    elif kind == "value_range":
        low, high = volume.value_range
    else:
        extremes = [
            (float(part.min()), float(part.max()))
            for part in (_values(piece, spec, volume) for piece in volume.voxels)
        ]
        low, high = min(pair[0] for pair in extremes), max(pair[1] for pair in extremes)
    return low, (last - first) / (high - low) if high > low else 1.0, first


def _moments(spec: Input, volume: Volume) -> tuple[float, float]:
    # Slice by slice in double precision, so that no second volume is held.
    shift = float(_values(volume.voxels[0], spec, volume).mean())
    total = squares = 0.0
    for piece in volume.voxels:
        values = _values(piece, spec, volume).astype(np.float64) - shift
        total += float(values.sum())
        squares += float(np.vdot(values, values))
    mean = total / volume.voxels.size
    return shift + mean, math.sqrt(max(0.0, squares / volume.voxels.size - mean * mean))
