"""Whether the scores of models still lie as those of their references do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from ai.drift import Difference, difference
from ai.reference import Histogram, Reference, read_reference
from ai.registry import Registry
from config.errors import ModelError
from config.watch import WatchSettings
from storage import figures
from storage.db import Ledger
from storage.watch_records import Baseline, Drift

log = structlog.get_logger(__name__)

PACKAGE, FIRST_RUNS = "package", "first runs"
_RUNS_A_SCORE = 10  # runs looked at for each score wanted: not every run gives every one
_BINS = 10

Scores = Sequence[tuple[float, float]]
"""Values with their times, in the order asked for."""


@dataclass(frozen=True)
class _Expected:
    """What a score is compared with.

    Attributes:
        histogram: How it spread.
        source: ``package`` or ``first runs``.
        since: Only what came later is compared, seconds since the epoch.
    """

    histogram: Histogram
    source: str
    since: float = 0.0


class DriftWatch:
    """Compares the newest scores of each model with its reference.

    Args:
        ledger: The database.
        registry: Where the packages lie.
        settings: How many scores are looked at.
    """

    def __init__(self, ledger: Ledger, registry: Registry, settings: WatchSettings) -> None:
        self._ledger = ledger
        self._registry = registry
        self._settings = settings
        self._references: dict[str, Reference | None] = {}
        self._newest: dict[str, int] = {}

    def look(self) -> None:
        """Compute the drifts of each model anew that has run since the last time."""
        for model, digest, newest in figures.versions():
            if self._newest.get(model) == newest:
                continue
            recent = self._scores(model, digest)
            expected = self._expected(model, digest, recent)
            found = list(self._compare(recent, expected))
            with self._ledger.transaction() as change:
                Drift.delete().where(Drift.model == model).execute()
                for name, source, count, between in found:
                    Drift.create(
                        model=model,
                        name=name,
                        reference=source,
                        scores=count,
                        psi=between.psi,
                        ks=between.ks,
                        p=between.p,
                        computed_at=change.now,
                    )
            self._newest[model] = newest

    def _scores(self, model: str, digest: str, *, first: bool = False) -> Mapping[str, Scores]:
        runs = self._settings.scores * _RUNS_A_SCORE
        return figures.scores(model, digest, runs, first=first)

    def _compare(
        self, recent: Mapping[str, Scores], expected: Mapping[str, _Expected]
    ) -> Iterator[tuple[str, str, int, Difference]]:
        for name, entry in expected.items():
            later = [value for value, when in recent.get(name, ()) if when > entry.since]
            newest = later[: self._settings.scores]
            if len(newest) >= self._settings.fewest_scores and any(entry.histogram.counts):
                counts = Histogram.of(newest, entry.histogram.edges).counts
                yield name, entry.source, len(newest), difference(entry.histogram.counts, counts)

    def _expected(
        self, model: str, digest: str, recent: Mapping[str, Scores]
    ) -> dict[str, _Expected]:
        reference = self._reference(model, digest)
        known = {} if reference is None else {**reference.scores, **reference.measurements}
        found = {name: _Expected(each, PACKAGE) for name, each in known.items()}
        rows = Baseline.select().where(Baseline.model_digest == digest)
        found |= {row.name: _kept(row) for row in rows if row.name not in found}
        lacking = [
            name
            for name, scores in recent.items()
            if name not in found and len(scores) >= self._settings.scores
        ]
        if lacking:
            first = self._scores(model, digest, first=True)
            found |= {name: self._keep(digest, name, first[name]) for name in lacking}
        return found

    def _keep(self, digest: str, name: str, scores: Scores) -> _Expected:
        """Take the first scores as the baseline from now on."""
        taken = scores[: self._settings.scores]
        values = [value for value, _ in taken]
        histogram = Histogram.of(values, edges_of(values))
        until = max(when for _, when in taken)
        with self._ledger.transaction() as change:
            Baseline.create(
                model_digest=digest,
                name=name,
                edges=json.dumps(histogram.edges),
                counts=json.dumps(histogram.counts),
                made_at=until,
            )
            change.audit(
                "baseline.made",
                object=f"model:{digest}",
                detail={"score": name, "scores": len(values)},
            )
        return _Expected(histogram, FIRST_RUNS, until)

    def _reference(self, model: str, digest: str) -> Reference | None:
        if digest not in self._references:
            try:
                package = self._registry.find(model)
                same = package.digest == digest
                self._references[digest] = read_reference(package) if same else None
            except ModelError as error:
                log.warning("reference.unreadable", model=model, why=str(error))
                self._references[digest] = None
        return self._references[digest]


def _kept(row: Baseline) -> _Expected:
    histogram = Histogram(edges=json.loads(row.edges), counts=json.loads(row.counts))
    return _Expected(histogram, FIRST_RUNS, row.made_at)


def edges_of(values: Sequence[float]) -> list[float]:
    """Edges of bins that hold about as many of the values each, and one beyond either end.

    Args:
        values: One or more, finite.
    """
    inner = np.unique(np.quantile(values, np.linspace(0.0, 1.0, _BINS + 1)))
    low, high = float(inner[0]), float(inner[-1])
    width = max((high - low) / _BINS, abs(high) * 1e-3, 1e-9)
    ends = [low - 2 * width, low - width, high + width, high + 2 * width]
    return [*ends[:2], *(float(edge) for edge in inner[1:-1]), *ends[2:]]
