"""Circuit breakers: what fails again and again is left in peace for a while.

Closed, everything goes through. After `OPENS_AFTER` failures in a row it opens and nothing is tried
before its time; then, half-open, one thing is tried, and its fate closes or opens it again.
"""

from __future__ import annotations

from typing import Any

from storage.db import Change
from storage.records import CircuitBreaker, Destination, ModelBreaker

OPENS_AFTER = 3


class Breakers:
    """The circuit breakers of one kind of thing; whatever never failed has no row.

    Args:
        table: Their rows, by the name of what they guard.
    """

    def __init__(self, table: type[CircuitBreaker]) -> None:
        self._table = table

    def _row(self, name: str) -> CircuitBreaker | None:
        row: CircuitBreaker | None = self._table.get_or_none(self._table.name == name)
        return row

    def failures_of(self, name: str) -> int:
        """Failures in a row, 0 after a success."""
        row = self._row(name)
        return 0 if row is None else int(row.failures)

    def lets_through(self, name: str, now: float) -> bool:
        """Whether anything may be tried now."""
        row = self._row(name)
        return row is None or row.state != "open" or bool(row.retry_at <= now)

    def is_closed(self, name: str) -> bool:
        """Whether any number of things may be tried at once."""
        row = self._row(name)
        return row is None or row.state == "closed"

    def begin(self, change: Change, name: str, limit: int) -> int:
        """How many may be tried now, at most `limit`; the time of an open one ends here."""
        row = self._row(name)
        if row is None or row.state == "closed":
            return limit
        if row.state == "open":
            if row.retry_at > change.now:
                return 0
            change.move(row, "half-open", reason=row.reason)
        return 1

    def failed(self, change: Change, name: str, reason: str, retry_at: float) -> None:
        """One more failure.

        Args:
            change: The transaction.
            name: What failed.
            reason: A sentence without patient identifiers.
            retry_at: When it may be tried again if this opens the breaker.
        """
        row = self._row(name) or self._table.create(name=name)
        values: dict[str, Any] = {
            "reason": reason,
            "failures": row.failures + 1,
            "retry_at": retry_at,
        }
        if row.state == "half-open" or (row.state == "closed" and row.failures + 1 >= OPENS_AFTER):
            change.move(row, "open", **values)
        else:
            self._table.update(**values).where(self._table.name == name).execute()

    def succeeded(self, change: Change, name: str) -> bool:
        """It did what was asked; gives whether it had failed before."""
        row = self._row(name)
        if row is None or not row.failures:
            return False
        if row.state == "half-open":
            change.move(row, "closed", failures=0, retry_at=0.0)
        else:
            self._table.update(failures=0, retry_at=0.0).where(self._table.name == name).execute()
        return True

    def try_now(self, name: str) -> None:
        """Let an open one be tried at once; inside a transaction."""
        self._table.update(retry_at=0.0).where(self._table.name == name).execute()

    def try_all_now(self) -> None:
        """Let each open one be tried at once; inside a transaction."""
        self._table.update(retry_at=0.0).where(self._table.retry_at > 0.0).execute()


DESTINATIONS = Breakers(Destination)
MODELS = Breakers(ModelBreaker)
