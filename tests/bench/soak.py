"""Does a node stay as it is under hours of mixed, broken and hostile peers?

``python -m tests.bench.soak [--smoke] [--minutes 10]``

A real node in its own processes hears senders that store series, senders that go away in the
middle, damaged associations, rubbish, probes of a load balancer and connections that never say
anything. At minute 2 and at the end all of them stop, and once the node has nothing left to do its
processes are looked at: memory (PSS, all together) may have grown by 5 %, descriptors and threads
of each process not by one. Exit code 1 when they did, or when an object that was acknowledged is
not there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from tests.contract.mutations import mutant
from tests.contract.test_fuzz import provoke
from tests.contract.wire import Wire, pdu, pdv, store_rq
from tests.harness import NodeUnderTest
from tests.raw import CT, ct

BASE_SECONDS = 120.0
SETTLING_SECONDS = 5.0
"""At rest: until the last threads and sockets of associations are gone."""

GROWTH = 1.05
OBJECTS, ROWS = 20, 128
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends a reset


@dataclass(frozen=True)
class Rest:
    """The node while nobody calls and nothing is left to do; by process, with its number.

    Attributes:
        seconds: Since the load began.
        pss: Memory in bytes; pages that processes share count once, in parts.
        descriptors: How many of each kind: files by their names, sockets and pipes together.
        threads: How many.
    """

    seconds: float
    pss: dict[str, int]
    descriptors: dict[str, dict[str, int]]
    threads: dict[str, int]


class Load:
    """What peers do, each kind in a thread of its own, until `stop` is set."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.faults: list[str] = []
        kinds: tuple[tuple[Callable[[int], None], float], ...] = (
            (self.series, 0.2),
            (self.series, 0.3),
            (self.abort, 0.2),
            (self.damaged, 0.05),
            (self.garbage, 0.1),
            (self.probe, 0.05),
            (self.silent, 0.5),
        )
        self._turns = [threading.Lock() for _ in kinds]
        self.threads = [
            threading.Thread(target=self._repeat, args=(number, kind, pause))
            for number, (kind, pause) in enumerate(kinds)
        ]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """All peers have finished what they did, and are gone."""
        with contextlib.ExitStack() as turns:
            for turn in self._turns:
                turns.enter_context(turn)
            yield

    def _repeat(self, lane: int, kind: Callable[[int], None], pause: float) -> None:
        for turn in itertools.count():
            with self._turns[lane]:
                try:
                    kind(lane * 1_000_000 + turn)
                except (OSError, AssertionError) as error:
                    self.faults.append(f"{kind.__name__}: {error!r}")
                self.done[kind.__name__] += 1
            if self.stop.wait(pause):
                return

    def series(self, turn: int) -> None:
        """Images of one series, all of them acknowledged."""
        with Wire.associate(self.port) as wire:
            assert wire.echo().status == 0
            for number in range(OBJECTS):
                uid = f"1.2.{turn}.{number}"
                data = ct(
                    sop_instance=uid,
                    study=f"1.3.{turn}",
                    series=f"1.4.{turn}",
                    rows=ROWS,
                    columns=ROWS,
                )
                status = wire.store(data, uid).status
                assert status == 0, f"0x{status:04X}"
                self.acknowledged.append(uid)
            wire.release()

    def abort(self, turn: int) -> None:
        """A sender that goes away in the middle of an object: by A-ABORT, close or reset."""
        with Wire.associate(self.port) as wire:
            wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, f"1.5.{turn}"))))
            wire.data(ct(rows=ROWS, columns=ROWS)[: 1000 * (turn % 30)], last=False)
            if turn % 3 == 0:
                wire.sock.sendall(pdu(7, bytes(4)))
                wire.closed()
            elif turn % 3 == 1:
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def damaged(self, turn: int) -> None:
        provoke(self.port, mutant(1, turn))

    def garbage(self, turn: int) -> None:
        rubbish = Random(turn).randbytes(1 + turn % 5000)  # noqa: S311 - test data
        with Wire.connect(self.port) as wire:
            wire.sock.sendall(rubbish)
            with contextlib.suppress(OSError):  # the node has closed already
                wire.sock.shutdown(socket.SHUT_WR)
            wire.closed()

    def probe(self, turn: int) -> None:
        Wire.connect(self.port).sock.close()

    def silent(self, turn: int) -> None:
        with Wire.connect(self.port), Wire.associate(self.port) as wire:
            self.stop.wait(2)
            wire.release()


def look(node: NodeUnderTest, begun: float) -> Rest:
    """Every process of a node that is at rest."""
    assert node.process is not None
    root = psutil.Process(node.process.pid)
    names = {pid: name for name, pid in node.state.pids.items()} | {root.pid: "supervisor"}
    processes = {
        f"{names.get(process.pid, 'other')} {process.pid}": process
        for process in (root, *root.children(recursive=True))
    }
    return Rest(
        round(time.monotonic() - begun, 1),
        {name: process.memory_full_info().pss for name, process in processes.items()},
        {name: dict(descriptors(process.pid)) for name, process in processes.items()},
        {name: process.num_threads() for name, process in processes.items()},
    )


def descriptors(pid: int) -> Counter[str]:
    """What the descriptors of a process stand for, and how many of each there are."""
    found = Counter[str]()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        target = str(path.readlink())
        found[Path(target).name if target.startswith("/") else target.partition(":")[0]] += 1
    return found


def rest(node: NodeUnderTest, load: Load, begun: float) -> Rest:
    """Let everybody go, wait until all is done, and look."""
    with load.paused():
        node.wait_until(node.at_rest, "rest", 120)
        time.sleep(SETTLING_SECONDS)
        return look(node, begun)


def compare(first: Rest, last: Rest) -> dict[str, object]:
    """Two moments of rest: what changed."""
    memory = [round(sum(one.pss.values()) / 2**20, 1) for one in (first, last)]
    held = [
        {name: sum(kinds.values()) for name, kinds in one.descriptors.items()}
        for one in (first, last)
    ]
    changed = {
        name: {
            kind: [kinds.get(kind, 0), last.descriptors[name].get(kind, 0)]
            for kind in sorted(kinds.keys() | last.descriptors[name].keys())
            if kinds.get(kind, 0) != last.descriptors[name].get(kind, 0)
        }
        for name, kinds in first.descriptors.items()
        if name in last.descriptors and kinds != last.descriptors[name]
    }
    return {
        "seconds": [first.seconds, last.seconds],
        "memory_mib": memory,
        "memory_mib_by_process": [
            {name: round(pss / 2**20, 1) for name, pss in one.pss.items()} for one in (first, last)
        ],
        "memory_ratio": round(memory[1] / memory[0], 4),
        "descriptors": held,
        "descriptors_changed": changed,
        "threads": [first.threads, last.threads],
        "memory_within_5_percent": memory[1] <= GROWTH * memory[0],
        "flat": held[0] == held[1] and first.threads == last.threads,
    }


def soak(folder: Path, seconds: float, receivers: int) -> dict[str, object]:
    """Run the load; what was found."""
    with NodeUnderTest(folder, receivers=receivers) as node:
        load = Load(node.state.dicom[1])
        begun = time.monotonic()
        for thread in load.threads:
            thread.start()
        try:
            time.sleep(min(BASE_SECONDS, seconds / 2))
            first = rest(node, load, begun)
            time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
            last = rest(node, load, begun)
        finally:
            load.stop.set()
            for thread in load.threads:
                thread.join()

        def lost() -> set[str]:
            rows = node.rows("SELECT DISTINCT sop_instance_uid AS uid FROM instance")
            return set(load.acknowledged) - {row["uid"] for row in rows}

        with contextlib.suppress(AssertionError):  # what is missing then is told below
            node.wait_until(lambda: not lost(), "the row of each object", 30)
        restarts = {name: count for name, count in node.state.processes.items() if count}
        found = compare(first, last) | {
            "done": dict(load.done),
            "acknowledged": len(load.acknowledged),
            "lost": len(lost()),
            "faults": load.faults[:10],
            "restarts": restarts,
        }
        node.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--receivers", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="15 s: does it run? no verdict")
    options = parser.parse_args()
    seconds = 15.0 if options.smoke else options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), seconds, options.receivers)
    print(json.dumps(found, indent=2))
    bad = [name for name in ("lost", "faults", "restarts") if found[name]]
    if not options.smoke:
        bad += [name for name in ("memory_within_5_percent", "flat") if not found[name]]
    if bad:
        sys.exit("not as it should be: " + ", ".join(bad))


if __name__ == "__main__":
    main()
