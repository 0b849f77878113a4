"""The border of a loop of the worker."""

from __future__ import annotations

import threading

import structlog

from config.errors import StorageError
from dicomnode.work.borders import reported


def fail(doing: str, error: Exception) -> None:
    with reported(doing):
        raise error


def test_a_fault_that_lasts_is_logged_once_and_each_other_too() -> None:
    damaged = StorageError("the database is damaged: test_borders")
    with structlog.testing.capture_logs() as logged:
        threads = [threading.Thread(target=fail, args=("looking", damaged)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fail("sending", damaged)
        fail("looking", StorageError("the disk is gone: test_borders"))
        fail("looking", RecursionError())
        fail("looking", RecursionError())
    told = [(entry["doing"], entry.get("why"), entry["times"]) for entry in logged]
    assert told == [
        ("looking", "the database is damaged: test_borders", 1),
        ("sending", "the database is damaged: test_borders", 1),
        ("looking", "the disk is gone: test_borders", 1),
        ("looking", None, 1),
    ]
    assert logged[-1]["exc_info"]
