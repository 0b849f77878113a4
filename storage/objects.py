"""Object files on disk: durable before anyone is told of them.

Bytes go to a file of our own name under ``spool/``, which is renamed into a folder of ``objects/``
that this process alone writes; file and folder are synced, and only then may a row name them.
Every process run has a token; its spool folder ``spool/<token>/`` is locked while the run lives and
its objects lie in ``objects/<token>-<number>/``, at most `FOLDER_FILES` in each. A folder that is
full and whose files are all accounted for by rows gets an empty file ``closed``, so that start-up
only looks at folders of runs that ended in mid-work, whatever the clock says.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config.errors import OutOfSpaceError, StorageError
from storage.files import storage_errors, sync_folder, write_all
from storage.part10 import data_set_offset

FOLDER_FILES = 4000
LARGE_FILE = 4 << 20
OBJECTS, SPOOL, CLOSED = "objects", "spool", "closed"
_GIB = 1 << 30
TOKEN = re.compile(r"[0-9a-f]{16}")
FOLDER = re.compile(r"([0-9a-f]{16})-[0-9]{4,9}")
_KEY = re.compile(r"[0-9a-f]{16}-[0-9]{4,9}/[0-9]{4,9}\.dcm")


@dataclass(frozen=True)
class Stored:
    """A durable object.

    Attributes:
        key: Relative name, made of our own tokens.
        digest: SHA-256 of the data set's bytes, hexadecimal.
        size: Bytes of the data set.
    """

    key: str
    digest: str
    size: int


@dataclass
class _Folder:
    """One folder of objects that this run writes."""

    name: str
    fd: int
    used: int = 0
    open_keys: set[str] = field(default_factory=set)

    @property
    def full(self) -> bool:
        return self.used >= FOLDER_FILES


class _Run:
    """This process's place in the store: a locked spool folder and the object folders."""

    def __init__(self, objects: Path, spool: Path) -> None:
        self.objects = objects
        self.token, self.spool_fd = self._lock_spool(spool)
        self.spool = spool / self.token
        self._names = itertools.count()
        self.folders: dict[str, _Folder] = {}
        self.current: _Folder | None = None

    @staticmethod
    def _lock_spool(spool: Path) -> tuple[str, int]:
        while True:
            token = secrets.token_hex(8)
            os.mkdir(spool / token, 0o750)
            fd = os.open(spool / token, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_SH)
            # A recovery at this very moment may have taken the new folder for a dead run's.
            if os.fstat(fd).st_nlink:
                return token, fd
            os.close(fd)

    def next_name(self) -> str:
        return f"{next(self._names):04d}"

    def folder(self) -> _Folder:
        """The folder that takes the next file."""
        if self.current is None or self.current.full:
            name = f"{self.token}-{len(self.folders):04d}"
            os.mkdir(self.objects / name, 0o750)
            sync_folder(self.objects)
            fd = os.open(self.objects / name, os.O_RDONLY | os.O_DIRECTORY)
            self.current = self.folders[name] = _Folder(name, fd)
        return self.current

    def close_folder(self, folder: _Folder) -> None:
        """Mark a folder whose every file is accounted for; drop it when it is empty."""
        if folder.used == 0:
            os.rmdir(self.objects / folder.name)
        else:
            mark_closed(folder.fd)
        os.close(folder.fd)
        folder.fd = -1


def mark_closed(folder_fd: int) -> None:
    """Say that every file of a folder is accounted for."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(CLOSED, flags, 0o640, dir_fd=folder_fd))
    os.fsync(folder_fd)


class Incoming:
    """A file being written, under a name that no peer chose.

    `digest` and `size` cover what went through `write`, which is the data set alone.
    """

    def __init__(self, run: _Run, head: bytes) -> None:
        self._run = run
        self._head: bytes | None = head
        self._hash = hashlib.sha256()
        self.size = 0
        self.key = ""
        self.name = run.next_name()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with storage_errors("opening a file for an object"):
            self.fd = os.open(self.name, flags, 0o640, dir_fd=run.spool_fd)

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        self._hash.update(chunk)
        self.size += len(chunk)
        with storage_errors("writing an object"):
            if self._head is None:
                write_all(self.fd, chunk)
            else:
                wanted = len(self._head) + len(chunk)
                written = os.writev(self.fd, (self._head, chunk))
                if written < wanted:
                    rest = memoryview(self._head + bytes(chunk))[written:]
                    write_all(self.fd, rest)
                self._head = None

    @property
    def digest(self) -> str:
        """SHA-256 of the data set's bytes so far, hexadecimal."""
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Take no more bytes.

        A large file is synced here, in the thread that wrote it: a batch of small ones behind it
        need not wait for its pages.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        if self._head is not None:
            self.write(b"")
        if self.size > LARGE_FILE:
            with storage_errors("syncing an object"):
                os.fsync(self.fd)

    def discard(self) -> None:
        """Remove the file; nothing of it stays. Harmless when it is gone already."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with storage_errors("removing an unfinished object"):
                os.unlink(self.name, dir_fd=self._run.spool_fd)

    def move_to(self, path: Path) -> None:
        """Give the finished file another home in the data folder: the quarantine."""
        with storage_errors("moving an object"):
            os.rename(self.name, path, src_dir_fd=self._run.spool_fd)
            os.close(self.fd)
            self.fd = -1

    def place(self) -> _Folder:
        """Rename the file into the run's folder and sync it; the caller syncs the folder."""
        folder = self._run.folder()
        name = f"{folder.used:04d}.dcm"
        with storage_errors("keeping an object"):
            # Renamed first: on ext4 one sync of the file then carries its name along, and the
            # folder's own sync finds little left to do. No row names the file before both.
            os.rename(self.name, name, src_dir_fd=self._run.spool_fd, dst_dir_fd=folder.fd)
            self.key = f"{folder.name}/{name}"
            folder.used += 1
            folder.open_keys.add(self.key)
            os.fsync(self.fd)
            os.close(self.fd)
        self.fd = -1
        return folder

    def withdraw(self) -> None:
        """Remove the file wherever it is, after its batch failed."""
        if not self.key:
            self.discard()
            return
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        folder_name, _, name = self.key.partition("/")
        folder = self._run.folders[folder_name]
        os.unlink(name, dir_fd=folder.fd)
        folder.open_keys.discard(self.key)
        self.key = ""


class ObjectStore:
    """The objects of one data folder, seen from one process. Safe for many threads."""

    def __init__(self, data_dir: Path, *, min_free: Literal["auto"] | int = "auto") -> None:
        self.data_dir = data_dir
        self.objects = data_dir / OBJECTS
        self.spool = data_dir / SPOOL
        self._min_free = min_free
        self._run: _Run | None = None
        self._lock = threading.Lock()

    def _open_run(self) -> _Run:
        if (run := self._run) is not None:
            return run
        with self._lock:
            if self._run is None:
                with storage_errors("opening the object store"):
                    for folder in (self.objects, self.spool):
                        folder.mkdir(mode=0o750, exist_ok=True)
                    sync_folder(self.data_dir)
                    self._run = _Run(self.objects, self.spool)
            return self._run

    def incoming(self, head: bytes) -> Incoming:
        """Begin an object.

        Args:
            head: What stands before the data set, see `storage.part10.file_head`.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The data folder cannot be written.
        """
        run = self._open_run()
        try:
            return Incoming(run, head)
        except StorageError:
            # When the data folder was replaced under us the next object starts a fresh run;
            # recovery looks at what this one left.
            if not run.spool.exists():
                with self._lock:
                    self._run = None
            raise

    def keep(self, finished: Sequence[Incoming]) -> None:
        """Make finished objects durable; each then has its `key`.

        One folder sync serves all of them. A row must be committed for each afterwards and said
        with `settle`; until then recovery may remove the file.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused; nothing of the batch may be relied upon.
        """
        with self._lock, storage_errors("keeping an object"):
            touched: dict[str, _Folder] = {}
            try:
                for incoming in finished:
                    folder = incoming.place()
                    touched[folder.name] = folder
                for folder in touched.values():
                    os.fsync(folder.fd)
            except BaseException:
                for incoming in finished:
                    incoming.withdraw()
                raise

    def settle(self, keys: Iterable[str]) -> None:
        """Say that these files are accounted for: a row names them, or they were removed."""
        run = self._run
        if run is None:
            return
        with self._lock, storage_errors("closing a folder of objects"):
            for key in keys:
                folder = run.folders.get(key.partition("/")[0])
                if folder is None:
                    continue
                folder.open_keys.discard(key)
                if folder.full and not folder.open_keys and folder.fd >= 0:
                    run.close_folder(folder)

    def put(self, part10: bytes) -> Stored:
        """Keep a whole Part 10 file that this node made.

        The caller commits the row that names it and then calls `settle`.

        Raises:
            NotDicomError: The bytes are not a Part 10 file.
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        offset = data_set_offset(part10)
        incoming = self.incoming(part10[:offset])
        try:
            incoming.write(memoryview(part10)[offset:])
            incoming.finish()
            self.keep([incoming])
        finally:
            incoming.discard()
        return Stored(incoming.key, incoming.digest, incoming.size)

    def path(self, key: str) -> Path:
        """Where the file of a key lies.

        Raises:
            StorageError: The key is not one of ours.
        """
        if not _KEY.fullmatch(key):
            raise StorageError("that is not the key of a stored object")
        return self.objects / key

    def remove(self, key: str) -> None:
        """Delete the file of a key; harmless when it is gone already.

        Raises:
            StorageError: The key is not one of ours, or the disk refused.
        """
        path = self.path(key)
        with storage_errors("removing an object"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """End this run: folders whose files are all accounted for are marked closed."""
        with self._lock, storage_errors("closing the object store"):
            run, self._run = self._run, None
            if run is None:
                return
            for folder in run.folders.values():
                if folder.fd >= 0 and not folder.open_keys:
                    run.close_folder(folder)
            if not os.listdir(run.spool_fd):
                os.rmdir(run.spool)
            os.close(run.spool_fd)

    def free_bytes(self) -> int:
        """Bytes that the file system of the data folder still takes.

        Raises:
            StorageError: The data folder is missing.
        """
        with storage_errors("asking for the free space"):
            room = os.statvfs(self.data_dir)
        return room.f_bavail * room.f_frsize

    def check_room(self) -> None:
        """Refuse when the disk is below the free-space mark.

        Raises:
            OutOfSpaceError: It is.
            StorageError: The data folder is missing.
        """
        with storage_errors("asking for the free space"):
            room = os.statvfs(self.data_dir)
        automatic = min(5 * _GIB, room.f_blocks * room.f_frsize // 20)
        mark = automatic if self._min_free == "auto" else self._min_free
        if room.f_bavail * room.f_frsize < mark:
            raise OutOfSpaceError("the disk is below its free-space mark")
