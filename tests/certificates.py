"""Certificates made for tests: an authority, and what it signs. They name no one."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    private_key: Path

    @property
    def fingerprint(self) -> str:
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        return hashlib.sha256(der).hexdigest()


class Authority:
    """Signs certificates for loopback; its own lies in ``path``.

    Args:
        folder: Where files go.
        name: Of the authority and its file.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = _signed(
            self._name,
            self._name,
            self._key,
            self._key,
            x509.BasicConstraints(ca=True, path_length=0),
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        days: tuple[int, int] = (-1, 90),
        host: str = "localhost",
        key: Key | None = None,
        password: bytes = b"",
    ) -> Identity:
        """Make a certificate and write it over what lies in files of that name.

        Args:
            name: Of its subject and its files.
            days: From when to when it is valid, counted from now.
            host: DNS name beside the loopback address.
            key: Its private key; an elliptic curve's by default.
            password: Of its key; none by default.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        made = _signed(_name(name), self._name, key, self._key, names, days=days)
        identity = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        guard = BestAvailableEncryption(password) if password else NoEncryption()
        identity.private_key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, guard)
        )
        identity.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        return identity


def client_side(ca: Path, identity: Identity | None = None) -> ssl.SSLContext:
    """What a requestor speaks that trusts an authority and may show a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=ca)
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.private_key)
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: Key,
    signer: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
    *,
    days: tuple[int, int] = (-1, 90),
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(extension, critical=False)
        .sign(signer, hashes.SHA256())
    )
