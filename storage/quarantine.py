"""Refused bytes, one copy a digest, each beside a note that says why; the oldest leave first."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import UsageError
from storage.files import storage_errors, sync_folder
from storage.incoming import Incoming

SHORTEST_NAME = 8
"""Digits of a digest that name a refused object at least."""

BLOCK = 4096
"""A file takes whole blocks of the disk, and each object has a note beside it."""

AT_ONCE = 8
"""Old objects make room for a part in so many of the whole, so that most find it made."""

SHARE = 4
"""A process uses a part in so many of what it found free before it looks again."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A refused object that lies in quarantine.

    Attributes:
        digest: SHA-256 of the data set's bytes as far as they came, hexadecimal.
        size: Their number.
        status: What the sender was answered, ``0xC000``.
        reason: Short stable code.
        why: One sentence without patient data.
        calling_ae: Who sent it.
        received_at: When, seconds since the epoch.
        path: The file: a Part 10 head made of the command, and what came of the data set.
    """

    digest: str
    size: int
    status: str
    reason: str
    why: str
    calling_ae: str
    received_at: float
    path: Path


class Quarantine:
    """The folder ``quarantine/`` of a data folder: ``<digest>.dcm`` and ``<digest>.json``.

    Args:
        data_dir: The data folder.
        room: Bytes of the disk that the folder may take.
    """

    def __init__(self, data_dir: Path, room: int) -> None:
        self.folder = data_dir / "quarantine"
        self._room = room
        self._spare = 0
        self._lock = threading.Lock()

    def keep(self, refused: Incoming, why: Mapping[str, object]) -> bool:
        """Take over a finished file that was refused; its incoming is done with afterwards.

        Args:
            refused: The file, as far as it came.
            why: What the note says; no patient data.

        Returns:
            Whether a copy lies in quarantine now: not when it is larger than the whole room.

        Raises:
            StorageError: The disk refused.
        """
        with self._lock, storage_errors("quarantining an object"):
            self.folder.mkdir(mode=0o750, exist_ok=True)
            path = self.folder / f"{refused.digest}.dcm"
            needed = _room_of(refused.size)
            if path.exists() or needed > self._room:
                refused.discard()
                return path.exists()
            if needed > self._spare:
                self._spare = self._make_room(needed)
            self._spare -= needed
            refused.sync()
            facts = {"digest": refused.digest, "size": refused.size, "received_at": time.time()}
            note = json.dumps({**facts, **why}, indent=1)
            path.with_suffix(".json").write_text(note, encoding="utf-8")
            refused.move_to(path)
            sync_folder(self.folder)
            return True

    def list(self) -> list[Refused]:
        """What lies here, the newest first.

        Raises:
            StorageError: The folder cannot be read.
        """
        with storage_errors("reading the quarantine"):
            found = [entry for path in self.folder.glob("*.dcm") if (entry := _read(path))]
        return sorted(found, key=lambda entry: entry.received_at, reverse=True)

    def find(self, name: str) -> Refused:
        """The one object whose digest begins with these digits.

        Raises:
            UsageError: There is none, or more than one, or too few digits were given.
        """
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_NAME},64}}", name):
            raise UsageError(
                f"a refused object is named by its digest, or the first {SHORTEST_NAME} digits of "
                "it or more; a quarantined instance as instance:17"
            )
        found = [entry for entry in self.list() if entry.digest.startswith(name)]
        if len(found) != 1:
            many = "more than one object" if found else "no object"
            raise UsageError(f"{many} in quarantine has a digest that begins with {name}")
        return found[0]

    def remove(self, entry: Refused) -> None:
        """Delete an object and its note; harmless when they are gone already.

        Raises:
            StorageError: The disk refused.
        """
        with storage_errors("deleting from the quarantine"):
            entry.path.unlink(missing_ok=True)
            entry.path.with_suffix(".json").unlink(missing_ok=True)
            sync_folder(self.folder)

    def _make_room(self, needed: int) -> int:
        """Delete the oldest until there is room; gives what may be used before the next look."""
        entries = []
        for path in self.folder.glob("*.dcm"):
            with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                facts = path.stat()
                entries.append((facts.st_mtime_ns, _room_of(facts.st_size), path))
        held = sum(entry[1] for entry in entries)
        if held + needed > self._room:
            wanted = max(0, self._room - max(needed, self._room // AT_ONCE))
            for _, length, path in sorted(entries):
                if held <= wanted:
                    break
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
                held -= length
        return max(needed, (self._room - held) // SHARE)


def _room_of(size: int) -> int:
    """Bytes of the disk that an object of this size takes, with its note."""
    return -(-size // BLOCK) * BLOCK + BLOCK


def _read(path: Path) -> Refused | None:
    """One object with its note; what the note does not say is read off the file."""
    try:
        facts = path.stat()
    except FileNotFoundError:  # another process made room at this very moment
        return None
    note: dict[str, Any] = {}
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        note = content if isinstance(content, dict) else {}
    except (FileNotFoundError, ValueError):
        note = {"why": "its note is missing or unreadable"}
    return Refused(
        digest=path.stem,
        size=int(note.get("size", facts.st_size)),
        status=str(note.get("status", "")),
        reason=str(note.get("reason", "")),
        why=str(note.get("why", "")),
        calling_ae=str(note.get("calling_ae", "")),
        received_at=float(note.get("received_at", facts.st_mtime)),
        path=path,
    )
