"""A series is complete on evidence, the surest first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicomnode.series.assembly import Announced, Complete, Evidence, Waiting, completeness

LAST = 1000.0
QUIET, GIVE_UP = 10.0, 900.0
NOW = Announced("C-FIND", 50, provisional=True)
BASE = Evidence(received=50, last_object=LAST, open_associations=0)


def judge(evidence: Evidence, after: float) -> Complete | Waiting:
    return completeness(evidence, LAST + after, QUIET, GIVE_UP)


@pytest.mark.parametrize(
    ("evidence", "after", "reason"),
    [
        (replace(BASE, announced=(Announced("MPPS", 50),), open_associations=1), 0, "count"),
        (replace(BASE, announced=(Announced("MPPS", 50),), gap=True), 0, "count"),
        (replace(BASE, received=1, single_image=True, open_associations=1), 0, "single-image"),
        (replace(BASE, announced=(NOW,), open_associations=1), 2, "count"),
        (replace(BASE, announced=(NOW,), gap=True), GIVE_UP, "timeout"),
        (replace(BASE, announced=(Announced("MPPS", 60), NOW)), QUIET, "quiet"),
        (replace(BASE, announced=(Announced("MPPS", 40), NOW)), 0, "count"),
        (replace(BASE, announced=(Announced("MPPS", 40),)), QUIET, "quiet"),
        (BASE, QUIET, "quiet"),
        (replace(BASE, announced=(Announced("MPPS", 60),)), QUIET, "quiet"),
        (replace(BASE, open_associations=2), GIVE_UP, "timeout"),
        (replace(BASE, gap=True), GIVE_UP, "timeout"),
        (replace(BASE, forced=True), 1, "forced"),
        (replace(BASE, forced=True, gap=True, open_associations=1), 1, "forced"),
        (replace(BASE, forced=True), QUIET, "quiet"),
    ],
)
def test_complete(evidence: Evidence, after: float, reason: str) -> None:
    verdict = judge(evidence, after)
    assert isinstance(verdict, Complete)
    assert verdict.reason == reason
    assert verdict.evidence


@pytest.mark.parametrize(
    ("evidence", "after", "until", "why"),
    [
        (BASE, 0, LAST + QUIET, "silence"),
        (BASE, QUIET - 0.001, LAST + QUIET, "silence"),
        (replace(BASE, open_associations=1), 500, LAST + GIVE_UP, "open"),
        (replace(BASE, gap=True), 500, LAST + GIVE_UP, "missing"),
        (replace(BASE, announced=(Announced("MPPS", 60),)), 1, LAST + QUIET, "announced 60"),
        (replace(BASE, announced=(NOW,), gap=True), QUIET, LAST + GIVE_UP, "missing"),
        (replace(BASE, received=0, announced=(Announced("MPPS", 0),)), 1, LAST + QUIET, "silence"),
    ],
)
def test_waiting(evidence: Evidence, after: float, until: float, why: str) -> None:
    verdict = judge(evidence, after)
    assert isinstance(verdict, Waiting)
    assert verdict.until == until
    assert why in verdict.why


def test_the_evidence_says_what_was_announced_and_did_not_come() -> None:
    verdict = judge(replace(BASE, announced=(Announced("C-FIND", 60),)), QUIET)
    assert isinstance(verdict, Complete)
    assert "50 came" in verdict.evidence
    assert "C-FIND announced 60" in verdict.evidence
