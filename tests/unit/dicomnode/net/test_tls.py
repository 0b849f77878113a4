"""Certificates and keys: everything wrong with a file is said before the port is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from config.errors import SettingsError
from config.load import load_settings
from config.schema import Settings, TlsSettings
from dicomnode.cli.common import ALL_CHECKS
from dicomnode.net.kept import KeptCertificates
from dicomnode.net.tls import ServerTls, server_context, tls_faults
from tests.certificates import Authority, Identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(identity: Identity, ca: Path | None = None) -> TlsSettings:
    return TlsSettings(client_ca=ca, **vars(identity))


def stranger(authority: Authority) -> Identity:
    other = authority.issue("other")
    return Identity(authority.issue("node").certificate, other.private_key)


def unreadable(authority: Authority) -> Identity:
    made = authority.issue("node")
    return Identity(authority.folder, made.private_key)


def empty(authority: Authority) -> Identity:
    made = authority.issue("node")
    made.private_key.write_bytes(b"")
    return made


def swapped(authority: Authority) -> Identity:
    made = authority.issue("node")
    return Identity(made.private_key, made.certificate)


def short(authority: Authority) -> Identity:
    return authority.issue("node", key=rsa.generate_private_key(65537, 1024))  # noqa: S505


FAULTS: dict[str, tuple[Callable[[Authority], Identity], list[tuple[str, str]]]] = {
    "sound": (lambda ca: ca.issue("node"), []),
    "expired": (
        lambda ca: ca.issue("node", days=(-9, -2)),
        [("certificate", "that expired on 20")],
    ),
    "not yet": (
        lambda ca: ca.issue("node", days=(2, 9)),
        [("certificate", "is not valid before 20")],
    ),
    "other key": (stranger, [("private_key", "is not the one of")]),
    "unreadable": (unreadable, [("certificate", "cannot be read: is a directory")]),
    "missing": (
        lambda ca: Identity(ca.folder / "a", ca.folder / "b"),
        [
            ("certificate", "cannot be read: no such file or directory"),
            ("private_key", "cannot be read: no such file or directory"),
        ],
    ),
    "empty": (empty, [("private_key", "no private key in")]),
    "swapped": (swapped, [("certificate", "no certificate"), ("private_key", "no private key")]),
    "short": (short, [("certificate", "does not take (EE_KEY_TOO_SMALL)")]),
    "password": (
        lambda ca: ca.issue("node", password=b"secret"),
        [("private_key", "a key under a password")],
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_said(authority: Authority, case: str) -> None:
    make, expected = FAULTS[case]
    tls = settings(make(authority))
    found = list(tls_faults(Settings(node={"tls": tls})))
    assert [key for key, _, _ in found] == [f"node.tls.{key}" for key, _ in expected]
    for (_, said, _), (_, part) in zip(found, expected, strict=True):
        assert part in said
    if expected:
        with pytest.raises(SettingsError) as raised:
            server_context(tls)
        assert len(raised.value.faults) == len(expected)
    else:
        assert server_context(tls)


def test_a_file_of_cas_without_one_is_said(authority: Authority, tmp_path: Path) -> None:
    identity = authority.issue("node")
    with pytest.raises(SettingsError, match=r"node.tls.client_ca: found no certificate in"):
        server_context(settings(identity, identity.private_key))


def test_a_certificate_that_ends_soon_is_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server_context(settings(authority.issue("node", days=(-1, 40))))
    assert not caplog.text
    server_context(settings(authority.issue("node", days=(-1, 20))))
    assert "expires on" in caplog.text


@pytest.mark.feature("F18", "P40")
@pytest.mark.parametrize("case", ["expired", "other key", "unreadable", "short"])
def test_a_receiver_that_starts_again_goes_on_with_the_last_good_certificate(
    authority: Authority, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    tls = settings(authority.issue("node"))
    certificates = KeptCertificates(tls)
    kept = certificates.look()
    good = tls.certificate.read_bytes()
    now, _ = FAULTS[case]
    tls = settings(now(authority))
    with pytest.raises(SettingsError):
        ServerTls(tls)
    ServerTls(tls, kept)
    assert "the last good ones stay in use" in caplog.text
    assert kept is not None
    assert kept.certificate.read_bytes() == good


def test_what_is_kept_is_what_was_last_good(authority: Authority) -> None:
    tls = settings(authority.issue("node"), authority.path)
    certificates = KeptCertificates(tls)
    first = certificates.look()
    assert first is not None
    authority.issue("node", days=(-9, -2))
    assert certificates.look() == first
    again = authority.issue("node")
    second = certificates.look()
    assert second is not None
    assert second.certificate.read_bytes() == again.certificate.read_bytes()
    assert second.client_ca is not None
    assert second.client_ca.read_bytes() == authority.path.read_bytes()


def test_what_was_good_is_used_after_it_has_expired(authority: Authority) -> None:
    expired = settings(authority.issue("node", days=(-9, -2)))
    with pytest.raises(SettingsError, match="expired on"):
        server_context(expired)
    assert ServerTls(expired, expired)


def test_a_check_of_the_file_names_the_line(authority: Authority, tmp_path: Path) -> None:
    authority.issue("node", days=(-9, -2))
    path = tmp_path / "medai_node.toml"
    path.write_text(
        """\
[node.tls]
certificate = "node.pem"
private_key = "node.key"

[[peers]]
ae_title = "CT1"
hosts = ["10.1.2.0/24"]
certificate = "%s"

[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "pacs.example"
port = 2762
tls = { ca = "ca.pem", certificate = "node.pem" }
"""
        % ("ab" * 32)
    )
    with pytest.raises(SettingsError) as raised:
        load_settings(path, {}, ALL_CHECKS)
    said = [str(fault) for fault in raised.value.faults]
    assert len(said) == 3
    assert said[0].startswith("medai_node.toml:2: node.tls.certificate: found a certificate in ")
    assert said[1].startswith("medai_node.toml:8: peers.0.certificate: found a fingerprint, but")
    assert said[2].startswith("medai_node.toml:15: destinations.0.tls.private_key: found nothing")


def test_the_ca_of_those_who_are_told_is_looked_at_too(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").touch()
    path = tmp_path / "medai_node.toml"
    path.write_text(
        """\
[[alerts.webhooks]]
name = "on call"
url = "http://alerts.example/"
ca = "ca.pem"

[[alerts.mail]]
name = "physics"
host = "mail.example"
sender = "medai@hospital.example"
recipients = ["physics@hospital.example"]
ca = "empty.pem"
"""
    )
    with pytest.raises(SettingsError) as raised:
        load_settings(path, {}, ALL_CHECKS)
    said = [str(fault).partition(": ")[2] for fault in raised.value.faults]
    assert said == [
        "alerts.webhooks.0.ca: found a CA for plain http; it goes with https",
        "alerts.mail.0.ca: found a CA for mail without TLS; it goes with starttls = true",
    ]
    path.write_text(path.read_text().replace("http:", "https:") + "starttls = true\n")
    with pytest.raises(SettingsError) as raised:
        load_settings(path, {}, ALL_CHECKS)
    (fault,) = raised.value.faults
    assert str(fault).startswith("medai_node.toml:11: alerts.mail.0.ca: found no certificate in ")
