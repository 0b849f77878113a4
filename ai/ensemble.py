"""``[ensemble]`` of ``model.toml``: several runs that answer the same question, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ai.inputs import Input
from ai.outputs import ActivationMap, Output
from ai.postprocess import activate
from ai.tables import FileName, Table

Tensors = dict[str, NDArray[Any]]
Axis = Literal["slices", "rows", "columns"]
_LETTERS = {"slices": "D", "rows": "H", "columns": "W"}
_AXES = tuple(_LETTERS)


class Ensemble(Table):
    """``[ensemble]``: every graph is run on the input as it is and on every flip of it.

    Attributes:
        graphs: Further ONNX files of `Manifest.files` with the inputs and outputs of the first.
        flips: Axes of the tensor that are turned around, together; each list is a further run. What
            comes of it is turned back before the mean.
    """

    graphs: Annotated[tuple[FileName, ...], Field(max_length=15)] = ()
    flips: Annotated[
        tuple[Annotated[tuple[Axis, ...], Field(min_length=1, max_length=3)], ...],
        Field(max_length=7),
    ] = ()

    @property
    def members(self) -> int:
        """Runs that answer one question."""
        return (1 + len(self.graphs)) * (1 + len(self.flips))

    def problems(self, inputs: Sequence[Input], output: Output) -> list[tuple[bool, str]]:
        """What the rest of a manifest may contradict, each with the sentence that says so."""
        labels = output.labels
        axes = {axis for flip in self.flips for axis in flip}
        several = self.members > 1
        return [
            (
                several and output.has_regions,
                "an ensemble gives no region of a finding: those of several runs have no mean",
            ),
            (
                "slices" in axes
                and isinstance(output.saliency, ActivationMap)
                and "D" not in output.saliency.layout,
                "flips of slices need output.saliency.layout with D",
            ),
            (
                several and labels is not None and labels.encoding == "index",
                'an ensemble needs labels with encoding = "channels"',
            ),
            (
                "slices" in axes and any(each.axes == 2 for each in inputs),
                'flips of slices need dimensions = "3D"',
            ),
            (
                any(len(set(flip)) != len(flip) for flip in self.flips)
                or len({frozenset(flip) for flip in self.flips}) != len(self.flips),
                "each flip names an axis once, and is named once",
            ),
        ]

    def settled(self, output: Output) -> Output:
        """What the joined tensors mean: the mean of probabilities is one already."""
        if self.members == 1 or output.labels is None:
            return output
        labels = output.labels.model_copy(update={"activation": "none"})
        return output.model_copy(update={"labels": labels})

    def feeds(self, inputs: Sequence[Input], feeds: Mapping[str, NDArray[Any]]) -> list[Tensors]:
        """The graph's inputs as they are and under every flip."""
        layouts = {spec.tensor: spec.layout for spec in inputs}
        return [
            {
                name: _flipped(tensor, layouts[name], flip) if name in layouts else tensor
                for name, tensor in feeds.items()
            }
            for flip in ((), *self.flips)
        ]

    def joined(self, output: Output, runs: Sequence[Tensors]) -> Tensors:
        """What all runs said as one: in the order of `feeds`, and of each all graphs.

        Args:
            output: What the tensors mean, as declared.
            runs: What each run gave.

        Returns:
            Labels as mean probabilities, in their layout; of every other tensor what each run said,
            along a new first axis, but of boxes and heat maps, whose sizes may differ. What a
            single run said stays as it is.
        """
        if self.members == 1:
            return runs[0]
        labels = output.labels
        made: Tensors = {}
        for name in runs[0].keys() - {*output.lists, *output.maps}:
            given = [run[name] for run in runs]
            if labels is None or name != labels.tensor:
                made[name] = np.stack(given)
                continue
            channel, total = labels.layout.index("C"), None
            for number, scores in enumerate(given):
                sure = activate(scores.astype(np.float32), labels.activation, axis=channel)
                sure = _flipped(sure, labels.layout, self._flip(number))
                total = sure if total is None else total + sure
            made[name] = np.asarray(total, np.float32) / np.float32(len(given))
        return made

    def turned(self, number: int) -> tuple[int, ...]:
        """Along which of slices, rows and columns a run saw its input the other way around."""
        return tuple(_AXES.index(axis) for axis in self._flip(number))

    def turned_back(self, tensor: NDArray[Any], layout: str, number: int) -> NDArray[Any]:
        """A tensor of a run as the input lies."""
        return _flipped(tensor, layout, self._flip(number))

    def _flip(self, number: int) -> tuple[Axis, ...]:
        return ((), *self.flips)[number // (1 + len(self.graphs))]


def _flipped(tensor: NDArray[Any], layout: str, flip: Sequence[Axis]) -> NDArray[Any]:
    if not flip:
        return tensor
    return np.ascontiguousarray(
        np.flip(tensor, tuple(layout.index(_LETTERS[axis]) for axis in flip))
    )
