"""The socket of an association, as pynetdicom reads it.

pynetdicom's reader asks the socket whether a PDU is ready and then reads it. Once an association is
established, that question is where the short path takes the connection over.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any

from pynetdicom.transport import AssociationSocket

from dicomnode.net.door import MAX_REQUEST, Request, abort_pdu
from dicomnode.net.intake import Intake
from dicomnode.net.quickack import acknowledge_at_once
from dicomnode.net.shortpath import MIN_PEER_PDU, End, ShortPath

log = logging.getLogger(__name__)

_INVALID = 6
_ESTABLISHED, _CLOSING = "Sta6", "Sta13"
_DRAINED = 1 << 20


class PeerSocket(AssociationSocket):
    """Reads whole PDUs in large pieces, within bounds, and without delayed acknowledgements.

    Args:
        assoc: The association, a `dicomnode.net.scp.PeerAssociation`.
        request: The connection, with what was read of it.
        idle_seconds: How long one read may take.
        intake: Where the short path puts objects; None leaves everything to pynetdicom.
    """

    def __init__(
        self, assoc: Any, request: Request, idle_seconds: float, intake: Intake | None
    ) -> None:
        super().__init__(assoc, client_socket=request.sock)
        self._held = bytearray(request.held)
        self._idle_seconds = idle_seconds
        self._intake = intake
        self._short: ShortPath | None = None
        self.lost = False
        self._left = threading.Event()
        self._left.set()
        self._broken_off = threading.Event()
        request.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request.sock.settimeout(idle_seconds)
        acknowledge_at_once(request.sock)

    @property
    def ready(self) -> bool:
        state = self.assoc.dul.state_machine.current_state
        if state == _CLOSING:
            self._drain()
            return False
        if self._intake is not None and state == _ESTABLISHED:
            intake, self._intake = self._intake, None
            self._serve(intake)
        return bool(self._held) or self._is_readable()

    def _is_readable(self) -> bool:
        """As the base class has it, which asks `select`: that knows no descriptor above 1023."""
        sock = self.socket
        if sock is None:
            return False
        poll = select.poll()
        try:
            poll.register(sock, select.POLLIN)
            readable = bool(poll.poll(0))
        except (OSError, ValueError):  # it was closed at this very moment
            self.event_queue.put("Evt17")
            return False
        # What TLS has read and not yet given out is not seen by the kernel.
        return readable or (isinstance(sock, ssl.SSLSocket) and bool(sock.pending()))

    def _drain(self) -> None:
        """Throw away what still comes while the connection closes.

        A close with bytes unread would reset the connection, and the peer might never read the
        A-ABORT or A-ASSOCIATE-RJ that was sent.
        """
        self._held.clear()
        drained = 0
        with suppress(OSError):  # nothing left, or the peer is gone
            self.socket.setblocking(False)
            while drained < _DRAINED and (data := self.socket.recv(1 << 16)):
                drained += len(data)

    def close(self) -> None:
        """Close the connection, also one that is cut already: pynetdicom leaves that open."""
        sock = self.socket
        super().close()
        if sock is not None:
            sock.close()

    def _serve(self, intake: Intake) -> None:
        """Serve the association here until pynetdicom is needed."""
        assoc = self.assoc
        peer_pdu = assoc.requestor.maximum_length
        if 0 < peer_pdu < MIN_PEER_PDU:
            return
        # The other thread of the association has nothing to do, and would look every millisecond.
        assoc._reactor_checkpoint.clear()
        self._left.clear()
        self._short = ShortPath(
            self.socket,
            {
                context.context_id: (context.abstract_syntax, context.transfer_syntax[0])
                for context in assoc.accepted_contexts
            },
            intake,
            assoc.link,
            max_pdu=assoc.acceptor.maximum_length,
            idle_seconds=self._idle_seconds,
            throttle=assoc.throttle,
        )
        try:
            end = self._short.run()
        except Exception:
            # The border of the association: the peer hears an abort, the next one is served.
            log.exception("the short path failed")
            end = End.BROKEN
        if end in (End.UNUSUAL, End.LEAVING):
            self._held += self._short.leftover()
        self._short = None
        intake.ledger.close()  # this thread's connection
        self._resume(end)

    def _resume(self, end: End) -> None:
        """Give the association back to pynetdicom."""
        self.lost = end is End.LOST
        if end is End.BROKEN:
            with suppress(OSError):  # it is gone already
                self.socket.send(abort_pdu(0))
            self.break_off()
        elif end is not End.LOST:
            self.socket.settimeout(self._idle_seconds)
        if end is not End.IDLE:
            self.assoc.dul._idle_timer.restart()
        self.assoc._reactor_checkpoint.set()
        self._left.set()

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, fewer when the peer is gone.

        Raises:
            OSError: A PDU is longer than what was negotiated, or nothing came in time.
        """
        if nr_bytes > max(MAX_REQUEST, self.assoc.acceptor.maximum_length):
            self.send(abort_pdu(_INVALID))
            raise OSError("a PDU is longer than was negotiated")
        data = self._held[:nr_bytes]
        del self._held[:nr_bytes]
        try:
            self._read_into(data, nr_bytes)
        except OSError:
            self.lost = True
            raise
        return data

    def _read_into(self, data: bytearray, wanted: int) -> None:
        throttle = self.assoc.throttle
        while len(data) < wanted:
            acknowledge_at_once(self.socket)
            most = wanted - len(data)
            if throttle is not None:
                self._broken_off.wait(throttle.pause())
                most = min(most, throttle.piece)
            received = self.socket.recv(most)
            if not received:
                self.lost = True
                return
            if throttle is not None:
                throttle.took(len(received))
            data += received

    def leave_short_path(self, seconds: float) -> bool:
        """Let pynetdicom have the association after the message that is being received.

        Args:
            seconds: How long to wait for that.

        Returns:
            Whether pynetdicom has it.
        """
        self._intake = None
        short = self._short
        if short is not None:
            short.leave()
        return self._left.wait(seconds)

    def break_off(self) -> None:
        """Abort, from any thread, whatever the association is doing."""
        self._broken_off.set()
        sock = self.socket
        if sock is None:
            return
        with suppress(OSError):  # it is gone already
            if not isinstance(sock, ssl.SSLSocket):
                sock.send(abort_pdu(0))
            # OpenSSL serves one thread at a time, and an SSLSocket that was shut down by its own
            # method would go on reading what is there as plain bytes: only the connection ends.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
