"""What a graph holds in memory while it runs, as the runtime's own account of its first run says.

Beside times the profile of a session tells for each operator what its arena had handed out when
that was done, in the bytes asked for. It counts this session alone, whatever the rest of the
process does meanwhile, which the growth of the process would not. It is the least that is needed:
what an operator takes and gives back within its own work is not in it, nor is what lies unused
between two tensors. Older runtimes do not tell it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnxruntime as ort

_KEPT, _MADE = "mem_bytes_requested_in_use", "output_size"


@contextmanager
def profiled() -> Iterator[dict[str, Any]]:
    """Settings of a session whose first runs are to be told by `held`, while their file is there.

    Without room for a temporary folder they are none.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="medai-profile-", ignore_cleanup_errors=True)
    except OSError:
        yield {}
        return
    with folder as name:
        yield {"enable_profiling": True, "profile_file_prefix": str(Path(name) / "run")}


def held(session: ort.InferenceSession) -> int | None:
    """Bytes that the runs of a session since its start held at most, beside weights and inputs.

    Ends its profile. None where it had none, or the runtime does not tell.
    """
    path = session.end_profiling()
    with suppress(OSError, ValueError):
        return _held(json.loads(Path(path).read_text("utf-8"))) if path else None
    return None


def _held(events: list[dict[str, Any]]) -> int | None:
    told = [event["args"] for event in events if _KEPT in event.get("args", {})]
    if not told:
        return None
    # Before the first operator there were the weights alone.
    weights = int(told[0][_KEPT]) - int(told[0][_MADE])
    return max(0, max(int(each[_KEPT]) for each in told) - max(0, weights))
