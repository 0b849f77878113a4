"""Runs a model on an image."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai import align, memory, postprocess, preprocess, saliency
from ai.batching import Lanes
from ai.detect import Seen
from ai.grid import Shape
from ai.outputs import ActivationMap, Occlusion, Score
from ai.package import Package
from ai.reading import Reading
from ai.recovery import Ran
from ai.registry import Registry
from ai.session import LoadedModel, SessionCache, Tensors
from ai.sliding import Patch, Slide
from ai.types import Answer, Finding, Saliency, Volume
from config.errors import InferenceError

# The runs that answer one question together.
Runs = list[Future[Ran]]


class Engine:
    """Runs the models of a registry; any number of threads may share one.

    Args:
        registry: Where a model that is named by reference is looked up.
        sessions: Where graphs are kept loaded.
        lanes: Where runs are done; as many at a time as the cores allow unless given.
    """

    def __init__(
        self, registry: Registry, sessions: SessionCache, lanes: Lanes | None = None
    ) -> None:
        self.registry = registry
        self.sessions = sessions
        self.lanes = Lanes(sessions) if lanes is None else lanes

    def run(
        self,
        package: Package | str,
        inputs: Mapping[str, Volume],
        deadline_seconds: float | None = None,
        *,
        graph: str | None = None,
    ) -> Answer:
        """Prepares the input, runs the graph over it and makes the answer.

        Memory beside the input: one byte a voxel for labels, and what the batches or patches that
        run at a time need, or one volume for a 3D model without patches; see `ai.memory`.

        Args:
            package: The model, or its reference.
            inputs: The image for each declared role.
            deadline_seconds: Time for everything but loading the graph; None for no limit.
            graph: One of the package's graphs; None for the one that its provider is to run.

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
        models = self.load(package, graph)
        with self.lanes.job():
            return _Run(self.lanes, package, inputs, models, deadline_seconds).answer()

    def load(self, package: Package, graph: str | None = None) -> list[LoadedModel]:
        """Makes ready what runs of a package: a graph, and the further ones of its ensemble.

        Args:
            package: The model.
            graph: One of the package's graphs; None for the one that its provider is to run.

        Raises:
            ModelFileError: A graph is not the file the manifest names.
            InferenceError: A graph cannot be loaded, is not the declared one or does not run.
        """
        graphs = (graph, *package.manifest.ensemble.graphs)
        return [self.sessions.get(package, each) for each in graphs]


class _Run:
    def __init__(
        self,
        lanes: Lanes,
        package: Package,
        inputs: Mapping[str, Volume],
        models: list[LoadedModel],
        deadline_seconds: float | None,
    ) -> None:
        self.lanes = lanes
        self.manifest = package.manifest
        self.ensemble = package.manifest.ensemble
        self.inputs = inputs
        self.volume = inputs[package.manifest.input.role]
        self.models = models
        self.ends = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self.seconds = {"preprocess": 0.0, "run": 0.0, "postprocess": 0.0}

    def answer(self) -> Answer:
        with self._timed("preprocess"):
            plan = preprocess.plan(self.manifest.input, self.volume)
            plans = [plan, *self._others(plan)]
            facts = {name: value for each in plans for name, value in each.facts().items()}
        memory.check(self.models[0], plans, self.lanes.count)
        reading = Reading(self.manifest, plan, self.volume)
        walk = self._blocks if self.manifest.input.sliding is None else self._windows
        feeds, runs = walk(plans, facts, reading)
        with self._timed("postprocess"):
            said = reading.answer()
        heat = self._saliency(plan, feeds, runs, said.findings)
        return replace(said, seconds=self.seconds, provider=self.models[0].provider, saliency=heat)

    def _blocks(
        self, plans: Sequence[preprocess.Plan], facts: Tensors, reading: Reading
    ) -> tuple[Tensors, list[Tensors]]:
        """Runs the graph over whole slices or the whole volume; what it said of the last ones."""
        runs: list[Tensors] = []
        feeds: Tensors = {}
        waiting: deque[tuple[int, int, Runs]] = deque()
        for start, stop in plans[0].blocks():
            with self._timed("preprocess"):
                feeds = {each.spec.tensor: _fed(each, start, stop) for each in plans} | facts
            waiting.append((start, stop, self._submit(feeds)))
            # One more than run at a time, so that none waits for the next block.
            while len(waiting) > self.lanes.count:
                runs = self._read(reading, *waiting.popleft())
        while waiting:
            runs = self._read(reading, *waiting.popleft())
        return feeds, runs

    def _windows(
        self, plans: Sequence[preprocess.Plan], facts: Tensors, reading: Reading
    ) -> tuple[Tensors, list[Tensors]]:
        """Runs the graph over one patch after another; no tensor stands for the whole."""
        labels = self.manifest.output.labels
        slide = Slide(plans, facts, labels)
        waiting: deque[tuple[Patch, Runs]] = deque()

        def fold(patch: Patch, answer: Runs) -> None:
            with self._timed("run"):
                runs = self._wait(answer)
            with self._timed("postprocess"):
                if labels is None:
                    seen = Seen.of_patch(plans[0], slide.corner(patch), patch.shape)
                    reading.take_boxes(runs, seen)
                    return
                tensors = self.ensemble.joined(self.manifest.output, runs)
                for first, scores in slide.fold(patch, tensors[labels.tensor]):
                    reading.take_scores(scores, first)

        patches = slide.patches()
        while True:
            with self._timed("preprocess"):
                patch = next(patches, None)
            if patch is None:
                break
            waiting.append((patch, self._submit(dict(patch.feeds))))
            while len(waiting) > self.lanes.count:
                fold(*waiting.popleft())
        while waiting:
            fold(*waiting.popleft())
        return {}, []

    def _submit(self, feeds: Tensors) -> Runs:
        """Every graph on the input as it is and on every flip of it."""
        alone = self.manifest.input.at_once and self.ensemble.members == 1
        return [
            self.lanes.submit(model, each, self.ends, alone=alone)
            for each in self.ensemble.feeds(self.manifest.inputs, feeds)
            for model in self.models
        ]

    def _wait(self, answers: Runs) -> list[Tensors]:
        """What each member said; what ran it, where its own session could not, runs the rest."""
        found = []
        for number, answer in enumerate(answers):
            place = number % len(self.models)
            ran = self.lanes.result(self.models[place], answer, self.ends)
            self.models[place] = ran.model
            postprocess.check(ran.tensors, self.manifest.output.lists)
            found.append(ran.tensors)
        return found

    def _read(self, reading: Reading, start: int, stop: int, answer: Runs) -> list[Tensors]:
        with self._timed("run"):
            runs = self._wait(answer)
        with self._timed("postprocess"):
            reading.take(runs, start, stop)
        return runs

    def _others(self, plan: preprocess.Plan) -> Iterator[preprocess.Plan]:
        """The other inputs on the grid of the primary one; those of earlier studies on theirs."""
        for spec in self.manifest.inputs:
            if spec.prior:
                given = self.inputs.get(spec.role)
                own = preprocess.plan(spec, self.volume if given is None else given)
                yield preprocess.absent(spec, own) if given is None else own
            elif not spec.primary and spec.role in self.inputs:
                aligned = align.onto(self.volume, self.inputs[spec.role], spec.interpolation)
                yield preprocess.plan(spec, aligned, plan)
            elif not spec.primary:
                yield preprocess.absent(spec, plan)

    def _saliency(
        self,
        plan: preprocess.Plan,
        feeds: Tensors,
        runs: Sequence[Tensors],
        findings: Iterable[Finding],
    ) -> Saliency | None:
        """The heat map of the most significant finding with a score, where one is declared."""
        output, slices = self.manifest.output, plan.shape[0]
        scores = {entry.name: entry.score for entry in output.finding if entry.score is not None}
        finding = next((each for each in findings if each.name in scores), None)
        if output.saliency is None or finding is None:
            return None
        if isinstance(output.saliency, ActivationMap):
            with self._timed("postprocess"):
                made = self._given(output.saliency, runs, plan.padded_shape(slices))
            method = "A map that the model itself gives."
            if len(runs) > 1:
                method = f"The mean of the maps that the model's {len(runs)} runs give."
            meaning = saliency.ACTIVATION
        else:
            with self._timed("saliency"):
                hidden = self._occluded(output.saliency, feeds, runs, scores[finding.name])
            if hidden is None:
                return None
            made, meaning = hidden, saliency.FALL
            method = "By how much the score falls when a window of the image is hidden."
        values = np.zeros(self.volume.voxels.shape, np.float32)
        plan.oriented(values)[:] = plan.back(made, slices)
        return Saliency(finding.name, values, meaning, saliency.NO_UNITS, method)

    def _given(
        self, spec: ActivationMap, runs: Sequence[Tensors], shape: Shape
    ) -> NDArray[np.float32]:
        """The mean of the maps of all members, each turned back and stretched over the input."""
        total = np.zeros(shape, np.float32)
        for number, run in enumerate(runs):
            own = self.ensemble.turned_back(run[spec.tensor], spec.layout, number)
            total += saliency.activation_map(spec, own, shape)
        return total / np.float32(len(runs))

    def _occluded(
        self, spec: Occlusion, feeds: Tensors, runs: Sequence[Tensors], score: Score
    ) -> NDArray[np.float32] | None:
        primary = self.manifest.input

        def sure(said: Sequence[Tensors], copies: int) -> NDArray[np.float64]:
            """The mean of what the members say of each copy."""
            found = [_scores(run[score.tensor], score, copies) for run in said]
            return np.asarray(np.mean(found, axis=0), np.float64)

        whole = float(sure(runs, 1)[0])

        def fall(images: NDArray[np.float32]) -> list[float]:
            parts = [images[at : at + spec.copies] for at in range(0, len(images), spec.copies)]
            waiting = [self._submit({**feeds, primary.tensor: part}) for part in parts]
            return [
                whole - float(each)
                for answers, part in zip(waiting, parts, strict=True)
                for each in sure(self._wait(answers), len(part))
            ]

        image = feeds[primary.tensor]
        return saliency.occlusion(spec, image, primary.layout, fall, self.lanes.count)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _scores(found: NDArray[Any], score: Score, copies: int) -> list[float]:
    """The probability that one run gives each of some copies.

    Raises:
        InferenceError: They are not so many, or one is no probability.
    """
    if copies > 1 and found.shape[:1] != (copies,):
        raise InferenceError(f"{score.tensor} does not hold one score a copy")
    rows = found.astype(np.float64).reshape(copies, -1)
    return [postprocess.probability(row, score.index, score.activation) for row in rows]


def _fed(plan: preprocess.Plan, start: int, stop: int) -> NDArray[np.float32]:
    """What the graph gets of an input with slices `start` to `stop` of the primary one."""
    if plan.spec.prior:
        return plan.tensor(0, plan.shape[0])
    return plan.tensor(start, stop)
