"""What anybody may bring about again and again: told now and then, with how many there were."""

from __future__ import annotations

import time
from collections.abc import Iterator

FOLD_SECONDS = 60.0
MOST_KEYS = 256
"""Causes and addresses that are counted apart; what is more is counted together."""

Key = tuple[str, str]
"""What happened, and the address it came from."""

OTHERS: Key = ("several", "several")


class Repeats:
    """Counts what comes again and again, and says when to tell it. For one thread.

    Args:
        seconds: How long nothing is told of what was told.
    """

    def __init__(self, seconds: float = FOLD_SECONDS) -> None:
        self._seconds = seconds
        self._told: dict[Key, tuple[float, int]] = {}

    def count(self, key: Key) -> tuple[Key, int]:
        """One came: what to tell of now, and how many of it; 0 for nothing."""
        now = time.monotonic()
        if len(self._told) >= MOST_KEYS and key not in self._told:
            self._forget(now)
            key = key if len(self._told) < MOST_KEYS else OTHERS
        since, left = self._told.get(key, (now - self._seconds, 0))
        due = now - since >= self._seconds
        self._told[key] = (now, 0) if due else (since, left + 1)
        return key, left + 1 if due else 0

    def _forget(self, now: float) -> None:
        old = [key for key, (since, _) in self._told.items() if now - since >= self._seconds]
        untold = sum(self._told.pop(key)[1] for key in old)
        if untold:
            since, left = self._told.get(OTHERS, (now, 0))
            self._told[OTHERS] = (since, left + untold)

    def rest(self) -> Iterator[tuple[Key, int]]:
        """What was counted and not told."""
        yield from ((key, left) for key, (_, left) in list(self._told.items()) if left)


def times(count: int) -> str:
    """How a log line says how many there were."""
    return f", {count} times" if count > 1 else ""
