"""What the node does at each event of an association: plain functions, bound in one list."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from config.errors import StorageError
from dicomnode.net.contexts import supported
from dicomnode.net.door import Request
from dicomnode.net.intake import Intake, Link
from dicomnode.net.messages import on_message
from dicomnode.net.peers import (
    LOCAL_LIMIT_EXCEEDED,
    PEER_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Caller,
    Peers,
    Rejection,
)
from dicomnode.net.procedure import on_create, on_other, on_set
from dicomnode.net.rates import Rates, Throttle
from dicomnode.net.rejections import Rejections
from dicomnode.net.slots import NODE, AssociationSlots
from dicomnode.net.status import Answer
from storage.index import open_association

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What the handlers of one receiver work with.

    Attributes:
        intake: Where objects go.
        peers: Who may call.
        slots: The places of associations.
        max_associations: How many may be open at once.
        rates: How fast peers are listened to.
        receiver: What association rows call this receiver.
        private_classes: SOP classes accepted beside the standard's.
        rejections: Where rejected associations are put on record.
    """

    intake: Intake
    peers: Peers
    slots: AssociationSlots
    max_associations: int
    rates: Rates
    receiver: str
    private_classes: tuple[str, ...]
    rejections: Rejections


@dataclass(frozen=True)
class Admission:
    """A requestor that may have its association.

    Attributes:
        caller: Who it is.
        slots: Its places, to be given back when the association ends.
    """

    caller: Caller
    slots: list[int]


def bindings(desk: Desk) -> list[tuple[Any, ...]]:
    """Every event that is handled, and by what."""
    return [
        (evt.EVT_REQUESTED, on_requested, [desk]),
        (evt.EVT_C_ECHO, on_echo),
        (evt.EVT_DIMSE_RECV, on_message),
        (evt.EVT_C_STORE, on_store),
        (evt.EVT_N_CREATE, on_create, [desk]),
        (evt.EVT_N_SET, on_set, [desk]),
        (evt.EVT_N_GET, on_other),
        (evt.EVT_N_EVENT_REPORT, on_other),
        (evt.EVT_RELEASED, on_released),
        (evt.EVT_ABORTED, on_aborted),
    ]


def judge(request: Request, desk: Desk) -> Admission | Rejection:
    """May this requestor have an association? Asked before one costs anything."""
    called, calling = request.titles
    address = request.address[0]
    caller = desk.peers.admit(called, calling, address, request.certificate)
    verdict = _with_places(caller, desk) if isinstance(caller, Caller) else caller
    if isinstance(verdict, Rejection):
        desk.rejections.note(verdict, (called, calling, address))
    return verdict


def _with_places(caller: Caller, desk: Desk) -> Admission | Rejection:
    """The caller when a place is left, of its own and over all."""
    lanes = [(LOCAL_LIMIT_EXCEEDED, desk.max_associations, NODE)]
    if caller.max_associations is not None:
        # First, so that a peer at its limit takes no place of others, not for a moment.
        lanes.insert(0, (PEER_LIMIT_EXCEEDED, caller.max_associations, 1 + caller.entry))
    slots: list[int] = []
    for rejection, limit, lane in lanes:
        slot = desk.slots.take(limit, lane)
        if slot is None:
            give_back(slots, desk)
            return rejection
        slots.append(slot)
    return Admission(caller, slots)


def give_back(slots: list[int], desk: Desk) -> None:
    """Free the places of an association."""
    for slot in slots:
        desk.slots.give(slot)


def on_requested(event: evt.Event, desk: Desk) -> None:
    """An A-ASSOCIATE-RQ of a caller that was admitted: offer what it asks for."""
    assoc = event.assoc
    caller: Caller = assoc.admission.caller
    request = assoc.requestor.primitive
    address = assoc.requestor.address
    called, calling = request.called_ae_title, request.calling_ae_title
    association_id = None
    if not desk.intake.draining:
        try:
            with desk.intake.turn.held(time.monotonic()):
                association_id = open_association(
                    desk.intake.ledger,
                    calling_ae=calling,
                    called_ae=called,
                    address=address,
                    receiver=desk.receiver,
                )
        except StorageError as error:
            log.error("an association could not be recorded: %s", error)
    if association_id is None:
        congested = TEMPORARY_CONGESTION
        assoc.acse.send_reject(congested.result, congested.source, congested.reason)
        assoc.kill()
        desk.rejections.note(congested, (called, calling, address))
        return
    assoc.link = Link(association_id, calling, caller.may)
    if caller.max_bytes_per_second:
        assoc.throttle = Throttle(desk.rates, caller.entry, caller.max_bytes_per_second)
    assoc.acceptor.supported_contexts = supported(
        request.presentation_context_definition_list,
        desk.private_classes,
        caller.may,
    )


def on_echo(event: evt.Event) -> int:
    """C-ECHO (PS3.7 9.1.5): Success."""
    return 0x0000


def on_store(event: evt.Event) -> Dataset:
    """C-STORE on pynetdicom's path: the object was received as it came, see `messages`.

    Returns:
        Status and Error Comment; see `dicomnode.net.status` for every one there is.
    """
    return _status(event.request.DataSet.answer)


def _status(answer: Answer) -> Dataset:
    response = Dataset()
    response.Status = answer.status
    if answer.comment:
        response.ErrorComment = answer.comment
    return response


def on_released(event: evt.Event) -> None:
    """The association was released."""
    event.assoc.outcome = "released"


def on_aborted(event: evt.Event) -> None:
    """The peer or the node aborted, or the connection was lost."""
    event.assoc.outcome = "lost" if event.assoc.connection_lost else "aborted"
