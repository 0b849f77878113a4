"""Group commit: who shares a wait with whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from config.errors import StorageError
from dicomnode.net import commit
from dicomnode.net.commit import _Lane, _Waiter


class Counted:
    """A commit that takes a moment, and the sizes of its batches."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []

    def __call__(self, batch: list[_Waiter]) -> None:
        self.sizes.append(len(batch))
        time.sleep(self.seconds)


def senders(lane: _Lane, count: int, objects: int) -> Iterator[threading.Thread]:
    def send() -> None:
        for _ in range(objects):
            lane.join(_Waiter(None, None))  # type: ignore[arg-type]  # what it is does not matter

    for _ in range(count):
        yield threading.Thread(target=send)


def run(threads: Iterator[threading.Thread]) -> None:
    started = list(threads)
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def test_on_a_slow_disk_those_who_send_at_once_share_every_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit, "CATCH_UP", 1000.0)
    monkeypatch.setattr(commit, "MOST_SECONDS", 0.5)
    work = Counted(0.005)
    run(senders(_Lane(work), 4, 10))
    assert sum(work.sizes) == 40
    # The first begins before the others are there, and is done before them.
    assert work.sizes.count(4) >= 8


def test_a_lone_sender_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "CATCH_UP", 1000.0)
    monkeypatch.setattr(commit, "MOST_SECONDS", 60.0)
    work = Counted(0.003)
    run(senders(_Lane(work), 1, 5))
    assert work.sizes == [1] * 5


def test_a_failed_commit_fails_all_of_its_batch_and_the_next_goes_on() -> None:
    faults = iter([StorageError("the disk refused")])

    def fail(batch: list[_Waiter]) -> None:
        for fault in faults:
            raise fault

    lane = _Lane(fail)
    with pytest.raises(StorageError, match="the disk refused"):
        lane.join(_Waiter(None, None))  # type: ignore[arg-type]
    lane.join(_Waiter(None, None))  # type: ignore[arg-type]
