"""The short path: an established association's C-STOREs, straight from the socket to the disk.

It stands where pynetdicom would read the next PDU. P-DATA-TF PDUs are taken apart as their bytes
arrive; data is hashed, walked and written piece by piece; the response goes out from here. There is
no polling and no data set, and the memory of one association is one buffer. C-ECHO is answered too.
Whatever else comes is given back unread, and pynetdicom serves the association from then on.
"""

from __future__ import annotations

import enum
import select
import socket
import ssl
from collections.abc import Mapping

from dicomnode.net import status
from dicomnode.net.contexts import VERIFICATION
from dicomnode.net.dimse import (
    C_ECHO_RQ,
    IS_COMMAND,
    IS_LAST,
    P_DATA_TF,
    PDU_HEADER,
    PDV_HEADER,
    Command,
    read_command,
    response,
)
from dicomnode.net.intake import Intake, Link, Reception, StoreCommand
from dicomnode.net.quickack import acknowledge_at_once
from dicomnode.net.rates import Throttle

BUFFER = 1 << 18
GATHER = 1 << 17
"""A fragment up to this length is handed on whole, a longer one as it comes."""

MAX_COMMAND = 4096
MIN_PEER_PDU = 1024
"""A requestor that takes only shorter PDUs than our responses is left to pynetdicom."""


class End(enum.Enum):
    """Why the short path ended."""

    UNUSUAL = "unusual"  # the bytes left over are pynetdicom's
    LEAVING = "leaving"  # `leave` was called
    LOST = "lost"  # the connection is gone
    IDLE = "idle"  # nothing came for too long
    BROKEN = "broken"  # the peer broke the protocol in the middle of a message


class _EndError(Exception):
    def __init__(self, end: End) -> None:
        self.end = end
        super().__init__(end.value)


class ShortPath:
    """Serves one association until it ends or something unusual comes.

    Args:
        sock: The connection.
        contexts: Accepted presentation contexts: id → (abstract syntax, transfer syntax).
        intake: Where objects go.
        link: The association.
        max_pdu: Longest PDU that was negotiated.
        idle_seconds: Longest silence.
        throttle: How fast bytes are taken; None without a limit.
    """

    def __init__(
        self,
        sock: socket.socket,
        contexts: Mapping[int, tuple[str, str]],
        intake: Intake,
        link: Link,
        *,
        max_pdu: int,
        idle_seconds: float,
        throttle: Throttle | None = None,
    ) -> None:
        self._sock = sock
        self._contexts = contexts
        self._intake = intake
        self._link = link
        self._max_pdu = max_pdu
        self._idle_ms = int(idle_seconds * 1000)
        self._throttle = throttle
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._low = self._high = 0
        self._left = 0  # bytes of the current PDU that are not taken yet
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wake_out, select.POLLIN)
        self._leaving = False
        self._command: Command | None = None
        self._context_id = 0
        self._reception: Reception | None = None

    def run(self) -> End:
        """Serve; returns why it ended. `leftover` then holds what was read and not served."""
        self._sock.setblocking(False)
        try:
            while True:
                self._fragment()
        except _EndError as error:
            return error.end
        except OSError:
            return End.LOST
        finally:
            if self._reception is not None:
                self._reception.discard()
                self._reception = None
            self._wake_in.close()
            self._wake_out.close()

    def leave(self) -> None:
        """End after the message that is being received; from any thread."""
        self._leaving = True
        try:
            self._wake_in.send(b"\x00")
        except OSError:  # it has ended already
            return

    def leftover(self) -> bytes:
        """Bytes read and not served; they begin with a PDU header."""
        data = bytes(self._view[self._low : self._high])
        return PDU_HEADER.pack(P_DATA_TF, 0, self._left) + data if self._left else data

    def _fragment(self) -> None:
        """Take one presentation data value."""
        if not self._left:
            self._begin_pdu()
        self._want(PDV_HEADER.size)
        length, context_id, control = PDV_HEADER.unpack_from(self._buffer, self._low)
        if length < 2 or length + 4 > self._left:
            raise _EndError(End.UNUSUAL if self._reception is None else End.BROKEN)
        if control & IS_COMMAND:
            self._take_command(length - 2, context_id, control)
        elif self._reception is None or context_id != self._context_id:
            raise _EndError(End.UNUSUAL if self._reception is None else End.BROKEN)
        else:
            self._skip(PDV_HEADER.size)
            self._take_data(self._reception, length - 2)
            if control & IS_LAST:
                self._answer(self._reception)

    def _begin_pdu(self) -> None:
        self._want(PDU_HEADER.size)
        kind, _, length = PDU_HEADER.unpack_from(self._buffer, self._low)
        if kind != P_DATA_TF or length > self._max_pdu or length < PDV_HEADER.size:
            # A-RELEASE-RQ, A-ABORT and what breaks the protocol: pynetdicom's to handle.
            raise _EndError(End.UNUSUAL)
        self._low += PDU_HEADER.size
        self._left = length

    def _take_command(self, length: int, context_id: int, control: int) -> None:
        if self._reception is not None:
            raise _EndError(End.BROKEN)
        if not control & IS_LAST or length > MAX_COMMAND or context_id not in self._contexts:
            raise _EndError(End.UNUSUAL)
        self._want(PDV_HEADER.size + length)
        start = self._low + PDV_HEADER.size
        command = read_command(bytes(self._view[start : start + length]))
        abstract_syntax, transfer_syntax = self._contexts[context_id]
        if command is None or (command.field == C_ECHO_RQ) != (abstract_syntax == VERIFICATION):
            raise _EndError(End.UNUSUAL)
        self._skip(PDV_HEADER.size + length)
        if command.field == C_ECHO_RQ:
            self._send(response(command, context_id, status.STORED))
            return
        self._command, self._context_id = command, context_id
        self._reception = self._intake.begin(
            StoreCommand(
                command.sop_class_uid, command.sop_instance_uid, abstract_syntax, transfer_syntax
            ),
            self._link,
        )

    def _take_data(self, reception: Reception, length: int) -> None:
        if length <= GATHER:
            self._want(length)
        while length:
            if self._low == self._high:
                self._fill()
            piece = min(length, self._high - self._low)
            reception.write(self._view[self._low : self._low + piece])
            self._skip(piece)
            length -= piece

    def _answer(self, reception: Reception) -> None:
        answer = reception.finish()
        self._reception = None
        if self._command is not None:
            self._send(response(self._command, self._context_id, answer))

    def _skip(self, count: int) -> None:
        self._low += count
        self._left -= count

    def _want(self, count: int) -> None:
        """Have so many bytes in the buffer, one after the other."""
        if self._high - self._low >= count:
            return
        if self._low + count > BUFFER:
            held = self._high - self._low
            self._buffer[:held] = self._buffer[self._low : self._high]
            self._low, self._high = 0, held
        while self._high - self._low < count:
            self._fill()

    def _fill(self) -> None:
        if self._low == self._high:
            self._low = self._high = 0
        most = BUFFER
        if self._throttle is not None:
            self._pause(self._throttle)
            most = self._high + self._throttle.piece
        while True:
            try:
                received = self._sock.recv_into(self._view[self._high : most])
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait()
                continue
            except ssl.SSLWantWriteError:  # TLS has something of its own to say first
                self._wait_to_send()
                continue
            if not received:
                raise _EndError(End.LOST)
            if self._throttle is not None:
                self._throttle.took(received)
            self._high += received
            return

    def _pause(self, throttle: Throttle) -> None:
        """Leave what the peer sends where it is until its rate allows for more."""
        while (seconds := throttle.pause()) > 0:
            poll = select.poll()
            poll.register(self._sock, 0)  # a connection that is gone is told whatever is asked
            if poll.poll(seconds * 1000):
                return

    def _wait(self) -> None:
        between = self._reception is None and not self._left and self._low == self._high
        if self._leaving and between:
            raise _EndError(End.LEAVING)
        if not between:  # else nothing of the peer's waits for it, and the answer carries it
            acknowledge_at_once(self._sock)
        ready = self._poll.poll(self._idle_ms)
        if not ready:
            raise _EndError(End.IDLE)
        if any(fd == self._wake_out.fileno() for fd, _ in ready):
            # It has said what it had to say: `leave` was called.
            self._poll.unregister(self._wake_out)
            self._leaving = True

    def _send(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            try:
                sent += self._sock.send(data[sent:])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_to_send()

    def _wait_to_send(self) -> None:
        writable = select.poll()
        writable.register(self._sock, select.POLLOUT)
        if not writable.poll(self._idle_ms):
            raise _EndError(End.IDLE)
