"""What of the worker's waiting a clock that is set must not change.

Rows hold moments of the wall clock, since they outlive processes and the machine's uptime. While a
worker runs it measures silence by the steady clock, and notices when the wall clock went back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog

from storage import attempts, outbox
from storage.db import Ledger

log = structlog.get_logger(__name__)

Clock = Callable[[], float]

NOTICED_SECONDS = 2.0
"""Time services nudge the clock by less than this all the time."""


class Silence:
    """How long nothing came, measured by the steady clock from the moment it was first asked.

    Args:
        wall: Seconds since the epoch.
        steady: Seconds that only grow.
    """

    def __init__(self, wall: Clock = time.time, steady: Clock = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._seen: dict[str, tuple[float, float]] = {}

    def began(self, name: str, noted: float) -> float:
        """When a silence began, in seconds since the epoch as the wall clock counts them now.

        Args:
            name: Whose silence.
            noted: When the last thing came, by the wall clock of that time.
        """
        seen = self._seen.get(name)
        if seen is None or seen[0] != noted:
            # A moment that lies ahead was noted before the clock was set back: it counts from now.
            seen = self._seen[name] = (noted, self._steady() - max(0.0, self._wall() - noted))
        return self._wall() - (self._steady() - seen[1])

    def keep(self, names: Iterable[str]) -> None:
        """Forget all but these."""
        self._seen = {name: seen for name in names if (seen := self._seen.get(name))}


class ClockWatch:
    """Notices that the wall clock was set back.

    Args:
        wall: Seconds since the epoch.
        steady: Seconds that only grow.
    """

    def __init__(self, wall: Clock = time.time, steady: Clock = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def seconds_back(self) -> float:
        """How far the clock went back since the last time; 0 when it did not."""
        ahead = self._wall() - self._steady()
        back, self._ahead = self._ahead - ahead, ahead
        return back if back >= NOTICED_SECONDS else 0.0

    def look(self, ledger: Ledger) -> None:
        """After a clock that was set back, let go at once what waits for a moment now far ahead."""
        back = self.seconds_back()
        if not back:
            return
        log.warning("clock.set_back", seconds=round(back, 1))
        attempts.try_all_now(ledger)
        outbox.try_all_now(ledger)
        with ledger.transaction() as change:
            change.audit("clock.set_back", object="process:worker", detail={"seconds": int(back)})
