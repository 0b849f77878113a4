"""Alerts: raised and cleared with their audit events, folded, and told at a bounded rate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.backoff import Backoff
from storage.db import Change, Ledger
from storage.watch_records import Alert, Notice

GIVE_UP_SECONDS = 3 * 86400.0
"""Age of a message that nobody took from which it is not tried any more."""
BACKOFF = Backoff(first=5.0, longest=900.0)


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong now.

    Attributes:
        rule: Name of the rule that says so.
        subject: What it is about: a model, a destination; empty for the node.
        reason: A sentence without identifiers of patients and instances.
        value: The number that was looked at.
        threshold: What it was compared with.
    """

    rule: str
    subject: str
    reason: str
    value: float | None = None
    threshold: float | None = None

    @property
    def name(self) -> str:
        """What the alert is called."""
        return f"{self.rule} {self.subject}".strip()


def take(ledger: Ledger, troubles: Iterable[Trouble], asked: Iterable[str]) -> list[Alert]:
    """Raise what is wrong now, clear what no longer is; the alerts that changed.

    Args:
        ledger: The database.
        troubles: All that is wrong by the rules that were asked.
        asked: Names of those rules; alerts of others stay as they are.
    """
    wrong = {each.name: each for each in troubles}
    rules = set(asked)
    changed: list[Alert] = []
    with ledger.transaction() as change:
        known = {row.name: row for row in Alert.select()}
        for name, trouble in wrong.items():
            row = known.get(name)
            if row is None or row.state != "raised":
                changed.append(_raise(change, trouble, row))
            else:
                _note(row, trouble)
        for name, row in known.items():
            if row.state == "raised" and row.rule in rules and name not in wrong:
                change.move(row, "cleared", reason=row.reason, since=change.now)
                changed.append(row)
    return changed


def _raise(change: Change, trouble: Trouble, row: Alert | None) -> Alert:
    values: dict[str, Any] = {
        "value": trouble.value,
        "threshold": trouble.threshold,
        "since": change.now,
    }
    if row is not None:
        change.move(row, "raised", reason=trouble.reason, count=row.count + 1, **values)
        return row
    made: Alert = Alert.create(
        name=trouble.name,
        rule=trouble.rule,
        subject=trouble.subject,
        reason=trouble.reason,
        **values,
    )
    change.audit(
        "alert.raised", object=made.label(), outcome="failure", detail={"reason": trouble.reason}
    )
    return made


def _note(row: Alert, trouble: Trouble) -> None:
    if (row.reason, row.value) != (trouble.reason, trouble.value):
        row.reason, row.value, row.threshold = trouble.reason, trouble.value, trouble.threshold
        row.save(only=[Alert.reason, Alert.value, Alert.threshold])


def to_tell(now: float, *, quiet_seconds: float, remind_seconds: float) -> list[Alert]:
    """Alerts that somebody is to hear of now.

    Those in another state than was told last, unless that was a moment ago, and those that last.

    Args:
        now: Seconds since the epoch.
        quiet_seconds: Between two messages about one alert.
        remind_seconds: After which one that lasts is told again; 0 never.
    """
    found = []
    for row in Alert.select().order_by(Alert.since):
        news = row.state != row.told and not (row.state == "cleared" and not row.told)
        lasts = row.state == "raised" and remind_seconds and now - row.told_at >= remind_seconds
        if (news and now - row.told_at >= quiet_seconds) or lasts:
            found.append(row)
    return found


def tell(ledger: Ledger, rows: Sequence[Alert], channels: Sequence[str], node: str) -> int:
    """Queue the messages about alerts, one a channel; how many.

    Args:
        ledger: The database.
        rows: From `to_tell`.
        channels: Who gets them, ``webhooks:on call``.
        node: What each message calls the node.
    """
    made = 0
    with ledger.transaction() as change:
        for row in rows:
            content = {"node": node, **_content(row)}
            for channel in channels:
                Notice.create(channel=channel, content=json.dumps(content), created_at=change.now)
                made += 1
            Alert.update(told=row.state, told_at=change.now).where(Alert.name == row.name).execute()
        if rows:
            detail = {"alerts": [row.name for row in rows], "channels": list(channels)}
            change.audit("alerts.told", object="process:worker", detail=detail)
    return made


def _content(row: Alert) -> dict[str, Any]:
    return {
        "alert": row.rule,
        "subject": row.subject,
        "state": row.state,
        "reminder": row.state == row.told,
        "reason": row.reason,
        "value": row.value,
        "threshold": row.threshold,
        "since": row.since,
        "count": row.count,
    }


def due(now: float, limit: int = 50) -> list[Notice]:
    """Messages to be sent now, oldest first."""
    return list(
        Notice.select()
        .where((Notice.state == "waiting") & (Notice.not_before <= now))
        .order_by(Notice.id)
        .limit(limit)
    )


def sent(ledger: Ledger, row: Notice) -> None:
    """The message was taken."""
    with ledger.transaction() as change:
        change.move(
            row,
            "sent",
            detail={"channel": row.channel},
            attempt=row.attempt + 1,
            finished_at=change.now,
        )


def not_sent(ledger: Ledger, row: Notice, reason: str, jitter: float) -> None:
    """The message was not taken: later, ever later, and in the end not any more.

    Args:
        ledger: The database.
        row: In state waiting.
        reason: A sentence.
        jitter: In [0, 1), spreads the delay over its upper half.
    """
    attempt = row.attempt + 1
    with ledger.transaction() as change:
        if change.now - row.created_at >= GIVE_UP_SECONDS:
            detail = {"channel": row.channel}
            change.move(
                row, "dead", reason=reason, detail=detail, attempt=attempt, finished_at=change.now
            )
            return
        later = change.now + BACKOFF.delay(attempt, jitter)
        Notice.update(reason=reason, attempt=attempt, not_before=later).where(
            (Notice.id == row.id) & (Notice.attempt == row.attempt)
        ).execute()


def raised() -> list[Alert]:
    """What is wrong now, the latest first."""
    return list(Alert.select().where(Alert.state == "raised").order_by(Alert.since.desc()))


def shown(limit: int, *, only_raised: bool = False) -> list[dict[str, Any]]:
    """The alerts that are kept as plain values, raised ones first, then the latest.

    Args:
        limit: How many at most.
        only_raised: What is wrong now alone.
    """
    query = Alert.select().order_by(Alert.state != "raised", Alert.since.desc()).limit(limit)
    return [
        {
            "rule": row.rule,
            "subject": row.subject,
            "state": row.state,
            "since": row.since,
            "reason": row.reason,
            "value": row.value,
            "threshold": row.threshold,
            "count": row.count,
        }
        for row in (query.where(Alert.state == "raised") if only_raised else query)
    ]


def waiting() -> dict[str, int]:
    """Messages that were not taken yet, by channel."""
    found: dict[str, int] = {}
    for row in Notice.select().where(Notice.state == "waiting"):
        found[row.channel] = found.get(row.channel, 0) + 1
    return found
