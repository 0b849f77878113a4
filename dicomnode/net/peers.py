"""Who may call, judged from the AE titles and the address of an association request."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from config.schema import PeerSettings, Settings

# Result 1 is permanent, 2 transient; source 1 the service user, 3 the presentation service
# provider (PS3.8 9.3.4, Table 9-21).
_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True)
class Caller:
    """A requestor that may call.

    Attributes:
        ae_title: Its calling AE title.
        may: What it may do: ``echo``, ``store``.
    """

    ae_title: str
    may: frozenset[str]


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


CALLED_AE_NOT_RECOGNISED = Rejection(1, 1, 7, "called-ae-not-recognised")
CALLING_AE_NOT_RECOGNISED = Rejection(1, 1, 3, "calling-ae-not-recognised")
ADDRESS_NOT_ALLOWED = Rejection(1, 1, 3, "address-not-allowed")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "local-limit-exceeded")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "temporary-congestion")


@dataclass(frozen=True)
class _Peer:
    ae_title: str
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    may: frozenset[str]

    @classmethod
    def of(cls, entry: PeerSettings) -> _Peer:
        return cls(
            entry.ae_title,
            tuple(ipaddress.ip_network(host) for host in entry.hosts),
            frozenset(entry.may),
        )


class Peers:
    """The peers of the settings; none listed means any AE title on the loopback addresses."""

    def __init__(self, settings: Settings) -> None:
        self._called = settings.node.ae_title
        entries = settings.peers or (PeerSettings(ae_title="*", hosts=_LOOPBACK),)
        self._peers = tuple(_Peer.of(entry) for entry in entries)

    def admit(self, called: str, calling: str, address: str) -> Caller | Rejection:
        """Judge an association request.

        Args:
            called: Called AE title.
            calling: Calling AE title.
            address: Where the connection comes from.
        """
        if called.strip() != self._called:
            return CALLED_AE_NOT_RECOGNISED
        title = calling.strip()
        named = [peer for peer in self._peers if peer.ae_title == title]
        named += [peer for peer in self._peers if peer.ae_title == "*"]
        if not named:
            return CALLING_AE_NOT_RECOGNISED
        where = _plain_address(address)
        for peer in named:
            if any(where in network for network in peer.networks):
                return Caller(title, peer.may)
        return ADDRESS_NOT_ALLOWED


def _plain_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    where = ipaddress.ip_address(address.partition("%")[0])
    # A socket that serves both families shows IPv4 peers as ::ffff:a.b.c.d.
    if isinstance(where, ipaddress.IPv6Address) and where.ipv4_mapped:
        return where.ipv4_mapped
    return where
