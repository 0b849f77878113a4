"""Reads the tensors of a graph, run by run, and makes the parts of an answer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai import detect, fusion, postprocess, slabs
from ai.findings import Said, tensor_findings
from ai.label_values import LabelVolume
from ai.manifest import Manifest
from ai.preprocess import Plan
from ai.segments import SegmentTable, segments_of
from ai.settle import label_type, settle
from ai.smooth import Smooth
from ai.tally import Tally
from ai.types import Answer, Volume

Tensors = dict[str, NDArray[Any]]


class Reading:
    """What the runs of one graph over one input said so far.

    Args:
        manifest: Says what the tensors mean.
        plan: How the primary input was prepared.
        volume: The primary input.
    """

    def __init__(self, manifest: Manifest, plan: Plan, volume: Volume) -> None:
        self._manifest = manifest
        self._ensemble = manifest.ensemble
        self._output = manifest.ensemble.settled(manifest.output)
        self._plan = plan
        self._volume = volume
        self._tally = Tally(manifest.output)
        self._said = Said(self._output.over_slices, manifest.ensemble.members)
        self._boxes: list[list[detect.Found]] = [[] for _ in range(manifest.ensemble.members)]
        shape, spec = volume.voxels.shape, manifest.output.labels
        self.labels = np.zeros(shape, label_type(manifest.output)) if spec else None
        kept = spec is not None and spec.probabilities
        # How sure the model is of each voxel, where segments change after the last run.
        surely = spec is not None and spec.confidence == "mean" and manifest.output.settles
        layers = len(self._output.segment) if manifest.output.overlap else 1
        self._sure = np.zeros((layers, *shape), np.float16) if surely else None
        resampled = plan.scale != (1.0, 1.0, 1.0)
        linear = spec is not None and spec.interpolation == "linear" and resampled
        self._smooth = Smooth(plan) if linear else None
        self.probabilities = (
            np.zeros((len(self._output.segment), *shape), np.float32) if kept else None
        )

    def take(self, runs: Sequence[Tensors], start: int, stop: int) -> None:
        """Takes what was said of slices `start` to `stop` (exclusive) of the oriented grid.

        Args:
            runs: What each member of the ensemble said, in their order, or the single one; tensors
                by name, and such as `postprocess.check` lets pass.
            start: First slice.
            stop: Last but one.

        Raises:
            InferenceError: It says nothing usable.
        """
        tensors = self._ensemble.joined(self._manifest.output, runs)
        items = stop - start if self._output.over_slices else 1
        for name in dict.fromkeys(name for each in self._output.finding for name in each.tensors()):
            self._said.take(name, tensors[name], items)
        if self._output.boxes is not None:
            self.take_boxes(runs, detect.Seen.of_block(self._plan, start, stop))
        spec = self._output.labels
        if spec is None:
            return
        grid = self._plan.padded_shape(stop - start)
        tensor, segments = tensors[spec.tensor], self._output.segment
        if self._smooth is not None:
            sure = postprocess.probabilities(spec, segments, tensor, grid)
            self._take_smoothly(self._smooth, sure, start)
            return
        self.take_labels(
            *postprocess.label_block(spec, segments, tensor, grid), start=start, stop=stop
        )
        if self.probabilities is not None:
            made = postprocess.probability_block(spec, segments, tensor, grid)
            for kept, segment in zip(self.probabilities, made, strict=True):
                self._plan.oriented(kept)[start:stop] = self._plan.back(segment, stop - start)

    def take_boxes(self, runs: Sequence[Tensors], seen: detect.Seen) -> None:
        """Takes the boxes that each member gives for a part of the image.

        Raises:
            InferenceError: They say nothing usable.
        """
        spec, objects = self._output.boxes, self._output.object
        if spec is None:
            return
        least = 1.0 if len(runs) == 1 else fusion.LEAST
        for number, (tensors, boxes) in enumerate(zip(runs, self._boxes, strict=True)):
            own = replace(seen, turned=self._ensemble.turned(number))
            boxes.append(detect.read(spec, objects, tensors, self._plan, own, least=least))

    def take_labels(
        self,
        labels: LabelVolume,
        sure: NDArray[np.float32] | None,
        *,
        start: int,
        stop: int,
    ) -> None:
        """Takes the labels of slices `start` to `stop` (exclusive) of the oriented grid.

        Args:
            labels: In the padded model grid.
            sure: Probabilities of those there, as of `postprocess.chosen`, or None where none is
                defined.
            start: First slice.
            stop: Last but one.
        """
        spec, plan = self._output.labels, self._plan
        if spec is None or self.labels is None:
            return
        if sure is not None and self._sure is not None:
            for kept, layer in zip(self._sure, sure, strict=True):
                plan.oriented(kept)[start:stop] = plan.back(layer, stop - start)
        elif sure is not None and spec.confidence == "mean":
            layers = [plan.unpadded(layer) for layer in sure]
            self._tally.add_probabilities(plan.unpadded(labels), layers)
        plan.oriented(self.labels)[start:stop] = plan.back(labels, stop - start)

    def take_scores(self, scores: NDArray[np.float32], first: int) -> None:
        """Takes the blended scores of some planes.

        Args:
            scores: ``(channels, planes, rows, columns)`` of the padded model grid.
            first: Number of the first plane.

        Raises:
            InferenceError: They say nothing usable.
        """
        spec, plan = self._output.labels, self._plan
        if spec is None or self.labels is None:
            return
        segments, shape = self._output.segment, (len(scores[0]), *scores.shape[2:])
        tensor = slabs.in_layout(spec.layout, scores)
        if self._smooth is not None:
            made = postprocess.probabilities(spec, segments, tensor, shape)
            self._take_smoothly(self._smooth, made, first)
            return
        labels, sure = postprocess.label_block(spec, segments, tensor, shape)
        start, stop = slabs.slices_of(plan, first, first + shape[0])
        plan.oriented(self.labels)[start:stop] = slabs.back(plan, labels, first)
        if sure is not None and self._sure is not None:
            for kept, layer in zip(self._sure, sure, strict=True):
                plan.oriented(kept)[start:stop] = slabs.back(plan, layer, first)
        elif sure is not None and spec.confidence == "mean":
            layers = [slabs.unpadded(plan, layer, first) for layer in sure]
            self._tally.add_probabilities(slabs.unpadded(plan, labels, first), layers)
        if self.probabilities is not None:
            made = postprocess.probability_block(spec, segments, tensor, shape)
            for kept, segment in zip(self.probabilities, made, strict=True):
                plan.oriented(kept)[start:stop] = slabs.back(plan, segment, first)

    def _take_smoothly(self, smooth: Smooth, scores: NDArray[np.float32], first: int) -> None:
        """Takes probabilities of some planes; labels are made of them in the image's grid."""
        spec, plan = self._output.labels, self._plan
        if spec is None or self.labels is None:
            return
        for start, own in smooth.take(scores, first):
            labels, sure = postprocess.chosen(spec, self._output.segment, own)
            stop = start + len(labels)
            plan.oriented(self.labels)[start:stop] = labels
            if self._sure is not None:
                for kept, layer in zip(self._sure, sure, strict=True):
                    plan.oriented(kept)[start:stop] = layer
            elif spec.confidence == "mean":
                self._tally.add_probabilities(labels, sure)
            if self.probabilities is not None:
                of_segments = postprocess.of_segments(spec, self._output.segment, own)
                for kept, segment in zip(self.probabilities, of_segments, strict=True):
                    plan.oriented(kept)[start:stop] = segment

    def answer(self) -> Answer:
        """Everything that was said, but what the engine alone knows: times, provider, heat map.

        What needs the whole label volume is done here, after the last run.

        Raises:
            InferenceError: No usable answer.
        """
        basis = self._manifest.basis
        found = tensor_findings(self._plan, self._output.finding, self._said, basis)
        if self._output.boxes is not None:
            spec, objects = self._output.boxes, self._output.object
            members = [detect.Found.joined(each) for each in self._boxes]
            boxes = members[0] if len(members) == 1 else fusion.fused(spec, objects, members)
            found += detect.findings(spec, objects, boxes, self._plan, basis)
        labels, entries = self._settled()
        found += postprocess.segment_findings(self._plan, self._tally, entries, basis)
        return Answer(
            findings=postprocess.ordered(found),
            labels=labels,
            segments=segments_of(entries),
            probabilities=self.probabilities,
            overlap=self._output.overlap,
        )

    def _settled(self) -> tuple[LabelVolume | None, tuple[SegmentTable, ...]]:
        """The label volume as it goes out, counted, and what its numbers mean."""
        if self.labels is None:
            return None, ()
        if self._sure is not None and not self._output.overlap:
            # What will fill a hole has the probability of something else.
            for plane, sure in zip(self.labels, self._sure[0], strict=True):
                sure[plane == 0] = -1
        voxel = self._volume.voxel_volume_ml
        settled = settle(self._output, self.labels, None if voxel is None else 1000.0 * voxel)
        self._tally.add(settled.labels, self._volume.voxels)
        if self._sure is not None:
            # Instances are as sure as what they were declared as.
            numbers = settled.declared if self._output.overlap else (1,)
            layers = [self._sure[number - 1] for number in numbers]
            for index, plane in enumerate(settled.labels):
                sure = [layer[index].astype(np.float32) for layer in layers]
                self._tally.add_probabilities(plane, sure)
        return settled.labels, settled.segments
