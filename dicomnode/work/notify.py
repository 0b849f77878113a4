"""Sends alerts out: syslog, webhook, mail."""

from __future__ import annotations

import http.client
import json
import os
import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from config.errors import PeerError
from config.watch import AlertSettings, MailSettings, SyslogSettings, WebhookSettings

TIMEOUT_SECONDS = 10.0
LONGEST_DATAGRAM = 2048  # bytes that a receiver should take, RFC 5426 3.2
_SEVERITY: Final = {"raised": 4, "cleared": 5}  # RFC 5424 6.2.1: warning, notice
_BOM: Final = "\ufeff"  # says that the text is UTF-8, RFC 5424 6.4

Message = Mapping[str, Any]


def channels(settings: AlertSettings) -> dict[str, Callable[[Message], None]]:
    """Whom alerts go to, ``webhooks:on call``, and how each is told.

    A call raises PeerError when the message was not taken.
    """
    found: dict[str, Callable[[Message], None]] = {}
    for kind, send in _SENDERS.items():
        for entry in getattr(settings, kind):
            found[f"{kind}:{entry.name}"] = _bound(send, entry)
    return found


def _bound(send: Callable[[Any, Message], None], entry: Any) -> Callable[[Message], None]:
    def told(message: Message) -> None:
        try:
            send(entry, message)
        except (OSError, http.client.HTTPException) as error:  # also those of mail servers
            raise PeerError(f"{entry.name} did not take an alert: {_why(error)}") from error

    return told


def _why(error: Exception) -> str:
    """A server's own words may be anything: the system's are repeated alone."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    said = isinstance(error, OSError) and error.errno and error.strerror
    return said or type(error).__name__


def sentence(message: Message) -> str:
    """An alert in one line."""
    about = f" of {message['subject']}" if message["subject"] else ""
    again = " still" if message["reminder"] else ""
    return f"{message['alert']}{about} is{again} {message['state']}: {message['reason']}"


def send_syslog(entry: SyslogSettings, message: Message) -> None:
    """One message of RFC 5424, by UDP (RFC 5426) or octet-counted over TCP (RFC 6587 3.4.1)."""
    priority = entry.facility * 8 + _SEVERITY[message["state"]]
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    host = _printable(socket.gethostname(), 255)
    head = f"<{priority}>1 {moment} {host} medai-node {os.getpid()} ALERT - {_BOM}"
    data = (head + _line(sentence(message))).encode()
    if entry.transport == "udp":
        family, kind, protocol, _, address = socket.getaddrinfo(
            entry.host, entry.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as sender:
            sender.sendto(_cut(data, LONGEST_DATAGRAM), address)
        return
    with socket.create_connection((entry.host, entry.port), TIMEOUT_SECONDS) as stream:
        stream.sendall(f"{len(data)} ".encode() + data)
        stream.shutdown(socket.SHUT_WR)


def send_webhook(entry: WebhookSettings, message: Message) -> None:
    """POST as JSON; any answer but 2xx is a failure, and a redirection is one."""
    address = urlsplit(entry.url)
    host = address.hostname or ""
    port = address.port
    connection: http.client.HTTPConnection
    if address.scheme == "https":
        context = _trusting(entry.ca)
        connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f'"{message["id"]}"',
            "User-Agent": "medai-node",
        }
        connection.request("POST", path, json.dumps(dict(message)).encode(), headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise PeerError(f"{entry.name} did not take an alert: it answered {status}")


def send_mail(entry: MailSettings, message: Message) -> None:
    """One mail; with ``starttls`` nothing goes out in the clear."""
    mail = EmailMessage()
    mail["Subject"] = _line(f"{message['node']}: {message['alert']} {message['state']}")
    mail["From"] = entry.sender
    mail["To"] = ", ".join(entry.recipients)
    mail["Message-ID"] = f"<{message['id']}@medai-node>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's vacation answers it
    facts = [f"{key}: {value}" for key, value in message.items() if value is not None]
    mail.set_content("\n".join([sentence(message), "", *facts, ""]))
    with smtplib.SMTP(entry.host, entry.port, timeout=TIMEOUT_SECONDS) as server:
        if entry.starttls:
            server.starttls(context=_trusting(entry.ca))
        server.send_message(mail)


_SENDERS: Final[dict[str, Callable[[Any, Message], None]]] = {
    "syslog": send_syslog,
    "webhooks": send_webhook,
    "mail": send_mail,
}


def _trusting(ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later with a server whose name its certificate holds (RFC 9325 3.1, 6.1).

    Args:
        ca: Whom the certificate must come from; None: whom this machine trusts.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        # As for destinations: what lies in that file is trusted itself, whoever signed it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _line(text: str) -> str:
    return "".join(mark if mark.isprintable() else " " for mark in text)


def _printable(text: str, limit: int) -> str:
    return "".join(mark for mark in text if "!" <= mark <= "~")[:limit] or "-"


def _cut(data: bytes, limit: int) -> bytes:
    return data[:limit].decode("utf-8", "ignore").encode()
