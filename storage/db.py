"""The database: opened, migrated, and changed one audited transaction at a time.

`Ledger.transaction` is the only way in which anything is written. It takes the writer's lock at
once (``BEGIN IMMEDIATE``), so that what is read inside it cannot be changed by another process
before the commit, and the audit chain can be continued under the same lock.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peewee import OperationalError, SqliteDatabase
from playhouse.migrations import Runner

from config.errors import DatabaseVersionError, StaleStateError, StorageError
from storage import audit
from storage.records import TABLES, Record

FILE_NAME = "medai.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"}
)


class Change:
    """One transaction: moves rows along their transition tables and writes the audit chain."""

    def __init__(self, chain: audit.Chain, clock: float) -> None:
        self._chain = chain
        self.now = clock

    def audit(
        self,
        action: str,
        *,
        object: str,
        outcome: str = "success",
        detail: Mapping[str, Any] | None = None,
        actor: str = "node",
    ) -> int:
        """Append one event to the chain; gives its sequence number."""
        return self._chain.append(
            action, object=object, outcome=outcome, detail=detail or {}, actor=actor
        )

    def move(
        self,
        row: Record,
        state: str,
        *,
        reason: str | None = None,
        actor: str = "node",
        detail: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Move a row to another state, with its audit event, in this transaction.

        Raises:
            StaleStateError: The row is no longer in the state (or at the attempt) it was read in.
            StorageError: The transition table does not allow the move.
        """
        before: str = row.state
        if state not in row.transitions[before]:
            raise StorageError(f"a {row.noun} may not go from {before} to {state}")
        model = type(row)
        fence = (model._meta.primary_key == row.get_id()) & (model.state == before)
        if hasattr(model, "attempt"):
            fence &= model.attempt == row.attempt
        values = {"state": state, "reason": reason, **fields}
        if not model.update(**values).where(fence).execute():
            raise StaleStateError(f"{row.label()} is no longer {before}; another process moved it")
        for name, value in values.items():
            setattr(row, name, value)
        self.audit(
            f"{row.noun}.{state}",
            object=row.label(),
            outcome="failure" if state in FAILURES else "success",
            detail={"from": before, **({"reason": reason} if reason else {}), **(detail or {})},
            actor=actor,
        )


FAILURES = frozenset({"failed", "quarantined", "refused", "dead"})


class Ledger:
    """The open database of one data folder; one a process, shared by its threads."""

    def __init__(self, database: SqliteDatabase, data_dir: Path) -> None:
        self.database = database
        self.data_dir = data_dir
        self._head = audit.HeadFile(data_dir)

    @contextmanager
    def transaction(self) -> Iterator[Change]:
        """A write transaction; rolled back whole when its body raises.

        Raises:
            StorageError: The database cannot be written (locked, read-only, full, damaged).
        """
        chain = audit.Chain(self.database)
        try:
            with self.database.atomic("IMMEDIATE"):
                yield Change(chain, time.time())
        except OperationalError as error:
            raise StorageError(f"the database cannot be written: {error}") from error
        if chain.tail is not None:
            self._head.advance(chain.tail)

    def close(self) -> None:
        """Close this thread's connection."""
        self.database.close()


def open_ledger(data_dir: Path) -> Ledger:
    """Open, create or migrate the database of a data folder.

    Raises:
        StorageError: The folder cannot be used, or lies on a network file system.
        DatabaseVersionError: A newer release wrote the database.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the data folder cannot be made: {error.strerror}") from error
    _refuse_network_file_system(data_dir)
    database = SqliteDatabase(
        str(data_dir / FILE_NAME),
        pragmas={"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1},
        timeout=BUSY_SECONDS,
    )
    database.bind(TABLES)
    try:
        with (data_dir / "migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _migrate(database, data_dir)
    except OSError as error:
        raise StorageError(f"the data folder cannot be written: {error.strerror}") from error
    except OperationalError as error:
        raise StorageError(f"the database cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StorageError(f"the database is damaged: {error}") from error
    return Ledger(database, data_dir)


def _migrate(database: SqliteDatabase, data_dir: Path) -> None:
    runner = Runner(database, str(MIGRATIONS))
    status = runner.status()
    unknown = [entry.name for entry in status if entry.path is None]
    if unknown:
        raise DatabaseVersionError(
            f"the database was written by a newer release (it has {unknown[-1]}); "
            "install that release again, or restore the backup made before the upgrade"
        )
    pending = [entry for entry in status if entry.applied is None]
    if pending and len(pending) < len(status):
        backup = data_dir / "backup"
        backup.mkdir(exist_ok=True)
        target = backup / f"before-{pending[0].name}.sqlite"
        target.unlink(missing_ok=True)
        database.execute_sql("VACUUM INTO ?", (str(target),))
    if pending:
        runner.up()


def _refuse_network_file_system(data_dir: Path) -> None:
    # SQLite's write-ahead log needs shared memory, which network file systems do not give.
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return
    best, kind = "", ""
    folder = str(data_dir.resolve())
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, point, file_system, *_ = line.split(" ")
        if (folder == point or folder.startswith(point.rstrip("/") + "/")) and len(point) >= len(
            best
        ):
            best, kind = point, file_system
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"the data folder lies on a network file system ({kind}); "
            "SQLite is not safe there: choose a local disk for node.data_dir"
        )


def process_name() -> str:
    """What a process calls itself where rows name their owner."""
    return f"{os.uname().nodename}:{os.getpid()}"
