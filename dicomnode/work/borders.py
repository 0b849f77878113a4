"""The borders of the worker's loops: a fault is logged there and does not spread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from config.errors import MedAIError

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def reported(doing: str) -> Iterator[None]:
    """Log a fault of what is done inside, and let the loop go on.

    Args:
        doing: What is done, for the log: "assembling".
    """
    try:
        yield
    except MedAIError as error:
        log.error("worker.fault", doing=doing, why=str(error))
    except Exception:
        log.exception("worker.fault", doing=doing)
