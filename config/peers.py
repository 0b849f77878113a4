"""``[[peers]]`` and ``[[destinations]]``: who may call, and where results are sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from config.kinds import AETitle, Fingerprint, Host, Name, Network, ResultKind, Seconds, Section

Permission = Literal["echo", "store", "mpps"]


class DestinationTlsSettings(Section):
    """``[destinations.tls]``: results go to the destination over TLS 1.2 or later."""

    ca: Path = Field(description="CA certificates, PEM, that its certificate must come from.")
    certificate: Path | None = Field(
        None, description="The certificate the node shows it, PEM; with private_key."
    )
    private_key: Path | None = Field(None, description="Its private key, PEM, without a password.")
    name: Host | None = Field(
        None, description="The name in its certificate, where that is not its host."
    )


class QuerySettings(Section):
    """``peers.query``: where a peer answers C-FIND about what it sends."""

    ae_title: AETitle = Field(description="Called AE title.")
    host: Host = Field(description="Host name or address.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(description="DICOM port.")
    tls: DestinationTlsSettings | None = None


class PeerSettings(Section):
    """``[[peers]]``: who may call. None listed means loopback only."""

    ae_title: AETitle = Field(description="Calling AE title, or * for any.")
    hosts: tuple[Network, ...] = Field(
        min_length=1, description="Addresses or networks the peer calls from."
    )
    may: tuple[Permission, ...] = Field(("echo", "store"), description="What the peer may do.")
    quiet_seconds: Seconds | None = Field(
        None, description="Seconds, in place of series.quiet_seconds for series from this peer."
    )
    trust_counts: bool = Field(
        False,
        description="Believe how many images its headers announce, (0020,1209) or (0020,1002): "
        "with that many a series is complete at once.",
    )
    query: QuerySettings | None = Field(
        None,
        description="Where it answers C-FIND: asked how many instances a study has once that "
        "rests, and with so many complete at once.",
    )
    certificate: Fingerprint | None = Field(
        None, description="Fingerprint of the certificate it must show; needs node.tls.client_ca."
    )
    max_associations: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Associations it may have open at once, within node.max_associations."
    )
    max_bytes_per_second: Literal[0] | Annotated[int, Field(ge=1 << 16)] = Field(
        0, description="Bytes a second taken from it, over all its associations; 0: no limit."
    )


class DestinationSettings(Section):
    """``[[destinations]]``: where results are sent."""

    name: Name = Field(description="What routes call it.")
    ae_title: AETitle = Field(description="Called AE title.")
    host: Host = Field(description="Host name or address.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(description="DICOM port.")
    results: tuple[ResultKind, ...] = Field(
        ("sr", "seg"),
        description="Kinds it is sent; what it does not take falls back to a simpler kind.",
    )
    deflated: bool = Field(
        False,
        description="Offer Deflated Explicit VR Little Endian too: its viewers are known to read "
        "it. A segmentation is forty times smaller so.",
    )
    withdraw: Literal["none", "iocm"] = Field(
        "none",
        description="iocm: a rejection note withdraws what a newer result takes the place of.",
    )
    retry_seconds: Seconds = Field(
        5, description="First delay after a failure, in seconds; it doubles."
    )
    retry_max_seconds: Seconds = Field(
        600, description="Longest delay between two attempts, in seconds."
    )
    give_up_days: Annotated[float, Field(ge=0, le=3650)] = Field(
        30, description="Days after which a result that still waits is given up; 0 never."
    )
    give_up_failures: int = Field(
        50,
        ge=0,
        le=100000,
        description="Failures it answers to one result before that is given up; 0 never.",
    )
    tls: DestinationTlsSettings | None = None
