"""Real servers on loopback ports that take alerts: HTTP and HTTPS, syslog, mail with STARTTLS."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.certificates import Identity


def speaking_tls(identity: Identity) -> ssl.SSLContext:
    """What a server speaks that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private_key)
    return context


def mail(port: int, **more: Any) -> dict[str, Any]:
    """The settings of alerts that go out by mail."""
    who = {"sender": "medai@hospital.example", "recipients": ("a@b.example", "c@d.example")}
    return {"mail": ({"name": "physics", "host": "127.0.0.1", "port": port, **who, **more},)}


def over_tls(kind: str, port: int, ca: Path | None) -> dict[str, Any]:
    """The settings of alerts that go out over TLS, to the name ``localhost``."""
    if kind == "mail":
        return mail(port, host="localhost", starttls=True, ca=ca)
    url = f"https://localhost:{port}/medai"
    return {"webhooks": ({"name": "physics", "url": url, "ca": ca},)}


class _HTTPServer(ThreadingHTTPServer):
    """Shakes hands over TLS where it has a certificate; keeps what went wrong."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.tls = tls
        self.faults: list[BaseException | None] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        stream, address = super().get_request()
        if self.tls is not None:  # the handler's first read shakes hands
            stream = self.tls.wrap_socket(stream, server_side=True, do_handshake_on_connect=False)
        return stream, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.faults.append(sys.exc_info()[1])


class _Serving:
    server: socketserver.BaseServer

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


class WebhookServer(_Serving):
    """Takes JSON by POST; answers with `statuses` one after the other, then always with 204.

    Args:
        statuses: What it answers at first.
        location: Where it says to go instead.
        tls: What it speaks in place of plain HTTP; other certificates may be loaded meanwhile.
    """

    def __init__(
        self, *statuses: int, location: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.taken: list[dict[str, Any]] = []
        self.heard: list[dict[str, str]] = []
        left = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.heard.append(dict(handler.headers) | {"path": handler.path})
                status = left.pop(0) if left else 204
                if status == 204:
                    self.taken.append(json.loads(body))
                handler.send_response(status)
                if location:
                    handler.send_header("Location", location)
                handler.end_headers()

            def log_message(handler, *arguments: object) -> None:  # noqa: N805
                return

        self.server = _HTTPServer(Handler, tls)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/medai?x=1"


class SyslogServer(_Serving):
    """Takes datagrams, or one stream a message."""

    def __init__(self, transport: str) -> None:
        self.taken: list[bytes] = []
        self.came = threading.Event()

        class Datagram(socketserver.BaseRequestHandler):
            def handle(handler) -> None:  # noqa: N805
                self.taken.append(handler.request[0])
                self.came.set()

        class Stream(socketserver.StreamRequestHandler):
            def handle(handler) -> None:  # noqa: N805
                self.taken.append(handler.rfile.read())
                self.came.set()

        self.server = (
            socketserver.UDPServer(("127.0.0.1", 0), Datagram)
            if transport == "udp"
            else socketserver.TCPServer(("127.0.0.1", 0), Stream)
        )


class MailServer(_Serving):
    """As much of SMTP (RFC 5321) as one mail takes.

    Args:
        tls: What it speaks after STARTTLS (RFC 3207); without it none is offered.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.taken: list[str] = []
        self.recipients: list[str] = []
        self.in_clear: list[str] = []  # what was said before there was TLS

        class Handler(socketserver.BaseRequestHandler):
            def handle(handler) -> None:  # noqa: N805
                stream: socket.socket = handler.request
                heard = stream.makefile("rb")
                secured = False

                def say(*lines: str) -> None:
                    stream.sendall("".join(f"{line}\r\n" for line in lines).encode())

                say("220 here")
                while line := heard.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if not secured:
                        self.in_clear.append(line)
                    if verb == "STARTTLS" and tls is not None:
                        say("220 go on")
                        heard.close()
                        try:
                            stream = tls.wrap_socket(stream, server_side=True)
                        except OSError:
                            return  # the client did not trust it
                        heard, secured = stream.makefile("rb"), True
                        continue
                    if verb == "DATA":
                        say("354 go on")
                        lines = []
                        while (text := heard.readline().decode().rstrip("\r\n")) != ".":
                            lines.append(text)
                        self.taken.append("\n".join(lines))
                    elif verb == "RCPT":
                        self.recipients.append(line.split(":", 1)[1])
                    if verb == "QUIT":
                        say("221 bye")
                        break
                    offers = verb == "EHLO" and tls is not None and not secured
                    say(*(["250-here", "250 STARTTLS"] if offers else ["250 ok"]))
                heard.close()
                stream.close()

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
