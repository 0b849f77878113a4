"""TLS on the DICOM port and towards destinations, by the BCP 195 profile of PS3.15 B.12.

Certificates are looked at before OpenSSL gets them, so that what is wrong with a file is said in
words. The server takes changed files up for the connections that come after.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from config.errors import Fault, SettingsError
from config.peers import DestinationTlsSettings
from config.schema import Settings, TlsSettings
from config.watch import MailSettings, WebhookSettings

log = logging.getLogger(__name__)

# What RFC 9325 4.2 recommends for TLS 1.2; TLS 1.3 has suites of its own. Ephemeral keys and
# authenticated encryption alone.
_TLS12_CIPHERS = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256")
    for signature in ("ECDSA", "RSA")
)
_ENDS_SOON = timedelta(days=30)
_WANTED_CERTIFICATES = "wanted: a PEM file with certificates"

Found = tuple[str, str, str]
"""Dotted key, what was found, what is allowed."""


def tls_faults(settings: Settings) -> Iterator[Found]:
    """What is wrong with the certificates and keys that the settings name.

    Args:
        settings: With absolute paths.

    Yields:
        Dotted key, what was found, what is allowed.
    """
    tls = settings.node.tls
    if tls is not None:
        yield from server_faults(tls)
    if tls is None or tls.client_ca is None:
        for number, peer in enumerate(settings.peers):
            if peer.certificate is not None:
                yield (
                    f"peers.{number}.certificate",
                    "a fingerprint, but peers are not asked for certificates",
                    "set node.tls.client_ca",
                )
    for number, destination in enumerate(settings.destinations):
        if destination.tls is not None:
            yield from _destination_faults(f"destinations.{number}.tls", destination.tls)
    channels: dict[str, Sequence[WebhookSettings | MailSettings]] = {
        "webhooks": settings.alerts.webhooks,
        "mail": settings.alerts.mail,
    }
    for kind, entries in channels.items():
        for number, entry in enumerate(entries):
            if entry.ca is not None:
                yield from _ca_faults(f"alerts.{kind}.{number}.ca", entry.ca)


def server_faults(tls: TlsSettings, *, dates: bool = True) -> Iterator[Found]:
    """What is wrong with the files of the DICOM port.

    Args:
        tls: The settings, with absolute paths.
        dates: Whether a certificate must be valid now.

    Yields:
        Dotted key, what was found, what is allowed.
    """
    yield from _identity_faults("node.tls", tls.certificate, tls.private_key, dates=dates)
    if tls.client_ca is not None:
        yield from _ca_faults("node.tls.client_ca", tls.client_ca)


def _destination_faults(key: str, tls: DestinationTlsSettings) -> Iterator[Found]:
    yield from _ca_faults(f"{key}.ca", tls.ca)
    if tls.certificate is not None and tls.private_key is not None:
        yield from _identity_faults(key, tls.certificate, tls.private_key)
    elif tls.certificate is not None or tls.private_key is not None:
        missing = "private_key" if tls.private_key is None else "certificate"
        yield f"{key}.{missing}", "nothing", "certificate and private_key are given together"


def _identity_faults(
    key: str, certificate: Path, private_key: Path, *, dates: bool = True
) -> Iterator[Found]:
    """What is wrong with a certificate of ours and its private key."""
    chain, public = _certificates(certificate), _public_part(private_key)
    if isinstance(chain, str):
        yield f"{key}.certificate", chain, _WANTED_CERTIFICATES
    if isinstance(public, str):
        yield f"{key}.private_key", public, "wanted: a PEM file with a key and no password"
    if isinstance(chain, str):
        return
    if not isinstance(public, str):
        yield from _pair_faults(
            key, certificate, private_key, public == _spki(chain[0].public_key())
        )
    if dates:
        yield from _date_faults(f"{key}.certificate", certificate, chain[0])


def _pair_faults(key: str, certificate: Path, private_key: Path, is_pair: bool) -> Iterator[Found]:
    """What is wrong with a certificate and a key that can both be read."""
    if not is_pair:
        yield (
            f"{key}.private_key",
            f"a key in {private_key} that is not the one of {certificate}",
            "wanted: the private key of the first certificate in that file",
        )
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _bcp195(context)
    try:
        context.load_cert_chain(certificate, private_key, password="")
    except OSError as error:
        # Too short a key, say: OpenSSL has a word for it.
        why = getattr(error, "reason", None) or error.strerror or "unknown"
        yield (
            f"{key}.certificate",
            f"a certificate and key that TLS does not take ({why})",
            "wanted: RSA of 2048 bits or more, or an elliptic curve",
        )


def _ca_faults(key: str, path: Path) -> Iterator[Found]:
    certificates = _certificates(path)
    if isinstance(certificates, str):
        yield key, certificates, _WANTED_CERTIFICATES


def _date_faults(key: str, path: Path, certificate: x509.Certificate) -> Iterator[Found]:
    now, wanted = datetime.now(UTC), "wanted: a certificate that is valid now"
    if now > (end := certificate.not_valid_after_utc):
        yield key, f"a certificate in {path} that expired on {end:%Y-%m-%d}", wanted
    elif now < (begin := certificate.not_valid_before_utc):
        yield key, f"a certificate in {path} that is not valid before {begin:%Y-%m-%d}", wanted


def ends(settings: Settings) -> Iterator[tuple[str, datetime]]:
    """When the certificates end that the node shows to others; what cannot be read is left out.

    Args:
        settings: The node's settings.

    Yields:
        The key of each in the settings, and its end.
    """
    places: dict[str, TlsSettings | DestinationTlsSettings | None]
    places = {"node.tls": settings.node.tls}
    for number, destination in enumerate(settings.destinations):
        places[f"destinations.{number}.tls"] = destination.tls
    for number, peer in enumerate(settings.peers):
        places[f"peers.{number}.query.tls"] = peer.query.tls if peer.query else None
    for key, tls in places.items():
        if tls is not None and tls.certificate is not None:
            found = _certificates(tls.certificate)
            if not isinstance(found, str):
                yield f"{key}.certificate", found[0].not_valid_after_utc


def _warn_of_end(key: str, path: Path) -> None:
    for certificate in x509.load_pem_x509_certificates(path.read_bytes())[:1]:
        end = certificate.not_valid_after_utc
        if end - datetime.now(UTC) < _ENDS_SOON:
            log.warning("the certificate of %s expires on %s", key, f"{end:%Y-%m-%d}")


def _certificates(path: Path) -> list[x509.Certificate] | str:
    """The certificates of a file, or what is wrong with it."""
    data = _content(path)
    if isinstance(data, str):
        return data
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        return f"no certificate in {path}"


def _public_part(path: Path) -> bytes | str:
    """The public part of the private key in a file, or what is wrong with it."""
    data = _content(path)
    if isinstance(data, str):
        return data
    try:
        return _spki(load_pem_private_key(data, None).public_key())
    except TypeError:
        return f"a key under a password in {path}"
    except (ValueError, UnsupportedAlgorithm):
        return f"no private key in {path}"


def _content(path: Path) -> bytes | str:
    try:
        return path.read_bytes()
    except OSError as error:
        return f"{path}, which cannot be read: {(error.strerror or 'unknown').lower()}"


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _raise_for(faults: Iterator[Found]) -> None:
    found = [Fault("settings", *fault) for fault in faults]
    if found:
        raise SettingsError(found)


def _load(
    context: ssl.SSLContext, key: str, certificate: Path, private_key: Path
) -> ssl.SSLContext:
    context.load_cert_chain(certificate, private_key, password="")
    _warn_of_end(f"{key}.certificate", certificate)
    return context


def _bcp195(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # A certificate that lies in the file of CAs is trusted itself, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def server_context(tls: TlsSettings, *, dates: bool = True) -> ssl.SSLContext:
    """What the DICOM port speaks.

    Args:
        tls: The settings, with absolute paths.
        dates: Whether the certificate must be valid now.

    Raises:
        SettingsError: A file is unreadable, is not what it should be, or has expired.
    """
    _raise_for(server_faults(tls, dates=dates))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _bcp195(context)
    if tls.profile == "tls13":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Associations live long: a resumed session saves nothing and would outlive a changed CA.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if tls.client_ca is not None:
        context.load_verify_locations(cafile=tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return _load(context, "node.tls", tls.certificate, tls.private_key)


class ClientContext(ssl.SSLContext):
    """What a destination is called with; keeps the socket it made and why its handshake failed.

    pynetdicom, which makes the connection, tells of neither.
    """

    made: ssl.SSLSocket | None = None
    failure: str = ""

    def wrap_socket(self, *arguments: object, **options: object) -> ssl.SSLSocket:
        self.made = super().wrap_socket(*arguments, **options)  # type: ignore[arg-type]
        return self.made


class _CallingSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as error:
            self._note(f"its certificate is not trusted: {error.verify_message}")
            raise
        except OSError as error:
            self._note(getattr(error, "reason", None) or error.strerror or str(error))
            raise

    def _note(self, why: str) -> None:
        if isinstance(self.context, ClientContext):
            self.context.failure = why


def client_context(tls: DestinationTlsSettings) -> ClientContext:
    """What one association with a destination is made with; its files are read anew each time.

    Raises:
        SettingsError: A file is unreadable, is not what it should be, or has expired.
    """
    _raise_for(_destination_faults("destinations.tls", tls))
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _CallingSocket
    _bcp195(context)
    context.load_verify_locations(cafile=tls.ca)
    if tls.certificate is not None and tls.private_key is not None:
        _load(context, "destinations.tls", tls.certificate, tls.private_key)
    return context


class ServerTls:
    """The TLS of a listening port; takes changed files up.

    Args:
        tls: The settings, with absolute paths.
        kept: Where to find what was good before, in use while the others cannot be used.

    Raises:
        SettingsError: A file is unreadable, is not what it should be, or has expired, and
            nothing was kept.
    """

    def __init__(self, tls: TlsSettings, kept: TlsSettings | None = None) -> None:
        self._tls = tls
        self._stamp = self._now()
        try:
            self._context = server_context(tls)
        except SettingsError as error:
            if kept is None:
                raise
            log.error("the certificates cannot be used, the last good ones stay in use: %s", error)
            self._context = server_context(kept, dates=False)

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """The connection as the server's side of TLS; the handshake is the caller's to do.

        Raises:
            OSError: The peer has gone already; the connection is closed.
        """
        self._take_up_changes()
        return self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def _take_up_changes(self) -> None:
        stamp = self._now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._context = server_context(self._tls)
        except (SettingsError, OSError) as error:
            # Half of a change, mostly: the other half changes the stamp again.
            log.error("changed certificates are not taken up: %s", error)
        else:
            log.info("changed certificates are in use")

    def _now(self) -> list[tuple[int, ...]]:
        """What tells that a file was changed or replaced."""
        stamps: list[tuple[int, ...]] = []
        for path in (self._tls.certificate, self._tls.private_key, self._tls.client_ca):
            try:
                facts = path.stat() if path is not None else None
            except OSError:
                facts = None
            if facts is None:
                stamps.append(())
            else:
                stamps.append((facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
        return stamps


def shown_certificate(sock: socket.socket) -> str | None:
    """SHA-256 fingerprint of the certificate that the other side showed, 64 hexadecimal digits."""
    if not isinstance(sock, ssl.SSLSocket):
        return None
    certificate = sock.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).hexdigest() if certificate else None
