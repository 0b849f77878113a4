"""What could not be taken, and what is no longer as it was, on a real node."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.db import FILE_NAME
from tests.contract.wire import Wire
from tests.harness import NodeUnderTest
from tests.integration.looks import assert_chain_is_intact, events
from tests.raw import ct
from tests.storage_rows import tamper


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    with NodeUnderTest(tmp_path / "node") as node:
        yield node


def store(node: NodeUnderTest, data: bytes, uid: str) -> int:
    with Wire.associate(node.state.dicom[1]) as wire:
        status = wire.store(data, uid).status
        wire.release()
    return status


def states(node: NodeUnderTest) -> list[str]:
    return [row["state"] for row in node.rows("SELECT state FROM instance ORDER BY id")]


@pytest.mark.feature("P02", "P26", "P41")
def test_refused_bytes_are_listed_released_and_deleted(node: NodeUnderTest) -> None:
    assert store(node, ct(sop_instance="1.2.8"), "1.2.9") == 0xA900
    assert store(node, ct(sop_instance="1.2.7")[:-9], "1.2.7") == 0xC000
    broken, misnamed = node.json("quarantine", "list")
    assert (broken["status"], misnamed["status"]) == ("0xC000", "0xA900")
    assert {broken["calling_ae"], misnamed["calling_ae"]} == {"TESTER"}
    assert "ends inside an element" in broken["why"]
    table = node.command("quarantine", "list").stdout
    assert broken["digest"][:16] in table
    assert node.json("quarantine", "show", misnamed["digest"][:12]) == misnamed
    received = next(line for line in table.splitlines() if misnamed["digest"][:16] in line)
    for word in received.split()[1:3]:  # its date and time
        assert word in node.command("quarantine", "show", misnamed["digest"][:12]).stdout

    assert "It is stored." in node.command("quarantine", "release", misnamed["digest"]).stdout
    node.wait_until(lambda: states(node) == ["indexed"], "the released object's way")
    (row,) = node.rows("SELECT sop_instance_uid, digest, covered_by FROM instance")
    assert (row["sop_instance_uid"], row["digest"]) == ("1.2.8", misnamed["digest"])
    assert row["covered_by"]
    refusal = node.command("quarantine", "release", broken["digest"], check=1)
    assert "still not well-formed" in refusal.stdout
    assert [entry["digest"] for entry in node.json("quarantine", "list")] == [broken["digest"]]
    node.command("quarantine", "delete", broken["digest"][:8])
    assert node.json("quarantine", "list") == []
    assert "Nothing is in quarantine" in node.command("quarantine", "list").stdout
    assert list((node.data_dir / "quarantine").iterdir()) == []
    by_hand = [event for event in events(node) if event["action"].startswith("quarantine.")]
    actions = [event["action"].removeprefix("quarantine.") for event in by_hand]
    assert actions == ["released", "deleting", "deleted"]
    assert all(event["actor"].startswith("user:") for event in by_hand)
    assert_chain_is_intact(node)


def test_what_is_not_in_quarantine_is_said_to_be_so(node: NodeUnderTest) -> None:
    for name in ("", "0000000", "00000000", "../../etc", "instance:1", "instance:x"):
        assert node.command("quarantine", "show", name, check=2).stderr.count("\n") == 1


@pytest.mark.feature("P26")
def test_a_quarantined_instance_goes_through_the_node_again_or_loses_its_bytes(
    node: NodeUnderTest,
) -> None:
    assert store(node, ct(sop_instance="1.2.8"), "1.2.8") == 0
    node.wait_until(lambda: states(node) == ["indexed"], "indexing")
    other = ct(sop_instance="1.2.8", series="1.2.840.77")
    assert store(node, other, "1.2.8") == 0
    node.wait_until(lambda: states(node) == ["indexed", "quarantined"], "quarantine")
    (entry,) = node.json("quarantine", "list")
    assert entry["name"] == "instance:2"
    assert "not the one first received" in entry["why"]

    def quarantined() -> int:
        return len([event for event in events(node) if event["action"] == "instance.quarantined"])

    node.command("quarantine", "release", "instance:2")
    node.wait_until(lambda: quarantined() == 2, "a second judgement")
    assert states(node) == ["indexed", "quarantined"]
    node.command("quarantine", "delete", "instance:2")
    (entry,) = node.json("quarantine", "list")
    assert entry["file"] is None
    assert "file: deleted" in node.command("quarantine", "show", "instance:2").stdout
    refusal = node.command("quarantine", "release", "instance:2", check=2)
    assert "were deleted" in refusal.stderr
    (released,) = [event for event in events(node) if event["action"] == "instance.stored"]
    (deleted,) = [event for event in events(node) if event["action"] == "instance.deleted"]
    assert released["actor"] == deleted["actor"] != "node"
    assert states(node) == ["indexed", "quarantined"]


@pytest.mark.feature("F16", "F18", "P40")
def test_damage_shows_in_status_and_metrics_until_it_is_mended(node: NodeUnderTest) -> None:
    assert store(node, ct(sop_instance="1.2.8"), "1.2.8") == 0
    (row,) = node.wait_until(lambda: node.rows("SELECT object_key FROM instance"), "the row")
    node.stop()
    path = node.data_dir / "objects" / row["object_key"]
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"\xff")
    # The last round was long ago.
    tamper(node.data_dir, ("DELETE FROM node_fact WHERE key = 'scrub.place'", ()))
    node.start()
    sentence = "1 stored object is damaged"
    node.wait_until(lambda: sentence in node.command("status").stdout, "the finding")
    assert node.get("/health/ready")[0] == 200  # it takes what comes all the same
    assert 'medai_scrub_findings{kind="damaged"} 1.0' in node.get("/metrics")[1]
    assert [event["object"] for event in events(node) if event["action"] == "object.damaged"] == [
        "instance:1"
    ]
    node.stop()
    path.write_bytes(before)
    node.start()
    node.wait_until(lambda: sentence not in node.command("status").stdout, "its end")


@pytest.mark.feature("P40", "P41", "F18")
def test_a_locked_database_is_said_by_status_and_health(node: NodeUnderTest) -> None:
    with closing(sqlite3.connect(node.data_dir / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sentence = "another program has the database locked"
        assert sentence in node.get("/health/ready")[1]
        assert sentence in node.command("status").stdout
        other.execute("ROLLBACK")
    node.wait_until(lambda: node.get("/health/ready")[0] == 200, "health")
    assert store(node, ct(), "1.2.3.4") == 0


def test_a_data_folder_that_was_away_is_taken_up_again(node: NodeUnderTest) -> None:
    away = node.folder / "away"
    web, port = node.state.web, node.state.dicom[1]
    assert web is not None
    node.data_dir.rename(away)
    with Wire.associate(port) as wire:
        assert wire.rejected == (2, 3, 1)
    away.rename(node.data_dir)
    assert store(node, ct(), "1.2.3.4") == 0
    node.wait_until(lambda: states(node) == ["indexed"], "the way of what came after")
    assert node.get("/health/ready")[0] == 200
