"""Received rejection notes (IHE RAD TF-3 4.66, IOCM): what they name leaves its series."""

from __future__ import annotations

from collections.abc import Collection

from storage import index, jobs
from storage.db import Change
from storage.records import Instance, Job, Rejection, Study
from storage.series import recount


def _jobs_on(study_instance_uid: str) -> list[Job]:
    """Jobs that may work on objects of a study: its own, and those of its patient's studies."""
    study = Study.get_or_none(Study.study_instance_uid == study_instance_uid)
    uids = [study_instance_uid]
    if study is not None and study.patient is not None:
        same = (Study.patient == study.patient) & (Study.study_instance_uid != study_instance_uid)
        uids += [row.study_instance_uid for row in Study.select().where(same)]
    return [job for uid in uids for job in jobs.current_jobs_in(uid)]


def is_rejected(instance: Instance) -> bool:
    """Whether a note that came before names the instance, in its study."""
    found = Rejection.select().where(
        (Rejection.sop_instance_uid == instance.sop_instance_uid)
        & (Rejection.study_instance_uid == instance.study_instance_uid)
    )
    return bool(found.exists())


def reject(
    change: Change, note: Instance, code: str, why: str, named: Collection[tuple[str, str]]
) -> int:
    """Take what a note names out of its series, and back what was made of it.

    A job on a rejected instance is superseded: it runs no more, a bundle of which nothing was sent
    is not sent, and one of which something was is to be withdrawn under the note's own title.

    Args:
        change: The transaction.
        note: The note.
        code: Its title, PS3.16 CID 7010.
        why: What the title means.
        named: Study and SOP Instance UIDs.

    Returns:
        How many instances left their series.
    """
    reason = f"a rejection note: {why}"
    gone: list[Instance] = []
    for study_uid, uid in sorted(named):
        Rejection.insert(
            sop_instance_uid=uid,
            code=code,
            study_instance_uid=study_uid,
            note_uid=note.sop_instance_uid,
            noted_at=change.now,
        ).on_conflict_replace().execute()
        rows = Instance.select().where(
            (Instance.sop_instance_uid == uid)
            & (Instance.study_instance_uid == study_uid)
            & Instance.state.in_(["stored", "indexed"])
        )
        gone += list(rows)
    for row in gone:
        change.move(row, "rejected", reason=reason)
    change.audit(
        "instances.rejected",
        object=f"study:{note.study_instance_uid}",
        detail={
            "note": note.sop_instance_uid,
            "code": code,
            "named": len(named),
            "count": len(gone),
            "digest": index.members_digest([(row.sop_instance_uid, row.digest) for row in gone]),
        },
    )
    ids = {row.id for row in gone}
    for study_uid in {row.study_instance_uid for row in gone}:
        for job in _jobs_on(study_uid):
            if jobs.input_ids_of(job) & ids:
                jobs.supersede(change, job, reason, code=code)
        Study.update(last_object_at=change.now).where(
            Study.study_instance_uid == study_uid
        ).execute()
    for series_uid in {row.series_instance_uid for row in gone}:
        recount(change, series_uid, "a rejection note came")
    return len(gone)
