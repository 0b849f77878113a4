"""Results that no longer hold: what they were made of came late, was corrected or rejected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.errors import GateError, InputError, MalformedError
from config.schema import Settings
from dicomnode.results.bundle import Predecessor
from dicomnode.results.provenance import made_here
from dicomnode.results.structure import check_structure
from dicomnode.results.values import Inherited
from dicomnode.results.withdrawal import REJECTIONS, build_withdrawal, rejected_by
from dicomnode.results.write import to_bytes
from dicomnode.series.headers import read_header
from storage import jobs, outbox, rejections
from storage.db import Ledger
from storage.objects import ObjectStore
from storage.outbox import NewResult
from storage.records import Instance, Job, Result

log = structlog.get_logger(__name__)


def take_note(ledger: Ledger, row: Instance, header: Dataset) -> None:
    """Act on a received object where it is a rejection note.

    Raises:
        MalformedError: It is one, and cannot be read.
    """
    try:
        if made_here(header) or (found := rejected_by(header)) is None:
            return
    except Exception as error:  # values are a peer's and parsed when first asked for
        raise MalformedError("it is a rejection note that cannot be read") from error
    code, named = found
    with ledger.transaction() as change:
        if REJECTIONS[code].takes_back:
            count = rejections.reject(change, row, code, REJECTIONS[code].meaning, named)
        else:
            count = 0
            change.audit(
                "rejection.noted",
                object=f"study:{row.study_instance_uid}",
                detail={"note": row.sop_instance_uid, "code": code, "named": len(named)},
            )
    log.info("rejection.received", instance=row.id, code=code, named=len(named), rejected=count)


def predecessors_of(store: ObjectStore, job: Job) -> tuple[Predecessor, ...]:
    """What was sent on the same subject before, for the results that take its place."""
    return tuple(
        Predecessor(
            kind=result.kind,
            study_instance_uid=str(header.StudyInstanceUID),
            series_instance_uid=str(header.SeriesInstanceUID),
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
        )
        for result, header in _headers(store, outbox.sent_before(job))
        if result.kind != jobs.WITHDRAWAL
    )


def withdraw_superseded(ledger: Ledger, store: ObjectStore, settings: Settings) -> int:
    """Queue a rejection note for what was sent of each superseded job; gives how many.

    It goes to destinations with ``withdraw = "iocm"``, after what takes the place of it.
    """
    made = 0
    for job in jobs.to_withdraw():
        begun = outbox.begun_destinations(job)
        names = [
            name
            for name in begun
            if (found := settings.destination(name)) is not None and found.withdraw == "iocm"
        ]
        sent = list(_headers(store, outbox.sent_results(job, names)))
        if not sent:
            jobs.withdrawn(ledger, job, None, [])
            continue
        note = _note(store, job, [header for _, header in sent])
        try:
            jobs.withdrawn(ledger, job, note, names)
        except BaseException:
            store.remove(note.object_key)
            raise
        finally:
            store.settle([note.object_key])
        log.info("results.withdrawn", job=job.id, objects=len(sent), destinations=names)
        made += 1
    return made


def _note(store: ObjectStore, job: Job, results: list[Dataset]) -> NewResult:
    moment = datetime.now(UTC).astimezone()
    code = job.withdrawal or jobs.OUTDATED
    part10 = to_bytes(build_withdrawal(results, job.identity, code, moment))
    dataset = dcmread(BytesIO(part10))
    findings = list(check_structure(dataset, Inherited()))
    if findings:
        raise GateError([str(finding) for finding in findings])
    kept = store.put(part10)
    return NewResult(
        kind=jobs.WITHDRAWAL,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        digest=kept.digest,
        size=kept.size,
        object_key=kept.key,
    )


def _headers(store: ObjectStore, results: list[Result]) -> Iterator[tuple[Result, Dataset]]:
    for result in results:
        try:
            yield result, read_header(store.path(result.object_key))
        except InputError as error:
            log.error("result.unreadable", result=result.id, why=str(error))
