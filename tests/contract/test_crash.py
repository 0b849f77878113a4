"""Receivers that are killed while objects come in: what was acknowledged is there, once."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import socket
import threading
from pathlib import Path

import pytest

from config.schema import Settings
from dicomnode.net.scp import receiver_name, run_receiver
from storage.db import open_ledger
from storage.index import close_lost_associations, known_keys
from storage.objects import ObjectStore
from storage.part10 import data_set_offset
from storage.tidy import tidy
from tests.contract.wire import Wire
from tests.raw import ct

SPAWN = multiprocessing.get_context("spawn")


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
    close_lost_associations(ledger)
    store = ObjectStore(data_dir)
    tidy(store.data_dir, known_keys)
    ledger.close()
    return store


@pytest.mark.feature("P02", "P04", "P43")
def test_nothing_acknowledged_is_lost_when_a_receiver_is_killed(tmp_path: Path) -> None:
    settings = Settings(node={"ae_title": "MEDAI", "data_dir": tmp_path})
    ledger = open_ledger(tmp_path)
    acknowledged: dict[str, bytes] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for round_number in range(3):
            ours, theirs = SPAWN.Pipe()
            node = SPAWN.Process(
                target=run_receiver, args=(settings, tmp_path, listener, 0, theirs)
            )
            node.start()
            enough = threading.Event()
            senders = [Sender(port, f"1.{round_number}.{n}", enough) for n in range(4)]
            for sender in senders:
                sender.start()
            assert enough.wait(30)
            node.kill()
            node.join()
            for sender in senders:
                sender.join()
                acknowledged |= sender.acknowledged
            ours.close()
            theirs.close()
            recover(tmp_path)

    store = ObjectStore(tmp_path)
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
    ledger.close()


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
