"""The threads that run jobs: each claims the next one, runs it, and notes how it ended."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from config.errors import (
    ContentError,
    GateError,
    InferenceError,
    ModelError,
    SeriesError,
    StaleStateError,
    StorageError,
)
from config.schema import Settings
from dicomnode.work.borders import reported
from dicomnode.work.execute import Executor
from dicomnode.work.switches import is_paused, paused_routes
from storage import attempts, dispatch
from storage.db import Ledger, process_name
from storage.dispatch import Limits
from storage.records import Job

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
LEASE_SECONDS = 60.0


@dataclass
class _Run:
    """A job that a thread runs.

    Attributes:
        job: As it was claimed.
        overdue_at: Until when its thread is waited for, by the steady clock.
        given_up: It was waited for long enough: the job is not its own any more.
    """

    job: Job
    overdue_at: float
    given_up: bool = False


class JobRunner:
    """Runs jobs in threads.

    Args:
        settings: The node's settings.
        ledger: The database.
        executor: Runs one job.
        stopping: Set when the worker ends; what runs then is run to its end.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, executor: Executor, stopping: threading.Event
    ) -> None:
        self.owner = process_name()
        self._models = settings.models
        self._ledger = ledger
        self._executor = executor
        self._stopping = stopping
        self._may_be_more = threading.Condition()
        self._runs: dict[int, _Run] = {}
        self._extended_at = 0.0

    def threads(self) -> list[threading.Thread]:
        """The threads, not started yet."""
        return [
            threading.Thread(target=self._run, name=f"job-{number}")
            for number in range(self._models.worker_threads)
        ]

    def wake(self) -> None:
        """Let threads that wait look for jobs now."""
        with self._may_be_more:
            self._may_be_more.notify_all()

    def _run(self) -> None:
        while not self._stopping.is_set():
            ran = False
            with reported("running a job"):
                ran = self.run_one()
            if not ran:
                with self._may_be_more:
                    self._may_be_more.wait(POLL_SECONDS)

    def run_one(self) -> bool:
        """Run the next job to its end, if there is one to run now."""
        # A run that does not stop takes the room of another: nothing begins until that is settled.
        if is_paused() or self._executor.overdue():
            return False
        limits = Limits(
            jobs=self._models.worker_threads,
            models=self._models.limits,
            paused=paused_routes(),
            beside=self._executor.beside(),
        )
        job = dispatch.claim(self._ledger, self.owner, LEASE_SECONDS, limits)
        if job is None:
            return False
        with self._noted(job):
            self._run_to_its_end(job)
        self.wake()
        return True

    def _run_to_its_end(self, job: Job) -> None:
        try:
            self._executor.execute(job)
        except StaleStateError as error:
            # Another process took the job over, or a person cancelled it: its word counts.
            log.warning("job.lost", job=job.id, why=str(error))
        except ContentError as error:
            log.info("job.skipped", job=job.id, model=job.model, why=str(error))
            with contextlib.suppress(StaleStateError):
                attempts.skip(self._ledger, job, str(error))
        except (SeriesError, ModelError, GateError, StorageError) as error:
            again = isinstance(error, InferenceError | StorageError)
            blamed = (error.by or job.model) if isinstance(error, ModelError) else None
            self._failed(job, str(error), retry=again, blamed=blamed)
        except Exception as error:
            log.exception("job.crashed", job=job.id)
            self._failed(job, f"unexpected {type(error).__name__}", retry=True)

    @contextlib.contextmanager
    def _noted(self, job: Job) -> Iterator[None]:
        models = self._models
        limit = models.job_seconds + models.grace_seconds if models.job_seconds else math.inf
        self._runs[threading.get_ident()] = _Run(job, time.monotonic() + limit)
        try:
            yield
        finally:
            del self._runs[threading.get_ident()]

    def extend_leases(self) -> None:
        """Extend the leases of what runs, when it is time to."""
        if time.monotonic() >= self._extended_at + LEASE_SECONDS / 4:
            attempts.extend_leases(self._ledger, self.owner, LEASE_SECONDS)
            self._extended_at = time.monotonic()

    def give_up_overdue(self) -> bool:
        """Take the jobs from threads that do not stop; gives whether anything does not stop."""
        now = time.monotonic()
        for run in [run for run in list(self._runs.values()) if run.overdue_at <= now]:
            if not run.given_up:
                self._give_up(run.job)
                run.given_up = True
        return self.is_stuck()

    def _give_up(self, job: Job) -> None:
        row = Job.get_by_id(job.id)  # the thread that runs it may come to its end at this moment
        if row.attempt == job.attempt and row.state in ("running", "validating"):
            reason = f"{job.model} did not stop at its time limit: its worker is replaced"
            self._failed(row, reason, retry=True, blamed=job.model)

    def is_stuck(self) -> bool:
        """Whether a job, or the run of a model, goes on long after its time was up."""
        given_up = any(run.given_up for run in list(self._runs.values()))
        return given_up or bool(self._executor.overdue(self._models.grace_seconds))

    def is_busy(self) -> bool:
        """Whether a job runs in a thread that is not given up."""
        return any(not run.given_up for run in list(self._runs.values()))

    def _failed(self, job: Job, reason: str, *, retry: bool, blamed: str | None = None) -> None:
        log.warning("job.failed", job=job.id, model=job.model, why=reason, attempt=job.attempt)
        with contextlib.suppress(StaleStateError):
            attempts.fail(
                self._ledger,
                job,
                reason,
                max_attempts=self._models.max_attempts,
                retry=retry,
                jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
                blamed=blamed,
            )
