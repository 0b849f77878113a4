"""Start-up recovery: finishes or removes what a crash left, before anything new comes.

It looks at what was in the middle of something, never at all that is stored: folders of objects
that their process did not close, and rows that small indexes hold.
"""

from __future__ import annotations

from config.schema import Settings
from storage import attempts, index, outbox
from storage.db import Ledger
from storage.replay import replay
from storage.tidy import tidy


def recover(ledger: Ledger, settings: Settings) -> dict[str, int]:
    """Recover one data folder on which no node runs.

    Args:
        ledger: Its database.
        settings: With an absolute ``node.data_dir``.

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
        "associations_lost": index.close_lost_associations(ledger),
        "jobs_returned": attempts.return_orphans(ledger, crashed=False),
        "deliveries_returned": outbox.return_orphans(ledger),
    }
    # Whoever starts a node has often just mended what deliveries were waiting for.
    outbox.try_all_now(ledger)
    return counts
