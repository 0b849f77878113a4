"""A data folder as a node leaves it that took many objects, made by SQL in seconds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from storage.db import FILE_NAME, open_ledger
from storage.runs import CLOSED, FOLDER_FILES

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
FILES_MADE = 4
PER_SERIES = 200
NOW = 1.7e9
SETTLED, CRASHED = "a" * 16, "b" * 16
"""Tokens of the runs whose folders the objects lie in."""

_INSERT = (
    "INSERT INTO instance (id, sop_instance_uid, revision, sop_class_uid, transfer_syntax_uid,"
    " study_instance_uid, series_instance_uid, digest, size, object_key, association_id,"
    " received_at, state, covered_by) VALUES (?, ?, 0, ?, ?, ?, ?, ?, 524288, ?, ?, ?, ?, ?)"
)
_ASSOCIATE = (
    "INSERT INTO association (id, calling_ae, called_ae, address, receiver, opened_at,"
    " closed_at, outcome) VALUES (?, 'CT1', 'MEDAI', '127.0.0.1', 'receiver-0', 0, ?, ?)"
)
_STUDIES = (
    "INSERT OR IGNORE INTO study (study_instance_uid, state, last_object_at)"
    " SELECT study_instance_uid, 'settled', max(received_at) FROM instance"
    " WHERE association_id = ? GROUP BY 1"
)
_SERIES = (
    "INSERT INTO series (series_instance_uid, study_instance_uid, modality, sop_class_uid, state,"
    " reason, instances, first_object_at, last_object_at, single_image, forced)"
    " SELECT series_instance_uid, min(study_instance_uid), 'CT', min(sop_class_uid), 'skipped',"
    " 'no rule', count(*), min(received_at), max(received_at), 0, 0 FROM instance GROUP BY 1"
)


def _rows(first: int, count: int, token: str, *, settled: bool) -> Iterator[tuple[object, ...]]:
    """Instance rows: settled ones are indexed and covered, others were just stored."""
    for number in range(first, first + count):
        at = number - first
        yield (
            number,
            f"2.25.{number}",
            CT,
            EXPLICIT,
            f"1.9.{number // (PER_SERIES * 4)}",
            f"1.8.{number // PER_SERIES}",
            f"{number:064x}",
            f"{token}-{at // FOLDER_FILES:04d}/{at % FOLDER_FILES:04d}.dcm",
            1 if settled else 2,
            NOW + number,
            "indexed" if settled else "stored",
            1 if settled else None,
        )


def fill(data_dir: Path, instances: int) -> None:
    """Write so many settled instances, as runs that ended in order leave them.

    Their folders of objects hold a few empty files each and are marked closed.
    """
    open_ledger(data_dir).close()
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as database:
        database.execute(_ASSOCIATE, (1, 1.0, "released"))
        database.executemany(_INSERT, _rows(1, instances, SETTLED, settled=True))
        database.execute(_STUDIES, (1,))
        database.execute(_SERIES)
        database.commit()
    for folder in range(-(-instances // FOLDER_FILES)):
        path = data_dir / "objects" / f"{SETTLED}-{folder:04d}"
        path.mkdir(parents=True)
        for name in (*(f"{number:04d}.dcm" for number in range(FILES_MADE)), CLOSED):
            (path / name).touch()


def crash(data_dir: Path, instances: int) -> None:
    """Add what a crash leaves to a folder that `fill` made of so many instances.

    An open association, a folder of up to `FOLDER_FILES` objects of which a tenth has no row, and
    an unfinished file.
    """
    crashed = min(FOLDER_FILES, instances)
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as database:
        database.execute(_ASSOCIATE, (2, None, None))
        rows = _rows(instances + 1, crashed * 9 // 10, CRASHED, settled=False)
        database.executemany(_INSERT, rows)
        database.execute(_STUDIES, (2,))
        database.commit()
    path = data_dir / "objects" / f"{CRASHED}-0000"
    path.mkdir()
    for number in range(crashed):
        (path / f"{number:04d}.dcm").touch()
    spool = data_dir / "spool" / CRASHED
    spool.mkdir(parents=True)
    (spool / "9999").touch()
