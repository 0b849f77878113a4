"""Start-up recovery: finishes or removes what a crash left, before anything new comes.

It looks at what was in the middle of something, never at all that is stored: folders of objects
that their process did not close, and rows that small indexes hold. A disk or a database that
refuses just then holds up no start: until it is done nothing new is taken (`Persistent`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from config.errors import StorageError
from config.schema import Settings
from storage import attempts, index, outbox
from storage.db import Ledger
from storage.replay import replay
from storage.tidy import tidy

log = structlog.get_logger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 5.0


def recover(
    ledger: Ledger, settings: Settings, last_association: int | None = None
) -> dict[str, int]:
    """Recover one data folder on which no worker runs.

    Args:
        ledger: Its database.
        settings: With an absolute ``node.data_dir``.
        last_association: Of the associations that are open only those up to this one are lost;
            None for all.

    Returns:
        Counts by what was done: ``journal_objects`` (acknowledged, in the journal still),
        ``journal_restored`` (of these, without file or row), ``journal_damaged`` (segments kept
        aside), ``folders_checked``, ``objects_kept`` (named by a row),
        ``objects_removed`` (named by none, never acknowledged), ``unfinished_removed``,
        ``associations_lost``, ``jobs_returned``, ``deliveries_returned``.

    Raises:
        StorageError: The disk or the database refused.
    """
    replayed = replay(ledger)
    found = tidy(settings.node.data_dir, index.known_keys)
    counts = {
        "journal_objects": replayed.objects,
        "journal_restored": replayed.restored,
        "journal_damaged": replayed.damaged,
        "folders_checked": found.folders,
        "objects_kept": found.kept,
        "objects_removed": found.removed,
        "unfinished_removed": found.spooled,
        "associations_lost": index.close_lost_associations(ledger, last=last_association),
        "jobs_returned": attempts.return_orphans(ledger, crashed=False),
        "deliveries_returned": outbox.return_orphans(ledger),
    }
    # Whoever starts a node has often just mended what deliveries were waiting for.
    outbox.try_all_now(ledger)
    return counts


class Persistent:
    """Does one thing that disk or database may refuse, again and again until it is done.

    Args:
        step: What is done; safe to be done again after it failed.

    Attributes:
        fault: Why it is not done yet; None before it was tried, and when it is done.
        due_at: When it is to be tried again, of the machine's monotonic clock.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._pause = FIRST_RETRY_SECONDS
        self.fault: StorageError | None = None
        self.due_at = 0.0

    def attempt(self) -> bool:
        """Try it; whether it is done now."""
        try:
            self._step()
        except StorageError as fault:
            if str(fault) != str(self.fault):
                log.error("recovery.waits", why=str(fault))
            self.fault = fault
            self.due_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_RETRY_SECONDS)
            return False
        if self.fault is not None:
            log.warning("recovery.done")
        self.fault = None
        return True
