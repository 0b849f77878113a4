"""Probabilities brought back to the image's own grid by interpolation, a few slices at a time.

Labels of a coarse grid come back as steps of its voxels; interpolated probabilities, of which the
labels are made afterwards, come back as smooth as the network saw them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ai import slabs
from ai.preprocess import Plan, resample

Floats = NDArray[np.float32]

# Probabilities in the image's grid at a time.
_MOST_BYTES = 1 << 26


class Smooth:
    """Takes planes of the padded model grid in their order and gives slices of the oriented grid.

    Args:
        plan: How the image was prepared; its two grids differ in some spacing.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._held: Floats | None = None
        self._seen = 0
        self._next = 0

    def take(self, planes: Floats, first: int) -> Iterator[tuple[int, Floats]]:
        """Takes the next planes.

        Args:
            planes: ``(channels, planes, rows, columns)``, padding included.
            first: Number of the first one.

        Yields:
            The number of a slice, and ``(channels, slices, rows, columns)`` from there on,
            interpolated linearly between the centres of the model's voxels, beyond the outermost
            ones constant; every slice once, as soon as the planes around it are there.
        """
        parts = [slabs.unpadded(self._plan, channel, first) for channel in planes]
        new = np.stack(parts) if parts[0].size else None
        if new is None:
            return
        joined = new if self._held is None else np.concatenate([self._held, new], axis=1)
        self._seen += new.shape[1]
        begin = self._seen - joined.shape[1]
        self._held = joined[:, -1:].copy()
        stop = self._reached()
        rows, columns = self._plan.shape[1:]
        step = max(1, _MOST_BYTES // (joined.shape[0] * rows * columns * joined.itemsize))
        along, down, across = (1.0 / scale for scale in self._plan.scale)
        back = (along, down, across)
        for at in range(self._next, stop, step):
            shape = (min(at + step, stop) - at, rows, columns)
            start = at * along - begin
            yield (
                at,
                np.stack(
                    [
                        resample(np.ascontiguousarray(c), back, shape, "linear", start)
                        for c in joined
                    ]
                ),
            )
        self._next = stop

    def _reached(self) -> int:
        """How many slices of the image can be told from the planes so far."""
        if self._seen >= self._plan.model_shape[0]:
            return self._plan.shape[0]
        # The centre of slice i lies at (i + 0.5) / scale - 0.5, at most at the last plane's centre.
        scale = self._plan.scale[0]
        last = math.floor((self._seen - 0.5) * scale - 0.5 + 1e-9)
        return max(self._next, min(last + 1, self._plan.shape[0]))
