"""The one way in: bytes of a C-STORE become a durable object with a row, or a refusal.

Both paths of the receiver, pynetdicom's and the short one, call this and nothing else: `begin`,
then `write` for each piece, then `finish`, which answers when the object is on disk and in the
index, and not before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import MalformedError, OutOfSpaceError, StorageError
from config.schema import StorageSettings
from dicomnode.net import status
from dicomnode.net.commit import GroupCommit
from dicomnode.net.status import Answer
from dicomnode.net.walk import DatasetWalk, WalkedHeader, is_uid
from storage.db import Ledger
from storage.incoming import Incoming
from storage.index import Arrival, is_own_result
from storage.nudge import nudge
from storage.objects import ObjectStore
from storage.part10 import file_head
from storage.quarantine import Quarantine
from storage.segment import Buffer, new_buffer
from storage.settler import Settler
from storage.turn import Turn

log = logging.getLogger(__name__)

NUDGE_SECONDS = 0.1
"""At most one nudge to the worker in this time; the end of an association always sends one."""

LOOK_BYTES = 16 << 20
"""Each time so much of one object has come the room on the disk is looked at again."""

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class StoreCommand:
    """What a C-STORE-RQ and its presentation context say.

    Attributes:
        sop_class_uid: Affected SOP Class UID (0000,0002).
        sop_instance_uid: Affected SOP Instance UID (0000,1000).
        abstract_syntax_uid: The SOP class negotiated for the context.
        transfer_syntax_uid: The transfer syntax negotiated for the context.
    """

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax_uid: str
    transfer_syntax_uid: str


@dataclass
class Link:
    """The association that objects come over.

    Attributes:
        association_id: Its row.
        calling_ae: The requestor's AE title.
        may: What it may do.
        told: Refusals already in the audit chain that are told once an association.
    """

    association_id: int
    calling_ae: str
    may: frozenset[str]
    told: set[str] = field(default_factory=set)


class Intake:
    """Takes objects into one data folder. Safe for many threads.

    Args:
        data_dir: The data folder.
        settings: Room on disk and in quarantine.
        store: Where the files go.
        ledger: Where the rows go.
    """

    def __init__(
        self, data_dir: Path, settings: StorageSettings, store: ObjectStore, ledger: Ledger
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.quarantine = Quarantine(data_dir, settings.quarantine_bytes)
        self.turn = Turn(data_dir)
        self.settler = Settler(store, ledger, self.turn, self._nudge)
        self.commits = GroupCommit(store, ledger, self.turn, self._nudge, self.settler)
        self._buffers: list[Buffer] = []
        self.draining = False
        self._data_dir = data_dir
        self._takes_own_results = settings.own_results == "store"
        self._nudged = 0.0

    def begin(self, command: StoreCommand, link: Link) -> Reception:
        """Begin to take an object; a refusal shows in what `finish` answers."""
        return Reception(self, command, link)

    def refusal(self, command: StoreCommand, link: Link) -> Answer | None:
        """Why the object is not wanted, before a byte of it was read."""
        if self.draining:
            return status.DRAINING
        if "store" not in link.may:
            return status.NOT_AUTHORISED
        if command.sop_class_uid != command.abstract_syntax_uid:
            return status.NOT_ACCEPTED
        if not is_uid(command.sop_instance_uid):
            return status.MALFORMED.because("Affected SOP Instance UID is not a UID")
        return self._state_refusal(command.sop_instance_uid)

    def _state_refusal(self, sop_instance_uid: str) -> Answer | None:
        try:
            self.settler.check()
            self.store.check_room()
            if not self._takes_own_results and is_own_result(sop_instance_uid):
                return status.OWN_RESULT
        except OutOfSpaceError:
            return status.OUT_OF_SPACE
        except StorageError:
            return status.STORAGE_FAULT
        return None

    def lend_buffer(self) -> Buffer:
        """Room to gather a small object in; to be given back with `take_buffer`."""
        try:
            return self._buffers.pop()
        except IndexError:
            return new_buffer()

    def take_buffer(self, buffer: Buffer) -> None:
        """Have a buffer back, for the next object: its pages are there already."""
        self._buffers.append(buffer)

    def close(self, seconds: float) -> None:
        """End; what the journal still holds is settled within the time, or at the next start.

        Raises:
            StorageError: The disk refused.
        """
        try:
            self.settler.close(seconds)
        finally:
            self.turn.close()

    def _nudge(self) -> None:
        now = time.monotonic()
        if now - self._nudged >= NUDGE_SECONDS:
            self._nudged = now
            nudge(self._data_dir, "worker")

    def ended(self) -> None:
        """An association ended: series may be complete now."""
        nudge(self._data_dir, "worker")


# Refusals that come object after object for one cause: in the audit chain once an association.
_TOLD_ONCE = frozenset(
    answer.reason
    for answer in (
        status.DRAINING,
        status.NOT_AUTHORISED,
        status.OUT_OF_SPACE,
        status.STORAGE_FAULT,
        status.OWN_RESULT,
    )
)


class Reception:
    """One object on its way in. `write` and `finish` never raise: a fault is an answer."""

    def __init__(self, intake: Intake, command: StoreCommand, link: Link) -> None:
        self._intake = intake
        self._command = command
        self._link = link
        self._walk: DatasetWalk | None = DatasetWalk(command.transfer_syntax_uid)
        self._buffer: Buffer | None = None
        self._incoming: Incoming | None = None
        self._answer: Answer | None = None
        self._why = ""
        self._looked = 0
        refusal = intake.refusal(command, link)
        if refusal is not None:
            self._refuse(refusal)
            return
        head = file_head(
            command.sop_class_uid,
            command.sop_instance_uid,
            command.transfer_syntax_uid,
            link.calling_ae,
        )
        self._guard(lambda: self._open(head))

    def _open(self, head: bytes) -> None:
        self._buffer = self._intake.lend_buffer()
        self._incoming = self._intake.store.incoming(head, self._buffer)

    def write(self, chunk: Bytes) -> None:
        """The next bytes of the data set."""
        if self._incoming is not None:
            self._guard(lambda: self._take(chunk))

    def _take(self, chunk: Bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            return
        incoming.write(chunk)
        if incoming.size - self._looked >= LOOK_BYTES:
            self._looked = incoming.size
            self._intake.store.check_room()
        if self._walk is not None:
            self._walk.feed(chunk)

    def finish(self) -> Answer:
        """The data set is complete: make it durable, or say why not."""
        if self._incoming is not None:
            self._guard(self._conclude)
        answer = self._answer or status.FAILED
        if not answer.kept:
            self._put_aside(answer)
        self._give_back()
        return answer

    def _give_back(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._intake.take_buffer(buffer)

    def discard(self) -> None:
        """The peer went away in the middle: nothing stays."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            try:
                incoming.discard()
            except StorageError as error:
                log.error("an unfinished object could not be removed: %s", error)
        self._give_back()

    def _conclude(self) -> None:
        incoming, walk = self._incoming, self._walk
        if incoming is None or walk is None:
            return
        header = walk.finish()
        command = self._command
        if (header.sop_class_uid, header.sop_instance_uid) != (
            command.sop_class_uid,
            command.sop_instance_uid,
        ):
            self._answer = status.DISAGREES
            self._why = status.DISAGREES.comment
            return
        incoming.finish()
        self._intake.commits.commit(incoming, self._arrival(header, incoming))
        self._answer = status.STORED
        self._incoming = None

    def _arrival(self, header: WalkedHeader, incoming: Incoming) -> Arrival:
        return Arrival(
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=self._command.transfer_syntax_uid,
            study_instance_uid=header.study_instance_uid,
            series_instance_uid=header.series_instance_uid,
            digest=incoming.digest,
            size=incoming.size,
            object_key="",
            association_id=self._link.association_id,
            received_at=time.time(),
        )

    def _guard(self, step: Callable[[], None]) -> None:
        """Run a step; what goes wrong in it becomes the answer."""
        try:
            step()
        except MalformedError as error:
            # The bytes are read on for the quarantine; the first fault is the one that is told.
            self._answer = status.MALFORMED.because(str(error))
            self._why = str(error)
            self._walk = None
        except OutOfSpaceError as error:
            self._refuse(status.OUT_OF_SPACE, str(error))
        except StorageError as error:
            self._refuse(status.STORAGE_FAULT, str(error))
        except Exception:
            # The border of the receiver: a fault of ours is one object's failure.
            log.exception("an object could not be taken")
            self._refuse(status.FAILED)

    def _refuse(self, answer: Answer, why: str = "") -> None:
        self._answer = answer
        self._why = why or answer.comment
        self.discard()

    def _put_aside(self, answer: Answer) -> None:
        """Quarantine what came of a refused object, and put the refusal on record."""
        incoming, self._incoming = self._incoming, None
        detail: dict[str, object] = {
            "status": f"0x{answer.status:04X}",
            "reason": answer.reason,
            "why": self._why,
        }
        log.warning(
            "object refused with 0x%04X on association %d: %s",
            answer.status,
            self._link.association_id,
            self._why,
        )
        try:
            if incoming is not None:
                detail |= {"digest": incoming.digest, "size": incoming.size}
                detail["quarantined"] = self._intake.quarantine.keep(
                    incoming, {**detail, "calling_ae": self._link.calling_ae}
                )
            if answer.reason in _TOLD_ONCE:
                if answer.reason in self._link.told:
                    return
                self._link.told.add(answer.reason)
            with self._intake.ledger.transaction() as change:
                change.audit(
                    "object.refused",
                    object=f"association:{self._link.association_id}",
                    outcome="refused",
                    detail=detail,
                )
        except StorageError as error:
            log.error("a refused object could not be put on record: %s", error)
            if incoming is not None:
                incoming.discard()
