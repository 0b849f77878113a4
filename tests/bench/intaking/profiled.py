"""Where the node's time goes for one sender of small images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.intaking.bench import Bench
from tests.bench.intaking.images import Shape
from tests.bench.intaking.receivers import node
from tests.bench.intaking.senders import Load

Function = tuple[str, str, int, float]
"""File, function, calls, own seconds; a function of C stands under the file that called it."""

WAITING, READING, HASH, WALK = "waiting for a sender", "reading", "hash", "walk"
FILES, SYNC, ROWS, RESPONSE = "journal and files", "sync", "rows", "response"
HANDING, PROTOCOL, OTHER = "waiting for others", "PDUs and commands", "everything else"

IDLE = (WAITING, HANDING)

BUILT_IN = (
    ("'poll'", WAITING),
    ("select.", WAITING),
    ("'recv", READING),
    ("'send", RESPONSE),
    ("HASH", HASH),
    ("_hashlib", HASH),
    ("posix.fsync", SYNC),
    ("posix.fdatasync", SYNC),
    ("posix.pwritev", SYNC),  # it writes and syncs in one call
    ("posix.sync", SYNC),
    ("sqlite3", ROWS),
    ("_thread", HANDING),
    ("flock", HANDING),
    ("time.sleep", HANDING),
    ("posix.", FILES),
)
"""Functions of C that wait or work, by a part of their name; the first that fits counts."""

MODULES = (
    ("net/walk.py", WALK),
    ("net/pixels.py", WALK),
    ("storage/part10.py", FILES),
    ("storage/files.py", FILES),
    ("storage/objects.py", FILES),
    ("storage/incoming.py", FILES),
    ("storage/journal.py", FILES),
    ("storage/segment.py", FILES),
    ("storage/runs.py", FILES),
    ("storage/", ROWS),
    ("peewee", ROWS),
    ("playhouse", ROWS),
    ("rfc8785", ROWS),
    ("net/", PROTOCOL),
)
"""What code is about, by a part of its file's name; the first that fits counts."""


@dataclass(frozen=True)
class Profile:
    """Where the time of a thread went.

    Attributes:
        images: How many it took.
        seconds: Own seconds, by what they were spent on.
        others: The same of all other threads together.
        plain_ms: Median round trip of a C-STORE without the profiler, in milliseconds.
        profiled_ms: The same with it.
    """

    images: int
    seconds: dict[str, float]
    others: dict[str, float]
    plain_ms: float
    profiled_ms: float


def profiled(bench: Bench, shape: Shape) -> Profile:
    """Send over one association to one receiver process, without a profiler and with it.

    Raises:
        RuntimeError: No thread took the images.
    """
    load = Load(shape, 1)
    plain = bench.run(partial(node, receivers=1), load)
    path = bench.folder() / "profile.json"
    run = bench.run(partial(node, receivers=1, profile=path), load)
    serving, others = _part(path)
    return Profile(run.images, _sums(serving), _sums(others), _ms(plain.p50), _ms(run.p50))


def _ms(seconds: float | None) -> float:
    return (seconds or 0.0) * 1e3


def _part(path: Path) -> tuple[list[Function], list[Function]]:
    """The functions of the thread that read the images, and those of all others."""
    threads: list[list[Function]] = json.loads(path.read_text())

    def read(thread: list[Function]) -> int:
        return sum(calls for _, name, calls, _ in thread if "'recv" in name)

    serving = max(threads, key=read, default=[])
    if not serving:
        raise RuntimeError("no thread read from a connection")
    return serving, [one for thread in threads if thread is not serving for one in thread]


def _sums(functions: Sequence[Function]) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for where, name, _, seconds in functions:
        sums[_purpose(where, name)] += seconds
    return dict(sums.most_common())


def _purpose(where: str, name: str) -> str:
    if name.startswith("<"):  # of C
        for part, purpose in BUILT_IN:
            if part in name:
                return purpose
    return next((purpose for part, purpose in MODULES if part in where), OTHER)
