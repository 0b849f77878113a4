"""What the settings and the sources themselves say of the series that they send."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from config.peers import PeerSettings
from config.schema import Settings
from dicomnode.series.assembly import Announced
from storage import procedures, source_counts
from storage.records import Series
from storage.series import calling_ae_of, expected_of

T = TypeVar("T")


def of_peer(
    settings: Settings, calling_ae: str | None, key: Callable[[PeerSettings], T | None]
) -> T | None:
    """What the settings say of a peer, by its own title or by ``*``."""
    for title in (calling_ae, "*"):
        for peer in settings.peers:
            if peer.ae_title == title and (found := key(peer)) is not None:
                return found
    return None


def announced(series: Series, settings: Settings) -> tuple[Announced, ...]:
    """What sources say of the number of a series' instances, the surest first."""
    found = []
    listed = procedures.listed(series.series_instance_uid)
    # One that leaves out what is here does not list the series.
    if listed is not None and listed.here == series.instances:
        found.append(Announced("MPPS", listed.objects))
    counted = source_counts.of_series(series)
    if counted is not None:
        found.append(Announced("C-FIND (0020,1209)", counted, provisional=True))
    calling_ae = calling_ae_of(series.series_instance_uid)
    if of_peer(settings, calling_ae, lambda peer: peer.trust_counts or None):
        of_headers = expected_of(series)
        if of_headers is not None:
            found.append(Announced("its headers", of_headers))
    return tuple(found)
