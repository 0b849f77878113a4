"""What is counted over the voxels of each segment, block by block, so that no volume is copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.label_values import LabelVolume, layers_of
from ai.outputs import Output
from ai.segments import Statistic

_LABELS = 256


class Tally:
    """Counts, sums and extremes by label.

    Mean and spread of the blocks are merged as Chan, Golub and LeVeque do (1983), which keeps the
    precision that a plain sum of squares loses.

    Attributes:
        output: What is asked for.
        count: Voxels of each segment by number, in the image's own grid.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.count = np.zeros(_LABELS, np.int64)
        self._mean = np.zeros(_LABELS)
        self._spread = np.zeros(_LABELS)
        self._low = np.full(_LABELS, np.inf)
        self._high = np.full(_LABELS, -np.inf)
        self._model_count = np.zeros(_LABELS, np.int64)
        self._model_sum = np.zeros(_LABELS)

    def add(self, labels: LabelVolume, values: NDArray[Any]) -> None:
        """Counts a block.

        Args:
            labels: Labels of any shape, in the image's own grid.
            values: The image's own values there, same shape.
        """
        for label_slice, value_slice in zip(labels, values, strict=True):
            for layer in layers_of(label_slice, overlap=self.output.overlap):
                self._add_slice(layer.reshape(-1), value_slice.reshape(-1))

    def _add_slice(self, labels: LabelVolume, values: NDArray[Any]) -> None:
        count = np.bincount(labels, minlength=_LABELS)
        if self.output.intensity is not None:
            kinds = set(self.output.intensity.statistics)
            if kinds & {"mean", "sd"}:
                self._merge(labels, values.astype(np.float64), count, "sd" in kinds)
            if kinds & {"min", "max"}:
                for number in np.flatnonzero(count[1:]) + 1:
                    inside = values[labels == number]
                    self._low[number] = min(self._low[number], float(inside.min()))
                    self._high[number] = max(self._high[number], float(inside.max()))
        self.count += count

    def _merge(
        self,
        labels: LabelVolume,
        values: NDArray[np.float64],
        count: NDArray[np.int64],
        spread: bool,
    ) -> None:
        some = np.maximum(count, 1)
        mean = np.bincount(labels, values, _LABELS) / some
        step = mean - self._mean
        total = np.maximum(self.count + count, 1)
        if spread:
            own = np.bincount(labels, (values - mean[labels]) ** 2, _LABELS)
            self._spread += own + step**2 * self.count * count / total
        self._mean += np.where(count > 0, step * count / total, 0.0)

    def add_probabilities(
        self, labels: LabelVolume, probabilities: Iterable[NDArray[np.float32]]
    ) -> None:
        """Counts how sure the model is of the labels of a block of its own grid.

        Args:
            labels: Labels of any shape.
            probabilities: Of the voxels' labels, same shape: one layer, or where segments overlap
                one of each by number. A voxel without one, below 0, does not count.
        """
        layers = layers_of(labels, overlap=self.output.overlap)
        # Segments beyond the last that holds a voxel have no layer.
        for layer, probability in zip(layers, probabilities, strict=False):
            counts = probability >= 0
            flat, own = layer[counts], probability[counts]
            self._model_count += np.bincount(flat, minlength=_LABELS)
            self._model_sum += np.bincount(flat, own, _LABELS)

    def probability(self, number: int) -> float | None:
        """Mean probability of a segment's voxels, or None where the model defines none."""
        if self._model_count[number] == 0:
            return None
        return float(np.clip(self._model_sum[number] / self._model_count[number], 0.0, 1.0))

    def statistic(self, number: int, kind: Statistic) -> float:
        """A statistic of the image's values in a segment that has voxels."""
        if kind == "sd":
            # Of the voxels as they are, not of a sample of them: divided by n.
            return float(np.sqrt(self._spread[number] / self.count[number]))
        column = {"mean": self._mean, "min": self._low, "max": self._high}[kind]
        return float(column[number])
