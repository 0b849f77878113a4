"""Deletes what was watched longer ago, or in more runs, than the site keeps."""

from __future__ import annotations

from typing import Any

from peewee import SQL, fn

from storage.db import Ledger
from storage.record import Record
from storage.watch_records import Alert, Baseline, Drift, Feedback, Notice, Run

DAY = 86400.0
_BATCH = 2000  # rows deleted in one transaction


def prune(ledger: Ledger, *, keep_days: float, keep_runs: int) -> int:
    """Delete what is older than is kept, and all but the newest runs; how many rows went.

    What was counted since the database lives stays counted.

    Args:
        ledger: The database.
        keep_days: Days that rows are kept.
        keep_runs: Runs that are kept at most.
    """
    gone = 0
    while more := _prune_some(ledger, keep_days * DAY, keep_runs):
        gone += more
    return gone


def _prune_some(ledger: Ledger, keep: float, keep_runs: int) -> int:
    with ledger.transaction() as change:
        before = change.now - keep
        newest = Run.select(fn.MAX(Run.id)).scalar() or 0
        used = Run.select(Run.id).where(Run.model_digest == Baseline.model_digest)
        doomed: tuple[tuple[type[Record], Any], ...] = (
            (Run, (Run.finished_at < before) | (Run.id <= newest - keep_runs)),
            (Feedback, Feedback.noted_at < before),
            (Notice, (Notice.state != "waiting") & (Notice.created_at < before)),
            (Alert, (Alert.state == "cleared") & (Alert.since < before)),
            (Drift, Drift.computed_at < before),
            (Baseline, (Baseline.made_at < before) & ~fn.EXISTS(used)),
        )
        found = {table._meta.table_name: _delete(table, which) for table, which in doomed}
        gone = {name: number for name, number in found.items() if number}
        if gone:
            change.audit("figures.pruned", object="process:worker", detail=gone)
        return sum(gone.values())


def _delete(table: type[Record], which: Any) -> int:
    some = table.select(SQL("rowid")).where(which).limit(_BATCH)
    return int(table.delete().where(SQL("rowid").in_(some)).execute())
