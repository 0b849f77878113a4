"""Who may call, by AE title and address; and how many at once."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.schema import Settings
from dicomnode.net.peers import (
    ADDRESS_NOT_ALLOWED,
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    CERTIFICATE_NOT_ALLOWED,
    Caller,
    Peers,
)
from dicomnode.net.rates import Rates, Throttle
from dicomnode.net.slots import AssociationSlots

LISTED = Peers(
    Settings(
        peers=[
            {"ae_title": "CT1", "hosts": ["10.1.0.0/16", "fd00::/8"]},
            {"ae_title": "CT1", "hosts": ["192.168.7.9"], "may": ["echo"]},
            {"ae_title": "*", "hosts": ["127.0.0.0/8"], "may": ["echo"]},
        ]
    )
)
BOTH, ECHO = frozenset({"echo", "store"}), frozenset({"echo"})


@pytest.mark.feature("P25")
@pytest.mark.parametrize(
    ("called", "calling", "address", "verdict"),
    [
        ("MEDAI", "CT1", "10.1.2.3", Caller("CT1", BOTH)),
        ("MEDAI", " CT1 ", "10.1.2.3", Caller("CT1", BOTH)),
        ("MEDAI", "CT1", "fd00::7", Caller("CT1", BOTH)),
        ("MEDAI", "CT1", "::ffff:10.1.2.3", Caller("CT1", BOTH)),
        ("MEDAI", "CT1", "192.168.7.9", Caller("CT1", ECHO, 1)),
        ("MEDAI", "CT1", "127.0.0.1", Caller("CT1", ECHO, 2)),
        ("MEDAI", "CT1", "10.2.0.1", ADDRESS_NOT_ALLOWED),
        ("MEDAI", "ct1", "10.1.2.3", ADDRESS_NOT_ALLOWED),
        ("medai", "CT1", "10.1.2.3", CALLED_AE_NOT_RECOGNISED),
    ],
)
def test_a_caller_is_known_by_title_and_address(
    called: str, calling: str, address: str, verdict: object
) -> None:
    assert LISTED.admit(called, calling, address) == verdict


@pytest.mark.feature("P25")
def test_with_no_peer_listed_only_loopback_may_call() -> None:
    peers = Peers(Settings())
    assert peers.admit("MEDAI", "ANY", "127.0.0.1") == Caller("ANY", BOTH)
    assert peers.admit("MEDAI", "ANY", "::1") == Caller("ANY", BOTH)
    assert peers.admit("MEDAI", "ANY", "10.0.0.1") == ADDRESS_NOT_ALLOWED


def test_an_unlisted_title_is_not_recognised() -> None:
    peers = Peers(Settings(peers=[{"ae_title": "CT1", "hosts": ["127.0.0.1"]}]))
    assert peers.admit("MEDAI", "CT2", "127.0.0.1") == CALLING_AE_NOT_RECOGNISED


def test_slots_are_given_back(tmp_path: Path) -> None:
    slots = AssociationSlots(tmp_path)
    first, second = slots.take(2), slots.take(2)
    assert {first, second} == {0, 1}
    assert slots.take(2) is None
    slots.give(0)
    assert slots.take(2) == 0
    slots.close()


def _hold(folder: Path, pipe: Connection) -> None:
    slots = AssociationSlots(folder)
    pipe.send(slots.take(2))
    pipe.recv()


def test_slots_are_counted_over_processes_and_freed_by_death(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == 0
    slots = AssociationSlots(tmp_path)
    assert slots.take(2) == 1
    assert slots.take(2) is None
    process.kill()
    process.join()
    assert slots.take(2) == 0
    slots.close()
    ours.close()
    theirs.close()


def test_places_of_peers_are_their_own(tmp_path: Path) -> None:
    slots = AssociationSlots(tmp_path)
    everyone = [slots.take(4096) for _ in range(4096)]
    assert None not in everyone
    assert slots.take(4096) is None
    first, second = slots.take(1, 1), slots.take(1, 2)
    assert len({*everyone, first, second}) == 4098
    assert slots.take(1, 1) is None
    slots.close()


FIRST, SECOND = "ab" * 32, "cd" * 32
BOUND = Peers(
    Settings(
        peers=[
            {"ae_title": "CT1", "hosts": ["10.1.0.0/16"], "certificate": FIRST.upper()},
            {"ae_title": "CT1", "hosts": ["10.2.0.0/16"], "may": ["echo"]},
            {"ae_title": "*", "hosts": ["10.0.0.0/8"]},
            {"ae_title": "*", "hosts": ["10.0.0.0/8"], "certificate": SECOND},
        ]
    )
)


@pytest.mark.feature("P25")
@pytest.mark.parametrize(
    ("calling", "address", "certificate", "verdict"),
    [
        ("CT1", "10.1.2.3", FIRST, Caller("CT1", BOTH, 0)),
        ("CT1", "10.1.2.3", SECOND, CERTIFICATE_NOT_ALLOWED),
        ("CT1", "10.1.2.3", None, CERTIFICATE_NOT_ALLOWED),
        ("CT1", "10.2.2.3", None, Caller("CT1", ECHO, 1)),
        ("CT1", "10.3.2.3", FIRST, ADDRESS_NOT_ALLOWED),
        ("CT2", "10.3.2.3", None, Caller("CT2", BOTH, 2)),
    ],
)
def test_a_title_bound_to_a_certificate_is_not_to_be_had_without_it(
    calling: str, address: str, certificate: str | None, verdict: object
) -> None:
    assert BOUND.admit("MEDAI", calling, address, certificate) == verdict


def _book(folder: Path, pipe: Connection) -> None:
    rates = Rates(folder)
    pipe.send(rates.book(1, 1000.0))
    pipe.recv()


def test_rates_are_counted_over_processes_and_forgotten_with_the_last(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_book, args=(tmp_path, theirs))
    process.start()
    first = ours.recv()
    rates = Rates(tmp_path)
    assert rates.book(1, 500.0) == first + 500.0
    assert rates.book(0, 0.0) < first - 900.0  # another peer's lane
    process.kill()
    process.join()
    assert rates.book(1, 1.0) == first + 501.0
    rates.close()
    fresh = Rates(tmp_path)
    assert fresh.book(1, 0.0) < first
    fresh.close()
    ours.close()
    theirs.close()


@given(taken=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=20))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_pause_is_what_the_bytes_take(tmp_path: Path, taken: list[int]) -> None:
    rates = Rates(tmp_path)
    began = time.monotonic()
    throttle = Throttle(rates, 0, 1 << 16)
    assert throttle.pause() == 0
    for count in taken:
        throttle.took(count)
    pause, elapsed = throttle.pause(), time.monotonic() - began
    owed = sum(taken) / (1 << 16)
    assert owed - elapsed - 1e-6 <= pause <= owed + 1e-6
    rates.close()
