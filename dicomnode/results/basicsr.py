"""Basic Text SR of an answer (PS3.3 A.35.1, PS3.16 TID 2000), for systems that take nothing richer.

It holds the same findings in words, says that it is a fall-back form, and names the image of each
located finding. Numbers stand in the text with their UCUM unit, for this SOP class knows none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom.sr as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import BasicTextSRStorage

from ai.types import Answer, Finding, Measurement, Volume
from dicomnode.results import codes
from dicomnode.results.assessment import confidence_said, severity_of, summarize
from dicomnode.results.document import image_reference
from dicomnode.results.provenance import Provenance, code_item, plain
from dicomnode.results.regions import segment_mask
from dicomnode.results.sr import (
    STANDS_IN,
    about_the_model,
    container,
    image_item,
    new_report,
    observation_context,
)


def build_basic(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """What a model found, in words, as an unverified report.

    Args:
        answer: Its findings come in this order; none at all is said as such.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

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
        kind="sr-basic",
        sop_class_uid=BasicTextSRStorage,
        cited=[],
    )
    assessment = summarize(answer, provenance)
    warning, *about = about_the_model(provenance)
    result.ValueType = "CONTAINER"
    result.ConceptNameCodeSequence = [code_item(codes.DIAGNOSTIC_REPORT)]
    result.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2000"
    result.ContentTemplateSequence = [template]
    result.ContentSequence = [
        *hd.LanguageOfContentItemAndDescendants(codes.ENGLISH),
        *observation_context(provenance),
        container(codes.FINDINGS, list(_findings(answer, sources))),
        container(
            codes.IMPRESSIONS,
            [_text(codes.IMPRESSION, each) for each in (assessment.overall, STANDS_IN, *about)],
        ),
        container(
            codes.RECOMMENDATIONS,
            [_text(codes.RECOMMENDATION, each) for each in (warning, *assessment.recommendations)],
        ),
    ]
    return result


def _findings(answer: Answer, sources: Sequence[Dataset]) -> Iterator[Dataset]:
    if not answer.findings:
        yield _text(codes.FINDING, codes.WITHOUT_FINDINGS.meaning)
    for finding in answer.findings:
        index = _slice(finding, answer)
        if index is None:
            yield _text(codes.FINDING, in_words(finding))
            continue
        if not 0 <= index < len(sources):
            raise ValueError(f"a region lies on slice {index} of {len(sources)}")
        where = f"It is seen on slice {index + 1} of {len(sources)}."
        yield _text(codes.FINDING, f"{in_words(finding)} {where}")
        yield image_item(image_reference(sources[index]))


def _slice(finding: Finding, answer: Answer) -> int | None:
    """The slice of a finding's region, or the one that holds most of its segment."""
    if finding.region is not None:
        return finding.region.slice_index
    mask = segment_mask(answer, finding)
    if mask is None:
        return None
    areas = [int(np.count_nonzero(plane)) for plane in mask]
    return int(np.argmax(areas)) if any(areas) else None


def _text(name: Code, text: str) -> Dataset:
    return hd.TextContentItem(name, plain(text) or "-", hd.RelationshipTypeValues.CONTAINS)  # type: ignore[no-any-return]


def in_words(finding: Finding) -> str:
    """One finding with all that the model said of it, for a reader without coded content."""
    head = f"{finding.name}: {finding.type.meaning} ({finding.category.meaning})"
    if finding.site is not None:
        side = "" if finding.laterality is None else f", {finding.laterality.meaning.lower()}"
        head += f" at {finding.site.meaning}{side}"
    parts = [head, finding.description.rstrip(".")]
    parts += [_measured(each) for each in finding.measurements]
    parts += [
        f"{each.name.meaning}: {each.value.meaning} "
        f"(confidence: {confidence_said(each.confidence)})"
        for each in finding.evaluations
    ]
    parts.append(f"Severity of this label, as the model's maker set it: {severity_of(finding)}")
    parts.append(f"Confidence: {confidence_said(finding.confidence)}")
    if finding.needs_review:
        parts.append(f"Needs review: {finding.review_reason}")
    return ". ".join(parts) + "."


def _measured(measurement: Measurement) -> str:
    derived = "" if measurement.derivation is None else f", {measurement.derivation.meaning}"
    return f"{measurement.name.meaning}{derived}: {measurement.value:.6g} {measurement.unit.value}"
