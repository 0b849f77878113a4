"""SIGKILL at random moments: of the whole node, and of each of its processes alone.

The short form kills the node five times; ``pytest -m slow tests/integration`` does it twenty times.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from config.errors import PeerError
from dicomnode.net.scu import contexts_for, file_facts, open_association_to
from dicomnode.net.standin import StandInPacs
from dicomnode.sample import write_sample_study
from storage.objects import ObjectStore
from tests import factories
from tests.harness import NodeUnderTest, routes_to
from tests.integration.looks import (
    assert_chain_is_intact,
    assert_nothing_is_left_over,
    data_set_digest,
    headers,
    kinds_by_study,
    send_all,
    uid_of,
)

SLICES = 12
PHASES = ("receiving", "inferring", "delivering")

# Only the whole series matches: a part that was judged while the sender waits to send the rest
# must not give a second, older set of results.
WHOLE_SERIES = f"slices = {{ min = {SLICES} }}"


class Killer:
    """Kills the node at a random moment after its phase began, once a round."""

    def __init__(self, node: NodeUnderTest, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)  # noqa: S311 - draws moments, guards nothing
        self.phase = ""
        self._timer: threading.Timer | None = None

    def arm(self, phase: str) -> None:
        self.phase = phase
        self._timer = None

    def begun(self, phase: str, within: float) -> None:
        """The phase has begun: kill within so many seconds, if it is this round's."""
        if phase == self.phase and self._timer is None:
            self._timer = threading.Timer(self.random.uniform(0, within), self.node.kill)
            self._timer.start()

    def wait(self) -> None:
        """Until the node is dead."""
        assert self._timer is not None, f"the {self.phase} never began"
        self._timer.join()
        assert self.node.process is None


def send_until_cut(
    node: NodeUnderTest,
    paths: list[Path],
    acknowledged: dict[str, str],
    on_each: Callable[[], None],
) -> None:
    """Send what was not acknowledged yet; note what now is, and stop when the node is gone."""
    todo = [path for path in paths if uid_of(path, "SOPInstanceUID") not in acknowledged]
    files = [file_facts(path) for path in todo]
    if not files:
        return
    try:
        with open_association_to(node.peer, contexts_for(files)[0]) as link:
            for facts in files:
                if link.store(facts.path) == 0x0000:
                    acknowledged[facts.sop_instance_uid] = data_set_digest(facts.path)
                on_each()
    except PeerError:
        return


def one_round(
    node: NodeUnderTest, killer: Killer, paths: list[Path], acknowledged: dict[str, str]
) -> None:
    """A study is sent and the node killed in `killer.phase`; then it is started and goes on."""
    cut_after = killer.random.randrange(SLICES)
    count = iter(range(SLICES))
    study = uid_of(paths[0], "StudyInstanceUID")

    def on_each() -> None:
        if next(count) >= cut_after:
            killer.begun("receiving", 0.02)

    send_until_cut(node, paths, acknowledged, on_each)
    if killer.phase == "inferring":
        running = "SELECT 1 FROM job WHERE state != 'queued' AND study_instance_uid = ?"
        node.wait_until(lambda: node.rows(running, study), "the job began", pause=0.005)
        killer.begun("inferring", 0.4)
    elif killer.phase == "delivering":
        sending = "SELECT 1 FROM delivery WHERE state != 'waiting'"
        node.wait_until(lambda: killer._timer or not node.rows(sending), "sending", pause=0.005)
        node.wait_until(lambda: killer._timer, "the PACS was called", pause=0.005)
    killer.wait()
    killer.arm("")
    node.start()
    send_until_cut(node, paths, acknowledged, lambda: None)
    node.wait_until(node.at_rest, "rest")


@pytest.mark.feature("P03", "P04", "P24", "P32", "P36", "P43")
@pytest.mark.parametrize(
    "rounds", [5, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_nothing_is_lost_or_doubled_however_often_the_node_is_killed(
    tmp_path: Path, rounds: int
) -> None:
    acknowledged: dict[str, str] = {}
    studies = [
        factories.write(
            factories.ct_series(SLICES, rows=96, columns=96, seed=seed), tmp_path / f"{seed}"
        )
        for seed in range(rounds)
    ]
    killers: list[Killer] = []

    def answer(_: int) -> int:
        for killer in killers:
            killer.begun("delivering", 0.05)
        return 0x0000

    with StandInPacs(tmp_path / "pacs", answer=answer) as pacs:
        routes = routes_to(pacs.port).replace("slices = { min = 10 }", WHOLE_SERIES)
        assert WHOLE_SERIES in routes
        with NodeUnderTest(tmp_path / "node", routes) as node:
            killers.append(Killer(node, seed=rounds))
            for number, paths in enumerate(studies):
                killers[0].arm(PHASES[number % len(PHASES)])
                one_round(node, killers[0], paths, acknowledged)
            assert node.stop() == 0
            assert_everything_is_there_once(node, pacs, studies, acknowledged)


def assert_everything_is_there_once(
    node: NodeUnderTest,
    pacs: StandInPacs,
    studies: list[list[Path]],
    acknowledged: dict[str, str],
) -> None:
    assert len(acknowledged) == SLICES * len(studies)
    store = ObjectStore(node.data_dir)
    rows = node.rows("SELECT sop_instance_uid, object_key FROM instance")
    kept = [
        (row["sop_instance_uid"], data_set_digest(store.path(row["object_key"]))) for row in rows
    ]
    assert sorted(kept) == sorted(acknowledged.items())
    expected = {uid_of(paths[0], "StudyInstanceUID"): {"SEG": 1, "SR": 1} for paths in studies}
    assert kinds_by_study(headers(pacs)) == expected
    made = node.rows("SELECT sop_instance_uid, digest FROM result")
    came = {uid: data_set_digest(path) for uid, path in pacs.files.items()}
    assert {row["sop_instance_uid"]: row["digest"] for row in made} == came
    assert {row["state"] for row in node.rows("SELECT state FROM job")} == {"ready"}
    assert_chain_is_intact(node)
    assert_nothing_is_left_over(node)


@pytest.fixture(scope="module")
def standing(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[NodeUnderTest, StandInPacs]]:
    folder = tmp_path_factory.mktemp("standing")
    with (
        StandInPacs(folder / "pacs") as pacs,
        NodeUnderTest(folder / "node", routes_to(pacs.port)) as node,
    ):
        yield node, pacs


def wait_for_restart(node: NodeUnderTest, name: str, restarts: int) -> None:
    def again() -> bool:
        state = node.state
        return state.processes[name] >= restarts and name not in state.failing

    node.wait_until(again, f"the restart of {name}")


@pytest.mark.parametrize("name", ["receiver-0", "web"])
def test_a_killed_process_is_restarted_and_the_node_goes_on(
    standing: tuple[NodeUnderTest, StandInPacs], tmp_path: Path, name: str
) -> None:
    node, pacs = standing
    before = len(pacs.files)
    node.kill_process(name)
    wait_for_restart(node, name, 1)
    seed = 100 + len(name)
    send_all(
        node, factories.write(factories.ct_series(12, rows=32, columns=32, seed=seed), tmp_path)
    )
    assert pacs.wait_for(before + 2, 30), node.log.read_text()
    assert node.get("/health/ready")[0] == 200
    status = node.json("status")
    assert status["processes"][name] == 1
    assert f"{name} was restarted" in node.command("status").stdout
    assert f'process="{name}"}} 1.0' in node.get("/metrics")[1]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_processes_end_with_a_killed_supervisor_and_a_new_node_takes_over(
    tmp_path: Path, node: NodeUnderTest, pacs: StandInPacs
) -> None:
    orphans = list(node.state.pids.values())
    assert node.process is not None
    node.process.kill()
    node.process.wait()
    assert node.process.stdout is not None
    node.process.stdout.close()
    node.start()
    node.wait_until(lambda: not any(map(lives, orphans)), "the end of the old processes")
    send_all(node, factories.write(factories.ct_series(12, rows=32, columns=32), tmp_path / "ct"))
    assert pacs.wait_for(2, 60), node.log.read_text()
    node.wait_until(node.at_rest, "rest")
    assert node.get("/health/ready")[0] == 200
    assert node.stop() == 0
    assert_chain_is_intact(node)
    assert_nothing_is_left_over(node)


def kill_worker_in_job(node: NodeUnderTest, job_id: int) -> None:
    running = "SELECT 1 FROM job WHERE id = ? AND state IN ('running', 'validating')"
    node.wait_until(lambda: node.rows(running, job_id), "the job runs", pause=0.005)
    node.kill_process("worker")


@pytest.mark.feature("P43")
def test_a_job_runs_again_when_the_worker_died_under_it(
    standing: tuple[NodeUnderTest, StandInPacs], tmp_path: Path
) -> None:
    node, pacs = standing
    before = len(pacs.files)
    restarts = node.state.processes["worker"]
    paths = write_sample_study(tmp_path / "ct")
    send_all(node, paths)
    job_id = queued_job(node, paths)
    kill_worker_in_job(node, job_id)
    wait_for_restart(node, "worker", restarts + 1)
    assert pacs.wait_for(before + 2, 60), node.log.read_text()
    node.wait_until(node.at_rest, "rest")
    job = node.json("jobs", "show", str(job_id))
    assert (job["state"], job["attempt"], job["crashes"]) == ("delivered", 2, 1)
    study = uid_of(paths[0], "StudyInstanceUID")
    assert kinds_by_study(headers(pacs))[study] == {"SEG": 1, "SR": 1}


def queued_job(node: NodeUnderTest, paths: list[Path]) -> int:
    series = uid_of(paths[0], "SeriesInstanceUID")
    rows = node.wait_until(
        lambda: node.rows("SELECT id FROM job WHERE series_instance_uid = ?", series),
        "the job is queued",
        pause=0.005,
    )
    return int(rows[0]["id"])


@pytest.mark.feature("P40", "P42", "P43")
def test_a_job_under_which_the_worker_dies_three_times_is_a_dead_letter(
    standing: tuple[NodeUnderTest, StandInPacs], tmp_path: Path
) -> None:
    node, pacs = standing
    before = len(pacs.files)
    images = factories.ct_series(40, rows=256, columns=256, seed=77)
    paths = factories.write(images, tmp_path / "ct")
    send_all(node, paths)
    job_id = queued_job(node, paths)
    for _ in range(3):
        restarts = node.state.processes["worker"]
        kill_worker_in_job(node, job_id)
        wait_for_restart(node, "worker", restarts + 1)
    node.wait_until(node.at_rest, "rest")
    job = node.json("jobs", "show", str(job_id))
    assert (job["state"], job["crashes"]) == ("failed", 3)
    assert job["reason"] == "dead letter: its process died 3 times"
    assert len(pacs.files) == before
    (kept,) = node.rows(
        "SELECT count(*) AS n FROM instance WHERE state = 'indexed' AND series_instance_uid = ?",
        uid_of(paths[0], "SeriesInstanceUID"),
    )
    assert kept["n"] == len(paths)
    node.command("jobs", "retry", str(job_id))
    assert pacs.wait_for(before + 2, 60), node.log.read_text()
