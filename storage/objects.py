"""Object files on disk: durable before anyone is told of them.

A small object is gathered in memory and goes to the intake journal (`storage.journal`), which has
its file made here afterwards. Any other goes to a file of our own name under ``spool/``, which is
renamed into a folder of ``objects/`` that this process alone writes; file and folder are synced,
and only then may a row name them. Every process run has a token; its spool folder
``spool/<token>/`` is locked while the run lives and its objects lie in
``objects/<token>-<number>/``, at most `FOLDER_FILES` in each. A folder that is full and whose files
are all accounted for by rows gets an empty file ``closed``, so that start-up only looks at folders
of runs that ended in mid-work, whatever the clock says.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config.errors import OutOfSpaceError, StorageError
from storage.files import open_direct, storage_errors, sync_folder
from storage.incoming import Incoming
from storage.part10 import data_set_offset
from storage.runs import OBJECTS, SPOOL, Folder, Run
from storage.segment import Buffer, Bytes

_GIB = 1 << 30
ROOM_SECONDS = 0.05
"""How long room of a GiB above the mark is believed in: no disk is filled as fast."""

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


class ObjectStore:
    """The objects of one data folder, seen from one process. Safe for many threads."""

    def __init__(self, data_dir: Path, *, min_free: Literal["auto"] | int = "auto") -> None:
        self.data_dir = data_dir
        self.objects = data_dir / OBJECTS
        self.spool = data_dir / SPOOL
        self._place = str(data_dir)  # looked at for each object
        self._min_free = min_free
        self._room_until = 0.0
        self._held: StorageError | None = None
        self._run: Run | None = None
        self._lock = threading.Lock()

    def run(self) -> Run:
        """This process's place in the store; made when it is first asked for.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The data folder cannot be written.
        """
        if (run := self._run) is not None:
            return run
        with self._lock:
            if self._run is None:
                with storage_errors("opening the object store"):
                    for folder in (self.objects, self.spool):
                        folder.mkdir(mode=0o750, exist_ok=True)
                    sync_folder(self.data_dir)
                    self._run = Run(self.objects, self.spool)
            return self._run

    def new_file(self, direct: bool) -> tuple[Run, str, int]:
        """Open a file in the spool: the run, the file's name there, and its descriptor.

        Args:
            direct: Past the page cache: whole blocks are written, from pages.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The data folder cannot be written.
        """
        run = self.run()
        name = run.next_name()
        try:
            with storage_errors("opening a file for an object"):
                if direct:
                    return run, name, open_direct(name, os.O_TRUNC, run.spool_fd)
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                return run, name, os.open(name, flags, 0o640, dir_fd=run.spool_fd)
        except StorageError:
            # When the data folder was replaced under us the next object starts a fresh run;
            # recovery looks at what this one left.
            if not run.spool.exists():
                with self._lock:
                    self._run = None
            raise

    def incoming(self, head: bytes, buffer: Buffer | None = None) -> Incoming:
        """Begin an object.

        Args:
            head: What stands before the data set, see `storage.part10.file_head`.
            buffer: Gather it here as long as there is room; the caller lends it until the object
                is kept or discarded. None: it is a file from the start.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The data folder cannot be written.
        """
        return Incoming(self.new_file, head, buffer)

    def restore(self, key: str, part10: Bytes) -> None:
        """Put a whole Part 10 file in the place of one that is missing or damaged, durably.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The key is not one of ours, or the disk refused.
        """
        path = self.path(key)
        incoming = self.incoming(b"")
        try:
            incoming.write(part10)
            incoming.sync()
            with storage_errors("restoring an object"):
                if not path.parent.is_dir():
                    path.parent.mkdir(mode=0o750)
                    sync_folder(self.objects)
            incoming.move_to(path)
            with storage_errors("restoring an object"):
                sync_folder(path.parent)
        finally:
            incoming.discard()

    def keep(self, finished: Sequence[Incoming]) -> None:
        """Make finished files durable; each then has its `key`.

        One folder sync serves all of them. A row must be committed for each afterwards and said
        with `settle`; until then recovery may remove the file.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused; nothing of the batch may be relied upon.
        """
        with self._lock, storage_errors("keeping an object"):
            touched: dict[str, Folder] = {}
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
            os.close(run.objects_fd)
            os.close(run.spool_fd)

    def free_bytes(self) -> int:
        """Bytes that the file system of the data folder still takes.

        Raises:
            StorageError: The data folder is missing.
        """
        with storage_errors("asking for the free space"):
            room = os.statvfs(self._place)
        return room.f_bavail * room.f_frsize

    def hold(self, why: StorageError | None) -> None:
        """Have `check_room` refuse what comes, for this reason; None ends that."""
        self._held = why

    def check_room(self) -> None:
        """Refuse when the disk is below the free-space mark, or the store is held.

        Raises:
            OutOfSpaceError: It is.
            StorageError: The data folder is missing, or why the store is held.
        """
        if self._held is not None:
            raise type(self._held)(str(self._held))
        now = time.monotonic()
        if now < self._room_until:
            return
        spare = self.spare_bytes()
        if spare <= 0:  # a full disk, too, whose mark is 0
            raise OutOfSpaceError("the disk is below its free-space mark")
        if spare > _GIB:
            self._room_until = now + ROOM_SECONDS

    def spare_bytes(self) -> int:
        """Bytes above the free-space mark; negative below it.

        Raises:
            StorageError: The data folder is missing.
        """
        with storage_errors("asking for the free space"):
            room = os.statvfs(self._place)
        automatic = min(5 * _GIB, room.f_blocks * room.f_frsize // 20)
        mark = automatic if self._min_free == "auto" else self._min_free
        return room.f_bavail * room.f_frsize - mark
