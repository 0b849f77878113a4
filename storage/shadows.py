"""Deletes result objects of shadow runs, which nobody is sent, after the days they are kept."""

from __future__ import annotations

import json
import time
from typing import Any

from peewee import fn

from storage import figures
from storage.db import Change, Ledger
from storage.files import storage_errors, sync_folder
from storage.objects import ObjectStore
from storage.pruning import DAY
from storage.records import Delivery, Job, NodeFact, Result

COUNTED = "shadow_results_deleted"
_NOTED = "shadows.files"
_BATCH = 100  # jobs whose results leave in one transaction


def prune_shadows(ledger: Ledger, store: ObjectStore, *, keep_days: float) -> int:
    """Delete results of shadow runs that were made longer ago than is kept; how many.

    The results of a job go together; those of a live one, and of one of which anything is or was
    in the outbox, never do. The job, its run and what was counted stay. Rows leave before their
    files, whose keys are noted with them: after a crash the next call removes what is left.

    Args:
        ledger: The database.
        store: Where the objects lie.
        keep_days: Days that they are kept; 0 for ever.

    Raises:
        StorageError: The database or the disk refused; the next call goes on.
    """
    _remove_files(ledger, store)
    gone = 0
    while keep_days and (some := _forget_some(ledger, keep_days * DAY)):
        _remove_files(ledger, store)
        gone += some
    return gone


def _forget_some(ledger: Ledger, keep: float) -> int:
    # Looked for without the writer's lock: who receives waits for that.
    numbers = [job.id for job in _doomed(time.time() - keep).limit(_BATCH)]
    if not numbers:
        return 0
    with ledger.transaction() as change:
        jobs = list(_doomed(change.now - keep).where(Job.id.in_(numbers)))
        results = [result for job in jobs for result in _forget(change, job)]
        keys = [result.object_key for result in results]
        NodeFact.create(key=_NOTED, value=json.dumps(keys))
        return len(results)


def _doomed(before: float) -> Any:
    """Shadow jobs with results that were made before then, and nothing of them in the outbox."""
    old = Result.select().where((Result.job == Job.id) & (Result.created_at < before))
    outgoing = Delivery.select().join(Result).where(Result.job == Job.id)
    return (
        Job.select()
        .where(
            (Job.mode == "shadow")
            & Job.state.in_(["ready", "superseded"])
            & fn.EXISTS(old)
            & ~fn.EXISTS(outgoing)
        )
        .order_by(Job.id)
    )


def _forget(change: Change, job: Job) -> list[Result]:
    results = list(Result.select().where(Result.job == job))
    Result.delete().where(Result.job == job).execute()
    figures.count(change, job.model, {COUNTED: len(results)})
    detail = {
        "mode": job.mode,
        "results": [result.sop_instance_uid for result in results],
        "bytes": sum(result.size for result in results),
    }
    change.audit("results.deleted", object=job.label(), detail=detail)
    return results


def _remove_files(ledger: Ledger, store: ObjectStore) -> None:
    noted = NodeFact.get_or_none(NodeFact.key == _NOTED)
    if noted is None:
        return
    keys = json.loads(noted.value)
    for key in keys:
        store.remove(key)
    with storage_errors("deleting results of shadow runs"):
        for folder in {store.path(key).parent for key in keys}:
            if folder.is_dir():
                sync_folder(folder)
    with ledger.transaction():
        NodeFact.delete().where(NodeFact.key == _NOTED).execute()
