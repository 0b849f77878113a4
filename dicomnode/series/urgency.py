"""What is urgent, as a route or the images' own headers say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from config.errors import MalformedError
from dicomnode.series.headers import text, value

# PS3.3 C.4.11 Requested Procedure Priority (0040,1003): STAT, HIGH, ROUTINE, MEDIUM, LOW. Study
# Priority ID (0032,000C) is retired, and still written: HIGH, MED, LOW.
_PRIORITIES = ("RequestedProcedurePriority", "StudyPriorityID")
_URGENT = frozenset({"STAT", "HIGH"})


def priority_of(
    asked: Literal["request", "stat", "routine"], headers: Iterable[Dataset]
) -> Literal["stat", "routine"]:
    """The priority of a job on some images.

    Args:
        asked: What its route says.
        headers: As `is_urgent`.
    """
    if asked == "request":
        return "stat" if is_urgent(headers) else "routine"
    return asked


def is_urgent(headers: Iterable[Dataset]) -> bool:
    """Whether any of the images was requested with priority STAT or HIGH.

    What cannot be read says nothing.

    Args:
        headers: Of the images; the request may also stand in an item of the Request Attributes
            Sequence (0040,0275).
    """
    return any(_says_so(place) for header in headers for place in _places(header))


def _places(header: Dataset) -> Iterator[Dataset]:
    yield header
    with contextlib.suppress(MalformedError):
        items = value(header, "RequestAttributesSequence")
        yield from items if isinstance(items, Sequence) else ()


def _says_so(place: Dataset) -> bool:
    for keyword in _PRIORITIES:
        with contextlib.suppress(MalformedError):
            if text(place, keyword).upper() in _URGENT:
                return True
    return False
