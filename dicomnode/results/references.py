"""The part of the gate that follows references: each leads to what the object lists and we know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.results.content import items_of, walk
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.structure import is_report, is_segmentation

_EVIDENCE: Final = (
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
)


def check_references(dataset: Dataset) -> Iterator[GateFinding]:
    """What is referred to inside an object is listed at its top as well (PS3.3 C.17.2.3, C.12.2).

    Args:
        dataset: Any object, read back.
    """
    if is_report(dataset):
        listed = {uid for uid, _ in _listed(dataset)}
        for item in walk(dataset):
            for uid, _ in _references(items_of(item, "ReferencedSOPSequence")):
                if uid not in listed:
                    text = "a content item refers to an instance that is not in the evidence"
                    yield GateFinding("reference", "PS3.3 C.17.2.3", text)
    if is_segmentation(dataset):
        listed = {uid for uid, _ in _listed(dataset)}
        for uid, _ in _frame_sources(dataset):
            if uid not in listed:
                text = "a frame is derived from an instance that is not in the referenced series"
                yield GateFinding("reference", "PS3.3 C.12.2", text)
        yield from _check_segment_numbers(dataset)


def check_known(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """Every reference leads to a source or to a result of the same bundle, with its SOP class.

    Args:
        dataset: An object of the bundle, read back.
        context: Sources and bundle.
    """
    instances = (*context.sources, *context.provenance.pertinent, *context.bundle.values())
    known = {str(each.get("SOPInstanceUID")): each for each in instances}
    for uid, sop_class_uid in (*_listed(dataset), *_frame_sources(dataset)):
        target = known.get(uid)
        if target is None:
            text = "a reference leads to an instance that is neither source nor result"
            yield GateFinding("reference", "PS3.3 10.8", text)
        elif str(target.get("SOPClassUID")) != sop_class_uid:
            text = "a reference gives another SOP class than its instance has"
            yield GateFinding("reference", "PS3.3 10.8", text)
    for study in items_of(dataset, "CurrentRequestedProcedureEvidenceSequence"):
        if study.get("StudyInstanceUID") != dataset.get("StudyInstanceUID"):
            text = "the evidence is of another study"
            yield GateFinding("reference", "PS3.3 C.17.2.3", text)


def _check_segment_numbers(dataset: Dataset) -> Iterator[GateFinding]:
    numbers = {item.get("SegmentNumber") for item in items_of(dataset, "SegmentSequence")}
    for frame in items_of(dataset, "PerFrameFunctionalGroupsSequence"):
        for item in items_of(frame, "SegmentIdentificationSequence"):
            if item.get("ReferencedSegmentNumber") not in numbers:
                text = "a frame belongs to a segment that is not described"
                yield GateFinding("reference", "PS3.3 C.8.20.3.1", text)


def _listed(dataset: Dataset) -> Iterator[tuple[str, str]]:
    studies = [dataset]
    for keyword in _EVIDENCE:
        studies += items_of(dataset, keyword)
    for study in studies:
        for series in items_of(study, "ReferencedSeriesSequence"):
            yield from _references(items_of(series, "ReferencedSOPSequence"))
            yield from _references(items_of(series, "ReferencedInstanceSequence"))


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
