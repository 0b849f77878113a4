"""Good bytes that come again take the place of what the scrub found damaged or missing.

The row is led to the new file in the very transaction that would otherwise say that the bytes are
here already. The file that it named before is noted there and removed afterwards, so that no crash
leaves one that nobody knows of (`storage.scrub`).
"""

from __future__ import annotations

import logging

from storage.db import Change
from storage.records import Instance, NodeFact

log = logging.getLogger(__name__)

FINDING = "scrub.finding:"
"""Begins the facts of what is not as it was stored; a row as the audit chain calls it follows."""

REPLACED = "scrub.replaced:"
"""Begins the facts of files that no row names any more; the key follows."""


def take_place(change: Change, sop_instance_uid: str, digest: str, object_key: str) -> bool:
    """Lead the row of a version that was found damaged or missing to a file with its bytes.

    Args:
        change: The transaction; the finding is cleared in it.
        sop_instance_uid: Of the version.
        digest: SHA-256 of its data set's bytes, which is that of the file's too.
        object_key: The file.

    Returns:
        Whether that version had been found so; if not, nothing is changed.
    """
    found = NodeFact._meta.database.execute_sql(
        "SELECT instance.id, object_key, value FROM instance JOIN node_fact"
        " ON key = ? || instance.id WHERE sop_instance_uid = ? AND digest = ?"
        " AND state <> 'quarantined'",  # those bytes may have been deleted by hand
        (f"{FINDING}{Instance.noun}:", sop_instance_uid, digest),
    ).fetchone()
    if found is None:
        return False
    number, before, finding = found
    label = f"{Instance.noun}:{number}"
    Instance.update(object_key=object_key).where(Instance.id == number).execute()
    NodeFact.delete().where(NodeFact.key == FINDING + label).execute()
    NodeFact.create(key=REPLACED + before, value=label)
    change.audit(
        "object.restored",
        object=label,
        detail={"object_key": object_key, "digest": digest, "was": finding, "replaces": before},
    )
    log.warning("%s was %s and came again: it is kept as %s", label, finding, object_key)
    return True
