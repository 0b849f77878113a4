"""How fast a peer's bytes are taken, over every process of the node.

Each limited peer has a lane: eight bytes of a file that say until when, on the monotonic clock of
the machine, what was read so far is booked. Who reads books the time that the bytes take at the
peer's rate and waits until then before it reads again: the peer's own sending slows down, and
nothing is lost.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from pathlib import Path

_UNTIL = struct.Struct("<d")
_USERS = 1 << 30  # a byte far behind the lanes, locked by each process that has the file open
_PIECE_SECONDS = 0.1
_LEAST_PIECE = 4096


class Rates:
    """The lanes of one data folder. One object a process and folder: see `AssociationSlots`.

    Args:
        data_dir: The data folder, which every receiver shares.
    """

    def __init__(self, data_dir: Path) -> None:
        self._lock = threading.Lock()
        self._fd = os.open(data_dir / "rates.lock", os.O_RDWR | os.O_CREAT, 0o640)
        if self._is_alone():
            # What the file says is of an earlier run, perhaps of an earlier boot.
            os.ftruncate(self._fd, 0)
        fcntl.lockf(self._fd, fcntl.LOCK_SH, 1, _USERS)

    def _is_alone(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _USERS)
        except BlockingIOError:
            return False
        return True

    def book(self, lane: int, seconds: float) -> float:
        """Book time on a lane.

        Args:
            lane: Number of the peer, from 0.
            seconds: Time that what was read takes at the peer's rate.

        Returns:
            When the lane is free again, on `time.monotonic`.
        """
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, _UNTIL.size, lane * _UNTIL.size)
            try:
                held = os.pread(self._fd, _UNTIL.size, lane * _UNTIL.size)
                until = _UNTIL.unpack(held.ljust(_UNTIL.size, b"\x00"))[0]
                until = max(until, time.monotonic()) + seconds
                os.pwrite(self._fd, _UNTIL.pack(until), lane * _UNTIL.size)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, _UNTIL.size, lane * _UNTIL.size)
        return float(until)

    def close(self) -> None:
        """Leave the file."""
        os.close(self._fd)


class Throttle:
    """The rate of one association.

    Args:
        rates: The lanes.
        lane: The peer's.
        bytes_per_second: Its limit, over all its associations.
    """

    def __init__(self, rates: Rates, lane: int, bytes_per_second: int) -> None:
        self._rates = rates
        self._lane = lane
        self._rate = bytes_per_second
        self._until = 0.0
        self.piece = max(_LEAST_PIECE, int(bytes_per_second * _PIECE_SECONDS))
        """Most bytes to read at once, so that no wait is long."""

    def took(self, count: int) -> None:
        """So many bytes were read."""
        self._until = self._rates.book(self._lane, count / self._rate)

    def pause(self) -> float:
        """Seconds to wait before the next read."""
        return max(0.0, self._until - time.monotonic())
