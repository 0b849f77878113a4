"""What is kept of runs, feedback and alerts, and what comes of it."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import alerts, attempts, dispatch, feedback, figures, outbox
from storage.alerts import Trouble
from storage.db import Ledger
from storage.feedback import Share, wilson
from storage.figures import Outcome, Said
from storage.pruning import DAY, prune
from storage.records import AuditEvent, Delivery, Job
from storage.watch_records import Alert, Feedback, Notice, Run, Score, StageTime
from tests.storage_rows import new_result, some_jobs

MODEL = "ct-tissue@1.0.0"
TWO = Outcome(
    "CPUExecutionProvider",
    [
        Said("bone", 0.9, measurements={"bone/118565006": 12.5}),
        Said("lung", None, needs_review=True),
    ],
)


def run(ledger: Ledger, job: Job, outcome: Outcome = TWO, **seconds: float) -> Job:
    running = dispatch.claim(ledger, "w", 60)
    assert running is not None
    assert running.id == job.id
    attempts.start_validating(ledger, running)
    results = [new_result(f"{job.id}")]
    wanted = {"pacs": ["sr"]}
    attempts.finish(ledger, running, results, wanted, {"run": 1.0, **seconds}, outcome=outcome)
    return running


def ready(ledger: Ledger, *outcomes: Outcome) -> list[Job]:
    made = some_jobs(ledger, len(outcomes))
    return [run(ledger, job, outcome) for job, outcome in zip(made, outcomes, strict=True)]


@pytest.mark.feature("P44", "P45")
def test_a_finished_job_leaves_its_scores_and_times_in_rows_of_their_own(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    run(ledger, job, decode=0.25)
    (row,) = Run.select()
    assert (row.job, row.model, row.mode, row.findings, row.reviews) == (
        *(job.id, MODEL, "live", 2, 1),
    )
    scores = Score.select(Score.kind, Score.name, Score.value, Score.needs_review).tuples()
    assert list(scores) == [
        ("answer", "number of findings", 2.0, False),
        ("finding", "bone", 0.9, False),
        ("measurement", "bone/118565006", 12.5, False),
        ("finding", "lung", None, True),
    ]
    times = {each.stage: each.seconds for each in StageTime.select()}
    assert times.keys() == {"queue", "run", "decode"}
    assert (times["run"], times["decode"]) == (1.0, 0.25)
    assert 0 <= times["queue"] < 60


@pytest.mark.feature("P44")
def test_the_last_accepted_result_gives_the_time_of_delivery(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    run(ledger, job)
    rows = list(Delivery.select())
    claimed = outbox.claim(ledger, "pacs", 10)
    assert len(claimed) == len(rows) == 1
    outbox.accepted(ledger, claimed[0], 0)
    (took,) = [each.seconds for each in StageTime.select() if each.stage == "deliver"]
    assert 0 <= took < 60


def test_what_happened_to_a_model_stays_counted_when_its_rows_go(ledger: Ledger) -> None:
    ready(ledger, TWO, Outcome("CPUExecutionProvider"), TWO)
    before = figures.counts()
    assert before == {MODEL: {"runs": 3, "findings": 4, "reviews": 2, "empty": 1}}
    Run.update(finished_at=Run.finished_at - 10 * DAY).where(Run.id < 3).execute()
    assert prune(ledger, keep_days=9, keep_runs=100) == 2
    assert [row.id for row in Run.select()] == [3]
    assert Score.select().count() == 4
    assert {each.run_id for each in StageTime.select()} == {3}
    assert figures.counts() == before
    assert prune(ledger, keep_days=9, keep_runs=100) == 0


def test_no_more_runs_are_kept_than_the_site_wants(ledger: Ledger) -> None:
    ready(ledger, *[TWO] * 5)
    assert prune(ledger, keep_days=9, keep_runs=2) == 3
    assert Run.select().count() == 2
    event = AuditEvent.select().order_by(AuditEvent.seq.desc()).first()
    assert (event.action, json.loads(event.detail)) == ("figures.pruned", {"run": 3})


def test_a_shadow_run_is_kept_and_counted_apart(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    Job.update(mode="shadow").execute()
    run(ledger, job)
    assert Run.get().mode == "shadow"
    assert figures.counts() == {MODEL: {"shadow_runs": 1}}
    assert figures.stage_seconds(MODEL, 0.0) == {}


def test_a_run_with_very_many_findings_keeps_the_most_significant(ledger: Ledger) -> None:
    many = Outcome("CPUExecutionProvider", [Said(f"n{number}", 0.5) for number in range(1000)])
    (job,) = ready(ledger, many)
    assert figures.findings_of(job.id) == [f"n{number}" for number in range(200)]
    assert figures.counts()[MODEL]["findings"] == 1000


def test_the_nearest_rank_is_the_quantile() -> None:
    assert [figures.quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0, 0.25, 0.26, 0.95)] == [
        *(1.0, 1.0, 2.0, 4.0)
    ]


# Feedback


def say(ledger: Ledger, job: Job, verdict: str, finding: str = "", document: str = "") -> int:
    said = feedback.Said(
        verdict=verdict,
        finding=finding,
        source="command",
        said_by="radiologist",
        document_uid=document,
    )
    with ledger.transaction() as change:
        return feedback.add(change, job, [said], actor="user:x")


@pytest.mark.feature("P46")
def test_verdicts_become_the_figures_of_the_model(ledger: Ledger) -> None:
    empty = Outcome("CPUExecutionProvider")
    right, wrong, partly, nothing, missed, untouched = ready(
        ledger, TWO, TWO, TWO, empty, empty, TWO
    )
    say(ledger, right, "accept")
    say(ledger, wrong, "reject")
    say(ledger, partly, "accept", "bone")
    say(ledger, partly, "reject", "lung")
    say(ledger, nothing, "accept")
    say(ledger, missed, "correct")
    found = feedback.acceptance(MODEL)
    assert found.answers == {"accept": 1, "reject": 1, "correct": 1}
    assert found.empty == {"accept": 1, "reject": 0, "correct": 1}
    assert found.findings == {
        "bone": {"accept": 2, "reject": 1, "correct": 0},
        "lung": {"accept": 1, "reject": 2, "correct": 0},
    }
    assert (found.rejection, found.acceptance) == (Share.among(1, 5), Share.among(2, 5))
    assert found.ppv("bone") == Share.among(2, 3)
    assert found.ppv() == Share.among(3, 6)
    assert found.npv == Share.among(1, 2)
    assert figures.counts()[MODEL]["accept"] == 3
    assert feedback.of_job(untouched.id) == []


@pytest.mark.feature("P46")
def test_the_last_word_on_an_answer_counts(ledger: Ledger) -> None:
    (job,) = ready(ledger, TWO)
    say(ledger, job, "reject")
    say(ledger, job, "accept")
    assert feedback.acceptance(MODEL).answers == {"accept": 1, "reject": 0, "correct": 0}
    say(ledger, job, "correct")
    found = feedback.acceptance(MODEL)
    assert found.answers["correct"] == 1
    assert found.findings == {}  # which of the two was wrong nobody said


JOBS = st.lists(
    st.tuples(
        st.integers(0, 3),  # findings of the answer
        st.lists(st.tuples(st.integers(-1, 3), st.sampled_from(feedback.VERDICTS)), max_size=5),
    ),
    max_size=6,
)
_numbers = itertools.count(1)


@pytest.mark.feature("P46")
@given(JOBS)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_for_any_verdicts_the_figures_are_those_of_counting_by_hand(
    ledger: Ledger, answers: list[tuple[int, list[tuple[int, str]]]]
) -> None:
    model = f"m@{next(_numbers)}"
    accepted = rejected = there = gone = told = 0
    for findings, words in answers:
        job = next(_numbers) + 10**6
        last: dict[int, str] = {}
        with ledger.transaction() as change:
            run = Run.create(
                **{"job": job, "model": model, "model_digest": "d", "mode": "live"},
                **{"provider": "p", "findings": findings, "reviews": 0, "finished_at": change.now},
            )
            for number in range(findings):
                Score.create(run=run, kind="finding", name=str(number))
            for number, verdict in words:
                if number < findings:
                    last[number] = verdict
                    Feedback.create(
                        **{"job": job, "model": model, "model_digest": "d", "verdict": verdict},
                        **{"finding": "" if number < 0 else str(number), "source": "command"},
                        **{"said_by": "reader", "document_uid": "", "noted_at": change.now},
                    )
        if not last:
            continue
        told += 1
        single = set(last.values()) if -1 not in last else {last[-1]}
        accepted += single == {"accept"}
        rejected += single == {"reject"}
        whole = None if last.get(-1) == "correct" else last.get(-1)
        for number in range(findings):
            word = last.get(number, whole)
            there += word in ("accept", "correct")
            gone += word == "reject"
    found = feedback.acceptance(model)
    assert found.acceptance == Share.among(accepted, told)
    assert found.rejection == Share.among(rejected, told)
    assert found.ppv() == Share.among(there, there + gone)
    assert feedback.acceptance(model, newest=1000) == found


def test_one_document_is_heard_once(ledger: Ledger) -> None:
    (job,) = ready(ledger, TWO)
    assert say(ledger, job, "accept", document="1.2.3") == 1
    assert say(ledger, job, "accept", document="1.2.3") == 0
    assert say(ledger, job, "accept", "bone", document="1.2.3") == 1
    assert Feedback.select().count() == 2
    assert figures.counts()[MODEL]["accept"] == 2


def test_wilsons_interval_is_the_one_of_the_textbooks() -> None:
    # Brown, Cai, DasGupta (2001); Newcombe (1998), method 3: 15 of 148.
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Share.among(0, 0) is None


@given(st.integers(1, 5000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
@settings(max_examples=200, deadline=None)
def test_for_any_share_the_interval_solves_wilsons_equation(case: tuple[int, int]) -> None:
    part, of = case
    low, high = wilson(part, of)
    assert 0.0 <= low <= part / of + 1e-12
    assert part / of - 1e-12 <= high <= 1.0
    for end in (low, high):
        if 0.0 < end < 1.0:
            distance = (part / of - end) ** 2
            assert distance == pytest.approx(1.959964**2 * end * (1 - end) / of, abs=1e-9)


# Alerts

DRIFT = Trouble("drift", MODEL, "far", 0.4, 0.25)
QUEUE = Trouble("queue", "", "old", 1000.0, 900.0)
BOTH = ("drift", "queue")


@pytest.mark.feature("P47", "F18")
def test_an_alert_is_raised_once_kept_while_it_lasts_and_cleared(ledger: Ledger) -> None:
    assert [row.name for row in alerts.take(ledger, [DRIFT], BOTH)] == [f"drift {MODEL}"]
    worse = Trouble("drift", MODEL, "farther", 0.9, 0.25)
    assert alerts.take(ledger, [worse], BOTH) == []
    (row,) = alerts.raised()
    assert (row.reason, row.value, row.count) == ("farther", 0.9, 1)
    assert [row.state for row in alerts.take(ledger, [], BOTH)] == ["cleared"]
    assert alerts.raised() == []
    alerts.take(ledger, [DRIFT], BOTH)
    assert alerts.raised()[0].count == 2
    actions = [event.action for event in AuditEvent.select().order_by(AuditEvent.seq)]
    assert actions[-3:] == ["alert.raised", "alert.cleared", "alert.raised"]
    outcomes = [event.outcome for event in AuditEvent.select().order_by(AuditEvent.seq)]
    assert outcomes[-3:] == ["failure", "success", "failure"]


def test_a_rule_that_could_not_be_asked_clears_nothing(ledger: Ledger) -> None:
    alerts.take(ledger, [DRIFT, QUEUE], BOTH)
    alerts.take(ledger, [], ["queue"])
    assert [row.name for row in alerts.raised()] == [f"drift {MODEL}"]


def to_tell(after: float, quiet: float = 300, remind: float = 0) -> list[str]:
    now = max(row.since for row in Alert.select()) + after
    rows = alerts.to_tell(now, quiet_seconds=quiet, remind_seconds=remind)
    return [f"{row.state} {row.rule}" for row in rows]


def told(ledger: Ledger) -> int:
    rows = alerts.to_tell(Alert.get().since, quiet_seconds=0, remind_seconds=0)
    return alerts.tell(ledger, rows, ["webhooks:a", "mail:b"], "MEDAI")


def test_each_change_is_told_once_on_each_channel(ledger: Ledger) -> None:
    alerts.take(ledger, [DRIFT], BOTH)
    assert to_tell(0) == ["raised drift"]
    assert told(ledger) == 2
    assert to_tell(1000) == []
    (first, second) = alerts.due(1e12)
    assert (first.channel, second.channel) == ("webhooks:a", "mail:b")
    content = json.loads(first.content)
    assert content.pop("since") > 1e9
    assert content == {
        "node": "MEDAI",
        "alert": "drift",
        "subject": MODEL,
        "state": "raised",
        "reminder": False,
        "reason": "far",
        "value": 0.4,
        "threshold": 0.25,
        "count": 1,
    }


def test_what_comes_and_goes_is_told_at_a_bounded_rate(ledger: Ledger) -> None:
    alerts.take(ledger, [DRIFT], BOTH)
    told(ledger)
    alerts.take(ledger, [], BOTH)
    assert to_tell(10) == []  # a moment after the last message
    assert to_tell(400) == ["cleared drift"]
    alerts.take(ledger, [DRIFT], BOTH)
    assert to_tell(400) == []  # as it was told; how often it was raised is counted
    assert alerts.raised()[0].count == 2


def test_what_lasts_is_told_again_and_what_nobody_heard_of_is_not_cleared_aloud(
    ledger: Ledger,
) -> None:
    alerts.take(ledger, [DRIFT], BOTH)
    told(ledger)
    assert to_tell(86500, remind=86400) == ["raised drift"]
    assert to_tell(86500, remind=0) == []
    alerts.take(ledger, [DRIFT, QUEUE], BOTH)
    alerts.take(ledger, [DRIFT], BOTH)
    assert to_tell(400) == []


def test_a_message_that_is_not_taken_is_tried_later_and_given_up_in_the_end(
    ledger: Ledger,
) -> None:
    alerts.take(ledger, [DRIFT], BOTH)
    told(ledger)
    notice, other = alerts.due(1e12)
    delays = []
    for _ in range(12):
        alerts.not_sent(ledger, notice, "it is down", 0.0)
        notice = Notice.get_by_id(notice.id)
        delays.append(round(notice.not_before - time.time()))
    assert notice.state == "waiting"
    assert delays == sorted(delays)
    assert delays[0] in (2, 3)
    assert delays[-1] == alerts.BACKOFF.longest / 2
    assert [row.id for row in alerts.due(time.time())] == [other.id]
    Notice.update(created_at=Notice.created_at - alerts.GIVE_UP_SECONDS).execute()
    alerts.not_sent(ledger, Notice.get_by_id(notice.id), "it is down", 0.0)
    assert Notice.get_by_id(notice.id).state == "dead"
    alerts.sent(ledger, other)
    assert alerts.waiting() == {}
