"""Objects on disk: durable, in place, and tidied up after a crash."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from pydicom import dcmread

from config.errors import NotDicomError, OutOfSpaceError, StorageError
from storage import runs
from storage.files import expect
from storage.objects import ObjectStore
from storage.part10 import data_set_offset, file_head
from storage.quarantine import BLOCK, Quarantine
from storage.segment import RECORD_BYTES, new_buffer
from storage.tidy import tidy

HEAD = file_head("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", "CT1")
DATA = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"


def keep(store: ObjectStore, data: bytes = DATA, *, settle: bool = True) -> str:
    incoming = store.incoming(HEAD)
    incoming.write(data)
    incoming.finish()
    store.keep([incoming])
    if settle:
        store.settle([incoming.key])
    return incoming.key


def nothing(keys: Sequence[str]) -> set[str]:
    return set()


def crash(store: ObjectStore) -> None:
    """What the kernel does for a process that dies: its locks go, its files stay."""
    run = store._run
    assert run is not None
    os.close(run.objects_fd)
    os.close(run.spool_fd)
    store._run = None


@pytest.mark.feature("P03", "P51")
def test_a_kept_object_is_a_part_10_file_with_the_bytes_as_they_came(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    key = keep(store)
    path = store.path(key)
    assert path.is_relative_to(tmp_path / "objects")
    found = path.read_bytes()
    assert found[data_set_offset(found) :] == DATA
    read = dcmread(path)
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"
    assert read.SpecificCharacterSet == "ISO_IR 100"
    assert not any((tmp_path / "spool").rglob("*.dcm"))


def test_the_digest_is_of_the_data_set_alone(tmp_path: Path) -> None:
    stored = ObjectStore(tmp_path).put(HEAD + DATA)
    assert stored.digest == hashlib.sha256(DATA).hexdigest()
    assert stored.size == len(DATA)


def test_put_refuses_what_is_not_a_part_10_file(tmp_path: Path) -> None:
    with pytest.raises(NotDicomError):
        ObjectStore(tmp_path).put(b"\x89PNG" + bytes(200))


def test_a_discarded_object_leaves_nothing(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    incoming = store.incoming(HEAD)
    incoming.write(DATA)
    incoming.discard()
    incoming.discard()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "/etc/passwd", "0123456789abcdef-0000/../x.dcm", "", "a/b.dcm"]
)
@pytest.mark.feature("P51")
def test_a_foreign_key_is_never_a_path(tmp_path: Path, key: str) -> None:
    store = ObjectStore(tmp_path)
    with pytest.raises(StorageError):
        store.path(key)
    with pytest.raises(StorageError):
        store.remove(key)


def test_removing_twice_is_harmless(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    key = keep(store)
    store.remove(key)
    store.remove(key)
    assert not store.path(key).exists()


def test_recovery_keeps_what_rows_name_and_removes_the_rest(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    named, orphan = keep(store), keep(store, settle=False)
    store.incoming(HEAD).write(DATA)
    crash(store)

    found = tidy(tmp_path, lambda keys: {named} & set(keys))

    assert (found.kept, found.removed, found.spooled) == (1, 1, 1)
    assert store.path(named).exists()
    assert not store.path(orphan).exists()
    assert os.listdir(tmp_path / "spool") == []


def test_recovery_leaves_a_running_process_alone(tmp_path: Path) -> None:
    running = ObjectStore(tmp_path)
    key = keep(running, settle=False)
    unfinished = running.incoming(HEAD)

    found = tidy(tmp_path, nothing)

    assert (found.folders, found.removed, found.spooled) == (0, 0, 0)
    assert running.path(key).exists()
    unfinished.write(DATA)
    unfinished.finish()
    running.keep([unfinished])
    assert running.path(unfinished.key).exists()


def test_recovery_does_not_look_into_closed_folders(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    key = keep(store)
    store.close()

    found = tidy(tmp_path, nothing)

    assert found.folders == 0
    assert store.path(key).exists()


def test_recovery_looks_once_at_what_a_crash_left(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    key = keep(store)
    crash(store)

    assert tidy(tmp_path, set).folders == 1
    assert tidy(tmp_path, nothing).folders == 0
    assert store.path(key).exists()


def test_a_folder_with_an_unsettled_file_is_not_closed(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    key = keep(store, settle=False)
    store.close()

    assert tidy(tmp_path, nothing).removed == 1
    assert not store.path(key).exists()


def test_a_full_folder_is_closed_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "FOLDER_FILES", 2)
    store = ObjectStore(tmp_path)
    keys = [keep(store) for _ in range(5)]
    folders = sorted({key.partition("/")[0] for key in keys})
    assert len(folders) == 3
    closed = [(tmp_path / "objects" / name / "closed").exists() for name in folders]
    assert closed == [True, True, False]
    crash(store)
    assert tidy(tmp_path, set).folders == 1


def test_many_threads_share_one_store(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    keys: list[str] = []

    def work() -> None:
        keys.extend(keep(store) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 80
    assert all(store.path(key).stat().st_size == len(HEAD + DATA) for key in keys)


@pytest.mark.feature("P02")
def test_a_full_disk_is_said_and_leaves_nothing_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(tmp_path)
    first, second = store.incoming(HEAD), store.incoming(HEAD)
    for incoming in (first, second):
        incoming.write(DATA)
        incoming.finish()
    sync, count = os.fsync, iter(range(100))

    def full(fd: int) -> None:
        if next(count) == 1:  # the second file of the batch
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(fd)

    store.put(HEAD + DATA)  # opens the folder, whose own sync must not be counted
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfSpaceError):
        store.keep([first, second])
    assert len(list((tmp_path / "objects").rglob("*.dcm"))) == 1
    assert [path for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []


def test_a_missing_data_folder_is_said_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    store = ObjectStore(data_dir)
    keep(store)
    data_dir.rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        store.free_bytes()
    (tmp_path / "elsewhere" / "spool").rename(tmp_path / "elsewhere" / "lost")
    (tmp_path / "elsewhere").rename(data_dir)
    for path in sorted((data_dir / "lost").rglob("*"), reverse=True):
        path.rmdir()
    with pytest.raises(StorageError):
        store.incoming(HEAD)
    assert store.path(keep(store)).exists()


@pytest.mark.parametrize(("mark", "refused"), [(1, False), (1 << 62, True)])
def test_the_free_space_mark(tmp_path: Path, mark: int, refused: bool) -> None:
    store = ObjectStore(tmp_path, min_free=mark)
    assert store.free_bytes() > 0
    if refused:
        with pytest.raises(OutOfSpaceError):
            store.check_room()
    else:
        store.check_room()


def test_a_disk_without_any_room_is_refused_whatever_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(tmp_path)
    full = os.statvfs_result([0 if n == 4 else value for n, value in enumerate(found)])
    monkeypatch.setattr(os, "statvfs", lambda place: full)
    with pytest.raises(OutOfSpaceError):
        ObjectStore(tmp_path, min_free=0).check_room()


def refuse(store: ObjectStore, quarantine: Quarantine, data: bytes) -> bool:
    incoming = store.incoming(HEAD)
    incoming.write(data)
    return quarantine.keep(incoming, {"reason": "malformed"})


@pytest.mark.feature("P02")
def test_quarantine_holds_one_copy_a_digest_with_its_reason(tmp_path: Path) -> None:
    store, quarantine = ObjectStore(tmp_path), Quarantine(tmp_path, 1 << 16)
    assert refuse(store, quarantine, b"broken")
    assert refuse(store, quarantine, b"broken")
    digest = hashlib.sha256(b"broken").hexdigest()
    assert sorted(os.listdir(tmp_path / "quarantine")) == [f"{digest}.dcm", f"{digest}.json"]
    assert '"reason": "malformed"' in (tmp_path / "quarantine" / f"{digest}.json").read_text()


def test_quarantine_keeps_to_its_room_and_drops_the_oldest(tmp_path: Path) -> None:
    store, quarantine = ObjectStore(tmp_path), Quarantine(tmp_path, 5 * BLOCK)
    for age, content in enumerate((b"a" * 300, b"b" * 300)):
        assert refuse(store, quarantine, content)
        path = tmp_path / "quarantine" / f"{hashlib.sha256(content).hexdigest()}.dcm"
        os.utime(path, (age, age))
    assert refuse(store, quarantine, b"c" * 300)
    left = {path.read_bytes()[-1:] for path in (tmp_path / "quarantine").glob("*.dcm")}
    assert left == {b"b", b"c"}
    assert not refuse(store, quarantine, bytes(4 * BLOCK + 1))


def test_quarantine_counts_the_blocks_of_small_objects_and_seldom_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    make_room = Quarantine._make_room

    def counted(quarantine: Quarantine, needed: int) -> int:
        looks.append(needed)
        return make_room(quarantine, needed)

    monkeypatch.setattr(Quarantine, "_make_room", counted)
    store = ObjectStore(tmp_path)
    quarantine = Quarantine(tmp_path, 256 * BLOCK)
    for number in range(200):
        assert refuse(store, quarantine, b"%d" % number)
    left = [path for path in (tmp_path / "quarantine").iterdir() if path.suffix == ".dcm"]
    assert 100 < len(left) <= 128
    assert (tmp_path / "quarantine" / f"{hashlib.sha256(b'199').hexdigest()}.dcm") in left
    assert len(looks) < 100


@pytest.mark.parametrize("size", [0, 1, RECORD_BYTES, 2 * RECORD_BYTES + 5, 3 * RECORD_BYTES - 300])
@pytest.mark.parametrize("piece", [16376, 4 * RECORD_BYTES])
def test_an_object_that_outgrows_its_buffer_is_whole_on_disk(
    tmp_path: Path, size: int, piece: int
) -> None:
    store = ObjectStore(tmp_path, min_free=0)
    data = Random(size).randbytes(size)  # noqa: S311 - test data
    incoming = store.incoming(HEAD, new_buffer())
    for at in range(0, size, piece):
        incoming.write(data[at : at + piece])
    incoming.finish()
    assert (incoming.gathered is None) == (size >= RECORD_BYTES)
    incoming.to_file()
    store.keep([incoming])
    store.settle([incoming.key])
    assert store.path(incoming.key).read_bytes() == HEAD + data
    assert (incoming.size, incoming.digest) == (size, hashlib.sha256(data).hexdigest())


def test_a_disk_that_fills_up_behind_an_object_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path, min_free=0)
    incoming = store.incoming(HEAD, new_buffer())
    incoming.write(bytes(3 * RECORD_BYTES))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * RECORD_BYTES, limits[1]))
    try:
        with pytest.raises(OutOfSpaceError):
            incoming.write(bytes(4 * RECORD_BYTES))
        incoming.discard()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in store.spool.rglob("*") if path.is_file()] == []


def test_a_file_that_is_gone_is_expected_in_vain(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(DATA)
    expect([tmp_path / "gone", there])
    assert there.read_bytes() == DATA
