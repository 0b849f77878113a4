"""Versions of models move along their table, each step audited, whoever is faster."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from config.errors import StaleStateError, StorageError
from storage import audit_check, dispatch, versions
from storage.db import Ledger, open_ledger
from storage.records import AuditEvent, Job, ModelVersion
from storage.versions import Step
from tests.storage_rows import a_series, digest_of, enqueue, in_processes

V1 = Step("lung@1.0.0", digest_of("one"), "production")
V2 = Step("lung@2.0.0", digest_of("two"), "development")
ALICE = "user:alice"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def stands(reference: str) -> str:
    return str(ModelVersion.get_by_id(reference).state)


def events() -> list[tuple[str, str, str, dict[str, Any]]]:
    return [
        (row.action, row.object, row.outcome, json.loads(row.detail))
        for row in AuditEvent.select().where(AuditEvent.actor == ALICE).order_by(AuditEvent.seq)
    ]


def promote(ledger: Ledger, step: Step, state: str) -> Step:
    versions.promote(ledger, step, state, actor=ALICE, proof={"cases": 1})
    return Step(step.reference, step.digest, state)


@pytest.mark.feature("F06", "F15")
def test_a_version_goes_its_way_and_each_step_is_audited(ledger: Ledger, tmp_path: Path) -> None:
    versions.add(ledger, V2.reference, V2.digest, actor=ALICE, detail={"signed_by": None})
    assert stands(V2.reference) == "development"
    serving = promote(ledger, promote(ledger, V2, "validation"), "production")
    assert ModelVersion.get_by_id(V2.reference).rank == 1
    versions.roll_back(ledger, serving, V1, seen=1, actor=ALICE)
    assert (stands(V2.reference), stands(V1.reference)) == ("development", "production")
    assert versions.retire(ledger, V2, actor=ALICE) == []
    assert [(action, label) for action, label, _, _ in events()] == [
        ("model.added", "model:lung@2.0.0"),
        ("model.validation", "model:lung@2.0.0"),
        ("model.production", "model:lung@2.0.0"),
        ("model.development", "model:lung@2.0.0"),
        ("model.retired", "model:lung@2.0.0"),
    ]
    details = [detail for *_, detail in events()]
    assert {detail["digest"] for detail in details} == {V2.digest}
    assert details[2]["cases"] == 1
    assert details[3]["serves"] == V1.reference
    assert details[3]["reason"] == "rolled back: lung@1.0.0 serves again"
    assert audit_check.verify(tmp_path).intact


def test_only_the_moves_of_the_table_are_made(ledger: Ledger) -> None:
    for state in ("validation", "production"):
        with pytest.raises(StorageError, match="may not go from"):
            versions.promote(ledger, Step("m@1", "d", state), state, actor=ALICE, proof={})
    assert events() == []
    assert ModelVersion.select().count() == 0


def test_a_command_that_found_something_else_changes_nothing(ledger: Ledger) -> None:
    promote(ledger, V2, "validation")
    for late in (V2, Step(V2.reference, V2.digest, "production")):
        with pytest.raises(StaleStateError, match="another command moved it"):
            versions.promote(ledger, late, "production", actor=ALICE, proof={})
    assert stands(V2.reference) == "validation"


def test_a_second_rollback_that_saw_the_same_does_not_go_further_back(ledger: Ledger) -> None:
    v2, v3 = promote(ledger, V2, "production"), Step("lung@3.0.0", "d3", "development")
    v3 = promote(ledger, v3, "production")
    versions.roll_back(ledger, v3, v2, seen=2, actor=ALICE)
    with pytest.raises(StaleStateError):
        versions.roll_back(ledger, v3, v2, seen=2, actor=ALICE)
    assert stands(v2.reference) == "production"


def test_a_rollback_that_did_not_see_the_last_promotion_changes_nothing(ledger: Ledger) -> None:
    v2 = promote(ledger, V2, "production")
    promote(ledger, Step("lung@3.0.0", "d3", "development"), "production")
    with pytest.raises(StaleStateError, match="another version of lung was promoted"):
        versions.roll_back(ledger, v2, V1, seen=1, actor=ALICE)
    assert stands(v2.reference) == "production"
    promote(ledger, Step("lung-2@1.0.0", "x", "development"), "production")
    versions.roll_back(ledger, v2, V1, seen=2, actor=ALICE)


def test_what_was_said_of_other_bytes_does_not_count(ledger: Ledger) -> None:
    promote(ledger, V2, "production")
    changed = Step(V2.reference, digest_of("changed"), "development")
    versions.promote(ledger, changed, "validation", actor=ALICE, proof={})
    row = ModelVersion.get_by_id(V2.reference)
    assert (row.state, row.digest, row.rank) == ("validation", changed.digest, 0)


def test_retiring_cancels_what_waits_and_says_so(ledger: Ledger) -> None:
    series = a_series(ledger)
    waiting = enqueue(ledger, series, model=V1.reference, subject="s1")
    running = enqueue(ledger, series, model=V1.reference, subject="s2", run_number=1)
    other = enqueue(ledger, series, model="other@1.0.0", subject="s3", run_number=2)
    assert waiting is not None
    assert running is not None
    assert other is not None
    claimed = dispatch.claim(ledger, "w", 60)
    assert claimed is not None
    left = {waiting.id, running.id} - {claimed.id}
    assert set(versions.retire(ledger, V1, actor=ALICE)) == left
    states = {job.id: job.state for job in Job.select()}
    assert states[left.pop()] == "cancelled"
    assert states[claimed.id] == "running"
    assert states[other.id] == "queued"
    cancelled = Job.get(Job.state == "cancelled")
    assert cancelled.reason == "lung@1.0.0 was retired"


def test_a_refusal_is_in_the_chain(ledger: Ledger) -> None:
    versions.refuse(ledger, V2.label, "model.refused", ["x" * 1000] * 30, ALICE)
    ((action, label, outcome, detail),) = events()
    assert (action, label, outcome) == ("model.refused", V2.label, "failure")
    assert (len(detail["problems"]), len(detail["problems"][0])) == (20, 300)


def test_of_commands_at_once_one_moves_it(ledger: Ledger, tmp_path: Path) -> None:
    outcomes = in_processes(promote_once, tmp_path, 4)
    assert sorted(outcomes) == ["moved", "stale", "stale", "stale"]
    assert stands(V2.reference) == "production"
    assert AuditEvent.select().where(AuditEvent.action == "model.production").count() == 1
    assert audit_check.verify(tmp_path).intact


def promote_once(data_dir: Path, name: str, count: int, out: Connection) -> None:
    try:
        promote(open_ledger(data_dir), V2, "production")
        out.send("moved")
    except StaleStateError:
        out.send("stale")


def test_shadow_and_live_jobs_do_not_replace_each_other(ledger: Ledger) -> None:
    series = a_series(ledger)
    live = enqueue(ledger, series, subject="s")
    shadow = enqueue(ledger, series, subject="s", mode="shadow")
    assert live is not None
    assert shadow is not None
    assert live.identity != shadow.identity
    newer = enqueue(ledger, series, subject="s", mode="shadow", settings={"n": 1})
    assert newer is not None
    states = {job.id: (job.mode, job.state) for job in Job.select()}
    assert states == {
        live.id: ("live", "queued"),
        shadow.id: ("shadow", "superseded"),
        newer.id: ("shadow", "queued"),
    }
