"""What processes, with all that they started, take of the machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

import psutil

SAMPLE_SECONDS = 0.1


def processes_of(pids: Iterable[int]) -> Iterator[psutil.Process]:
    """The processes that live, and all that they started."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            root = psutil.Process(pid)
            yield root
            yield from root.children(recursive=True)


def pss_mib(process: psutil.Process) -> float:
    """PSS in MiB: a page that processes share counts once, a part to each."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_full_info().pss) / 2**20
    return 0.0


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of those that live."""
    total = 0.0
    for process in processes_of(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def hwm_mib(pid: int) -> float:
    """The most that was ever resident, in MiB; pages that processes share count in each."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


class PeakMemory:
    """The highest sum of PSS over processes while the block lasts, in MiB.

    Args:
        pids: The processes; what they start counts too.

    Attributes:
        mib: The highest sum of PSS that was seen.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.mib = 0.0
        self._pids = list(pids)
        self._hwm: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def hwm_mib(self) -> float:
        """The sum of what each process had resident at most, in MiB."""
        return sum(self._hwm.values())

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()
        assert self.mib > 0

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        found = list(processes_of(self._pids))
        self.mib = max(self.mib, sum(map(pss_mib, found)))
        self._hwm |= {one.pid: hwm_mib(one.pid) or self._hwm.get(one.pid, 0.0) for one in found}
