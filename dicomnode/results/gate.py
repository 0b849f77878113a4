"""The gate: nothing leaves the node before its written bytes are proved.

`prove` reads the files of a bundle back and holds them against what the model said and against
their sources: structure, references and templates, geometry, identity, labelling. `inspect` applies
what can be said of a lone file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Final

import pydicom.config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence as Items

from ai.types import Answer, Volume
from config.errors import MalformedError, NotDicomError
from dicomnode.results import codes
from dicomnode.results.content import code_of, items_of, walk
from dicomnode.results.document import INHERITED
from dicomnode.results.provenance import WARNING, Provenance, made_here
from dicomnode.results.readback import compare_segmentation
from dicomnode.results.report_check import check_template, compare_report
from dicomnode.results.structure import (
    GateFinding,
    Inherited,
    check_structure,
    is_report,
    is_segmentation,
)

# pydicom's warnings quote values, those of patients too; the gate judges the raw bytes itself.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

__all__ = ["GateFinding", "inspect", "prove"]

_DEVICE_UID: Final = "IHE RAD TF-2 AIR, Contributing Equipment"
_REQUESTS: Final = ("RequestAttributesSequence", "ReferencedRequestSequence")
_UNREADABLE: Final = (
    AttributeError,
    BytesLengthException,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def prove(
    written: Mapping[str, Path | bytes],
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
) -> tuple[GateFinding, ...]:
    """Prove the written objects of one job.

    Args:
        written: Part 10 files or their bytes by kind, ``sr`` and ``seg``.
        answer: What the model said.
        volume: The primary input.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: What the objects were made with.

    Returns:
        Everything found wrong; empty where the bundle may leave.
    """
    findings: list[GateFinding] = []
    bundle: dict[str, Dataset] = {}
    for kind, where in written.items():
        try:
            bundle[kind] = _read(where)
        except (NotDicomError, MalformedError) as error:
            findings.append(GateFinding("structure", "PS3.10 7.1", f"{kind}: {error}"))
    if not written:
        findings.append(GateFinding("content", "the bundle", "nothing was written"))
    known = {str(each.get("SOPInstanceUID")): each for each in (*sources, *bundle.values())}
    for kind, dataset in bundle.items():
        try:
            findings += (
                replace(finding, text=f"{kind}: {finding.text}")
                for finding in _prove_one(
                    kind,
                    dataset,
                    answer=answer,
                    volume=volume,
                    sources=sources,
                    provenance=provenance,
                    known=known,
                )
            )
        except _UNREADABLE as error:
            text = f"{kind}: cannot be read through: {type(error).__name__}"
            findings.append(GateFinding("structure", "PS3.5 7", text))
    return tuple(dict.fromkeys(findings))


def _prove_one(
    kind: str,
    dataset: Dataset,
    *,
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    known: Mapping[str, Dataset],
) -> Iterator[GateFinding]:
    yield from check_structure(dataset, _inherited(sources))
    yield from _check_references(dataset)
    yield from _check_known(dataset, known)
    yield from _check_identity(kind, dataset, sources, provenance)
    yield from _check_label(dataset)
    yield from _check_algorithm(dataset, provenance)
    if kind == "seg":
        if not is_segmentation(dataset):
            yield GateFinding("structure", "PS3.3 A.51", "the seg of the bundle is no segmentation")
            return
        yield from compare_segmentation(dataset, answer, volume, sources)
    if kind == "sr":
        if not is_report(dataset):
            yield GateFinding("structure", "PS3.3 A.35", "the sr of the bundle is no report")
            return
        yield from check_template(dataset)
        segmentation = next((each for each in known.values() if is_segmentation(each)), None)
        yield from compare_report(dataset, answer, sources, provenance, segmentation)


def _inherited(sources: Sequence[Dataset]) -> Inherited:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    uids = {str(source.get(keyword, "")) for source in sources for keyword in keywords}
    return Inherited(frozenset((*INHERITED, *_REQUESTS)), frozenset(uids))


def inspect(path: Path) -> tuple[GateFinding, ...]:
    """Check a lone file of any kind: structure, references within it, template, labelling.

    Args:
        path: A Part 10 file.

    Returns:
        Everything found wrong; rules for AI output count for SR and SEG alone.

    Raises:
        NotDicomError: The file is not DICOM.
        MalformedError: It is DICOM that cannot be read to its end.
        OSError: The file itself cannot be opened or read.
    """
    dataset = _read(path)
    findings: list[GateFinding] = []
    try:
        findings += check_structure(dataset, Inherited())
        findings += _check_references(dataset)
        if is_report(dataset):
            findings += check_template(dataset)
        if is_report(dataset) or is_segmentation(dataset):
            findings += _check_label(dataset)
    except _UNREADABLE as error:
        raise MalformedError(f"the file cannot be read through ({type(error).__name__})") from error
    return tuple(dict.fromkeys(findings))


def _read(where: Path | bytes) -> Dataset:
    data = where if isinstance(where, bytes) else where.read_bytes()
    try:
        return dcmread(BytesIO(data))
    except InvalidDicomError as error:
        raise NotDicomError("the file is not DICOM: it has no DICM prefix") from error
    except _UNREADABLE as error:
        raise MalformedError(f"the file cannot be read ({type(error).__name__})") from error


def _check_references(dataset: Dataset) -> Iterator[GateFinding]:
    # PS3.3 C.17.2.3 and C.12.2: what is referred to inside is listed at the top as well.
    if is_report(dataset):
        listed = {uid for uid, _ in _evidence(dataset)}
        for item in walk(dataset):
            for uid, _ in _references(items_of(item, "ReferencedSOPSequence")):
                if uid not in listed:
                    text = "a content item refers to an instance that is not in the evidence"
                    yield GateFinding("reference", "PS3.3 C.17.2.3", text)
    if is_segmentation(dataset):
        listed = {uid for uid, _ in _evidence(dataset)}
        for uid, _ in _frame_sources(dataset):
            if uid not in listed:
                text = "a frame is derived from an instance that is not in the referenced series"
                yield GateFinding("reference", "PS3.3 C.12.2", text)
        yield from _check_segment_numbers(dataset)


def _check_segment_numbers(dataset: Dataset) -> Iterator[GateFinding]:
    numbers = {item.get("SegmentNumber") for item in items_of(dataset, "SegmentSequence")}
    for frame in items_of(dataset, "PerFrameFunctionalGroupsSequence"):
        for item in items_of(frame, "SegmentIdentificationSequence"):
            if item.get("ReferencedSegmentNumber") not in numbers:
                text = "a frame belongs to a segment that is not described"
                yield GateFinding("reference", "PS3.3 C.8.20.3.1", text)


def _evidence(dataset: Dataset) -> Iterator[tuple[str, str]]:
    studies = [dataset]
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        studies += items_of(dataset, keyword)
    for study in studies:
        for series in items_of(study, "ReferencedSeriesSequence"):
            yield from _references(items_of(series, "ReferencedSOPSequence"))
            yield from _references(items_of(series, "ReferencedInstanceSequence"))


def _frame_sources(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for frame in (
        *items_of(dataset, "SharedFunctionalGroupsSequence"),
        *items_of(dataset, "PerFrameFunctionalGroupsSequence"),
    ):
        for derivation in items_of(frame, "DerivationImageSequence"):
            yield from _references(items_of(derivation, "SourceImageSequence"))


def _references(items: Sequence[Dataset]) -> Iterator[tuple[str, str]]:
    for item in items:
        yield (
            str(item.get("ReferencedSOPInstanceUID", "")),
            str(item.get("ReferencedSOPClassUID", "")),
        )


def _check_known(dataset: Dataset, known: Mapping[str, Dataset]) -> Iterator[GateFinding]:
    for uid, sop_class_uid in (*_evidence(dataset), *_frame_sources(dataset)):
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


def _check_identity(
    kind: str, dataset: Dataset, sources: Sequence[Dataset], provenance: Provenance
) -> Iterator[GateFinding]:
    source = sources[0]
    for keyword in INHERITED:
        if _comparable(dataset, keyword) != _comparable(source, keyword):
            clause = "PS3.3 C.7.1.1 and C.7.2.1"
            yield GateFinding("identity", clause, f"{keyword} is not the source's")
    if "FrameOfReferenceUID" in dataset and (
        dataset.FrameOfReferenceUID != source.get("FrameOfReferenceUID")
    ):
        text = "FrameOfReferenceUID is not the source's"
        yield GateFinding("identity", "PS3.3 C.7.4.1", text)
    for keyword, role in (("SOPInstanceUID", "instance"), ("SeriesInstanceUID", "series")):
        if dataset.get(keyword) != provenance.uid(f"{kind}/{role}"):
            text = f"{keyword} is not the one this job gives"
            yield GateFinding("identity", "PS3.5 B.2", text)


def _comparable(dataset: Dataset, keyword: str) -> object:
    # An absent value and an empty one say the same (type 2).
    value = dataset.get(keyword)
    if isinstance(value, Items):
        return [item.to_json_dict() for item in value] or ""
    return "" if value is None else str(value)


def _check_label(dataset: Dataset) -> Iterator[GateFinding]:
    equipment = items_of(dataset, "ContributingEquipmentSequence")
    wanted = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")
    processing = (codes.PROCESSING_EQUIPMENT.value, codes.PROCESSING_EQUIPMENT.scheme_designator)
    if not any(
        code_of(item, "PurposeOfReferenceCodeSequence") == processing
        and all(item.get(keyword) for keyword in wanted)
        for item in equipment
    ):
        text = "no contributing equipment names the algorithm with version and device UID"
        yield GateFinding("label", _DEVICE_UID, text)
    if is_segmentation(dataset):
        types = [item.get("SegmentAlgorithmType") for item in items_of(dataset, "SegmentSequence")]
        if any(each not in ("AUTOMATIC", "SEMIAUTOMATIC") for each in types):
            text = "a segment is not marked as made by an algorithm"
            yield GateFinding("label", "PS3.3 C.8.20.4", text)
    if is_report(dataset):
        if dataset.get("VerificationFlag") != "UNVERIFIED":
            text = "the report is not marked UNVERIFIED"
            yield GateFinding("label", "PS3.3 C.17.2", text)
        texts = (str(item.get("TextValue", "")) for item in walk(dataset))
        if not any(WARNING in text for text in texts):
            text = "the report does not say that it needs validation by a licensed professional"
            yield GateFinding("label", "P21", text)


def _check_algorithm(dataset: Dataset, provenance: Provenance) -> Iterator[GateFinding]:
    if not made_here(dataset):
        yield GateFinding("label", "PS3.3 C.12.1", "this node is no contributing equipment")
    devices = {
        str(item.get("DeviceUID")) for item in items_of(dataset, "ContributingEquipmentSequence")
    }
    if provenance.device_uid not in devices:
        yield GateFinding("label", _DEVICE_UID, "the device UID is not that of the model")
