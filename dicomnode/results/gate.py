"""The gate: nothing leaves the node before its written bytes are proved.

`prove` reads the files of a bundle back and holds them against what the model said and against
their sources: structure, references and templates, geometry, identity, labelling. `inspect` applies
what can be said of a lone file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

import pydicom.config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    BasicTextSRStorage,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    SegmentationStorage,
)

from ai.types import Answer, Volume
from config.errors import MalformedError, NotDicomError
from dicomnode.results.document import INHERITED, LOSS
from dicomnode.results.fallback_check import check_stands_in, compare_basic
from dicomnode.results.labelling import check_algorithm, check_identity, check_label
from dicomnode.results.labelmap import LABEL_MAP_SEGMENTATION_STORAGE
from dicomnode.results.maps_check import compare_fractional, compare_label_map, compare_saliency
from dicomnode.results.meanings import check_meanings
from dicomnode.results.pages_check import check_pages
from dicomnode.results.picture_check import (
    check_key_objects,
    check_overlay,
    check_presentation_state,
)
from dicomnode.results.proof import Check, GateFinding, ProofContext
from dicomnode.results.provenance import Provenance
from dicomnode.results.readback import compare_segmentation
from dicomnode.results.references import check_evidence, check_known, check_references
from dicomnode.results.report_check import (
    check_template,
    compare_report,
    is_measurement_report,
)
from dicomnode.results.sharing import share_sequences
from dicomnode.results.structure import (
    check_structure,
    is_report,
    is_segmentation,
    unchecked,
)
from dicomnode.results.values import Inherited

# pydicom's warnings quote values, those of patients too; the gate judges the raw bytes itself.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

__all__ = [
    "CHECKS",
    "SOP_CLASSES",
    "Check",
    "GateFinding",
    "Inspection",
    "ProofContext",
    "inspect",
    "prove",
]

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


def _template(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    yield from check_template(dataset)


# The SOP classes that each kind of result may have.
SOP_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "seg": (SegmentationStorage,),
    "labelmap": (LABEL_MAP_SEGMENTATION_STORAGE,),
    "fractional": (SegmentationStorage,),
    "saliency": (ParametricMapStorage,),
    "sr": (Comprehensive3DSRStorage,),
    "sr-comprehensive": (ComprehensiveSRStorage,),
    "sr-basic": (BasicTextSRStorage,),
    "overlay": (MultiFrameTrueColorSecondaryCaptureImageStorage,),
    "gsps": (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    "ko": (KeyObjectSelectionDocumentStorage,),
    "pdf": (EncapsulatedPDFStorage,),
}

# What each kind of result must pass beside the checks of `_EVERY`.
CHECKS: Final[Mapping[str, tuple[Check, ...]]] = {
    "seg": (compare_segmentation,),
    "labelmap": (compare_label_map,),
    "fractional": (compare_fractional,),
    "saliency": (compare_saliency,),
    "sr": (_template, compare_report),
    "sr-comprehensive": (_template, compare_report, check_stands_in),
    "sr-basic": (compare_basic, check_stands_in),
    "overlay": (check_overlay,),
    "gsps": (check_presentation_state,),
    "ko": (check_key_objects,),
    "pdf": (check_pages,),
}


def _structure(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    yield from check_structure(dataset, _inherited(context.sources))


def _references(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    yield from check_references(dataset)


def _label(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    yield from check_label(dataset)


# What an object of any kind must pass.
_EVERY: Final[tuple[Check, ...]] = (
    _structure,
    _references,
    check_known,
    check_evidence,
    check_identity,
    check_meanings,
    _label,
    check_algorithm,
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
        written: Part 10 files or their bytes by kind, one of `CHECKS`.
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
    for kind, dataset in bundle.items():
        context = ProofContext(kind, answer, volume, sources, provenance, bundle)
        try:
            findings += (
                replace(finding, text=f"{kind}: {finding.text}")
                for finding in _prove_one(dataset, context)
            )
        except _UNREADABLE as error:
            text = f"{kind}: cannot be read through: {type(error).__name__}"
            findings.append(GateFinding("structure", "PS3.5 7", text))
    return tuple(dict.fromkeys(findings))


def _prove_one(dataset: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    for check in _EVERY:
        yield from check(dataset, context)
    if context.kind not in CHECKS:
        yield GateFinding("content", "the bundle", "nothing is known of this kind of result")
    elif str(dataset.get("SOPClassUID")) not in SOP_CLASSES[context.kind]:
        yield GateFinding("structure", "PS3.4 B.5", "the SOP class is not that of its kind")
    else:
        for check in CHECKS[context.kind]:
            yield from check(dataset, context)


def _inherited(sources: Sequence[Dataset]) -> Inherited:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    uids = {str(source.get(keyword, "")) for source in sources for keyword in keywords}
    return Inherited(frozenset((*INHERITED, *_REQUESTS, *LOSS)), frozenset(uids))


@dataclass(frozen=True)
class Inspection:
    """What can be said of a lone file.

    Attributes:
        findings: Everything found wrong.
        unchecked: In one sentence each, what the gate could not judge.
    """

    findings: tuple[GateFinding, ...]
    unchecked: tuple[str, ...]


def inspect(path: Path) -> Inspection:
    """Check a lone file of any kind: structure, references within it, template, labelling.

    Args:
        path: A Part 10 file.

    Returns:
        What is wrong and what was not judged; rules for AI output count for SR and SEG alone.

    Raises:
        NotDicomError: The file is not DICOM.
        MalformedError: It is DICOM that cannot be read to its end.
        OSError: The file itself cannot be opened or read.
    """
    dataset = _read(path)
    findings: list[GateFinding] = []
    try:
        findings += check_structure(dataset, Inherited())
        findings += check_references(dataset)
        if is_report(dataset) and is_measurement_report(dataset):
            findings += check_template(dataset)
        if is_report(dataset) or is_segmentation(dataset):
            findings += check_label(dataset)
    except _UNREADABLE as error:
        raise MalformedError(f"the file cannot be read through ({type(error).__name__})") from error
    return Inspection(tuple(dict.fromkeys(findings)), tuple(_unchecked(dataset)))


def _unchecked(dataset: Dataset) -> Iterator[str]:
    if (modules := unchecked(dataset)) is not None:
        yield modules
    if is_report(dataset) and not is_measurement_report(dataset):
        yield "its template was not checked, since the root names another than TID 1500"


def _read(where: Path | bytes) -> Dataset:
    data = where if isinstance(where, bytes) else where.read_bytes()
    try:
        dataset = dcmread(BytesIO(data))
        share_sequences(dataset)
    except InvalidDicomError as error:
        raise NotDicomError("the file is not DICOM: it has no DICM prefix") from error
    except _UNREADABLE as error:
        raise MalformedError(f"the file cannot be read ({type(error).__name__})") from error
    return dataset
