"""Sends what lies in the outbox, one association a destination at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import structlog

from config.errors import InputError, MedAIError, PeerError, UnreadableError
from config.schema import DestinationSettings, Settings
from dicomnode.net.scu import (
    FileFacts,
    Link,
    Peer,
    contexts_for,
    file_facts,
    open_association_to,
)
from dicomnode.net.status import accepted_by_peer
from storage import outbox
from storage.db import Ledger
from storage.objects import ObjectStore
from storage.records import Delivery

log = structlog.get_logger(__name__)

BATCH = 50

# These the peer will answer every time; all other failures may pass.
_REFUSALS = {
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
}


def _refusal(status: int) -> str | None:
    # A9xx and Cxxx are ranges (PS3.4 B.2.3).
    if status >> 8 == 0xA9:
        return "data set does not match SOP class"
    return "cannot understand" if status >> 12 == 0xC else _REFUSALS.get(status)


class Courier:
    """Delivers to one destination; not shared between threads.

    Args:
        settings: The node's settings.
        destination: Its name.
        ledger: The database.
        store: Where the objects lie.
    """

    def __init__(
        self, settings: Settings, destination: str, ledger: Ledger, store: ObjectStore
    ) -> None:
        self._calling_ae = settings.node.ae_title
        self._name = destination
        self._destination = settings.destination(destination)
        self._ledger = ledger
        self._store = store

    def deliver(self, stopping: Callable[[], bool]) -> int:
        """Send what is due; gives how many objects were accepted."""
        # What an unexpected error left under way goes out again; this thread is the only courier.
        outbox.return_orphans(self._ledger, self._name)
        accepted = 0
        while not stopping():
            rows = outbox.claim(self._ledger, self._name, BATCH)
            if not rows:
                break
            if self._destination is None:
                self._put_back(rows, "the destination is no longer in the settings", None)
                break
            done = self._send(rows, self._destination)
            accepted += done
            if done < len(rows):
                break
        return accepted

    def _send(self, rows: Sequence[Delivery], destination: DestinationSettings) -> int:
        peer = Peer.of(destination, self._calling_ae)
        ready = [(row, facts) for row in rows if (facts := self._facts(row, destination))]
        if not ready:
            return 0
        waiting = [row for row, _ in ready]
        accepted = 0
        try:
            # A node's results are of few SOP classes: one list of contexts holds them all.
            contexts = contexts_for(facts for _, facts in ready)[0]
            with open_association_to(peer, contexts) as link:
                outbox.note_begun(self._ledger, waiting)
                for row, facts in ready:
                    accepted += self._answered(link, facts, row, destination)
                    waiting.pop(0)
        except MedAIError as error:
            status = error.status if isinstance(error, PeerError) else None
            log.warning("delivery.postponed", destination=self._name, why=str(error), status=status)
            self._put_back(waiting, str(error), destination)
        return accepted

    def _facts(self, row: Delivery, destination: DestinationSettings) -> FileFacts | None:
        """What is needed to send a result; one that cannot be read holds up no other."""
        try:
            return file_facts(self._store.path(row.result.object_key))
        except InputError as error:
            log.error(
                "delivery.unreadable", destination=self._name, delivery=row.id, why=str(error)
            )
            if isinstance(error, UnreadableError):
                self._put_back([row], "the stored result cannot be read now", destination)
            else:
                outbox.lost(self._ledger, row, "the stored result is missing or damaged")
        return None

    def _answered(
        self, link: Link, facts: FileFacts, row: Delivery, destination: DestinationSettings
    ) -> bool:
        if not link.accepts(facts):
            why = "the destination accepts no presentation context for this kind of object"
            outbox.refused(self._ledger, row, why, None)
            log.warning("delivery.refused", destination=self._name, why=why)
            return False
        status = link.store(facts.path)
        if accepted_by_peer(status):
            outbox.accepted(self._ledger, row, status)
            return True
        if (refusal := _refusal(status)) is not None:
            why = f"0x{status:04X}: {refusal}"
            outbox.refused(self._ledger, row, why, status)
            log.warning("delivery.refused", destination=self._name, why=why)
            return False
        why = f"{destination.name} answered C-STORE with 0x{status:04X}"
        if status >> 8 == 0xA7:  # out of resources: so it will answer what follows
            raise PeerError(why, status)
        log.warning("delivery.postponed", destination=self._name, why=why, status=status)
        self._put_back([row], why, destination, status)
        return False

    def _put_back(
        self,
        rows: Sequence[Delivery],
        why: str,
        destination: DestinationSettings | None,
        status: int | None = None,
    ) -> None:
        outbox.put_back(
            self._ledger,
            rows,
            why,
            status=status,
            first=destination.retry_seconds if destination else 60.0,
            longest=destination.retry_max_seconds if destination else 3600.0,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
