"""A requestor written byte by byte from PS3.7 and PS3.8, to say right and wrong things alike."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.raw import CT, EXPLICIT, ct

VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
Context = tuple[int, str, Sequence[str]]
TLS_PORTS: dict[int, ssl.SSLContext] = {}
"""Ports on which a connection speaks TLS unless it is told what to speak."""
STORE: Context = (1, CT, (EXPLICIT,))
ECHO: Context = (3, VERIFICATION, ("1.2.840.10008.1.2",))


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content)) + content


def associate_rq(
    called: str, calling: str, contexts: Sequence[Context], max_length: int = 16384
) -> bytes:
    items = _item(0x10, APPLICATION_CONTEXT.encode())
    for number, abstract, syntaxes in contexts:
        inner = _item(0x30, abstract.encode())
        inner += b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes)
        items += _item(0x20, bytes((number, 0, 0, 0)) + inner)
    items += _item(0x50, _item(0x51, struct.pack(">L", max_length)) + _item(0x52, b"1.2.3.4.5"))
    head = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    return pdu(0x01, head + items)


def command(**values: int | str | bytes) -> bytes:
    """A command set, implicit little endian; names are the element numbers below."""
    elements = b""
    for name, value in values.items():
        number, form = _COMMAND[name]
        raw = struct.pack(f"<{form}", value) if isinstance(value, int) else value
        if isinstance(raw, str):
            raw = raw.encode("latin-1")
        raw += bytes(len(raw) % 2)
        elements += struct.pack("<HHI", 0, number, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements


_COMMAND = {
    "sop_class": (0x0002, ""),
    "requested_class": (0x0003, ""),
    "field": (0x0100, "H"),
    "message_id": (0x0110, "H"),
    "priority": (0x0700, "H"),
    "data_set": (0x0800, "H"),
    "instance": (0x1000, ""),
    "requested_instance": (0x1001, ""),
}


def store_rq(sop_class: str, instance: str, message_id: int = 1) -> bytes:
    return command(
        sop_class=sop_class,
        field=0x0001,
        message_id=message_id,
        priority=0,
        data_set=0x0001,
        instance=instance,
    )


def echo_rq(message_id: int = 1) -> bytes:
    return command(sop_class=VERIFICATION, field=0x0030, message_id=message_id, data_set=0x0101)


def pdv(context: int, control: int, content: bytes) -> bytes:
    return struct.pack(">LBB", len(content) + 2, context, control) + content


def parse_command(data: bytes) -> dict[int, bytes]:
    values, at = {}, 0
    while at < len(data):
        _, element, length = struct.unpack_from("<HHI", data, at)
        values[element] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return values


@dataclass
class Response:
    field: int
    message_id: int
    status: int
    comment: str
    instance: str


@dataclass
class Wire:
    """One connection. `accepted` after negotiation: context id → transfer syntax."""

    sock: socket.socket
    accepted: dict[int, str] = field(default_factory=dict)
    rejected: tuple[int, int, int] | None = None

    @classmethod
    def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Self:
        sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = tls or TLS_PORTS.get(port)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname="127.0.0.1")
        return cls(sock)

    @classmethod
    def associate(
        cls,
        port: int,
        contexts: Sequence[Context] = (STORE, ECHO),
        *,
        called: str = "MEDAI",
        calling: str = "TESTER",
        max_length: int = 16384,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        wire = cls.connect(port, tls)
        try:
            wire.sock.sendall(associate_rq(called, calling, contexts, max_length))
            kind, content = wire.read()
            assert kind in (0x02, 0x03), f"PDU type {kind}"
        except BaseException:
            wire.sock.close()
            raise
        if kind == 0x03:
            wire.rejected = (content[1], content[2], content[3])
        else:
            wire._read_accepted(content)
        return wire

    def _read_accepted(self, content: bytes) -> None:
        at = 68
        while at < len(content):
            kind, _, length = struct.unpack_from(">BBH", content, at)
            body = content[at + 4 : at + 4 + length]
            if kind == 0x21 and body[2] == 0:
                self.accepted[body[0]] = body[8:].decode()
            at += 4 + length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self.sock.close()

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise ConnectionResetError("the node closed the connection")
            data += piece
        return data

    def read(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBL", self.exactly(6))
        return kind, self.exactly(length)

    def response(self) -> Response:
        kind, content = self.read()
        assert kind == 0x04, f"PDU type {kind}"
        assert content[5] == 3
        values = parse_command(content[6:])

        def number(element: int) -> int:
            return int(struct.unpack("<H", values[element])[0])

        def text(element: int) -> str:
            return values.get(element, b"").rstrip(b"\x00 ").decode()

        # PS3.7 9.3.1.2: the group length is that of what follows.
        assert struct.unpack("<I", values[0])[0] == len(content) - 6 - 12
        assert list(values) == sorted(values)
        return Response(number(0x0100), number(0x0120), number(0x0900), text(0x0902), text(0x1000))

    def data(self, data: bytes, context: int = 1, *, piece: int = 16000, last: bool = True) -> None:
        for at in range(0, len(data), piece) or (0,):
            end = last and at + piece >= len(data)
            self.sock.sendall(pdu(4, pdv(context, 2 if end else 0, data[at : at + piece])))

    def store(
        self,
        data: bytes,
        instance: str = "1.2.3.4",
        sop_class: str = CT,
        *,
        context: int = 1,
        message_id: int = 1,
        piece: int = 16000,
    ) -> Response:
        self.sock.sendall(pdu(4, pdv(context, 3, store_rq(sop_class, instance, message_id))))
        self.data(data, context, piece=piece)
        return self.response()

    def echo(self, message_id: int = 1) -> Response:
        self.sock.sendall(pdu(4, pdv(3, 3, echo_rq(message_id))))
        return self.response()

    def release(self) -> None:
        self.sock.sendall(pdu(5, bytes(4)))
        kind, _ = self.read()
        assert kind == 0x06, f"PDU type {kind}"

    def closed(self) -> bool:
        """Read to the end; whether the node aborted on the way."""
        aborted = False
        try:
            while True:
                kind, _ = self.read()
                aborted = aborted or kind == 0x07
        except ConnectionError:
            return aborted


FAILURES = {0xA700, 0x0110}
PATIENCE_SECONDS = 30.0


def store_until_refused(wire: Wire) -> tuple[list[str], str]:
    """Store new instances until one is refused: what a fault of the node comes to.

    Returns:
        The instances that were acknowledged, and the one that was not.
    """
    acknowledged: list[str] = []
    begun = time.monotonic()
    while True:
        uid = f"1.2.9.{len(acknowledged)}"
        asked = time.monotonic()
        status = wire.store(ct(sop_instance=uid), uid).status
        assert time.monotonic() - asked < PATIENCE_SECONDS
        if status:
            assert status in FAILURES
            return acknowledged, uid
        acknowledged.append(uid)
        assert time.monotonic() - begun < PATIENCE_SECONDS
        time.sleep(0.02)
