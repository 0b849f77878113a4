"""The place of one process in the object store: a locked spool folder and folders of objects."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from storage.files import open_direct, storage_errors, sync_folder, write_all

FOLDER_FILES = 4000
LARGE_FILE = 1 << 18
"""From this length on a file is written past the page cache: new pages cost more than the disk."""

OBJECTS, SPOOL, CLOSED = "objects", "spool", "closed"
FAULT = "fault"
"""File in a spool folder that says why acknowledged objects cannot be settled."""

SEGMENT_NAME = re.compile(r"journal-[0-9]{4,9}")
TOKEN = re.compile(r"[0-9a-f]{16}")
FOLDER = re.compile(r"([0-9a-f]{16})-[0-9]{4,9}")


@dataclass
class Folder:
    """One folder of objects that this run writes."""

    name: str
    fd: int
    used: int = 0
    open_keys: set[str] = field(default_factory=set)

    @property
    def full(self) -> bool:
        return self.used >= FOLDER_FILES


class Run:
    """This process's place in the store: a locked spool folder and the object folders."""

    def __init__(self, objects: Path, spool: Path) -> None:
        self.objects = objects
        self.token, self.spool_fd = self._lock_spool(spool)
        self.spool = spool / self.token
        self._place, self._locked = os.fspath(self.spool), os.fstat(self.spool_fd)
        # From before the first file: it is told of each write to that disk that failed since.
        self.objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY)
        self._names = itertools.count()
        self._lock = threading.Lock()
        self.folders: dict[str, Folder] = {}
        self.current: Folder | None = None

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

    def folder(self) -> Folder:
        """The folder that takes the next file."""
        if self.current is None or self.current.full:
            name = f"{self.token}-{len(self.folders):04d}"
            # It may have been made, and its name not been synced.
            (self.objects / name).mkdir(mode=0o750, exist_ok=True)
            sync_folder(self.objects)
            fd = os.open(self.objects / name, os.O_RDONLY | os.O_DIRECTORY)
            self.current = self.folders[name] = Folder(name, fd)
        return self.current

    def next_key(self) -> str:
        """A key for the next object; it is open until it is said to be accounted for."""
        with self._lock:
            folder = self.folder()
            key = f"{folder.name}/{folder.used:04d}.dcm"
            folder.open_keys.add(key)  # first: a folder that is full and has none open is closed
            folder.used += 1
            return key

    def make_file(self, key: str, blocks: memoryview, length: int) -> None:
        """Write the file of a key without syncing it: the intake journal holds the object.

        Args:
            key: Of this run.
            blocks: Its bytes, filled up to whole blocks, at an address that begins one.
            length: How many of them are the file's.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        folder, name = self.folder_of(key)
        large = length >= LARGE_FILE
        with storage_errors("making the file of an object"):
            fd = open_direct(name, os.O_TRUNC, folder.fd) if large else _open(name, folder.fd)
            try:
                write_all(fd, blocks if large else blocks[:length])
                if large:
                    os.ftruncate(fd, length)
            finally:
                os.close(fd)

    def sync_files(self, keys: Iterable[str]) -> None:
        """Make the files of these keys durable, with their names; some may be deleted since.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        touched = set()
        with storage_errors("syncing objects"):
            for key in keys:
                path = self.objects / key
                touched.add(path.parent)
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    if self.is_in_place():
                        continue
                    raise
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            for folder in touched:
                sync_folder(folder)

    def is_in_place(self) -> bool:
        """Whether the spool folder that is locked is the one that lies in the data folder."""
        try:
            return os.path.samestat(os.stat(self._place), self._locked)
        except OSError:
            return False

    def folder_of(self, key: str) -> tuple[Folder, str]:
        """The folder of a key of this run, and the name of its file there."""
        folder, _, name = key.partition("/")
        return self.folders[folder], name

    def close_folder(self, folder: Folder) -> None:
        """Mark a folder whose every file is accounted for; drop it when it is empty."""
        if folder.used == 0:
            os.rmdir(self.objects / folder.name)
        else:
            mark_closed(folder.fd)
        os.close(folder.fd)
        folder.fd = -1


def _open(name: str, folder_fd: int) -> int:
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
    return os.open(name, flags, 0o640, dir_fd=folder_fd)


def mark_closed(folder_fd: int) -> None:
    """Say that every file of a folder is accounted for."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(CLOSED, flags, 0o640, dir_fd=folder_fd))
    os.fsync(folder_fd)
