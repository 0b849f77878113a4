"""The queue for the database: who fails together, and what the system refuses in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import StorageError
from storage.turn import Turn

PATIENCE_SECONDS = 20.0


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[Turn]:
    made = Turn(tmp_path)
    yield made
    made.close()


def test_one_thread_has_it_at_a_time(turn: Turn) -> None:
    inside = most = 0

    def go() -> None:
        nonlocal inside, most
        for _ in range(5):
            with turn.held(time.monotonic()):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert (inside, most) == (0, 1)


def test_those_behind_one_that_the_database_failed_fail_with_it(turn: Turn, tmp_path: Path) -> None:
    other = Turn(tmp_path)  # as of another process
    before = time.monotonic()
    with pytest.raises(StorageError, match="locked"), turn.held(before):
        raise StorageError("the database is locked")
    for each in (turn, other):
        with pytest.raises(StorageError, match="before this one"), each.held(before):
            pytest.fail("it had the turn")
        with each.held(time.monotonic()):
            pass
    other.close()


def test_nobody_who_comes_later_is_served_before_those_who_wait(turn: Turn) -> None:
    holding, order = threading.Event(), []

    def wait(number: int) -> None:
        with turn.held(time.monotonic()):
            order.append(number)

    def hold() -> None:
        with turn.held(time.monotonic()):
            holding.set()
            while len(turn._queue) < 6:
                time.sleep(0.001)
        wait(5)  # again, and at once

    threads = [threading.Thread(target=hold)]
    threads[0].start()
    assert holding.wait(PATIENCE_SECONDS)
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while len(turn._queue) < number + 2:
            time.sleep(0.001)
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_process_that_comes_again_at_once_stands_behind_another_that_waits(
    turn: Turn, tmp_path: Path
) -> None:
    other, order = Turn(tmp_path), []

    def wait() -> None:
        with other.held(time.monotonic()):
            order.append("other")

    waiting = threading.Thread(target=wait)
    with (tmp_path / "commit-next.lock").open() as file, turn.held(time.monotonic()):
        waiting.start()
        with contextlib.suppress(BlockingIOError):
            while True:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(file, fcntl.LOCK_UN)
    with turn.held(time.monotonic()):
        order.append("again")
    waiting.join(PATIENCE_SECONDS)
    assert order == ["other", "again"]
    other.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_what_failed_the_database_is_told_when_it_cannot_be_noted(
    turn: Turn, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StorageError, match="the database failed"), turn.held(time.monotonic()):
        raise StorageError("the database failed")
    with turn.held(time.monotonic()):
        pass


@pytest.mark.parametrize("call", ["flock", "pread"])
def test_a_refusal_of_the_system_is_the_nodes_own_error(
    turn: Turn, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*asked: object) -> None:
        if asked[1:] != (fcntl.LOCK_UN,):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(fcntl if call == "flock" else os, call, refuse)
        with pytest.raises(StorageError, match="queueing"), turn.held(time.monotonic()):
            pytest.fail("it had the turn")
    with turn.held(time.monotonic()):
        pass


def test_nobody_has_it_after_the_end(tmp_path: Path) -> None:
    turn = Turn(tmp_path)
    turn.close()
    with pytest.raises(StorageError, match="ending"), turn.held(time.monotonic()):
        pytest.fail("it had the turn")
