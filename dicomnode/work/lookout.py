"""The lookout: sees once a minute what might be wrong, keeps alerts, and tells who wants them."""

from __future__ import annotations

import json
import random
import threading
import time

import structlog

from ai.registry import Registry
from config.errors import MedAIError, PeerError
from config.schema import Settings
from dicomnode.work.borders import reported
from dicomnode.work.drift import DriftWatch
from dicomnode.work.notify import channels
from dicomnode.work.rules import RULES, Sight
from storage import alerts
from storage.alerts import Trouble
from storage.db import Ledger
from storage.objects import ObjectStore
from storage.pruning import prune
from storage.shadows import prune_shadows

log = structlog.get_logger(__name__)

PRUNE_SECONDS = 3600.0
SEND_SECONDS = 1.0


class Lookout:
    """Watches models and the node; one thread runs it.

    Args:
        settings: The node's settings.
        ledger: The database.
        store: Where the objects lie.
        registry: Where models' references lie.
        node_id: Names the node in messages that go out.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: ObjectStore,
        registry: Registry,
        node_id: str,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._registry = registry
        self._drift = DriftWatch(ledger, registry, settings.watch)
        self._channels = channels(settings.alerts)
        self._node_id = node_id
        self._pruned_at = time.monotonic()

    def run(self, stopping: threading.Event) -> None:
        """Look, tell and send until the worker ends."""
        looked_at = -1e9
        while not stopping.wait(min(SEND_SECONDS, self._settings.alerts.every_seconds)):
            if time.monotonic() - looked_at >= self._settings.alerts.every_seconds:
                looked_at = time.monotonic()
                with reported("looking what is wrong"):
                    self.look()
            with reported("sending alerts"):
                self.send(stopping)

    def look(self) -> None:
        """Compute drifts, ask every rule, and queue messages about what changed."""
        with reported("computing drifts"):
            self._drift.look()
        data_dir, now = self._ledger.data_dir, time.time()
        sight = Sight(self._settings, data_dir, self._store, self._registry, now)
        troubles: list[Trouble] = []
        asked: list[str] = []
        for name, rule in RULES.items():
            with reported(f"asking the rule {name}"):
                found = list(rule(sight))
                troubles += found
                asked.append(name)
        for row in alerts.take(self._ledger, troubles, asked):
            tell = log.warning if row.state == "raised" else log.info
            tell(f"alert.{row.state}", rule=row.rule, subject=row.subject, why=row.reason)
        self._tell(sight.now)
        self._prune()

    def _tell(self, now: float) -> None:
        limits = self._settings.alerts
        rows = alerts.to_tell(
            now, quiet_seconds=limits.quiet_seconds, remind_seconds=limits.remind_seconds
        )
        if rows:
            alerts.tell(self._ledger, rows, list(self._channels), self._settings.node.ae_title)

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at >= PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            keep = self._settings.watch
            prune(self._ledger, keep_days=keep.keep_days, keep_runs=keep.keep_runs)
            gone = prune_shadows(self._ledger, self._store, keep_days=keep.shadow_days)
            if gone:
                log.info("shadows.pruned", results=gone)

    def send(self, stopping: threading.Event | None = None) -> None:
        """Send what is due; what is not taken is tried again later."""
        deaf: set[str] = set()  # what does not answer now is not waited for again and again
        for row in alerts.due(time.time()):
            if stopping is not None and stopping.is_set():
                return
            if row.channel in deaf:
                continue
            send = self._channels.get(row.channel)
            try:
                if send is None:
                    raise PeerError("it is no longer in the settings")
                send({"id": f"{self._node_id}-{row.id}", **json.loads(row.content)})
            except MedAIError as error:
                deaf.add(row.channel)
                log.warning("alert.not_sent", channel=row.channel, why=str(error))
                alerts.not_sent(self._ledger, row, str(error), random.random())  # noqa: S311 - spreads retries, guards nothing
            else:
                alerts.sent(self._ledger, row)
