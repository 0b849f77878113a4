"""Real servers on loopback ports that take alerts: HTTP, syslog and mail."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class _Serving:
    server: socketserver.BaseServer

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


class WebhookServer(_Serving):
    """Takes JSON by POST; answers with `statuses` one after the other, then always with 204."""

    def __init__(self, *statuses: int, location: str = "") -> None:
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

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

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
    """As much of SMTP (RFC 5321) as one mail takes; offers no TLS."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.recipients: list[str] = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(handler) -> None:  # noqa: N805
                def say(line: str) -> None:
                    handler.wfile.write(f"{line}\r\n".encode())

                say("220 here")
                while line := handler.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "DATA":
                        say("354 go on")
                        lines = []
                        while (text := handler.rfile.readline().decode().rstrip("\r\n")) != ".":
                            lines.append(text)
                        self.taken.append("\n".join(lines))
                    elif verb == "RCPT":
                        self.recipients.append(line.split(":", 1)[1])
                    say("221 bye" if verb == "QUIT" else "250 ok")
                    if verb == "QUIT":
                        return

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
