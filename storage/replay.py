"""Start-up: what journals of runs that are no more hold gets its files and rows.

Everything acknowledged is in the store and the index afterwards, whatever a crash or a power loss
left of the files that were made of it. Damage is told and the segment kept aside; it holds up
nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from config.errors import NotDicomError
from config.redact import Redactor, load_key
from storage.db import Ledger
from storage.files import forget_pages, storage_errors, sync_file_system, sync_folder
from storage.index import Arrival, bytes_were_deleted, record_arrivals, version_of
from storage.objects import ObjectStore
from storage.part10 import data_set_offset
from storage.runs import OBJECTS, SEGMENT_NAME, SPOOL, TOKEN
from storage.segment import BLOCK, SEGMENT_BYTES, Record, Scan, scan

log = logging.getLogger(__name__)

DAMAGED = "journal-damaged"
"""Folder of the data folder for segments with damage."""

_BATCH = 100


@dataclass(frozen=True)
class Replayed:
    """What the journals of dead runs held.

    Attributes:
        objects: Objects acknowledged and not yet known to be durable elsewhere.
        restored: Those of them whose file or row had to be made.
        damaged: Segments with damage, kept aside.
    """

    objects: int
    restored: int
    damaged: int


def replay(ledger: Ledger) -> Replayed:
    """Finish what journals of dead runs hold. Safe beside runs that live.

    Args:
        ledger: The database of the data folder.

    Raises:
        StorageError: The disk or the database refused; the journals stay.
    """
    objects = restored = damaged = 0
    with storage_errors("replaying the intake journal"), _alone(ledger.data_dir):
        spool = ledger.data_dir / SPOOL
        names = sorted(os.listdir(spool)) if spool.is_dir() else []
        for folder in (spool / name for name in names if TOKEN.fullmatch(name)):
            with _dead(folder) as fd:
                if fd is None:
                    continue
                found = {path: _read(path) for path in _segments(folder)}
                records = [record for found_here in found.values() for record in found_here.records]
                records.sort(key=lambda record: record.number)
                objects += len(records)
                if records:
                    _sync_objects(ledger.data_dir)
                restored += _finish(ledger, records)
                for path, found_here in found.items():
                    damaged += _put_away(ledger, path, found_here)
    return Replayed(objects, restored, damaged)


def summary(data_dir: Path) -> list[str]:
    """What lies aside as damaged, as plain sentences for those who run the node."""
    aside = data_dir / DAMAGED
    count = len(list(aside.iterdir())) if aside.is_dir() else 0
    if not count:
        return []
    segments = "segments" if count > 1 else "segment"
    return [
        f"{count} damaged {segments} of the intake journal in {DAMAGED}: see journal.damaged in "
        "the audit chain, and remove the files when nothing is missed"
    ]


def give_up(ledger: Ledger, path: Path, acknowledged: Sequence[Arrival]) -> int:
    """Finish what can be read of a segment of a run that lives, and keep the segment aside.

    Args:
        ledger: The database of the data folder.
        path: The segment, to which nothing is written any more.
        acknowledged: The rows of all that it held.

    Returns:
        How many objects are lost: neither in the segment nor stored. The audit chain names them.

    Raises:
        StorageError: The disk or the database refused; the segment stays.
    """
    with storage_errors("giving up a segment of the intake journal"):
        found = _read(path) if path.exists() else Scan()
        _sync_objects(ledger.data_dir)
        _finish(ledger, found.records)
        whole = {
            (record.arrival.sop_instance_uid, record.arrival.digest) for record in found.records
        }
        store = ObjectStore(ledger.data_dir)
        lost = [
            arrival
            for arrival in acknowledged
            if (arrival.sop_instance_uid, arrival.digest) not in whole
            and not _is_stored(store, arrival)
        ]
        _keep_aside(ledger, path, found, lost)
    return len(lost)


def _is_stored(store: ObjectStore, arrival: Arrival) -> bool:
    row = version_of(arrival.sop_instance_uid, arrival.digest)
    if row is None:
        return False
    return _is_whole(store, row.object_key, arrival.digest) or bytes_were_deleted(row)


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """One replay at a time, over all processes."""
    with (data_dir / "replay.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sync_objects(data_dir: Path) -> None:
    """Have the disk hold what it can of the files that were made without a sync."""
    objects = data_dir / OBJECTS
    if not objects.is_dir():
        return
    fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file_system(fd)
    finally:
        os.close(fd)


@contextmanager
def _dead(folder: Path) -> Iterator[int | None]:
    """Hold a dead run's spool folder; None for one that lives, which holds its lock."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield fd
    finally:
        os.close(fd)


def _segments(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder)) if SEGMENT_NAME.fullmatch(name)]


def _read(path: Path) -> Scan:
    """A segment as far as the disk gives it; a block it refuses counts as damaged."""
    data = bytearray(SEGMENT_BYTES)
    with path.open("rb", buffering=0) as file:
        for at in range(0, SEGMENT_BYTES, 1 << 20):
            _fill(file.fileno(), memoryview(data)[at : at + (1 << 20)], at)
    return scan(data, path.parent.name)


def _fill(fd: int, room: memoryview, at: int) -> None:
    try:
        got = os.preadv(fd, [room], at)
    except OSError as error:
        if len(room) <= BLOCK:
            log.error("a block of the intake journal cannot be read: %s", error.strerror)
            return
        for start in range(0, len(room), BLOCK):
            _fill(fd, room[start : start + BLOCK], at + start)
    else:
        if 0 < got < len(room):  # a refused block ends a read early, without an error
            _fill(fd, room[got:], at + got)


def _finish(ledger: Ledger, records: Sequence[Record]) -> int:
    """Make the files and rows that are not there; gives how many objects lacked something."""
    store = ObjectStore(ledger.data_dir)
    restored = 0
    try:
        left = iter(records)
        while batch := list(itertools.islice(left, _BATCH)):
            lacking = []
            for record in batch:
                row = version_of(record.arrival.sop_instance_uid, record.arrival.digest)
                if row is None:
                    lacking.append(record)
                elif not _is_whole(store, row.object_key, row.digest) and not bytes_were_deleted(
                    row
                ):
                    store.restore(row.object_key, record.content)
                    restored += 1
            _store(store, ledger, lacking)
            restored += len(lacking)
    finally:
        store.close()
    return restored


def _is_whole(store: ObjectStore, key: str, digest: str) -> bool:
    try:
        with store.path(key).open("rb") as file:
            # After a sync that failed, pages in memory say nothing about the disk.
            forget_pages(file.fileno())
            found = file.read()
        data_set = memoryview(found)[data_set_offset(found) :]
    except (OSError, NotDicomError):  # missing, or the disk refuses it
        return False
    return hashlib.sha256(data_set).hexdigest() == digest


def _store(store: ObjectStore, ledger: Ledger, records: Sequence[Record]) -> None:
    if not records:
        return
    finished = []
    for record in records:
        incoming = store.incoming(bytes(record.content[: record.head_length]))
        incoming.write(record.content[record.head_length :])
        incoming.finish()
        finished.append(incoming)
    store.keep(finished)
    record_arrivals(
        ledger,
        [
            replace(record.arrival, object_key=incoming.key)
            for record, incoming in zip(records, finished, strict=True)
        ],
    )
    # What came twice has one row: `tidy` removes the file that no row names.


def _put_away(ledger: Ledger, path: Path, found: Scan) -> bool:
    """Remove a segment that is done with; keep one with damage aside, and say so."""
    if not found.damaged and not found.head_is_damaged:
        path.unlink()
        sync_folder(path.parent)
        return False
    _keep_aside(ledger, path, found)
    return True


def _keep_aside(ledger: Ledger, path: Path, found: Scan, lost: Sequence[Arrival] = ()) -> None:
    aside = ledger.data_dir / DAMAGED
    aside.mkdir(mode=0o750, exist_ok=True)
    detail: dict[str, object] = {
        "places": len(found.damaged),
        "bytes": sum(end - begin for begin, end in found.damaged),
        "records": len(found.records),
        "head": found.head_is_damaged,
    }
    if lost:
        token = Redactor(load_key(ledger.data_dir)).token
        named = [token(arrival.sop_instance_uid) for arrival in lost]
        brought = sorted({arrival.association_id for arrival in lost})
        detail |= {"lost": len(lost), "instances": named, "associations": brought}
        log.error("%d acknowledged objects are lost: they must be sent again", len(lost))
    log.error("a segment of the intake journal is damaged and was kept aside: %s", detail)
    name = f"{path.parent.name}-{path.name}"
    with ledger.transaction() as change:
        change.audit("journal.damaged", object=f"journal:{name}", outcome="failure", detail=detail)
    if path.exists():
        path.rename(aside / name)
    for folder in (aside, path.parent):
        sync_folder(folder)
