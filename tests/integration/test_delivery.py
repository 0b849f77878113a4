"""Results on their way out: a PACS that is down, busy, unwilling, cut off or no longer named."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from dicomnode.net.standin import StandInPacs
from tests import factories
from tests.harness import NodeUnderTest, routes_to
from tests.integration.looks import headers, kinds_by_study, send_all, uid_of

IN_ORDER = (
    "SELECT sop_instance_uid FROM delivery JOIN result ON result.id = result_id"
    " ORDER BY delivery.id"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def send_study(node: NodeUnderTest, folder: Path, seed: int) -> str:
    paths = factories.write(factories.ct_series(12, rows=32, columns=32, seed=seed), folder)
    send_all(node, paths)
    return uid_of(paths[0], "StudyInstanceUID")


def in_order(node: NodeUnderTest) -> list[str]:
    return [row["sop_instance_uid"] for row in node.rows(IN_ORDER)]


def first_time_each(uids: list[str]) -> list[str]:
    return list(dict.fromkeys(uids))


@pytest.mark.feature("P36", "P42")
def test_results_wait_for_a_pacs_that_is_down_and_survive_a_restart(tmp_path: Path) -> None:
    port = free_port()
    with NodeUnderTest(tmp_path / "node", routes_to(port)) as node:
        studies = [send_study(node, tmp_path / f"{seed}", seed) for seed in (1, 2)]
        tried = "SELECT 1 FROM delivery WHERE attempt > 2"
        node.wait_until(lambda: node.rows(tried), "a third attempt")
        reasons = "SELECT reason FROM delivery WHERE state = 'waiting' AND reason IS NOT NULL"
        rows = node.wait_until(
            lambda: len(rows := node.rows(reasons)) == 4 and rows, "all wait with a reason"
        )
        assert {"cannot be reached" in row["reason"] for row in rows} == {True}
        assert {job["state"] for job in node.json("jobs")} == {"delivering"}
        assert node.stop() == 0
        node.start()
        with StandInPacs(tmp_path / "pacs", port=port) as pacs:
            assert pacs.wait_for(4, 60), node.log.read_text()
            node.wait_until(node.at_rest, "rest")
            assert kinds_by_study(headers(pacs)) == {
                study: {"SEG": 1, "SR": 1} for study in studies
            }
            assert pacs.stores == in_order(node)
        assert {job["state"] for job in node.json("jobs")} == {"delivered"}


@pytest.mark.feature("P36", "P42")
def test_a_busy_pacs_is_asked_again_and_the_order_holds(tmp_path: Path) -> None:
    with (
        StandInPacs(tmp_path / "pacs", answer=lambda n: 0xA700 if n <= 3 else 0x0000) as pacs,
        NodeUnderTest(tmp_path / "node", routes_to(pacs.port)) as node,
    ):
        study = send_study(node, tmp_path / "ct", 3)
        assert pacs.wait_for(2, 60), node.log.read_text()
        node.wait_until(node.at_rest, "rest")
        assert pacs.stores[:4] == [in_order(node)[0]] * 4
        assert first_time_each(pacs.stores) == in_order(node)
        assert kinds_by_study(headers(pacs)) == {study: {"SEG": 1, "SR": 1}}
        last, first = node.json("deliveries")
        assert (first["attempt"], first["state"]) == (4, "accepted")
        assert last["state"] == "accepted"
        postponed = node.rows(
            "SELECT detail FROM audit_event WHERE action = 'delivery.waiting' AND object = ?",
            f"delivery:{first['id']}",
        )
        assert sum("0xA700" in row["detail"] for row in postponed) == 3


@pytest.mark.feature("P42")
def test_a_pacs_that_fails_one_object_gets_the_others(tmp_path: Path) -> None:
    mended = threading.Event()
    failed: list[int] = []

    def answer(number: int) -> int:
        if pacs.stores[number - 1] == pacs.stores[0] and not mended.is_set():
            failed.append(number)
            return 0x0110
        return 0x0000

    with (
        StandInPacs(tmp_path / "pacs", answer=answer) as pacs,
        NodeUnderTest(tmp_path / "node", routes_to(pacs.port)) as node,
    ):
        studies = [send_study(node, tmp_path / f"{seed}", seed) for seed in (6, 7)]
        assert pacs.wait_for(3, 60), node.log.read_text()
        assert failed
        said = "SELECT 1 FROM audit_event WHERE detail LIKE '%answered C-STORE with 0x0110%'"
        node.wait_until(lambda: node.rows(said), "the failure is in the audit chain")
        mended.set()
        assert pacs.wait_for(4, 60), node.log.read_text()
        node.wait_until(node.at_rest, "rest")
        assert kinds_by_study(headers(pacs)) == {study: {"SEG": 1, "SR": 1} for study in studies}


@pytest.mark.feature("P36", "P41")
def test_a_refusal_is_shown_with_its_reason_and_sent_again_by_hand(tmp_path: Path) -> None:
    willing = threading.Event()
    with (
        StandInPacs(
            tmp_path / "pacs", answer=lambda _: 0x0000 if willing.is_set() else 0xC123
        ) as pacs,
        NodeUnderTest(tmp_path / "node", routes_to(pacs.port)) as node,
    ):
        send_study(node, tmp_path / "ct", 4)
        refused = "SELECT 1 FROM delivery WHERE state = 'refused'"
        node.wait_until(lambda: len(node.rows(refused)) == 2, "both were refused")
        rows = node.json("deliveries")
        assert {(row["state"], row["status"]) for row in rows} == {("refused", 0xC123)}
        assert {row["reason"] for row in rows} == {"0xC123: cannot understand"}
        assert [job["state"] for job in node.json("jobs")] == ["delivery failed"]
        willing.set()
        for row in rows:
            node.command("deliveries", "retry", str(row["id"]))
        assert pacs.wait_for(2, 30)
        node.wait_until(node.at_rest, "rest")
        assert [job["state"] for job in node.json("jobs")] == ["delivered"]
        again = node.command("deliveries", "retry", str(rows[0]["id"]), check=2)
        assert (
            again.stderr
            == f"delivery {rows[0]['id']} is accepted; only refused and dead ones are retried\n"
        )


@pytest.mark.feature("P24", "P36")
def test_a_pacs_that_stops_in_mid_delivery_ends_with_one_of_each(tmp_path: Path) -> None:
    second_came, stopped = threading.Event(), threading.Event()

    def answer(number: int) -> int:
        if number == 2:
            second_came.set()
            stopped.wait(30)
        return 0x0000 if number == 1 else 0xA700

    with (
        StandInPacs(tmp_path / "before", answer=answer) as before,
        NodeUnderTest(tmp_path / "node", routes_to(before.port)) as node,
    ):
        study = send_study(node, tmp_path / "ct", 5)
        assert second_came.wait(60), node.log.read_text()
        before.break_off()
        stopped.set()
        waits = "SELECT 1 FROM delivery WHERE state = 'waiting' AND attempt > 1"
        node.wait_until(lambda: node.rows(waits), "a second attempt failed")
        with StandInPacs(tmp_path / "after", port=before.port) as after:
            assert after.wait_for(1, 60), node.log.read_text()
            node.wait_until(node.at_rest, "rest")
            assert kinds_by_study([*headers(before), *headers(after)]) == {
                study: {"SEG": 1, "SR": 1}
            }
            assert [*before.files, *after.files] == in_order(node)


@pytest.mark.feature("P36")
def test_results_for_a_destination_that_was_taken_out_wait_for_its_return(tmp_path: Path) -> None:
    port = free_port()
    routes = routes_to(port)
    without = routes.partition("[[destinations]]")[0].replace('send_to = ["pacs"]', "send_to = []")
    with NodeUnderTest(tmp_path / "node", routes) as node:
        send_study(node, tmp_path / "ct", 6)
        node.wait_until(lambda: len(node.rows("SELECT 1 FROM delivery")) == 2, "results")
        assert node.stop() == 0
        node.write_settings(without)
        node.start()
        unnamed = "SELECT 1 FROM delivery WHERE state = 'waiting' AND reason LIKE '%settings%'"
        node.wait_until(lambda: len(node.rows(unnamed)) == 2, "the reason is told")
        (reason,) = {row["reason"] for row in node.json("deliveries")}
        assert reason == "the destination is no longer in the settings"
        assert node.stop() == 0
        node.write_settings(routes)
        with StandInPacs(tmp_path / "pacs", port=port) as pacs:
            node.start()
            assert pacs.wait_for(2, 30), node.log.read_text()
            node.wait_until(node.at_rest, "rest")
            assert list(pacs.files) == in_order(node)
