"""The circuit breaker of each destination: who does not answer is left in peace for a while.

Closed, everything goes out. After `OPENS_AFTER` failures in a row it opens and nothing is tried
before its time; then, half-open, one object goes out, and its fate closes or opens it again.
"""

from __future__ import annotations

from typing import Any

from storage.db import Change
from storage.records import Delivery, Destination

OPENS_AFTER = 3


def _row(destination: str) -> Destination | None:
    row: Destination | None = Destination.get_or_none(Destination.name == destination)
    return row


def failures_of(destination: str) -> int:
    """Failures in a row, 0 after a success."""
    row = _row(destination)
    return 0 if row is None else int(row.failures)


def lets_through(destination: str, now: float) -> bool:
    """Whether anything may go out to a destination now."""
    row = _row(destination)
    return row is None or row.state != "open" or bool(row.retry_at <= now)


def begin(change: Change, destination: str, limit: int) -> int:
    """How many objects may go out now, at most `limit`; the time of an open one ends here."""
    row = _row(destination)
    if row is None or row.state == "closed":
        return limit
    if row.state == "open":
        if row.retry_at > change.now:
            return 0
        change.move(row, "half-open", reason=row.reason)
    return 1


def failed(change: Change, destination: str, reason: str, retry_at: float) -> None:
    """An association did not come about, or broke."""
    row = _row(destination) or Destination.create(name=destination)
    values: dict[str, Any] = {
        "reason": reason,
        "failures": row.failures + 1,
        "retry_at": retry_at,
    }
    if row.state == "half-open" or (row.state == "closed" and row.failures + 1 >= OPENS_AFTER):
        change.move(row, "open", **values)
    else:
        Destination.update(**values).where(Destination.name == destination).execute()


def succeeded(change: Change, destination: str) -> None:
    """The destination took part in an association to its end: what waits for it may go out."""
    row = _row(destination)
    if row is None or not row.failures:
        return
    if row.state == "half-open":
        change.move(row, "closed", failures=0, retry_at=0.0)
    else:
        Destination.update(failures=0, retry_at=0.0).where(
            Destination.name == destination
        ).execute()
    # Those that wait for an answer of their own wait on.
    Delivery.update(not_before=0.0).where(
        (Delivery.destination == destination)
        & (Delivery.state == "waiting")
        & Delivery.status.is_null()
    ).execute()


def try_now(destination: str) -> None:
    """Let an open one be tried at once; inside a transaction."""
    Destination.update(retry_at=0.0).where(Destination.name == destination).execute()


def try_all_now() -> None:
    """Let each open one be tried at once; inside a transaction."""
    Destination.update(retry_at=0.0).where(Destination.retry_at > 0.0).execute()
