"""Each way in which a model goes wrong, on a whole node: the outcome, and that all else goes on.

``pytest -m slow tests/integration/test_model_faults.py`` is the long form: every attempt is made, a
model is deaf while it is loaded, a worker is frozen whole, and one crashes with its neighbours.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.breaker import OPENS_AFTER
from tests import factories, faulty
from tests.harness import NodeUnderTest, lives
from tests.integration.looks import assert_chain_is_intact, events, send_all, uid_of

LIMIT, GRACE = 5, 1
LANES = os.cpu_count() or 1

MODELS = """\
[models]
path = "models"
providers = ["cpu"]
workers = {workers}
job_seconds = {limit}
grace_seconds = {grace}
max_attempts = {attempts}
"""

ROUTE = """\
[[routes]]
name = "{name}"
when = {{ Modality = "CR", StudyDescription = "{name}" }}
model = "{name}"
"""

LATE = "{0}@1.0.0 was stopped: its time was up"
DEAF = (LATE, "{0}@1.0.0 did not stop at its time limit: its worker is replaced")
"""What is said of a run that stops, and of one that does not, or a job that does not."""

BREAKER = "model_breaker:unlucky@1.0.0"

_seeds = itertools.count(1)


class Ward:
    """A node with every faulty model, and a radiograph for whichever is asked."""

    def __init__(self, folder: Path, attempts: int) -> None:
        self.folder = folder
        names = list(faulty.FAULTS)
        self.graphs = {name: faulty.write_model(folder / "node/models", name) for name in names}
        routes = [ROUTE.format(name=name) for name in names]
        models = MODELS.format(limit=LIMIT, grace=GRACE, attempts=attempts, workers=LANES + 1)
        self.node = NodeUnderTest(folder / "node", "\n".join([models, *routes]), quiet=0)

    def ask(self, model: str) -> int:
        """Send a radiograph to a model, answered 0x0000; gives the number of the job."""
        seed = next(_seeds)
        image = factories.cr_image(seed=seed)
        image.StudyDescription = model
        paths = factories.write(image, self.folder / "images" / str(seed))
        send_all(self.node, paths)
        query = "SELECT id FROM job WHERE series_instance_uid = ?"
        series = uid_of(paths[0], "SeriesInstanceUID")
        (row,) = self.node.wait_until(lambda: self.node.rows(query, series), "the job is queued")
        return int(row["id"])

    def job(self, number: int) -> dict[str, Any]:
        (row,) = self.node.rows("SELECT * FROM job WHERE id = ?", number)
        return row

    def wait_for(self, number: int, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = self.job(number)
            return row if row["state"] in states else None

        return self.node.wait_until(look, f"{' or '.join(states)} of job {number}", seconds)

    def serves(self) -> None:
        """It still takes images, and runs what is sound."""
        done = self.wait_for(self.ask("healthy"), "ready", "failed")
        assert (done["state"], done["failures"], done["crashes"]) == ("ready", 0, 0), done["reason"]

    def results_of(self, number: int) -> int:
        (row,) = self.node.rows("SELECT count(*) AS n FROM result WHERE job_id = ?", number)
        return int(row["n"])


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    made = Ward(tmp_path_factory.mktemp("ward"), attempts=1)
    with made.node:
        yield made
        assert_chain_is_intact(made.node)


@pytest.mark.feature("P27", "P42", "P43")
def test_a_job_that_does_not_stop_ends_its_worker_and_no_other_job(ward: Ward) -> None:
    """The others run on in the old worker, and what comes meanwhile in the new one."""
    old = ward.node.state.pids["worker"]
    deaf = ward.ask("deaf")
    begun = ward.wait_for(deaf, "running")["started_at"]
    ward.node.wait_until(lambda: time.time() >= begun + GRACE + 1, "a while")
    others = [ward.ask("endless") for _ in range(LANES - 1)]
    for number in others:
        ward.wait_for(number, "running")
    neighbour = ward.ask("healthy")  # it has to wait for one of these
    assert ward.wait_for(neighbour, "running")["started_at"] < begun + LIMIT
    assert ward.wait_for(deaf, "failed")["reason"] in [said.format("deaf") for said in DEAF]
    ward.node.wait_until(lambda: ward.node.state.pids["worker"] != old, "the new worker")
    ward.serves()
    for number in others:
        told = ward.wait_for(number, "failed")
        assert told["reason"] == LATE.format("endless")
        assert told["finished_at"] - told["started_at"] < LIMIT + GRACE
    done = ward.wait_for(neighbour, "ready")
    assert done["finished_at"] > begun + LIMIT + GRACE
    assert (done["attempt"], done["failures"], done["crashes"]) == (1, 0, 0)
    ward.node.wait_until(lambda: not lives(old), "the end of the old worker")
    assert ward.node.state.processes["worker"] == 1
    assert "process.retiring" in {event["action"] for event in events(ward.node)}
    assert "process.died" not in {event["action"] for event in events(ward.node)}
    assert not any(ward.results_of(number) for number in (deaf, *others))


@pytest.mark.feature("P42", "P43")
@pytest.mark.parametrize(
    ("model", "reason"),
    [("greedy", "memory"), ("wordless", "not finite")],
)
def test_a_bad_answer_fails_its_job_and_is_no_result(ward: Ward, model: str, reason: str) -> None:
    worker = ward.node.state.pids["worker"]
    number = ward.ask(model)
    job = ward.wait_for(number, "failed", "ready")
    assert (job["state"], ward.results_of(number)) == ("failed", 0)
    assert reason in job["reason"]
    ward.serves()
    assert ward.node.state.pids["worker"] == worker
    (kept,) = ward.node.rows(
        "SELECT state FROM instance WHERE series_instance_uid = ?", job["series_instance_uid"]
    )
    assert kept["state"] == "indexed"


@pytest.mark.feature("F05", "P42")
def test_a_model_whose_file_was_damaged_is_left_in_peace_until_it_is_mended(ward: Ward) -> None:
    graph, command = ward.graphs["unlucky"], ward.node.command
    sound = graph.read_bytes()
    said = command("pause", "--route", "unlucky").stdout
    assert said == "AI is paused for the route 'unlucky'; receiving goes on.\n"
    # More than can have begun when the third has failed.
    numbers = [ward.ask("unlucky") for _ in range(OPENS_AFTER + LANES + 1)]
    graph.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    command("resume", "--route", "unlucky")
    opened = "SELECT 1 FROM model_breaker WHERE name = 'unlucky@1.0.0' AND state = 'open'"
    ward.node.wait_until(lambda: ward.node.rows(opened), "the breaker opens")
    jobs = [ward.job(number) for number in numbers]
    assert "queued" in {job["state"] for job in jobs}
    failed = [job for job in jobs if job["state"] == "failed"]
    assert len(failed) >= OPENS_AFTER
    assert {job["attempt"] for job in failed} == {1}
    assert all("unlucky@1.0.0" in job["reason"] for job in failed), failed
    told = command("status").stdout
    assert re.search(r"^Model unlucky@1\.0\.0: circuit breaker (half-)?open after \d", told, re.M)
    graph.write_bytes(sound)
    listed = ward.node.json("jobs", "list", "--state", "failed", "--model", "unlucky")
    reasons = {row["id"]: row["reason"] for row in listed}
    assert {job["id"]: job["reason"] for job in failed}.items() <= reasons.items()
    again = command("jobs", "retry", "--all", "--model", "unlucky").stdout
    assert again == f"{len(reasons)} jobs are queued again.\n"
    for number in numbers:
        ward.wait_for(number, "ready")
    of_breaker = [event for event in events(ward.node) if event["object"] == BREAKER]
    shown = [event["action"].removeprefix("model_breaker.") for event in of_breaker]
    assert (shown[0], shown[-2:]) == ("open", ["half-open", "closed"])


@pytest.mark.slow
@pytest.mark.feature("P42", "P43")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ("endless", (LATE,)),
        ("deaf", DEAF),
        ("deaf-while-loading", DEAF),
        ("wordless", ("the model's output logits holds values that are not finite",)),
    ],
)
def test_a_job_that_fails_whenever_it_runs_becomes_a_dead_letter(
    tmp_path: Path, model: str, reasons: tuple[str, ...]
) -> None:
    ward = Ward(tmp_path, attempts=3)
    with ward.node:
        number = ward.ask(model)
        while ward.job(number)["state"] != "failed":
            ward.serves()
        job = ward.job(number)
        assert job["reason"] in [reason.format(model) for reason in reasons]
        assert (job["attempt"], job["crashes"]) == (3, 0)
        assert not ward.results_of(number)
        assert_chain_is_intact(ward.node)


@pytest.mark.slow
@pytest.mark.feature("P42", "P43")
@pytest.mark.timeout(600)
def test_a_worker_that_says_nothing_any_more_is_killed_and_its_job_runs_again(
    tmp_path: Path,
) -> None:
    ward = Ward(tmp_path, attempts=3)
    with ward.node:
        number = ward.ask("endless")
        ward.wait_for(number, "running")
        frozen = ward.node.state.pids["worker"]
        os.kill(frozen, signal.SIGSTOP)
        ward.node.wait_until(lambda: not lives(frozen), "the end of the frozen worker")
        # The row of the attempt that ended says "running" until a worker takes the job again.
        ward.node.wait_until(lambda: ward.job(number)["attempt"] == 2, "the second attempt")
        job = ward.job(number)
        assert (job["failures"], job["crashes"]) == (0, 1)
        ward.wait_for(number, "queued", "failed")
        ward.serves()


@pytest.mark.slow
@pytest.mark.feature("P42", "P43")
@pytest.mark.timeout(600)
def test_after_a_crash_each_suspect_runs_alone_and_only_the_guilty_one_is_dead(
    tmp_path: Path,
) -> None:
    ward = Ward(tmp_path, attempts=3)
    with ward.node:
        guilty, *others = [ward.ask("endless") for _ in range(LANES)]
        for number in (guilty, *others):
            ward.wait_for(number, "running")
        innocent = ward.ask("healthy")  # it has to wait for one of these
        ward.wait_for(innocent, "running")
        for crashes in (1, 2, 3):
            ward.wait_for(guilty, "running")
            if crashes > 1:
                (running,) = ward.node.rows("SELECT count(*) AS n FROM job WHERE state = 'running'")
                assert running["n"] == 1
            ward.node.kill_process("worker")
            ward.node.wait_until(_reached(ward, guilty, crashes), f"crash {crashes}")
        assert ward.wait_for(guilty, "failed")["reason"] == "dead letter: its process died 3 times"
        done = ward.wait_for(innocent, "ready")
        assert (done["attempt"], done["failures"], done["crashes"]) == (2, 0, 1)
        ward.serves()


def _reached(ward: Ward, number: int, crashes: int) -> Callable[[], bool]:
    return lambda: ward.job(number)["crashes"] == crashes
