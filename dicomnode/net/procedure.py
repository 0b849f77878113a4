"""Modality Performed Procedure Step as SCP (PS3.4 F.7): what a modality says that it made.

Of what a modality tells only the state of the step and the UIDs of its objects are kept: they say
when a series is complete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from config.errors import OutOfSpaceError, StorageError
from dicomnode.net.contexts import PROCEDURE_STEP
from dicomnode.net.status import STORED, Answer
from dicomnode.net.walk import is_uid
from storage import procedures
from storage.announced_records import ProcedureStep
from storage.db import Change
from storage.nudge import nudge

log = logging.getLogger(__name__)

INVALID_VALUE = Answer(0x0106, "An attribute has a wrong value", "PS3.7 Annex C", "value")
MALFORMED = Answer(0x0110, "The data set is not well-formed", "PS3.7 Annex C", "malformed")
FAILED = Answer(0x0110, "Processing failure: please send it again later", "PS3.7 Annex C", "fault")
FINAL = Answer(
    0x0110,
    "Performed Procedure Step Object may no longer be updated",
    "PS3.4 F.7.2.2.4",
    "final",
    0xA710,
)
DUPLICATE = Answer(0x0111, "There is a step of this UID already", "PS3.7 Annex C", "duplicate")
UNKNOWN = Answer(0x0112, "There is no step of this UID", "PS3.7 Annex C", "unknown")
INVALID_INSTANCE = Answer(0x0117, "The SOP Instance UID is not a UID", "PS3.7 Annex C", "uid")
OTHER_CLASS = Answer(0x0118, "Not the SOP class of this context", "PS3.7 Annex C", "sop-class")
MISSING = Answer(0x0120, "An attribute is missing", "PS3.7 Annex C", "missing")
EMPTY = Answer(0x0121, "An attribute has no value", "PS3.7 Annex C", "empty")
UNRECOGNISED = Answer(0x0211, "Only N-CREATE and N-SET are served", "PS3.7 Annex C", "operation")
NO_ROOM = Answer(0x0213, "No room: please send it again later", "PS3.7 Annex C", "space")
ANSWERS = (
    INVALID_VALUE,
    MALFORMED,
    FAILED,
    FINAL,
    DUPLICATE,
    UNKNOWN,
    INVALID_INSTANCE,
    OTHER_CLASS,
    MISSING,
    EMPTY,
    UNRECOGNISED,
    NO_ROOM,
)

# Performed Procedure Step Status (0040,0252), PS3.3 C.4.14: the state that it means.
_STATES = {
    "IN PROGRESS": "in-progress",
    "COMPLETED": "completed",
    "DISCONTINUED": "discontinued",
}
_STATUS, _SERIES = "PerformedProcedureStepStatus", "PerformedSeriesSequence"
_OBJECTS = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


class _RefusedError(Exception):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.reason)


@dataclass(frozen=True)
class StepReport:
    """What an attribute list says of a step.

    Attributes:
        state: One of the states of `ProcedureStep`, or None where it says nothing.
        performed: SOP Instance UIDs by Series Instance UID; None where it says nothing.
    """

    state: str | None
    performed: Mapping[str, Sequence[str]] | None


def on_create(event: evt.Event, desk: Any) -> tuple[Dataset, None]:
    """N-CREATE (PS3.4 F.7.2.1): a step begins."""

    def create(link: Any) -> None:
        uid = _instance(event.request.AffectedSOPClassUID, event.request.AffectedSOPInstanceUID)
        said = _read(lambda: event.attribute_list)
        if said.state is None:
            raise _RefusedError(MISSING.because(f"{_STATUS} is missing"))
        if said.state != "in-progress":
            raise _RefusedError(INVALID_VALUE.because(f"{_STATUS} is not IN PROGRESS"))
        with _changing(desk) as change:
            if procedures.find(uid) is not None:
                raise _RefusedError(DUPLICATE)
            procedures.create(change, uid, link.calling_ae, said.performed or {})

    return _answer(event, desk, create), None


def on_set(event: evt.Event, desk: Any) -> tuple[Dataset, None]:
    """N-SET (PS3.4 F.7.2.2): a step goes on, is completed or discontinued."""

    def update(link: Any) -> None:
        uid = _instance(event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID)
        said = _read(lambda: event.modification_list)
        state = None if said.state == "in-progress" else said.state
        with _changing(desk) as change:
            step = procedures.find(uid)
            if step is None:
                raise _RefusedError(UNKNOWN)
            if not ProcedureStep.transitions[step.state]:
                raise _RefusedError(FINAL)
            if state == "completed" and not (said.performed or procedures.lists_anything(step)):
                # Table F.7.2-1: of type 1 in the final state.
                raise _RefusedError(EMPTY.because(f"{_SERIES} has no value"))
            procedures.update(change, step, link.calling_ae, state, said.performed)
        nudge(desk.intake.ledger.data_dir, "worker")

    return _answer(event, desk, update), None


def on_other(event: evt.Event) -> tuple[Dataset, None]:
    """Any other DIMSE-N service: it is not served."""
    return _response(UNRECOGNISED), None


def _answer(event: evt.Event, desk: Any, act: Callable[[Any], None]) -> Dataset:
    link = event.assoc.link
    try:
        if desk.intake.draining:
            raise _RefusedError(NO_ROOM)
        desk.intake.store.check_room()
        act(link)
        return _response(STORED)
    except _RefusedError as error:
        answer = error.answer
    except OutOfSpaceError:
        answer = NO_ROOM
    except StorageError as error:
        log.error("a performed procedure step could not be kept: %s", error)
        answer = FAILED
    _tell(desk, link, answer)
    return _response(answer)


def _tell(desk: Any, link: Any, answer: Answer) -> None:
    log.warning(
        "a performed procedure step was refused with 0x%04X on association %d: %s",
        answer.status,
        link.association_id,
        answer.comment,
    )
    told = f"mpps {answer.reason}"  # once an association
    if told in link.told:
        return
    link.told.add(told)
    try:
        with _changing(desk) as change:
            change.audit(
                "procedure_step.refused",
                object=f"association:{link.association_id}",
                outcome="refused",
                detail={"status": f"0x{answer.status:04X}", "why": answer.comment},
            )
    except StorageError as error:
        log.error("a refused procedure step could not be put on record: %s", error)


@contextmanager
def _changing(desk: Any) -> Iterator[Change]:
    """A transaction, among the receivers in turn."""
    with desk.intake.turn.held(time.monotonic()), desk.intake.ledger.transaction() as change:
        yield change


def _response(answer: Answer) -> Dataset:
    response = Dataset()
    response.Status = answer.status
    if answer.comment:
        response.ErrorComment = answer.comment
    if answer.error_id is not None:
        response.ErrorID = answer.error_id
    return response


def _instance(sop_class_uid: object, sop_instance_uid: object) -> str:
    if sop_class_uid != PROCEDURE_STEP:
        raise _RefusedError(OTHER_CLASS)
    uid = str(sop_instance_uid or "")
    if not is_uid(uid):
        raise _RefusedError(INVALID_INSTANCE)
    return uid


def _read(given: Callable[[], Dataset]) -> StepReport:
    try:
        dataset = given()
        return StepReport(_state(dataset), _performed(dataset))
    except _RefusedError:
        raise
    except Exception as error:  # a parser of hostile bytes raises what it likes
        raise _RefusedError(MALFORMED) from error


def _state(dataset: Dataset) -> str | None:
    if _STATUS not in dataset:
        return None
    said = str(dataset[_STATUS].value or "").strip()
    if not said:
        raise _RefusedError(EMPTY.because(f"{_STATUS} has no value"))
    if said not in _STATES:
        raise _RefusedError(INVALID_VALUE.because(f"{_STATUS} is none of the defined terms"))
    return _STATES[said]


def _performed(dataset: Dataset) -> dict[str, list[str]] | None:
    if _SERIES not in dataset:
        return None
    found: dict[str, list[str]] = {}
    for item in dataset[_SERIES].value or ():
        listed = found.setdefault(_uid(item, "SeriesInstanceUID"), [])
        for keyword in _OBJECTS:
            references = item[keyword].value if keyword in item else None
            listed += [_uid(entry, "ReferencedSOPInstanceUID") for entry in references or ()]
    return found


def _uid(item: Dataset, keyword: str) -> str:
    uid = str(item[keyword].value or "") if keyword in item else ""
    if not uid:
        raise _RefusedError(EMPTY.because(f"{keyword} has no value"))
    if not is_uid(uid):
        raise _RefusedError(INVALID_VALUE.because(f"{keyword} is not a UID"))
    return uid
