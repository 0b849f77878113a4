"""How a person sees jobs and steps in, on a data folder on which no node runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.work.switches import paused_routes
from storage import attempts, dispatch
from storage.breaker import OPENS_AFTER
from storage.db import Ledger, open_ledger
from storage.records import Job, ModelBreaker
from tests.storage_rows import a_series, enqueue
from tests.unit.dicomnode.cli.conftest import Done, Run

CONFIG = """\
[node]
data_dir = "data"

[[routes]]
name = "CT tissue"
when = { Modality = "CT" }
model = "ct-tissue"
"""

At = Callable[..., Done]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def at(medai: Run, tmp_path: Path, ledger: Ledger) -> At:
    """Run a command on the data folder, which holds four jobs; the first two have failed."""
    path = tmp_path / "medai_node.toml"
    path.write_text(CONFIG)
    series = a_series(ledger)
    for number, model in enumerate(("alpha@1.0.0", "beta@1.0.0", "alpha@1.0.0", "beta@1.0.0")):
        name = f"s{number}"
        assert enqueue(ledger, series, subject=name, model_digest=name, model=model, source="CT1")
    with ledger.transaction():
        ModelBreaker.create(name="beta@1.0.0", failures=OPENS_AFTER - 1)
    for reason in ("no answer", "a gap"):
        job = dispatch.claim(ledger, "w", 60)
        assert job is not None
        attempts.fail(ledger, job, reason, max_attempts=1, retry=False, jitter=0, blamed=job.model)
    return lambda *arguments: medai(*arguments, "--config", path)


def rows(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


@pytest.mark.feature("P42")
def test_dead_letters_are_listed_with_their_reasons(at: At) -> None:
    listed = rows(at("jobs", "list", "--state", "failed", "--json"))
    assert [(row["id"], row["reason"], row["failures"]) for row in listed] == [
        (2, "a gap", 1),
        (1, "no answer", 1),
    ]
    (one,) = rows(at("jobs", "list", "--state", "failed", "--model", "alpha", "--json"))
    assert (one["id"], one["priority"], one["source"]) == (1, "routine", "CT1")
    assert rows(at("jobs", "list", "--route", "another", "--json")) == []
    assert at("jobs", "list", "--route", "another").out.startswith("There is no such job.\n")
    shown = at("jobs").out
    assert "no answer" in shown
    assert shown == at("jobs", "list").out
    assert "Model beta@1.0.0: circuit breaker open after 3 failures, tried again " in shown
    assert "Model alpha" not in shown
    wrong = at("jobs", "list", "--state", "dead")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert wrong.err.startswith("there is no state 'dead'; there are queued, running")


@pytest.mark.feature("P42")
def test_all_that_failed_run_again_or_those_of_one_model(at: At) -> None:
    assert at("jobs", "retry", "--all", "--model", "alpha").out == "1 job is queued again.\n"
    assert [job.state for job in Job.select().order_by(Job.id)] == [
        *("queued", "failed", "queued", "queued")
    ]
    assert at("jobs", "retry", "--all").out == "1 job is queued again.\n"
    assert at("jobs", "retry", "--all").out == "0 jobs are queued again.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("jobs", "retry"), "give the number of a job, or --all"),
        (("jobs", "retry", "1", "--all"), "give the number of a job, or --all"),
        (("jobs", "retry", "1", "--model", "alpha"), "--model goes with --all"),
        (("jobs", "prioritize", "1"), "job 1 is failed; only jobs that wait are prioritized"),
        (("jobs", "prioritize", "9"), "there is no job 9"),
        (("pause", "--route", "CT"), "there is no route 'CT'; there are 'CT tissue'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(at: At, words: tuple[str, ...], said: str) -> None:
    done = at(*words)
    assert (done.code, done.out, done.err) == (2, "", f"{said}\n")


def test_a_job_passes_the_queue_and_is_taken_back(at: At) -> None:
    assert at("jobs", "prioritize", "4").out == "Job 4 is stat.\n"
    assert at("jobs", "prioritize", "3").out == "Job 3 is stat.\n"
    assert at("jobs", "prioritize", "3", "--routine").out == "Job 3 is routine.\n"
    assert [job.priority for job in Job.select().order_by(Job.id)] == [
        *("routine", "routine", "routine", "stat")
    ]


@pytest.mark.feature("P29")
def test_a_job_is_shown_with_every_stage(at: At) -> None:
    done = at("jobs", "show", "1", "--json")
    shown = json.loads(done.out)
    own = [stage["stage"] for stage in shown["stages"] if stage["object"] == "job:1"]
    assert own == ["queued", "running", "failed"]
    text = at("jobs", "show", "1").out
    assert "failed: no answer" in text
    assert "priority: routine" in text


def test_one_route_is_paused_and_goes_on(at: At) -> None:
    said = at("pause", "--route", "CT tissue").out
    assert said == "AI is paused for the route 'CT tissue'; receiving goes on.\n"
    assert paused_routes() == ["CT tissue"]
    assert "AI is paused for the route 'CT tissue'" in at("status").out
    assert json.loads(at("status", "--json").out)["paused_routes"] == ["CT tissue"]
    assert at("resume", "--route", "CT tissue").out == "AI runs again for the route 'CT tissue'.\n"
    assert paused_routes() == []
