"""The threads that run jobs: each claims the next one, runs it, and notes how it ended."""

from __future__ import annotations

import contextlib
import random
import threading

import structlog

from config.errors import (
    ContentError,
    GateError,
    InferenceError,
    MedAIError,
    ModelError,
    SeriesError,
    StaleStateError,
    StorageError,
)
from config.schema import Settings
from dicomnode.work.borders import reported
from dicomnode.work.execute import Executor
from dicomnode.work.switches import is_paused
from storage import attempts, dispatch
from storage.db import Ledger, process_name
from storage.records import Job

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
LEASE_SECONDS = 60.0


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
        self._settings = settings
        self._ledger = ledger
        self._executor = executor
        self._stopping = stopping
        self._may_be_more = threading.Condition()

    def threads(self) -> list[threading.Thread]:
        """The threads, not started yet."""
        return [
            threading.Thread(target=self._run, name=f"job-{number}")
            for number in range(self._settings.models.worker_threads)
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
        if is_paused():
            return False
        job = dispatch.claim(self._ledger, self.owner, LEASE_SECONDS)
        if job is None:
            return False
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
            self._failed(job, str(error), retry=_may_end_otherwise(error))
        except Exception as error:
            log.exception("job.crashed", job=job.id)
            self._failed(job, f"unexpected {type(error).__name__}", retry=True)
        self.wake()
        return True

    def keep_leases(self) -> None:
        """Extend the leases of what runs until the worker ends."""
        while not self._stopping.wait(LEASE_SECONDS / 4):
            with reported("extending leases"):
                attempts.extend_leases(self._ledger, self.owner, LEASE_SECONDS)

    def _failed(self, job: Job, reason: str, *, retry: bool) -> None:
        log.warning("job.failed", job=job.id, model=job.model, why=reason, attempt=job.attempt)
        with contextlib.suppress(StaleStateError):
            attempts.fail(
                self._ledger,
                job,
                reason,
                max_attempts=self._settings.models.max_attempts,
                retry=retry,
                jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            )


def _may_end_otherwise(error: MedAIError) -> bool:
    return isinstance(error, StorageError) or (isinstance(error, InferenceError) and error.retry)
