"""What two versions of a model did on this node, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import fn

from storage.figures import quantile
from storage.records import Job
from storage.watch_records import Run, Score, StageTime

MOST_RUNS = 10_000
"""Newest runs of a version that are looked at."""
_BATCH = 500


def side(model: str, since: float) -> dict[str, Any]:
    """What one version did since then, live and in shadow together.

    Args:
        model: ``name@version``.
        since: Seconds since the epoch.

    Returns:
        ``jobs`` by mode and state; ``runs``, and in how many of them something asks for a human
        look; ``seconds`` by stage; ``findings`` by name, with the share of runs that have them and
        how their scores lie, where the model defines any.
    """
    runs = _runs(model, since)
    looked = sum(run.reviews > 0 for run in runs)
    return {
        "model": model,
        "jobs": _jobs(model, since),
        "runs": len(runs),
        "asking_for_a_look": looked / len(runs) if runs else None,
        "seconds": {stage: _times(values) for stage, values in _seconds(runs).items()},
        "findings": _findings(runs),
    }


def run_seconds(model: str, since: float) -> list[float]:
    """The whole time of each run of a version but for the queue, rising, live and in shadow."""
    found: list[float] = []
    runs = _runs(model, since)
    for start in range(0, len(runs), _BATCH):
        some = [run.id for run in runs[start : start + _BATCH]]
        rows = (
            StageTime.select(fn.SUM(StageTime.seconds))
            .where(StageTime.run.in_(some) & (StageTime.stage != "queue"))
            .group_by(StageTime.run)
            .tuples()
        )
        found += [took for (took,) in rows]
    return sorted(found)


def pairs(one: str, other: str, since: float, most: int) -> list[tuple[int, int]]:
    """Numbers of the jobs in which both versions answered on the very same instances.

    Args:
        one: ``name@version``.
        other: The same of the other version.
        since: Both were queued since then, in seconds since the epoch.
        most: Pairs, the newest first; of several on the same input the newest alone.
    """
    second = Job.alias()
    of_other = Job.select(Job.id).where(Job.model == other)  # `second.model` is the class Job
    query = (
        Job.select(Job.id, second.id, Job.subject, Job.input_instances)
        .join(
            second,
            on=(
                (second.subject == Job.subject)
                & (second.route == Job.route)
                & (second.input_instances == Job.input_instances)
            ),
        )
        .where(
            (Job.model == one)
            & second.id.in_(of_other)
            & (Job.created_at >= since)
            & (second.created_at >= since)
            & Job.id.in_(Run.select(Run.job))
            & second.id.in_(Run.select(Run.job))
        )
        .order_by(Job.id.desc(), second.id.desc())
        .tuples()
    )
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for first_id, second_id, subject, inputs in query.iterator():
        found.setdefault((subject, inputs), (first_id, second_id))
        if len(found) == most:
            break
    return list(found.values())


def said(job_id: int, kind: str) -> dict[str, list[float | None]]:
    """What a job answered, by name, the most significant first.

    Args:
        job_id: Number of the job.
        kind: ``finding``, each with its score where there is one, or ``measurement``.
    """
    rows = (
        Score.select(Score.name, Score.value)
        .join(Run)
        .where((Run.job == job_id) & (Score.kind == kind))
        .order_by(Score.id)
        .tuples()
    )
    found: dict[str, list[float | None]] = {}
    for name, value in rows:
        found.setdefault(name, []).append(value)
    return found


def _runs(model: str, since: float) -> list[Run]:
    query = (
        Run.select()
        .where((Run.model == model) & (Run.finished_at >= since))
        .order_by(Run.id.desc())
        .limit(MOST_RUNS)
    )
    return list(query)


def _jobs(model: str, since: float) -> dict[str, dict[str, int]]:
    rows = (
        Job.select(Job.mode, Job.state, fn.COUNT("*"))
        .where((Job.model == model) & (Job.created_at >= since))
        .group_by(Job.mode, Job.state)
        .tuples()
    )
    found: dict[str, dict[str, int]] = {}
    for mode, state, count in rows:
        found.setdefault(mode, {})[state] = count
    return found


def _seconds(runs: Sequence[Run]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for start in range(0, len(runs), _BATCH):
        some = [run.id for run in runs[start : start + _BATCH]]
        rows = StageTime.select(StageTime.stage, StageTime.seconds).where(StageTime.run.in_(some))
        for stage, took in rows.tuples():
            found.setdefault(stage, []).append(took)
    return found


def _times(values: Sequence[float]) -> dict[str, float]:
    rising = sorted(values)
    return {"p50": quantile(rising, 0.5), "p95": quantile(rising, 0.95)}


def _findings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[int, list[float]]] = {}
    for start in range(0, len(runs), _BATCH):
        some = [run.id for run in runs[start : start + _BATCH]]
        rows = Score.select(Score.name, Score.run, Score.value).where(
            Score.run.in_(some) & (Score.kind == "finding")
        )
        for name, run, value in rows.tuples():
            scores = found.setdefault(name, {}).setdefault(run, [])
            scores += [] if value is None else [value]
    return {name: _spread(by_run, len(runs)) for name, by_run in sorted(found.items())}


def _spread(by_run: dict[int, list[float]], runs: int) -> dict[str, Any]:
    scores = sorted(score for each in by_run.values() for score in each)
    spread: dict[str, Any] = {"share_of_runs": len(by_run) / runs, "scores": len(scores)}
    if scores:
        spread["mean"] = sum(scores) / len(scores)
        spread |= {f"p{share}": quantile(scores, share / 100) for share in (10, 50, 90)}
    return spread
