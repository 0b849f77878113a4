"""What runs of models took and said, kept in rows of their own for as long as the site wants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peewee import fn

from storage.db import Change
from storage.records import Delivery, Job, Result
from storage.watch_records import ModelCount, Run, Score, StageTime

STAGES = (
    *("queue", "decode", "content", "preprocess", "run", "postprocess", "saliency"),
    *("encode", "prove", "deliver"),
)
NUMBER = "number of findings"
"""A score of every answer: what is reported more or less often than it was shows in it."""
MOST_FINDINGS = 200
"""Findings of one run whose scores are kept, the most significant; all are counted."""
_ON_THE_WAY = ("waiting", "sending", "refused", "dead")


@dataclass(frozen=True)
class Said:
    """One finding of a run.

    Attributes:
        name: As the model calls it.
        score: Its confidence, or None where the model defines none.
        needs_review: It asks for a human look.
        measurements: Measured numbers by finding and codes (``brain/118565006``).
    """

    name: str
    score: float | None = None
    needs_review: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a model answered.

    Attributes:
        provider: The execution provider that ran.
        findings: The most significant first.
        look: The answer as a whole asks for a human look.
    """

    provider: str
    findings: Sequence[Said] = ()
    look: bool = False


def record(change: Change, job: Job, outcome: Outcome, seconds: Mapping[str, float]) -> None:
    """Keep the run of a job that is ready, in the transaction that makes it so.

    Args:
        change: The transaction.
        job: Of this run; ready.
        outcome: What the model answered.
        seconds: Time by stage; the time in the queue is added where it lacks.
    """
    waited = max(0.0, float(job.started_at or change.now) - float(job.queued_at))
    asking = sum(said.needs_review for said in outcome.findings)
    reviews = max(asking, int(outcome.look))
    Run.delete().where(Run.job == job.id).execute()  # of an earlier attempt
    run: Run = Run.create(
        job=job.id,
        model=job.model,
        model_digest=job.model_digest,
        mode=job.mode,
        provider=outcome.provider,
        findings=len(outcome.findings),
        reviews=reviews,
        finished_at=change.now,
    )
    times = [(run.id, stage, took) for stage, took in ({"queue": waited} | dict(seconds)).items()]
    StageTime.insert_many(times, [StageTime.run, StageTime.stage, StageTime.seconds]).execute()
    rows: list[_ScoreRow] = [(run.id, "answer", NUMBER, float(len(outcome.findings)), False)]
    rows += [row for said in outcome.findings[:MOST_FINDINGS] for row in _scores(run, said)]
    for start in range(0, len(rows), 500):
        Score.insert_many(rows[start : start + 500], _SCORE_FIELDS).execute()
    if job.mode != "live":
        count(change, job.model, {f"{job.mode}_runs": 1})
        return
    count(change, job.model, {"runs": 1, "findings": len(outcome.findings), "reviews": reviews})
    if not outcome.findings:
        count(change, job.model, {"empty": 1})


_ScoreRow = tuple[int, str, str, float | None, bool]
_SCORE_FIELDS = [Score.run, Score.kind, Score.name, Score.value, Score.needs_review]


def _scores(run: Run, said: Said) -> Iterable[_ScoreRow]:
    yield run.id, "finding", said.name, said.score, said.needs_review
    for name, value in said.measurements.items():
        yield run.id, "measurement", name, value, False


def count(change: Change, model: str, more: Mapping[str, int]) -> None:
    """Add to what happened to a model since the database lives; in a transaction."""
    for what, number in more.items():
        ModelCount.insert(model=model, what=what, count=number).on_conflict(
            conflict_target=[ModelCount.model, ModelCount.what],
            update={ModelCount.count: ModelCount.count + number},
        ).execute()


def counts() -> dict[str, dict[str, int]]:
    """What happened to each model: ``runs``, ``findings``, ``reviews``, ``empty``, verdicts."""
    found: dict[str, dict[str, int]] = {}
    for row in ModelCount.select():
        found.setdefault(row.model, {})[row.what] = row.count
    return found


def models(since: float = 0.0) -> list[str]:
    """The models that have runs since then, ``name@version``, in order."""
    query = Run.select(Run.model).where(Run.finished_at >= since).distinct().order_by(Run.model)
    return [name for (name,) in query.tuples()]


def runs_since(model: str, since: float, mode: str = "live") -> int:
    """How many runs of a model ended since then."""
    return int(
        Run.select()
        .where((Run.model == model) & (Run.finished_at >= since) & (Run.mode == mode))
        .count()
    )


def stage_seconds(model: str, since: float, *, most: int = 10000) -> dict[str, list[float]]:
    """The times of a model's newest runs since then, rising, by stage in the order of `STAGES`."""
    newest = _newest(model, since, most)
    rows = (
        StageTime.select(StageTime.stage, StageTime.seconds)
        .where(StageTime.run.in_(newest))
        .order_by(StageTime.seconds)
        .tuples()
    )
    found: dict[str, list[float]] = {}
    for stage, seconds in rows:
        found.setdefault(stage, []).append(seconds)
    place = {stage: number for number, stage in enumerate(STAGES)}
    return {stage: found[stage] for stage in sorted(found, key=lambda name: place.get(name, 99))}


def run_seconds(
    model: str, since: float, *, without: Sequence[str], most: int = 10000
) -> list[float]:
    """The whole time of each of a model's runs since then, rising, but for some stages."""
    rows = (
        StageTime.select(fn.SUM(StageTime.seconds))
        .where(StageTime.run.in_(_newest(model, since, most)) & StageTime.stage.not_in(without))
        .group_by(StageTime.run)
        .tuples()
    )
    return sorted(seconds for (seconds,) in rows)


def _newest(model: str, since: float, most: int) -> list[int]:
    rows = (
        Run.select(Run.id)
        .where((Run.model == model) & (Run.finished_at >= since) & (Run.mode == "live"))
        .order_by(Run.finished_at.desc())
        .limit(most)
        .tuples()
    )
    return [number for (number,) in rows]


def quantile(rising: Sequence[float], share: float) -> float:
    """The value that so large a share of the values does not exceed (nearest rank)."""
    return rising[max(0, math.ceil(share * len(rising) - 1e-9) - 1)]


def last_provider(model: str, since: float) -> str | None:
    """The execution provider of a model's newest run since then, or None where it has none."""
    row = (
        Run.select(Run.provider)
        .where((Run.model == model) & (Run.finished_at >= since))
        .order_by(Run.finished_at.desc(), Run.id.desc())
        .first()
    )
    return None if row is None else str(row.provider)


def scores(
    model: str, model_digest: str, runs: int, *, first: bool = False
) -> dict[str, list[tuple[float, float]]]:
    """The scores that newest runs of one version gave: name → (value, when), newest first.

    Args:
        model: ``name@version``.
        model_digest: SHA-256 of the package, hex.
        runs: How many runs are looked at.
        first: The first runs instead, the first ones first.
    """
    order = Run.id if first else Run.id.desc()
    chosen = (
        Run.select(Run.id)
        .where((Run.model == model) & (Run.model_digest == model_digest) & (Run.mode == "live"))
        .order_by(order)
        .limit(runs)
    )
    rows = (
        Score.select(Score.name, Score.value, Run.finished_at)
        .join(Run)
        .where(Score.run.in_(chosen) & Score.value.is_null(False))
        .order_by(order, Score.id)
        .tuples()
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for name, value, when in rows:
        found.setdefault(name, []).append((value, when))
    return found


def versions() -> list[tuple[str, str, int]]:
    """Models that have live runs: ``name@version``, digest and id of the newest such run."""
    newest = Run.select(fn.MAX(Run.id)).where(Run.mode == "live").group_by(Run.model)
    columns = (Run.model, Run.model_digest, Run.id)
    return list(Run.select(*columns).where(Run.id.in_(newest)).order_by(Run.model).tuples())


def delivered(change: Change, job_id: int) -> None:
    """Note how long a run's results took to their destinations, once the last of them is there."""
    run = Run.get_or_none(Run.job == job_id)
    if run is None:
        return
    on_the_way = (
        Delivery.select()
        .join(Result)
        .where((Result.job == job_id) & Delivery.state.in_(_ON_THE_WAY))
    )
    if not on_the_way.exists():
        took = max(0.0, change.now - run.finished_at)
        StageTime.insert(run=run, stage="deliver", seconds=took).on_conflict_ignore().execute()


def findings_of(job_id: int) -> list[str]:
    """Names of the findings of a job, in the order of their significance."""
    rows = (
        Score.select(Score.name)
        .join(Run)
        .where((Run.job == job_id) & (Score.kind == "finding"))
        .order_by(Score.id)
        .tuples()
    )
    return [name for (name,) in rows]


def scores_of(job_id: int) -> list[dict[str, Any]]:
    """The scores of a job as plain values, in the order of their significance."""
    rows = Score.select().join(Run).where(Run.job == job_id).order_by(Score.id)
    return [
        {
            "kind": row.kind,
            "name": row.name,
            "value": row.value,
            "needs_review": row.needs_review,
        }
        for row in rows
    ]


def is_recorded(job_id: int) -> bool:
    """Whether the run of a job is kept."""
    return bool(Run.select().where(Run.job == job_id).exists())
