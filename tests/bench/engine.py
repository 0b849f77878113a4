"""The node's engine beside a bare loop of ONNX Runtime over the same network, in the same run.

``python -m tests.bench.engine [--smoke] [--rounds N] [--frames N]``: images and patches a second
on the CPU.
``python -m tests.bench.engine --memory [--smoke]``: the peak of a long series with 20 classes.
``python -m tests.bench.engine --gpu [--smoke]``: the same classifier on a GPU, and how busy it is.

The bare loop has its tensors ready before the clock starts and throws the results away; the engine
prepares every image, checks every tensor, blends patches and makes labels and findings. Of threads
times threads of the runtime the loop takes the best of those that make up the cores, found in a
short trial. Both take turns, the first changing from round to round; each round gives a ratio, and
the median of those is told. Networks: `tests.bench.networks`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ai import memory, preprocess
from ai.devices import NAMES, Provider, cuda_loads, why_not
from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from ai.sliding import Slide
from ai.types import Volume
from tests.bench import networks
from tests.bench.processes import hwm_mib

CORES = os.cpu_count() or 1
GIB = float(1 << 30)
Tensor = NDArray[np.float32]


def radiographs(count: int) -> list[Volume]:
    """Noise of the classifier's own size."""
    random = np.random.default_rng(1)
    shape = (1, networks.SIZE, networks.SIZE)
    return [
        Volume(
            random.integers(0, 4096, shape).astype(np.uint16),
            "1", None, (None, None, None), (0.0, 4095.0),
        )
        for _ in range(count)
    ]  # fmt: skip


def computed_tomography(shape: tuple[int, int, int]) -> Volume:
    """Noise of a CT, slice by slice, so that nothing but the volume itself is held."""
    random = np.random.default_rng(2)
    voxels = np.empty(shape, np.int16)
    for plane in voxels:
        plane[:] = random.integers(-1000, 1500, plane.shape, np.int16)
    spacing = (1.0, 0.7, 0.7)
    affine = np.array(
        [[0.0, 0.0, spacing[2], 0.0], [0.0, spacing[1], 0.0, 0.0], [spacing[0], 0.0, 0.0, 0.0],
         [0.0, 0.0, 0.0, 1.0]]
    )  # fmt: skip
    return Volume(voxels, "[hnsf'U]", affine, spacing, (-1024.0, 3071.0))


class Bare:
    """A loop over tensors that are ready.

    Args:
        package: Whose graph it runs.
        threads: How many call the runtime.
        intra: Threads of the runtime for each.
        provider: What it runs on.
    """

    def __init__(
        self, package: Package, threads: int, intra: int, provider: Provider = "cpu"
    ) -> None:
        self.name = f"{threads} × {intra}"
        self._threads = threads
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra
        options.log_severity_level = 4
        names = list(dict.fromkeys((NAMES[provider], NAMES["cpu"])))
        content = package.read(package.manifest.graph)
        self._session = ort.InferenceSession(content, options, providers=names)
        self.provider = self._session.get_providers()[0]

    def run(self, tensors: Sequence[Tensor]) -> None:
        """All of them, the results thrown away."""

        def one(tensor: Tensor) -> None:
            self._session.run(None, {"image": tensor})

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(one, tensors))


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock and of the processor, all threads together."""

    clock: float
    processor: float


def spent(work: Callable[[], object]) -> Spent:
    """What some work takes."""
    start, worked = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - start, time.process_time() - worked)


def best(package: Package, tensors: Sequence[Tensor]) -> Bare:
    """The fastest of all ways to share the cores between threads and the runtime."""
    ways = [Bare(package, CORES // n, n) for n in range(1, CORES + 1) if CORES % n == 0]
    found = []
    for way in ways:
        way.run(tensors[:CORES])
        found.append((min(spent(lambda: way.run(tensors)).clock for _ in range(2)), way))  # noqa: B023
    rates = ", ".join(f"{way.name} {len(tensors) / seconds:.2f}/s" for seconds, way in found)
    print(f"  bare loop, threads × threads of the runtime: {rates}")
    return min(found, key=lambda pair: pair[0])[1]


def engine_for(provider: Provider = "cpu") -> Engine:
    """As a worker has it."""
    return Engine(Registry([]), SessionCache((provider,), 1))


def paired(
    rounds: int, items: int, ours: Callable[[], object], bare: Callable[[], object]
) -> float:
    """The median over rounds of how fast the engine is beside the loop, by the clock.

    That of the processor's seconds is printed too: it is what the engine spends, whatever else the
    machine does.
    """
    clocks, processors = [], []
    for number in range(rounds):
        if number % 2:
            own, other = spent(ours), spent(bare)
        else:
            other, own = spent(bare), spent(ours)
        clocks.append(other.clock / own.clock)
        processors.append(other.processor / own.processor)
        print(
            f"  round {number + 1}: engine {items / own.clock:.2f}/s, "
            f"bare {items / other.clock:.2f}/s, ratio {clocks[-1]:.3f}, "
            f"of the processor {processors[-1]:.3f}, load {os.getloadavg()[0]:.1f}"
        )
    print(f"  of the processor's seconds: {statistics.median(processors):.3f}")
    return statistics.median(clocks)


def classify(folder: Path, rounds: int, frames: int) -> float:
    """512 frames, each a job, from as many threads as there are cores."""
    package, engine = networks.densenet(folder), engine_for()
    volumes = radiographs(frames)
    plan = preprocess.plan(package.manifest.input, volumes[0])
    tensors = [plan.tensor(0, 1)] * frames
    loop = best(package, tensors[: max(4, frames // 8)])
    engine.run(package, {"image": volumes[0]})

    def ours() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda each: engine.run(package, {"image": each}), volumes))

    return paired(rounds, frames, ours, lambda: loop.run(tensors))


def segment(folder: Path, rounds: int, shape: tuple[int, int, int], patch: int) -> float:
    """One series through patches: preparation, blending and labels are the engine's burden."""
    more = f"[inputs.sliding]\npatch = [{patch}, {patch}, {patch}]\n"
    package, engine = networks.unet(folder, more=more), engine_for()
    volume = computed_tomography(shape)
    plan = preprocess.plan(package.manifest.input, volume)
    labels = package.manifest.output.labels
    assert labels is not None
    tensors = [each.feeds["image"] for each in Slide([plan], {}, labels).patches()]
    loop = best(package, tensors[: 2 * CORES])
    split: dict[str, float] = {}

    def ours() -> None:
        split.update(engine.run(package, {"image": volume}).seconds)

    engine.sessions.get(package)
    ratio = paired(rounds, len(tensors), ours, lambda: loop.run(tensors))
    told = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in split.items())
    print(f"  the last one by stage: {told}")
    return ratio


def throughput(*, smoke: bool, rounds: int, frames: int) -> None:
    """Both networks on the CPU."""
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}, ONNX Runtime {ort.__version__}")
    frames, shape, patch = (8, (24, 40, 40), 24) if smoke else (frames, (144, 192, 192), 96)
    with tempfile.TemporaryDirectory() as name:
        print(f"classification, {frames} frames of {networks.SIZE}²")
        ratio = classify(Path(name), rounds, frames)
        print(f"  engine / bare loop: {ratio:.3f} (aim 0.95)")
        print(f"segmentation by patches of {patch}³, {' × '.join(map(str, shape))}")
        ratio = segment(Path(name), rounds, shape, patch)
        print(f"  engine / bare loop: {ratio:.3f} (aim 0.90)")


LONG, SHORT = (2000, 512, 512), (60, 64, 64)
CLASSES = 20


def long_series(*, smoke: bool) -> None:
    """The peak of a process that segments a long series, from the volume to its labels."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_long_series, args=(SHORT if smoke else LONG, theirs))
    process.start()
    theirs.close()
    try:
        before, peak, told, seconds = ours.recv()
    finally:
        process.join()
    shape = " × ".join(map(str, SHORT if smoke else LONG))
    print(f"{shape}, {CLASSES} classes, {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(f"  before the run, the volume among it: {before / 1024:.2f} GiB")
    print(f"  told before the run, beside that:    {told / GIB:.2f} GiB")
    print(f"  peak:                                {peak / 1024:.2f} GiB (bound 8)")


def _long_series(shape: tuple[int, int, int], answer: Connection) -> None:
    patch = (96, 128, 128) if shape == LONG else (16, 32, 32)
    # A spacing that is not the image's, so that the volume is resampled, to nearly as many voxels.
    more = (
        "spacing = [1.001, 0.701, 0.701]\n"
        f"[inputs.sliding]\npatch = {list(patch)}\noverlap = 0.25\n"
    )
    with tempfile.TemporaryDirectory() as name:
        package = networks.unet(Path(name), CLASSES, more, levels=(4, 8))
        engine = engine_for()
        model = engine.sessions.get(package)
        volume = computed_tomography(shape)
        plan = preprocess.plan(package.manifest.input, volume)
        told = memory.needed(model, [plan], engine.lanes.count)
        pid = multiprocessing.current_process().pid or 0
        before, start = hwm_mib(pid), time.perf_counter()
        made = engine.run(package, {"image": volume})
        assert made.labels is not None
        answer.send((before, hwm_mib(pid), told, time.perf_counter() - start))


def on_a_gpu(*, smoke: bool, rounds: int) -> None:
    """The classifier through CUDA, its images joined in batches."""
    if not cuda_loads():
        print(f"skipped, no GPU: {why_not('cuda')}")
        return
    batch, frames = (8, 64) if smoke else (64, 8192)
    with tempfile.TemporaryDirectory() as name:
        package, engine = networks.densenet(Path(name), batch), engine_for("cuda")
        model = engine.sessions.get(package)
        print(f"asked {model.asked}, runs {model.runs} {model.reason}")
        volumes = radiographs(256) * (frames // 256 or 1)
        plan = preprocess.plan(package.manifest.input, volumes[0])
        tensors = [np.repeat(plan.tensor(0, 1), batch, axis=0)] * (len(volumes) // batch)
        loop = Bare(package, 2, 1, "cuda")
        print(f"bare loop on {loop.provider}")
        busy: list[float] = []

        def ours() -> None:
            with ThreadPoolExecutor(4 * batch) as pool, sampled(busy):
                list(pool.map(lambda each: engine.run(package, {"image": each}), volumes))

        ours()
        busy.clear()
        ratio = paired(rounds, len(volumes), ours, lambda: loop.run(tensors))
        print(f"  engine / bare loop: {ratio:.3f} (aim 0.90)")
        told = f"{statistics.median(busy):.0f} %" if busy else "nvidia-smi does not say"
        print(f"  GPU busy while the engine ran: {told} (aim 80 %)")


@contextmanager
def sampled(busy: list[float]) -> Iterator[None]:
    """Notes how busy the GPU is, five times a second, where nvidia-smi is there to say it."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    with subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.terminate()
            told, _ = process.communicate()
            busy += [float(line) for line in told.split() if line.strip().isdigit()]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=512)
    arguments = parser.parse_args()
    rounds = 1 if arguments.smoke else arguments.rounds
    if arguments.memory:
        long_series(smoke=arguments.smoke)
    elif arguments.gpu:
        on_a_gpu(smoke=arguments.smoke, rounds=rounds)
    else:
        throughput(smoke=arguments.smoke, rounds=rounds, frames=arguments.frames)


if __name__ == "__main__":
    main()
