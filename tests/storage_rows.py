"""Rows for tests of the ledger, and what other processes do to it; all of it invented."""

from __future__ import annotations

import hashlib
import multiprocessing
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from storage import attempts, dispatch, index, jobs, outbox
from storage.db import FILE_NAME, Ledger, open_ledger
from storage.index import Arrival
from storage.jobs import JobRequest
from storage.outbox import NewResult
from storage.records import Delivery, Instance, Job, Series
from storage.series import Indexed, index_instances, unindexed

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
SPAWN = multiprocessing.get_context("spawn")


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def associate(ledger: Ledger, receiver: str = "r1", calling_ae: str = "CT1") -> int:
    return index.open_association(
        ledger, calling_ae=calling_ae, called_ae="MEDAI", address="127.0.0.1", receiver=receiver
    )


_keys = iter(range(10**9))


def arrival(
    association_id: int,
    uid: str = "1.1",
    *,
    content: str | None = None,
    series: str = "2.1",
    study: str = "3.1",
    key: str | None = None,
) -> Arrival:
    return Arrival(
        sop_instance_uid=uid,
        sop_class_uid=CT,
        transfer_syntax_uid=EXPLICIT,
        study_instance_uid=study,
        series_instance_uid=series,
        digest=digest_of(content if content is not None else uid),
        size=512,
        object_key=key or f"key-{next(_keys)}",
        association_id=association_id,
    )


def index_all(ledger: Ledger) -> list[Series]:
    """What the worker does with what came."""
    read = [Indexed(instance=row, modality="CT", single_image=False) for row in unindexed()]
    with ledger.transaction() as change:
        return index_instances(change, read)


def a_series(ledger: Ledger, uid: str = "2.1", images: int = 2) -> Series:
    association = associate(ledger)
    index.record_arrivals(
        ledger, [arrival(association, f"{uid}.{n}", series=uid) for n in range(images)]
    )
    index.close_association(ledger, association, "released")
    (series,) = index_all(ledger)
    return series


def request(series: Series, **other: Any) -> JobRequest:
    rows = list(Instance.select().where(Instance.series_instance_uid == series.get_id()))
    fields: dict[str, Any] = {
        "node_id": "node",
        "series": series,
        "subject": series.get_id(),
        "route": "route",
        "model": "ct-tissue@1.0.0",
        "model_digest": digest_of("model"),
        "send_to": ["pacs"],
        "inputs": {"image": rows},
        "settings": {},
    }
    return JobRequest(**{**fields, **other})


def enqueue(ledger: Ledger, series: Series, **other: Any) -> Job | None:
    with ledger.transaction() as change:
        return jobs.enqueue(change, request(series, **other))


def some_jobs(ledger: Ledger, count: int) -> list[Job]:
    """Jobs that do not supersede one another: one a subject."""
    series = a_series(ledger)
    queued = [enqueue(ledger, series, subject=f"s{n}", run_number=n) for n in range(count)]
    return [job for job in queued if job is not None]


def new_result(name: str, kind: str = "sr") -> NewResult:
    return NewResult(
        kind=kind,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=f"2.25.{int(digest_of(name)[:12], 16)}",
        transfer_syntax_uid=EXPLICIT,
        digest=digest_of(name),
        size=10,
        object_key=f"result-{name}",
    )


def ready_job(
    ledger: Ledger,
    job: Job,
    *,
    kinds: Sequence[str] = ("sr", "seg"),
    destinations: Sequence[str] = ("pacs",),
) -> list[Delivery]:
    """Run a queued job to its end; gives its deliveries."""
    running = dispatch.claim(ledger, "w", 60)
    assert running is not None
    assert running.id == job.id
    attempts.start_validating(ledger, running)
    results = [new_result(f"{job.id}-{kind}", kind) for kind in kinds]
    attempts.finish(ledger, running, results, dict.fromkeys(destinations, kinds), {"run": 1.0})
    return list(Delivery.select().where(Delivery.result.in_(jobs.results_of(running))))


def tamper(data_dir: Path, *statements: tuple[str, Sequence[Any]]) -> None:
    """Change the file as somebody would who has write access to it, past the node."""
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as raw:
        for sql, values in statements:
            raw.execute(sql, values)
        raw.commit()


# What follows runs in processes of its own.


def append_events(data_dir: Path, name: str, count: int, out: Connection) -> None:
    ledger = open_ledger(data_dir)
    for number in range(count):
        with ledger.transaction() as change:
            change.audit("test.event", object=f"{name}:{number}", detail={"n": number})
    out.send(count)


def claim_jobs(data_dir: Path, name: str, count: int, out: Connection) -> None:
    ledger = open_ledger(data_dir)
    claimed: list[int] = []
    while (job := dispatch.claim(ledger, name, 60)) is not None:
        claimed.append(job.id)
    out.send(claimed)


def record_all(data_dir: Path, name: str, count: int, out: Connection) -> None:
    ledger = open_ledger(data_dir)
    association = associate(ledger, name)
    kept = [
        index.record_arrivals(ledger, [arrival(association, f"1.{n}", key=f"{name}-{n}")])[0].value
        for n in range(count)
    ]
    index.close_association(ledger, association, "released")
    out.send(kept)


def open_only(data_dir: Path, name: str, count: int, out: Connection) -> None:
    open_ledger(data_dir)
    out.send("opened")


def claim_deliveries(data_dir: Path, name: str, count: int, out: Connection) -> None:
    ledger = open_ledger(data_dir)
    claimed: list[int] = []
    while rows := outbox.claim(ledger, "pacs", 3):
        claimed += [row.id for row in rows]
    out.send(claimed)


def in_processes(
    work: Callable[[Path, str, int, Connection], None],
    data_dir: Path,
    processes: int,
    count: int = 0,
) -> list[Any]:
    """Run `work` in several new processes at once; gives what each of them sent."""
    started: list[tuple[BaseProcess, Connection]] = []
    for number in range(processes):
        receiving, sending = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=work, args=(data_dir, f"p{number}", count, sending))
        process.start()
        sending.close()
        started.append((process, receiving))
    answers = [receiving.recv() for _, receiving in started]
    for process, receiving in started:
        process.join()
        receiving.close()
        assert process.exitcode == 0
        process.close()
    return answers
