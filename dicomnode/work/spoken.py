"""What somebody says of an answer without a document: by command, or over HTTP."""

from __future__ import annotations

import re
from typing import Any

from config.errors import UsageError
from dicomnode.results.uids import result_uid
from storage import feedback, figures
from storage.db import Ledger
from storage.feedback import Said
from storage.records import Job, Result

ROLE = r"[a-z][a-z0-9 _-]{0,31}"
_ROLE = re.compile(ROLE)
_NUMBER = re.compile(r"[0-9]{1,18}")  # what a row can be numbered


class UnknownAnswerError(UsageError):
    """There is no such job, or it has no such finding."""


class NoAnswerError(UsageError):
    """The job is there, and no answer of it is kept."""


def answered(reference: str) -> Job:
    """The job whose answer is spoken of.

    Args:
        reference: Its number, or the SOP Instance UID of one of its results.

    Raises:
        UnknownAnswerError: There is none.
        NoAnswerError: It has not answered, or its run is no longer kept.
    """
    job: Job | None
    if _NUMBER.fullmatch(reference):
        job = Job.get_or_none(Job.id == int(reference))
        missing = f"there is no job {int(reference)}"
    else:
        result = Result.get_or_none(Result.sop_instance_uid == reference)
        job = None if result is None else result.job
        missing = "that is neither the number of a job nor the UID of a result"
    if job is None:
        raise UnknownAnswerError(missing)
    if not figures.is_recorded(job.id):
        raise NoAnswerError(f"job {job.id} is {job.state} and has no answer to speak of")
    return job


def tracked(job: Job) -> dict[str, str]:
    """Tracking Unique Identifier (112040, DCM) of each finding of a job → its name."""
    names = figures.findings_of(job.id)
    return {result_uid(job.identity, f"tracking/{name}"): name for name in names}


def say(
    ledger: Ledger,
    job: Job,
    verdict: str,
    *,
    finding: str | None,
    by: str,
    source: str,
    actor: str,
) -> Said:
    """Note what somebody says of an answer, or of one finding in it.

    Args:
        ledger: The database.
        job: From `answered`.
        verdict: One of `storage.feedback.VERDICTS`.
        finding: Its name or its Tracking Unique Identifier; None for the whole answer.
        by: Role of who says so, never a name.
        source: ``command`` or ``api``.
        actor: Who brought it, for the audit chain.

    Raises:
        UnknownAnswerError: The answer has no such finding.
        UsageError: That is no role.
        StorageError: The database cannot be written.
    """
    if not _ROLE.fullmatch(by):
        raise UsageError("a role is up to 32 small letters, digits, spaces, _ and -")
    name = "" if finding is None else _name_of(job, finding)
    said = Said(verdict=verdict, finding=name, source=source, said_by=by)
    with ledger.transaction() as change:
        feedback.add(change, job, [said], actor=actor)
    return said


def _name_of(job: Job, finding: str) -> str:
    by_uid = tracked(job)
    names = list(by_uid.values())
    if finding in names:
        return finding
    if finding not in by_uid:
        listed = ", ".join(names) or "none"
        raise UnknownAnswerError(f"job {job.id} has no such finding; its findings: {listed}")
    return by_uid[finding]


def told(job: Job) -> dict[str, Any]:
    """What there is to speak of in an answer and what was said of it, as plain values.

    Args:
        job: From `answered`.
    """
    return {
        "job": job.id,
        "model": job.model,
        "findings": [{"name": name, "tracking_uid": uid} for uid, name in tracked(job).items()],
        "feedback": feedback.of_job(job.id),
    }
