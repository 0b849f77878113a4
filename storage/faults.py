"""What keeps a data folder from taking objects, looked for from outside as a stranger would."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

from config.errors import StorageError
from storage.db import FILE_NAME
from storage.objects import ObjectStore
from storage.runs import FAULT, SPOOL

PROBE_SECONDS = 2.0
"""How long another may hold the writer's lock before that is a fault."""

_FULL = (errno.ENOSPC, errno.EDQUOT)  # which is told as that

_TABLES_READ = ("association", "instance", "series", "job", "delivery")


def faults(data_dir: Path, *, min_free: Literal["auto"] | int = "auto") -> list[str]:
    """What is wrong with a data folder now, one plain sentence each.

    Args:
        data_dir: The data folder of a node that was started before.
        min_free: The free-space mark, as in the settings.
    """
    if not data_dir.is_dir():
        missing = not data_dir.exists()
        return [
            "the data folder is missing"
            if missing
            else "something else lies where the data folder was"
        ]
    found = [*_folder_faults(data_dir)]
    try:
        ObjectStore(data_dir, min_free=min_free).check_room()
    except StorageError as error:
        found.append(str(error))
    return [*found, *_database_faults(data_dir / FILE_NAME), *_waiting(data_dir)]


def _folder_faults(data_dir: Path) -> Iterator[str]:
    for name in ("", "objects", "spool"):
        folder = data_dir / name
        what = f"the folder {name} of the data folder" if name else "the data folder"
        if not folder.is_dir():
            yield f"{what} is missing"
        elif not _takes_files(folder):
            yield f"{what} cannot be written"


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made there: a disk made read-only by the kernel says so only then."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))  # it never has a name
    except OSError as error:
        unknown = error.errno in (errno.EOPNOTSUPP, errno.EISDIR)  # this file system cannot tell
        return error.errno in _FULL or (unknown and os.access(folder, os.R_OK | os.W_OK | os.X_OK))
    return True


def _waiting(data_dir: Path) -> Iterator[str]:
    """Why objects that were acknowledged have no row yet, as the receivers say."""
    for path in sorted((data_dir / SPOOL).glob(f"*/{FAULT}")):
        with suppress(OSError):  # that receiver ended at this very moment
            if why := path.read_text(encoding="utf-8", errors="replace").strip():
                yield f"acknowledged objects wait in the intake journal: {why}"
                return


def _database_faults(path: Path) -> Iterator[str]:
    if not path.exists():
        yield "the database is missing"
        return
    uri = f"{path.resolve().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=PROBE_SECONDS)) as database:
            # A connection of its own: one that is open already may read what it read before.
            for table in _TABLES_READ:
                database.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - names of ours
            if _is_stuck(database):
                yield f"another program has the database locked for {PROBE_SECONDS:g} s or longer"
    except sqlite3.OperationalError as error:
        yield f"the database cannot be written: {error}"
    except sqlite3.Error as error:
        yield f"the database is damaged: {error}"


def _is_stuck(database: sqlite3.Connection) -> bool:
    """Whether nobody can write: the lock is held, and whoever holds it commits nothing."""
    (before,) = database.execute("PRAGMA data_version").fetchone()
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        (after,) = database.execute("PRAGMA data_version").fetchone()
        return bool(before == after)
    return False
