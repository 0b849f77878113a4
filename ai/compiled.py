"""Graphs as the runtime made them ready for one provider and processor, kept between starts.

An entry is a folder ``KEY/`` with the files and ``proof.json``, the SHA-256 of each. Its key holds
everything that the files depend on, so nothing is ever brought up to date: another model, runtime,
provider or processor has another key. What is not as it was written is removed and made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnxruntime as ort

from ai.devices import processor
from ai.variants import Provider

_PROOF = "proof.json"
_UNUSED_SECONDS = 90 * 86400.0


class CompiledGraphs:
    """The kept graphs below one folder; processes may share it.

    Args:
        folder: Made at first use. Whoever may write into it may change what models answer, as
            with the models themselves.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, digest: str, graph: str, provider: Provider) -> str:
        """Names an entry: model, graph file, runtime, provider and processor.

        Args:
            digest: That of the package.
            graph: Which of its graphs.
            provider: What it is made for.
        """
        parts = (digest, graph, ort.__version__, provider, processor())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def proved(self, key: str) -> Path | None:
        """The folder of an entry, every file of which is the one that was written, or None."""
        place = self.folder / key
        try:
            told = json.loads((place / _PROOF).read_text("utf-8"))
            there = {path.name for path in place.iterdir()} - {_PROOF}
            sound = isinstance(told, dict) and told == {name: _sha(place / name) for name in there}
        except (OSError, ValueError):
            sound = False
        if not sound:
            shutil.rmtree(place, ignore_errors=True)
            return None
        with suppress(OSError):
            os.utime(place)
        return place

    def read(self, key: str, name: str) -> bytes | None:
        """Bytes of a file of an entry, proved by the hash of these very bytes, or None."""
        try:
            told = json.loads((self.folder / key / _PROOF).read_text("utf-8"))
            content = (self.folder / key / name).read_bytes()
            sound = hashlib.sha256(content).hexdigest() == told[name]
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            shutil.rmtree(self.folder / key, ignore_errors=True)
            return None
        with suppress(OSError):
            os.utime(self.folder / key)
        return content

    @contextmanager
    def make(self, key: str) -> Iterator[Path]:
        """A folder to write the files of an entry into; it becomes the entry when all went well.

        Where another process was faster, its entry stays.

        Raises:
            OSError: The disk does not take it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=self.folder, prefix="new-"))
        try:
            yield made
            self.seal(made)
            with suppress(OSError):
                made.rename(self.folder / key)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        self._forget_unused()

    def seal(self, place: Path) -> None:
        """Writes down the SHA-256 of every file of a folder.

        Raises:
            OSError: The disk does not take it.
        """
        names = sorted(path.name for path in place.iterdir() if path.name != _PROOF)
        text = json.dumps({name: _sha(place / name) for name in names}, indent=1)
        (place / _PROOF).write_text(text, "utf-8")

    def _forget_unused(self) -> None:
        before = time.time() - _UNUSED_SECONDS
        for place in self.folder.iterdir():
            with suppress(OSError):
                if place.stat().st_mtime < before:
                    shutil.rmtree(place, ignore_errors=True)


def _sha(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
