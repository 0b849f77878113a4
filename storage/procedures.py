"""Modality Performed Procedure Steps (PS3.4 F.7): what modalities say that they made.

Nothing of a patient is kept: the step, who told of it, its state, and the UIDs of its objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peewee import chunked, fn

from storage.announced_records import PerformedObject, ProcedureStep
from storage.db import Change
from storage.records import Instance

KEPT_SECONDS = 30 * 86400.0
"""A step of which nothing was heard for so long says nothing about what comes now."""

_ROWS = 300  # of one statement: SQLite takes a limited number of values


@dataclass(frozen=True)
class Listed:
    """What the completed steps list of one series.

    Attributes:
        objects: How many.
        here: How many of them are part of the series as it was received.
    """

    objects: int
    here: int


def find(sop_instance_uid: str) -> ProcedureStep | None:
    """The step of that SOP Instance UID, or None."""
    row: ProcedureStep | None = ProcedureStep.get_or_none(
        ProcedureStep.sop_instance_uid == sop_instance_uid
    )
    return row


def create(
    change: Change, sop_instance_uid: str, calling_ae: str, performed: Mapping[str, Sequence[str]]
) -> None:
    """Note a step that begins; the caller looked that there is none of that UID.

    Args:
        change: The transaction.
        sop_instance_uid: Of the step.
        calling_ae: Who told of it.
        performed: SOP Instance UIDs of its objects, by Series Instance UID.
    """
    _forget(change)
    step = ProcedureStep.create(
        sop_instance_uid=sop_instance_uid, calling_ae=calling_ae, changed_at=change.now
    )
    _list(step, performed)
    change.audit(
        f"{step.noun}.{step.state}",
        object=step.label(),
        actor=f"ae:{calling_ae}",
        detail=_counts(performed),
    )


def update(
    change: Change,
    step: ProcedureStep,
    calling_ae: str,
    state: str | None,
    performed: Mapping[str, Sequence[str]] | None,
) -> None:
    """Change a step that is in progress.

    Args:
        change: The transaction.
        step: As it was read under the writer's lock.
        calling_ae: Who tells.
        state: Where it goes, or None where it stays in progress.
        performed: As for `create`, in place of what was listed; None leaves that.

    Raises:
        StorageError: It is in a final state.
    """
    if performed is not None:
        PerformedObject.delete().where(PerformedObject.step == step).execute()
        _list(step, performed)
    actor, detail = f"ae:{calling_ae}", _counts(performed or {})
    if state is not None:
        change.move(step, state, actor=actor, detail=detail, changed_at=change.now)
        return
    ProcedureStep.update(changed_at=change.now).where(
        ProcedureStep.sop_instance_uid == step.sop_instance_uid
    ).execute()
    change.audit(f"{step.noun}.updated", object=step.label(), actor=actor, detail=detail)


def lists_anything(step: ProcedureStep) -> bool:
    """Whether a step has named an object."""
    return bool(PerformedObject.select().where(PerformedObject.step == step).exists())


def listed(series_instance_uid: str) -> Listed | None:
    """What completed steps list of a series; None where none does, or one that does goes on."""
    steps = (
        ProcedureStep.select(ProcedureStep.state)
        .join(PerformedObject)
        .where(PerformedObject.series_instance_uid == series_instance_uid)
        .distinct()
    )
    states = {step.state for step in steps}
    if "completed" not in states or "in-progress" in states:
        return None
    named = (
        PerformedObject.select(PerformedObject.sop_instance_uid)
        .join(ProcedureStep)
        .where(
            (PerformedObject.series_instance_uid == series_instance_uid)
            & (ProcedureStep.state == "completed")
        )
    )
    objects = named.select(fn.COUNT(PerformedObject.sop_instance_uid.distinct())).scalar()
    here = Instance.select().where(
        (Instance.series_instance_uid == series_instance_uid)
        & (Instance.state == "indexed")
        & Instance.sop_instance_uid.in_(named)
    )
    return Listed(int(objects), here.count())


def _list(step: ProcedureStep, performed: Mapping[str, Sequence[str]]) -> None:
    rows = [(step, series, uid) for series, uids in performed.items() for uid in uids]
    fields = [
        PerformedObject.step,
        PerformedObject.series_instance_uid,
        PerformedObject.sop_instance_uid,
    ]
    for some in chunked(rows, _ROWS):
        PerformedObject.insert_many(some, fields).on_conflict_ignore().execute()


def _counts(performed: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return {
        "series": len(performed),
        "objects": sum(len(uids) for uids in performed.values()),
    }


def _forget(change: Change) -> None:
    old = ProcedureStep.select().where(ProcedureStep.changed_at < change.now - KEPT_SECONDS)
    for step in old.limit(100):
        PerformedObject.delete().where(PerformedObject.step == step).execute()
        step.delete_instance()
        change.audit(f"{step.noun}.forgotten", object=step.label())
