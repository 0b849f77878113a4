"""The parts of the benchmark: each runs, says what it found, and keeps it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.intaking import compare, told
from tests.bench.intaking.bench import Bench
from tests.bench.intaking.held import PATHS, held
from tests.bench.intaking.images import SHAPES, Shape
from tests.bench.intaking.indexed import EMPTY, FULL, indexed
from tests.bench.intaking.plot import write_plot
from tests.bench.intaking.profiled import IDLE, profiled
from tests.bench.intaking.receivers import NODE, Receiver
from tests.bench.intaking.slowdisk import slow_disk, why_not

DURABLE = (NODE, "Orthanc")
"""Receivers that wait for the disk before they say Success."""


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    plans: tuple[compare.Plan, ...] = compare.PLANS
    slow_associations: tuple[int, ...] = (1, 4, 8)
    indexed_shape: Shape = SHAPES["small"]
    indexed_associations: tuple[int, ...] = (1, 4)
    indexed_rounds: int = 3
    held_shape: Shape = SHAPES["huge"]
    profiled_shape: Shape = SHAPES["small"]


FULL_SCALE = Scale()
SMOKE_SCALE = Scale(
    compare.SMOKE,
    slow_associations=(1,),
    indexed_shape=SHAPES["small"].of(20),
    indexed_associations=(1,),
    indexed_rounds=1,
    held_shape=SHAPES["large"],
    profiled_shape=SHAPES["small"].of(50),
)
"""Just so much that every part runs."""


@dataclass
class Session:
    """One run of the benchmark.

    Attributes:
        bench: Runs loads.
        scale: How much is done.
        receivers: Those that are compared.
        plans: With whom and what they are compared.
        slow_ms: How many milliseconds longer a sync takes on the slow disk.
        instances: How many the full node holds.
        plot: Where the picture goes, if one is wanted.
        found: What was found, by part.
    """

    bench: Bench
    scale: Scale
    receivers: dict[str, Receiver]
    plans: list[compare.Plan]
    slow_ms: int
    instances: int
    plot: Path | None = None
    found: dict[str, object] = field(default_factory=dict)

    def run(self, part: Callable[[Session], str]) -> str:
        """Run a part; what it found, for people."""
        return part(self)

    def compare(self) -> str:
        """Every receiver with every sender and shape."""
        installed = {name: one for name, one in self.receivers.items() if one.installed}
        results = compare.compare(self.bench, self.plans, installed)
        self.found["compare"] = told.as_json(results)
        if self.plot:
            made_on = f"{os.cpu_count()} cores, loopback, Python {platform.python_version()}"
            note = f"{made_on}. The node and Orthanc wait for the disk before they say Success."
            write_plot(self.plot, results, note)
        left_out = compare.left_out(self.plans, self.receivers) or ["nothing"]
        return "\n".join(
            (
                told.comparison(results),
                "\nThe node is so many times as fast, medians of paired rounds\n",
                told.ratios(results),
                "\nAll senders together, as a share of one sender's rate\n",
                told.parallel(results),
                "",
                *told.nagle(results),
                "\nLeft out",
                *(f"  {line}" for line in left_out),
            )
        )

    def slow_fsync(self) -> str:
        """Parallel senders on a disk with slow syncs."""
        if (why := why_not()) is not None:
            return f"Left out: {why}"
        receivers = {
            name: self.receivers[name]
            for name in DURABLE
            if name in self.receivers and self.receivers[name].installed
        }
        numbers = self.scale.slow_associations
        results = slow_disk(self.bench, self.slow_ms, numbers, receivers)
        self.found["slow_fsync"] = {"ms": self.slow_ms, "runs": told.as_json(results)}
        return "\n".join(
            (
                f"Every sync takes {self.slow_ms} ms longer\n",
                told.comparison(results),
                "\nAll senders together, as a share of one sender's rate\n",
                told.parallel(results),
            )
        )

    def indexed(self) -> str:
        """A node that holds many instances beside an empty one."""
        scale, start = self.scale, self.receivers[NODE].start
        found = indexed(
            self.bench,
            start,
            self.instances,
            scale.indexed_shape,
            associations=scale.indexed_associations,
            rounds=scale.indexed_rounds,
        )
        results = found.results
        self.found["indexed"] = {
            "instances": found.instances,
            "database_bytes": found.database_bytes,
            "start_seconds": found.start_seconds,
            "runs": told.as_json(results),
        }
        rows = [
            (
                str(case),
                *(told.number(results.rate(case, name)) for name in (FULL, EMPTY)),
                told.number(results.times_as_fast((case, FULL), (case, EMPTY)), 2),
            )
            for case in results.cases
        ]
        megabytes = found.database_bytes / 1e6
        return "\n".join(
            (
                f"{found.instances} instances in the full node, {megabytes:.0f} MB of database\n",
                told.columns(("images/s", FULL, EMPTY, "ratio"), rows),
                f"\nmedai-node run is ready over it after {found.start_seconds:.1f} s",
            )
        )

    def memory(self) -> str:
        """Memory of associations in the middle of a large object."""
        start, shape = self.receivers[NODE].start, self.scale.held_shape
        measured = [held(self.bench, start, shape, path) for path in PATHS]
        self.found["memory"] = [{**asdict(one), "mib_each": one.each} for one in measured]
        numbers = (f"{number} held" for number in measured[0].pss)
        rows = [
            (one.path, *(told.number(mib) for mib in one.pss.values()), f"{one.each:.2f}")
            for one in measured
        ]
        return "\n".join(
            (
                f"PSS in MiB, in the middle of an object of {shape.bytes / 1e6:.0f} MB\n",
                told.columns(("", *numbers, "each"), rows),
            )
        )

    def profile(self) -> str:
        """Where the node's time goes."""
        found = profiled(self.bench, self.scale.profiled_shape)
        self.found["profile"] = asdict(found)
        total = sum(found.seconds.values())
        busy = {what: spent for what, spent in found.others.items() if what not in IDLE}
        rows = [
            (
                what,
                f"{seconds / total:.0%}",
                *(told.number(of.get(what), 3, 1e3 / found.images) for of in (found.seconds, busy)),
            )
            for what, seconds in found.seconds.items()
        ]
        return "\n".join(
            (
                f"One C-STORE of a small image, one sender: median {found.plain_ms:.2f} ms, and "
                f"{found.profiled_ms:.2f} ms under cProfile, whose shares these are\n",
                told.columns(
                    ("the thread that takes them", "share", "ms each", "other threads"), rows
                ),
            )
        )


PARTS: dict[str, Callable[[Session], str]] = {
    "compare": Session.compare,
    "slow_fsync": Session.slow_fsync,
    "indexed": Session.indexed,
    "memory": Session.memory,
    "profile": Session.profile,
}
