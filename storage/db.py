"""The database: opened, migrated, and changed one audited transaction at a time.

`Ledger.transaction` is the only way in which anything is written. It takes the writer's lock at
once (``BEGIN IMMEDIATE``), so that what is read inside it cannot be changed by another process
before the commit, and the audit chain can be continued under the same lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from peewee import PeeweeException, SqliteDatabase
from playhouse.migrations import Runner

from config.errors import DatabaseVersionError, OutOfSpaceError, StaleStateError, StorageError
from storage import audit
from storage.record import Record
from storage.records import TABLES, AuditEvent

FILE_NAME = "medai.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 10
"""How long a locked database is waited for: a sender waits for an answer twice as long at most."""
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)


def plainly(error: sqlite3.Error) -> StorageError:
    """What SQLite has to say in the node's own error."""
    # SQLITE_IOERR_SHMSIZE: the file beside the database that its processes share finds no room.
    if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
        return OutOfSpaceError("no room left on the disk for the database")
    kind = "damaged" if type(error) is sqlite3.DatabaseError else "not usable now"
    return StorageError(f"the database is {kind}: {error}")


class _Cursor(sqlite3.Cursor):
    """Says what SQLite has to say in the node's own errors, when it reads too.

    A violated constraint stays what it is: peewee's `get_or_create` waits for it.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        if sql == "ROLLBACK" and not self.connection.in_transaction:
            return self  # SQLite did so by itself; why it did is to be told, and nothing else
        try:
            return super().execute(sql, parameters)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise plainly(error) from error

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except sqlite3.Error as error:
            raise plainly(error) from error

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except sqlite3.Error as error:
            raise plainly(error) from error

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except sqlite3.Error as error:
            raise plainly(error) from error


class _Connection(sqlite3.Connection):
    """Knows the file it reads, which may be removed or replaced while it is open."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(name, *arguments, **options)
        except sqlite3.Error as error:
            raise plainly(error) from error
        self._path = unquote(urlsplit(name).path)
        self._file = _identity(self._path)

    @property
    def in_place(self) -> bool:
        """Whether the file that is read is the one that lies in the data folder."""
        found = _identity(self._path)
        return found is not None and found == self._file

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)


class _Database(SqliteDatabase):
    """Reads what lies in the data folder now, not what a connection opened once."""

    def cursor(self, named_cursor: Any = None) -> Any:
        stale = not self.is_closed() and not self.in_transaction() and not self._in_place()
        if stale:
            self.close()
        return super().cursor(named_cursor)

    def _in_place(self) -> bool:
        return bool(self.connection().in_place)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


class Change:
    """One transaction: moves rows along their transition tables and writes the audit chain."""

    def __init__(self, chain: audit.Chain, clock: float) -> None:
        self._chain = chain
        self._moved: list[tuple[Record, dict[str, Any]]] = []
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
        self._moved.append((row, {name: getattr(row, name) for name in values}))
        for name, value in values.items():
            setattr(row, name, value)
        self.audit(
            f"{row.noun}.{state}",
            object=row.label(),
            outcome="failure" if state in FAILURES else "success",
            detail={"from": before, **({"reason": reason} if reason else {}), **(detail or {})},
            actor=actor,
        )

    def undo(self) -> None:
        """Give the row objects back what they held before: the transaction was rolled back."""
        for row, values in reversed(self._moved):
            for name, value in values.items():
                setattr(row, name, value)


FAILURES = frozenset({"failed", "quarantined", "refused", "dead", "raised"})


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
            StorageError: The database cannot be written (locked, read-only, full, damaged), or
                the transaction is inside another one.
        """
        if AuditEvent._meta.database is not self.database:
            raise StorageError("another data folder was opened in this process meanwhile")
        if self.database.in_transaction():
            # The head of the chain may be noted only once all of it is committed.
            raise StorageError("a transaction may not begin inside another one")
        chain = audit.Chain(self.database)
        change = Change(chain, time.time())
        try:
            with self.database.atomic("IMMEDIATE"):
                change.now = time.time()
                yield change
            # What was committed to a file that nobody will open again is not kept.
            if not self.database.connection().in_place:
                raise StorageError("the database file was removed or replaced while the node ran")
        except BaseException as error:
            change.undo()
            if isinstance(error, PeeweeException | StorageError):
                self.close()  # the next transaction opens what lies there then
            if isinstance(error, PeeweeException | sqlite3.Error):
                raise StorageError(f"the database cannot be written: {error}") from error
            raise
        self._head.advance(chain)

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
    path = data_dir.resolve() / FILE_NAME
    _refuse_lost_database(path)
    database = _Database(
        f"{path.as_uri()}?mode=rw",  # a file that is gone is a fault, not a reason for a new one
        pragmas={"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1},
        timeout=BUSY_SECONDS,
        uri=True,
        factory=_Connection,
    )
    database.bind(TABLES)
    try:
        with _migrating(data_dir):
            if not path.exists():
                path.touch(0o644)
            _migrate(database, data_dir)
    except OSError as error:
        raise StorageError(f"the data folder cannot be written: {error.strerror}") from error
    except PeeweeException as error:
        raise StorageError(f"the database cannot be opened: {error}") from error
    return Ledger(database, data_dir)


@contextmanager
def _migrating(data_dir: Path) -> Iterator[None]:
    # Opened to read: what lies on a disk that became read-only can still be looked at.
    lock = os.open(data_dir / "migrate.lock", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


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
    if len(pending) == len(status):
        audit.HeadFile(data_dir).create()
    if pending:
        runner.up()


def _refuse_lost_database(path: Path) -> None:
    # A new database would name none of the objects, and recovery removes what no row names.
    if path.exists() and path.stat().st_size:
        return
    if any((path.parent / "objects").glob("*/*.dcm")):
        raise StorageError(
            "the database is missing beside stored objects: restore it from its backup, "
            "or move the folder objects away to begin anew"
        )


def _refuse_network_file_system(data_dir: Path) -> None:
    # SQLite's write-ahead log needs shared memory, which network file systems do not give.
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return
    best, kind = "", ""
    folder = str(data_dir.resolve())
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, point, file_system, *_ = line.split(" ")
        # A blank in a name is written as \\040, proc(5).
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
        if (folder == point or folder.startswith(point.rstrip("/") + "/")) and len(point) >= len(
            best
        ):
            best, kind = point, file_system
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"the data folder lies on a network file system ({kind}); "
            "SQLite is not safe there: choose a local disk for node.data_dir"
        )


def process_name(pid: int | None = None) -> str:
    """What a process of this machine is called where rows name their owner; None is this one."""
    return f"{os.uname().nodename}:{os.getpid() if pid is None else pid}"
