"""Structured report of an answer: TID 1500 (PS3.16) as Comprehensive 3D SR (PS3.3 A.35.13).

The content items are highdicom's; the document around them is assembled here, so that its times and
UIDs are the job's. For destinations that do not take that SOP class the same content goes out as
Comprehensive SR (A.35.3), which says that it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import highdicom.sr as hd
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from ai.types import Answer, Volume
from dicomnode.results import codes
from dicomnode.results.assessment import summarize
from dicomnode.results.document import (
    add_request,
    image_references,
    new_result,
)
from dicomnode.results.evidence import add_evidence
from dicomnode.results.groups import measurement_groups, remark
from dicomnode.results.provenance import WARNING, Provenance, code_item, plain
from dicomnode.results.subject import date_of

_CONTAINS: Final = hd.RelationshipTypeValues.CONTAINS
_ACQUISITION: Final = hd.RelationshipTypeValues.HAS_ACQ_CONTEXT

STANDS_IN: Final = (
    "This document is a fall-back form of the same findings, for systems that do not take "
    "Comprehensive 3D SR."
)


def build_report(
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> Dataset:
    """What a model found, as an unverified report.

    Args:
        answer: Its findings come in this order; none at all is said as such.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.
        segmentation: The segmentation of this bundle, or None where there is none.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: Sources and volume disagree, or a region lies on a slice that is not there.
    """
    result = new_report(
        answer,
        volume,
        sources,
        provenance,
        kind="sr",
        sop_class_uid=Comprehensive3DSRStorage,
        cited=[] if segmentation is None else [segmentation],
    )
    groups = measurement_groups(answer, volume, sources, provenance, segmentation)
    _add_content(result, groups, answer, sources, provenance)
    return result


def build_comprehensive(
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> Dataset:
    """The same report as Comprehensive SR; it says that it is a fall-back form.

    All coordinates of `build_report` are on images, so nothing is lost. Arguments, result and
    errors are those of `build_report`.
    """
    result = new_report(
        answer,
        volume,
        sources,
        provenance,
        kind="sr-comprehensive",
        sop_class_uid=ComprehensiveSRStorage,
        cited=[] if segmentation is None else [segmentation],
    )
    groups = measurement_groups(answer, volume, sources, provenance, segmentation)
    _add_content(result, groups, answer, sources, provenance, remarks=[STANDS_IN])
    return result


def new_report(
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    *,
    kind: str,
    sop_class_uid: str,
    cited: Sequence[Dataset],
) -> Dataset:
    """A report of any form with everything but its content.

    Args:
        answer: What it is to report.
        volume: The primary input.
        sources: One a slice, in the volume's order.
        provenance: The job, node and model.
        kind: The kind of result.
        sop_class_uid: SOP class of the result.
        cited: What its content refers to beside the sources.

    Raises:
        ValueError: Sources and volume disagree.
    """
    if len(sources) != volume.voxels.shape[0]:
        raise ValueError(f"{len(sources)} sources for {volume.voxels.shape[0]} slices")
    model = provenance.model
    result = new_result(
        sources, provenance, sop_class_uid, kind, f"{model.name} {model.version} report"
    )
    result.CompletionFlag = "COMPLETE"
    result.PreliminaryFlag = "PRELIMINARY"
    result.VerificationFlag = "UNVERIFIED"
    result.ReferencedPerformedProcedureStepSequence = []
    result.PerformedProcedureCodeSequence = []
    add_request(result, sources[0])
    add_evidence(result, (*sources, *provenance.others, *cited))
    return result


def observation_context(provenance: Provenance) -> hd.ObservationContext:
    """The model as the observing device (TID 1002, 1004)."""
    model = provenance.model
    observer = hd.ObserverContext(
        observer_type=codes.DEVICE,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=provenance.device_uid,
            name=plain(f"{model.name} {model.version}"),
            manufacturer_name=plain(model.vendor),
            model_name=plain(model.name),
        ),
    )
    return hd.ObservationContext(observer)


def container(name: Code, items: Sequence[Dataset]) -> Dataset:
    """A container below another, with its items."""
    made = Dataset()
    made.RelationshipType = "CONTAINS"
    made.ValueType = "CONTAINER"
    made.ConceptNameCodeSequence = [code_item(name)]
    made.ContinuityOfContent = "SEPARATE"
    made.ContentSequence = list(items)
    return made


def image_item(referred: Dataset) -> Dataset:
    """An image without a concept name, as TID 1601 wants it and highdicom cannot write."""
    image = Dataset()
    image.RelationshipType = "CONTAINS"
    image.ValueType = "IMAGE"
    image.ReferencedSOPSequence = [referred]
    return image


def about_the_model(provenance: Provenance) -> tuple[str, ...]:
    """What a reader is told of the model, first of all the warning."""
    model = provenance.model
    basis = "rules, not trained" if model.basis == "rules" else "a trained network"
    return (
        WARNING,
        f"Model {model.name} {model.version} by {model.vendor}, {basis}.",
        model.description,
        f"Intended use: {model.intended_use}",
    )


def _add_content(
    result: Dataset,
    groups: Sequence[Any],
    answer: Answer,
    sources: Sequence[Dataset],
    provenance: Provenance,
    *,
    remarks: Sequence[str] = (),
) -> None:
    root = hd.MeasurementReport(
        observation_context=observation_context(provenance),
        procedure_reported=_procedures(sources[0]),
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
        language_of_content_item_and_descendants=hd.LanguageOfContentItemAndDescendants(
            codes.ENGLISH
        ),
    )[0]
    for element in root:
        result[element.tag] = element
    # TID 1500: the library stands before the measurements, evaluations of the whole after them.
    *context, measurements = root.ContentSequence
    result.ContentSequence = [
        *context,
        _image_library(sources, provenance.others),
        measurements,
        _evaluations(answer, provenance, remarks),
    ]


def _procedures(source: Dataset) -> list[Code]:
    # IHE AIR: the imaging procedure, not the algorithm; the source's own code where it has one.
    for item in source.get("ProcedureCodeSequence") or ():
        parts = [item.get(key) for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(parts) and len(parts[0]) <= 16:
            return [Code(*parts)]
    return [codes.PROCEDURES.get(source.get("Modality", ""), codes.IMAGING_PROCEDURE)]


def _image_library(sources: Sequence[Dataset], others: Sequence[Dataset]) -> Dataset:
    # TID 1600: a group a series, that of the primary input first.
    by_series: dict[str, list[Dataset]] = {}
    for each in others:
        by_series.setdefault(str(each.SeriesInstanceUID), []).append(each)
    own = sources[0].StudyInstanceUID
    groups = [_library_group(each, own) for each in (sources, *by_series.values())]
    return container(codes.IMAGE_LIBRARY, groups)


def _library_group(images: Sequence[Dataset], study_instance_uid: str) -> Dataset:
    # TID 1601 and 1602: what all images share stands once, at the group.
    first = images[0]
    modality = codes.MODALITIES.get(first.get("Modality", ""), codes.MODALITIES["OT"])
    items = [hd.CodeContentItem(codes.MODALITY, modality, _ACQUISITION)]
    earlier = date_of(first, "StudyDate") if first.StudyInstanceUID != study_instance_uid else ""
    if earlier:
        items.append(
            hd.DateContentItem(codes.STUDY_DATE, date.fromisoformat(earlier), _ACQUISITION)
        )
    if first.get("FrameOfReferenceUID"):
        uid = first.FrameOfReferenceUID
        items.append(hd.UIDRefContentItem(codes.FRAME_OF_REFERENCE, uid, _ACQUISITION))
    for name, size in (
        (codes.PIXEL_DATA_ROWS, first.Rows),
        (codes.PIXEL_DATA_COLUMNS, first.Columns),
    ):
        items.append(hd.NumContentItem(name, size, codes.PIXELS, relationship_type=_ACQUISITION))
    items.extend(image_item(referred) for referred in image_references(images))
    return container(codes.IMAGE_LIBRARY_GROUP, items)


def _evaluations(answer: Answer, provenance: Provenance, remarks: Sequence[str]) -> Dataset:
    # TID 1500 rows 12 to 14: what is said of the whole, for a reader first of all the warning.
    outcome = codes.WITH_FINDINGS if answer.findings else codes.WITHOUT_FINDINGS
    assessment = summarize(answer, provenance)
    severity = codes.SEVERITIES.get(assessment.severity)
    coded = [] if severity is None else [(codes.SEVERITY, severity)]
    words = (
        *about_the_model(provenance),
        *remarks,
        assessment.overall,
        *assessment.recommendations,
    )
    return container(
        codes.QUALITATIVE_EVALUATIONS,
        [
            *(remark(each) for each in words),
            *(
                hd.CodeContentItem(name, value, _CONTAINS)
                for name, value in (*coded, (codes.FINDINGS_SUMMARY, outcome))
            ),
        ],
    )
