"""The images that matter, as a key object selection (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import highdicom.sr as hd
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from ai.types import Answer
from dicomnode.results import codes
from dicomnode.results.document import (
    add_request,
    image_reference,
    new_result,
)
from dicomnode.results.evidence import add_evidence
from dicomnode.results.provenance import WARNING, Provenance, code_item, plain
from dicomnode.results.regions import is_located, key_slices

_LONGEST_TEXT: Final = 1024


def build_key_objects(
    answer: Answer, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The few slices on which every located finding is seen.

    Args:
        answer: What the model said.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: No finding has a place on an image.
    """
    if not any(is_located(answer, finding) for finding in answer.findings):
        raise ValueError("no finding has a place on an image")
    model = provenance.model
    result = new_result(
        sources,
        provenance,
        KeyObjectSelectionDocumentStorage,
        "ko",
        f"{model.name} {model.version} key images",
    )
    shown = [sources[index] for index in key_slices(answer, len(sources))]
    result.ReferencedPerformedProcedureStepSequence = []
    add_request(result, sources[0])
    add_evidence(result, shown)
    result.ValueType = "CONTAINER"
    result.ConceptNameCodeSequence = [code_item(codes.OF_INTEREST)]
    result.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "2010"
    result.ContentTemplateSequence = [template]
    result.ContentSequence = [
        *_observer(provenance),
        _description(answer, provenance),
        *(_image(source) for source in shown),
    ]
    return result


def _observer(provenance: Provenance) -> list[Dataset]:
    # TID 1002 and 1004: a device.
    model, relation = provenance.model, hd.RelationshipTypeValues.HAS_OBS_CONTEXT
    return [
        hd.CodeContentItem(codes.OBSERVER_TYPE, codes.DEVICE, relation),
        hd.UIDRefContentItem(codes.DEVICE_OBSERVER_UID, provenance.device_uid, relation),
        hd.TextContentItem(
            codes.DEVICE_OBSERVER_NAME, plain(f"{model.name} {model.version}", 64), relation
        ),
    ]


def _description(answer: Answer, provenance: Provenance) -> Dataset:
    found = ", ".join(each.name for each in answer.findings if is_located(answer, each))
    model = provenance.model
    text = plain(f"{WARNING} Model {model.name} {model.version} found: {found}.", _LONGEST_TEXT)
    return hd.TextContentItem(  # type: ignore[no-any-return]
        codes.KEY_OBJECT_DESCRIPTION, text, hd.RelationshipTypeValues.CONTAINS
    )


def _image(source: Dataset) -> Dataset:
    # TID 2010 gives its images no concept name.
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "IMAGE"
    item.ReferencedSOPSequence = [image_reference(source)]
    return item
