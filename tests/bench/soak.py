"""Does a node stay as it is under hours of mixed, broken and hostile peers?

``python -m tests.bench.soak [--smoke] [--minutes 10]``

A real node in its own processes hears senders that store series, senders that go away in the
middle, damaged associations, rubbish, probes of a load balancer and connections that never say
anything. Memory (PSS: pages that processes share count once), descriptors and threads of all its
processes are sampled; minute 2 is compared with the end. Exit code 1 when it grew, or when an
object that was acknowledged is not there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import psutil

from tests.contract.mutations import mutant
from tests.contract.test_fuzz import provoke
from tests.contract.wire import Wire, pdu, pdv, store_rq
from tests.harness import NodeUnderTest
from tests.raw import CT, ct

SAMPLE_SECONDS = 2.0
WINDOW_SECONDS = 30.0
BASE_SECONDS = 120.0
GROWTH = 1.05
OBJECTS, ROWS = 20, 128
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends a reset


@dataclass(frozen=True)
class Sample:
    """All processes of the node at one moment."""

    seconds: float
    pss: int
    descriptors: int
    threads: int
    processes: int


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
        self.threads = [
            threading.Thread(target=self._repeat, args=(number, kind, pause))
            for number, (kind, pause) in enumerate(kinds)
        ]

    def _repeat(self, lane: int, kind: Callable[[int], None], pause: float) -> None:
        for turn in itertools.count():
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


def sample(root: psutil.Process, begun: float) -> Sample | None:
    """None when a process ended while it was looked at."""
    try:
        processes = [root, *root.children(recursive=True)]
        return Sample(
            round(time.monotonic() - begun, 1),
            sum(process.memory_full_info().pss for process in processes),
            sum(process.num_fds() for process in processes),
            sum(process.num_threads() for process in processes),
            len(processes),
        )
    except psutil.NoSuchProcess:
        return None


def compare(samples: list[Sample], seconds: float) -> dict[str, object]:
    """Minute 2 against the end: the median of memory, the least of what comes and goes."""
    window = min(WINDOW_SECONDS, seconds / 4)
    base = min(BASE_SECONDS, seconds / 2)
    first = [one for one in samples if base - window <= one.seconds < base]
    last = samples[-max(len(first), 1) :]

    def memory(of: list[Sample]) -> float:
        return statistics.median(one.pss for one in of) / 2**20

    def least(of: list[Sample], what: str) -> int:
        return min(int(getattr(one, what)) for one in of)

    found: dict[str, object] = {"base_seconds": base, "window_seconds": window}
    found["memory_mib"] = [round(memory(first), 1), round(memory(last), 1)]
    found["memory_ratio"] = round(memory(last) / memory(first), 4)
    for what in ("descriptors", "threads", "processes"):
        found[what] = [least(first, what), least(last, what)]
    found["memory_within_5_percent"] = memory(last) <= GROWTH * memory(first)
    found["flat"] = all(
        # Under load the least of a window itself moves by a few, up and down.
        least(last, what) <= GROWTH * least(first, what)
        for what in ("descriptors", "threads")
    )
    return found


def soak(folder: Path, seconds: float, receivers: int) -> tuple[dict[str, object], list[Sample]]:
    """Run the load; what was found, and the samples."""
    samples: list[Sample] = []
    with NodeUnderTest(folder, receivers=receivers) as node:
        assert node.process is not None
        root, load = psutil.Process(node.process.pid), Load(node.state.dicom[1])
        begun = time.monotonic()
        for thread in load.threads:
            thread.start()
        while (now := time.monotonic() - begun) < seconds:
            taken = sample(root, begun)
            if taken is not None:
                samples.append(taken)
            load.stop.wait(min(SAMPLE_SECONDS, seconds - now))
        load.stop.set()
        for thread in load.threads:
            thread.join()
        rows = node.rows("SELECT DISTINCT sop_instance_uid AS uid FROM instance")
        lost = set(load.acknowledged) - {row["uid"] for row in rows}
        restarts = {name: count for name, count in node.state.processes.items() if count}
        found = compare(samples, seconds) | {
            "done": dict(load.done),
            "acknowledged": len(load.acknowledged),
            "lost": len(lost),
            "faults": load.faults[:10],
            "restarts": restarts,
        }
        node.stop()
    return found, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--receivers", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="15 s: does it run? no verdict")
    parser.add_argument("--samples", type=Path, help="write the samples here, a JSON list")
    options = parser.parse_args()
    seconds = 15.0 if options.smoke else options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        found, samples = soak(Path(folder), seconds, options.receivers)
    print(json.dumps(found, indent=2))
    if options.samples:
        options.samples.write_text(json.dumps([asdict(one) for one in samples]))
    bad = [name for name in ("lost", "faults", "restarts") if found[name]]
    if not options.smoke:
        bad += [name for name in ("memory_within_5_percent", "flat") if not found[name]]
    if bad:
        sys.exit("not as it should be: " + ", ".join(bad))


if __name__ == "__main__":
    main()
