"""Runs a model on an image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai import align, postprocess, preprocess
from ai.package import Package
from ai.registry import Registry
from ai.session import LoadedModel, SessionCache, Tensors
from ai.tally import Tally
from ai.types import Answer, Volume
from config.errors import InferenceError


class Engine:
    """Runs the models of a registry; any number of threads may share one.

    Args:
        registry: Where a model that is named by reference is looked up.
        sessions: Where graphs are kept loaded.
    """

    def __init__(self, registry: Registry, sessions: SessionCache) -> None:
        self.registry = registry
        self.sessions = sessions

    def run(
        self,
        package: Package | str,
        inputs: Mapping[str, Volume],
        deadline_seconds: float | None = None,
    ) -> Answer:
        """Prepares the input, runs the graph over it and makes the answer.

        Memory beside the input: one byte a voxel for labels, and what one batch of slices, or one
        volume for a 3D model, needs.

        Args:
            package: The model, or its reference.
            inputs: The image for each declared role.
            deadline_seconds: Time for everything but loading the graph; None for no limit.

        Raises:
            ModelError: A reference that the registry does not know.
            ModelFileError: The graph is not the file the manifest names.
            InferenceError: Inputs that do not fit, the time was up, or no usable answer.
        """
        if isinstance(package, str):
            package = self.registry.find(package)
        specs = {spec.role: spec for spec in package.manifest.inputs}
        needed = {role for role, spec in specs.items() if not spec.optional}
        if not needed <= set(inputs) <= set(specs):
            raise InferenceError(
                f"{package.manifest.reference} wants the inputs {', '.join(map(repr, specs))}, "
                f"not {', '.join(sorted(inputs)) or 'none'}"
            )
        for role, volume in inputs.items():
            reason = package.misfit(volume, role)
            if reason is not None:
                raise InferenceError(
                    f"{package.manifest.reference} cannot take the input: {reason}"
                )
        return _Run(package, inputs, self.sessions.get(package), deadline_seconds).answer()


class _Run:
    def __init__(
        self,
        package: Package,
        inputs: Mapping[str, Volume],
        model: LoadedModel,
        deadline_seconds: float | None,
    ) -> None:
        self.manifest = package.manifest
        self.inputs = inputs
        self.volume = inputs[package.manifest.input.role]
        self.model = model
        self.ends = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self.seconds = {"preprocess": 0.0, "run": 0.0, "postprocess": 0.0}
        self.tally = Tally(package.manifest.output)

    def answer(self) -> Answer:
        output = self.manifest.output
        with self._timed("preprocess"):
            plan = preprocess.plan(self.manifest.input, self.volume)
            plans = [plan, *self._others()]
            facts = {name: value for each in plans for name, value in each.facts().items()}
        labels = np.zeros(self.volume.voxels.shape, np.uint8) if output.labels else None
        tensors: Tensors = {}
        for start, stop in plan.blocks():
            with self._timed("preprocess"):
                feeds = {each.spec.tensor: each.tensor(start, stop) for each in plans}
            with self._timed("run"):
                tensors = self.model.run(feeds | facts, self._left())
            with self._timed("postprocess"):
                postprocess.check(tensors)
                if labels is not None:
                    self._take(plan, tensors, labels, (start, stop))
        with self._timed("postprocess"):
            basis = self.manifest.basis
            found = postprocess.tensor_findings(plan, output.finding, tensors, basis)
            found += postprocess.segment_findings(plan, self.tally, basis)
        return Answer(
            findings=postprocess.ordered(found),
            labels=labels,
            segments=output.segments(),
            seconds=self.seconds,
            provider=self.model.provider,
        )

    def _others(self) -> Iterator[preprocess.Plan]:
        """The other inputs on the grid of the primary one."""
        for spec in self.manifest.inputs:
            if not spec.primary and spec.role in self.inputs:
                aligned = align.onto(self.volume, self.inputs[spec.role])
                yield preprocess.plan(spec, aligned)
            elif not spec.primary:
                yield preprocess.absent(spec, self.volume)

    def _take(
        self,
        plan: preprocess.Plan,
        tensors: Tensors,
        labels: NDArray[np.uint8],
        block: tuple[int, int],
    ) -> None:
        """Puts the labels of one run into the image's grid and counts them."""
        output, (start, stop) = self.manifest.output, block
        if output.labels is None:
            return
        made, sure = postprocess.label_block(
            output.labels,
            output.segment,
            tensors[output.labels.tensor],
            plan.padded_shape(stop - start),
        )
        if sure is not None and output.labels.confidence == "mean":
            self.tally.add_probabilities(plan.unpadded(made), plan.unpadded(sure))
        own = plan.back(made, stop - start)
        plan.oriented(labels)[start:stop] = own
        values: NDArray[Any] = plan.oriented(self.volume.voxels)[start:stop]
        self.tally.add(own, values)

    def _left(self) -> float | None:
        return None if self.ends is None else self.ends - time.monotonic()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start
