"""The whole life of a model on one running node, seen in what the PACS got and in the audit chain.

Nothing is restarted: shadow and canary stand in the settings from the beginning and act as soon as
a version is in validation.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from config.schema import RouteSettings
from dicomnode.cli import main
from dicomnode.net.standin import StandInPacs
from dicomnode.series.split import on_canary_side
from tests import factories
from tests.harness import NodeUnderTest
from tests.integration.looks import assert_chain_is_intact, events, headers, send_all
from tests.model_versions import new_version

NAME, V1, V2 = "ct-tissue", "ct-tissue@1.0.0", "ct-tissue@2.0.0"
ROUTE = """\
[models]
path = "models"

[[routes]]
name = "CT"
when = {{ Modality = "CT" }}
model = "ct-tissue"
canary = 50
shadow = true
send_to = ["pacs"]

[[destinations]]
name = "pacs"
ae_title = "STANDIN"
host = "127.0.0.1"
port = {port}
results = ["sr", "seg"]
"""
CANARY = RouteSettings(name="CT", when={}, model=NAME, canary=50)

Medai = Callable[..., str]


class Site:
    """The node, its PACS, and studies that are sent to it."""

    def __init__(self, node: NodeUnderTest, pacs: StandInPacs, medai: Medai) -> None:
        self.node, self.pacs, self.medai = node, pacs, medai
        self._seeds = iter(range(1000))

    def study(self, canary: bool | None = None) -> list[Dataset]:
        """A CT whose study lies on that side, on either without one being asked for."""
        for seed in self._seeds:
            images = factories.ct_series(12, seed=seed)
            if canary in (None, on_canary_side(CANARY, str(images[0].StudyInstanceUID))):
                return images
        raise AssertionError("a thousand studies were not enough")

    def send(self, canary: bool | None = None) -> str:
        """Send one study; gives its UID."""
        images = self.study(canary)
        uid = str(images[0].StudyInstanceUID)
        send_all(self.node, factories.write(images, self.node.folder / "sent" / uid))
        return uid

    def analysed(self, canary: bool | None = None) -> str:
        """Send one study and wait until nothing is left to do for it; gives its UID."""
        uid = self.send(canary)
        self.rest(uid)
        return uid

    def rest(self, uid: str) -> None:
        self.node.wait_until(lambda: self.jobs(uid) and self.node.at_rest(), "rest")

    def jobs(self, uid: str) -> list[dict[str, Any]]:
        return self.node.rows("SELECT * FROM job WHERE study_instance_uid = ? ORDER BY id", uid)

    def ran(self, uid: str) -> list[tuple[str, str, str]]:
        return [(job["model"], job["mode"], job["state"]) for job in self.jobs(uid)]

    def versions_at_pacs(self, uid: str) -> dict[str, tuple[str, str]]:
        """Version and Device UID of the algorithm in each result of a study, by modality."""
        found = {}
        for result in headers(self.pacs):
            if result.StudyInstanceUID == uid:
                algorithm = result.ContributingEquipmentSequence[0]
                assert result.Modality not in found
                found[result.Modality] = (algorithm.SoftwareVersions, algorithm.DeviceUID)
        return found

    def versions(self, uid: str) -> set[str]:
        found = self.versions_at_pacs(uid)
        assert found.keys() == {"SR", "SEG"}
        return {version for version, _ in found.values()}


@pytest.fixture
def medai(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medai:
    """The command line inside the test's own process, beside the node's."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["medai-node", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert not ended.value.code, told.out + told.err
        return told.out

    return run


@pytest.fixture
def site(tmp_path: Path, medai: Medai) -> Iterator[Site]:
    with (
        StandInPacs(tmp_path / "pacs") as pacs,
        NodeUnderTest(tmp_path / "node", ROUTE.format(port=pacs.port), quiet=0.2) as node,
    ):

        def command(*arguments: object) -> str:
            return medai(*arguments, "--config", node.config)

        yield Site(node, pacs, command)


@pytest.mark.feature("F06", "F15", "P48")
def test_a_model_is_introduced_watched_replaced_and_rolled_back(site: Site, tmp_path: Path) -> None:
    node, medai = site.node, site.medai
    processes = node.state.pids

    # v1 is in production, and nothing else is there.
    first = site.analysed(canary=True)
    assert site.ran(first) == [(V1, "live", "ready")]
    assert site.versions(first) == {"1.0.0"}

    # v2 is added: it is in development, whatever its manifest says, and answers nobody.
    folder = new_version(tmp_path / "source", "2.0.0", status="production").folder
    medai("models", "add", shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    added = site.analysed(canary=True)
    assert site.ran(added) == [(V1, "live", "ready")]

    # In validation it answers the canary's side, and runs in shadow beside v1 on the other.
    medai("models", "promote", V2)
    canary, other = site.analysed(canary=True), site.analysed(canary=False)
    assert site.ran(canary) == [(V2, "live", "ready")]
    assert site.versions(canary) == {"2.0.0"}
    assert sorted(site.ran(other)) == [(V1, "live", "ready"), (V2, "shadow", "ready")]
    assert site.versions(other) == {"1.0.0"}
    (shadow,) = [job for job in site.jobs(other) if job["mode"] == "shadow"]
    kept = node.rows("SELECT * FROM result WHERE job_id = ?", shadow["id"])
    assert {row["kind"] for row in kept} == {"sr", "seg"}
    assert not {row["sop_instance_uid"] for row in kept} & set(site.pacs.files)
    written = dcmread(node.data_dir / "objects" / kept[0]["object_key"])
    assert written.ContributingEquipmentSequence[0].SoftwareVersions == "2.0.0"

    # The Device UID follows the model's bytes (IHE AIR), and is the same for all of its results.
    devices = {uid: site.versions_at_pacs(uid) for uid in (first, canary, other)}
    of_v1 = {device for _, device in (*devices[first].values(), *devices[other].values())}
    of_v2 = {device for _, device in devices[canary].values()}
    assert (len(of_v1), len(of_v2)) == (1, 1)
    assert of_v1 != of_v2

    # The shadow run is held against the live one.
    compared = json.loads(medai("models", "compare", V1, V2, "--json"))
    assert compared["agreement"]["pairs"] == compared["agreement"]["segmentations"] == 1
    assert compared["agreement"]["same_findings"] == 1.0
    assert {dice for dice in compared["agreement"]["dice"].values() if dice is not None} == {1.0}
    assert [side["jobs"] for side in compared["sides"]] == [
        {"live": {"ready": 3}},
        {"live": {"ready": 1}, "shadow": {"ready": 1}},
    ]
    assert "Inputs that both answered: 1\n" in medai("models", "compare", V1, V2)

    # In production it answers everybody, and nothing runs beside it.
    medai("models", "promote", V2)
    for side in (True, False):
        assert site.ran(uid := site.analysed(side)) == [(V2, "live", "ready")]
        assert site.versions(uid) == {"2.0.0"}
    listed = {row["model"]: row for row in json.loads(medai("models", "list", "--json"))}
    assert (listed[V1]["serves"], listed[V2]["serves"]) == (False, True)
    assert listed[V2]["routes"] == ["CT"]
    assert listed[V2]["provider"] == "CPUExecutionProvider"
    assert listed[V2]["runs"] == 4
    assert listed[V2]["p50_seconds"] > 0

    # What was queued for v2 keeps it over a rollback; what comes later goes to v1.
    medai("pause")
    queued = site.send()
    node.wait_until(lambda: site.jobs(queued), "it is queued")
    assert medai("models", "rollback", NAME) == f"{V1} serves again; {V2} is in development.\n"
    medai("resume")
    site.rest(queued)
    assert site.ran(queued) == [(V2, "live", "ready")]
    assert site.versions(queued) == {"2.0.0"}
    assert site.ran(back := site.analysed(canary=True)) == [(V1, "live", "ready")]
    assert site.versions(back) == {"1.0.0"}

    # Retired, what waits for it is cancelled and says why.
    medai("models", "promote", V2, "--to", "production")
    medai("pause")
    waiting = site.send()
    node.wait_until(lambda: site.jobs(waiting), "it is queued")
    assert site.ran(waiting) == [(V2, "live", "queued")]
    told = medai("models", "retire", V2)
    assert f"cancelled: {site.jobs(waiting)[0]['id']}\n" in told
    medai("resume")
    assert site.ran(waiting) == [(V2, "live", "cancelled")]
    assert site.jobs(waiting)[0]["reason"] == f"{V2} was retired"
    assert site.versions(site.analysed(canary=True)) == {"1.0.0"}
    assert site.versions_at_pacs(waiting) == {}

    assert node.state.pids == processes
    assert_chain_is_intact(node)
    steps = [event for event in events(node) if event["object"] == f"model:{V2}"]
    assert [event["action"].partition(".")[2] for event in steps] == [
        *("added", "validation", "production", "development", "production", "retired")
    ]
    assert all(event["actor"].startswith("user:") for event in steps)
    assert {event["detail"]["digest"] for event in steps} == {listed[V2]["digest"]}
    modes = {event["detail"]["mode"] for event in events(node) if event["action"] == "job.queued"}
    assert modes == {"live", "shadow"}
