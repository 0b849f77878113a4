"""One object on its way to the disk."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from storage.files import storage_errors, write_all
from storage.runs import Folder, Run
from storage.segment import BLOCK, RECORD_BYTES, Buffer, Bytes, new_buffer

LARGE_FILE = 4 << 20

NewFile = Callable[[bool], tuple[Run, str, int]]
"""Opens a file in the spool, past the page cache or not: the run, its name there, a descriptor."""


_WRITERS = ThreadPoolExecutor(4, "writer")
"""Write one buffer of a large object while the next one fills."""


class Incoming:
    """An object being received: gathered in memory, or in a file under a name no peer chose.

    With a buffer it stays in memory until it has outgrown that or has to be a file, which is then
    written a buffer at a time, while another fills, and past the page cache: new pages cost more
    than the disk. `digest` and `size` cover what went through `write`, which is the data set alone.
    """

    def __init__(self, new_file: NewFile, head: bytes, buffer: Buffer | None) -> None:
        self._new_file = new_file
        self._head: bytes | None = head
        self._buffer = buffer
        self._gathered = 0
        self._hash = hashlib.sha256()
        self.head_length = len(head)
        self.size = 0
        self.key = ""
        self.fd = -1
        self._other: Buffer | None = None
        self._writing: Future[None] | None = None
        if buffer is None:
            self._run, self.name, self.fd = new_file(False)
        else:
            self._gather(buffer, head)
            self._head = None

    def _gather(self, buffer: Buffer, chunk: Bytes) -> None:
        at = BLOCK + self._gathered
        room = RECORD_BYTES - at
        if len(chunk) > room:
            view = memoryview(chunk)
            buffer[at:RECORD_BYTES] = view[:room]
            self._gathered += room
            self._gather(self._exchange(buffer), view[room:])
            return
        self._gathered += len(chunk)
        buffer[at : at + len(chunk)] = chunk

    def _exchange(self, full: Buffer) -> Buffer:
        """Have a full buffer written, and take the one that was written before."""
        self._wait()
        if self.fd < 0:
            self._run, self.name, self.fd = self._new_file(True)
        self._writing = _WRITERS.submit(self._write_blocks, full, RECORD_BYTES)
        self._buffer, self._other = self._other or new_buffer(), full
        self._gathered = 0
        return self._buffer

    def _write_blocks(self, buffer: Buffer, end: int) -> None:
        with storage_errors("writing an object"), memoryview(buffer) as view:
            write_all(self.fd, view[BLOCK:end])

    def _wait(self) -> None:
        """Have what was handed to another thread written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_last(self, buffer: Buffer) -> None:
        """Write what the buffer holds as whole blocks, and cut the file to its length."""
        if self.fd < 0:
            self._run, self.name, self.fd = self._new_file(True)
        blocks = -(-self._gathered // BLOCK) * BLOCK
        buffer[BLOCK + self._gathered : BLOCK + blocks] = bytes(blocks - self._gathered)
        self._write_blocks(buffer, BLOCK + blocks)
        with storage_errors("writing an object"):
            os.ftruncate(self.fd, self.head_length + self.size)

    @property
    def gathered(self) -> Buffer | None:
        """The buffer, while it holds the whole Part 10 file from `BLOCK` on."""
        return self._buffer if self.fd < 0 else None

    def write(self, chunk: Bytes) -> None:
        """Append bytes of the data set.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        self._hash.update(chunk)
        self.size += len(chunk)
        if self._buffer is not None:
            self._gather(self._buffer, chunk)
            return
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

    def to_file(self) -> None:
        """The object is complete, and a file from now on: write what is gathered.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        if self._buffer is not None:
            self._wait()
            self._write_last(self._buffer)
            self._buffer = self._other = None

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
        if self.fd >= 0:
            self.to_file()
        if self.size > LARGE_FILE:
            with storage_errors("syncing an object"):
                os.fsync(self.fd)

    def sync(self) -> None:
        """Take no more bytes, and make the file durable under the name it has.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        self.to_file()
        self.finish()
        with storage_errors("syncing an object"):
            os.fsync(self.fd)

    def discard(self) -> None:
        """Remove the file; nothing of it stays. Harmless when it is gone already."""
        writing, self._writing = self._writing, None
        if writing is not None:
            concurrent.futures.wait([writing])
        self._buffer = self._other = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with storage_errors("removing an unfinished object"):
                os.unlink(self.name, dir_fd=self._run.spool_fd)

    def move_to(self, path: Path) -> None:
        """Give the synced file another home in the data folder."""
        with storage_errors("moving an object"):
            os.rename(self.name, path, src_dir_fd=self._run.spool_fd)
            os.close(self.fd)
            self.fd = -1

    def place(self) -> Folder:
        """Rename the file into the run's folder and sync it; the caller syncs the folder."""
        with storage_errors("keeping an object"):
            # Renamed first: on ext4 one sync of the file then carries its name along, and the
            # folder's own sync finds little left to do. No row names the file before both.
            key = self._run.next_key()
            folder, name = self._run.folder_of(key)
            try:
                os.rename(self.name, name, src_dir_fd=self._run.spool_fd, dst_dir_fd=folder.fd)
            except OSError:
                folder.open_keys.discard(key)
                raise
            self.key = key
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
        folder, name = self._run.folder_of(self.key)
        os.unlink(name, dir_fd=folder.fd)
        folder.open_keys.discard(self.key)
        self.key = ""
