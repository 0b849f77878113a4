"""A datagram that wakes a waiting process early.

Whoever waits also polls, so a nudge that is lost costs a moment and nothing else.
"""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

from config.errors import StorageError


def _address(data_dir: Path, role: str) -> str:
    # Linux's abstract namespace: nothing to clean up, and no limit on the folder's path.
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:24]
    return f"\0medai-{role}-{digest}"


def nudge(data_dir: Path, role: str) -> None:
    """Wake `role` of the node with that data folder, if it waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"!", _address(data_dir, role))
        except OSError:
            # Nobody waits, or its queue is full and it is about to wake anyway.
            return


class Nudged:
    """The waiting side; one a role and data folder.

    Raises:
        StorageError: Another process waits in that role.
    """

    def __init__(self, data_dir: Path, role: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(_address(data_dir, role))
        except OSError as error:
            self._socket.close()
            raise StorageError(
                f"another process already waits as the {role} of this data folder"
            ) from error

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
        """Stop listening."""
        self._socket.close()
