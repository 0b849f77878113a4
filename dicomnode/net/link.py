"""The socket of an association, as pynetdicom reads it."""

from __future__ import annotations

import socket
from typing import Any

from pynetdicom.transport import AssociationSocket

from dicomnode.net.door import MAX_REQUEST, Request, abort_pdu

_INVALID = 6
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Ask for an immediate TCP acknowledgement of what comes next.

    A sender with Nagle's algorithm holds its next segment back until the last is acknowledged, and
    the kernel by itself waits some 40 ms with that. The option does not last: it is set again
    around each read.
    """
    if _QUICKACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class PeerSocket(AssociationSocket):
    """Reads whole PDUs in large pieces, within bounds, and without delayed acknowledgements.

    Args:
        assoc: The association.
        request: The connection, with what was read of it.
        idle_seconds: How long one read may take.
    """

    def __init__(self, assoc: Any, request: Request, idle_seconds: float) -> None:
        super().__init__(assoc, client_socket=request.sock)
        self._held = bytearray(request.held)
        self.lost = False
        request.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request.sock.settimeout(idle_seconds)
        acknowledge_at_once(request.sock)

    @property
    def ready(self) -> bool:
        return bool(self._held) or bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, fewer when the peer is gone.

        Raises:
            OSError: A PDU is longer than what was negotiated, or nothing came in time.
        """
        if nr_bytes > max(MAX_REQUEST, self.assoc.acceptor.maximum_length):
            self.send(abort_pdu(_INVALID))
            raise OSError("a PDU is longer than was negotiated")
        taken = self._held[:nr_bytes]
        del self._held[:nr_bytes]
        if len(taken) == nr_bytes:
            return taken
        data = bytearray(nr_bytes)
        data[: len(taken)] = taken
        view, at = memoryview(data), len(taken)
        while at < nr_bytes:
            acknowledge_at_once(self.socket)
            received = self.socket.recv_into(view[at:])
            if not received:
                self.lost = True
                return data[:at]
            at += received
        return data

    def break_off(self) -> None:
        """Abort from another thread, whatever the association is doing."""
        sock = self.socket
        if sock is not None:
            try:
                sock.send(abort_pdu(0))
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is gone already
                self.lost = True
