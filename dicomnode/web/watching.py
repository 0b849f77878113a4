"""How models do and what is wrong, as metrics: labels are models, stages and rules, never more."""

from __future__ import annotations

import time
from collections.abc import Iterator

from dicomnode.web.metrics import Figure
from storage import alerts, feedback, figures, summary
from storage.feedback import Share

MOST_MODELS = 100
MOST_SCORES = 50
"""Scores of a model whose drift is told, the farthest; the database holds all."""
MOST_ALERTS = 200


def watch_figures(window_seconds: float) -> Iterator[Figure]:
    """The numbers of models and alerts.

    Args:
        window_seconds: Times are those of runs that ended so long ago at most.
    """
    counted = list(figures.counts().items())[:MOST_MODELS]
    yield Figure(
        "medai_model_events_total",
        "What happened to a model: runs, findings, reviews (findings that ask for a human look), "
        "empty (answers without a finding), skipped and failed jobs, verdicts of radiologists, "
        "shadow runs, and result objects of those that were deleted.",
        {(model, what): float(n) for model, counts in counted for what, n in counts.items()},
        labels=("model", "what"),
        kind="counter",
    )
    since = time.time() - window_seconds
    models = [model for model, _ in counted]
    yield Figure(
        "medai_model_stage_seconds",
        f"Time of a stage over the last {window_seconds:g} seconds, in seconds.",
        {
            (model, stage, quantile): seconds
            for model in models
            for stage, times in summary.seconds_of(model, since).items()
            for quantile, seconds in times.items()
        },
        labels=("model", "stage", "quantile"),
    )
    drifts = _drifts(models)
    for name, what in (
        ("psi", "Population stability index"),
        ("ks", "Kolmogorov-Smirnov distance"),
    ):
        yield Figure(
            f"medai_score_{name}",
            f"{what} of a score of a model to its reference.",
            {(model, score): value[name] for (model, score), value in drifts.items()},
            labels=("model", "score"),
        )
    yield Figure(
        "medai_assessed_share",
        "Share of what radiologists assessed: answers accepted and rejected, ppv of findings, "
        "npv of answers without one.",
        dict(_shares()),
        labels=("model", "what"),
    )
    raised = alerts.shown(MOST_ALERTS, only_raised=True)
    yield Figure(
        "medai_alerts",
        "1 for what is wrong now.",
        {(row["rule"], row["subject"]): 1.0 for row in raised},
        labels=("rule", "subject"),
    )
    yield Figure(
        "medai_notices_waiting",
        "Messages about alerts that were not taken yet.",
        {(channel,): float(count) for channel, count in alerts.waiting().items()},
        labels=("channel",),
    )


def _drifts(models: list[str]) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for model in models:
        for row in summary.drifts_of(model)[:MOST_SCORES]:
            found[model, row["score"]] = {"psi": row["psi"], "ks": row["ks"]}
    return found


def _shares() -> Iterator[tuple[tuple[str, str], float]]:
    for model in feedback.models()[:MOST_MODELS]:
        said = feedback.acceptance(model)
        shares: dict[str, Share | None] = {
            "accepted": said.acceptance,
            "rejected": said.rejection,
            "ppv": said.ppv(),
            "npv": said.npv,
        }
        for what, share in shares.items():
            if share is not None:
                yield (model, what), share.value
