"""Who may call, by AE title and address; and how many at once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from config.schema import Settings
from dicomnode.net.peers import (
    ADDRESS_NOT_ALLOWED,
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    Caller,
    Peers,
)
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
