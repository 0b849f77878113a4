"""models figures, feedback and alerts, on a data folder without a running node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from config.schema import Settings
from dicomnode.web.metrics import Exposition
from dicomnode.web.watching import watch_figures
from dicomnode.work.lookout import Lookout
from dicomnode.work.models import make_registry
from storage import alerts, attempts, dispatch
from storage.alerts import Trouble
from storage.db import Ledger, open_ledger
from storage.figures import Outcome, Said
from storage.objects import ObjectStore
from storage.records import AuditEvent, Job
from storage.watch_records import Feedback, Run, Score
from tests.storage_rows import some_jobs
from tests.unit.dicomnode.cli.conftest import Run as Command

MODEL = "ct-tissue@1.0.0"
ANSWER = Outcome("CPUExecutionProvider", [Said("bone", 0.9, needs_review=True), Said("lung", 0.4)])


@pytest.fixture
def ledger(medai: Command) -> Iterator[Ledger]:
    opened = open_ledger(Path("var"))
    yield opened
    opened.close()


@pytest.fixture
def job(ledger: Ledger) -> Job:
    (row,) = some_jobs(ledger, 1)
    running = dispatch.claim(ledger, "w", 60)
    assert running is not None
    attempts.start_validating(ledger, running)
    times = {"decode": 0.5, "run": 1.5}
    attempts.finish(ledger, running, [], {}, times, outcome=ANSWER)
    return row


@pytest.mark.feature("P46", "F15")
def test_feedback_is_noted_audited_and_shown_with_the_figures(
    medai: Command, ledger: Ledger, job: Job
) -> None:
    done = medai("feedback", job.id, "accept")
    assert (done.code, done.out) == (0, f"Noted: accept for job {job.id}, {MODEL}.\n")
    done = medai("feedback", job.id, "reject", "--finding", "lung", "--by", "resident")
    assert done.out == f"Noted: reject for 'lung' of job {job.id}, {MODEL}.\n"
    assert [row.said_by for row in Feedback.select()] == ["radiologist", "resident"]
    event = AuditEvent.select().order_by(AuditEvent.seq.desc()).first()
    assert (event.action, event.actor.partition(":")[0]) == ("feedback.reject", "user")
    told = medai("jobs", "show", job.id).out
    assert "finding bone: 0.9, asks for a human look\n" in told
    assert " resident: reject lung\n" in told
    assert " radiologist: accept the whole answer\n" in told
    done = medai("models", "figures", "ct-tissue")
    assert done.code == 0
    for line in (
        f"{MODEL}: 1 accept, 2 findings, 1 reject, 1 reviews, 1 runs",
        "  last 3600 s: 1 runs, 1.0 an hour, on CPUExecutionProvider",
        "  seconds run: p50 1.500, p95 1.500, max 1.500",
        "  bone: 1 scores, 0.9 to 0.9, median 0.9",
        "  accepted: 100 % of 1 (95 %: 21 to 100)",
        "  ppv: 50 % of 2 (95 %: 9 to 91)",
        "  said of lung: 0 accept, 1 reject, 0 correct, ppv 0 % of 1 (95 %: 0 to 79)",
    ):
        assert line in done.out.splitlines(), done.out


def test_figures_as_json_hold_what_the_words_say(medai: Command, ledger: Ledger, job: Job) -> None:
    (found,) = json.loads(medai("models", "figures", MODEL, "--json").out)
    assert found["seconds"]["decode"] == {"p50": 0.5, "p95": 0.5, "max": 0.5}
    assert found["scores"]["lung"] == {"count": 1, "low": 0.4, "p50": 0.4, "high": 0.4}
    assert found["acceptance"]["ppv"] is None
    assert medai("models", "figures", "no-such").code == 2
    assert json.loads(medai("models", "figures", "--json").out) == [found]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("99", "accept"), "there is no job 99"),
        (("2", "accept"), "job 2 is queued and has no answer to speak of"),
        (("1", "accept", "--finding", "x"), "job 1 has no such finding; its findings: bone, lung"),
        (("1", "accept", "--by", "Dr^Who"), "a role is up to 32 small letters"),
    ],
)
def test_feedback_on_what_is_not_there_is_refused(
    medai: Command, ledger: Ledger, arguments: tuple[str, ...], said: str
) -> None:
    some_jobs(ledger, 2)
    running = dispatch.claim(ledger, "w", 60)
    assert running is not None
    attempts.start_validating(ledger, running)
    attempts.finish(ledger, running, [], {}, {}, outcome=ANSWER)
    done = medai("feedback", *arguments)
    assert done.code == 2
    assert said in done.err
    assert Feedback.select().count() == 0


@pytest.mark.feature("F18")
def test_alerts_are_listed_and_stand_in_status(medai: Command, ledger: Ledger) -> None:
    done = medai("alerts")
    assert (done.code, done.out) == (0, "Nothing was ever wrong.\n")
    ledger = open_ledger(ledger.data_dir)  # the command opened another one in this process
    queue = Trouble("queue", "", "the oldest of 2 open jobs is 1000 s old", 1000.0, 900.0)
    gone = Trouble("breaker", "pacs", "the destination failed 3 times in a row")
    alerts.take(ledger, [queue, gone], ["queue", "breaker"])
    alerts.take(ledger, [queue], ["queue", "breaker"])
    alerts.tell(ledger, alerts.raised(), ["webhooks:on call"], "MEDAI")
    done = medai("alerts")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[1].split()[:2] == ["raised", "queue"]
    assert lines[2].split()[:3] == ["cleared", "breaker", "pacs"]
    assert lines[3] == "1 messages wait for webhooks:on call."
    listed = json.loads(medai("alerts", "--json").out)
    assert [row["state"] for row in listed["alerts"]] == ["raised", "cleared"]
    assert listed["waiting"] == {"webhooks:on call": 1}
    assert "Alert, queue: the oldest of 2 open jobs is 1000 s old" in medai("status").out
    assert [row["rule"] for row in json.loads(medai("status", "--json").out)["alerts"]] == ["queue"]


@pytest.mark.feature("F18", "P44")
def test_the_metrics_hold_models_and_alerts_and_no_more(ledger: Ledger, job: Job) -> None:
    with ledger.transaction() as change:
        for number in range(60):
            run = Run.create(
                job=1000 + number,
                model=MODEL,
                model_digest="d",
                mode="live",
                provider="CPUExecutionProvider",
                findings=100,
                reviews=0,
                finished_at=change.now + number,
            )
            for name in range(100):
                Score.create(run=run, kind="finding", name=f"n{name}", value=number / 60)
    settings = Settings(watch={"scores": 20, "fewest_scores": 20}, storage={"min_free": 0})
    store = ObjectStore(ledger.data_dir, min_free=0)
    lookout = Lookout(settings, ledger, store, make_registry(settings), "node")
    lookout.look()
    lookout.look()
    store.close()
    text, _ = Exposition(lambda: watch_figures(3600.0)).render("text/plain")
    found = {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    about = f"('model', '{MODEL}')"
    assert found[f"medai_model_events_total[{about}, ('what', 'runs')]"] == 1
    stage = "medai_model_stage_seconds"
    assert found[f"{stage}[{about}, ('quantile', 'p95'), ('stage', 'run')]"] == 1.5
    assert found[f"medai_alerts[('rule', 'drift'), ('subject', '{MODEL}')]"] == 1
    assert sum(name.startswith("medai_score_psi") for name in found) == 50
    assert "2.25." not in text.decode()
