"""The scrub reads what is stored in turn, at its rate, and says what is not as it was."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import StorageError
from dicomnode.work import scrubbing
from dicomnode.work.scrubbing import scrub_until
from storage import audit, audit_check, index, scrub
from storage.db import Ledger
from storage.index import Arrival, Kept
from storage.objects import ObjectStore
from storage.part10 import file_head
from storage.records import Instance
from storage.scrub import Scrub, findings, place, summary
from tests.storage_rows import CT, EXPLICIT, associate, index_all

FAST = 1 << 40


@pytest.fixture
def store(ledger: Ledger) -> Iterator[ObjectStore]:
    opened = ObjectStore(ledger.data_dir, min_free=0)
    yield opened
    opened.close()


def put(ledger: Ledger, store: ObjectStore, count: int, size: int = 300) -> list[Path]:
    """Objects with rows; gives their files."""
    association = associate(ledger)
    paths = []
    for number in range(count):
        uid = f"1.{association}.{number}"
        stored = store.put(file_head(CT, uid, EXPLICIT) + bytes([number % 256]) * size)
        arrival = Arrival(
            sop_instance_uid=uid,
            sop_class_uid=CT,
            transfer_syntax_uid=EXPLICIT,
            study_instance_uid="3.1",
            series_instance_uid="2.1",
            digest=stored.digest,
            size=stored.size,
            object_key=stored.key,
            association_id=association,
        )
        index.record_arrivals(ledger, [arrival])
        store.settle([stored.key])
        paths.append(store.path(stored.key))
    index.close_association(ledger, association, "released")
    return paths


def spoil(path: Path) -> bytes:
    """Turn one byte of the pixels; gives the file as it was."""
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        file.write(b"\xff")
    return before


def of_kind(action: str) -> list[str]:
    return [event["object"] for event in audit.events() if event["action"] == action]


class Turns:
    """Counts waits, and ends the scrub after so many objects."""

    def __init__(self, ledger: Ledger, store: ObjectStore, enough: int | None = None) -> None:
        self.enough = enough
        self.paused = 0.0
        self.read: list[str] = []
        opened = store.path

        def path(key: str) -> Path:
            self.read.append(key)
            return opened(key)

        store.path = path  # type: ignore[method-assign]

    def __call__(self, seconds: float) -> bool:
        self.paused += seconds
        return self.enough is not None and len(self.read) > self.enough


@pytest.mark.feature("F16", "F11")
def test_what_is_as_it_was_gives_no_word(ledger: Ledger, store: ObjectStore) -> None:
    put(ledger, store, 3)
    before = len(list(audit.events()))
    assert Scrub(ledger, store, FAST, lambda seconds: False).round()
    assert findings() == {}
    assert summary() == []
    assert place().objects == 3
    assert place().ended_at is not None
    assert len(list(audit.events())) == before


@pytest.mark.feature("F16", "P40", "P52")
def test_damage_and_loss_are_found_told_once_and_touched_never(
    ledger: Ledger, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, missing, cut, sound = put(ledger, store, 4)
    before = spoil(damaged)
    kept = missing.read_bytes()
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:150])
    spoiled = damaged.read_bytes()
    scrubber = Scrub(ledger, store, FAST, lambda seconds: False)
    for _ in range(2):
        assert scrubber.round()
    wanted = {"instance:1": "damaged", "instance:2": "missing", "instance:3": "damaged"}
    assert findings() == wanted
    assert of_kind("object.damaged") == ["instance:1", "instance:3"]
    assert of_kind("object.missing") == ["instance:2"]
    assert len([line for line in caplog.records if line.levelname == "ERROR"]) == 3
    assert [line.split(":")[0] for line in summary()] == [
        "2 stored objects are damaged",
        "1 stored object is missing",
    ]
    assert damaged.read_bytes() == spoiled
    assert not missing.exists()
    assert [row.state for row in Instance.select()] == ["stored"] * 4

    damaged.write_bytes(before)
    missing.write_bytes(kept)
    scrubber.look_again()
    assert findings() == {"instance:3": "damaged"}
    assert sorted(of_kind("object.intact")) == ["instance:1", "instance:2"]
    assert sound.exists()


def test_it_goes_on_where_it_was_after_a_restart(ledger: Ledger, store: ObjectStore) -> None:
    keys = [str(path.relative_to(store.objects)) for path in put(ledger, store, 5)]
    turns = Turns(ledger, store, enough=2)
    assert not Scrub(ledger, store, FAST, turns).round()
    read_before = turns.read[:]
    turns.enough = None
    turns.read.clear()
    assert Scrub(ledger, store, FAST, turns).round()
    # The one it was at when it was ended is read again; nothing is left out.
    assert read_before == keys[:3]
    assert turns.read == keys[2:]
    assert place().row == 0


def test_it_keeps_to_its_rate(ledger: Ledger, store: ObjectStore) -> None:
    put(ledger, store, 4, size=1 << 20)
    turns = Turns(ledger, store)
    assert Scrub(ledger, store, 1 << 20, turns).round()
    assert turns.paused == pytest.approx(4.0, abs=0.3)


def test_missing_files_cost_time_too(ledger: Ledger, store: ObjectStore) -> None:
    for path in put(ledger, store, 4):
        path.unlink()
    turns = Turns(ledger, store)
    assert Scrub(ledger, store, scrub.LEAST_COST, turns).round()
    assert turns.paused == pytest.approx(4.0, abs=0.3)


def test_a_store_that_is_gone_is_one_fault_and_not_many_findings(
    ledger: Ledger, store: ObjectStore
) -> None:
    put(ledger, store, 3)
    store.objects.rename(store.objects.with_name("away"))
    with pytest.raises(StorageError, match="missing"):
        Scrub(ledger, store, FAST, lambda seconds: False).round()
    assert findings() == {}


def test_what_a_person_deleted_from_quarantine_is_not_missed(
    ledger: Ledger, store: ObjectStore
) -> None:
    (path,) = put(ledger, store, 1)
    index_all(ledger)
    path.unlink()
    scrubber = Scrub(ledger, store, FAST, lambda seconds: False)
    assert scrubber.round()
    assert findings() == {"instance:1": "missing"}
    with ledger.transaction() as change:
        change.move(Instance.get_by_id(1), "quarantined", reason="other pixels")
    scrubber.look_again()
    assert findings() == {}
    assert scrubber.round()
    assert findings() == {}


class Nap(threading.Event):
    """The worker's stop event, which counts how often it was slept on."""

    def __init__(self) -> None:
        super().__init__()
        self.naps: list[float] = []
        self.napping = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.naps.append(timeout or 0.0)
        self.napping.set()
        return super().wait(timeout)


def test_it_sleeps_when_all_is_read_and_wakes_at_the_end(
    ledger: Ledger, store: ObjectStore
) -> None:
    put(ledger, store, 2)
    stopping = Nap()
    thread = threading.Thread(target=scrub_until, args=(stopping, ledger, store, FAST))
    thread.start()
    assert stopping.napping.wait(20)
    begun = time.monotonic()
    stopping.set()
    thread.join(20)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 5
    assert stopping.naps == [scrubbing.LOOK_AGAIN_SECONDS]
    assert place().objects == 2


def test_a_rate_of_nothing_scrubs_nothing(ledger: Ledger, store: ObjectStore) -> None:
    put(ledger, store, 1)
    scrub_until(threading.Event(), ledger, store, 0)
    assert place().objects == 0


def came_again(ledger: Ledger, store: ObjectStore, number: int) -> Kept:
    """The bytes of an instance of `put`, sent another time; what became of them."""
    row = Instance.get_by_id(number)
    before = row.object_key
    content = file_head(CT, row.sop_instance_uid, EXPLICIT) + bytes([number - 1]) * row.size
    stored = store.put(content)
    assert stored.digest == row.digest
    arrival = Arrival(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=CT,
        transfer_syntax_uid=EXPLICIT,
        study_instance_uid="3.1",
        series_instance_uid="2.1",
        digest=stored.digest,
        size=stored.size,
        object_key=stored.key,
        association_id=associate(ledger),
    )
    (kept,) = index.record_arrivals(ledger, [arrival])
    assert Instance.get_by_id(number).object_key == (
        stored.key if kept is Kept.RESTORED else before
    )
    return kept


@pytest.mark.feature("F16", "P40")
def test_good_bytes_that_come_again_take_the_place_of_what_was_found(
    ledger: Ledger, store: ObjectStore
) -> None:
    damaged, missing, sound = put(ledger, store, 3)
    spoil(damaged)
    missing.unlink()
    scrubber = Scrub(ledger, store, FAST, lambda seconds: False)
    assert scrubber.round()
    assert len(findings()) == 2
    assert [came_again(ledger, store, number) for number in (1, 2, 3, 1)] == [
        Kept.RESTORED,
        Kept.RESTORED,
        Kept.SAME,
        Kept.SAME,
    ]
    assert findings() == {}
    assert summary() == []
    assert of_kind("object.restored") == ["instance:1", "instance:2"]
    assert sound.exists()
    scrubber.look_again()
    assert not damaged.exists()
    assert scrubber.round()
    assert findings() == {}
    assert audit_check.verify(ledger.data_dir).intact


def test_a_damaged_file_that_cannot_be_removed_is_tried_another_time(
    ledger: Ledger, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = put(ledger, store, 1)
    spoil(path)
    scrubber = Scrub(ledger, store, FAST, lambda seconds: False)
    assert scrubber.round()
    assert came_again(ledger, store, 1) is Kept.RESTORED

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", refuse)
        scrubber.look_again()
    assert path.exists()
    scrubber.look_again()
    assert not path.exists()


def test_what_came_again_while_it_was_read_is_not_called_damaged(
    ledger: Ledger, store: ObjectStore
) -> None:
    (path,) = put(ledger, store, 1)
    spoil(path)

    def meanwhile(seconds: float) -> bool:
        if findings():
            assert came_again(ledger, store, 1) is Kept.RESTORED
        return False

    assert Scrub(ledger, store, FAST, lambda seconds: False).round()
    Scrub(ledger, store, FAST, meanwhile).look_again()
    assert findings() == {}
    assert of_kind("object.damaged") == ["instance:1"]


def test_quarantined_bytes_that_came_again_are_not_brought_back(
    ledger: Ledger, store: ObjectStore
) -> None:
    (path,) = put(ledger, store, 1)
    path.unlink()
    assert Scrub(ledger, store, FAST, lambda seconds: False).round()
    with ledger.transaction() as change:
        change.move(Instance.get_by_id(1), "quarantined", reason="other pixels")
    assert came_again(ledger, store, 1) is Kept.SAME
