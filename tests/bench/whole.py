"""A network that is given a volume at once: one job that has all cores, and four jobs at once.

``python -m tests.bench.whole [--smoke] [--rounds N]``

The U-Net of `tests.bench.networks` without sliding windows has one long run a job. An engine whose
runs have one core each stands beside one in which the only run of the only job has all of them; as
many jobs go on at a time as there are cores. Both take turns; the medians of their seconds are
told, and what the second takes of the first's time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from tests.bench import networks
from tests.bench.engine import computed_tomography

CORES = os.cpu_count() or 1
SHAPE, SMALL = (64, 96, 96), (16, 32, 32)
COUNTS = (1, 4)


def seconds(engine: Engine, package: Package, volume: Volume, count: int) -> float:
    """How long so many jobs take, as many at a time as there are cores."""
    with ThreadPoolExecutor(CORES) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: engine.run(package, {"image": volume}).provider, range(count)))
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a short run that shows it works")
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    shape, rounds = (SMALL, 1) if arguments.smoke else (SHAPE, arguments.rounds)
    engines = {
        "one core a run": Engine(Registry([]), SessionCache(("cpu",), 1)),
        "all cores alone": Engine(Registry([]), SessionCache(("cpu",), 1, threads_alone=CORES)),
    }
    with tempfile.TemporaryDirectory() as name:
        package, volume = networks.unet(Path(name)), computed_tomography(shape)
        for engine in engines.values():
            engine.load(package)
        print(f"{CORES} cores, a volume of {' x '.join(map(str, shape))}, {rounds} rounds")
        for count in COUNTS:
            taken: dict[str, list[float]] = {name: [] for name in engines}
            for number in range(rounds):
                turns = sorted(engines, reverse=bool(number % 2))
                for each in turns:
                    taken[each].append(seconds(engines[each], package, volume, count))
            one, all_ = (statistics.median(times) for times in taken.values())
            print(f"{count} at once: {one:.2f} s, {all_:.2f} s with all cores: {all_ / one:.2f}")


if __name__ == "__main__":
    main()
