"""Where connections wait until they have said what they want.

A new connection costs one socket until its A-ASSOCIATE-RQ is whole: no thread, no association.
Probes of a load balancer, idle connections, half a PDU and plain rubbish end here. With TLS the
handshake is done here too, step by step as its bytes come and within the same time: no connection
waits for that of another.
"""

from __future__ import annotations

import logging
import resource
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from dicomnode.net.repeats import Repeats, times
from dicomnode.net.tls import ServerTls, shown_certificate

log = logging.getLogger(__name__)

ARTIM_SECONDS = 30.0
"""How long a connection may take to request an association (PS3.8 9.1.4)."""

MAX_WAITING = 1024
WAITING_SHARE = 4
"""They have no more than one in so many of the descriptors of the process."""

MAX_REQUEST = 1 << 18
"""Longest A-ASSOCIATE-RQ: 128 contexts with every transfer syntax there is stay below it."""

A_ASSOCIATE_RQ = 0x01
_TLS_HANDSHAKE = 0x16  # a record's first byte (RFC 8446 5.1)
_HEADER = struct.Struct(">BBL")
# A-ABORT of the service provider: 1 unrecognised PDU, 2 unexpected PDU, 6 invalid parameter
# (PS3.8 9.3.8).
_UNRECOGNISED, _UNEXPECTED, _INVALID = 1, 2, 6
_ACCEPT_PAUSE = 0.2
# What OpenSSL calls the commonest reasons, for those who look after the network.
_PLAIN_WORDS = {
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer showed no certificate",
    "UNSUPPORTED_PROTOCOL": "the peer's version of TLS is too old",
    "NO_SHARED_CIPHER": "the peer offers no cipher suite of the profile",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust the node's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer finds the node's certificate expired",
}
_TITLES = struct.Struct(">10x16s16s")
"""Called and calling AE title in an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

_SHORTEST_REQUEST = 74  # what comes before its first item
_DRAINED = 1 << 20


def abort_pdu(reason: int) -> bytes:
    """An A-ABORT PDU of the service provider (PS3.8 9.3.8)."""
    return struct.pack(">BBLBBBB", 0x07, 0, 4, 0, 0, 2, reason)


def _plainly(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not trusted: {error.verify_message}"
    return _PLAIN_WORDS.get(error.reason or "", error.reason or "unknown")


@dataclass
class _Waiting:
    sock: socket.socket
    address: tuple[str, int]
    deadline: float
    handshake: bool
    data: bytearray = field(default_factory=bytearray)
    wanted: int = _HEADER.size
    turned_away: bool = False
    drained: int = 0


@dataclass(frozen=True)
class Request:
    """A connection whose A-ASSOCIATE-RQ is here.

    Attributes:
        sock: The connection, blocking.
        address: Where it comes from.
        held: The bytes that were read: the whole PDU.
        certificate: SHA-256 fingerprint of the certificate that the requestor showed, if it did.
    """

    sock: socket.socket
    address: tuple[str, int]
    held: bytes
    certificate: str | None = None

    @property
    def titles(self) -> tuple[str, str]:
        """Called and calling AE title, without blanks around them."""
        called, calling = _TITLES.unpack_from(self.held)
        return _title(called), _title(calling)


def _title(field: bytes) -> str:
    return field.decode("ascii", "backslashreplace").strip()


class Door:
    """Accepts connections on a listening socket and hands on those that ask for an association.

    Args:
        listener: Listening socket, which other processes may share.
        admit: Takes each request, or gives what the requestor is to hear before it is closed;
            called in the thread of `run`.
        artim_seconds: How long a connection may take, a TLS handshake included.
        tls: TLS for every connection; None for plain DICOM.
    """

    def __init__(
        self,
        listener: socket.socket,
        admit: Callable[[Request], bytes | None],
        artim_seconds: float = ARTIM_SECONDS,
        tls: ServerTls | None = None,
    ) -> None:
        listener.setblocking(False)  # another process may take the connection first
        self._listener = listener
        self._admit = admit
        self._artim = artim_seconds
        self._tls = tls
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        # In order of arrival, and so of deadline.
        self._waiting: dict[socket.socket, _Waiting] = {}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(MAX_WAITING, soft // WAITING_SHARE)
        self._repeats = Repeats()
        self._closing = False

    def run(self) -> None:
        """Serve until `close`; connections that still wait are then dropped."""
        while not self._closing:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is not self._wake_out:
                    self._step(key.data)
            self._expire()
        for waiting in list(self._waiting.values()):
            self._drop(waiting)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def close(self) -> None:
        """Stop accepting; from any thread."""
        self._closing = True
        with suppress(OSError):  # it has ended already
            self._wake_in.send(b"\x00")

    def _patience(self) -> float | None:
        first = next(iter(self._waiting.values()), None)
        return None if first is None else max(0.0, first.deadline - time.monotonic())

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors left, mostly: those who wait longest make room.
                log.error("a connection could not be accepted: %s", error.strerror)
                if self._waiting:
                    self._drop(next(iter(self._waiting.values())))
                else:
                    time.sleep(_ACCEPT_PAUSE)
                return
            if len(self._waiting) >= self._most:
                self._drop(next(iter(self._waiting.values())))
            self._let_wait(sock, address[:2])

    def _let_wait(self, sock: socket.socket, address: tuple[str, int]) -> None:
        sock.setblocking(False)
        if self._tls is not None:
            try:
                sock = self._tls.wrap(sock)
            except OSError:  # the peer has gone already
                sock.close()
                return
        deadline = time.monotonic() + self._artim
        self._wait_for(_Waiting(sock, address, deadline, handshake=self._tls is not None))

    def _wait_for(self, waiting: _Waiting) -> None:
        self._waiting[waiting.sock] = waiting
        self._selector.register(waiting.sock, selectors.EVENT_READ, waiting)

    def _step(self, waiting: _Waiting) -> None:
        """Go on with a connection for as long as its bytes are here."""
        if waiting.sock not in self._waiting:
            return  # it made room for another at this very moment
        try:
            if waiting.handshake and isinstance(waiting.sock, ssl.SSLSocket):
                waiting.sock.do_handshake()
                waiting.handshake = False
            while waiting.sock in self._waiting and not waiting.turned_away:
                self._read(waiting)
            if waiting.turned_away:
                self._drain(waiting)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._selector.modify(waiting.sock, selectors.EVENT_READ, waiting)
        except ssl.SSLWantWriteError:
            self._selector.modify(waiting.sock, selectors.EVENT_WRITE, waiting)
        except OSError as error:
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                self._say(f"a TLS connection failed: {_plainly(error)}", waiting)
            self._drop(waiting)

    def _read(self, waiting: _Waiting) -> None:
        received = waiting.sock.recv(waiting.wanted - len(waiting.data))
        if not received:
            self._drop(waiting)
            return
        waiting.data += received
        if len(waiting.data) < waiting.wanted:
            return
        kind, _, length = _HEADER.unpack_from(waiting.data)
        if kind == _TLS_HANDSHAKE and self._tls is None:
            self._say("a connection wants TLS, which is not set up here", waiting)
            self._drop(waiting)
        elif kind != A_ASSOCIATE_RQ:
            self._refuse(waiting, _UNEXPECTED if 1 < kind <= 7 else _UNRECOGNISED)
        elif not _SHORTEST_REQUEST - _HEADER.size <= length <= MAX_REQUEST:
            self._refuse(waiting, _INVALID)
        elif len(waiting.data) == _HEADER.size:
            waiting.wanted += length
        else:
            self._hand_on(waiting)

    def _hand_on(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        try:
            waiting.sock.setblocking(True)
            certificate = shown_certificate(waiting.sock)
            held = bytes(waiting.data)
            parting = self._admit(Request(waiting.sock, waiting.address, held, certificate))
            if parting is not None:
                self._turn_away(waiting, parting)
        except Exception:
            # The border of the accepting thread: the next peer is served.
            log.exception("an association could not be started")
            waiting.sock.close()

    def _turn_away(self, waiting: _Waiting, parting: bytes) -> None:
        """Say it, and leave the requestor the time to read it and to close (PS3.8 9.2.3, AE-8)."""
        waiting.sock.setblocking(False)
        with suppress(OSError):  # the peer has gone already, and the connection is closed below
            waiting.sock.send(parting)
        waiting.turned_away = True
        waiting.data.clear()
        waiting.deadline = time.monotonic() + self._artim
        self._wait_for(waiting)

    def _drain(self, waiting: _Waiting) -> None:
        """Throw away what still comes: a close with bytes unread might unsay the parting word."""
        received = waiting.sock.recv(1 << 16)
        waiting.drained += len(received)
        if not received or waiting.drained > _DRAINED:
            self._drop(waiting)

    def _refuse(self, waiting: _Waiting, reason: int) -> None:
        self._say("a connection that does not ask for an association was aborted", waiting)
        with suppress(OSError):  # nobody needs to hear it
            waiting.sock.send(abort_pdu(reason))
        self._drop(waiting)

    def _say(self, what: str, waiting: _Waiting) -> None:
        (what, address), count = self._repeats.count((what, waiting.address[0]))
        if count:
            log.warning("%s, from %s%s", what, address, times(count))

    def _expire(self) -> None:
        now = time.monotonic()
        while (first := next(iter(self._waiting.values()), None)) and first.deadline <= now:
            self._drop(first)

    def _forget(self, waiting: _Waiting) -> None:
        self._selector.unregister(waiting.sock)
        del self._waiting[waiting.sock]

    def _drop(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        waiting.sock.close()
