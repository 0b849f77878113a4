"""Settling: what the journal acknowledged gets its file and row, in order, and once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.errors import StorageError
from storage import db, faults, provision, settler
from storage import journal as journal_module
from storage import replay as replay_module
from storage.db import FILE_NAME, Ledger
from storage.objects import ObjectStore
from storage.records import AuditEvent, Instance
from storage.replay import replay
from storage.segment import BLOCK, extent
from storage.settler import Settler
from storage.turn import Turn
from tests.journals import Sent, append
from tests.storage_rows import associate

SEGMENT = 64 * BLOCK
SMALL = [Sent(f"1.{number}", f"{number} ".encode() * 2000) for number in range(60)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small segments and short waits; nothing else differs."""
    for module in (journal_module, replay_module, provision, settler):
        monkeypatch.setattr(module, "SEGMENT_BYTES", SEGMENT)
    monkeypatch.setattr(provision, "ROOMY_BYTES", 1 << 60)
    monkeypatch.setattr(settler, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(provision, "UPKEEP_SECONDS", 0.02)
    monkeypatch.setattr(provision, "REST_SECONDS", 0.1)
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.3)


class Room:
    """A store with its settler, and an association to send over."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.store = ObjectStore(ledger.data_dir, min_free=0)
        self.turn = Turn(ledger.data_dir)
        self.nudges = 0
        self.settler = Settler(self.store, ledger, self.turn, self._nudged)
        self.association = associate(ledger)
        self.settler.start()
        self.until(lambda: self.settler.journal is not None and self.settler.journal.segments())

    def _nudged(self) -> None:
        self.nudges += 1

    def until(self, what: Callable[[], object]) -> None:
        patience = time.monotonic() + 20
        while not what():
            assert time.monotonic() < patience
            time.sleep(0.002)

    def send(self, *sent: Sent, received_at: float = 1.7e9) -> None:
        """Acknowledge objects, and have them settled when the settler likes."""
        journal = self.settler.journal
        assert journal is not None
        finished = []
        for one in sent:
            incoming = self.store.incoming(one.head, settler.new_buffer())
            incoming.write(one.data)
            finished.append((incoming, one.arrival(self.association, received_at)))
        entries = journal.append(finished)
        assert len(entries) == len(sent)
        self.settler.take(entries)

    def settled(self) -> bool:
        return self.settler.wait_until_settled(None, 20)

    def stored(self) -> list[tuple[str, bytes]]:
        found = []
        for row in Instance.select().order_by(Instance.id):
            data = self.store.path(row.object_key).read_bytes()
            found.append((row.sop_instance_uid, data[len(data) - row.size :]))
        return found


@pytest.fixture
def room(ledger: Ledger) -> Iterator[Room]:
    made = Room(ledger)
    yield made
    made.settler.close(5)
    made.turn.close()
    made.store.close()
    assert list((ledger.data_dir / "spool").iterdir()) == []


def spool_files(ledger: Ledger) -> list[Path]:
    return list((ledger.data_dir / "spool").rglob("journal-*"))


def test_objects_are_settled_in_their_order(room: Room) -> None:
    for start in range(0, 12, 3):
        room.send(*SMALL[start : start + 3])
    assert room.settled()
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:12]]
    assert room.nudges


def test_a_segment_is_used_again_once_its_files_are_durable(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "FEW_FILES", 3)
    journal = room.settler.journal
    assert journal is not None
    for sent in SMALL:
        room.until(lambda: journal._free or (journal._active and journal._active.at < SEGMENT // 2))
        room.send(sent)
    assert room.settled()
    assert len(room.stored()) == len(SMALL)
    room.until(lambda: max(segment.generation for segment in journal.segments()) > 1)
    assert len(journal.segments()) <= journal_module.SEGMENTS


def test_a_segment_is_emptied_when_its_records_are_old(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEAL_SECONDS", 0.0)
    room.send(SMALL[0])
    journal = room.settler.journal
    assert journal is not None
    room.until(lambda: not journal.in_use())
    assert len(room.stored()) == 1


def test_the_same_bytes_have_one_file_and_others_are_a_revision(room: Room) -> None:
    other = Sent(SMALL[0].uid, b"other " * 100)
    room.send(SMALL[0], other, SMALL[0])
    room.send(SMALL[0])
    assert room.settled()
    assert room.stored() == [(SMALL[0].uid, SMALL[0].data), (other.uid, other.data)]
    assert len(list(room.store.objects.rglob("*.dcm"))) == 2


def test_while_nothing_can_be_settled_new_objects_are_refused_and_it_is_said(room: Room) -> None:
    other = sqlite3.connect(room.ledger.data_dir / FILE_NAME, isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        room.send(*SMALL[:2])
        assert not room.settler.wait_until_settled(room.association, 20)
        with pytest.raises(StorageError, match="the database"):
            room.settler.check()
        said = faults.faults(room.ledger.data_dir, min_free=0)
        assert any("acknowledged objects wait in the intake journal" in text for text in said)
        other.execute("ROLLBACK")
    room.settler.check()
    assert room.settled()
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:2]]
    assert faults.faults(room.ledger.data_dir, min_free=0) == []


def test_a_full_disk_leaves_objects_in_the_journal_until_there_is_room(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(os, "write", refuse)
        room.send(*SMALL[:3])
        room.until(lambda: room.settler._fault is not None)
        assert not room.settled()
    assert room.settler._fault is None or room.settler.check() is None
    assert room.settled()
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:3]]


def test_after_a_failed_sync_the_files_are_written_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "FEW_FILES", 0)
    monkeypatch.setattr(journal_module, "SEAL_SECONDS", 0.0)
    failures = iter([OSError(errno.EIO, "Input/output error")])

    def fail(_: int) -> None:
        for path in room.store.objects.rglob("*.dcm"):
            path.write_bytes(b"what the disk lost")
        raise next(failures)

    monkeypatch.setattr(settler, "sync_file_system", fail)
    room.send(*SMALL[:2])
    journal = room.settler.journal
    assert journal is not None
    room.until(lambda: not journal.in_use())
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:2]]


def test_an_association_that_a_restored_database_does_not_know(room: Room) -> None:
    room.association = 4711
    room.send(SMALL[0])
    assert room.settled()
    assert Instance.get().association.receiver == "journal"


def test_what_cannot_be_settled_at_the_end_is_left_for_the_next_start(ledger: Ledger) -> None:
    room = Room(ledger)
    other = sqlite3.connect(ledger.data_dir / FILE_NAME, isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        room.send(*SMALL[:4])
        begun = time.monotonic()
        room.settler.close(0.2)
        assert time.monotonic() - begun < 5
        assert spool_files(ledger)
        room.store.close()
    room.turn.close()
    assert replay(ledger).restored == 4
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:4]]


def test_a_write_that_fails_acknowledges_nothing_and_ends_the_use_of_its_segment(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = room.settler.journal
    assert journal is not None
    room.send(SMALL[0])
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwritev", lambda *_: 4096)
        assert append(journal, room.store, SMALL[1:2]) == 0
    assert room.settled()
    room.until(lambda: [segment.number for segment in journal.segments()] == [1])
    room.send(SMALL[2])
    assert room.settled()
    assert [uid for uid, _ in room.stored()] == [SMALL[0].uid, SMALL[2].uid]


def test_an_object_that_comes_while_the_journal_ends_is_kept(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(ledger)
    journal = room.settler.journal
    assert journal is not None
    join = room.settler._thread.join

    def join_late(seconds: float) -> None:
        join(seconds)  # the thread that wrote it has not said so when the settler has ended
        assert append(journal, room.store, SMALL[:1], association_id=room.association) == 1

    monkeypatch.setattr(room.settler._thread, "join", join_late)
    room.settler.close(1)
    assert append(journal, room.store, SMALL[1:2], association_id=room.association) == 0
    room.store.close()
    room.turn.close()
    assert replay(ledger).restored == 1
    assert room.stored() == [(SMALL[0].uid, SMALL[0].data)]


def test_nothing_is_acknowledged_into_a_data_folder_that_was_replaced(room: Room) -> None:
    journal = room.settler.journal
    assert journal is not None
    spool, aside = journal.run.spool, journal.run.spool.with_name("aside")
    spool.rename(aside)
    assert append(journal, room.store, SMALL[:1]) == 0
    aside.rename(spool)
    room.until(lambda: [segment.number for segment in journal.segments()] == [1])
    room.send(SMALL[1])
    assert room.settled()
    assert [uid for uid, _ in room.stored()] == [SMALL[1].uid]


def test_settling_goes_on_when_the_reason_could_not_be_noted(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    room.send(SMALL[0])
    assert room.settled()
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", refuse)
        broken.setattr(settler, "record_arrivals", refuse)
        room.send(SMALL[1])
        room.until(lambda: room.settler._fault is not None)
        time.sleep(0.1)
    assert room.settler._thread.is_alive()
    room.until(lambda: len(room.stored()) == 2)


def test_the_disk_of_the_objects_is_the_one_that_is_synced(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = room.store.objects.stat()
    synced: list[os.stat_result] = []
    monkeypatch.setattr(settler, "FEW_FILES", 0)
    monkeypatch.setattr(journal_module, "SEAL_SECONDS", 0.0)
    monkeypatch.setattr(settler, "sync_file_system", lambda fd: synced.append(os.fstat(fd)))
    room.send(*SMALL[:3])
    assert room.settled()
    room.until(lambda: synced)
    assert all(os.path.samestat(one, objects) for one in synced)


def test_nothing_is_kept_of_an_association_whose_objects_have_their_rows(room: Room) -> None:
    room.send(*SMALL[:3])
    assert room.settled()
    assert not room.settler._of


def test_after_a_failed_sync_the_files_of_no_segment_are_believed(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = room.settler.journal
    assert journal is not None
    monkeypatch.setattr(settler, "FEW_FILES", 0)
    room.send(SMALL[0])
    assert room.settled()
    with monkeypatch.context() as broken:
        broken.setattr(journal_module, "SEAL_SECONDS", 1e9)
        broken.setattr(provision, "UPKEEP_SECONDS", 1e9)
        room.send(*SMALL[1:3])
        room.until(lambda: len(room.stored()) == 3)
        lost = room.store.path(Instance.get(sop_instance_uid=SMALL[2].uid).object_key)

        def fail(fd: int) -> None:
            lost.write_bytes(b"")
            raise OSError(errno.EIO, "Input/output error")

        broken.setattr(settler, "sync_file_system", fail)
        # Of another segment that is full, while this one is written to.
        other = journal_module.Segment(99, -1, entries=journal.segments()[-1].entries[:1])
        with pytest.raises(StorageError):
            room.settler._make_durable([other])
    monkeypatch.setattr(journal_module, "SEAL_SECONDS", 0.0)
    room.send(SMALL[3])
    room.until(lambda: not journal.in_use())
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:4]]


def test_a_burst_has_the_disk_to_itself_until_there_is_a_lull(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "LULL_SECONDS", 600.0)
    monkeypatch.setattr(settler, "PATIENCE_SECONDS", 600.0)
    room.send(*SMALL[:3])
    time.sleep(0.1)
    assert room.stored() == []
    monkeypatch.setattr(settler, "LULL_SECONDS", 0.0)
    with room.settler._changed:
        room.settler._changed.notify_all()
    room.until(lambda: len(room.stored()) == 3)


def test_a_burst_that_does_not_end_is_settled_all_the_same(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "LULL_SECONDS", 600.0)
    monkeypatch.setattr(settler, "PATIENCE_SECONDS", 0.05)
    room.send(*SMALL[:4])
    room.until(lambda: len(room.stored()) == 4)


@pytest.mark.parametrize("size", [100, 7000])
def test_a_burst_is_settled_before_the_journal_is_full_however_small_that_is(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(provision, "AMPLE_BYTES", 1 << 60)  # one segment, and more when it fills up
    monkeypatch.setattr(settler, "LULL_SECONDS", 600.0)
    monkeypatch.setattr(settler, "PATIENCE_SECONDS", 600.0)
    monkeypatch.setattr(provision, "UPKEEP_SECONDS", 600.0)
    room = Room(ledger)
    journal = room.settler.journal
    assert journal is not None
    sent = 0
    while not journal.is_short():
        room.send(Sent(f"1.{sent}", b"." * size))
        sent += 1
    room.until(lambda: len(room.stored()) == sent)
    room.until(lambda: len(journal.segments()) == 2)
    assert not journal.is_short()
    room.settler.close(5)
    room.turn.close()
    room.store.close()


@pytest.mark.parametrize("ample", [True, False])
def test_segments_are_made_ahead_only_where_the_disk_has_ample_room(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, ample: bool
) -> None:
    monkeypatch.setattr(provision, "AMPLE_BYTES", 0 if ample else 1 << 60)
    monkeypatch.setattr(provision, "AHEAD_SECONDS", 0.001)
    room = Room(ledger)
    journal = room.settler.journal
    assert journal is not None
    if ample:
        room.until(journal.is_whole)
    else:
        time.sleep(0.3)
        assert len(journal.segments()) == 1
    room.settler.close(5)
    room.turn.close()
    room.store.close()


def fill(room: Room, journal: journal_module.Journal) -> list[Sent]:
    """Send while there is room."""
    sent: list[Sent] = []
    while journal.has_room() or (journal._active and journal._active.at < SEGMENT - 8 * BLOCK):
        sent.append(Sent(f"1.{len(sent)}", b"." * 7000))
        room.send(sent[-1])
    return sent


def test_a_burst_has_the_journal_grow_and_gives_the_disk_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "AMPLE_BYTES", 0)
    monkeypatch.setattr(provision, "ROOMY_BYTES", 0)
    monkeypatch.setattr(settler, "LULL_SECONDS", 600.0)
    monkeypatch.setattr(settler, "PATIENCE_SECONDS", 600.0)
    monkeypatch.setattr(provision, "AHEAD_SECONDS", 0.001)
    room = Room(ledger)
    journal = room.settler.journal
    assert journal is not None
    room.until(journal.is_whole)
    sent: list[Sent] = []
    while journal.may_grow():
        room.until(lambda: journal.has_room() or not journal.wants_segment())
        sent.append(Sent(f"1.{len(sent)}", b"." * 7000))
        room.send(sent[-1])
    assert len(journal.segments()) == journal_module.GROWTH * journal_module.SEGMENTS
    assert room.stored() == []
    assert room.settled()
    assert len(room.stored()) == len(sent)
    monkeypatch.setattr(journal_module, "SEAL_SECONDS", 0.0)
    room.until(lambda: len(spool_files(ledger)) == journal_module.SEGMENTS)
    room.settler.close(5)
    room.turn.close()
    room.store.close()


def test_room_in_a_full_journal_is_waited_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "LULL_SECONDS", 600.0)
    monkeypatch.setattr(settler, "PATIENCE_SECONDS", 600.0)
    monkeypatch.setattr(settler, "ROOM_SECONDS", 20.0)
    journal = room.settler.journal
    assert journal is not None
    monkeypatch.setattr(journal, "is_short", lambda: False)
    sent = fill(room, journal)
    assert not journal.has_room()
    waits = threading.Thread(target=room.settler.wait_for_room)
    waits.start()
    assert room.settled()
    waits.join(20)
    assert not waits.is_alive()
    assert journal.has_room()
    assert len(room.stored()) == len(sent)


def test_who_waited_for_room_in_vain_is_the_last_to_wait_for_a_while(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "ROOM_SECONDS", 0.05)
    journal = room.settler.journal
    assert journal is not None
    monkeypatch.setattr(journal, "has_room", lambda: False)
    assert not room.settler.wait_for_room()
    monkeypatch.setattr(settler, "ROOM_SECONDS", 600.0)
    assert not room.settler.wait_for_room()
    monkeypatch.setattr(settler, "ROOM_SECONDS", 0.05)
    room.settler._in_vain_until = 0.0
    monkeypatch.setattr(journal, "has_room", lambda: True)
    assert room.settler.wait_for_room()


def test_what_cannot_be_settled_is_tried_once_for_who_asks(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "RETRY_SECONDS", 600.0)
    monkeypatch.setattr(settler, "BATCH", 4)
    tries = []

    def refuse(*_: object) -> list[object]:
        tries.append(time.monotonic())
        raise StorageError("the disk refused")

    with monkeypatch.context() as broken:
        broken.setattr(settler, "record_arrivals", refuse)
        room.send(*SMALL[:12])
        room.until(lambda: room.settler._fault is not None)
        for asked in range(1, 4):
            with pytest.raises(StorageError, match="the disk refused"):
                room.settler.check()
            time.sleep(0.05)
            assert len(tries) == 1 + asked
    room.settler.check()
    assert room.settled()
    assert len(room.stored()) == 12


def test_a_segment_that_cannot_be_made_ahead_is_not_tried_all_the_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "AMPLE_BYTES", 0)
    monkeypatch.setattr(provision, "AHEAD_SECONDS", 0.0)
    tries = []

    def refuse() -> None:
        tries.append(time.monotonic())
        raise StorageError("the disk refused")

    monkeypatch.setattr(room.settler.journal, "make_segment", refuse)
    room.until(lambda: tries)
    monkeypatch.setattr(provision, "UPKEEP_SECONDS", 600.0)
    monkeypatch.setattr(provision, "REST_SECONDS", 600.0)
    time.sleep(0.3)
    tried = len(tries)
    time.sleep(0.2)
    assert len(tries) == tried


def test_a_segment_that_changes_its_place_is_among_all_that_there_are(room: Room) -> None:
    journal = room.settler.journal
    assert journal is not None
    room.send(SMALL[0])
    active = journal._active
    assert active is not None

    class Full(list[journal_module.Segment]):
        def __iter__(self) -> Iterator[journal_module.Segment]:
            yield from list.copy(self)
            # An object comes that it has no room for.
            journal._full, journal._active = [active], None

    journal._full = Full()
    assert [segment for segment in journal.segments() if segment is active] == [active]


def _cut(room: Room, at: int) -> None:
    """Cut off the segment that is written to, under the hands of the node."""
    journal = room.settler.journal
    assert journal is not None
    assert journal._active is not None
    name = journal_module.segment_name(journal._active.number)
    os.truncate(journal.run.spool / name, at)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_segment_that_is_cut_off_in_mid_run_is_kept_aside_and_the_node_goes_on(
    room: Room, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    with monkeypatch.context() as lull:
        lull.setattr(settler, "LULL_SECONDS", 600.0)
        lull.setattr(settler, "PATIENCE_SECONDS", 600.0)
        room.send(*SMALL[:3])
        blocks = sum(extent(len(sent.head) + len(sent.data)) for sent in SMALL[:kept])
        _cut(room, BLOCK + blocks + (BLOCK if kept else -BLOCK))
    assert room.settled()
    assert room.stored() == [(sent.uid, sent.data) for sent in SMALL[:kept]]
    (event,) = AuditEvent.select().where(AuditEvent.action == "journal.damaged")
    told = json.loads(event.detail)
    assert (told["lost"], told["records"]) == (3 - kept, kept)
    assert len(set(told["instances"])) == 3 - kept
    assert told["associations"] == [room.association]
    assert len(list((room.ledger.data_dir / replay_module.DAMAGED).iterdir())) == 1
    room.settler.check()
    journal = room.settler.journal
    assert journal is not None
    room.until(journal.has_room)
    room.send(*SMALL[3:6])
    assert room.settled()
    assert room.stored() == [(sent.uid, sent.data) for sent in [*SMALL[:kept], *SMALL[3:6]]]
    assert faults.faults(room.ledger.data_dir, min_free=0) == []


def test_a_block_that_the_disk_refuses_in_mid_run_costs_one_object(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    bad = BLOCK + extent(len(SMALL[0].head) + len(SMALL[0].data)) + BLOCK

    def refuse(fd: int, rooms: list[memoryview], at: int) -> int:
        if at <= bad < at + len(rooms[0]):
            raise OSError(errno.EIO, "Input/output error")
        return preadv(fd, rooms, at)

    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", refuse)
        room.send(*SMALL[:3])
        assert room.settled()
    assert [uid for uid, _ in room.stored()] == [SMALL[0].uid, SMALL[2].uid]
    (event,) = AuditEvent.select().where(AuditEvent.action == "journal.damaged")
    assert json.loads(event.detail)["lost"] == 1


def test_a_damaged_segment_waits_for_a_database_that_refuses(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(room.ledger.data_dir / FILE_NAME, isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        room.send(*SMALL[:2])
        _cut(room, 2 * BLOCK)
        assert not room.settler.wait_until_settled(room.association, 20)
        with pytest.raises(StorageError):
            room.settler.check()
        other.execute("ROLLBACK")
    room.settler.check()
    assert room.settled()
    assert AuditEvent.select().where(AuditEvent.action == "journal.damaged").count() == 1
