"""A datagram that wakes a waiting process early.

Whoever waits also polls, so a nudge that is lost costs a moment and nothing else. The sockets lie
in the folder ``run`` of the data folder, which its owner alone may enter.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from config.errors import StorageError
from storage.files import storage_errors

FOLDER = "run"


@contextmanager
def _address(folder: Path, role: str) -> Iterator[str]:
    # By way of the folder's descriptor: the path of a socket holds 108 bytes at most.
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{role}"
    finally:
        os.close(fd)


def nudge(data_dir: Path, role: str) -> None:
    """Wake `role` of the node with that data folder, if it waits."""
    # Nobody waits, or its queue is full and it is about to wake anyway.
    with (
        suppress(OSError),
        _address(data_dir / FOLDER, role) as address,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        sender.sendto(b"!", address)


class Nudged:
    """The waiting side; one a role and data folder.

    Raises:
        StorageError: Another process waits in that role, or the folder cannot be written.
    """

    def __init__(self, data_dir: Path, role: str) -> None:
        folder = data_dir / FOLDER
        with ExitStack() as undo, storage_errors("opening the socket of nudges"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # it may have come back from a backup
            lock = undo.enter_context((folder / f"{role}.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageError(
                    f"another process already waits as the {role} of this data folder"
                ) from error
            self._path = folder / role
            self._path.unlink(missing_ok=True)  # of a process that was killed
            self._socket = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            with _address(folder, role) as address:
                self._socket.bind(address)
            self._held = undo.pop_all()

    def wait(self, seconds: float) -> bool:
        """Wait for a nudge, at most `seconds`; takes all that have come."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            self._socket.recv(16)
        except TimeoutError:
            return False
        self._socket.setblocking(False)
        try:
            while self._socket.recv(16):
                continue
        except BlockingIOError:
            return True
        return True

    def close(self) -> None:
        """Stop listening; harmless when it did before."""
        self._held.close()
