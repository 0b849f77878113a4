"""Receivers that are killed while objects come in: what was acknowledged is there, once.

``pytest -m slow -s tests/contract/test_crash.py`` is the long form, of fifty rounds.
``KILL_SEED=…`` draws the same moments again.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.schema import Settings
from dicomnode.net.scp import receiver_name, run_receiver
from storage.db import Ledger, open_ledger
from storage.index import close_lost_associations, known_keys
from storage.objects import ObjectStore
from storage.part10 import data_set_offset
from storage.replay import replay
from storage.tidy import tidy
from tests.contract.wire import Wire
from tests.raw import ct

SPAWN = multiprocessing.get_context("spawn")
SENDERS = 4


class Sender(threading.Thread):
    """Sends until the node is gone; remembers what was answered with Success."""

    def __init__(self, port: int, prefix: str, enough: threading.Event) -> None:
        super().__init__()
        self._port, self._prefix, self._enough = port, prefix, enough
        self.acknowledged: dict[str, bytes] = {}

    def run(self) -> None:
        with contextlib.suppress(OSError, AssertionError), Wire.associate(self._port) as wire:
            for number in range(100_000):
                uid = f"{self._prefix}.{number}"
                data = ct(sop_instance=uid, rows=64, columns=64)
                if wire.store(data, uid).status == 0:
                    self.acknowledged[uid] = data
                if number == 15:
                    self._enough.set()


def recover(data_dir: Path) -> ObjectStore:
    ledger = open_ledger(data_dir)
    replay(ledger)
    close_lost_associations(ledger)
    store = ObjectStore(data_dir)
    tidy(store.data_dir, known_keys)
    ledger.close()
    return store


@pytest.mark.feature("P02", "P04", "P43")
@pytest.mark.parametrize(
    "rounds", [3, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_nothing_acknowledged_is_lost_when_a_receiver_is_killed(
    tmp_path: Path, rounds: int
) -> None:
    seed = int(os.environ.get("KILL_SEED", "0")) or 1 + secrets.randbits(31)
    draw = random.Random(seed)  # noqa: S311 - draws moments, guards nothing
    settings = Settings(node={"ae_title": "MEDAI", "data_dir": tmp_path})
    ledger = open_ledger(tmp_path)
    acknowledged: dict[str, bytes] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for number in range(rounds):
            after, in_recovery = draw.uniform(0, 0.3), draw.uniform(0, 0.6)
            print(
                f"KILL_SEED={seed} round {number + 1}: {after:.3f} s, recovery {in_recovery:.3f} s"
            )
            acknowledged |= send_and_kill(settings, listener, number, after)
            # The next one is killed while it starts: before, in or after its recovery.
            with receiver(settings, listener) as starting:
                time.sleep(in_recovery)
                starting.kill()
            recover(tmp_path)
            assert_all_is_there_once(tmp_path, ledger, acknowledged)
    ledger.close()
    print(f"{rounds} kills, {len(acknowledged)} objects acknowledged: all there, once")


@contextlib.contextmanager
def receiver(settings: Settings, listener: socket.socket) -> Iterator[Any]:
    """A receiver process, which the block kills."""
    ours, theirs = SPAWN.Pipe()
    arguments = (settings, settings.node.data_dir, listener, 0, theirs)
    process = SPAWN.Process(target=run_receiver, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


def send_and_kill(
    settings: Settings, listener: socket.socket, number: int, after: float
) -> dict[str, bytes]:
    """Four senders into a receiver that is killed under them; what they were acknowledged."""
    enough = threading.Event()
    port = listener.getsockname()[1]
    senders = [Sender(port, f"1.{number}.{n}", enough) for n in range(SENDERS)]
    with receiver(settings, listener) as process:
        for sender in senders:
            sender.start()
        assert enough.wait(30)
        time.sleep(after)
        process.kill()
    acknowledged: dict[str, bytes] = {}
    for sender in senders:
        sender.join()
        acknowledged |= sender.acknowledged
    return acknowledged


def assert_all_is_there_once(
    data_dir: Path, ledger: Ledger, acknowledged: dict[str, bytes]
) -> None:
    store = ObjectStore(data_dir)
    rows = ledger.database.execute_sql(
        "SELECT sop_instance_uid, digest, object_key, covered_by FROM instance"
    ).fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    stored = {uid: key for uid, _, key, _ in rows}
    assert acknowledged.keys() <= stored.keys()
    for uid, digest, key, covered_by in rows:
        data = store.path(key).read_bytes()
        data = data[data_set_offset(data) :]
        assert hashlib.sha256(data).hexdigest() == digest
        assert data == acknowledged.get(uid, data)
        assert covered_by
    files = {str(path.relative_to(store.objects)) for path in store.objects.rglob("*.dcm")}
    assert files == set(stored.values())
    assert list(store.spool.iterdir()) == []
    open_rows = "SELECT count(*) FROM association WHERE closed_at IS NULL"
    assert ledger.database.execute_sql(open_rows).fetchone()[0] == 0


def test_a_receiver_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    settings = Settings(node={"ae_title": "MEDAI", "data_dir": tmp_path, "drain_seconds": 0})
    open_ledger(tmp_path).close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours, theirs = SPAWN.Pipe()
        node = SPAWN.Process(target=run_receiver, args=(settings, tmp_path, listener, 2, theirs))
        node.start()
        theirs.close()
        with Wire.associate(listener.getsockname()[1]) as wire:
            assert wire.store(ct()).status == 0
            wire.release()
        ours.close()
        node.join(20)
        assert node.exitcode == 0
    ledger = open_ledger(tmp_path)
    row = ledger.database.execute_sql("SELECT receiver, outcome FROM association").fetchone()
    assert row == (receiver_name(2), "released")
    ledger.close()
    # It marked its folder closed: start-up has nothing to look at.
    assert tidy(tmp_path, known_keys).folders == 0
