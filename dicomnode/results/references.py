"""The part of the gate that follows references: each leads to what the object lists and we know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage

from dicomnode.results.content import items_of, walk
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.report_check import is_measurement_report
from dicomnode.results.structure import is_document, is_report, is_segmentation

_CURRENT: Final = "CurrentRequestedProcedureEvidenceSequence"
_PERTINENT: Final = "PertinentOtherEvidenceSequence"
# PS3.3 C.17.2.3 and C.12.2: sequences of studies, and of the instances of a series.
_STUDIES: Final = (_CURRENT, _PERTINENT, "StudiesContainingOtherReferencedInstancesSequence")
_INSTANCES: Final = ("ReferencedSOPSequence", "ReferencedInstanceSequence")
_PLACE: Final = ("StudyInstanceUID", "SeriesInstanceUID")


class _Listed(NamedTuple):
    """An instance with the study and series under which an object lists it."""

    sop_instance_uid: str
    sop_class_uid: str
    place: tuple[str, str]


def check_references(dataset: Dataset) -> Iterator[GateFinding]:
    """What is referred to inside an object is listed at its top as well (PS3.3 C.17.2.3, C.12.2).

    Args:
        dataset: Any object, read back.
    """
    if is_document(dataset):
        listed = {each.sop_instance_uid for each in _listed(dataset)}
        if not _content_references(dataset) <= listed:
            text = "a content item refers to an instance that is not in the evidence"
            yield GateFinding("reference", "PS3.3 C.17.2.3", text)
    if _is_derived(dataset):
        listed = {each.sop_instance_uid for each in _listed(dataset)}
        if any(uid not in listed for uid, _ in _frame_sources(dataset)):
            text = "a frame is derived from an instance that is not in the referenced series"
            yield GateFinding("reference", "PS3.3 C.12.2", text)
        if any(uid not in listed for uid, _ in _images(dataset)):
            text = "an image is referred to that is not in the referenced series"
            yield GateFinding("reference", "PS3.3 C.12.2", text)
        yield from _check_segment_numbers(dataset)


def check_known(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Every reference leads to an input or to a result of the same bundle, as that one is.

    Args:
        dataset: An object of the bundle, read back.
        context: Inputs and bundle.
    """
    instances = (*context.sources, *context.provenance.others, *context.bundle.values())
    known = {str(each.get("SOPInstanceUID")): each for each in instances}
    listed = list(_listed(dataset))
    for uid, sop_class_uid in (
        *(each[:2] for each in listed),
        *_frame_sources(dataset),
        *_images(dataset),
    ):
        target = known.get(uid)
        if target is None:
            text = "a reference leads to an instance that is neither source nor result"
            yield GateFinding("reference", "PS3.3 10.8", text)
        elif str(target.get("SOPClassUID")) != sop_class_uid:
            text = "a reference gives another SOP class than its instance has"
            yield GateFinding("reference", "PS3.3 10.8", text)
    for each in listed:
        target = known.get(each.sop_instance_uid)
        if target is not None and each.place != tuple(str(target.get(key)) for key in _PLACE):
            text = "an instance is listed under another study or series than its own"
            yield GateFinding("reference", "PS3.3 10.8", text)
    own = dataset.get("StudyInstanceUID")
    if any(study.get("StudyInstanceUID") != own for study in items_of(dataset, _CURRENT)):
        text = "the evidence is of another study"
        yield GateFinding("reference", "PS3.3 C.17.2.3", text)
    if any(study.get("StudyInstanceUID") == own for study in items_of(dataset, _PERTINENT)):
        text = "the evidence of other studies is of this one"
        yield GateFinding("reference", "PS3.3 C.17.2.3", text)


def check_evidence(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Every image that the model was given is listed, and a report refers to all that it lists.

    Args:
        dataset: An object of the bundle, read back; judged where it is a report or derived by
            frames.
        context: Inputs and bundle.
    """
    if not (is_report(dataset) or _is_derived(dataset)):
        return
    clause = "PS3.3 C.17.2.3" if is_report(dataset) else "PS3.3 C.12.2"
    listed = {each.sop_instance_uid for each in _listed(dataset)}
    inputs = (*context.sources, *context.provenance.others)
    given = {str(each.get("SOPInstanceUID")) for each in inputs}
    if not given <= listed:
        text = "an image that the model was given is not listed"
        yield GateFinding("reference", clause, text)
    if is_measurement_report(dataset) and not given & listed <= _content_references(dataset):
        text = "the evidence lists an image that no content item refers to"
        yield GateFinding("reference", "PS3.16 TID 1600", text)
    if _is_derived(dataset):
        referred = {uid for uid, _ in (*_frame_sources(dataset), *_images(dataset))}
        if not listed <= referred:
            text = "an instance is listed that nothing in the object refers to"
            yield GateFinding("reference", clause, text)


def _is_derived(dataset: Dataset) -> bool:
    """Whether the object has frames of source images, with a Common Instance Reference Module."""
    return is_segmentation(dataset) or dataset.get("SOPClassUID") == ParametricMapStorage


def _check_segment_numbers(dataset: Dataset) -> Iterator[GateFinding]:
    numbers = {item.get("SegmentNumber") for item in items_of(dataset, "SegmentSequence")}
    for frame in items_of(dataset, "PerFrameFunctionalGroupsSequence"):
        for item in items_of(frame, "SegmentIdentificationSequence"):
            if item.get("ReferencedSegmentNumber") not in numbers:
                text = "a frame belongs to a segment that is not described"
                yield GateFinding("reference", "PS3.3 C.8.20.3.1", text)


def _listed(dataset: Dataset) -> Iterator[_Listed]:
    studies = [dataset]
    for keyword in _STUDIES:
        studies += items_of(dataset, keyword)
    for study in studies:
        for series in items_of(study, "ReferencedSeriesSequence"):
            place = str(study.get(_PLACE[0])), str(series.get(_PLACE[1]))
            for keyword in _INSTANCES:
                for uid, sop_class_uid in _references(items_of(series, keyword)):
                    yield _Listed(uid, sop_class_uid, place)


def _content_references(dataset: Dataset) -> set[str]:
    return {
        uid
        for item in walk(dataset)
        for uid, _ in _references(items_of(item, "ReferencedSOPSequence"))
    }


def _images(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """The images beside those that frames are derived from (PS3.3 C.12.4)."""
    if _is_derived(dataset):
        yield from _references(items_of(dataset, "ReferencedImageSequence"))


def _frame_sources(dataset: Dataset) -> Iterator[tuple[str, str]]:
    seen: set[int] = set()
    for frame in (
        *items_of(dataset, "SharedFunctionalGroupsSequence"),
        *items_of(dataset, "PerFrameFunctionalGroupsSequence"),
    ):
        derivations = frame.get("DerivationImageSequence")
        if id(derivations) in seen:  # shared, see `dicomnode.results.sharing`
            continue
        seen.add(id(derivations))
        for derivation in items_of(frame, "DerivationImageSequence"):
            yield from _references(items_of(derivation, "SourceImageSequence"))


def _references(items: Sequence[Dataset]) -> Iterator[tuple[str, str]]:
    for item in items:
        yield (
            str(item.get("ReferencedSOPInstanceUID", "")),
            str(item.get("ReferencedSOPClassUID", "")),
        )
