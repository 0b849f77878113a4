"""The worker process: assembles series, runs jobs, delivers results."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import structlog
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ai.registry import Registry
from config.errors import (
    GateError,
    InferenceError,
    MedAIError,
    ModelError,
    SeriesError,
    StaleStateError,
    StorageError,
)
from config.schema import DestinationSettings, Settings
from dicomnode.results.bundle import chain
from dicomnode.results.provenance import Provenance
from dicomnode.results.write import deflated
from dicomnode.series.decode_pool import DecodePool
from dicomnode.work.assembler import Assembler
from dicomnode.work.clock import ClockWatch
from dicomnode.work.corrections import predecessors_of, withdraw_superseded
from dicomnode.work.delivery import Courier
from dicomnode.work.models import make_engine, make_registry
from dicomnode.work.pipeline import Analysis, analyse, model_facts, software_version
from dicomnode.work.scrubbing import scrub_until
from dicomnode.work.switches import is_paused, node_id
from storage import jobs, outbox
from storage.db import Ledger, open_ledger, process_name
from storage.nudge import Nudged, nudge
from storage.objects import ObjectStore
from storage.outbox import NewResult
from storage.records import Job

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
LEASE_SECONDS = 60.0

# What is kept for a destination that left the settings: what one gets that says nothing of it.
KINDS: tuple[str, ...] = DestinationSettings.model_fields["results"].default


def kinds_to_build(wanted: Mapping[str, Sequence[str]]) -> set[str]:
    """What destinations are sent, and what may have to stand in for it.

    Once a job is ready nothing is encoded again, so a kind comes with those it falls back to,
    unless the destination took it, or the one before, when it was last asked.

    Args:
        wanted: Kinds of result by destination.
    """
    kinds: set[str] = set()
    for name, asked in wanted.items():
        taken = outbox.accepted_kinds(name)
        for kind in asked:
            for form in chain(kind):
                kinds.add(form)
                if form in taken:
                    break
    return kinds


def provenance_of(job: Job, settings: Settings, ledger: Ledger, registry: Registry) -> Provenance:
    """What the results of a job say about where they come from."""
    return Provenance(
        identity=job.identity,
        created=datetime.fromtimestamp(job.created_at, UTC).astimezone(),
        ae_title=settings.node.ae_title,
        node_uid=f"2.25.{uuid.UUID(node_id(ledger)).int}",
        software_version=software_version(),
        model=model_facts(registry.find(job.model)),
    )


class Worker:
    """The threads of the worker process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder.
    """

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self.settings = settings
        self.ledger = open_ledger(data_dir)
        self.store = ObjectStore(data_dir, min_free=settings.storage.min_free)
        self.registry = make_registry(settings)
        self.engine = make_engine(settings, self.registry)
        self.decoder = DecodePool(settings.models.worker_threads)
        self.owner = process_name()
        self._assembler = Assembler(
            settings,
            self.ledger,
            self.store,
            self.registry,
            node_id(self.ledger),
            decoder=self.decoder,
        )
        self._clock = ClockWatch()
        self._nudged = Nudged(data_dir, "worker")
        self._stopping = threading.Event()
        self._jobs = threading.Condition()
        self._couriers: dict[str, threading.Thread] = {}

    def run(self) -> None:
        """Work until `stop` is called."""
        threads = [
            threading.Thread(target=self._run_jobs, name=f"job-{number}")
            for number in range(self.settings.models.worker_threads)
        ]
        threads.append(threading.Thread(target=self._keep_leases, name="leases"))
        rate = self.settings.storage.scrub_bytes_per_second
        scrubbing = (self._stopping, self.ledger, self.store, rate)
        threads.append(threading.Thread(target=scrub_until, args=scrubbing, name="scrub"))
        for thread in threads:
            thread.start()
        again = 0.0
        while not self._stopping.is_set():
            self._nudged.wait(min(POLL_SECONDS, max(0.0, again - time.time())))
            again = self._look_around()
        with self._jobs:
            self._jobs.notify_all()
        for thread in (*threads, *self._couriers.values()):
            thread.join()
        self.close()

    def close(self) -> None:
        """Let go of the object store, of the nudges' address and of the decoders."""
        self.decoder.close()
        self._nudged.close()
        self.store.close()

    def stop(self) -> None:
        """End after what runs now."""
        self._stopping.set()

    def _look_around(self) -> float:
        again = time.time() + POLL_SECONDS
        with _reported("watching the clock"):
            self._clock.look(self.ledger)
        with _reported("assembling"):
            queued, again = self._assembler.step()
            if queued or jobs.return_expired(self.ledger):
                self._wake_jobs()
        with _reported("withdrawing results"):
            withdraw_superseded(self.ledger, self.store, self.settings)
        with _reported("starting deliveries"):
            self._start_couriers()
        return again

    def _wake_jobs(self) -> None:
        with self._jobs:
            self._jobs.notify_all()

    def _run_jobs(self) -> None:
        while not self._stopping.is_set():
            ran = False
            with _reported("running a job"):
                ran = self.run_one()
            if not ran:
                with self._jobs:
                    self._jobs.wait(POLL_SECONDS)

    def run_one(self) -> bool:
        """Run the next job to its end, if there is one to run now."""
        if is_paused():
            return False
        job = jobs.claim(self.ledger, self.owner, LEASE_SECONDS)
        if job is None:
            return False
        try:
            self._analyse(job)
        except StaleStateError as error:
            # Another process took the job over, or a person cancelled it: its word counts.
            log.warning("job.lost", job=job.id, why=str(error))
        except (SeriesError, ModelError, GateError, StorageError) as error:
            self._failed(job, str(error), retry=isinstance(error, InferenceError | StorageError))
        except Exception as error:
            log.exception("job.crashed", job=job.id)
            self._failed(job, f"unexpected {type(error).__name__}", retry=True)
        self._wake_jobs()
        return True

    def _analyse(self, job: Job) -> None:
        package = self.registry.find(job.model)
        if package.digest != job.model_digest:
            raise ModelError(f"{job.model} is not the model the job was queued for")
        paths = {
            role: [self.store.path(row.object_key) for row in rows]
            for role, rows in jobs.inputs_of(job).items()
        }
        primary = package.manifest.input.role
        # A job that an older release queued calls its only input by another name.
        files = paths.pop(primary) if primary in paths else paths.popitem()[1]
        analysis = analyse(
            files,
            package,
            self.engine,
            provenance_of(job, self.settings, self.ledger, self.registry),
            others=paths,
            kinds=kinds_to_build(self._wanted(json.loads(job.send_to))),
            predecessors=predecessors_of(self.store, job),
            decoder=self.decoder,
            deadline_seconds=self.settings.models.job_seconds or None,
            on_proving=lambda: jobs.start_validating(self.ledger, job),
        )
        self._keep(job, analysis)
        log.info("job.ready", job=job.id, model=job.model, seconds=dict(analysis.seconds))

    def _keep(self, job: Job, analysis: Analysis) -> None:
        results = []
        for result in analysis.results:
            stored = self.store.put(deflated(result.content))
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
            wanted = self._wanted(json.loads(job.send_to))
            jobs.finish(self.ledger, job, results, wanted, analysis.seconds)
        except StaleStateError:
            # Somebody else decided about the job meanwhile: these objects belong to nothing.
            for key in keys:
                self.store.remove(key)
            self.store.settle(keys)
            raise
        self.store.settle(keys)
        nudge(self.ledger.data_dir, "worker")

    def _wanted(self, destinations: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Kinds of result by destination; one that left the settings waits for its return."""
        found = {name: self.settings.destination(name) for name in destinations}
        return {name: entry.results if entry else KINDS for name, entry in found.items()}

    def _failed(self, job: Job, reason: str, *, retry: bool) -> None:
        log.warning("job.failed", job=job.id, model=job.model, why=reason, attempt=job.attempt)
        with contextlib.suppress(StaleStateError):
            jobs.fail(
                self.ledger,
                job,
                reason,
                max_attempts=self.settings.models.max_attempts,
                retry=retry,
                jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            )

    def _keep_leases(self) -> None:
        while not self._stopping.wait(LEASE_SECONDS / 4):
            with _reported("extending leases"):
                jobs.extend_leases(self.ledger, self.owner, LEASE_SECONDS)

    def _start_couriers(self) -> None:
        for name in outbox.destinations_due():
            thread = self._couriers.get(name)
            if thread is None or not thread.is_alive():
                self._couriers[name] = threading.Thread(
                    target=self._deliver, args=(name,), name=f"courier-{name}"
                )
                self._couriers[name].start()

    def _deliver(self, name: str) -> None:
        with _reported("delivering"):
            Courier(self.settings, name, self.ledger, self.store).deliver(self._stopping.is_set)


@contextlib.contextmanager
def _reported(doing: str) -> Iterator[None]:
    """The border of a loop: a fault is logged and the loop goes on."""
    try:
        yield
    except MedAIError as error:
        log.error("worker.fault", doing=doing, why=str(error))
    except Exception:
        log.exception("worker.fault", doing=doing)


def run_worker(settings: Settings, data_dir: Path, stop: Connection, ready: Connection) -> None:
    """The main function of the worker process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder, recovered already.
        stop: Readable, or closed at the other side, when the worker is to end.
        ready: Gets one message when the worker has begun.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when all end
    worker = Worker(settings, data_dir)

    def terminate(number: int, frame: FrameType | None) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_stop_when_told, args=(stop, worker), daemon=True).start()
    ready.send("ready")
    worker.run()


def _stop_when_told(stop: Connection, worker: Worker) -> None:
    stop.poll(None)
    worker.stop()
