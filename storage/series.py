"""The index of what was received: series and studies, and which associations carried them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from peewee import fn

from storage.db import Change, Ledger
from storage.records import Association, Instance, Series, SeriesAssociation, Study

_NOT_SAID = "?"


def unindexed(limit: int = 500) -> list[Instance]:
    """Instances the worker has not read yet, oldest first."""
    return list(
        Instance.select().where(Instance.state == "stored").order_by(Instance.id).limit(limit)
    )


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What the worker read from the header of one instance.

    Attributes:
        announced: Of what (an acquisition's number, or "" for the series) how many images there
            are, as the header says; None where it does not.
        patient: Keyed digest of whose study it is, or None.
        taken_at: When the study was taken, as `Study` has it, or None.
    """

    instance: Instance
    modality: str
    single_image: bool
    announced: tuple[str, int] | None = None
    patient: str | None = None
    taken_at: str | None = None


def index_instances(change: Change, read: Sequence[Indexed]) -> list[Series]:
    """Put instances into their series and studies; gives the series that were touched."""
    touched: dict[str, Series] = {}
    for entry in read:
        row = entry.instance
        updated = (
            Instance.update(state="indexed")
            .where((Instance.id == row.id) & (Instance.state == "stored"))
            .execute()
        )
        if updated:
            series = touched.get(row.series_instance_uid) or _series_for(change, entry)
            touched[row.series_instance_uid] = series
            series.last_object_at = max(series.last_object_at, row.received_at)
            series.single_image = series.single_image and entry.single_image
            _announce(series, entry.announced)
            SeriesAssociation.insert(
                series_instance_uid=row.series_instance_uid, association=row.association_id
            ).on_conflict_ignore().execute()
    whose = {entry.instance.study_instance_uid: entry for entry in read}
    for study_uid, entry in whose.items():
        Study.update(patient=entry.patient, taken_at=entry.taken_at).where(
            Study.study_instance_uid == study_uid
        ).execute()
    latest: dict[str, float] = {}
    for series in touched.values():
        study_uid = series.study_instance_uid
        latest[study_uid] = max(latest.get(study_uid, 0.0), series.last_object_at)
        _recount(change, series, "a late object came")
    for study_uid, moment in latest.items():
        Study.update(last_object_at=fn.MAX(Study.last_object_at, moment)).where(
            Study.study_instance_uid == study_uid
        ).execute()
    return list(touched.values())


def _announce(series: Series, announced: tuple[str, int] | None) -> None:
    known: dict[str, int] = json.loads(series.announced) if series.announced else {}
    # Where one image does not say, the whole is not known.
    of, count = announced or (_NOT_SAID, 0)
    known[of] = max(count, known.get(of, 0))
    series.announced = json.dumps(known, sort_keys=True)


def expected_of(series: Series) -> int | None:
    """How many images the headers of a series announce, or None."""
    known: dict[str, int] = json.loads(series.announced) if series.announced else {}
    if not known or _NOT_SAID in known:
        return None
    return known.get("") or sum(known.values())


def recount(change: Change, series_instance_uid: str, reason: str) -> None:
    """Count a series again after something left it, and let it be judged again."""
    series = Series.get_or_none(Series.series_instance_uid == series_instance_uid)
    if series is None:
        return
    if series.study.state == "settled":
        change.move(series.study, "reopened", reason=reason)
    series.last_object_at = change.now
    _recount(change, series, reason)


def _recount(change: Change, series: Series, reason: str) -> None:
    series.instances = (
        Instance.select()
        .where(
            (Instance.series_instance_uid == series.series_instance_uid)
            & (Instance.state == "indexed")
        )
        .count()
    )
    Series.update(
        instances=series.instances,
        last_object_at=series.last_object_at,
        announced=series.announced,
        single_image=series.single_image,
    ).where(Series.series_instance_uid == series.series_instance_uid).execute()
    if series.state in ("complete", "routed", "skipped"):
        change.move(series, "reopened", reason=reason, forced=False)


def _series_for(change: Change, entry: Indexed) -> Series:
    row = entry.instance
    study, _ = Study.get_or_create(
        study_instance_uid=row.study_instance_uid, defaults={"last_object_at": row.received_at}
    )
    if study.state == "settled":
        change.move(study, "reopened", reason="a late object came")
    series: Series
    series, _ = Series.get_or_create(
        series_instance_uid=row.series_instance_uid,
        defaults={
            "study": study,
            "modality": entry.modality,
            "sop_class_uid": row.sop_class_uid,
            "first_object_at": row.received_at,
            "last_object_at": row.received_at,
            "single_image": entry.single_image,
        },
    )
    return series


def current_instances(series_instance_uid: str) -> list[Instance]:
    """The indexed instances of a series, by SOP Instance UID."""
    return list(
        Instance.select()
        .where(
            (Instance.series_instance_uid == series_instance_uid) & (Instance.state == "indexed")
        )
        .order_by(Instance.sop_instance_uid)
    )


def indexed_version(sop_instance_uid: str) -> Instance | None:
    """The version of a SOP instance that is part of its series, if there is one."""
    row: Instance | None = Instance.get_or_none(
        (Instance.sop_instance_uid == sop_instance_uid) & (Instance.state == "indexed")
    )
    return row


def open_series() -> list[Series]:
    """Series that wait for their completeness, the longest quiet first."""
    return list(
        Series.select()
        .where(Series.state.in_(["receiving", "reopened"]))
        .order_by(Series.last_object_at)
    )


def force(ledger: Ledger, series_instance_uid: str, actor: str) -> bool:
    """Ask that a series be taken as it is; False when none of that UID is waiting."""
    with ledger.transaction() as change:
        series = Series.get_or_none(
            (Series.series_instance_uid == series_instance_uid)
            & Series.state.in_(["receiving", "reopened"])
        )
        if series is None:
            return False
        Series.update(forced=True).where(
            Series.series_instance_uid == series_instance_uid
        ).execute()
        change.audit("series.forced", object=series.label(), actor=actor)
        return True


def open_associations_of(series_instance_uid: str) -> int:
    """How many associations that carried the series are still open."""
    return int(
        SeriesAssociation.select()
        .join(Association)
        .where(
            (SeriesAssociation.series_instance_uid == series_instance_uid)
            & Association.closed_at.is_null()
        )
        .count()
    )


def last_broken_off(series_instance_uid: str) -> float:
    """When an association that carried the series last ended without its release, or 0.

    For one that the node itself lost by dying this is the moment it was up again.
    """
    moment = (
        SeriesAssociation.select(fn.MAX(Association.closed_at))
        .join(Association)
        .where(
            (SeriesAssociation.series_instance_uid == series_instance_uid)
            & (Association.outcome != "released")
        )
        .scalar()
    )
    return float(moment or 0.0)


def calling_ae_of(series_instance_uid: str) -> str | None:
    """The AE title that last sent objects of the series."""
    row = (
        Association.select(Association.calling_ae)
        .join(SeriesAssociation)
        .where(SeriesAssociation.series_instance_uid == series_instance_uid)
        .order_by(Association.id.desc())
        .first()
    )
    return None if row is None else str(row.calling_ae)
