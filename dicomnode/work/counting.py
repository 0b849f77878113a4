"""Asks sources how many instances a study has: a few times, further and further apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog

from config.errors import PeerError, SettingsError
from config.schema import Settings
from dicomnode.net.find import ask_counts
from dicomnode.net.scu import Peer
from dicomnode.work import sources
from dicomnode.work.borders import reported
from storage import source_counts
from storage.db import Ledger
from storage.nudge import nudge
from storage.source_counts import Due, Said

log = structlog.get_logger(__name__)

REST_SECONDS = 2.0


class SourceCounter:
    """The queries of a worker, in one thread a source: one that hangs holds up itself alone.

    Args:
        settings: The node's settings.
        ledger: The database.
        stopping: Set when the worker ends; a thread then ends after the query under way.
        rest_seconds: How long a study must rest before its source is asked.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        stopping: threading.Event,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._stopping = stopping
        self._rest = rest_seconds
        self._threads: dict[str, threading.Thread] = {}

    def ask_due(self) -> None:
        """Begin to ask each source that is to be asked about a study and is not being asked."""
        if not any(peer.query for peer in self._settings.peers):
            return
        by_source: dict[Peer, list[Due]] = {}
        for study in source_counts.due(time.time(), self._rest):
            query = sources.of_peer(self._settings, study.calling_ae, lambda peer: peer.query)
            if query is not None:
                peer = Peer.of(query, self._settings.node.ae_title)
                by_source.setdefault(peer, []).append(study)
        for peer, studies in by_source.items():
            name = f"counting-{peer}"
            thread = self._threads.get(name)
            if thread is None or not thread.is_alive():
                self._threads[name] = threading.Thread(
                    target=self._ask, args=(peer, studies), name=name
                )
                self._threads[name].start()

    def join(self) -> None:
        """Wait until each has ended."""
        for thread in self._threads.values():
            thread.join()

    def _ask(self, peer: Peer, studies: Sequence[Due]) -> None:
        with reported("asking a source"):
            for study in studies:
                if self._stopping.is_set():
                    return
                try:
                    found = ask_counts(peer, study.study_instance_uid)
                    said = Said(found.instances, found.by_series)
                except (PeerError, SettingsError) as error:
                    log.warning("source.silent", source=peer.ae_title, why=str(error))
                    said = Said(reason=str(error))
                source_counts.note(self._ledger, study, peer.ae_title, said, self._rest)
                nudge(self._ledger.data_dir, "worker")
