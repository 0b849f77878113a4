"""Puts received objects into series: reads their headers, and judges versions of one instance."""

from __future__ import annotations

import structlog

from config.errors import InputError, StorageError, UnreadableError
from config.schema import Settings
from dicomnode.series.assembly import announced_images
from dicomnode.series.decode import Decoder
from dicomnode.series.headers import read_header, text
from dicomnode.series.kinds import stands_alone
from dicomnode.series.priors import moment_of
from dicomnode.work.corrections import take_note
from dicomnode.work.feedback import FeedbackDesk
from dicomnode.work.patients import Patients
from dicomnode.work.revisions import Difference, compare
from storage import index
from storage.db import Ledger
from storage.objects import ObjectStore
from storage.records import Instance
from storage.rejections import is_rejected
from storage.series import Indexed, index_instances, indexed_version, unindexed

log = structlog.get_logger(__name__)

BATCH = 200

_CONTRADICTS = {
    Difference.PIXELS: "its pixels differ from those first received under its UID",
    Difference.PLACE: "its SOP class, study or series is not the one first received under its UID",
}


class Indexer:
    """Reads the headers of what was received; the assembler's thread runs it.

    Args:
        settings: The node's settings.
        ledger: The database.
        store: Where the objects lie.
        decoder: For pixels that two versions of an object differ in.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, store: ObjectStore, *, decoder: Decoder
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._decoder = decoder
        self._feedback = FeedbackDesk(ledger, store, settings.watch)
        self._patients = Patients(ledger.data_dir)

    def step(self) -> bool:
        """Read the next objects; whether to look again at once."""
        rows = unindexed(BATCH)
        read: list[Indexed] = []
        batch: set[str] = set()
        unread = 0
        for row in rows:
            if row.sop_instance_uid in batch:
                break  # compared with its predecessor when that one has its place
            batch.add(row.sop_instance_uid)
            try:
                header = read_header(self._store.path(row.object_key))
                if self._is_rejected(row) or not self._supersedes(row):
                    continue
                self._feedback.take(row, header)
                take_note(self._ledger, row, header)
                read.append(
                    Indexed(
                        instance=row,
                        modality=text(header, "Modality"),
                        single_image=stands_alone(header),
                        announced=announced_images(header),
                        patient=self._patients.digest(header),
                        taken_at=moment_of(header) or None,
                    )
                )
            except UnreadableError as error:
                # An acknowledged object: what the disk refuses now it may give another time.
                log.error("instance.unreadable", instance=row.id, why=str(error))
                unread += 1
            except InputError as error:
                self._quarantine(row, str(error))
            except StorageError:
                raise
            except Exception as error:  # what is wrong with one object must not hold up the others
                log.exception("instance.crashed", instance=row.id)
                self._quarantine(row, f"unexpected {type(error).__name__}")
        if read:
            with self._ledger.transaction() as change:
                index_instances(change, read)
        return len(rows) > unread

    def _is_rejected(self, row: Instance) -> bool:
        """Whether a rejection note named it before it came."""
        if not is_rejected(row):
            return False
        with self._ledger.transaction() as change:
            change.move(row, "rejected", reason="a rejection note came before it")
        return True

    def _supersedes(self, row: Instance) -> bool:
        """Whether a newly received version is to take its place in the series.

        The same SOP instance may come again in another transfer syntax (dropped), with corrected
        attributes (it replaces the first), or with other pixels or in another series (quarantined:
        one of the two is wrong, and a UID must not name both).
        """
        earlier = indexed_version(row.sop_instance_uid)
        if earlier is None:
            return True
        # Two receivers may have settled them the other way round than they acknowledged them.
        late = index.came_before(row, earlier)
        first, second = (row, earlier) if late else (earlier, row)
        versions = self._store.path(first.object_key), self._store.path(second.object_key)
        difference = compare(*versions, self._decoder)
        if difference in _CONTRADICTS:
            self._quarantine(second, _CONTRADICTS[difference])
            return second is not row
        with self._ledger.transaction() as change:
            if difference is Difference.NONE:
                change.move(row, "superseded", reason="the same content was received before")
                return False
            change.move(first, "superseded", reason="corrected attributes were received")
        return first is not row

    def _quarantine(self, row: Instance, reason: str) -> None:
        log.warning("instance.quarantined", instance=row.id, reason=reason)
        with self._ledger.transaction() as change:
            change.move(row, "quarantined", reason=reason)
