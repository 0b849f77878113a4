"""One courier a destination that something waits for, each in a thread of its own."""

from __future__ import annotations

import threading

from config.schema import Settings
from dicomnode.work.borders import reported
from dicomnode.work.delivery import Courier
from storage import outbox
from storage.db import Ledger
from storage.objects import ObjectStore
from storage.sole import sole


class Couriers:
    """The couriers of a worker.

    Args:
        settings: The node's settings.
        ledger: The database.
        store: Where the objects lie.
        stopping: Set when the worker ends; a courier then ends after the batch under way.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, store: ObjectStore, stopping: threading.Event
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._stopping = stopping
        self._threads: dict[str, threading.Thread] = {}

    def start_due(self) -> None:
        """Start one for each destination that something may go out to and nobody delivers to."""
        for name in outbox.destinations_due():
            thread = self._threads.get(name)
            if thread is None or not thread.is_alive():
                self._threads[name] = threading.Thread(
                    target=self._deliver, args=(name,), name=f"courier-{name}"
                )
                self._threads[name].start()

    def are_busy(self) -> bool:
        """Whether one delivers now."""
        return any(thread.is_alive() for thread in self._threads.values())

    def join(self) -> None:
        """Wait until each has ended."""
        for thread in self._threads.values():
            thread.join()

    def _deliver(self, name: str) -> None:
        courier = Courier(self._settings, name, self._ledger, self._store)
        # A worker that was replaced may still be sending what it began.
        with reported("delivering"), sole(self._ledger.data_dir, f"deliver {name}") as alone:
            if alone:
                courier.deliver(self._stopping.is_set)
