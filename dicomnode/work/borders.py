"""The borders of the worker's loops: a fault is logged there and does not spread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import structlog

from config.errors import MedAIError
from dicomnode.net.repeats import Repeats

log = structlog.get_logger(__name__)

# A fault that lasts comes with every turn of every loop.
_repeats = Repeats()
_counting = threading.Lock()


@contextlib.contextmanager
def reported(doing: str) -> Iterator[None]:
    """Log a fault of what is done inside, and let the loop go on.

    The same fault of the same work is logged at once, and then once a minute with how many times
    it came.

    Args:
        doing: What is done, for the log: "assembling".
    """
    try:
        yield
    except MedAIError as error:
        if count := _to_tell(doing, str(error)):
            log.error("worker.fault", doing=doing, why=str(error), times=count)
    except Exception as error:
        if count := _to_tell(doing, type(error).__name__):
            log.exception("worker.fault", doing=doing, times=count)


def _to_tell(doing: str, why: str) -> int:
    with _counting:
        return _repeats.count((doing, why))[1]
