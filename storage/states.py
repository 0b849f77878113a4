"""Which state may follow which: the only place that says so."""

from __future__ import annotations

Transitions = dict[str, frozenset[str]]


def transitions(**moves: str) -> Transitions:
    """A table of which state may follow which: ``queued="running failed"``."""
    return {state: frozenset(after.split()) for state, after in moves.items()}


INSTANCE = transitions(
    stored="indexed quarantined superseded rejected",
    indexed="quarantined superseded rejected",
    quarantined="stored",
    superseded="",
    rejected="",
)
SERIES = transitions(
    receiving="complete",
    complete="routed skipped reopened",
    routed="reopened",
    skipped="reopened",
    reopened="complete",
)
STUDY = transitions(open="settled", settled="reopened", reopened="settled")
JOB = transitions(
    queued="running superseded cancelled failed",
    running="validating queued skipped failed superseded cancelled",
    validating="ready queued failed superseded cancelled",
    ready="superseded",
    skipped="queued superseded",
    failed="queued superseded",
    superseded="",
    cancelled="queued superseded",
)
DELIVERY = transitions(
    waiting="sending withdrawn dead",
    sending="accepted waiting refused dead",
    accepted="committed",
    committed="",
    refused="waiting",
    dead="waiting",
    withdrawn="",
)
# A Modality Performed Procedure Step (PS3.4 F.7.1).
PROCEDURE_STEP = transitions(
    **{"in-progress": "completed discontinued", "completed": "", "discontinued": ""}
)
# Where a version of a model stands on this site; its manifest says where it begins.
MODEL = transitions(
    development="validation production retired",
    validation="development production retired",
    production="development retired",
    retired="validation production",
)
# A circuit breaker: closed lets all through, open nothing, half-open one thing to try with.
BREAKER = transitions(**{"closed": "open", "open": "half-open", "half-open": "open closed"})
ALERT = transitions(raised="cleared", cleared="raised")
NOTICE = transitions(waiting="sent dead", sent="", dead="waiting")
