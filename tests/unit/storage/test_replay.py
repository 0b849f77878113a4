"""Start-up over journals of dead runs: after a crash, after a power loss, after damage."""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from storage import journal as journal_module
from storage import replay as replay_module
from storage.db import Ledger
from storage.index import known_keys, record_arrivals
from storage.journal import Journal
from storage.objects import ObjectStore
from storage.records import AuditEvent, Instance
from storage.replay import DAMAGED, replay
from storage.segment import BLOCK, extent
from storage.tidy import tidy
from tests.journals import Sent, append, crash
from tests.storage_rows import associate

SEGMENT = 64 * BLOCK
BATCHES = [
    [Sent(f"1.{batch}.{n}", f"{batch} {n} ".encode() * 1500) for n in range(2)]
    for batch in range(3)
]
ACKNOWLEDGED = [sent for batch in BATCHES[:2] for sent in batch]
BLOCKS = [extent(len(sent.head) + len(sent.data)) // BLOCK for batch in BATCHES for sent in batch]
LAST = 1 + sum(BLOCKS[:4])
"""The first block of the batch that was being written when the power went."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (journal_module, replay_module):
        monkeypatch.setattr(module, "SEGMENT_BYTES", SEGMENT)


def dead_journal(ledger: Ledger, batches: Sequence[Sequence[Sent]]) -> Path:
    """The journal of a run that died after it had written these batches; gives its segment."""
    store = ObjectStore(ledger.data_dir)
    journal = Journal(store.run())
    journal.make_segment()
    association = associate(ledger)
    for batch in batches:
        assert append(journal, store, batch, association_id=association) == len(batch)
    for segment in journal.segments():
        os.close(segment.fd)
    return crash(store).spool / "journal-0000"


def stored(ledger: Ledger) -> dict[str, bytes]:
    """What rows name, with the bytes after the file's head; each instance once."""
    store = ObjectStore(ledger.data_dir)
    found = {}
    for row in Instance.select():
        assert row.sop_instance_uid not in found
        data = store.path(row.object_key).read_bytes()
        assert data.endswith(b" ") or not row.size
        found[row.sop_instance_uid] = data[len(data) - row.size :]
    return found


def start(ledger: Ledger) -> replay_module.Replayed:
    """What a start does of this."""
    replayed = replay(ledger)
    tidy(ledger.data_dir, known_keys)
    assert os.listdir(ledger.data_dir / "spool") == []
    files = {path.name for path in (ledger.data_dir / "objects").rglob("*.dcm")}
    assert len(files) <= Instance.select().count()
    return replayed


def content(batch: Sequence[Sent]) -> dict[str, bytes]:
    return {sent.uid: sent.data for sent in batch}


def test_what_a_killed_process_acknowledged_gets_its_file_and_row(ledger: Ledger) -> None:
    dead_journal(ledger, BATCHES)
    found = start(ledger)
    assert (found.objects, found.restored, found.damaged) == (6, 6, 0)
    assert stored(ledger) == content(list(itertools.chain(*BATCHES)))
    assert start(ledger).objects == 0


@pytest.mark.parametrize("kept", range(sum(BLOCKS[4:]) + 1))
def test_a_write_cut_off_by_power_loss_at_every_block(ledger: Ledger, kept: int) -> None:
    path = dead_journal(ledger, BATCHES)
    data = bytearray(path.read_bytes())
    data[(LAST + kept) * BLOCK :] = bytes(len(data) - (LAST + kept) * BLOCK)
    path.write_bytes(data)
    _files_and_rows_as_after_power_loss(ledger, random.Random(kept))  # noqa: S311 - any will do
    found = start(ledger)
    whole = [sent for sent, end in _ends(BATCHES[2]) if end <= kept]
    assert stored(ledger) == content([*ACKNOWLEDGED, *whole])
    assert found.damaged == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_write_of_which_power_loss_left_any_blocks(ledger: Ledger, seed: int) -> None:
    path = dead_journal(ledger, BATCHES)
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)  # noqa: S311 - draws blocks, guards nothing
    for block in range(LAST, LAST + sum(BLOCKS[4:])):
        if chance.random() < 0.3:
            data[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    path.write_bytes(data)
    _files_and_rows_as_after_power_loss(ledger, chance)
    assert start(ledger).damaged == 0
    kept = stored(ledger)
    sent = content(list(itertools.chain(*BATCHES)))
    assert content(ACKNOWLEDGED).items() <= kept.items() <= sent.items()


def _ends(batch: Sequence[Sent]) -> list[tuple[Sent, int]]:
    ends = itertools.accumulate(BLOCKS[4:])
    return list(zip(batch, ends, strict=True))


def _files_and_rows_as_after_power_loss(ledger: Ledger, chance: random.Random) -> None:
    """Some acknowledged objects had been settled: their files were never synced."""
    store = ObjectStore(ledger.data_dir)
    run = store.run()
    for sent in ACKNOWLEDGED:
        fate = chance.choice(LOSSES)
        if fate is not None:
            key = run.next_key()
            path = store.path(key)
            path.write_bytes(sent.head + sent.data)
            arrival = sent.arrival()
            record_arrivals(ledger, [type(arrival)(**{**vars(arrival), "object_key": key})])
            fate(path)
    crash(store)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _whole(path: Path) -> None:
    assert path.stat().st_size


LOSSES: tuple[Callable[[Path], None] | None, ...] = (
    None,
    Path.unlink,
    _cut,
    _zeros,
    _empty,
    _whole,
)


@pytest.mark.parametrize("fate", LOSSES[1:])
def test_a_file_that_did_not_reach_the_disk_is_made_again_in_its_place(
    ledger: Ledger, fate: Callable[[Path], None]
) -> None:
    dead_journal(ledger, BATCHES[:1])
    start(ledger)
    keys = {row.object_key for row in Instance.select()}
    dead_journal(ledger, BATCHES[:1])
    fate(ObjectStore(ledger.data_dir).path(min(keys)))
    found = start(ledger)
    assert (found.objects, found.restored) == (2, 0 if fate is _whole else 1)
    assert stored(ledger) == content(BATCHES[0])
    assert {row.object_key for row in Instance.select()} == keys


@pytest.mark.parametrize("block", [0, 1, 2, LAST - 1])
def test_damage_is_told_kept_aside_and_holds_up_nothing(ledger: Ledger, block: int) -> None:
    path = dead_journal(ledger, BATCHES)
    data = bytearray(path.read_bytes())
    data[block * BLOCK : block * BLOCK + 100] = b"\xa5" * 100
    path.write_bytes(data)
    found = start(ledger)
    assert found.damaged == 1
    hit = {0: None, 1: "1.0.0", 2: "1.0.0", LAST - 1: "1.1.1"}[block]
    assert stored(ledger) == content(
        [sent for sent in itertools.chain(*BATCHES) if sent.uid != hit]
    )
    (event,) = AuditEvent.select().where(AuditEvent.action == "journal.damaged")
    assert event.outcome == "failure"
    (aside,) = (ledger.data_dir / DAMAGED).iterdir()
    assert aside.read_bytes() == data
    assert start(ledger).damaged == 0


def test_a_block_that_the_disk_refuses_hides_nothing_beside_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_journal(ledger, BATCHES)
    bad, preadv = 2 * BLOCK, os.preadv

    def refuse(fd: int, rooms: list[memoryview], at: int) -> int:
        """As a disk does: a read that comes to the block is short, one that begins there fails."""
        if at <= bad < at + len(rooms[0]):
            if at == bad:
                raise OSError(errno.EIO, "Input/output error")
            rooms = [rooms[0][: bad - at]]
        return preadv(fd, rooms, at)

    monkeypatch.setattr(os, "preadv", refuse)
    assert start(ledger).damaged == 1
    sent = list(itertools.chain(*BATCHES))
    assert stored(ledger) == content(sent[1:])


def test_a_file_is_looked_at_only_after_the_disk_took_what_it_could(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_journal(ledger, BATCHES[:1])
    start(ledger)
    dead_journal(ledger, BATCHES[:1])
    key = min(row.object_key for row in Instance.select())
    objects = (ledger.data_dir / "objects").stat()

    def lose(fd: int) -> None:
        assert os.path.samestat(os.fstat(fd), objects)  # it may be another disk than the spool's
        _zeros(ObjectStore(ledger.data_dir).path(key))

    monkeypatch.setattr(replay_module, "sync_file_system", lose)
    assert start(ledger).restored == 1
    assert stored(ledger) == content(BATCHES[0])


def test_a_segment_that_was_being_made_is_nothing(ledger: Ledger) -> None:
    path = dead_journal(ledger, [])
    path.write_bytes(path.read_bytes()[: 3 * BLOCK])
    found = start(ledger)
    assert (found.objects, found.damaged) == (0, 0)


def test_a_journal_that_lives_is_left_alone(ledger: Ledger) -> None:
    store = ObjectStore(ledger.data_dir)
    journal = Journal(store.run())
    journal.make_segment()
    append(journal, store, BATCHES[0])
    assert replay(ledger).objects == 0
    tidy(ledger.data_dir, known_keys)
    assert (store.run().spool / "journal-0000").exists()
    journal.close(remove=True)
    store.close()


def test_bytes_that_an_administrator_deleted_stay_deleted(ledger: Ledger) -> None:
    dead_journal(ledger, BATCHES[:1])
    start(ledger)
    row = Instance.select().order_by(Instance.id).first()
    with ledger.transaction() as change:
        change.move(row, "quarantined", reason="its pixels differ")
        change.audit("instance.deleting", object=row.label())
    path = ObjectStore(ledger.data_dir).path(row.object_key)
    path.unlink()
    dead_journal(ledger, BATCHES[:1])
    assert start(ledger).restored == 0
    assert not path.exists()


def test_a_version_that_has_its_row_is_not_made_twice(ledger: Ledger) -> None:
    versions = [
        Sent("1.7", b"one " * 3000),
        Sent("1.7", b"two " * 3000),
        Sent("1.7", b"one " * 3000),
    ]
    dead_journal(ledger, [versions])
    assert start(ledger).objects == 3
    rows = list(Instance.select().order_by(Instance.id))
    assert [row.revision for row in rows] == [0, 1]
    assert rows[0].digest == versions[0].arrival().digest
