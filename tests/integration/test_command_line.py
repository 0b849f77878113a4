"""The commands a person uses on a running node, and the node's own start and end."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.net.scu import echo
from tests import factories
from tests.harness import NodeUnderTest, medai_node, routes_to
from tests.integration.looks import (
    assert_chain_is_intact,
    assert_nothing_is_left_over,
    events,
    send_all,
    uid_of,
)


@pytest.fixture(scope="module")
def quiet_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node whose series wait for a person, and whose results stay in it."""
    routes = routes_to(9).replace('send_to = ["pacs"]', "send_to = []")
    folder = tmp_path_factory.mktemp("quiet") / "node"
    with NodeUnderTest(folder, routes, quiet=3600.0) as node:
        yield node


def send_ct(node: NodeUnderTest, folder: Path, seed: int) -> str:
    """Send a series and wait until the node has read it; gives its UID."""
    paths = factories.write(factories.ct_series(12, rows=32, columns=32, seed=seed), folder)
    send_all(node, paths)
    uid = uid_of(paths[0], "SeriesInstanceUID")
    read = "SELECT 1 FROM series WHERE series_instance_uid = ? AND instances = 12"
    node.wait_until(lambda: node.rows(read, uid), "the series is read")
    return uid


def test_a_series_is_completed_by_hand_and_ai_paused_and_resumed(
    quiet_node: NodeUnderTest, tmp_path: Path
) -> None:
    uid = send_ct(quiet_node, tmp_path, 1)
    assert quiet_node.command("pause").stdout == "AI is paused; receiving goes on.\n"
    assert quiet_node.json("status")["paused"]
    quiet_node.command("complete", uid)
    state = "SELECT id, state FROM job WHERE series_instance_uid = ?"
    (job,) = quiet_node.wait_until(lambda: quiet_node.rows(state, uid), "the job is queued")
    assert "AI is paused" in quiet_node.command("status").stdout
    assert quiet_node.rows(state, uid)[0]["state"] == "queued"
    number = str(job["id"])
    assert "is cancelled" in quiet_node.command("jobs", "cancel", number).stdout
    assert quiet_node.json("jobs", "show", number)["state"] == "cancelled"
    assert "is queued again" in quiet_node.command("jobs", "retry", number).stdout
    assert quiet_node.command("resume").stdout == "AI runs again.\n"
    ready = "SELECT 1 FROM job WHERE id = ? AND state = 'ready'"
    quiet_node.wait_until(lambda: quiet_node.rows(ready, job["id"]), "the job is ready")
    for command, said in (
        (("jobs", "cancel", number), f"job {number} is ready; only open jobs are cancelled"),
        (("jobs", "retry", number), f"job {number} is ready; only failed, skipped and cancelled"),
        (("jobs", "show", "999"), "there is no job 999"),
        (("deliveries", "retry", "999"), "there is no delivery 999"),
        (("complete", uid), "no series of that UID waits for its completeness"),
    ):
        done = quiet_node.command(*command, check=2)
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
    by_hand = {event["action"]: event["actor"] for event in events(quiet_node)}
    for action in ("ai.paused", "ai.resumed", "series.forced", "job.cancelled"):
        assert by_hand[action].startswith("user:")


@pytest.mark.feature("P26")
def test_the_export_is_json_lines_in_order(quiet_node: NodeUnderTest) -> None:
    lines = quiet_node.command("audit", "export").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == quiet_node.rows("SELECT * FROM audit_event ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["prev_hash"] == before["hash"] for before, row in itertools.pairwise(rows))
    later = quiet_node.command("audit", "export", "--after", str(len(rows) - 1)).stdout
    assert [json.loads(line)["seq"] for line in later.splitlines()] == [len(rows)]


def test_a_second_node_on_the_data_folder_says_so(quiet_node: NodeUnderTest) -> None:
    done = quiet_node.command("run", check=1)
    assert done.stderr == "another node runs on this data folder\n"
    assert done.stdout == ""
    assert echo(quiet_node.peer) == 0


@pytest.mark.feature("P41")
def test_a_port_that_is_taken_is_said_in_a_sentence_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = NodeUnderTest(tmp_path / "node", port=port)
        # With receivers of an earlier node on the port it would wait for them longer than this.
        env = {"MEDAI__NODE__DRAIN_SECONDS": "1000"}
        done = medai_node("run", "--config", str(node.config), check=2, env=env)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.feature("F18", "P41")
def test_without_its_http_port_the_node_receives_and_takes_the_port_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MEDAI__WEB__PORT", str(port))
        with NodeUnderTest(tmp_path / "node") as node:
            assert (node.state.web, node.state.failing) == (None, ("web",))
            assert echo(node.peer) == 0
            assert "process web is down" in node.command("status").stdout
            taken.close()
            node.wait_until(lambda: node.state.web, "HTTP")
            assert node.get("/health/ready")[0] == 200
    log = node.log.read_text()
    assert log.count(f"cannot listen on 127.0.0.1 port {port}: Address already in use") == 1
    assert "process.died" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_asked_for_end_is_orderly(tmp_path: Path, number: signal.Signals) -> None:
    with NodeUnderTest(tmp_path / "node") as node:
        paths = factories.write(factories.us_image(seed=1), tmp_path / "us")
        send_all(node, paths)
        assert node.process is not None
        node.process.send_signal(number)
        node.process.communicate(timeout=60)
        assert node.process.returncode == 0
        node.process = None
        assert_nothing_is_left_over(node)
        assert_chain_is_intact(node)
        last = events(node)[-1]
        assert (last["action"], last["object"]) == ("node.stopped", "process:node")
        assert node.command("status", check=1).stdout.startswith("Problem: the node does not run")
        node.start()
        assert echo(node.peer) == 0


TAMPER = {
    "edited": "UPDATE audit_event SET actor = 'user:nobody' WHERE seq = 2",
    "removed": "DELETE FROM audit_event WHERE seq = 2",
    "inserted": (
        "UPDATE audit_event SET seq = -(seq + 1) WHERE seq >= 2;"
        "UPDATE audit_event SET seq = -seq WHERE seq < 0;"
        "INSERT INTO audit_event SELECT 2, version, time, actor, 'ai.paused', object, outcome,"
        " detail, hash, replace(hash, '0', '1') FROM audit_event WHERE seq = 1;"
    ),
    "cut off": "DELETE FROM audit_event WHERE seq = (SELECT max(seq) FROM audit_event)",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node that ran and ended in order."""
    folder = tmp_path_factory.mktemp("ended")
    with NodeUnderTest(folder / "node") as node:
        send_all(node, factories.write(factories.us_image(seed=2), folder / "us"))
        node.wait_until(node.at_rest, "rest")
        assert node.stop() == 0
        yield node


@pytest.mark.feature("P26", "P52")
@pytest.mark.parametrize("kind", TAMPER)
def test_tampering_with_the_audit_chain_is_found(ended: NodeUnderTest, kind: str) -> None:
    assert_chain_is_intact(ended)
    database = ended.data_dir / "medai.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        before = connection.execute("SELECT * FROM audit_event ORDER BY seq").fetchall()
        connection.executescript(TAMPER[kind])
        try:
            done = ended.command("audit", "verify", "--json", check=1)
            verdict = json.loads(done.stdout)
            assert not verdict["intact"]
            assert verdict["break"]["kind"] == kind
            assert f"({kind})" in ended.command("audit", "verify", check=1).stdout
        finally:
            connection.execute("DELETE FROM audit_event")
            places = ", ".join("?" * len(before[0]))
            connection.executemany(f"INSERT INTO audit_event VALUES ({places})", before)  # noqa: S608
            connection.commit()
    assert_chain_is_intact(ended)


def test_commands_on_a_folder_where_no_node_ran_say_so(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "node")
    for command in (("status",), ("jobs",), ("audit", "verify")):
        done = node.command(*command, check=2)
        said = f"no node has run on the data folder {node.data_dir} yet"
        assert done.stderr == f"{said}, or it was moved away: there is none\n"


def test_echo_and_send_reach_a_node(quiet_node: NodeUnderTest, tmp_path: Path) -> None:
    images = factories.write([factories.cr_image(seed=seed) for seed in (5, 6)], tmp_path / "cr")
    (tmp_path / "cr" / "notes.txt").write_text("not an image")
    assert quiet_node.command("echo", str(quiet_node.peer)).stdout == "The peer answers.\n"
    sent = quiet_node.command("send", *map(str, images), "--to", str(quiet_node.peer))
    assert sent.stdout == "2 of 2 files were taken.\n"
    folder = quiet_node.command("send", str(tmp_path), "--to", str(quiet_node.peer), check=1)
    assert folder.stdout == "2 of 3 files were taken.\n"
    assert "notes.txt: not taken: notes.txt is not a DICOM Part 10 file" in folder.stderr
    nobody = medai_node("echo", "NOBODY@127.0.0.1:9", check=1)
    assert "cannot be reached" in nobody.stderr
    assert nobody.stderr.count("\n") == 1
