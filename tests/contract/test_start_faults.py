"""A receiver whose disk or database refuses at its start: it serves, says no, and goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode import recovery
from dicomnode.net.catching_up import CatchingUp
from storage import db, index
from storage.db import open_ledger
from storage.journal import Journal
from storage.objects import ObjectStore
from storage.records import Association
from tests.contract.conftest import Node
from tests.contract.test_faults import locked, unwritable
from tests.contract.wire import Wire
from tests.journals import Sent, append, crash
from tests.raw import ct
from tests.storage_rows import associate

ACKNOWLEDGED = [Sent(f"1.{number}", f"{number} ".encode() * 2000) for number in range(3)]


def acknowledge_and_die(data_dir: Path) -> None:
    """What a receiver leaves that is killed before its objects have files and rows."""
    ledger = open_ledger(data_dir)
    store = ObjectStore(data_dir)
    journal = Journal(store.run())
    journal.make_segment()
    association = associate(ledger, receiver="receiver-0")
    assert append(journal, store, ACKNOWLEDGED, association_id=association) == len(ACKNOWLEDGED)
    for segment in journal.segments():
        os.close(segment.fd)
    crash(store)
    ledger.close()


@pytest.mark.feature("P02", "P40", "P43")
@pytest.mark.parametrize("happens", [unwritable, locked])
def test_a_receiver_refuses_until_what_was_acknowledged_before_is_stored(
    start: Callable[..., Node],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Path], contextlib.AbstractContextManager[None]],
) -> None:
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.3)
    monkeypatch.setattr(recovery, "FIRST_RETRY_SECONDS", 0.05)
    acknowledge_and_die(tmp_path)
    node = start(storage={"min_free": 0})
    catching_up = CatchingUp(node.ledger, node.receiver.store, "receiver-0")
    with Wire.associate(node.port) as wire:
        with happens(node.data_dir):
            catching_up.begin()
            refused = wire.store(ct())
            assert (refused.status, refused.comment[:14]) == (0xA700, "Storage failed")
            assert node.rows() == []
        catching_up._thread.join(20)
        assert wire.store(ct()).status == 0
        # Not lost, though it was open when the earlier ones were closed.
        assert [row.outcome for row in Association.select()] == ["lost", None]
        wire.release()
    assert node.outcomes() == ["lost", "released"]
    assert len(node.stored()) == len(ACKNOWLEDGED) + 1
    catching_up.end()


def test_a_receiver_that_ends_before_it_has_caught_up_leaves_it_to_the_next(
    start: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.3)
    acknowledge_and_die(tmp_path)
    node = start(storage={"min_free": 0})
    with locked(node.data_dir):
        catching_up = CatchingUp(node.ledger, node.receiver.store, "receiver-0")
        catching_up.begin()
        catching_up.end()
    assert index.last_association() == 1
    again = CatchingUp(node.ledger, node.receiver.store, "receiver-0")
    again.begin()
    again.end()
    assert len(node.stored()) == len(ACKNOWLEDGED)
