"""Refused bytes, one copy a digest, each beside a note that says why; the oldest leave first."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from storage.objects import Incoming, storage_errors, sync_folder


class Quarantine:
    """The folder ``quarantine/`` of a data folder: ``<digest>.dcm`` and ``<digest>.json``.

    Args:
        data_dir: The data folder.
        room: Bytes that the folder may hold.
    """

    def __init__(self, data_dir: Path, room: int) -> None:
        self.folder = data_dir / "quarantine"
        self._room = room
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
            if path.exists() or refused.size > self._room:
                refused.discard()
                return path.exists()
            self._make_room(refused.size)
            refused.finish()
            os.fsync(refused.fd)
            note = json.dumps({"digest": refused.digest, "size": refused.size, **why}, indent=1)
            path.with_suffix(".json").write_text(note, encoding="utf-8")
            refused.move_to(path)
            sync_folder(self.folder)
            return True

    def _make_room(self, size: int) -> None:
        entries = []
        for path in self.folder.glob("*.dcm"):
            facts = path.stat()
            entries.append((facts.st_mtime_ns, facts.st_size, path))
        held = sum(entry[1] for entry in entries)
        for _, length, path in sorted(entries):
            if held + size <= self._room:
                break
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
            held -= length
