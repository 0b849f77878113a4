"""Calling a peer: whose answer it is."""

from __future__ import annotations

import threading
import time

import pytest

from dicomnode.net import calling
from dicomnode.net.calling import Checkpoint


def test_the_other_thread_goes_no_round_while_a_request_is_made() -> None:
    checkpoint = Checkpoint()
    asking = ending = False
    rounds = wrong = 0

    def go_rounds() -> None:
        nonlocal rounds, wrong
        while not ending:
            checkpoint.wait()
            rounds += 1
            wrong += asking

    thread = threading.Thread(target=go_rounds)
    thread.start()
    for _ in range(3000):
        checkpoint.clear()
        asking = True
        time.sleep(0)
        asking = False
        checkpoint.set()
    ending = True
    checkpoint.set()
    thread.join()
    assert wrong == 0
    assert rounds


def test_a_thread_that_has_ended_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "STANDING_SECONDS", 0.05)
    began = time.monotonic()
    Checkpoint().clear()
    assert time.monotonic() - began < 5
