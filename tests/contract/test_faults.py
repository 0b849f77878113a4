"""Faults of the node's own: the sender hears a failure, the node says why and goes on by itself."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.errors import StorageError
from config.schema import Settings
from dicomnode.net import closing as closing_module
from dicomnode.net.closing import Closing
from storage import db
from storage.db import FILE_NAME, open_ledger
from storage.faults import faults
from storage.records import Association
from storage.turn import Turn
from tests.contract.conftest import Node
from tests.contract.wire import FAILURES, PATIENCE_SECONDS, Wire, store_until_refused
from tests.raw import ct
from tests.storage_rows import associate

SHORT_BUSY_SECONDS = 1.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node as it is, but with a shorter wait for a locked database."""
    monkeypatch.setattr(db, "BUSY_SECONDS", SHORT_BUSY_SECONDS)


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Another program holds the writer's lock."""
    other = sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def moved_away(data_dir: Path) -> Iterator[None]:
    away = data_dir.with_name("away")
    data_dir.rename(away)
    yield
    away.rename(data_dir)


@contextlib.contextmanager
def file_in_place(data_dir: Path) -> Iterator[None]:
    with moved_away(data_dir):
        data_dir.touch()
        yield
        data_dir.unlink()


@contextlib.contextmanager
def unwritable(data_dir: Path) -> Iterator[None]:
    """No file can be made, by root neither."""
    folders = [
        path
        for name in ("objects", "spool")
        for path in (*(data_dir / name).iterdir(), data_dir / name)
    ]
    forbid(folders, True)
    try:
        yield
    finally:
        forbid(folders, False)


def forbid(folders: list[Path], forbidden: bool) -> None:
    """Have nothing written there, by root neither, or again."""
    if os.geteuid():
        for folder in folders:
            folder.chmod(0o550 if forbidden else 0o750)
    else:  # modes do not bind root
        flag = "+i" if forbidden else "-i"
        subprocess.run(["chattr", flag, *map(str, folders)], check=True)


@contextlib.contextmanager
def database_gone(data_dir: Path) -> Iterator[None]:
    """Deleted, then brought back from a copy: another file with the same content."""
    with contextlib.closing(sqlite3.connect(data_dir / FILE_NAME)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = data_dir / "copy"
    shutil.copy(data_dir / FILE_NAME, copy)
    for path in data_dir.glob(f"{FILE_NAME}*"):
        path.unlink()
    yield
    for path in data_dir.glob(f"{FILE_NAME}*"):
        path.unlink()
    copy.rename(data_dir / FILE_NAME)


@contextlib.contextmanager
def database_corrupt(data_dir: Path) -> Iterator[None]:
    """Its pages are overwritten in place, then written back."""
    path = data_dir / FILE_NAME
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (len(before) - 4096))
    yield
    path.write_bytes(before)


FAULTS: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager[None]], str]] = {
    "database locked": (locked, "another program has the database locked"),
    "data folder gone": (moved_away, "the data folder is missing"),
    "file in place of the data folder": (file_in_place, "something else lies where"),
    "data folder unwritable": (unwritable, "cannot be written"),
    "database deleted": (database_gone, "the database is missing"),
    "database corrupt": (database_corrupt, "the database is damaged"),
}


@pytest.mark.feature("P02", "P40", "P41", "P43")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("same_association", [True, False])
def test_the_sender_hears_a_failure_the_node_says_why_and_intake_resumes(
    start: Callable[..., Node], fault: str, same_association: bool
) -> None:
    node = start(storage={"min_free": 0})
    happens, sentence = FAULTS[fault]
    acknowledged, refused = [], ""
    with Wire.associate(node.port) as wire:
        assert wire.store(ct(sop_instance="1.1"), "1.1").status == 0
        if not same_association:
            wire.release()
            assert node.receiver.wait_until_quiet(20)
        assert faults(node.data_dir, min_free=0) == []
        with happens(node.data_dir):
            if same_association:
                acknowledged, refused = store_until_refused(wire)
            else:
                with Wire.associate(node.port) as other:
                    if other.rejected != (2, 3, 1):
                        acknowledged, refused = store_until_refused(other)
            assert any(sentence in text for text in faults(node.data_dir, min_free=0))
        if same_association:
            assert wire.store(ct(sop_instance="1.3"), "1.3").status == 0
            acknowledged.append("1.3")
            wire.release()
    with Wire.associate(node.port) as wire:
        assert wire.store(ct(sop_instance="1.4"), "1.4").status == 0
        wire.release()
    assert node.outcomes()
    assert faults(node.data_dir, min_free=0) == []
    acknowledged += ["1.1", "1.4"]
    kept = {row["sop_instance_uid"] for row in node.rows()}
    # What could not be told from lost was refused, and may yet be there: then it is there whole.
    assert set(acknowledged) <= kept <= {*acknowledged, refused}
    assert len(node.stored()) == len(kept)
    assert len(node.files()) == len(kept)


@pytest.mark.usefixtures("impatient")
def test_many_senders_wait_for_a_locked_database_once_and_not_in_a_row(
    start: Callable[..., Node],
) -> None:
    node = start(storage={"min_free": 0})
    answers: list[tuple[int, float]] = []
    ready = threading.Barrier(7)

    def send(number: int) -> None:
        with Wire.associate(node.port) as wire:
            ready.wait()
            for object_number in range(2):
                ready.wait()
                uid = f"1.{number}.{object_number}"
                begun = time.monotonic()
                status = wire.store(ct(sop_instance=uid), uid).status
                answers.append((status, time.monotonic() - begun))
                ready.wait()
            wire.release()

    senders = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for sender in senders:
        sender.start()
    ready.wait()
    with Wire.associate(node.port) as wire, locked(node.data_dir):
        acknowledged, _ = store_until_refused(wire)
        ready.wait()
        ready.wait()
    ready.wait()
    ready.wait()
    for sender in senders:
        sender.join()
    assert {status for status, _ in answers[:6]} <= FAILURES
    # Once for the rows, once for the refusal's own event.
    assert max(seconds for _, seconds in answers[:6]) < 2 * SHORT_BUSY_SECONDS + 2
    assert [status for status, _ in answers[6:]] == [0] * 6
    assert len(node.stored()) == 6 + len(acknowledged)


@pytest.mark.usefixtures("impatient")
def test_an_association_that_ends_while_the_database_is_locked_is_closed_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Wire.associate(node.port) as wire:
        assert wire.store(ct()).status == 0
        with locked(node.data_dir):
            wire.release()
            assert node.receiver.wait_until_quiet(20)
            assert node.outcomes() == [None]
        closers = [thread for thread in threading.enumerate() if thread.name == "closing"]
        for thread in closers:
            thread.join(20)
    assert node.outcomes() == ["released"]
    assert [row["covered_by"] is not None for row in node.rows()] == [True]


@pytest.mark.usefixtures("impatient")
def test_an_association_that_ends_while_the_disk_is_read_only_is_closed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)
    association = associate(ledger)
    turn = Turn(tmp_path)
    closing = Closing(ledger, turn, lambda *_: True, first_retry_seconds=0.05)

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    again = threading.Semaphore(0)

    def fail(*_: object) -> None:
        again.release()
        raise StorageError("the database is not usable now: attempt to write a readonly database")

    with monkeypatch.context() as read_only:
        read_only.setattr(os, "pwrite", refuse)
        read_only.setattr(closing_module, "close_association", fail)
        assert not closing.close(association, "released")
        assert all(again.acquire(timeout=PATIENCE_SECONDS) for _ in range(3))
    until = time.monotonic() + PATIENCE_SECONDS
    while Association.get_by_id(association).closed_at is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    closing.end()
    turn.close()
    ledger.close()


def test_what_cannot_be_closed_until_the_end_is_left_for_the_next_start(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    association = associate(ledger)
    turn = Turn(tmp_path)
    closing = Closing(ledger, turn, lambda *_: True, first_retry_seconds=60)
    with locked(tmp_path):
        assert not closing.close(association, "released")
        begun = time.monotonic()
        closing.end()
        assert time.monotonic() - begun < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "closing"]
    assert closing.close(association, "aborted")
    turn.close()
    ledger.close()


def test_a_start_without_the_database_removes_no_object(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        assert wire.store(ct()).status == 0
        wire.release()
    node.outcomes()
    node.ledger.close()
    for path in node.data_dir.glob(f"{FILE_NAME}*"):
        path.unlink()
    with pytest.raises(StorageError, match="the database is missing beside stored objects"):
        open_ledger(node.data_dir)
    assert len(node.files()) == 1
    assert not (node.data_dir / FILE_NAME).exists()


def test_a_sender_waits_no_longer_than_its_patience() -> None:
    # Once for the rows and once for the refusal's own event.
    assert 2 * db.BUSY_SECONDS <= PATIENCE_SECONDS - 10
    assert Settings().series.give_up_seconds > closing_module.LONGEST_RETRY_SECONDS
