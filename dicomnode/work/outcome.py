"""What is kept of an answer beside its result objects."""

from __future__ import annotations

from ai.reference import measurement_key
from ai.types import Answer, Finding
from storage.figures import Outcome, Said


def outcome_of(answer: Answer, *, look: bool = False) -> Outcome:
    """The scores of an answer.

    Args:
        answer: What the model said.
        look: The answer as a whole asks for a human look.
    """
    return Outcome(answer.provider, [_said(finding) for finding in answer.findings], look)


def _said(finding: Finding) -> Said:
    return Said(
        name=finding.name,
        score=finding.confidence.value,
        needs_review=finding.needs_review,
        measurements={
            measurement_key(finding, number): number.value for number in finding.measurements
        },
    )
