"""What goes into a model and what comes out of it, in plain arrays and records.

Space is the patient's, as in PS3.3 C.7.6.2.1.1: millimetres, x to the patient's left, y to the
back, z to the head (LPS). Array axes are always ``(slices, rows, columns)``; an index names a
voxel's centre and starts at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.label_values import LabelVolume, Mask, is_shared, mask_of


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8.8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Volume:
    """One input of a model: a volume, a loop of frames, or a single image as one slice.

    Attributes:
        voxels: ``(slices, rows, columns)``, real-world values after the modality LUT; of a colour
            image its luminance, the Y of YBR_FULL (PS3.3 C.7.6.3.1.2).
        units: UCUM code of the values: ``[hnsf'U]`` for CT, ``{SUVbw}g/ml``, ``Bq/ml`` or
            ``{counts}`` for PET, ``{counts}`` for NM, ``1`` where they mean nothing by themselves.
        affine: ``(4, 4)``, maps ``(slice, row, column, 1)`` to LPS millimetres; None for images
            that have no place in patient space (a radiograph, the frames of a loop).
        spacing: Distance of voxel centres in mm along (slices, rows, columns); an entry is None
            where the image does not say.
        value_range: Lowest and highest value the stored bits can hold, in ``units``; values at
            these ends may be clipped.
        lowest_is_white: The image is meant to be shown with its lowest value white (MONOCHROME1).
        colour: The image was in colour; a model takes it only where its manifest says so.
        rgb: Its red, green and blue, ``(slices, rows, columns, 3)`` within `value_range`, where
            it was read for a model that takes them; else None.
    """

    voxels: NDArray[Any]
    units: str
    affine: NDArray[np.float64] | None
    spacing: tuple[float | None, float | None, float | None]
    value_range: tuple[float, float]
    lowest_is_white: bool = False
    colour: bool = False
    rgb: NDArray[Any] | None = None

    @property
    def voxel_volume_ml(self) -> float | None:
        """Volume of one voxel in millilitres, or None where a spacing is not known."""
        if any(step is None for step in self.spacing):
            return None
        return float(np.prod([step for step in self.spacing if step is not None])) / 1000.0


@dataclass(frozen=True)
class Confidence:
    """How sure the model is, or why it does not say.

    Attributes:
        value: In [0, 1], or None where the model defines no confidence.
        basis: ``model``, ``none: rule-based`` or ``none: measurement``.
    """

    value: float | None
    basis: str


@dataclass(frozen=True)
class Measurement:
    """A number with its concept and unit (UCUM).

    Attributes:
        name: What is measured, ``Code("118565006", "SCT", "Volume")``.
        value: Finite.
        unit: UCUM as a code, ``Code("mL", "UCUM", "mL")``.
        derivation: How it was derived, ``Code("373098007", "SCT", "Mean")``, or None.
    """

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclass(frozen=True)
class Evaluation:
    """A qualitative answer: the concept asked about, the coded answer, how sure."""

    name: Code
    value: Code
    confidence: Confidence


@dataclass(frozen=True)
class Region:
    """A closed polygon on one slice.

    Attributes:
        slice_index: Which slice of the input volume, from 0.
        points: ``(n, 2)`` of (column, row) in pixels, 0.0 the centre of the first pixel; the last
            point does not repeat the first.
    """

    slice_index: int
    points: NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One thing the model says.

    Attributes:
        name: Short stable name, unique in the answer (the label of a segment, say).
        category: SNOMED CT category, ``Code("85756007", "SCT", "Tissue")``.
        type: What was found.
        description: One plain sentence for a reader.
        confidence: Always there, if only to say that there is none.
        segment: Number of the segment of `Answer.labels` that it is, or None.
        region: Where it lies on one image, or None.
        measurements: Numbers.
        evaluations: Qualitative answers.
        site: Anatomic site, or None.
        laterality: Side of the site (PS3.16 CID 244), or None.
        severity: Weight of the label in [0, 1], from the manifest.
        needs_review: A human look is asked for: its score lies in the band that does so, or its
            input may not be what it is taken for.
        review_reason: Who asks for it and why, as the end of a sentence.
    """

    name: str
    category: Code
    type: Code
    description: str
    confidence: Confidence
    segment: int | None = None
    region: Region | None = None
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    site: Code | None = None
    laterality: Code | None = None
    severity: float = 0.0
    needs_review: bool = False
    review_reason: str = "the model asks for a human look"


@dataclass(frozen=True)
class Segment:
    """One label of a segmentation.

    Attributes:
        number: From 1; what `Answer.labels` holds of it, see there.
        label: Short name shown in viewers.
        category: SNOMED CT category.
        type: SNOMED CT type.
        color: Recommended display colour as sRGB, 0 to 255.
    """

    number: int
    label: str
    category: Code
    type: Code
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Saliency:
    """Which parts of the image made the model say one finding.

    Attributes:
        finding: Name of that finding.
        values: ``float32`` of the primary input's shape ``(slices, rows, columns)``, finite; the
            larger, the more the finding rests on that place.
        meaning: What the values are, as a coded concept.
        unit: UCUM code of the values.
        method: One plain sentence on how they were made.
    """

    finding: str
    values: NDArray[np.float32]
    meaning: Code
    unit: Code
    method: str


@dataclass(frozen=True)
class Answer:
    """Everything a model said about its inputs.

    Attributes:
        findings: Ordered by significance, ties stable.
        labels: Of the primary input's shape, 0 where no segment is, or None: ``uint8`` numbers of
            segments, or where they overlap unsigned bit fields (`ai.label_values`). What one
            segment holds is told by `mask`.
        segments: The segments that `labels` may hold, empty ones too.
        seconds: Time by stage (``preprocess``, ``run``, ``postprocess``).
        provider: The execution provider that really ran, as ONNX Runtime names it.
        probabilities: ``float32`` in [0, 1], ``(segments, slices, rows, columns)`` in the order of
            `segments` and the primary input's grid, or None.
        saliency: Which parts of the image a finding rests on, or None.
        overlap: A voxel of `labels` may belong to several segments.
    """

    findings: tuple[Finding, ...]
    labels: LabelVolume | None = None
    segments: tuple[Segment, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    provider: str = "CPUExecutionProvider"
    probabilities: NDArray[np.float32] | None = None
    saliency: Saliency | None = None
    overlap: bool = False

    def mask(self, number: int, index: int | None = None, axis: int = 0) -> Mask:
        """The voxels of one segment.

        Args:
            number: Of the segment, from 1.
            index: Which cut, from 0, or None for all of them.
            axis: What the cut is across: 0 for a slice.

        Returns:
            ``(slices, rows, columns)``, or that without the axis of the cut.

        Raises:
            ValueError: There are no labels.
        """
        if self.labels is None:
            raise ValueError("the answer has no labels")
        cut = self.labels if index is None else np.moveaxis(self.labels, axis, 0)[index]
        return mask_of(cut, number, overlap=self.overlap)

    @property
    def segments_overlap(self) -> bool:
        """Some voxel belongs to more than one segment."""
        return self.labels is not None and is_shared(self.labels, overlap=self.overlap)
