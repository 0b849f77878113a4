"""Takes refused bytes out of quarantine and stores them after all, where they can be stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from config.errors import MalformedError
from dicomnode.net.commit import GroupCommit
from dicomnode.net.walk import DatasetWalk, WalkedHeader
from storage.db import Ledger
from storage.files import storage_errors
from storage.index import Arrival, Kept, close_association, open_association
from storage.nudge import nudge
from storage.objects import ObjectStore
from storage.part10 import data_set_offset, file_head
from storage.quarantine import Quarantine, Refused
from storage.turn import Turn

CHUNK = 1 << 20


def release(
    entry: Refused, quarantine: Quarantine, store: ObjectStore, ledger: Ledger, *, actor: str
) -> Kept:
    """Store a refused object under the UIDs that its data set has, then take it from quarantine.

    The bytes stay as they came: what is malformed stays malformed. What this is for are objects
    whose command said something else than their data set, and bytes that an older release refused.

    Args:
        entry: The object.
        quarantine: Where it lies.
        store: Where it is to lie.
        ledger: The database.
        actor: Who asks for it, for the audit chain.

    Raises:
        MalformedError: It is still not well-formed; it stays in quarantine.
        StorageError: It could not be stored; it stays in quarantine.
    """
    transfer_syntax_uid = _transfer_syntax_of(entry.path)
    header = _walk(entry.path, transfer_syntax_uid)
    store.check_room()
    incoming = store.incoming(
        file_head(
            header.sop_class_uid, header.sop_instance_uid, transfer_syntax_uid, entry.calling_ae
        )
    )
    turn = Turn(ledger.data_dir)
    commits = GroupCommit(store, ledger, turn, lambda: nudge(ledger.data_dir, "worker"))
    try:
        for chunk in _data_set(entry.path):
            incoming.write(chunk)
        incoming.finish()
        # Rows of instances name who brought them: here a person, on behalf of the first sender.
        association_id = open_association(
            ledger, calling_ae=entry.calling_ae, called_ae="", address="", receiver="quarantine"
        )
        kept = commits.commit(
            incoming,
            Arrival(
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                study_instance_uid=header.study_instance_uid,
                series_instance_uid=header.series_instance_uid,
                digest=incoming.digest,
                size=incoming.size,
                object_key="",
                association_id=association_id,
            ),
        )
    finally:
        turn.close()
        if incoming.fd >= 0 and not incoming.key:
            incoming.discard()
    close_association(ledger, association_id, "released")
    with ledger.transaction() as change:
        change.audit(
            "quarantine.released",
            object=f"quarantine:{entry.digest}",
            detail={"kept": kept.value, "reason": entry.reason},
            actor=actor,
        )
    quarantine.remove(entry)
    nudge(ledger.data_dir, "worker")
    return kept


def _transfer_syntax_of(path: Path) -> str:
    try:
        return str(read_file_meta_info(path).TransferSyntaxUID)
    except Exception as error:
        raise MalformedError("the head of the quarantined file cannot be read") from error


def _data_set(path: Path) -> Iterator[bytes]:
    with storage_errors("reading from the quarantine"), path.open("rb") as file:
        file.seek(data_set_offset(file.read(144)))
        while chunk := file.read(CHUNK):
            yield chunk


def _walk(path: Path, transfer_syntax_uid: str) -> WalkedHeader:
    walk = DatasetWalk(transfer_syntax_uid)
    for chunk in _data_set(path):
        walk.feed(chunk)
    return walk.finish()
