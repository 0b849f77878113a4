"""Sessions of ONNX Runtime: one a model and device, shared by all threads, kept while used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnxruntime as ort

from ai.compiled import CompiledGraphs
from ai.devices import NAMES, QUIET, Asked, cuda_loads, order, quiet, spelt, why_not
from ai.footprint import held, profiled
from ai.loaded import RUNTIME_ERRORS, LoadedModel, Tensors, Usage, check_graph, one_line
from ai.package import Package
from ai.pinned import cuda_staging
from ai.shapes import Described
from ai.variants import Provider
from config.errors import InferenceError

__all__ = ["LoadedModel", "SessionCache", "Tensors", "cuda_loads"]

_GRAPH = "model.onnx"
_REST_SECONDS = 10.0
# Graphs beyond this are not kept ready: one file of the runtime holds less than 2 GiB.
_LARGEST_KEPT = 1 << 30


@dataclass
class _Place:
    """What is known of one model, under its own lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    model: LoadedModel | None = None
    on_cpu: LoadedModel | None = None
    failed: dict[Provider, str] = field(default_factory=dict)
    remade: bool = False


class SessionCache:
    """One session a model, made at first use, warmed, and kept while it is used.

    Args:
        providers: Execution providers, best first; ``auto`` takes CUDA where it can be loaded and
            the CPU otherwise. The CPU stands in for all: `LoadedModel.provider` says what really
            runs, and `LoadedModel.reason` why it is not what was asked for.
        threads_per_session: Threads that one run may use; runs at a time times this should be the
            number of cores.
        threads_alone: Threads of a run that no other one goes on beside, for a graph that is given
            a volume at once: such a job has a single long run, which would leave the other cores
            idle. It costs a second copy of the weights. 0 for no more threads than other runs have.
        compiled: Where graphs are kept as the runtime made them ready; None keeps none.
        idle_seconds: Sessions that did nothing for so long are dropped by `rest`; 0 keeps all.
        changed: Called, in the thread that wants a session, when one was made or dropped.
    """

    def __init__(
        self,
        providers: Asked = "auto",
        threads_per_session: int = 1,
        *,
        threads_alone: int = 0,
        compiled: CompiledGraphs | None = None,
        idle_seconds: float = 0.0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._providers = providers
        self.threads = threads_per_session
        self.threads_alone = threads_alone
        self._compiled = compiled
        self._idle_seconds = idle_seconds
        self.changed = changed
        self._lock = threading.Lock()
        self._places: dict[tuple[str, str | None], _Place] = {}

    def get(self, package: Package, graph: str | None = None) -> LoadedModel:
        """The model's session; the first caller makes it while others that want it wait.

        Args:
            package: The model.
            graph: One of its graphs; None for the one that its provider is to run.

        Raises:
            ModelFileError: The graph is not the file the manifest names.
            InferenceError: The graph cannot be loaded, lacks a declared tensor or does not run.
        """
        place = self._place(package, graph)
        with place.lock:
            made = place.model is None
            if place.model is None:
                place.model = self._make(package, graph, place)
            model = place.model
        if made:
            self.changed()
        return model

    def on_cpu(self, model: LoadedModel) -> LoadedModel:
        """The same model on the CPU, for a run that is too large for its device.

        Raises:
            ModelFileError, InferenceError: As `get`.
        """
        asked = None if model.graph == self._usual(model) else model.graph
        place = self._place(model.package, asked)
        with place.lock:
            if place.on_cpu is None:
                why = f"a run asked for more memory than {model.runs} has"
                graph = asked or model.package.manifest.graph_for("cpu")
                place.on_cpu = self._make_on(model.package, graph, "cpu", why)
            made = place.on_cpu
        self.changed()
        return made

    def halved(self, model: LoadedModel, items: int) -> None:
        """Notes that memory was short for a run of so many items: later ones have half as many."""
        with model.usage.lock:
            model.usage.limit = min(model.usage.limit or items, max(1, items // 2))
        self.changed()

    def renewed(self, model: LoadedModel, why: str) -> LoadedModel:
        """Another session for a model whose provider failed in mid-run.

        The first time it is made on the same provider; when that fails too, on the next one. A
        session that was dropped for want of use is forgotten with its faults.

        Args:
            model: What failed.
            why: One plain sentence.

        Raises:
            ModelFileError, InferenceError: As `get`.
        """
        asked = None if model.graph == self._usual(model) else model.graph
        place = self._place(model.package, asked)
        with place.lock:
            if place.model is model:
                if place.remade:
                    place.failed[model.runs] = f"it failed in mid-run ({why})"
                place.remade = True
                place.model = None
                place.model = self._make(model.package, asked, place)
            elif place.model is None:
                place.model = self._make(model.package, asked, place)
            made = place.model
        self.changed()
        return made

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Every session there is, by the model's name."""
        with self._lock:
            places = list(self._places.values())
        found = [model for each in places for model in (each.model, each.on_cpu) if model]
        return tuple(sorted(found, key=lambda model: (model.reference, model.graph)))

    def rest(self) -> None:
        """Gives memory back: what runs have left, and sessions that nobody used for long.

        To be called every few seconds by whoever owns the cache.
        """
        with self._lock:
            places = list(self._places.items())
        dropped = False
        for key, place in places:
            for model in (place.model, place.on_cpu):
                if model is not None and self._rested(model):
                    self._drop(key, place, model)
                    dropped = True
        if dropped:
            self.changed()

    def keep_only(self, digests: Collection[str]) -> None:
        """Drops the sessions of all other packages; what runs on one runs to its end.

        Args:
            digests: Of the packages that may still be run.
        """
        with self._lock:
            gone = [key for key in self._places if key[0] not in digests]
            for key in gone:
                del self._places[key]
        if gone:
            self.changed()

    def _rested(self, model: LoadedModel) -> bool:
        """Whether a session is to be dropped; lets one that only pauses give its memory back."""
        usage = model.usage
        with usage.lock:
            idle = 0.0 if usage.running else time.monotonic() - usage.last
            resting = usage.resting
        if self._idle_seconds and idle > self._idle_seconds:
            return True
        if idle > _REST_SECONDS and not resting:
            with suppress(InferenceError):
                model.rest()
        return False

    def _drop(self, key: tuple[str, str | None], place: _Place, model: LoadedModel) -> None:
        with place.lock:
            if place.on_cpu is model:
                place.on_cpu = None
            elif place.model is model:
                place.model, place.failed, place.remade = None, {}, False

    def _usual(self, model: LoadedModel) -> str:
        return model.package.manifest.graph_for(model.runs)

    def _place(self, package: Package, graph: str | None) -> _Place:
        with self._lock:
            return self._places.setdefault((package.digest, graph), _Place())

    def _make(self, package: Package, graph: str | None, place: _Place) -> LoadedModel:
        whys: list[str] = []
        for provider in order(self._providers):
            why = place.failed.get(provider) or why_not(provider)
            if why is None:
                wanted = graph or package.manifest.graph_for(provider)
                try:
                    return self._make_on(package, wanted, provider, "; ".join(whys))
                except _OtherProviderError as error:
                    why = str(error)
            whys.append(f"{provider}: {why}" if len(order(self._providers)) > 2 else why)
        raise InferenceError(f"{package.manifest.reference} cannot be loaded: {'; '.join(whys)}")

    def _make_on(
        self, package: Package, graph: str, provider: Provider, reason: str
    ) -> LoadedModel:
        with profiled() as profile:
            return self._warmed(package, graph, provider, reason, profile)

    def _warmed(
        self,
        package: Package,
        graph: str,
        provider: Provider,
        reason: str,
        profile: dict[str, Any],
    ) -> LoadedModel:
        manifest = package.manifest
        how = {"intra_op_num_threads": self.threads}
        try:
            session = self._session(
                package, graph, provider, how | profile if provider == "cpu" else how
            )
        except _NOT_LOADED as error:
            if provider != "cpu":
                raise _OtherProviderError(one_line(error)) from error
            raise InferenceError(
                f"{manifest.reference} cannot be loaded: {one_line(error)}"
            ) from error
        runs = session.get_providers()[0]
        if runs != NAMES[provider]:
            raise _OtherProviderError(f"the runtime took {runs} in its place")
        check_graph(manifest, session)
        outputs = manifest.output.tensors()
        stacked, cuttable = _items(session, {spec.tensor for spec in manifest.inputs}, outputs)
        answers = {name for entry in manifest.output.finding for name in entry.tensors()}
        loaded = LoadedModel(
            package=package,
            graph=graph,
            provider=runs,
            asked=spelt(self._providers),
            reason=reason,
            session=session,
            outputs=outputs,
            stacked=stacked,
            cuttable=cuttable,
            counted=_open(session.get_outputs()) & answers,
            usage=Usage(most=manifest.input.batch),
            staging=None if provider == "cpu" else cuda_staging(),
        )
        if provider == "cpu" and manifest.input.at_once and self.threads_alone > self.threads:
            how = {"intra_op_num_threads": self.threads_alone}
            loaded = replace(loaded, alone=self._session(package, graph, provider, how))
        try:
            given = loaded.run(loaded.blank(), None)
            if provider == "cpu":
                loaded = replace(loaded, working=_working(session, given))
            if loaded.alone is not None:
                loaded.run(loaded.blank(), None, alone=True)
        except InferenceError as error:
            if provider != "cpu":
                raise _OtherProviderError(str(error)) from error
            raise
        if provider == "tensorrt" and self._compiled is not None:
            # Engines for shapes that the graph leaves open are built by the first run.
            with suppress(OSError):
                self._compiled.seal(self._engines(self._compiled, package, graph))
        return loaded

    def _session(
        self, package: Package, graph: str, provider: Provider, how: dict[str, Any]
    ) -> ort.InferenceSession:
        content = package.read(graph)
        kept = self._compiled if len(content) < _LARGEST_KEPT else None
        if kept is None or provider == "cuda":
            return self._started(content, provider, how)
        if provider == "tensorrt":
            place = self._engines(kept, package, graph)
            kept.proved(place.name)
            place.mkdir(parents=True, exist_ok=True)
            engines = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(place)}
            return self._started(content, provider, how, engines)
        key = kept.key(package.digest, graph, provider)
        ready = kept.read(key, _GRAPH)
        if ready is not None:
            return self._started(ready, provider, how | {"graph_optimization_level": _AS_IT_IS})
        with suppress(*_NOT_LOADED), kept.make(key) as folder:
            into = {"optimized_model_filepath": str(folder / _GRAPH)}
            return self._started(content, provider, how | into)
        # The disk did not take it, or the graph cannot be written.
        return self._started(content, provider, how)

    def _engines(self, kept: CompiledGraphs, package: Package, graph: str) -> Path:
        """Where TensorRT writes its engines and reads them again."""
        return kept.folder / kept.key(package.digest, graph, "tensorrt")

    def _started(
        self,
        content: bytes,
        provider: Provider,
        how: dict[str, Any],
        settings: dict[str, str] | None = None,
    ) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        # Weights in another file would be bytes that no digest names: none is found.
        options.add_session_config_entry(_WEIGHTS_BESIDE, os.devnull)
        for name, value in how.items():
            setattr(options, name, value)
        if options.intra_op_num_threads > self.threads:
            # Threads for every core: those that have nothing to do are to leave it to others.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        names = [(NAMES[provider], settings or {})]
        if provider != "cpu":
            names.append((NAMES["cpu"], {}))
        with quiet():
            # Without this the runtime makes another session on the CPU, in silence.
            session = ort.InferenceSession(content, options, providers=names, enable_fallback=0)
        session.disable_fallback()
        return session


_WEIGHTS_BESIDE = "session.model_external_initializers_file_folder_path"
_NOT_LOADED: tuple[type[Exception], ...] = (OSError, *RUNTIME_ERRORS)
_AS_IT_IS = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


class _OtherProviderError(Exception):
    """A provider was not to be had; the next one is tried."""


def _working(session: ort.InferenceSession, given: Tensors) -> int | None:
    """What the first run held beside what it gave, which is told for itself."""
    most = held(session)
    outputs = sum(tensor.nbytes for tensor in given.values())
    return None if most is None else max(0, most - outputs)


def _items(
    session: ort.InferenceSession, inputs: set[str], outputs: tuple[str, ...]
) -> tuple[frozenset[str], bool]:
    """Inputs whose first axis counts items, and whether every output has one as well."""
    stacked = _open(session.get_inputs()) & inputs
    return stacked, stacked == inputs and _open(session.get_outputs()).issuperset(outputs)


def _open(entries: Sequence[Described]) -> frozenset[str]:
    """Names of those whose first axis the graph leaves open: it counts items."""
    return frozenset(
        entry.name for entry in entries if entry.shape and not isinstance(entry.shape[0], int)
    )
