"""A stand-in PACS: a Storage SCP that keeps what it is sent in a folder. For the demo and tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from dicomnode.net.contexts import storage_classes, transfer_syntaxes
from dicomnode.net.library import quiet_pynetdicom


class StandInPacs:
    """Receives objects on a free loopback port while the ``with`` block lasts.

    It keeps one file an instance, named by its own count, and counts every C-STORE.

    Args:
        folder: Where files go.
        ae_title: Its AE title.
        port: 0 takes a free one.
        answer: Gives the status for the n-th C-STORE, from 1; 0x0000 by default.
        refuses: SOP classes it accepts no presentation context for.
    """

    def __init__(
        self,
        folder: Path,
        ae_title: str = "STANDIN",
        port: int = 0,
        answer: Callable[[int], int] = lambda _: 0x0000,
        refuses: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port = port
        self.files: dict[str, Path] = {}
        self.stores: list[str] = []
        self._answer = answer
        self._refuses = frozenset(refuses)
        self._changed = threading.Condition()
        self._server: Any = None

    def __enter__(self) -> StandInPacs:
        quiet_pynetdicom()
        self.folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=self.ae_title)
        for sop_class in sorted(storage_classes() - self._refuses):
            ae.add_supported_context(sop_class, sorted(transfer_syntaxes()))
        ae.add_supported_context(Verification)
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self._server.socket.getsockname()[1]
        return self

    def __exit__(self, *why: object) -> None:
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._changed:
            self.stores.append(uid)
            status = self._answer(len(self.stores))
            if status == 0x0000:
                path = self.files.setdefault(uid, self.folder / f"{len(self.files) + 1:04}.dcm")
                path.write_bytes(event.encoded_dataset())
            self._changed.notify_all()
        return status

    def break_off(self) -> None:
        """Stop listening and abort what is under way, as a PACS that goes down does."""
        server, self._server = self._server, None
        server.shutdown()
        for assoc in server.active_associations:
            assoc.abort()

    def wait_for(self, count: int, seconds: float) -> bool:
        """Wait until that many different instances are here."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.files) >= count, seconds)
