"""Sends what lies in the outbox, one association a destination at a time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import build_context

from config.errors import InputError, MedAIError, PeerError, StorageError, UnreadableError
from config.peers import DestinationSettings
from config.schema import Settings
from dicomnode.net.contexts import VERIFICATION
from dicomnode.net.scu import (
    FileFacts,
    Link,
    Peer,
    contexts_for,
    file_facts,
    open_association_to,
)
from dicomnode.net.status import accepted_by_peer
from dicomnode.results.bundle import chain
from dicomnode.results.write import SENDABLE, as_accepted
from storage import fallback, outbox
from storage.db import Ledger
from storage.objects import ObjectStore
from storage.outbox import Patience
from storage.records import Delivery, Result

log = structlog.get_logger(__name__)

BATCH = 50

UNCOMPRESSED = tuple(map(str, (ExplicitVRLittleEndian, ImplicitVRLittleEndian)))
NO_CONTEXT = "the destination accepts no presentation context for it"

# These the peer will answer every time; all other failures may pass.
_REFUSALS = {
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
}

# Of these it may take another form of the same result.
_OF_THE_FORM = frozenset({0x0122})


def _refusal(status: int) -> str | None:
    # A9xx and Cxxx are ranges (PS3.4 B.2.3).
    if status >> 8 == 0xA9:
        return "data set does not match SOP class"
    return "cannot understand" if status >> 12 == 0xC else _REFUSALS.get(status)


def patience_of(destination: DestinationSettings) -> Patience:
    """How long and how often a destination is tried."""
    return Patience(
        first=destination.retry_seconds,
        longest=destination.retry_max_seconds,
        give_up_days=destination.give_up_days,
        give_up_failures=destination.give_up_failures,
    )


@dataclass
class _Parcel:
    """One delivery under way and what may stand in for its result, best first."""

    row: Delivery
    facts: FileFacts
    others: list[tuple[Result, FileFacts]]


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
        self._patience = patience_of(self._destination) if self._destination else Patience()
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
                self._put_back(rows, "the destination is no longer in the settings")
                break
            done = self._send(rows, self._destination)
            accepted += done
            if done < len(rows):
                break
        return accepted

    def _send(self, rows: Sequence[Delivery], destination: DestinationSettings) -> int:
        peer = Peer.of(destination, self._calling_ae)
        parcels = [parcel for row in rows if (parcel := self._parcel(row))]
        if not parcels:
            return 0
        waiting = [parcel.row for parcel in parcels]
        accepted = 0
        try:
            # A node's results are of few SOP classes: one list of contexts holds them all.
            contexts = contexts_for(
                replace(facts, transfer_syntax_uid=syntax)
                for parcel in parcels
                for _, facts in _forms(parcel)
                for syntax in self._syntaxes(facts)
            )[0]
            # Who takes none of them still takes part, and can be told from one that is down.
            contexts = [*contexts, build_context(VERIFICATION)]
            with open_association_to(peer, contexts) as link:
                outbox.note_begun(self._ledger, waiting)
                self._note_kinds(link, parcels)
                for parcel in parcels:
                    accepted += self._answered(link, parcel, destination)
                    waiting.pop(0)
            outbox.destination_answered(self._ledger, self._name)
        except MedAIError as error:
            status = error.status if isinstance(error, PeerError) else None
            log.warning("delivery.postponed", destination=self._name, why=str(error), status=status)
            outbox.destination_failed(
                self._ledger,
                self._name,
                waiting,
                str(error),
                self._patience,
                jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            )
        return accepted

    def _parcel(self, row: Delivery) -> _Parcel | None:
        """What is needed to send a result; one that cannot be read holds up no other."""
        try:
            facts = self._facts(row.result)
        except InputError as error:
            log.error(
                "delivery.unreadable", destination=self._name, delivery=row.id, why=str(error)
            )
            if isinstance(error, UnreadableError):
                self._put_back([row], "the stored result cannot be read now")
            else:
                outbox.lost(self._ledger, row, "the stored result is missing or damaged")
            return None
        others = []
        for result in fallback.stand_ins(row, chain(row.wanted)):
            with contextlib.suppress(InputError):  # one that cannot be read stands in for nothing
                others.append((result, self._facts(result)))
        return _Parcel(row, facts, others)

    def _facts(self, result: Result) -> FileFacts:
        return file_facts(self._store.path(result.object_key))

    def _note_kinds(self, link: Link, parcels: Sequence[_Parcel]) -> None:
        forms = [form for parcel in parcels for form in _forms(parcel)]
        taken = {result.kind: self._takes(link, facts) for result, facts in forms}
        fallback.note_kinds(self._ledger, self._name, taken)

    def _answered(self, link: Link, parcel: _Parcel, destination: DestinationSettings) -> bool:
        """Send one object, or the best form of it that is taken; whether one was."""
        row = parcel.row
        if not self._takes(link, parcel.facts):
            return self._falls_back(link, parcel, destination, NO_CONTEXT, None)
        try:
            status = self._store_on(link, parcel)
        except InputError as error:
            log.error(
                "delivery.unreadable", destination=self._name, delivery=row.id, why=str(error)
            )
            outbox.lost(self._ledger, row, "the stored result is missing or damaged")
            return False
        except OSError as error:
            raise StorageError(f"a result cannot be prepared: {error.strerror}") from error
        if accepted_by_peer(status):
            outbox.accepted(self._ledger, row, status)
            return True
        if (refusal := _refusal(status)) is not None:
            why = f"0x{status:04X}: {refusal}"
            if status in _OF_THE_FORM:
                return self._falls_back(link, parcel, destination, why, status)
            return self._refused(row, why, status)
        why = f"{destination.name} answered C-STORE with 0x{status:04X}"
        if status >> 8 == 0xA7:  # out of resources: so it will answer what follows
            raise PeerError(why, status)
        log.warning("delivery.postponed", destination=self._name, why=why, status=status)
        self._put_back([row], why, status)
        return False

    def _syntaxes(self, facts: FileFacts) -> tuple[str, ...]:
        """What a stored result is offered in, best first.

        Deflated, as it is kept, only where the settings say so: there are receivers that accept
        that and cannot read it.
        """
        if facts.transfer_syntax_uid not in SENDABLE:
            return (facts.transfer_syntax_uid,)
        reads = self._destination is not None and self._destination.deflated
        return tuple(map(str, SENDABLE)) if reads else UNCOMPRESSED

    def _takes(self, link: Link, facts: FileFacts) -> bool:
        return not link.syntaxes(facts.sop_class_uid).isdisjoint(self._syntaxes(facts))

    def _store_on(self, link: Link, parcel: _Parcel) -> int:
        accepted = link.syntaxes(parcel.facts.sop_class_uid)
        stored = parcel.facts.path
        if parcel.facts.transfer_syntax_uid in accepted:
            return link.store(stored)
        # What a crash leaves here goes when the same delivery is sent again.
        path = self._ledger.data_dir / "sending" / f"{parcel.row.id}.dcm"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            path.write_bytes(as_accepted(stored.read_bytes(), accepted))
            return link.store(path)
        finally:
            path.unlink(missing_ok=True)

    def _falls_back(
        self,
        link: Link,
        parcel: _Parcel,
        destination: DestinationSettings,
        why: str,
        status: int | None,
    ) -> bool:
        while parcel.others:
            result, parcel.facts = parcel.others.pop(0)
            if not self._takes(link, parcel.facts):
                continue
            if not fallback.send_instead(self._ledger, parcel.row, result, why):
                why = f"{why}; {result.kind}, which would stand in for it, is sent anyway"
                break
            log.info(
                "delivery.fell_back", destination=self._name, delivery=parcel.row.id, to=result.kind
            )
            return self._answered(link, parcel, destination)
        return self._refused(parcel.row, why, status)

    def _refused(self, row: Delivery, why: str, status: int | None) -> bool:
        outbox.refused(self._ledger, row, why, status)
        log.warning("delivery.refused", destination=self._name, why=why)
        return False

    def _put_back(self, rows: Sequence[Delivery], why: str, status: int | None = None) -> None:
        outbox.put_back(
            self._ledger,
            rows,
            why,
            self._patience,
            status=status,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )


def _forms(parcel: _Parcel) -> list[tuple[Result, FileFacts]]:
    return [(parcel.row.result, parcel.facts), *parcel.others]
