"""Result objects of shadow runs leave after their time, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import StorageError
from storage import attempts, dispatch, figures, overview, scrub, shadows
from storage.db import Ledger
from storage.figures import Outcome
from storage.objects import ObjectStore
from storage.outbox import NewResult
from storage.part10 import file_head
from storage.pruning import DAY
from storage.records import AuditEvent, Delivery, Instance, Job, NodeFact, Result
from storage.scrub import Scrub
from storage.shadows import prune_shadows
from storage.states import DELIVERY
from storage.watch_records import Run
from tests.storage_rows import CT, EXPLICIT, some_jobs

MODEL = "ct-tissue@1.0.0"
KEPT = 30.0


@pytest.fixture
def store(ledger: Ledger) -> Iterator[ObjectStore]:
    opened = ObjectStore(ledger.data_dir, min_free=0)
    yield opened
    opened.close()


def answer(
    ledger: Ledger,
    store: ObjectStore,
    job: Job,
    *,
    mode: str = "shadow",
    days: float = KEPT + 1,
    state: str = "ready",
    delivery: str = "",
) -> Job:
    """Run a queued job to its end with two results of so many days ago, and leave it as given."""
    running = dispatch.claim(ledger, "w", 60)
    assert running is not None
    assert running.id == job.id
    running.mode = mode
    running.save(only=[Job.mode])
    attempts.start_validating(ledger, running)
    results = []
    for kind in ("sr", "seg"):
        uid = f"2.25.{job.id}{len(results)}"
        stored = store.put(file_head(CT, uid, EXPLICIT) + uid.encode() * 20)
        made = (stored.digest, stored.size, stored.key)
        fields = ("digest", "size", "object_key")
        results.append(
            NewResult(
                kind=kind,
                sop_class_uid=CT,
                sop_instance_uid=uid,
                transfer_syntax_uid=EXPLICIT,
                **dict(zip(fields, made, strict=True)),
            )
        )
    destinations = {"pacs": ["sr"]} if delivery else {}
    outcome = Outcome("CPUExecutionProvider", [])
    attempts.finish(ledger, running, results, destinations, {"run": 1.0}, outcome=outcome)
    store.settle([result.object_key for result in results])
    Delivery.update(state=delivery).where(Delivery.result.in_(_results(job))).execute()
    Job.update(state=state).where(Job.id == job.id).execute()
    Result.update(created_at=Result.created_at - days * DAY).where(Result.job == job).execute()
    return job


def _results(job: Job) -> list[Result]:
    return list(Result.select().where(Result.job == job))


def files(store: ObjectStore) -> set[Path]:
    return set(store.objects.rglob("*.dcm"))


@pytest.mark.feature("F15")
def test_old_results_of_shadow_runs_go_and_all_others_stay(
    ledger: Ledger, store: ObjectStore
) -> None:
    old, young = KEPT + 1, KEPT - 1
    cases = [
        ("live", old, "ready", ""),
        ("live", old, "superseded", ""),
        ("shadow", young, "ready", ""),
        ("shadow", old, "validating", ""),
        ("shadow", old, "superseded", ""),
        *(("shadow", old, "ready", delivery) for delivery in ("", *DELIVERY)),
    ]
    gone: set[int] = set()
    for job, (mode, days, state, delivery) in zip(
        some_jobs(ledger, len(cases)), cases, strict=True
    ):
        answer(ledger, store, job, mode=mode, days=days, state=state, delivery=delivery)
        if (mode, delivery) == ("shadow", "") and days > KEPT and state != "validating":
            gone.add(job.id)
    assert len(gone) == 2
    left = [row for row in Result.select() if row.job_id not in gone]
    assert prune_shadows(ledger, store, keep_days=KEPT) == 4
    assert list(Result.select()) == left
    assert files(store) == {store.path(row.object_key) for row in left}
    assert prune_shadows(ledger, store, keep_days=KEPT) == 0


@pytest.mark.feature("F15", "P47")
def test_what_was_counted_stays_and_the_audit_chain_says_what_went(
    ledger: Ledger, store: ObjectStore
) -> None:
    (job,) = some_jobs(ledger, 1)
    answer(ledger, store, job)
    size = sum(row.size for row in _results(job))
    assert prune_shadows(ledger, store, keep_days=KEPT) == 2
    assert figures.counts() == {MODEL: {"shadow_runs": 1, "shadow_results_deleted": 2}}
    assert Run.get().job == job.id
    assert Job.get().state == "ready"
    (event,) = AuditEvent.select().where(AuditEvent.action == "results.deleted")
    assert (event.object, json.loads(event.detail)) == (
        f"job:{job.id}",
        {"mode": "shadow", "results": [f"2.25.{job.id}0", f"2.25.{job.id}1"], "bytes": size},
    )
    assert overview.stages(Job.get())[-1]["stage"] == "results deleted"
    assert NodeFact.select().where(NodeFact.key.startswith("shadows")).count() == 0


def test_a_site_may_keep_them_for_ever(ledger: Ledger, store: ObjectStore) -> None:
    (job,) = some_jobs(ledger, 1)
    answer(ledger, store, job, days=5000)
    assert prune_shadows(ledger, store, keep_days=0) == 0
    assert len(files(store)) == 2


def test_what_a_crash_or_the_disk_left_is_removed_by_the_next_call(
    ledger: Ledger, store: ObjectStore
) -> None:
    (job,) = some_jobs(ledger, 1)
    answer(ledger, store, job)
    first, second = (store.path(row.object_key) for row in _results(job))
    content = second.read_bytes()
    second.unlink()
    second.mkdir()  # which cannot be removed as a file can
    with pytest.raises(StorageError):
        prune_shadows(ledger, store, keep_days=KEPT)
    assert _results(job) == []
    assert not first.exists()
    second.rmdir()
    second.write_bytes(content)
    assert prune_shadows(ledger, store, keep_days=KEPT) == 0
    assert files(store) == set()
    assert figures.counts()[MODEL]["shadow_results_deleted"] == 2


def test_the_scrub_misses_nothing_that_was_deleted(ledger: Ledger, store: ObjectStore) -> None:
    for job in some_jobs(ledger, 2):
        answer(ledger, store, job, mode="live" if job.id == 2 else "shadow")
    Instance.update(state="quarantined").execute()  # no files lie behind these rows
    assert prune_shadows(ledger, store, keep_days=KEPT) == 2
    assert Scrub(ledger, store, 1 << 40, lambda seconds: False).round()
    assert (scrub.findings(), scrub.place().objects) == ({}, 2)


def test_many_go_in_several_transactions(
    ledger: Ledger, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadows, "_BATCH", 2)
    for job in some_jobs(ledger, 5):
        answer(ledger, store, job)
    assert prune_shadows(ledger, store, keep_days=KEPT) == 10
    assert files(store) == set()
    assert AuditEvent.select().where(AuditEvent.action == "results.deleted").count() == 5
