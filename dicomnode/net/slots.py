"""How many associations are open at once, counted over every process of the node."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

NODE = 0
"""The lane of all associations; those of single peers are numbered from 1."""

_LANE = 4096  # no limit is higher


class AssociationSlots:
    """Places in lanes, each a byte of a file that its holder locks.

    The kernel drops the locks of a process that dies, so the count never drifts. One object a
    process and folder: POSIX locks belong to the process.

    Args:
        data_dir: The data folder, which every receiver shares.
    """

    def __init__(self, data_dir: Path) -> None:
        self._mine: set[int] = set()
        self._lock = threading.Lock()
        self._fd = os.open(data_dir / "associations.lock", os.O_RDWR | os.O_CREAT, 0o640)

    def take(self, limit: int, lane: int = NODE) -> int | None:
        """A free place, or None when all are taken.

        Args:
            limit: Places there are in the lane, at most 4096.
            lane: Whose places.
        """
        with self._lock:
            for slot in range(lane * _LANE, lane * _LANE + limit):
                if slot in self._mine:
                    continue
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                except OSError:
                    continue
                self._mine.add(slot)
                return slot
        return None

    def give(self, slot: int) -> None:
        """Free a place."""
        with self._lock:
            self._mine.discard(slot)
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, slot)

    def close(self) -> None:
        """Free every place of this process."""
        os.close(self._fd)
