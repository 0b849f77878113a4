"""How long start-up takes over a data folder that holds many objects.

    python -m tests.bench.recovery [--instances 1000000] [--smoke]

The rows are written by SQL and the folders of objects are made with a few files each and marked
closed, as runs that ended in order leave them; besides there is what a crash leaves: a folder of
4,000 files of which a tenth has no row, an open association, and an unfinished file. Then recovery
is timed by itself, and the whole node from its command to its ready line. Nothing is sent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from config.schema import Settings
from dicomnode.recovery import recover
from storage.db import FILE_NAME, open_ledger
from storage.objects import CLOSED, FOLDER_FILES
from tests.harness import NodeUnderTest

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
FILES_MADE = 4
INSERT = (
    "INSERT INTO instance (id, sop_instance_uid, revision, sop_class_uid, transfer_syntax_uid,"
    " study_instance_uid, series_instance_uid, digest, size, object_key, association_id,"
    " received_at, state, covered_by) VALUES (?, ?, 0, ?, ?, ?, ?, ?, 524288, ?, 1, ?, ?, ?)"
)
PER_SERIES = 200
NOW = 1.7e9


def rows(first: int, count: int, token: str, *, settled: bool) -> Iterator[tuple[object, ...]]:
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
            NOW + number,
            "indexed" if settled else "stored",
            1 if settled else None,
        )


def fill(data_dir: Path, instances: int) -> None:
    """A data folder as a node leaves it that took so many objects and then was killed."""
    open_ledger(data_dir).close()
    crashed = min(FOLDER_FILES, instances)
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as database:
        associate = (
            "INSERT INTO association (id, calling_ae, called_ae, address, receiver, opened_at,"
            " closed_at, outcome) VALUES (?, 'CT1', 'MEDAI', '127.0.0.1', 'receiver-0', 0, ?, ?)"
        )
        database.execute(associate, (1, 1.0, "released"))
        database.execute(associate, (2, None, None))
        database.executemany(INSERT, rows(1, instances, "a" * 16, settled=True))
        database.executemany(
            INSERT, rows(instances + 1, crashed * 9 // 10, "b" * 16, settled=False)
        )
        database.execute("UPDATE instance SET association_id = 2 WHERE state = 'stored'")
        database.execute(
            "INSERT INTO study SELECT study_instance_uid, 'settled', NULL, max(received_at)"
            " FROM instance GROUP BY 1"
        )
        database.execute(
            "INSERT INTO series SELECT series_instance_uid, min(study_instance_uid), 'CT', ?,"
            " 'skipped', 'no rule', count(*), min(received_at), max(received_at), 0, 0, NULL"
            " FROM instance WHERE state = 'indexed' GROUP BY 1",
            (CT,),
        )
        database.commit()
    for folder in range(-(-instances // FOLDER_FILES)):
        path = data_dir / "objects" / f"{'a' * 16}-{folder:04d}"
        path.mkdir(parents=True)
        for name in (*(f"{number:04d}.dcm" for number in range(FILES_MADE)), CLOSED):
            (path / name).touch()
    path = data_dir / "objects" / f"{'b' * 16}-0000"
    path.mkdir()
    for number in range(crashed):
        (path / f"{number:04d}.dcm").touch()
    spool = data_dir / "spool" / ("b" * 16)
    spool.mkdir(parents=True)
    (spool / "9999").touch()


def measure(folder: Path, instances: int) -> dict[str, object]:
    """Seconds of recovery, and of a whole start."""
    first, second = folder / "alone", NodeUnderTest(folder / "node")
    fill(first, instances)
    shutil.copytree(first, second.data_dir)
    begun = time.monotonic()
    ledger = open_ledger(first)
    counts = recover(ledger, Settings(node={"data_dir": first}))
    seconds = time.monotonic() - begun
    ledger.close()
    begun = time.monotonic()
    second.start()
    started = time.monotonic() - begun
    assert second.stop() == 0
    return {
        "instances": instances,
        "database_bytes": (first / FILE_NAME).stat().st_size,
        "recovery_seconds": round(seconds, 3),
        "start_seconds": round(started, 3),
        "counts": counts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="20,000 instances")
    parser.add_argument("--folder", type=Path, help="where to build; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), 20_000 if options.smoke else options.instances)
    print(json.dumps(found, indent=2))
    if float(str(found["start_seconds"])) > 10:
        raise SystemExit("start-up took longer than 10 s")


if __name__ == "__main__":
    main()
