"""A receiver: serves associations on a listening socket that it may share with others.

pynetdicom negotiates, owns the state machine and every service; this module gives it sockets that
answer at once, associations that are accounted for, and an orderly end.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any

from pynetdicom import AE
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationServer

from config.schema import Settings, TlsSettings
from dicomnode.net.catching_up import CatchingUp
from dicomnode.net.closing import Closing
from dicomnode.net.contexts import VERIFICATION, register_storage_classes
from dicomnode.net.door import ARTIM_SECONDS, Door, Request
from dicomnode.net.handlers import Admission, Desk, bindings, give_back, judge
from dicomnode.net.intake import Intake, Link
from dicomnode.net.library import quiet_pynetdicom
from dicomnode.net.link import PeerSocket
from dicomnode.net.messages import PeerMessages
from dicomnode.net.peers import Peers, Rejection
from dicomnode.net.provider import PeerProvider
from dicomnode.net.rates import Rates, Throttle
from dicomnode.net.rejections import Rejections
from dicomnode.net.slots import AssociationSlots
from dicomnode.net.tls import ServerTls
from storage.db import Ledger, open_ledger
from storage.objects import ObjectStore
from storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0

SETTLE_SECONDS = 5.0
"""At the end: how long acknowledged objects may take to get their rows; the next start goes on."""

PARTING_SECONDS = 2.0
"""At the end of a drain: how long peers hear 0xA700 before the node itself releases."""


@dataclass(frozen=True)
class Limits:
    """Times and paths that tests change.

    Attributes:
        artim_seconds: How long a connection may take to request an association.
        idle_seconds: An association on which nothing came for so long is aborted.
        short_path: Whether C-STOREs take the short path.
    """

    artim_seconds: float = ARTIM_SECONDS
    idle_seconds: float = IDLE_SECONDS
    short_path: bool = True


class PeerAssociation(Association):
    """An association with a peer that called, accounted for from request to end.

    Attributes:
        admission: Whose it is, and which places it has.
        throttle: How fast its bytes are taken; None without a limit.
    """

    def __init__(self, ae: AE, server: ReceiverServer, admission: Admission) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.dul = PeerProvider(self)
        self.dimse = PeerMessages(self, server.desk.intake)
        # Said again, for the timers are the provider's.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout
        self._server = server
        self.link: Link | None = None
        self.admission = admission
        self.throttle: Throttle | None = None
        self.outcome = "lost"

    @property
    def connection_lost(self) -> bool:
        """Whether the connection ended without an A-ABORT."""
        return bool(self.dul.socket.lost)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Serve one request; pynetdicom would let the sender of an incomplete one wait."""
        if msg.is_valid_request:
            super()._serve_request(msg, context_id)
            return
        log.warning("an association was aborted: a request lacks what PS3.7 demands")
        self.abort()

    def run_reactor(self) -> None:
        """Serve the association, then close the books on it however it ended."""
        try:
            super().run_reactor()
        finally:
            self._server.ended(self)
            self._server.desk.intake.ledger.close()  # this thread's connection


class _Handler(BaseRequestHandler):
    """Makes an association of a request; the twin of pynetdicom's `RequestHandler`."""

    server: ReceiverServer
    request: tuple[Request, Admission]

    def handle(self) -> None:
        server, (request, admission) = self.server, self.request
        assoc = PeerAssociation(server.ae, server, admission)
        # pynetdicom finds its acceptors by this name.
        assoc.name = f"AcceptorThread@{request.address[1]}"
        assoc.set_socket(PeerSocket(assoc, request, server.idle_seconds, server.short_path_intake))
        assoc.acceptor.maximum_length = server.ae.maximum_pdu_size
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = AddressInformation.from_tuple(server.server_address)
        assoc.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = server.ae.implementation_version_name
        assoc.acceptor.supported_contexts = []  # what is asked for decides, see handlers
        assoc.requestor.address_info = AddressInformation.from_tuple(request.address)
        for event, handler, *arguments in bindings(server.desk):
            assoc.bind(event, handler, *arguments)
        server.begun(assoc)
        assoc.start()


class ReceiverServer(AssociationServer):
    """pynetdicom's server on a socket that is listening already.

    Args:
        listener: The listening socket.
        desk: What the handlers work with.
        limits: Times and paths.
        tls: TLS for every connection; None for plain DICOM.
    """

    def __init__(
        self,
        *arguments: Any,
        listener: socket.socket,
        desk: Desk,
        limits: Limits,
        tls: ServerTls | None,
        **options: Any,
    ) -> None:
        self._given = listener
        self.desk = desk
        self.idle_seconds = limits.idle_seconds
        self.short_path_intake = desk.intake if limits.short_path else None
        self.closing = Closing(
            desk.intake.ledger, desk.intake.turn, desk.intake.settler.wait_until_settled
        )
        self.door = Door(listener, self._admit, limits.artim_seconds, tls)
        self._open: set[PeerAssociation] = set()
        self._changed = threading.Condition()
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        self.server_close()  # the socket that the base class made
        self.socket = self._given

    def server_activate(self) -> None:
        """The socket listens already."""

    def _admit(self, request: Request) -> bytes | None:
        verdict = judge(request, self.desk)
        if isinstance(verdict, Rejection):
            return verdict.pdu()
        try:
            self.finish_request((request, verdict), request.address)
        except BaseException:
            give_back(verdict.slots, self.desk)
            raise
        return None

    def begun(self, assoc: PeerAssociation) -> None:
        """An association starts."""
        with self._changed:
            self._open.add(assoc)

    def ended(self, assoc: PeerAssociation) -> None:
        """An association is over: free its place and close its row."""
        try:
            if assoc.link is not None:
                self.closing.close(assoc.link.association_id, assoc.outcome)
                log.info(
                    "association %d from %s %s",
                    assoc.link.association_id,
                    assoc.requestor.address,
                    assoc.outcome,
                )
                self.desk.intake.ended()
        finally:
            give_back(assoc.admission.slots, self.desk)
            with self._changed:
                self._open.discard(assoc)
                self._changed.notify_all()

    def open_associations(self) -> list[PeerAssociation]:
        """The associations that are not over."""
        with self._changed:
            return list(self._open)

    def wait_until_quiet(self, seconds: float) -> bool:
        """Wait for every association to end; whether they did within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, seconds)


class Receiver:
    """Serves associations in threads of this process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder.
        listener: A socket that listens; the receiver does not close it.
        index: Number of this receiver, for the association rows.
        ledger: The database of the data folder.
        limits: Times and paths.
        kept_tls: Where the last good certificates are, see `dicomnode.net.kept`.

    Raises:
        SettingsError: The TLS of the settings cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        listener: socket.socket,
        index: int,
        *,
        ledger: Ledger,
        limits: Limits | None = None,
        kept_tls: TlsSettings | None = None,
    ) -> None:
        quiet_pynetdicom()
        node = settings.node
        register_storage_classes(node.private_sop_classes)
        tls = None if node.tls is None else ServerTls(node.tls, kept_tls)
        self.store = ObjectStore(data_dir, min_free=settings.storage.min_free)
        self.intake = Intake(data_dir, settings.storage, self.store, ledger)
        self._slots = AssociationSlots(data_dir)
        self._rates = Rates(data_dir)
        self.rejections = Rejections(ledger, self.intake.turn)
        desk = Desk(
            self.intake,
            Peers(settings),
            self._slots,
            node.max_associations,
            self._rates,
            receiver_name(index),
            node.private_sop_classes,
            self.rejections,
        )
        ae = AE(ae_title=node.ae_title)
        ae.maximum_pdu_size = node.maximum_pdu_size
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.network_timeout = (limits or Limits()).idle_seconds
        # pynetdicom would stop at ten a process, and say so to the peer alone; `slots` counts.
        ae.maximum_associations = sys.maxsize
        ae.add_supported_context(VERIFICATION)
        self._server: ReceiverServer = ae.make_server(
            listener.getsockname(),
            server_class=ReceiverServer,
            request_handler=_Handler,
            listener=listener,
            desk=desk,
            limits=limits or Limits(),
            tls=tls,
        )
        self._thread = threading.Thread(target=self._server.door.run, name="door")

    def start(self) -> None:
        """Begin to accept associations."""
        self.intake.settler.start()
        self._thread.start()

    def wait_until_quiet(self, seconds: float) -> bool:
        """Wait for every association to end; whether they did within the time."""
        return self._server.wait_until_quiet(seconds)

    def stop(self, drain_seconds: float) -> None:
        """End in order: no new associations; running ones go on for a while, then hear 0xA700.

        Args:
            drain_seconds: How long running associations store normally.
        """
        self._server.door.close()
        self._thread.join()
        if not self._server.wait_until_quiet(drain_seconds):
            self.intake.draining = True
            if not self._server.wait_until_quiet(PARTING_SECONDS):
                self._part()
        self.intake.settler.wait_until_settled(None, SETTLE_SECONDS)
        self._server.closing.end()
        self.rejections.end()
        self.intake.close(SETTLE_SECONDS)
        self._slots.close()
        self._rates.close()
        self.store.close()

    def _part(self) -> None:
        parting = [
            threading.Thread(target=_part_from, args=(assoc,), daemon=True)
            for assoc in self._server.open_associations()
        ]
        for thread in parting:
            thread.start()
        if not self._server.wait_until_quiet(PARTING_SECONDS):
            for assoc in self._server.open_associations():
                assoc.dul.socket.break_off()
            self._server.wait_until_quiet(PARTING_SECONDS)


def _part_from(assoc: PeerAssociation) -> None:
    try:
        if assoc.dul.socket.leave_short_path(PARTING_SECONDS):
            assoc.acse_timeout = PARTING_SECONDS
            assoc.release()
    except Exception as error:
        # The peer may end it at this very moment, from its side; what is still open is broken off.
        log.info("an association was not released at the end: %s", type(error).__name__)


def receiver_name(index: int) -> str:
    """What association rows call the receiver of that number."""
    return f"receiver-{index}"


def run_receiver(
    settings: Settings,
    data_dir: Path,
    listener: socket.socket,
    index: int,
    stop: Connection,
    *,
    kept_tls: TlsSettings | None = None,
) -> None:
    """The main function of a receiver process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder.
        listener: The listening socket that the receivers share.
        index: Number of this receiver.
        stop: Readable, or closed at the other side, when the receiver is to end.
        kept_tls: Where the last good certificates are, see `dicomnode.net.kept`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when all end
    ledger = open_ledger(data_dir)
    receiver = Receiver(settings, data_dir, listener, index, ledger=ledger, kept_tls=kept_tls)
    catching_up = CatchingUp(ledger, receiver.store, receiver_name(index))
    catching_up.begin()
    # This thread's connection: while one is open, SQLite keeps the descriptors of those that
    # associations closed (sqlite.org/src, os_unix.c, "pending close").
    ledger.close()
    gc.freeze()  # what is loaded stays: looking through it again would hold up every association
    receiver.start()
    # The handler raises nothing: whenever the signal comes, the end is the same orderly one.
    asked, ask = socket.socketpair()
    signal.signal(signal.SIGTERM, lambda number, frame: ask.close())
    wait([stop, asked])
    catching_up.end()
    receiver.stop(settings.node.drain_seconds)
