"""SIGKILL of one process of a node: it is started again, and what it was at goes on."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.net.scu import echo
from dicomnode.net.standin import StandInPacs
from dicomnode.sample import write_sample_study
from tests import factories
from tests.certificates import Authority, client_side
from tests.contract.wire import Wire
from tests.harness import NodeUnderTest, lives, routes_to
from tests.integration.looks import (
    assert_chain_is_intact,
    assert_nothing_is_left_over,
    headers,
    kinds_by_study,
    send_all,
    uid_of,
)


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


def test_a_hang_up_ends_nothing(standing: tuple[NodeUnderTest, StandInPacs]) -> None:
    node, _ = standing
    before = node.state
    for pid in (*before.pids.values(), before.pid):
        os.kill(pid, signal.SIGHUP)
    assert node.get("/health/ready")[0] == 200
    echo(node.peer)
    assert node.state == before
    soft, hard = re.findall(
        r"Max open files +(\d+) +(\d+)",
        Path(f"/proc/{before.pids['receiver-0']}/limits").read_text(),
    )[0]
    assert int(soft) == min(int(hard), 65536)


def test_processes_end_with_a_killed_supervisor_and_a_new_node_takes_over(
    tmp_path: Path, node: NodeUnderTest, pacs: StandInPacs
) -> None:
    orphans = list(node.state.pids.values())
    # Its receivers hold the port while they drain: the new node waits for them.
    node.write_settings(routes_to(pacs.port), port=node.state.dicom[1])
    node.kill_supervisor()
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


def test_a_worker_tidies_up_after_one_that_was_killed(
    standing: tuple[NodeUnderTest, StandInPacs], tmp_path: Path
) -> None:
    node, pacs = standing
    before = len(pacs.files)
    images = factories.ct_series(12, rows=32, columns=32, seed=88)
    send_all(node, factories.write(images, tmp_path))
    assert pacs.wait_for(before + 2, 30), node.log.read_text()
    result = node.rows("SELECT object_key FROM result ORDER BY id DESC LIMIT 1")[0]["object_key"]
    folder = node.data_dir / "objects" / result.partition("/")[0]
    spool = node.data_dir / "spool" / folder.name.partition("-")[0]
    named = set(folder.iterdir())
    # Killed while it wrote one object, and before the row of another.
    for unfinished in (spool / "0990", folder / "0990.dcm"):
        unfinished.write_bytes(b"half an object")
    restarts = node.state.processes["worker"]
    node.kill_process("worker")
    wait_for_restart(node, "worker", restarts + 1)
    assert not spool.exists()
    assert set(folder.iterdir()) == named | {folder / "closed"}
    assert node.log.read_text().count("worker.fault") == 0


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


TLS = """\
[node.tls]
certificate = "node.pem"
private_key = "node.key"
"""


@pytest.mark.feature("F18", "P40")
def test_a_receiver_that_dies_after_its_certificate_expired_starts_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("node")
    with NodeUnderTest(tmp_path, TLS) as node:
        authority.issue("node", days=(-9, -2))
        node.kill_process("receiver-0")
        wait_for_restart(node, "receiver-0", 1)
        with Wire.associate(node.state.dicom[1], tls=client_side(authority.path)) as wire:
            assert wire.echo().status == 0
            wire.release()
        (problem,) = node.json("status")["problems"]
        assert problem.startswith("node.tls.certificate: found a certificate in")
        assert problem.endswith("connections get the last good one")
        assert problem in json.loads(node.get("/health/ready")[1])["problems"]
