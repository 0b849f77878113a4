"""Who may call, judged from the AE titles, the address and the certificate of a requestor."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace

from config.peers import PeerSettings
from config.schema import Settings

# Result 1 is permanent, 2 transient; source 1 the service user, 3 the presentation service
# provider (PS3.8 9.3.4, Table 9-21).
_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True)
class Caller:
    """A requestor that may call.

    Attributes:
        ae_title: Its calling AE title.
        may: What it may do: ``echo``, ``store``.
        entry: Number of its entry in ``[[peers]]``, from 0; limits are counted by entry.
        max_associations: How many it may have open at once, None without a limit of its own.
        max_bytes_per_second: How fast it is listened to, 0 without a limit.
    """

    ae_title: str
    may: frozenset[str]
    entry: int = 0
    max_associations: int | None = None
    max_bytes_per_second: int = 0


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ.

    Attributes:
        result: 1 permanent, 2 transient.
        source: 1 service user, 3 presentation service provider.
        reason: Reason/Diag. of Table 9-21.
        why: Short stable code for logs and the audit chain.
    """

    result: int
    source: int
    reason: int
    why: str

    def pdu(self) -> bytes:
        """The A-ASSOCIATE-RJ PDU (PS3.8 9.3.4)."""
        return struct.pack(">BBLBBBB", 0x03, 0, 4, 0, self.result, self.source, self.reason)


CALLED_AE_NOT_RECOGNISED = Rejection(1, 1, 7, "called-ae-not-recognised")
CALLING_AE_NOT_RECOGNISED = Rejection(1, 1, 3, "calling-ae-not-recognised")
ADDRESS_NOT_ALLOWED = Rejection(1, 1, 3, "address-not-allowed")
CERTIFICATE_NOT_ALLOWED = Rejection(1, 1, 3, "certificate-not-allowed")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "local-limit-exceeded")
PEER_LIMIT_EXCEEDED = Rejection(2, 3, 2, "peer-limit-exceeded")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "temporary-congestion")


@dataclass(frozen=True)
class _Peer:
    ae_title: str
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    certificate: str | None
    caller: Caller

    @classmethod
    def of(cls, number: int, entry: PeerSettings) -> _Peer:
        return cls(
            entry.ae_title,
            tuple(ipaddress.ip_network(host) for host in entry.hosts),
            entry.certificate,
            Caller(
                entry.ae_title,
                frozenset(entry.may),
                number,
                entry.max_associations,
                entry.max_bytes_per_second,
            ),
        )


class Peers:
    """The peers of the settings; none listed means any AE title on the loopback addresses."""

    def __init__(self, settings: Settings) -> None:
        self._called = settings.node.ae_title
        entries = settings.peers or (PeerSettings(ae_title="*", hosts=_LOOPBACK),)
        self._peers = tuple(_Peer.of(number, entry) for number, entry in enumerate(entries))

    def admit(
        self, called: str, calling: str, address: str, certificate: str | None = None
    ) -> Caller | Rejection:
        """Judge an association request.

        Args:
            called: Called AE title.
            calling: Calling AE title.
            address: Where the connection comes from.
            certificate: SHA-256 fingerprint of the certificate it showed, 64 hexadecimal digits.
        """
        if called.strip() != self._called:
            return CALLED_AE_NOT_RECOGNISED
        title = calling.strip()
        named = [peer for peer in self._peers if peer.ae_title == title]
        if not any(peer.certificate for peer in named):
            # A title that is bound to a certificate is not to be had without it.
            named += [peer for peer in self._peers if peer.ae_title == "*"]
        if not named:
            return CALLING_AE_NOT_RECOGNISED
        where = _plain_address(address)
        here = [peer for peer in named if any(where in network for network in peer.networks)]
        for peer in here:
            if peer.certificate in (None, certificate):
                return replace(peer.caller, ae_title=title)
        return CERTIFICATE_NOT_ALLOWED if here else ADDRESS_NOT_ALLOWED


def _plain_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    where = ipaddress.ip_address(address.partition("%")[0])
    # A socket that serves both families shows IPv4 peers as ::ffff:a.b.c.d.
    if isinstance(where, ipaddress.IPv6Address) and where.ipv4_mapped:
        return where.ipv4_mapped
    return where
