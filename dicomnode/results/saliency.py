"""Heat map of one finding: a parametric map of single-precision floats (PS3.3 A.75, C.8.32)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage

from ai.types import Answer, Finding, Saliency, Volume
from dicomnode.results import codes
from dicomnode.results.anatomy import body_part, frame_anatomy
from dicomnode.results.document import new_result
from dicomnode.results.evidence import add_instance_references
from dicomnode.results.multiframe import (
    add_dimensions,
    add_frame_groups,
    add_image,
    check_alignment,
    shared_groups,
)
from dicomnode.results.provenance import Provenance, code_item, plain

_TYPE: Final = ("DERIVED", "PRIMARY")
# A window must have a width, also where the map is flat.
_LEAST_WIDTH: Final = 1e-6


def build_saliency(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The saliency of an answer as a parametric map, one frame a slice.

    Args:
        answer: With `saliency`, of the volume's shape, and the finding it belongs to.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian. Where the sources
        have no frame of reference it has one of its own, which says nothing of the patient.

    Raises:
        ValueError: The answer has no saliency, or it, volume and sources disagree.
    """
    saliency, finding = _checked(answer, volume)
    check_alignment(volume, sources)
    model = provenance.model
    result = new_result(
        sources,
        provenance,
        ParametricMapStorage,
        "saliency",
        f"{model.name} {model.version} saliency",
    )
    image_type = [*_TYPE, "VOLUME" if volume.affine is not None else "STATIC", "NONE"]
    result.ImageType = image_type
    add_image(result, volume, sources, provenance, bits=32)
    if "FrameOfReferenceUID" not in result:  # PS3.3 A.75.3: mandatory here
        result.FrameOfReferenceUID = provenance.uid("saliency/frame of reference")
        result.PositionReferenceIndicator = ""
    result.BodyPartExamined = body_part(sources[0])
    result.ContentQualification = "RESEARCH"
    result.ContentLabel = "SALIENCY"
    result.ContentDescription = plain(f"AI output: what {finding.name} rests on", 64)
    result.ContentCreatorName = ""
    result.PixelPresentation = "MONOCHROME"
    result.PresentationLUTShape = "IDENTITY"
    result.BurnedInAnnotation = "NO"
    result.RecognizableVisualFeatures = "NO"
    result.ImageComments = plain(saliency.method)
    result.AcquisitionContextSequence = []
    add_instance_references(result, sources, provenance)
    add_dimensions(result, provenance, "saliency", volume, segmented=False)
    shared = shared_groups(volume, sources[0])
    shared.setdefault("PixelMeasuresSequence", [Dataset()])  # mandatory, with nothing to say
    _add_value_groups(shared, saliency, finding)
    frame_type = Dataset()
    frame_type.FrameType = image_type
    shared.ParametricMapFrameTypeSequence = [frame_type]
    shared.FrameAnatomySequence = [frame_anatomy(sources[0])]
    result.SharedFunctionalGroupsSequence = [shared]
    add_frame_groups(result, volume, sources, derivation=codes.UNSPECIFIED_METHOD)
    result.NumberOfFrames = len(sources)
    result.FloatPixelData = np.ascontiguousarray(saliency.values, "<f4").tobytes()
    return result


def _checked(answer: Answer, volume: Volume) -> tuple[Saliency, Finding]:
    saliency = answer.saliency
    if saliency is None:
        raise ValueError("the answer has no saliency to encode")
    if saliency.values.shape != volume.voxels.shape:
        raise ValueError(
            f"saliency of shape {saliency.values.shape} for a volume {volume.voxels.shape}"
        )
    if not np.isfinite(saliency.values).all():
        raise ValueError("the saliency holds values that are not finite")
    finding = next((each for each in answer.findings if each.name == saliency.finding), None)
    if finding is None:
        raise ValueError("the saliency belongs to no finding of the answer")
    return saliency, finding


def _add_value_groups(shared: Dataset, saliency: Saliency, finding: Finding) -> None:
    lowest, highest = float(saliency.values.min()), float(saliency.values.max())
    identity = Dataset()
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = "0", "1", "US"
    shared.PixelValueTransformationSequence = [identity]
    window = Dataset()
    window.WindowCenter = f"{(lowest + highest) / 2:.8g}"
    window.WindowWidth = f"{max(highest - lowest, _LEAST_WIDTH):.8g}"
    window.VOILUTFunction = "LINEAR_EXACT"  # PS3.3 C.11.2.1.3.2: takes widths below 1
    shared.FrameVOILUTSequence = [window]
    shared.RealWorldValueMappingSequence = [_real_world(saliency, finding, lowest, highest)]


def _real_world(saliency: Saliency, finding: Finding, lowest: float, highest: float) -> Dataset:
    # PS3.3 C.7.6.16.2.11: the stored values are the real ones.
    mapping = Dataset()
    mapping.LUTExplanation = plain(f"Saliency of {finding.name}", 64)
    mapping.LUTLabel = "SALIENCY"
    mapping.DoubleFloatRealWorldValueFirstValueMapped = lowest
    mapping.DoubleFloatRealWorldValueLastValueMapped = highest
    mapping.RealWorldValueIntercept = 0.0
    mapping.RealWorldValueSlope = 1.0
    mapping.MeasurementUnitsCodeSequence = [code_item(codes.coded(saliency.unit))]
    quantity = [
        (codes.QUANTITY, codes.coded(saliency.meaning)),
        (codes.FINDING, codes.coded(finding.type)),
    ]
    items = []
    for name, value in quantity:
        item = Dataset()
        item.ValueType = "CODE"
        item.ConceptNameCodeSequence = [code_item(name)]
        item.ConceptCodeSequence = [code_item(value)]
        items.append(item)
    mapping.QuantityDefinitionSequence = items
    return mapping
