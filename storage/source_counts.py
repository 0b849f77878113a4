"""What sources answered when they were asked how many instances a study and its series have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peewee import fn

from storage.announced_records import SourceCount
from storage.db import Ledger
from storage.records import Association, Series, SeriesAssociation, Study

MAX_QUERIES = 5
"""Queries for a study before another object of it comes."""


@dataclass(frozen=True)
class Due:
    """A study that its source is to be asked about.

    Attributes:
        study_instance_uid: The study.
        calling_ae: Who last sent an object of it.
        last_object_at: When that was, seconds since the epoch.
        asked: Queries since then.
    """

    study_instance_uid: str
    calling_ae: str
    last_object_at: float
    asked: int


@dataclass(frozen=True)
class Said:
    """What a source said.

    Attributes:
        instances: Of the study; None where it did not say.
        by_series: Of each series that it said it of.
        reason: Why it gave no answer, or None.
    """

    instances: int | None = None
    by_series: Mapping[str, int] | None = None
    reason: str | None = None


def due(now: float, rest_seconds: float) -> list[Due]:
    """Studies that are not settled, rest, and whose source did not yet say what is here.

    Args:
        now: Seconds since the epoch.
        rest_seconds: How long nothing may have come; also the shortest time between two queries,
            which doubles from one to the next.
    """
    longest = rest_seconds * 2**MAX_QUERIES
    # What was noted before the clock was set back lies ahead.
    resting = (Study.last_object_at <= now - rest_seconds) | (
        Study.last_object_at > now + rest_seconds
    )
    found = []
    for study in Study.select().where(Study.state.in_(["open", "reopened"]) & resting):
        said = SourceCount.get_or_none(SourceCount.study_instance_uid == study.study_instance_uid)
        asked = 0
        if said is not None:
            if now < said.not_before <= now + longest:
                continue
            asked = said.asked if said.asked_of == study.last_object_at else 0
            if asked >= MAX_QUERIES or (asked and agrees(study.study_instance_uid)):
                continue
        calling_ae = _calling_ae_of(study.study_instance_uid)
        if calling_ae is not None:
            found.append(Due(study.study_instance_uid, calling_ae, study.last_object_at, asked))
    return found


def _calling_ae_of(study_instance_uid: str) -> str | None:
    row = (
        Association.select(Association.calling_ae)
        .join(SeriesAssociation)
        .join(Series, on=(Series.series_instance_uid == SeriesAssociation.series_instance_uid))
        .where(Series.study == study_instance_uid)
        .order_by(Association.id.desc())
        .first()
    )
    return None if row is None else str(row.calling_ae)


def note(ledger: Ledger, of: Due, source: str, answer: Said, rest_seconds: float) -> None:
    """Keep what a source answered, and when it may be asked again.

    Args:
        ledger: The database.
        of: What was asked.
        source: AE title that was asked.
        answer: What it said; counts of series that are not here are dropped.
        rest_seconds: As for `due`.
    """
    with ledger.transaction() as change:
        here = Series.select(Series.series_instance_uid).where(
            Series.study == of.study_instance_uid
        )
        known = {row.series_instance_uid for row in here}
        by_series = {uid: count for uid, count in (answer.by_series or {}).items() if uid in known}
        values = {
            "source": source,
            "asked": of.asked + 1,
            "asked_of": of.last_object_at,
            "not_before": change.now + rest_seconds * 2**of.asked,
            "reason": answer.reason,
        }
        if answer.reason is None:  # else what it said before may still be so
            values |= {"instances": answer.instances, "by_series": json.dumps(by_series)}
        SourceCount.insert(study_instance_uid=of.study_instance_uid, **values).on_conflict(
            conflict_target=[SourceCount.study_instance_uid], update=values
        ).execute()
        change.audit(
            "source.counted",
            object=f"study:{of.study_instance_uid}",
            outcome="failure" if answer.reason else "success",
            detail={
                "source": source,
                "instances": answer.instances,
                "series": len(by_series),
                **({"reason": answer.reason} if answer.reason else {}),
            },
        )


def of_series(series: Series) -> int | None:
    """How many instances the source said that a series has; None where it did not."""
    row = SourceCount.get_or_none(SourceCount.study_instance_uid == series.study_instance_uid)
    found = json.loads(row.by_series).get(series.series_instance_uid) if row else None
    return None if found is None else int(found)


def agrees(study_instance_uid: str) -> bool:
    """Whether the source said of a study as many instances as are here."""
    here = Study.select().where((Study.study_instance_uid == study_instance_uid) & agreeing())
    return bool(here.exists())


def agreeing() -> Any:
    """That, as a condition on `Study`."""
    here = Series.select(fn.SUM(Series.instances)).where(Series.study == Study.study_instance_uid)
    said = SourceCount.select().where(
        (SourceCount.study_instance_uid == Study.study_instance_uid)
        & (SourceCount.instances == here)
    )
    return fn.EXISTS(said)
