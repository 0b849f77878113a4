"""Sliding windows: an image of any length through a model of fixed size, in bounded memory.

Patches lie in rows: all those that begin on the same plane. Their scores are blended in one slab,
as deep as a patch; as soon as no further patch reaches a plane, its scores are labels and leave the
slab. Beside the image and its labels there is never more than that slab, whatever the length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai import slabs
from ai.grid import Shape
from ai.inputs import Sliding
from ai.postprocess import channels_first
from ai.preprocess import Plan
from ai.segments import Labels
from config.errors import InferenceError

Floats = NDArray[np.float32]
Place = tuple[slice, slice, slice]

# Standard deviation of the weights as a share of the patch, and the least weight.
_SPREAD, _LEAST = 0.125, 1e-3
# Scores that become labels at a time.
_MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Windows:
    """Where patches lie along one axis.

    Attributes:
        starts: First voxel of each.
        weights: How much each voxel of each counts; they add up to 1 wherever patches overlap.
    """

    starts: tuple[int, ...]
    weights: tuple[Floats, ...]


def windows(size: int, patch: int, overlap: float, blend: str) -> Windows:
    """Patches spread evenly over an axis, the first at its begin and the last at its end.

    Args:
        size: Voxels along the axis, at least those of a patch.
        patch: Voxels of a patch.
        overlap: Least share of a patch that the next one covers too.
        blend: As in `ai.inputs.Sliding`.
    """
    step = max(1, round(patch * (1 - overlap)))
    count = -(-(size - patch) // step) + 1
    starts = tuple(round(at) for at in np.linspace(0, size - patch, count))
    profile = np.ones(patch)
    if blend == "gaussian":
        apart = (np.arange(patch) - (patch - 1) / 2) / (patch * _SPREAD)
        profile = np.maximum(np.exp(-0.5 * apart**2), _LEAST)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += profile
    parts = ((profile / total[start : start + patch]).astype(np.float32) for start in starts)
    return Windows(starts, tuple(parts))


@dataclass(frozen=True)
class Patch:
    """One run.

    Attributes:
        feeds: The graph's inputs.
        row: Which row it is of.
        place: Where it lies in the row's slab.
        weights: How much its voxels count, along each axis.
        last: It is the last of its row.
    """

    feeds: Mapping[str, NDArray[Any]]
    row: int
    place: Place
    weights: tuple[Floats, Floats, Floats]
    last: bool

    @property
    def shape(self) -> Shape:
        """Slices, rows and columns of it."""
        first, second, third = (part.stop - part.start for part in self.place)
        return first, second, third


class Slide:
    """One walk of a model over an image.

    Args:
        plans: How each input is prepared, the primary one first; all on one grid.
        facts: The graph's further inputs.
        labels: What its scores mean, where they are blended.
    """

    def __init__(
        self, plans: Sequence[Plan], facts: Mapping[str, NDArray[Any]], labels: Labels | None
    ) -> None:
        self._plans, self._facts, self._labels = plans, facts, labels
        plan = plans[0]
        sliding = plan.spec.sliding
        if sliding is None:
            raise ValueError("the model takes the whole image")
        self.grid = padded_to_patch(plan)
        self._rows = _rows(self.grid[0], plan, sliding)
        self._down, self._along = (
            windows(size, patch, sliding.overlap, sliding.blend)
            for size, patch in zip(self.grid[1:], sliding.patch[-2:], strict=True)
        )
        self._patch = sliding.patch[-2:]
        self._slab: Floats | None = None

    def patches(self) -> Iterator[Patch]:
        """Every run, row by row.

        Raises:
            InferenceError: The image holds values that are not finite.
        """
        held: list[Floats] = []
        seen = 0
        for row, (start, weight) in enumerate(zip(*self._rows, strict=True)):
            stop = start + len(weight)
            kept = (
                [each[:, len(each[0]) - (seen - start) :] for each in held] if seen > start else []
            )
            new = [self._planes(plan, max(start, seen), stop) for plan in self._plans]
            held = (
                [np.concatenate(pair, axis=1) for pair in zip(kept, new, strict=True)]
                if kept
                else new
            )
            seen = stop
            yield from self._row(row, held, weight)

    def _planes(self, plan: Plan, first: int, last: int) -> Floats:
        if plan.spec.axes == 3:
            made = slabs.prepared(plan, first, last)
        else:
            made = plan.planes(first, last)
        short = [(0, 0), (0, 0)] + [
            (0, n - own) for n, own in zip(self.grid[1:], made.shape[2:], strict=True)
        ]
        if not any(after for _, after in short):
            return made
        return np.pad(made, short, constant_values=np.float32(plan.spec.pad_value))

    def _row(self, row: int, planes: Sequence[Floats], weight: Floats) -> Iterator[Patch]:
        corners = list(
            itertools.product(
                zip(self._down.starts, self._down.weights, strict=True),
                zip(self._along.starts, self._along.weights, strict=True),
            )
        )
        height, width = self._patch
        for number, ((top, down), (left, along)) in enumerate(corners, start=1):
            rows, columns = slice(top, top + height), slice(left, left + width)
            feeds = {
                plan.spec.tensor: plan.laid_out(part[:, :, rows, columns])
                for plan, part in zip(self._plans, planes, strict=True)
            }
            yield Patch(
                feeds=feeds | dict(self._facts),
                row=row,
                place=(slice(0, len(weight)), rows, columns),
                weights=(weight, down, along),
                last=number == len(corners),
            )

    def corner(self, patch: Patch) -> Shape:
        """First voxel of a patch in the padded model grid of the whole image."""
        return self._rows[0][patch.row], patch.place[1].start, patch.place[2].start

    def fold(self, patch: Patch, tensor: NDArray[Any]) -> Iterator[tuple[int, Floats]]:
        """Blends the scores of one run; patches come in the order of `patches`.

        Yields:
            Planes of the padded model grid that no further patch reaches: the number of the
            first, and ``(channels, planes, rows, columns)``.

        Raises:
            InferenceError: The tensor has another shape than the patch.
        """
        if self._labels is None:
            raise ValueError("the model gives no scores that could be blended")
        scores = channels_first(self._labels.layout, tensor)
        wanted = patch.shape
        if scores.shape[1:] != wanted:
            text = f"{self._labels.tensor} has shape {tensor.shape}, which fits no {wanted}"
            raise InferenceError(text)
        if self._slab is None:
            deepest = max(len(weight) for weight in self._rows[1])
            self._slab = np.zeros((len(scores), deepest, *self.grid[1:]), np.float32)
        if len(scores) != len(self._slab):
            raise InferenceError(f"{self._labels.tensor} changes the number of its channels")
        through, down, along = patch.weights
        weight = through[:, None, None] * (down[:, None] * along)
        part = np.empty(wanted, np.float32)
        for channel, own in zip(self._slab, scores, strict=True):
            np.multiply(own, weight, out=part, casting="same_kind")
            channel[patch.place] += part
        if patch.last:
            yield from self._finished(patch.row)

    def _finished(self, row: int) -> Iterator[tuple[int, Floats]]:
        starts, weights = self._rows
        first, end = starts[row], starts[row] + len(weights[row])
        until = starts[row + 1] if row + 1 < len(starts) else end
        slab = self._slab
        if slab is None:
            return
        step = max(1, _MOST_BYTES // (slab[:, 0].nbytes or 1))
        plan = self._plans[0]
        own = plan.padded_shape(plan.shape[0])[1:]
        for at in range(first, until, step):
            stop = min(at + step, until)
            yield at, slab[:, at - first : stop - first, : own[0], : own[1]]
        # What the next row adds to moves to the front, plane by plane, so that nothing is doubled.
        for plane in range(slab.shape[1]):
            source = plane + until - first
            slab[:, plane] = slab[:, source] if source < end - first else 0.0


def padded_to_patch(plan: Plan) -> Shape:
    """The padded model grid of a whole image, and at least one patch."""
    grid = plan.padded_shape(plan.shape[0])
    patch = plan.spec.sliding.patch if plan.spec.sliding else grid
    least = (1, *patch) if plan.spec.axes == 2 else patch
    first, second, third = (max(n, own) for n, own in zip(grid, least, strict=True))
    return first, second, third


def _rows(depth: int, plan: Plan, sliding: Sliding) -> tuple[Sequence[int], Sequence[Floats]]:
    """First plane and weights of each row; of a 2D model a row is a batch of slices."""
    if plan.spec.axes == 3:
        made = windows(depth, sliding.patch[0], sliding.overlap, sliding.blend)
        return made.starts, made.weights
    starts = range(0, depth, plan.spec.batch)
    return starts, [np.ones(min(plan.spec.batch, depth - at), np.float32) for at in starts]
