"""Where each version of a model stands on this site, and how it moves on, audited."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peewee import fn

from config.errors import StaleStateError
from storage.db import FILE_NAME, Change, Ledger, plainly
from storage.records import Job, ModelVersion


@dataclass(frozen=True)
class Step:
    """One version as a command found it, before it moves it.

    Attributes:
        reference: ``name@version``.
        digest: Of its package, hex.
        state: Where it stood; that of the manifest where no command has said anything of it, or
            where its package was another one then.
    """

    reference: str
    digest: str
    state: str

    @property
    def label(self) -> str:
        """What the audit chain calls it."""
        return f"{ModelVersion.noun}:{self.reference}"


def peek(data_dir: Path) -> list[tuple[str, str, str, int]]:
    """What commands have said so far: reference, state, digest and rank of each version.

    It reads beside the node, neither makes nor migrates a database, and knows nothing where there
    is none, or one of an older release.

    Raises:
        StorageError: The database cannot be read.
    """
    path = data_dir.resolve() / FILE_NAME
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            there = database.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'model_version'"
            ).fetchone()
            found = "SELECT reference, state, digest, rank FROM model_version"
            return database.execute(found).fetchall() if there else []
    except sqlite3.Error as error:
        raise plainly(error) from error


def add(
    ledger: Ledger, reference: str, digest: str, *, actor: str, detail: Mapping[str, Any]
) -> None:
    """Note a package that comes to the site, in development whatever its manifest says."""
    with ledger.transaction() as change:
        ModelVersion.insert(
            reference=reference, digest=digest, state="development", changed_at=change.now
        ).on_conflict_replace().execute()
        change.audit(
            "model.added",
            object=f"{ModelVersion.noun}:{reference}",
            detail={"digest": digest, **detail},
            actor=actor,
        )


def refuse(ledger: Ledger, label: str, action: str, problems: Sequence[str], actor: str) -> None:
    """Note that a command did not do what it was asked to, and why."""
    with ledger.transaction() as change:
        detail = {"problems": [problem[:300] for problem in problems[:20]]}
        change.audit(action, object=label, outcome="failure", detail=detail, actor=actor)


def promote(
    ledger: Ledger, step: Step, state: str, *, actor: str, proof: Mapping[str, Any]
) -> None:
    """Move a version to validation or production after it was proved.

    Args:
        ledger: The database.
        step: As it was found before the proof.
        state: Where it goes.
        actor: Who asked.
        proof: What was proved, for the audit chain.

    Raises:
        StaleStateError: Another command moved it meanwhile.
    """
    with ledger.transaction() as change:
        row = _row(change, step)
        rank = row.rank
        if state == "production":
            rank = 1 + (ModelVersion.select(fn.MAX(ModelVersion.rank)).scalar() or 0)
        reason = f"promoted from {step.state}"
        _move(change, row, state, reason=reason, actor=actor, detail=proof, rank=rank)


def roll_back(ledger: Ledger, serving: Step, before: Step, *, seen: int, actor: str) -> None:
    """Take the serving version out of production, so that the one before it serves again.

    Args:
        ledger: The database.
        serving: The one that serves now.
        before: The one that is to serve again; in production too.
        seen: The highest rank of any version of the model when the two were chosen.
        actor: Who asked.

    Raises:
        StaleStateError: Another command moved one of the two meanwhile.
    """
    with ledger.transaction() as change:
        row = _row(change, serving)
        _row(change, before)
        name = serving.reference.partition("@")[0]
        of_model = ModelVersion.reference.startswith(f"{name}@")
        if ModelVersion.select().where(of_model & (ModelVersion.rank > seen)).exists():
            raise StaleStateError(f"another version of {name} was promoted meanwhile")
        reason = f"rolled back: {before.reference} serves again"
        detail = {"serves": before.reference}
        _move(change, row, "development", reason=reason, actor=actor, detail=detail)


def retire(ledger: Ledger, step: Step, *, actor: str) -> list[int]:
    """Retire a version and cancel the jobs that wait for it; gives their numbers.

    Raises:
        StaleStateError: Another command moved it meanwhile.
    """
    with ledger.transaction() as change:
        row = _row(change, step)
        waiting = list(
            Job.select()
            .where((Job.model == step.reference) & (Job.state == "queued"))
            .order_by(Job.id)
        )
        detail, reason = {"jobs": len(waiting)}, f"retired from {step.state}"
        _move(change, row, "retired", reason=reason, actor=actor, detail=detail)
        reason = f"{step.reference} was retired"
        for job in waiting:
            change.move(job, "cancelled", reason=reason, actor=actor, owner=None)
        return [job.id for job in waiting]


def _row(change: Change, step: Step) -> ModelVersion:
    """The row of a version, made where there is none; it stands where the command found it."""
    row: ModelVersion | None = ModelVersion.get_or_none(ModelVersion.reference == step.reference)
    if row is None or row.digest != step.digest:
        values = {"digest": step.digest, "state": step.state, "changed_at": change.now}
        ModelVersion.insert(reference=step.reference, **values).on_conflict_replace().execute()
        row = ModelVersion.get_by_id(step.reference)
    if row.state != step.state:
        text = f"{step.reference} is no longer in {step.state}; another command moved it"
        raise StaleStateError(text)
    return row


def _move(
    change: Change,
    row: ModelVersion,
    state: str,
    *,
    detail: Mapping[str, Any],
    **fields: Any,
) -> None:
    detail = {"digest": row.digest, **detail}
    change.move(row, state, detail=detail, changed_at=change.now, **fields)
