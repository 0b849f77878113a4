"""The figures of one model, told in plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from storage import feedback, figures
from storage.feedback import Acceptance, Share
from storage.watch_records import Drift

NEWEST_RUNS = 2000
"""Runs whose scores are summed up."""
_QUANTILES = {"p50": 0.5, "p95": 0.95, "max": 1.0}


def model_figures(model: str, window_seconds: float) -> dict[str, Any]:
    """Everything that is known of how a model does.

    Args:
        model: ``name@version``.
        window_seconds: Times and throughput are of the runs that ended so long ago at most.

    Returns:
        ``counts`` since the database lives; ``runs``, ``runs_an_hour`` and ``seconds`` of the
        window, by stage; ``scores`` of the newest runs; ``drift``; ``acceptance``.
    """
    now = time.time()
    since = now - window_seconds
    runs = figures.runs_since(model, since)
    return {
        "model": model,
        "counts": figures.counts().get(model, {}),
        "window_seconds": window_seconds,
        "runs": runs,
        "runs_an_hour": round(runs * 3600 / window_seconds, 1) if window_seconds else None,
        "provider": figures.last_provider(model, 0.0),
        "seconds": seconds_of(model, since),
        "scores": _scores(model),
        "drift": drifts_of(model),
        "acceptance": _acceptance(feedback.acceptance(model)),
    }


def seconds_of(model: str, since: float) -> dict[str, dict[str, float]]:
    """50th and 95th percentile and maximum of each stage's times, in seconds."""
    return {
        stage: {name: round(figures.quantile(times, at), 4) for name, at in _QUANTILES.items()}
        for stage, times in figures.stage_seconds(model, since).items()
    }


def drifts_of(model: str | None = None) -> list[dict[str, Any]]:
    """How scores lie to their references, as last computed, the farthest first.

    Args:
        model: Of this one; None for all.
    """
    rows = Drift.select().order_by(Drift.psi.desc())
    return [
        {
            "model": row.model,
            "score": row.name,
            "reference": row.reference,
            "scores": row.scores,
            "psi": round(row.psi, 4),
            "ks": round(row.ks, 4),
            "p": float(f"{row.p:.3g}"),
            "computed_at": row.computed_at,
        }
        for row in (rows if model is None else rows.where(Drift.model == model))
    ]


def _scores(model: str) -> dict[str, dict[str, float]]:
    digests = [digest for name, digest, _ in figures.versions() if name == model]
    found = figures.scores(model, digests[0], NEWEST_RUNS) if digests else {}
    return {name: _summed([value for value, _ in scores]) for name, scores in found.items()}


def _summed(values: Sequence[float]) -> dict[str, float]:
    rising = sorted(values)
    return {
        "count": len(rising),
        "low": rising[0],
        "p50": figures.quantile(rising, 0.5),
        "high": rising[-1],
    }


def _acceptance(said: Acceptance) -> dict[str, Any]:
    return {
        "answers": dict(said.answers),
        "empty_answers": dict(said.empty),
        "accepted": _share(said.acceptance),
        "rejected": _share(said.rejection),
        "ppv": _share(said.ppv()),
        "npv": _share(said.npv),
        "findings": {
            name: {**_plain(verdicts), "ppv": _share(said.ppv(name))}
            for name, verdicts in sorted(said.findings.items())
        },
    }


def _plain(verdicts: Mapping[str, int]) -> dict[str, Any]:
    return dict(verdicts)


def _share(share: Share | None) -> dict[str, float] | None:
    if share is None:
        return None
    return {
        "value": round(share.value, 4),
        "low": round(share.low, 4),
        "high": round(share.high, 4),
        "of": share.of,
    }
