"""Intake journals written by the node's own code, and then treated as disks treat files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from storage.index import Arrival
from storage.journal import Journal
from storage.objects import ObjectStore
from storage.part10 import file_head
from storage.runs import Run
from storage.segment import new_buffer

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Sent:
    """One object as a sender knows it."""

    uid: str
    data: bytes

    @property
    def head(self) -> bytes:
        return file_head(CT, self.uid, EXPLICIT, "CT1")

    def arrival(self, association_id: int = 1, received_at: float = 1.7e9) -> Arrival:
        return Arrival(
            sop_instance_uid=self.uid,
            sop_class_uid=CT,
            transfer_syntax_uid=EXPLICIT,
            study_instance_uid="1.2.3",
            series_instance_uid="1.2.3.1",
            digest=hashlib.sha256(self.data).hexdigest(),
            size=len(self.data),
            object_key="",
            association_id=association_id,
            received_at=received_at,
        )


def append(journal: Journal, store: ObjectStore, batch: Sequence[Sent], **row: int) -> int:
    """Acknowledge a batch; gives how many of it the journal took."""
    finished = []
    for sent in batch:
        incoming = store.incoming(sent.head, new_buffer())
        incoming.write(sent.data)
        incoming.finish()
        finished.append((incoming, sent.arrival(**row)))
    return len(journal.append(finished))


def crash(store: ObjectStore) -> Run:
    """What the kernel does for a process that dies: its locks go, its files stay."""
    run = store.run()
    os.close(run.objects_fd)
    os.close(run.spool_fd)
    store._run = None
    return run
