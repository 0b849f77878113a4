"""From an image to the tensor a graph wants, and back to the image's own grid.

Two grids are told apart. The *oriented* grid is the image's own, its axes permuted and flipped as
the manifest asks, and cropped; it is a view, so what is written into it stands in the image's grid
exactly. The *model* grid is the oriented one resampled. Both are counted in voxels, slices first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai import grid, intensities, masks
from ai.grid import Shape
from ai.inputs import Input, Interpolation
from ai.types import Volume
from config.errors import InferenceError

T = TypeVar("T", bound=np.generic)
Floats = NDArray[np.float32]
INTERPOLATORS: dict[Interpolation, int] = {
    "nearest": sitk.sitkNearestNeighbor,
    "linear": sitk.sitkLinear,
    "bspline": sitk.sitkBSpline,
}
_LEAST_FOR_BSPLINE = 4  # voxels along an axis, of ITK


@dataclass(frozen=True)
class Plan:
    """How one image is prepared for one model.

    Attributes:
        order: Axis of the image that becomes each axis of the oriented grid.
        flips: Which axes of the oriented grid run against the image's.
        box: What the oriented grid keeps of the image, after permuting and flipping.
        shape: Oriented grid.
        model_shape: Model grid, before padding.
        scale: Voxels of the oriented grid per voxel of the model grid, along each axis.
        looks: What was found out of the image's values.
        present: False for an optional input that is not there.
    """

    spec: Input
    volume: Volume
    order: Shape
    flips: tuple[bool, bool, bool]
    box: masks.Box
    shape: Shape
    model_shape: Shape
    scale: tuple[float, float, float]
    looks: intensities.Looks
    present: bool = True

    def oriented(self, array: NDArray[T]) -> NDArray[T]:
        """An array of the image's grid, seen in the oriented grid; a view, never a copy."""
        return grid.turned(array, self.order, self.flips)[self.box]

    def blocks(self) -> list[tuple[int, int]]:
        """First and last-but-one slice of the oriented grid for each run of the graph."""
        step = self.spec.batch if self.spec.axes == 2 else self.shape[0]
        return [(at, min(at + step, self.shape[0])) for at in range(0, self.shape[0], step)]

    def tensor(self, start: int, stop: int) -> Floats:
        """The graph's input for slices `start` to `stop` (exclusive), in the declared layout.

        Raises:
            InferenceError: The image holds values that are not finite.
        """
        return self.laid_out(self.planes(start, stop))

    def planes(self, start: int, stop: int) -> Floats:
        """As `tensor`, but ``(channels, slices, rows, columns)``."""
        if not self.present:
            channels = (self.spec.channels, *self.padded_shape(stop - start))
            return np.full(channels, self.spec.pad_value, np.float32)
        slices = self._with_neighbours(start, stop)
        outline = self.outline(slices)
        kept = None if outline is None else self._resampled(outline, "nearest")
        made = []
        for colour in (0, 1, 2) if self._in_colour else (None,):
            block = self._resampled(self.values(slices, colour), self.spec.interpolation)
            seen = self.channels(block, kept, stop - start)
            made += seen if colour is None else [seen[colour]]
        planes = [self._pad(plane) for plane in made]
        return planes[0][None] if len(planes) == 1 else np.stack(planes)

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
        values = self.unpadded(values)
        full = (slices, *self.shape[1:])
        if self.scale == (1.0, 1.0, 1.0):
            return values[: full[0]]
        limits = (self._depth(slices), *self.model_shape[1:])
        index = [
            np.minimum(((np.arange(n) + 0.5) / step).astype(np.intp), limit - 1)
            for n, step, limit in zip(full, self.scale, limits, strict=True)
        ]
        return values[np.ix_(*index)]

    def places_back(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places of the padded model grid in the image's own grid.

        Args:
            places: ``(n, 3)`` along slices, rows and columns, 0.0 the outer edge of the first
                voxel of the padded grid, n that of the last of n.

        Returns:
            ``(n, 3)`` along the image's own axes, 0.0 the outer edge of its first voxel. A place in
            the padding lies outside the oriented grid.
        """
        before = self.pad_before(self.shape[0] if self.spec.axes == 3 else 1)
        corner = np.array([part.start for part in self.box], float)
        inside = (places - np.array(before)) * np.array(self.scale) + corner
        own = np.zeros((len(places), 3))
        for axis, (whose, flip) in enumerate(zip(self.order, self.flips, strict=True)):
            length = self.volume.voxels.shape[whose]
            own[:, whose] = length - inside[:, axis] if flip else inside[:, axis]
        return own

    def unpadded(self, block: NDArray[T]) -> NDArray[T]:
        """A block of the model grid without its padding."""
        depth = len(block) if self.spec.axes == 2 else self.model_shape[0]
        sizes = (depth, *self.model_shape[1:])
        before = self.pad_before(len(block))
        return block[tuple(slice(at, at + n) for at, n in zip(before, sizes, strict=True))]

    def padded_shape(self, slices: int) -> Shape:
        """Model grid of a block of so many slices, padding included."""
        many, spec = self.spec.multiple_of, self.spec
        sizes = [self._depth(slices), *self.model_shape[1:]]
        for axis in range(3 - spec.axes, 3):
            at = axis - (3 - spec.axes)
            least = max(
                spec.least[at] if spec.least else 1,
                spec.size[at] if spec.size and spec.fit == "inside" else 1,
            )
            sizes[axis] = -(-max(sizes[axis], least) // many) * many
        return sizes[0], sizes[1], sizes[2]

    def pad_before(self, slices: int) -> Shape:
        """Voxels of padding before the first of each axis, for a block of so many slices."""
        if self.spec.pad == "end":
            return 0, 0, 0
        depth = self._depth(slices)
        wanted, there = self.padded_shape(slices), (depth, *self.model_shape[1:])
        first, second, third = ((n - own) // 2 for n, own in zip(wanted, there, strict=True))
        return (0 if self.spec.axes == 2 else first), second, third

    def _depth(self, slices: int) -> int:
        return slices if self.spec.axes == 2 else self.model_shape[0]

    def _with_neighbours(self, start: int, stop: int) -> NDArray[np.intp]:
        """Slices of the oriented grid that a block needs, those beyond it the nearest ones."""
        reach = self.spec.neighbours
        return np.clip(np.arange(start - reach, stop + reach), 0, self.shape[0] - 1)

    @property
    def _in_colour(self) -> bool:
        return self.spec.colour == "rgb" and self.volume.rgb is not None

    def values(self, slices: NDArray[np.intp], colour: int | None = None) -> Floats:
        """Values of some slices of the oriented grid, each at most one step from the last.

        Args:
            slices: Their numbers.
            colour: 0, 1, 2 for the red, green or blue of a colour image; None for the luminance.

        Raises:
            InferenceError: They are not finite.
        """
        first, last = int(slices[0]), int(slices[-1])
        rgb, voxels = self.volume.rgb, self.volume.voxels
        source = voxels if colour is None or rgb is None else rgb[..., colour]
        part = self.oriented(source)[first : last + 1]
        if len(part) != len(slices):
            part = part[slices - first]
        block = intensities.plain(part, self.spec, self.volume)
        if not np.isfinite(block).all():
            raise InferenceError("the input holds values that are not finite")
        return block

    def outline(self, slices: NDArray[np.intp]) -> Floats | None:
        """1 where values of some slices are normalised, else 0; None where all are."""
        inside = self.looks.inside
        return None if inside is None else np.ascontiguousarray(self.oriented(inside)[slices], "f4")

    def _resampled(self, block: Floats, interpolation: Interpolation) -> Floats:
        shape = (self._depth(len(block)), *self.model_shape[1:])
        return resample(block, self.scale, shape, interpolation)

    def _pad(self, block: Floats) -> Floats:
        wanted = self.padded_shape(len(block) if self.spec.axes == 2 else self.shape[0])
        if block.shape == wanted:
            return block
        padded = np.full(wanted, self.spec.pad_value, np.float32)
        before = self.pad_before(len(block))
        place = (slice(at, at + n) for at, n in zip(before, block.shape, strict=True))
        padded[tuple(place)] = block
        return padded

    def channels(self, block: Floats, inside: Floats | None, slices: int) -> list[Floats]:
        """The block as each channel sees it: of each window, and of each neighbour."""
        norm, scales = self.spec.normalisation, self.looks.scales
        made = []
        for number, scale in enumerate(scales):
            values = block if number == len(scales) - 1 else block.copy()
            scale.apply(values)
            made.append(values)
        if self.spec.neighbours:
            made = [made[0][at : at + slices] for at in range(self.spec.channels)]
        elif len(made) == 1:
            made *= self.spec.channels
        if norm.mean is not None or norm.sd is not None:
            mean = norm.mean or (0.0,) * self.spec.channels
            sd = norm.sd or (1.0,) * self.spec.channels
            made = [
                (each - np.float32(m)) / np.float32(s)
                for each, m, s in zip(made, mean, sd, strict=True)
            ]
        if inside is not None and norm.outside is not None:
            made = [
                np.where(
                    self._shifted(inside, number, slices) > 0.5, each, np.float32(norm.outside)
                )
                for number, each in enumerate(made)
            ]
        return made

    def _shifted(self, inside: Floats, channel: int, slices: int) -> Floats:
        return inside[channel : channel + slices] if self.spec.neighbours else inside

    def laid_out(self, planes: Floats) -> Floats:
        """``(channels, slices, rows, columns)`` in the declared layout."""
        # 2D: a slice is an item of the batch; 3D: the volume is the only one.
        batch = np.moveaxis(planes, 0, 1) if self.spec.axes == 2 else planes[None]
        if "C" not in self.spec.layout:
            batch = batch[:, 0]
        elif self.spec.layout.endswith("C"):
            batch = np.moveaxis(batch, 1, -1)
        return np.ascontiguousarray(batch)


def plan(spec: Input, volume: Volume, primary: Plan | None = None) -> Plan:
    """Decides how an image is prepared; reads its values only where it must.

    Args:
        spec: What is to be done.
        volume: The image.
        primary: How the primary input is prepared, whose grid this one shares; None for that one.
    """
    body = intensities.body(spec, volume)
    made = _laid_out(spec, volume, body) if primary is None else primary
    over = spec.normalisation.over
    region = _cropped(made, volume) if over == "crop" else body if over == "body" else None
    return Plan(
        spec, volume, made.order, made.flips, made.box, made.shape, made.model_shape, made.scale,
        intensities.looks(spec, volume, region),
    )  # fmt: skip


def _cropped(made: Plan, volume: Volume) -> masks.Mask:
    """Which voxels of an image the crop keeps, in the image's own grid."""
    kept = np.zeros(volume.voxels.shape, np.bool_)
    made.oriented(kept)[...] = True
    return kept


def absent(spec: Input, primary: Plan) -> Plan:
    """Stands for an optional input that is not there, on the grid of the primary one."""
    return Plan(
        spec, primary.volume, primary.order, primary.flips, primary.box, primary.shape,
        primary.model_shape, primary.scale, _NOTHING, present=False,
    )  # fmt: skip


_NOTHING = intensities.Looks((intensities.AS_IT_COMES,), None)


def _laid_out(spec: Input, volume: Volume, body: masks.Mask | None) -> Plan:
    order, flips = grid.orientation(spec, volume)
    box = grid.kept(spec, volume, order, flips, body)
    first, second, third = (part.stop - part.start for part in box)
    shape = (first, second, third)
    model_shape, scale = grid.resized(spec, shape, [volume.spacing[axis] for axis in order])
    return Plan(spec, volume, order, flips, box, shape, model_shape, scale, _NOTHING)


def resample(
    block: Floats,
    scale: tuple[float, float, float],
    shape: Shape,
    interpolation: Interpolation = "linear",
    start: float = 0.0,
) -> Floats:
    """Interpolation onto a grid that begins at the same corner as the block.

    Args:
        block: ``(slices, rows, columns)``.
        scale: Voxels of the block per voxel of the result, along each axis.
        shape: Shape of the result; beyond the block's last voxel centre the edge is repeated.
        interpolation: Its kind; B-splines are cubic.
        start: Where in the block the result begins along the slices, in voxels of the block.

    Raises:
        InferenceError: Too few voxels for B-splines.
    """
    if scale == (1.0, 1.0, 1.0):
        return block
    if scale[0] == 1.0 and len(block) == shape[0] and not start:
        # Slices are images of their own.
        flat = [_resampled(piece, scale[1:], shape[1:], interpolation) for piece in block]
        return np.stack(flat)
    return _resampled(block, scale, shape, interpolation, start)


def _resampled(
    block: Floats,
    scale: tuple[float, ...],
    shape: tuple[int, ...],
    interpolation: Interpolation,
    start: float = 0.0,
) -> Floats:
    if interpolation == "bspline" and min(block.shape) < _LEAST_FOR_BSPLINE:
        raise InferenceError(
            f"the input has {min(block.shape)} voxels along an axis, too few for B-splines"
        )
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(INTERPOLATORS[interpolation])
    filter_.SetUseNearestNeighborExtrapolator(True)
    filter_.SetSize([int(n) for n in reversed(shape)])
    filter_.SetOutputSpacing(list(reversed(scale)))
    # Voxel centres: the first of the result lies half a step from the common corner at -0.5.
    origin = [0.5 * step - 0.5 for step in reversed(scale)]
    origin[-1] += start
    filter_.SetOutputOrigin(origin)
    filter_.SetOutputDirection(np.eye(len(shape)).reshape(-1).tolist())
    filter_.SetNumberOfThreads(1)
    result: Floats = sitk.GetArrayFromImage(filter_.Execute(sitk.GetImageFromArray(block)))
    return result
