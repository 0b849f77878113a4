"""Studies: when one is settled, what is in it, and which ones came before it."""

from __future__ import annotations

import time
from typing import Any

from storage import source_counts
from storage.db import Ledger
from storage.records import Instance, Job, Series, Study


def current_instances_of(study_instance_uid: str) -> list[Instance]:
    """The indexed instances of a study, by series and SOP Instance UID."""
    return list(
        Instance.select()
        .join(Series, on=(Series.series_instance_uid == Instance.series_instance_uid))
        .where((Series.study == study_instance_uid) & (Instance.state == "indexed"))
        .order_by(Instance.series_instance_uid, Instance.sop_instance_uid)
    )


def earlier_to(study: Study, most: int) -> list[Study]:
    """Earlier studies of the same patient, the newest first.

    Args:
        study: The current one; of one that does not say whose or when it is there are none.
        most: How many at most.
    """
    if study.patient is None or study.taken_at is None:
        return []
    return list(
        Study.select()
        .where((Study.patient == study.patient) & (Study.taken_at < study.taken_at))
        .order_by(Study.taken_at.desc(), Study.study_instance_uid.desc())
        .limit(most)
    )


def answered_instances_of(study_instance_uid: str) -> list[Instance]:
    """As `current_instances_of`, of the series that are complete."""
    answered = Series.select(Series.series_instance_uid).where(
        (Series.study == study_instance_uid) & Series.state.in_(["routed", "skipped"])
    )
    return list(
        Instance.select()
        .where((Instance.state == "indexed") & Instance.series_instance_uid.in_(answered))
        .order_by(Instance.series_instance_uid, Instance.sop_instance_uid)
    )


def ripe(quiet_seconds: float) -> list[Study]:
    """Studies whose series are all answered and that have been quiet or are counted."""
    return list(_ripe(time.time(), quiet_seconds))


def is_ripe(study: Study, quiet_seconds: float) -> bool:
    """Whether that still holds for a study; asked under the writer's lock."""
    found = _ripe(time.time(), quiet_seconds)
    return bool(found.where(Study.study_instance_uid == study.study_instance_uid).exists())


def settle(ledger: Ledger, quiet_seconds: float) -> int:
    """Settle the studies that are ripe, see `ripe`; how many."""
    found = _ripe(time.time(), quiet_seconds)
    if not found.exists():
        return 0
    with ledger.transaction() as change:
        # Read again under the lock: an object may have come meanwhile.
        studies = list(found)
        for study in studies:
            change.move(study, "settled", reason=why_settled(study, quiet_seconds))
    return len(studies)


def ask_again(ledger: Ledger, series_instance_uid: str, actor: str) -> bool:
    """Ask that a series which no model answered be judged and routed again.

    Returns:
        False where there is none of that UID, or a live job on it has answered or may do so yet.
    """
    with ledger.transaction() as change:
        series = _unanswered().where(Series.series_instance_uid == series_instance_uid).first()
        if series is None:
            return False
        reason = "it was asked for again"
        if series.study.state == "settled":
            change.move(series.study, "reopened", reason=reason)
        change.move(series, "reopened", reason=reason, forced=True)
        change.audit("series.asked_again", object=series.label(), actor=actor)
        return True


def unanswered(since: float = 0.0) -> list[str]:
    """UIDs of the series that `ask_again` takes, the oldest first.

    Args:
        since: Only those of which something came since.
    """
    found = _unanswered().where(Series.last_object_at >= since).order_by(Series.last_object_at)
    return [series.series_instance_uid for series in found]


def _unanswered() -> Any:
    answered = Job.select(Job.series).where(
        (Job.mode == "live") & Job.state.in_(["queued", "running", "validating", "ready"])
    )
    return Series.select().where(
        Series.state.in_(["routed", "skipped"]) & Series.series_instance_uid.not_in(answered)
    )


def why_settled(study: Study, quiet_seconds: float) -> str:
    """What made a study ripe, in words."""
    if source_counts.agrees(study.study_instance_uid):
        return "as many came as C-FIND (0020,1208) announced"
    return f"quiet for {quiet_seconds:g} s"


def _ripe(now: float, quiet_seconds: float) -> Any:
    waiting = Series.select(Series.study).where(
        Series.state.in_(["receiving", "complete", "reopened"])
    )
    return Study.select().where(
        Study.state.in_(["open", "reopened"])
        & (
            (Study.last_object_at <= now - quiet_seconds)
            # Noted before the clock was set back: all its series are answered, which took a while.
            | (Study.last_object_at > now + quiet_seconds)
            | source_counts.agreeing()
        )
        & Study.study_instance_uid.not_in(waiting)
    )
