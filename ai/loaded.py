"""One graph in one session of ONNX Runtime, with a time limit on each run."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ai.devices import QUIET, SHORT
from ai.inputs import Input
from ai.manifest import Manifest
from ai.package import Package
from ai.pinned import Staging
from ai.shapes import disagreements
from ai.variants import Provider
from config.errors import InferenceError, OutOfMemoryError, ProviderError

Tensors = dict[str, NDArray[Any]]

# The runtime's own errors have no base class but Exception.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(
        kind
        for kind in vars(ort_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    RuntimeError,
    ValueError,
    MemoryError,
)
# With this option a run gives the memory back that it and those before it took.
_SHRINK = "memory.enable_memory_arena_shrinkage"
# What the runtime, CUDA, cuBLAS and cuDNN say when memory is short.
_NO_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "ALLOC_FAILED",
    "bad array new length",
)


@dataclass
class Usage:
    """What a session does now and did last; changed under `lock`.

    Attributes:
        running: Runs that go on.
        last: When the last one ended, on the monotonic clock.
        resting: Its memory was given back since.
        at_once: Most runs that went on at a time since its memory was given back: what they took
            is kept for others.
        most: Items of several callers that may be joined in one run.
        limit: Items that one run may have, once memory was short; None before.
        apart: Whether items were seen not to change each other's answers; None if not tried.
    """

    most: int
    limit: int | None = None
    apart: bool | None = None
    running: int = 0
    last: float = field(default_factory=time.monotonic)
    resting: bool = True
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class LoadedModel:
    """A graph that is ready to run, from any thread.

    Attributes:
        package: The model.
        graph: Which of its graphs.
        provider: The execution provider that really runs it, as the session says.
        asked: What the settings ask for, in words.
        reason: Why it is not the first of what was asked for; empty where it is.
        session: The runtime's session.
        outputs: The tensors that are asked for.
        stacked: Inputs whose first axis counts items, any number of them.
        cuttable: Items are independent in shape: a run may be cut into several and its results
            put together.
        counted: Outputs of findings whose first axis counts images, any number of them.
        usage: What it does now.
        staging: Page-locked memory for its inputs, on a GPU.
        alone: Another session of the graph, with a thread for every core, for runs that have the
            machine to themselves; None where that is not worth a second copy of the weights.
        working: Bytes that the graph held while `blank` ran, beside what went in and came out;
            None where the runtime did not tell.
    """

    package: Package
    graph: str
    provider: str
    asked: str
    reason: str
    session: ort.InferenceSession
    outputs: tuple[str, ...]
    stacked: frozenset[str]
    cuttable: bool
    counted: frozenset[str]
    usage: Usage
    staging: Staging | None = None
    alone: ort.InferenceSession | None = None
    working: int | None = None

    @property
    def reference(self) -> str:
        """``name@version``."""
        return self.package.manifest.reference

    @property
    def runs(self) -> Provider:
        """The provider that really runs it, as the settings spell it."""
        return SHORT[self.provider]

    @property
    def threads_alone(self) -> int | None:
        """Threads of a run that has the machine to itself, where they are more than usual."""
        if self.alone is None:
            return None
        threads: int = self.alone.get_session_options().intra_op_num_threads
        return threads

    @property
    def on_cpu(self) -> bool:
        """The CPU runs it."""
        return self.runs == "cpu"

    def items(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """How many slices, images or patches some tensors hold."""
        return next((len(feeds[name]) for name in self.stacked), 1)

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        deadline_seconds: float | None,
        *,
        alone: bool = False,
    ) -> Tensors:
        """Runs the graph; releases the GIL meanwhile.

        Args:
            feeds: Tensors by name.
            deadline_seconds: After so long the runtime is told to stop, which it does at the next
                operator of the graph; None for no limit.
            alone: No other run goes on: it may have all cores, where there is a session for that.

        Raises:
            OutOfMemoryError: It asked for more memory than there is.
            ProviderError: It failed, and not on the CPU.
            InferenceError: The time was up, or the runtime failed.
        """
        options = ort.RunOptions()
        if not alone or self.alone is None:
            return self._run(feeds, deadline_seconds, options)
        # The next run may be one of the other session, which has memory of its own.
        options.add_run_config_entry(_SHRINK, "cpu:0")
        return replace(self, session=self.alone)._run(feeds, deadline_seconds, options)

    def rest(self) -> None:
        """Gives the memory back that earlier runs have left, by a small run that ends so."""
        options = ort.RunOptions()
        arenas = "cpu:0" if self.on_cpu else "cpu:0;gpu:0"
        options.add_run_config_entry(_SHRINK, arenas)
        self._run(self.blank(), None, options)
        with self.usage.lock:
            self.usage.resting, self.usage.at_once = True, 0

    def blank(self) -> Tensors:
        """Zeros that the graph takes: the first run, in which the runtime sets itself up."""
        shapes = {entry.name: entry.shape for entry in self.session.get_inputs()}
        feeds: Tensors = {}
        for spec in self.package.manifest.inputs:
            feeds[spec.tensor] = np.zeros(_blank_shape(spec, shapes[spec.tensor]), np.float32)
            for name, fact in spec.facts.items():
                values = [0.0, 1.0] if fact == "value_range" else [0.0]
                feeds[name] = np.array(values, np.float32)
        return feeds

    def _run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        deadline_seconds: float | None,
        options: ort.RunOptions,
    ) -> Tensors:
        options.log_severity_level = QUIET
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
        with self.usage.lock:
            self.usage.running += 1
            self.usage.at_once = max(self.usage.at_once, self.usage.running)
        try:
            how = plainly if self.on_cpu else bound
            values = how(self, feeds, options)
        except RUNTIME_ERRORS as error:
            if late.is_set():
                raise InferenceError(f"{self.reference} was stopped: its time was up") from error
            raise self._told(error) from error
        finally:
            if timer:
                timer.cancel()
            with self.usage.lock:
                self.usage.running -= 1
                self.usage.last = time.monotonic()
                self.usage.resting = False
        made = dict(zip(self.outputs, values, strict=True))
        if self.items(feeds) == 1:
            self._check_one_answer(made)
        return made

    def _check_one_answer(self, made: Tensors) -> None:
        # The first of several rows would be taken for the answer, whatever the others say.
        for name in self.counted:
            rows = np.shape(made[name])[:1]
            if rows not in {(), (1,)}:
                text = f"{self.reference} gave {rows[0]} rows of {name} for one image"
                raise InferenceError(f"{text}: which of them is its answer cannot be told")

    def _told(self, error: Exception) -> InferenceError:
        if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
            where = "" if self.on_cpu else f" of {self.runs}"
            return OutOfMemoryError(f"{self.reference} asked for more memory{where} than there is")
        kind = InferenceError if self.on_cpu else ProviderError
        return kind(f"{self.reference} failed: {one_line(error)}")


def plainly(
    model: LoadedModel, feeds: Mapping[str, NDArray[Any]], options: ort.RunOptions
) -> Sequence[NDArray[Any]]:
    """A run whose tensors the runtime takes where they lie."""
    made: Sequence[NDArray[Any]] = model.session.run(list(model.outputs), dict(feeds), options)
    return made


def bound(
    model: LoadedModel, feeds: Mapping[str, NDArray[Any]], options: ort.RunOptions
) -> Sequence[NDArray[Any]]:
    """A run whose tensors are put on the device before it and fetched after it, once each.

    The same bytes come out as of `plainly`; on the CPU nothing is gained by it.
    """
    device = "cpu" if model.on_cpu else "cuda"
    staging = model.staging or Staging(None)
    with staging.holding(feeds) as held:
        binding = model.session.io_binding()
        for name, array in held.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
        for name in model.outputs:
            binding.bind_output(name, device, 0)
        model.session.run_with_iobinding(binding, options)
        made: Sequence[NDArray[Any]] = binding.copy_outputs_to_cpu()
    return made


def check_graph(manifest: Manifest, session: ort.InferenceSession) -> None:
    """Compares a graph with what its manifest says of it.

    Raises:
        InferenceError: It is another one; with everything in which it differs.
    """
    found = disagreements(manifest, session.get_inputs(), session.get_outputs())
    if found:
        raise InferenceError(f"{manifest.reference}: {'; '.join(found)}")


def _blank_shape(spec: Input, declared: Sequence[object]) -> list[int]:
    many = spec.multiple_of
    # Nothing but the size of an image is taken from the graph: what else it wants, and was not
    # declared so, is found here and not at the first study.
    axes = {"N": spec.batch if spec.apply == "slices" else 1, "C": spec.channels}
    if spec.size is not None:
        sizes = [-(-n // many) * many for n in spec.size]
        axes |= dict(zip("DHW"[3 - spec.axes :], sizes, strict=True))
    if spec.sliding is not None:
        axes |= dict(zip("DHW"[3 - spec.axes :], spec.sliding.patch, strict=True))
    return [
        axes.get(letter, n if isinstance(n, int) else -(-32 // many) * many)
        for n, letter in zip(declared, spec.layout, strict=True)
    ]


def one_line(error: Exception) -> str:
    """A text of the runtime on one line, cut."""
    return " ".join(str(error).split())[:300] or type(error).__name__
