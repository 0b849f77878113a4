"""What runs cost, and how they compare: medians of paired rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.bench.intaking.images import Shape
from tests.bench.intaking.sender import Sent


@dataclass(frozen=True)
class Case:
    """What is compared: everything but the receiver.

    Attributes:
        sender: Name of the kind of sender.
        shape: Name of the shape.
        associations: At the same time.
    """

    sender: str
    shape: str
    associations: int

    def __str__(self) -> str:
        plural = "s" if self.associations > 1 else ""
        return f"{self.shape}, {self.associations} association{plural}, sender {self.sender}"


@dataclass(frozen=True)
class Run:
    """One run of one receiver. Rates are images a second, times seconds, memory MiB.

    Attributes:
        images: How many were sent.
        seconds: From the begin of the first sender to the last response.
        megabytes_per_second: Of pixels.
        p50: Median round trip of one C-STORE; None where the sender does not tell.
        p95: 95th percentile of it.
        p99: 99th percentile of it.
        sender_cpu: Processor time of all senders.
        slowest: Rate of the slowest sender.
        fastest: Rate of the fastest one.
        pss: Highest sum of PSS of the receiver's processes.
        hwm: Sum of what each of them had resident at most.
        lag: From the last response until all rows are in the database; None if it has none.
    """

    images: int
    seconds: float
    megabytes_per_second: float
    p50: float | None
    p95: float | None
    p99: float | None
    sender_cpu: float
    slowest: float
    fastest: float
    pss: float
    hwm: float
    lag: float | None

    @property
    def rate(self) -> float:
        """Images a second, all senders together."""
        return self.images / self.seconds


def run_of(shape: Shape, sent: Sequence[Sent], *, pss: float, hwm: float, lag: float | None) -> Run:
    """The figures of a run from what its senders saw."""
    images = sum(one.images for one in sent)
    seconds = max(one.ended for one in sent) - min(one.begun for one in sent)
    rates = [one.images / (one.ended - one.begun) for one in sent]
    times = sorted(time for one in sent for time in one.round_trips)
    return Run(
        images=images,
        seconds=seconds,
        megabytes_per_second=images * shape.bytes / 1e6 / seconds,
        p50=percentile(times, 50),
        p95=percentile(times, 95),
        p99=percentile(times, 99),
        sender_cpu=sum(one.cpu for one in sent),
        slowest=min(rates),
        fastest=max(rates),
        pss=pss,
        hwm=hwm,
        lag=lag,
    )


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile of values in ascending order; None of none."""
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


@dataclass
class Results:
    """Runs by case and receiver, in the order of their rounds."""

    runs: dict[tuple[Case, str], list[Run]] = field(default_factory=dict)

    def add(self, case: Case, receiver: str, run: Run) -> None:
        self.runs.setdefault((case, receiver), []).append(run)

    @property
    def cases(self) -> list[Case]:
        return list(dict.fromkeys(case for case, _ in self.runs))

    @property
    def receivers(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.runs))

    def rate(self, case: Case, receiver: str) -> float | None:
        """The median rate."""
        return median(run.rate for run in self.runs.get((case, receiver), []))

    def times_as_fast(self, one: tuple[Case, str], other: tuple[Case, str]) -> float | None:
        """How many times the rate of the other the one has: the median of paired rounds."""
        # A reference may have had fewer rounds: what is left out is said where runs are planned.
        pairs = zip(self.runs.get(one, []), self.runs.get(other, []), strict=False)
        return median(first.rate / second.rate for first, second in pairs)
