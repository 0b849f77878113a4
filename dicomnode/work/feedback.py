"""Feedback that comes back over the network: assessments, verified reports, rejection notes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import structlog
from pydicom.dataset import Dataset

from config.errors import InputError, MalformedError, StorageError
from config.watch import WatchSettings
from dicomnode.results.provenance import made_here
from dicomnode.results.verdicts import Assessment, VerdictCodes, assessment_of, statements
from dicomnode.results.withdrawal import rejected_by
from dicomnode.series.headers import read_header
from dicomnode.work.spoken import tracked
from storage import feedback
from storage.db import Ledger
from storage.feedback import Said
from storage.objects import ObjectStore
from storage.records import Instance, Job, Result

log = structlog.get_logger(__name__)

READER = "reader"
_WRONG = ("113001", "113037")  # PS3.16 CID 7010: for quality reasons, for patient safety reasons
_BATCH = 500


def verdict_codes(settings: WatchSettings) -> VerdictCodes:
    """Code value and scheme → verdict, as the settings say it."""
    listed = {
        "accept": settings.accept_codes,
        "reject": settings.reject_codes,
        "correct": settings.correct_codes,
    }
    found: dict[tuple[str, str], str] = {}
    for verdict, entries in listed.items():
        for entry in entries:
            value, _, scheme = entry.rpartition(":")
            found[value, scheme] = verdict
    return found


class FeedbackDesk:
    """Hears what received objects say of results of this node.

    Args:
        ledger: The database.
        store: Where the results lie.
        settings: Which codes say something.
    """

    def __init__(self, ledger: Ledger, store: ObjectStore, settings: WatchSettings) -> None:
        self._ledger = ledger
        self._store = store
        self._codes = verdict_codes(settings)

    def take(self, row: Instance, header: Dataset) -> None:
        """Note what a received object says of results, where it says anything.

        Raises:
            MalformedError: It is a document that cannot be read.
        """
        try:
            spoken = self._of_note(header) or self._of_document(header)
        except StorageError:
            raise
        except Exception as error:  # values are a peer's and parsed when first asked for
            raise MalformedError("it is a document that cannot be read") from error
        if not spoken:
            return
        actor = f"association:{row.association_id}"
        noted = 0
        with self._ledger.transaction() as change:
            for job, said in spoken:
                noted += feedback.add(change, job, said, actor=actor)
        log.info("feedback.received", instance=row.id, noted=noted)

    @staticmethod
    def _of_note(header: Dataset) -> list[tuple[Job, list[Said]]]:
        """A rejection note of somebody else that names results says that they are wrong."""
        code, named = rejected_by(header) or ("", frozenset())
        if code not in _WRONG or made_here(header):
            return []
        study, document = str(header.StudyInstanceUID), str(header.SOPInstanceUID)
        distinct = {job.id: job for job in _jobs_of({uid for _, uid in named}, study).values()}
        word = _said("reject", "rejection note", document)
        return [(job, [word]) for job in distinct.values()]

    def _of_document(self, header: Dataset) -> list[tuple[Job, list[Said]]]:
        found = assessment_of(header, self._codes)
        if found is None:
            return []
        jobs = _jobs_of(found.refers_to, found.study_instance_uid)
        if not jobs:
            return []
        if found.words:
            return list(_assessed(found, jobs))
        return list(self._verified(header, found, jobs))

    def _verified(
        self, header: Dataset, found: Assessment, jobs: Mapping[str, Job]
    ) -> Iterable[tuple[Job, list[Said]]]:
        """A verified report that takes the place of ours: the same, or with other content."""
        theirs = statements(header)
        for uid in found.predecessors & jobs.keys():
            result = Result.get(Result.sop_instance_uid == uid)
            try:
                ours = statements(read_header(self._store.path(result.object_key)))
            except InputError as error:
                log.error("result.unreadable", result=result.id, why=str(error))
                continue
            verdict = "accept" if ours == theirs else "correct"
            yield jobs[uid], [_said(verdict, "verification", found.document_uid)]


def _assessed(found: Assessment, jobs: Mapping[str, Job]) -> Iterable[tuple[Job, list[Said]]]:
    distinct = {job.id: job for job in jobs.values()}
    for job in distinct.values():
        names = tracked(job)
        said = []
        for word in found.words:
            # A word on the whole of several answers does not say which of them it means.
            whole = not word.tracking_uid and len(distinct) == 1
            if whole or word.tracking_uid in names:
                finding = "" if whole else names[word.tracking_uid]
                said.append(_said(word.verdict, "assessment", found.document_uid, finding))
        if said:
            yield job, said


def _said(verdict: str, source: str, document_uid: str, finding: str = "") -> Said:
    return Said(
        verdict=verdict,
        finding=finding,
        source=source,
        said_by=READER,
        document_uid=document_uid,
    )


def _jobs_of(uids: Iterable[str], study_instance_uid: str) -> dict[str, Job]:
    """The jobs of results with these SOP Instance UIDs in a study, by UID."""
    found: dict[str, Job] = {}
    left = iter(sorted(uids))
    while some := list(itertools.islice(left, _BATCH)):
        rows = (
            Result.select(Result, Job)
            .join(Job)
            .where(
                Result.sop_instance_uid.in_(some) & (Job.study_instance_uid == study_instance_uid)
            )
        )
        found |= {row.sop_instance_uid: row.job for row in rows}
    return found
