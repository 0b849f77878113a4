"""What a result lists as the instances it rests on: evidence of documents, references of images."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.document import image_references, referenced_series
from dicomnode.results.provenance import Provenance, code_item


def add_evidence(document: Dataset, instances: Sequence[Dataset]) -> None:
    """List the evidence of a document (PS3.3 C.17.2.3).

    Args:
        document: Changed in place; instances of its own study are of the current requested
            procedure, those of other studies pertinent other evidence.
        instances: Every object that the model was given and every one the content refers to.
    """
    studies = _by_study(instances)
    own = studies.pop(str(document.StudyInstanceUID))
    document.CurrentRequestedProcedureEvidenceSequence = [_study(own, "ReferencedSOPSequence")]
    if studies:
        document.PertinentOtherEvidenceSequence = [
            _study(members, "ReferencedSOPSequence") for members in studies.values()
        ]


def add_instance_references(
    image: Dataset, sources: Sequence[Dataset], provenance: Provenance
) -> None:
    """List the instances that an image refers to (PS3.3 C.12.2), the primary series first.

    The inputs beside the primary one stand in Referenced Image Sequence (PS3.3 C.12.4) with the
    purpose of a source. A Source Image Sequence at the top would be taken by viewers for a list of
    one image a frame.

    Args:
        image: Changed in place; its frames name `sources` themselves.
        sources: The primary input, one a slice.
        provenance: Gives the other inputs.
    """
    if provenance.others:
        image.ReferencedImageSequence = image_references(provenance.others)
        for item in image.ReferencedImageSequence:
            item.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
    studies = _by_study((*sources, *provenance.others))
    own = studies.pop(str(image.StudyInstanceUID))
    image.ReferencedSeriesSequence = referenced_series(own, "ReferencedInstanceSequence")
    if studies:
        image.StudiesContainingOtherReferencedInstancesSequence = [
            _study(members, "ReferencedInstanceSequence") for members in studies.values()
        ]


def _by_study(instances: Sequence[Dataset]) -> dict[str, list[Dataset]]:
    studies: dict[str, list[Dataset]] = {}
    for each in instances:
        studies.setdefault(str(each.StudyInstanceUID), []).append(each)
    return studies


def _study(members: Sequence[Dataset], keyword: str) -> Dataset:
    """An item of a sequence of studies (PS3.3 Table 10-4 and C.12-8)."""
    study = Dataset()
    study.StudyInstanceUID = members[0].StudyInstanceUID
    study.ReferencedSeriesSequence = referenced_series(members, keyword)
    return study
