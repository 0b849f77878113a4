"""What each thread of a process does, by cProfile, written as JSON when the block ends."""

from __future__ import annotations

import contextlib
import cProfile
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any


@contextlib.contextmanager
def profiled_threads(path: str) -> Iterator[None]:
    """Profile threads that start in the block, each by itself; nothing when `path` is empty.

    The file holds a list for each thread: ``[where, function, calls, seconds]`` for each function,
    its own seconds without what it called. A function of C stands under the file that called it.
    """
    if not path:
        yield
        return
    profiles: list[cProfile.Profile] = []

    def begin(*_: Any) -> None:
        # Called for the first event of a thread; the profiler then takes this one's place.
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    threading.setprofile(begin)
    try:
        yield
    finally:
        threading.setprofile(None)
        Path(path).write_text(json.dumps([_functions(one) for one in profiles]))


def _functions(profile: cProfile.Profile) -> list[tuple[str, str, int, float]]:
    found: list[tuple[str, str, int, float]] = []
    for entry in profile.getstats():
        if not isinstance(entry.code, CodeType):
            continue  # a function of C: told by those that call it
        where = entry.code.co_filename
        found.append((where, entry.code.co_name, entry.callcount, entry.inlinetime))
        found += [
            (where, call.code, call.callcount, call.inlinetime)
            for call in entry.calls or ()
            if not isinstance(call.code, CodeType)
        ]
    return found
