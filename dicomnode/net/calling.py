"""pynetdicom's AE and socket as the node calls with them: what a peer answers has bounds."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import AssociationSocket

from dicomnode.net.quickack import acknowledge_at_once
from dicomnode.net.tls import ClientContext

MAX_ANSWER_PDU = 1 << 20
"""Longest PDU that is read of a peer that was called, in bytes; asked for are 16 KiB."""


STANDING_SECONDS = 1.0
"""How long a request waits for the association's other thread to stand still."""


@dataclass(frozen=True)
class Bounds:
    """What one association may cost.

    Attributes:
        seconds: From the attempt to connect to the end.
        answer_bytes: Read from the peer.
    """

    seconds: float
    answer_bytes: int


class Checkpoint(threading.Event):
    """Where pynetdicom's thread of an association stands still while a request is made.

    pynetdicom asks whether that thread stood. One that the last answer has just let go still says
    so, goes its round all the same, and takes the next answer for a request of the peer's: who
    asked waits in vain. Here `clear` returns when the thread stands, and it does not pass before
    `set`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._gate = threading.Condition()
        self._stands = False
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Stand still until it is set; whether it is."""
        with self._gate:
            self._stands = True
            self._gate.notify_all()
            passes = self._gate.wait_for(self.is_set, timeout)
            self._stands = False
            return passes

    def set(self) -> None:
        """Let the thread go its rounds."""
        with self._gate:
            super().set()
            self._gate.notify_all()

    def clear(self) -> None:
        """Have the thread stand still; one that has ended is not waited for long."""
        with self._gate:
            super().clear()
            self._gate.wait_for(lambda: self._stands, STANDING_SECONDS)


class _BoundedSocket(AssociationSocket):
    """Reads only so much; more ends the connection. Nobody waits for an acknowledgement."""

    left: int | None = None

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, fewer when the peer is gone.

        Raises:
            OSError: That is more than is read of a peer.
        """
        if nr_bytes > MAX_ANSWER_PDU or (self.left is not None and nr_bytes > self.left):
            raise OSError("the peer sends too much")
        if self.left is not None:
            self.left -= nr_bytes
        acknowledge_at_once(self.socket)
        data: bytearray = super().recv(nr_bytes)
        return data


class CallingAE(AE):
    """Keeps hold of its socket: pynetdicom leaves one that could not connect, or was cut, open."""

    raw: socket.socket | None = None
    tls: ClientContext | None = None
    bounds: Bounds | None = None
    _deadline: threading.Timer | None = None

    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> Any:
        assoc._reactor_checkpoint = Checkpoint()
        wrapper = _BoundedSocket(assoc, address=address)
        wrapper.tls_args = tls_args
        self.raw = wrapper.socket
        wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.bounds is not None:
            wrapper.left = self.bounds.answer_bytes
            self._deadline = threading.Timer(self.bounds.seconds, self.break_off)
            self._deadline.daemon = True
            self._deadline.start()
        return wrapper

    def break_off(self) -> None:
        """End the connection, from any thread; what waits for the peer then fails."""
        for made in self._sockets():
            with suppress(OSError):  # it is not connected, or gone already
                socket.socket.shutdown(made, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        for made in self._sockets():
            made.close()

    def _sockets(self) -> list[socket.socket]:
        made = (self.raw, self.tls.made if self.tls is not None else None)
        return [each for each in made if each is not None]
