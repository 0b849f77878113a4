"""What alerts are raised for: one function a rule, each of which finds what is wrong now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peewee import fn

from ai.devices import NAMES, SHORT, spelt
from ai.registry import Registry
from config.errors import ModelError
from config.schema import Settings
from dicomnode.net.tls import ends
from dicomnode.work.devices import loaded_models
from storage import feedback, figures, overview, replay, scrub
from storage.alerts import Trouble
from storage.objects import ObjectStore
from storage.records import Destination, Instance, Job, ModelBreaker
from storage.watch_records import Drift

OPEN_JOBS: Final = ("queued", "running", "validating")
IN_USE_SECONDS: Final = 7 * 86400.0
NOT_RUN: Final = ("queue", "deliver")
"""Stages that say nothing of how fast a model runs."""


@dataclass(frozen=True)
class Sight:
    """What the rules look at.

    Attributes:
        settings: The node's settings.
        data_dir: Its data folder.
        store: Where the objects lie.
        registry: The models as the worker sees them.
        now: Seconds since the epoch.
    """

    settings: Settings
    data_dir: Path
    store: ObjectStore
    registry: Registry
    now: float

    @property
    def since(self) -> float:
        """When the window began that latencies and failures are counted over."""
        return self.now - self.settings.watch.window_seconds

    def in_use(self) -> list[str]:
        """Models that ran lately; what is retired or rolled back raises nothing any more."""
        return figures.models(self.now - IN_USE_SECONDS)


def drift(sight: Sight) -> Iterator[Trouble]:
    """Scores of a model lie otherwise than those of its reference."""
    limit, chance = sight.settings.alerts.drift_psi, sight.settings.alerts.drift_p
    if not limit:
        return
    far = Drift.select().where((Drift.psi >= limit) & (Drift.p < chance)).order_by(Drift.psi.desc())
    worst: dict[str, Drift] = {}
    for row in far.where(Drift.model.in_(sight.in_use())):
        worst.setdefault(row.model, row)
    for model, row in worst.items():
        against = "its reference" if row.reference == "package" else "its first runs here"
        why = f"{row.scores} scores of {row.name!r} lie otherwise than those of {against}"
        yield Trouble("drift", model, why, round(row.psi, 3), limit)


def rejections(sight: Sight) -> Iterator[Trouble]:
    """Radiologists reject too many answers of a model."""
    limit = sight.settings.alerts.rejection_rate
    newest = sight.settings.watch.scores
    for model in sight.in_use() if limit else ():
        share = feedback.acceptance(model, newest=newest).rejection
        if share is not None and share.low > limit:
            why = f"{share.part} of the last {share.of} assessed answers were rejected"
            yield Trouble("rejections", model, why, round(share.value, 3), limit)


def latency(sight: Sight) -> Iterator[Trouble]:
    """A model takes too long."""
    limit = sight.settings.alerts.latency_p95_seconds
    for model in figures.models(sight.since) if limit else ():
        times = figures.run_seconds(model, sight.since, without=NOT_RUN)
        slow = figures.quantile(times, 0.95) if times else 0.0
        if slow > limit:
            why = f"the 95th percentile of {len(times)} runs is {slow:.1f} s"
            yield Trouble("latency", model, why, round(slow, 3), limit)


def queue(sight: Sight) -> Iterator[Trouble]:
    """Jobs wait too long."""
    limit = sight.settings.alerts.queue_age_seconds
    age = overview.oldest_waiting_seconds(Job, list(OPEN_JOBS)) if limit else 0.0
    if age > limit:
        count = Job.select().where(Job.state.in_(OPEN_JOBS)).count()
        why = f"the oldest of {count} open jobs is {age:.0f} s old"
        yield Trouble("queue", "", why, round(age, 1), limit)


def failures(sight: Sight) -> Iterator[Trouble]:
    """Jobs of a model fail for good."""
    limit = sight.settings.alerts.failures
    if not limit:
        return
    rows = (
        Job.select(Job.model, fn.COUNT("*"))
        .where((Job.state == "failed") & (Job.finished_at >= sight.since))
        .group_by(Job.model)
        .tuples()
    )
    for model, count in rows:
        if count >= limit:
            jobs = "1 job has" if count == 1 else f"{count} jobs have"
            yield Trouble("failures", model, f"{jobs} failed for good", count, limit)


def models(sight: Sight) -> Iterator[Trouble]:
    """No version of a model that a route wants serves, or one of its versions is faulty."""
    routes, reader = sight.settings.routes, sight.settings.models.text_model
    wanted = [(route.name, route.model) for route in routes]
    wanted += [(route.name, reader) for route in routes if route.burned_in != "off"]
    for name, reference in wanted:
        try:
            sight.registry.find(reference)
        except ModelError as error:
            why = f"its images are not analysed: {_in_line(error)}"
            yield Trouble("models", name, why)
    named = {reference.partition("@")[0] for _, reference in wanted}
    for reference, fault in sight.registry.faults.items():
        if reference.partition("@")[0] in named:
            yield Trouble("models", reference, _in_line(fault))


def _in_line(error: ModelError) -> str:
    """What is wrong on one line, where a faulty package has one a fault."""
    return "; ".join(str(error).splitlines())


def provider(sight: Sight) -> Iterator[Trouble]:
    """A model runs on another execution provider than the first that was asked for."""
    asked = sight.settings.models.providers
    if not sight.settings.alerts.provider or asked == "auto" or not asked:
        return
    loaded = {row["model"]: row for row in loaded_models(sight.data_dir)}
    for model, row in loaded.items():
        if not row["met"]:
            why = f": {row['reason']}" if row["reason"] else ""
            yield Trouble("provider", model, f"asked {row['asked']}, runs {row['runs']}{why}")
    # What left memory may have run meanwhile as it should not.
    for model in set(figures.models(sight.since)) - loaded.keys():
        runs = figures.last_provider(model, sight.since)
        if runs is not None and runs != NAMES[asked[0]]:
            why = f"asked {spelt(asked)}, runs {SHORT.get(runs, runs)}"
            yield Trouble("provider", model, why)


def disk(sight: Sight) -> Iterator[Trouble]:
    """The disk of the data folder gets full."""
    times = sight.settings.alerts.disk_free_times
    free = sight.store.free_bytes()
    limit = times * (free - sight.store.spare_bytes())
    if free < limit:
        why = f"{free / 1e9:.1f} GB are free, below {times:g} times the free-space mark"
        yield Trouble("disk", "", why, float(free), float(limit))


def certificates(sight: Sight) -> Iterator[Trouble]:
    """A certificate that the node shows to others ends soon."""
    days = sight.settings.alerts.certificate_days
    if not days:
        return
    for key, end in ends(sight.settings):
        left = (end.timestamp() - sight.now) / 86400
        if left < days:
            why = f"the certificate of {key} ends on {end:%Y-%m-%d}"
            yield Trouble("certificates", key, why, left, days)


def breaker(sight: Sight) -> Iterator[Trouble]:
    """A model or a destination fails again and again and is left in peace."""
    if not sight.settings.alerts.breaker:
        return
    for table, what in ((Destination, "the destination"), (ModelBreaker, "the model")):
        for row in table.select().where(table.state != "closed"):
            why = f"{what} failed {row.failures} times in a row; its circuit breaker is {row.state}"
            yield Trouble("breaker", row.name, why, row.failures)


def damage(sight: Sight) -> Iterator[Trouble]:
    """Stored objects are damaged or missing, or a part of the intake journal was damaged."""
    if not sight.settings.alerts.damage:
        return
    found = [*scrub.summary(), *replay.summary(sight.data_dir)]
    if found:
        yield Trouble("damage", "", "; ".join(found))


def quarantine(sight: Sight) -> Iterator[Trouble]:
    """Acknowledged objects contradict what was there before, or cannot be read."""
    if not sight.settings.alerts.quarantine:
        return
    # The first condition is that of the index, the others read the few rows that it holds.
    found = Instance.select().where(
        (Instance.state != "indexed")
        & (Instance.state == "quarantined")
        & (Instance.received_at >= sight.since)
    )
    count = found.count()
    if count:
        objects = "1 received object" if count == 1 else f"{count} received objects"
        yield Trouble("quarantine", "", f"{objects} went to quarantine", count)


Rule = Callable[[Sight], Iterator[Trouble]]

RULES: Final[dict[str, Rule]] = {
    "drift": drift,
    "rejections": rejections,
    "latency": latency,
    "queue": queue,
    "failures": failures,
    "models": models,
    "provider": provider,
    "disk": disk,
    "certificates": certificates,
    "breaker": breaker,
    "damage": damage,
    "quarantine": quarantine,
}
