"""One claimed job: from its rows to its proved results, stored and queued for delivery."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import structlog
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry
from config.errors import ModelError, StaleStateError
from config.peers import DestinationSettings
from config.schema import RouteSettings, Settings
from dicomnode.results.bundle import asked_of, chain
from dicomnode.results.provenance import Provenance
from dicomnode.results.write import deflated
from dicomnode.series.decode import Decoder
from dicomnode.work.corrections import predecessors_of
from dicomnode.work.lettering import BurnedIn, LetteringCheck
from dicomnode.work.outcome import outcome_of
from dicomnode.work.pipeline import Analysis, analyse, model_facts, software_version
from dicomnode.work.switches import node_id
from storage import attempts, fallback, jobs
from storage.db import Ledger
from storage.nudge import nudge
from storage.objects import ObjectStore
from storage.outbox import NewResult
from storage.records import Job

log = structlog.get_logger(__name__)

# What is kept for a destination that left the settings: what one gets that says nothing of it.
KINDS: tuple[str, ...] = DestinationSettings.model_fields["results"].default

_SILENT_ROUTE = RouteSettings(name="gone", when={}, model="gone")


def kinds_to_build(wanted: Mapping[str, Sequence[str]]) -> set[str]:
    """What destinations are sent, and what may have to stand in for it.

    Once a job is ready nothing is encoded again, so a kind comes with those it falls back to,
    unless the destination took it, or the one before, when it was last asked.

    Args:
        wanted: Kinds of result by destination.
    """
    kinds: set[str] = set()
    for name, asked in wanted.items():
        taken = fallback.accepted_kinds(name)
        for kind in asked:
            for form in chain(kind):
                kinds.add(form)
                if form in taken:
                    break
    return kinds


def provenance_of(job: Job, settings: Settings, ledger: Ledger, package: Package) -> Provenance:
    """What the results of a job say about where they come from."""
    return Provenance(
        identity=job.identity,
        created=datetime.fromtimestamp(job.created_at, UTC).astimezone(),
        ae_title=settings.node.ae_title,
        node_uid=f"2.25.{uuid.UUID(node_id(ledger)).int}",
        software_version=software_version(),
        model=model_facts(package),
    )


class Executor:
    """Executes claimed jobs; any number of threads may share one.

    Args:
        settings: The node's settings.
        ledger: The database.
        store: Where the objects lie.
        registry: The models that jobs name.
        engine: Runs them.
        decoder: For compressed pixels.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: ObjectStore,
        registry: Registry,
        engine: Engine,
        *,
        decoder: Decoder,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._registry = registry
        self._engine = engine
        self._decoder = decoder
        self._lettering = LetteringCheck(registry, engine, settings.models.text_model)

    def overdue(self, grace_seconds: float = 0.0) -> set[str]:
        """Models of which a run goes on so long after its time was up."""
        return self._engine.lanes.overdue(grace_seconds)

    def beside(self) -> dict[str, str]:
        """The model that jobs of each route need beside their own: the one that looks for text."""
        routes = [route.name for route in self._settings.routes if route.burned_in != "off"]
        return dict.fromkeys(routes, self._lettering.reference) if routes else {}

    def execute(self, job: Job) -> None:
        """Run a claimed job to its end, state ready.

        Raises:
            SeriesError, ModelError, GateError: What is wrong with the input, the model, a result.
            StorageError: Objects or rows cannot be read or written.
            StaleStateError: The job was taken over or cancelled meanwhile.
        """
        package = self._registry.find(job.model)
        if package.digest != job.model_digest:
            raise ModelError(f"{job.model} is not the model the job was queued for")
        paths = {
            role: [self._store.path(row.object_key) for row in rows]
            for role, rows in jobs.inputs_of(job).items()
        }
        primary = package.manifest.input.role
        # A job that an older release queued calls its only input by another name.
        files = paths.pop(primary) if primary in paths else paths.popitem()[1]
        analysis = analyse(
            files,
            package,
            self._engine,
            provenance_of(job, self._settings, self._ledger, package),
            others=paths,
            kinds=kinds_to_build(self._wanted(job, package)),
            predecessors=predecessors_of(self._store, job),
            decoder=self._decoder,
            deadline_seconds=self._settings.models.job_seconds or None,
            content=self._asked(job.route).content,
            burned_in=self._burned_in(job.route),
            on_proving=lambda: attempts.start_validating(self._ledger, job),
        )
        self._keep(job, analysis, self._wanted(job, package))
        log.info("job.ready", job=job.id, model=job.model, seconds=dict(analysis.seconds))

    def _asked(self, name: str) -> RouteSettings:
        """A route; for one that left the settings, one that asks for nothing of its own."""
        found = (route for route in self._settings.routes if route.name == name)
        return next(found, _SILENT_ROUTE)

    def _burned_in(self, name: str) -> BurnedIn | None:
        asked = self._asked(name).burned_in
        return None if asked == "off" else BurnedIn(self._lettering, strict=asked == "skip")

    def _keep(self, job: Job, analysis: Analysis, wanted: Mapping[str, Sequence[str]]) -> None:
        results = []
        for result in analysis.results:
            stored = self._store.put(deflated(result.content))
            results.append(
                NewResult(
                    kind=result.kind,
                    sop_class_uid=result.sop_class_uid,
                    sop_instance_uid=result.sop_instance_uid,
                    transfer_syntax_uid=str(DeflatedExplicitVRLittleEndian),
                    digest=stored.digest,
                    size=stored.size,
                    object_key=stored.key,
                )
            )
        keys = [result.object_key for result in results]
        try:
            look = analysis.judgement.look
            seconds = {"queue": max(0.0, job.started_at - job.queued_at), **analysis.seconds}
            attempts.finish(
                self._ledger,
                job,
                results,
                wanted,
                seconds,
                reason=look,
                outcome=outcome_of(analysis.answer, look=look is not None),
                beside=self._lettering.reference if analysis.judgement.read else None,
            )
        except StaleStateError:
            # Somebody else decided about the job meanwhile: these objects belong to nothing.
            for key in keys:
                self._store.remove(key)
            self._store.settle(keys)
            raise
        self._store.settle(keys)
        nudge(self._ledger.data_dir, "worker")

    def _wanted(self, job: Job, package: Package) -> dict[str, tuple[str, ...]]:
        """Kinds of result by destination; one that left the settings waits for its return."""
        found = {name: self._settings.destination(name) for name in json.loads(job.send_to)}
        overlap = package.manifest.output.overlap
        return {
            name: asked_of(entry.results if entry else KINDS, overlap=overlap)
            for name, entry in found.items()
        }
