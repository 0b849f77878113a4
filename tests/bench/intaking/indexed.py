"""Whether a node that holds many instances takes more as fast as an empty one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from storage.db import FILE_NAME
from tests.bench.filled import fill
from tests.bench.intaking.bench import Bench
from tests.bench.intaking.figures import Case, Results
from tests.bench.intaking.images import Shape
from tests.bench.intaking.receivers import Start
from tests.bench.intaking.senders import Load
from tests.harness import NodeUnderTest

EMPTY, FULL = "empty node", "full node"


@dataclass(frozen=True)
class Indexed:
    """What was found.

    Attributes:
        results: Runs of the empty and the full node.
        instances: Rows that the full node's database held before.
        database_bytes: Its size.
        start_seconds: From the command ``medai-node run`` until the node is ready, over that
            database.
    """

    results: Results
    instances: int
    database_bytes: int
    start_seconds: float


def indexed(
    bench: Bench,
    start: Start,
    instances: int,
    shape: Shape,
    *,
    associations: Sequence[int],
    rounds: int,
) -> Indexed:
    """Send images to an empty node and to one with so many instances, in turn.

    The full node's folder stays the same from round to round; what comes is new each time.
    """
    whole = NodeUnderTest(bench.folder())
    folder = whole.data_dir
    fill(folder, instances)
    size = (folder / FILE_NAME).stat().st_size
    seconds = _start_seconds(whole)
    results = Results()
    for number in range(rounds):
        for name in (EMPTY, FULL) if number % 2 else (FULL, EMPTY):
            for senders in associations:
                at = folder if name == FULL else None
                run = bench.run(start, Load(shape, senders), folder=at)
                results.add(Case("own", "small", senders), name, run)
    return Indexed(results, instances, size, seconds)


def _start_seconds(whole: NodeUnderTest) -> float:
    begun = time.monotonic()
    whole.start()
    seconds = time.monotonic() - begun
    if whole.stop():
        raise RuntimeError("the node did not end in order")
    return seconds
