"""Tidies the object store at start-up: what a process that is gone left unfinished.

Only folders that their process did not close are looked at, so that this takes a moment however
many objects are stored.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.files import storage_errors
from storage.runs import (
    CLOSED,
    FAULT,
    FOLDER,
    OBJECTS,
    SEGMENT_NAME,
    SPOOL,
    TOKEN,
    mark_closed,
)

Known = Callable[[Sequence[str]], set[str]]
"""Of the keys given, those that a row names."""


@dataclass(frozen=True)
class Recovered:
    """What start-up found in the folders of runs that did not end cleanly.

    Attributes:
        folders: Folders looked at.
        kept: Files that a row names.
        removed: Files that no row names; they were never acknowledged.
        spooled: Unfinished files removed from the spool.
    """

    folders: int
    kept: int
    removed: int
    spooled: int


def tidy(data_dir: Path, known: Known) -> Recovered:
    """Remove what runs that are no more left unfinished. Safe beside runs that live.

    Args:
        data_dir: The data folder.
        known: Tells which keys a row names; asked for at most `FOLDER_FILES` at a time.

    Raises:
        StorageError: The disk refused.
    """
    objects, spool = data_dir / OBJECTS, data_dir / SPOOL
    with storage_errors("recovering the object store"), _alone(data_dir):
        for folder in (objects, spool):
            folder.mkdir(mode=0o750, exist_ok=True)
        spooled = sum(_empty_spool(entry) for entry in _folders(spool, TOKEN))
        folders = kept = removed = 0
        for path in _folders(objects, FOLDER):
            if (path / CLOSED).exists() or (spool / path.name[:16]).exists():
                continue
            here, gone = _settle_folder(path, known)
            folders, kept, removed = folders + 1, kept + here, removed + gone
    return Recovered(folders, kept, removed, spooled)


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """One recovery at a time, over all processes."""
    with (data_dir / "recover.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folders(parent: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [parent / name for name in sorted(os.listdir(parent)) if pattern.fullmatch(name)]


def _empty_spool(path: Path) -> int:
    """Remove a dead run's spool folder; a living run holds its lock and is left alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # another recovery was here first
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = os.listdir(fd)
        if any(SEGMENT_NAME.fullmatch(name) for name in names):
            return 0  # acknowledged objects: for `storage.replay`
        for name in names:
            os.unlink(name, dir_fd=fd)
        os.rmdir(path)
        return sum(1 for name in names if name != FAULT)
    except (BlockingIOError, FileNotFoundError):
        return 0
    finally:
        os.close(fd)


def _settle_folder(path: Path, known: Known) -> tuple[int, int]:
    """Remove the files of a dead run's folder that no row names; mark the folder closed."""
    keys = [f"{path.name}/{name}" for name in os.listdir(path)]
    named = known(keys) if keys else set()
    for key in keys:
        if key not in named:
            os.unlink(path.parent / key)
    if not named:
        os.rmdir(path)
        return 0, len(keys)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mark_closed(fd)
    finally:
        os.close(fd)
    return len(named), len(keys) - len(named)
