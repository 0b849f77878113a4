"""Two versions of a model side by side, and the inputs that both answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import attempts, dispatch, versus
from storage.db import Ledger, open_ledger
from storage.figures import Outcome, Said
from storage.records import Instance, Job, Series
from tests.storage_rows import a_series, enqueue, new_result

A, B = "lung@1.0.0", "lung@2.0.0"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def answered(
    ledger: Ledger, series: Series, model: str, *said: Said, mode: str = "live", subject: str = "s"
) -> int:
    """A job of that model on the series, run to its end."""
    number = Job.select().count()
    job = enqueue(ledger, series, model=model, mode=mode, subject=subject, run_number=number)
    assert job is not None
    running = dispatch.claim(ledger, "w", 60)
    assert running is not None
    assert running.id == job.id
    attempts.start_validating(ledger, running)
    outcome = Outcome("CPUExecutionProvider", said)
    seconds = {"run": 0.1 * running.id, "decode": 1.0}
    attempts.finish(ledger, running, [new_result(f"{job.id}")], {}, seconds, outcome=outcome)
    return int(job.id)


@pytest.mark.feature("F15", "P45")
def test_counts_times_findings_and_scores_of_one_version(ledger: Ledger) -> None:
    series = a_series(ledger)
    for number, score in enumerate((0.2, 0.4, 0.9)):
        found = [Said("nodule", score, needs_review=score > 0.5), Said("rib")]
        answered(ledger, series, A, *found, subject=f"s{number}")
    answered(ledger, series, A, mode="shadow", subject="s3")
    enqueue(ledger, series, model=A, subject="s4", run_number=9)
    side = versus.side(A, 0.0)
    assert side["jobs"] == {"live": {"ready": 3, "queued": 1}, "shadow": {"ready": 1}}
    assert (side["runs"], side["asking_for_a_look"]) == (4, 0.25)
    assert side["seconds"]["decode"] == {"p50": 1.0, "p95": 1.0}
    assert side["seconds"]["run"]["p50"] < side["seconds"]["run"]["p95"]
    nodule, rib = side["findings"]["nodule"], side["findings"]["rib"]
    assert nodule["share_of_runs"] == rib["share_of_runs"] == 0.75
    assert nodule["mean"] == pytest.approx(0.5)
    assert (nodule["p10"], nodule["p50"], nodule["p90"]) == (0.2, 0.4, 0.9)
    assert rib == {"share_of_runs": 0.75, "scores": 0}
    assert versus.run_seconds(A, 0.0) == pytest.approx([1.1, 1.2, 1.3, 1.4])
    assert versus.run_seconds(A, 4e9) == []
    empty = versus.side(B, 0.0)
    assert (empty["runs"], empty["asking_for_a_look"], empty["findings"]) == (0, None, {})
    assert versus.side(A, 4e9)["runs"] == 0


def test_only_answers_on_the_very_same_instances_are_a_pair(ledger: Ledger) -> None:
    one, other = a_series(ledger, "2.1"), a_series(ledger, "2.2")
    first = answered(ledger, one, A, Said("nodule", 0.5), subject="s1")
    beside = answered(ledger, one, B, Said("nodule", 0.75), mode="shadow", subject="s1")
    answered(ledger, other, A, subject="s2")
    assert versus.pairs(A, B, 0.0, 10) == [(first, beside)]
    # The same subject with one instance less is another input.
    row = Instance.get(Instance.series_instance_uid == "2.2")
    row.delete_instance()
    alone = answered(ledger, other, B, mode="shadow", subject="s2")
    assert versus.pairs(A, B, 0.0, 10) == [(first, beside)]
    assert versus.pairs(B, A, 0.0, 10) == [(beside, first)]
    assert versus.pairs(A, B, 4e9, 10) == []
    # Of several on the same input the newest count; no more than asked for.
    newest = answered(ledger, other, A, subject="s2")
    assert versus.pairs(A, B, 0.0, 10) == [(newest, alone), (first, beside)]
    assert versus.pairs(A, B, 0.0, 1) == [(newest, alone)]
    assert versus.said(first, "finding") == {"nodule": [0.5]}
