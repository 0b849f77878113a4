"""Alerts that go out, to real servers."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from config.errors import PeerError
from config.watch import AlertSettings
from dicomnode.work.notify import channels
from tests.alert_servers import (
    MailServer,
    SyslogServer,
    WebhookServer,
    mail,
    over_tls,
    speaking_tls,
)
from tests.certificates import Authority

RAISED: dict[str, Any] = {
    "id": "node-7",
    "node": "MEDAI",
    "alert": "drift",
    "subject": "ct-tissue@1.0.0",
    "state": "raised",
    "reminder": False,
    "reason": "50 scores of 'bone' lie otherwise\nthan those of its reference",
    "value": 0.4,
    "threshold": 0.25,
    "since": 1763737200.0,
    "count": 1,
}
CLEARED = {**RAISED, "state": "cleared"}


def tell(message: dict[str, Any], **settings: Any) -> None:
    ((name, send),) = channels(AlertSettings.model_validate(settings)).items()
    assert name.partition(":")[0] in settings
    send(message)


def webhook(server: WebhookServer) -> dict[str, Any]:
    return {"webhooks": ({"name": "on call", "url": server.url},)}


def syslog(server: SyslogServer, transport: str) -> dict[str, Any]:
    entry = {"name": "siem", "host": "127.0.0.1", "port": server.port, "transport": transport}
    return {"syslog": (entry,)}


@pytest.mark.feature("F18", "P47")
def test_a_webhook_gets_the_alert_as_json() -> None:
    with WebhookServer() as server:
        tell(RAISED, **webhook(server))
    assert server.taken == [RAISED]
    (heard,) = server.heard
    assert heard["path"] == "/medai?x=1"
    assert heard["Content-Type"] == "application/json"
    assert heard["Idempotency-Key"] == '"node-7"'


@pytest.mark.parametrize("status", [302, 400, 500])
def test_a_webhook_that_answers_anything_but_success_did_not_take_it(status: int) -> None:
    with WebhookServer() as elsewhere:
        with (
            WebhookServer(status, location=elsewhere.url) as server,
            pytest.raises(PeerError, match=f"on call did not take an alert: it answered {status}"),
        ):
            tell(RAISED, **webhook(server))
        assert elsewhere.heard == []


def test_a_server_that_is_not_there_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PeerError, match=r"^on call did not take an alert: Connection refused$"):
        tell(RAISED, webhooks=({"name": "on call", "url": f"http://127.0.0.1:{port}/"},))


@pytest.mark.feature("F18")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(("message", "priority"), [(RAISED, 132), (CLEARED, 133)])
def test_syslog_gets_one_line_of_rfc_5424(
    transport: str, message: dict[str, Any], priority: int
) -> None:
    with SyslogServer(transport) as server:
        tell(message, **syslog(server, transport))
        assert server.came.wait(10)
    (data,) = server.taken
    if transport == "tcp":
        length, _, data = data.partition(b" ")
        assert int(length) == len(data)
    text = data.decode()
    head = re.fullmatch(
        r"<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ medai-node \d+ ALERT - \ufeff(.*)",
        text,
    )
    assert head is not None, text
    assert int(head[1]) == priority
    assert head[2] == (
        f"drift of ct-tissue@1.0.0 is {message['state']}: 50 scores of 'bone' lie otherwise "
        "than those of its reference"
    )


def test_a_datagram_is_cut_between_characters() -> None:
    with SyslogServer("udp") as server:
        tell({**RAISED, "reason": "é" * 5000}, **syslog(server, "udp"))
        assert server.came.wait(10)
    assert 2040 <= len(server.taken[0]) <= 2048
    assert server.taken[0].decode().endswith("éé")


@pytest.mark.feature("F18")
def test_mail_goes_to_each_recipient() -> None:
    with MailServer() as server:
        tell(RAISED, **mail(server.port))
    (text,) = server.taken
    assert server.recipients == ["<a@b.example>", "<c@d.example>"]
    assert "Subject: MEDAI: drift raised" in text
    assert "Message-ID: <node-7@medai-node>" in text
    assert "drift of ct-tissue@1.0.0 is raised: 50 scores of 'bone' lie otherwise" in text


def test_nothing_is_mailed_in_the_clear_where_tls_is_asked_for() -> None:
    with (
        MailServer() as server,
        pytest.raises(PeerError, match="physics did not take an alert: SMTPNotSupportedError"),
    ):
        tell(RAISED, **mail(server.port, starttls=True))
    assert server.taken == []


SERVERS = {"mail": MailServer, "webhooks": WebhookServer}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.feature("F18")
@pytest.mark.parametrize("kind", SERVERS)
def test_an_alert_goes_over_tls_to_one_whom_the_sites_own_ca_signed(
    kind: str, authority: Authority
) -> None:
    with SERVERS[kind](tls=speaking_tls(authority.issue("server"))) as server:
        tell(RAISED, **over_tls(kind, server.port, authority.path))
    assert len(server.taken) == 1
    if isinstance(server, MailServer):
        assert [line.split()[0].upper() for line in server.in_clear] == ["EHLO", "STARTTLS"]
        assert "Subject: MEDAI: drift raised" in server.taken[0]
    else:
        assert server.taken == [RAISED]


@pytest.mark.feature("F18", "P47")
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    "case",
    [
        ("its own", {"host": "elsewhere.example"}, "Hostname mismatch"),
        ("its own", {"days": (-30, -1)}, "certificate has expired"),
        ("another", {}, "unable to get local issuer certificate"),
        ("the system's", {}, "unable to get local issuer certificate"),
    ],
    ids=["another name", "expired", "another CA", "a CA that the system does not know"],
)
def test_a_server_that_is_not_trusted_is_told_nothing(
    kind: str, case: tuple[str, dict[str, Any], str], authority: Authority, tmp_path: Path
) -> None:
    trusted, issued, why = case
    others = Authority(tmp_path, "another").path
    ca = {"its own": authority.path, "another": others, "the system's": None}[trusted]
    with SERVERS[kind](tls=speaking_tls(authority.issue("wrong", **issued))) as server:
        with pytest.raises(PeerError) as caught:
            tell(RAISED, **over_tls(kind, server.port, ca))
        said = "physics did not take an alert: its certificate is not trusted: "
        assert str(caught.value).startswith(said + why)
    assert server.taken == []
    if isinstance(server, MailServer):
        assert [line.split()[0].upper() for line in server.in_clear] == ["EHLO", "STARTTLS"]
    else:
        assert server.heard == []


def test_a_server_that_speaks_no_tls_is_told_nothing(authority: Authority) -> None:
    with (
        WebhookServer() as server,
        pytest.raises(PeerError, match=r"did not take an alert: TLS failed: \w+$"),
    ):
        tell(RAISED, **over_tls("webhooks", server.port, authority.path))
    assert server.heard == []


def test_a_ca_that_is_not_there_sends_nothing(tmp_path: Path, authority: Authority) -> None:
    with (
        WebhookServer(tls=speaking_tls(authority.issue("server"))) as server,
        pytest.raises(PeerError, match="No such file or directory"),
    ):
        tell(RAISED, **over_tls("webhooks", server.port, tmp_path / "gone.pem"))
    assert server.heard == []
