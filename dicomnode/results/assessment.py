"""What a report says in words, the same in every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ai.types import Answer, Confidence, Finding
from dicomnode.results.provenance import Provenance
from dicomnode.results.regions import is_located, segment_mask

# Severity weights come from the manifest; these are where one word ends and the next begins.
_SEVERITIES: Final = ((2 / 3, "high"), (1 / 3, "medium"), (0.0, "low"))
_NOT_RATED: Final = "not rated"


@dataclass(frozen=True)
class Summary:
    """The assessment of a whole answer.

    Attributes:
        severity: ``low``, ``medium``, ``high`` or ``not rated``: that of the gravest finding.
        overall: One or two plain sentences.
        recommendations: What a reader should do next, at least one.
    """

    severity: str
    overall: str
    recommendations: tuple[str, ...]


def summarize(answer: Answer, provenance: Provenance) -> Summary:
    """The overall assessment of an answer and what it asks of its reader.

    Args:
        answer: What the model said.
        provenance: Gives the model.
    """
    severity = max(
        (severity_of(finding) for finding in answer.findings), key=_rank, default=_NOT_RATED
    )
    model = provenance.model
    count = len(answer.findings)
    found = "nothing" if not count else "1 finding" if count == 1 else f"{count} findings"
    overall = f"{model.name} {model.version} reports {found}"
    if count:
        located = sum(is_located(answer, finding) for finding in answer.findings)
        overall += f", {located} of them located; overall severity: {severity}"
    advice = [
        f"Look at {finding.name}: {finding.review_reason}."
        for finding in answer.findings
        if finding.needs_review
    ]
    if not count:
        advice.append("Read the images as usual: that a model reports nothing excludes nothing.")
    advice.append("Have every finding confirmed or rejected by a licensed professional.")
    return Summary(severity, f"{overall}.", tuple(advice))


def severity_of(finding: Finding) -> str:
    """``low``, ``medium`` or ``high`` by the weight of its label; ``not rated`` without one."""
    if finding.severity <= 0:
        return _NOT_RATED
    return next(word for least, word in _SEVERITIES if finding.severity >= least)


def _rank(severity: str) -> int:
    return ["high", "medium", "low", _NOT_RATED].index(severity) * -1


def confidence_said(confidence: Confidence) -> str:
    """A confidence in percent, or why there is none."""
    if confidence.value is None:
        return confidence.basis
    return f"{100 * confidence.value:.1f} %"


@dataclass(frozen=True)
class Extent:
    """The box around a finding, from 1 as people count, both ends within.

    Attributes:
        slices: First and last slice.
        rows: First and last row of pixels.
        columns: First and last column of pixels.
    """

    slices: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    def __str__(self) -> str:
        parts = zip(("slice", "row", "column"), (self.slices, self.rows, self.columns), strict=True)
        return ", ".join(
            f"{name} {low}" if low == high else f"{name}s {low} to {high}"
            for name, (low, high) in parts
        )


def extent_of(answer: Answer, finding: Finding) -> Extent | None:
    """Where a finding lies, or None where it has no place on an image."""
    if finding.region is not None:
        # Pixel 1 reaches from -0.5 to 0.5 around its centre at 0.0.
        low = np.floor(finding.region.points.min(axis=0) + 0.5).astype(int) + 1
        high = np.maximum(np.ceil(finding.region.points.max(axis=0) + 0.5).astype(int), low)
        index = finding.region.slice_index + 1
        (left, top), (right, bottom) = low.tolist(), high.tolist()
        return Extent((index, index), (top, bottom), (left, right))
    mask = segment_mask(answer, finding)
    if mask is None or not mask.any():
        return None
    ends = []
    for axis in range(3):
        others = tuple(each for each in range(3) if each != axis)
        places = np.nonzero(mask.any(axis=others))[0] + 1
        ends.append((int(places[0]), int(places[-1])))
    return Extent(*ends)
