"""Why pydicom does not read an object that the walk lets through: shown, not guessed.

The walk skips what has a length: the values of elements, and items of defined length. What pydicom
stumbles over must lie there: once that part is made harmless, pydicom reads the rest.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pydicom

from dicomnode.net.walk import DEFLATED, DatasetWalk
from storage.part10 import file_head
from tests.raw import CT, EXPLICIT

CHARACTER_SET = "the value of Specific Character Set"
ITEM = "within an item of defined length"


class _Recorder(DatasetWalk):
    """Notes the items that the walk skips: where their content begins and ends."""

    def __init__(self, syntax: str) -> None:
        super().__init__(syntax)
        self.items: list[tuple[int, int]] = []

    def _item(self, data: Any, at: int, level: Any) -> int:
        step = super()._item(data, at, level)
        if level.kind == "sequence" and step > 8:
            self.items.append((at + 8, at + step))
        return step


def without_skipped_items(syntax: str, data_set: bytes) -> bytes:
    """The data set with every item that the walk skips emptied."""
    walk = _Recorder(syntax)
    walk.feed(data_set)  # at once, so that places count from its first byte
    walk.finish()
    for begin, end in reversed(walk.items):
        data_set = data_set[: begin - 4] + bytes(4) + data_set[end:]
    return data_set


def why_unread(syntax: str, data_set: bytes) -> str | None:
    """In which skipped part the damage lies that keeps pydicom from reading; None: it reads.

    Raises:
        AssertionError: It lies in what the walk vouches for.
    """
    if syntax in DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        syntax, data_set = EXPLICIT, inflate.decompress(data_set)
    if _reads(syntax, data_set):
        return None
    with _any_character_set():
        if _reads(syntax, data_set):
            return CHARACTER_SET
        emptied = without_skipped_items(syntax, data_set)
        assert _reads(syntax, emptied), "pydicom does not read what the walk vouches for"
    return ITEM


def _reads(syntax: str, data_set: bytes) -> bool:
    try:
        pydicom.dcmread(io.BytesIO(file_head(CT, "1.2.3.4", syntax) + data_set))
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def _any_character_set() -> Iterator[None]:
    """pydicom takes any Specific Character Set for the default one."""
    with (
        patch("pydicom.filereader.convert_encodings", lambda _: ["iso8859"]),
        patch("pydicom.dataset.convert_encodings", lambda _: ["iso8859"]),
    ):
        yield
