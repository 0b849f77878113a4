"""TLS on the DICOM port: who gets in, with what, and what a handshake may cost."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from config.errors import PeerError, SettingsError
from config.peers import DestinationTlsSettings
from dicomnode.net.scu import Peer, echo, send
from tests.certificates import Authority, Identity, client_side
from tests.contract.conftest import Node, StartNode
from tests.contract.test_scu import write
from tests.contract.wire import Wire
from tests.raw import ct

LOOPBACK = ["127.0.0.0/8"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def identity(authority: Authority) -> Identity:
    return authority.issue("node")


def tls(identity: Identity, **more: Any) -> dict[str, Any]:
    return {"tls": vars(identity) | more}


def works(node: Node, context: ssl.SSLContext, calling: str = "TESTER") -> bool:
    """Whether a C-STORE goes through; False when TLS or the connection fails."""
    try:
        with Wire.associate(node.port, tls=context, calling=calling) as wire:
            if wire.rejected is not None:
                assert wire.rejected == (1, 1, 3)
                return False
            assert wire.store(ct()).status == 0
            wire.release()
    except (ssl.SSLError, ConnectionError):
        return False
    return True


@pytest.mark.parametrize(
    "case",
    [
        ("bcp195", "TLSv1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("bcp195", "TLSv1_2", "ECDHE-ECDSA-AES256-GCM-SHA384", True),
        ("bcp195", "TLSv1_2", "ECDHE-ECDSA-AES256-SHA384", False),
        ("bcp195", "TLSv1_3", "", True),
        ("tls13", "TLSv1_2", "ECDHE-ECDSA-AES256-GCM-SHA384", False),
        ("tls13", "TLSv1_3", "", True),
    ],
)
def test_the_profiles(
    start: StartNode, authority: Authority, identity: Identity, case: tuple[str, str, str, bool]
) -> None:
    profile, version, cipher, taken = case
    node = start(node=tls(identity, profile=profile))
    context = client_side(authority.path)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if cipher:
        context.set_ciphers(cipher)
    assert works(node, context) == taken


@pytest.mark.feature("P25")
def test_with_client_ca_a_peer_must_show_a_certificate(
    start: StartNode,
    tmp_path: Path,
    authority: Authority,
    identity: Identity,
    caplog: pytest.LogCaptureFixture,
) -> None:
    peers = Authority(tmp_path, "peers")
    stranger = Authority(tmp_path, "strangers").issue("stranger")
    node = start(node=tls(identity, client_ca=peers.path))
    assert not works(node, client_side(authority.path))
    assert not works(node, client_side(authority.path, stranger))
    assert not works(node, client_side(authority.path, peers.issue("late", days=(-9, -1))))
    assert works(node, client_side(authority.path, peers.issue("ct1")))
    assert len(node.stored()) == 1
    assert "failed: the peer showed no certificate, from 127.0.0.1" in caplog.text
    assert "is not trusted: certificate has expired, from 127.0.0.1" in caplog.text


@pytest.mark.feature("P25")
def test_a_peer_bound_to_a_certificate_is_admitted_only_with_it(
    start: StartNode, authority: Authority, identity: Identity
) -> None:
    mine, other = authority.issue("ct1"), authority.issue("ct2")
    bound = {"ae_title": "CT1", "hosts": LOOPBACK, "certificate": mine.fingerprint}
    node = start(
        node=tls(identity, client_ca=authority.path),
        peers=[bound, {"ae_title": "*", "hosts": LOOPBACK}],
    )
    assert works(node, client_side(authority.path, mine), "CT1")
    assert not works(node, client_side(authority.path, other), "CT1")
    assert works(node, client_side(authority.path, other), "CT2")
    assert node.receiver.wait_until_quiet(20)
    (rejected,) = node.events("association.rejected")
    assert rejected["why"] == "certificate-not-allowed"


@pytest.mark.feature("P25")
def test_the_fingerprint_of_a_certificate_nobody_signed_is_enough(
    start: StartNode, authority: Authority, identity: Identity
) -> None:
    # Its own certificate stands in the file of CAs.
    mine = authority.issue("ct1")
    node = start(node=tls(identity, client_ca=mine.certificate))
    assert works(node, client_side(authority.path, mine))
    assert not works(node, client_side(authority.path, authority.issue("ct2")))


def test_changed_certificates_are_taken_up_for_new_connections(
    start: StartNode, authority: Authority, identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dicomnode.net.tls")
    node = start(node=tls(identity))

    def shown() -> bytes:
        with Wire.connect(node.port, client_side(authority.path)) as wire:
            assert isinstance(wire.sock, ssl.SSLSocket)
            return wire.sock.getpeercert(binary_form=True) or b""

    first = shown()
    with Wire.associate(node.port, tls=client_side(authority.path)) as wire:
        authority.issue("node")
        second = shown()
        assert second != first
        assert wire.store(ct()).status == 0  # the old association goes on
        wire.release()
    good = identity.private_key.read_bytes()
    identity.private_key.write_text("half of a change")
    assert shown() == second
    assert "no private key" in caplog.text
    identity.private_key.write_bytes(good)
    assert shown() == second
    replaced = authority.issue("new")
    os.replace(replaced.private_key, identity.private_key)
    os.replace(replaced.certificate, identity.certificate)
    assert shown() != second


def test_half_open_handshakes_hold_up_nobody_and_end(
    start: StartNode, authority: Authority, identity: Identity
) -> None:
    node = start(node=tls(identity), artim_seconds=5)
    context = client_side(authority.path)
    bio = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), bio, server_hostname="localhost").do_handshake()
    hello = bio.read()
    halves = [socket.create_connection(("127.0.0.1", node.port), 20) for _ in range(200)]
    for number, half in enumerate(halves):
        half.sendall(hello[: len(hello) // 2] if number % 2 else hello)
    assert works(node, context)
    for half in halves:
        while half.recv(4096):
            pass  # the server's flight, then its end
        half.close()


@pytest.mark.parametrize("secure", [True, False])
def test_plain_and_tls_do_not_mix_and_the_next_peer_is_served(
    start: StartNode, authority: Authority, identity: Identity, secure: bool
) -> None:
    node = start(node=tls(identity) if secure else {})
    context = client_side(authority.path)
    if secure:
        with pytest.raises((ConnectionError, AssertionError)):
            Wire.associate(node.port)
        assert works(node, context)
    else:
        assert not works(node, context)
        with Wire.associate(node.port) as wire:
            assert wire.store(ct()).status == 0
            wire.release()


def test_a_message_in_the_smallest_records(
    start: StartNode, authority: Authority, identity: Identity
) -> None:
    node = start(node=tls(identity))
    with Wire.associate(node.port, tls=client_side(authority.path)) as wire:
        assert wire.store(ct(rows=200, columns=200), piece=7000).status == 0
        assert wire.store(ct(sop_instance="1.5"), "1.5", piece=1).status == 0
        wire.release()
    assert len(node.stored()) == 2


@pytest.mark.feature("P25")
def test_the_node_sends_over_tls_and_shows_its_certificate(
    start: StartNode, tmp_path: Path, authority: Authority, identity: Identity
) -> None:
    node = start(node=tls(identity, client_ca=authority.path))
    mine = authority.issue("sender")
    settings = DestinationTlsSettings(ca=authority.path, **vars(mine))
    peer = Peer("MEDAI", "127.0.0.1", node.port, "TESTER", settings)
    assert [sent.accepted for sent in send([write(tmp_path, "1.1")], peer)] == [True]
    named = settings.model_copy(update={"name": "localhost"})
    assert echo(Peer("MEDAI", "127.0.0.1", node.port, "TESTER", named)) == 0
    assert node.outcomes() == ["released", "released"]


def test_what_keeps_a_destination_from_being_called_is_said_in_words(
    start: StartNode, tmp_path: Path, authority: Authority, identity: Identity
) -> None:
    node = start(node=tls(identity, client_ca=authority.path))
    other = Authority(tmp_path, "others")

    def call(port: int = node.port, **values: Any) -> None:
        settings = DestinationTlsSettings(**({"ca": authority.path} | values))
        echo(Peer("MEDAI", "127.0.0.1", port, "TESTER", settings))

    with pytest.raises(PeerError, match="not trusted: self-signed certificate"):
        call(ca=other.path)
    with pytest.raises(PeerError, match=r"not trusted: .*mismatch.* 'elsewhere'"):
        call(name="elsewhere")
    with pytest.raises(PeerError, match="may not trust our certificate"):
        call()  # shows none
    with pytest.raises(SettingsError, match=r"ca: found .* cannot be read: no such file"):
        call(ca=tmp_path / "missing.pem")
    with pytest.raises(SettingsError, match="private_key: found nothing; certificate and"):
        call(certificate=identity.certificate)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with pytest.raises(PeerError, match="cannot be reached"):
        call(free)
