"""ONNX Runtime sessions: one a model, shared by all threads, with a time limit on each run."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ai.inputs import Input
from ai.package import Package
from config.errors import InferenceError

Provider = Literal["tensorrt", "cuda", "cpu"]
Tensors = dict[str, NDArray[Any]]

_NAMES: dict[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_QUIET, _WARNING = 4, 2
# The runtime's own errors have no base class but Exception.
_RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(
        kind
        for kind in vars(ort_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class LoadedModel:
    """A graph that is ready to run, from any thread.

    Attributes:
        reference: ``name@version``.
        provider: The execution provider that really runs it.
        session: The runtime's session.
        outputs: The tensors that are asked for.
    """

    reference: str
    provider: str
    session: ort.InferenceSession
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]], deadline_seconds: float | None) -> Tensors:
        """Runs the graph; releases the GIL meanwhile.

        Args:
            feeds: Tensors by name.
            deadline_seconds: After so long the runtime is told to stop, which it does at the next
                operator of the graph; None for no limit.

        Raises:
            InferenceError: The time was up, or the runtime failed.
        """
        options = ort.RunOptions()
        options.log_severity_level = _QUIET
        late = threading.Event()

        def stop() -> None:
            late.set()
            options.terminate = True

        if deadline_seconds is not None and deadline_seconds <= 0:
            raise InferenceError(f"{self.reference} was stopped: its time was up")
        timer = threading.Timer(deadline_seconds, stop) if deadline_seconds is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            values = self.session.run(list(self.outputs), dict(feeds), options)
        except _RUNTIME_ERRORS as error:
            if late.is_set():
                text = f"{self.reference} was stopped: its time was up"
            else:
                text = f"{self.reference} failed: {_one_line(error)}"
            raise InferenceError(text) from error
        finally:
            if timer:
                timer.cancel()
        return dict(zip(self.outputs, values, strict=True))


class SessionCache:
    """One session a model, made at first use, warmed, and kept.

    Args:
        providers: Execution providers, best first; ``auto`` takes CUDA where it can be loaded and
            the CPU otherwise. The runtime falls back to the CPU in silence: `LoadedModel.provider`
            says what really runs.
        threads_per_session: Threads that one run may use; threads that run jobs times this should
            be the number of cores.
    """

    def __init__(
        self,
        providers: Literal["auto"] | Sequence[Provider] = "auto",
        threads_per_session: int = 1,
    ) -> None:
        self._providers = providers
        self._threads = threads_per_session
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._models: dict[str, LoadedModel] = {}

    def get(self, package: Package) -> LoadedModel:
        """The model's session; the first caller makes it while others that want it wait.

        Raises:
            ModelFileError: The graph is not the file the manifest names.
            InferenceError: The graph cannot be loaded, lacks a declared tensor or does not run.
        """
        with self._lock:
            lock = self._locks.setdefault(package.digest, threading.Lock())
        with lock:
            if package.digest not in self._models:
                self._models[package.digest] = self._load(package)
            return self._models[package.digest]

    def _load(self, package: Package) -> LoadedModel:
        manifest = package.manifest
        graph = package.read(manifest.graph)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        try:
            with _quiet():
                session = ort.InferenceSession(graph, options, providers=self._wanted())
        except _RUNTIME_ERRORS as error:
            raise InferenceError(
                f"{manifest.reference} cannot be loaded: {_one_line(error)}"
            ) from error
        session.disable_fallback()
        outputs = manifest.output.tensors()
        _check_names(manifest.reference, session, manifest.inputs, outputs)
        loaded = LoadedModel(manifest.reference, session.get_providers()[0], session, outputs)
        loaded.run(_blank(session, manifest.inputs), None)
        return loaded

    def _wanted(self) -> list[str]:
        if self._providers == "auto":
            return [_NAMES["cuda"], _NAMES["cpu"]] if cuda_loads() else [_NAMES["cpu"]]
        return [_NAMES[name] for name in dict.fromkeys((*self._providers, "cpu"))]


@cache
def cuda_loads() -> bool:
    """Whether the CUDA provider and all it links to can be loaded on this machine.

    The runtime's own lists name CUDA wherever it was built with it, driver or not.
    """
    folder = Path(ort_state.__file__).parent
    try:
        ctypes.CDLL("libcuda.so.1")
        if hasattr(ort, "preload_dlls"):
            with _quiet():
                ort.preload_dlls()
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError:
        return False
    return _NAMES["cuda"] in ort.get_available_providers()


@contextmanager
def _quiet() -> Iterator[None]:
    ort.set_default_logger_severity(_QUIET)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def _check_names(
    reference: str,
    session: ort.InferenceSession,
    inputs: Sequence[Input],
    outputs: tuple[str, ...],
) -> None:
    there = {entry.name: entry.type for entry in session.get_inputs()}
    declared = {name for spec in inputs for name in (spec.tensor, *spec.facts)}
    missing = set(outputs) - {entry.name for entry in session.get_outputs()}
    if declared != set(there):
        raise InferenceError(
            f"{reference}: the graph's inputs are {sorted(there)}, declared are {sorted(declared)}"
        )
    if missing:
        raise InferenceError(f"{reference}: the graph has no output {sorted(missing)}")
    ranks = {entry.name: len(entry.shape) for entry in session.get_inputs()}
    for spec in inputs:
        if ranks[spec.tensor] != len(spec.layout):
            raise InferenceError(
                f"{reference}: {spec.tensor} has {ranks[spec.tensor]} axes, not {spec.layout}"
            )
    other = sorted(name for name, kind in there.items() if kind != "tensor(float)")
    if other:
        raise InferenceError(f"{reference}: inputs {other} are not of type float")


def _blank(session: ort.InferenceSession, inputs: Sequence[Input]) -> Tensors:
    """Zeros that the graph takes, for its first run, in which the runtime sets itself up."""
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    feeds: Tensors = {}
    for spec in inputs:
        feeds[spec.tensor] = np.zeros(_blank_shape(spec, shapes[spec.tensor]), np.float32)
        for name, fact in spec.facts.items():
            blank = [0.0, 1.0] if fact == "value_range" else [0.0]
            feeds[name] = np.array(blank, np.float32)
    return feeds


def _blank_shape(spec: Input, declared: Sequence[object]) -> list[int]:
    many = spec.multiple_of
    # Nothing but the size of an image is taken from the graph: what else it wants, and was not
    # declared so, is found here and not at the first study.
    axes = {"N": spec.batch if spec.apply == "slices" else 1, "C": spec.channels}
    if spec.size is not None:
        sizes = [-(-n // many) * many for n in spec.size]
        axes |= dict(zip("DHW"[3 - spec.axes :], sizes, strict=True))
    return [
        axes.get(letter, n if isinstance(n, int) else -(-32 // many) * many)
        for n, letter in zip(declared, spec.layout, strict=True)
    ]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
