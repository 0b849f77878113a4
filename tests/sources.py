"""Sources that answer C-FIND, honestly or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from dicomnode.net.find import STUDY_ROOT_FIND
from dicomnode.net.library import quiet_pynetdicom
from dicomnode.net.scu import Peer

Matches = Iterator[tuple[int, Dataset | None]]
Answer = Callable[[str, Any], Matches]
"""Gives status and identifier of each response, for a query level and pynetdicom's event."""


@contextmanager
def source(answer: Answer) -> Iterator[Peer]:
    """A query SCP that answers so, on a free port."""

    def handle(event: Any) -> Matches:
        yield from answer(event.identifier.QueryRetrieveLevel, event)

    quiet_pynetdicom()
    ae = AE("ARCHIVE")
    ae.add_supported_context(STUDY_ROOT_FIND)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, handle)])
    try:
        yield Peer("ARCHIVE", "127.0.0.1", server.socket.getsockname()[1])
    finally:
        server.shutdown()


def match(study: str, count: object, series: str = "") -> Dataset:
    """An identifier that counts the instances of a study, or of one series of it."""
    found = Dataset()
    found.StudyInstanceUID = study
    if series:
        found.add(DataElement("SeriesInstanceUID", "UI", series, validation_mode=IGNORE))
    tag = "NumberOfSeriesRelatedInstances" if series else "NumberOfStudyRelatedInstances"
    found.add(DataElement(tag, "LO", str(count), validation_mode=IGNORE))
    return found


def counts(study: str, instances: object, by_series: dict[str, object]) -> Answer:
    """A source that says these numbers of one study."""

    def answer(level: str, event: Any) -> Matches:
        if event.identifier.StudyInstanceUID != study:
            return
        if level == "STUDY":
            yield 0xFF00, match(study, instances)
        else:
            for uid, count in by_series.items():
                yield 0xFF00, match(study, count, uid)

    return answer
