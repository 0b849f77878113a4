"""A model is watched on a running node: its inputs change, and those on call hear of it once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicomnode.net.standin import StandInPacs
from tests import factories
from tests.alert_servers import WebhookServer
from tests.assessments import AGREE, assessment, said
from tests.harness import NodeUnderTest, routes_to
from tests.integration.looks import assert_chain_is_intact, send_all

MODEL = "xr-quality@1.0.0"
WATCH = """\
[watch]
scores = 10
fewest_scores = 8

[alerts]
every_seconds = 0.2

[[alerts.webhooks]]
name = "on call"
url = "{url}"
"""
RUNS = "SELECT count(*) AS n FROM run"


@dataclass
class Watched:
    """A node whose alerts go to a web server that is not ready at first."""

    node: NodeUnderTest
    pacs: StandInPacs
    server: WebhookServer
    folder: Path

    def send(self, images: list[Dataset], name: str, runs: int) -> None:
        """Send images, and wait until so many runs were recorded in all."""
        send_all(self.node, factories.write(images, self.folder / name))
        self.node.wait_until(lambda: self.node.rows(RUNS)[0]["n"] >= runs, f"run {runs}")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watch")
    with WebhookServer(503) as server, StandInPacs(folder / "pacs") as pacs:
        more = routes_to(pacs.port) + WATCH.format(url=server.url)
        with NodeUnderTest(folder / "node", more) as node:
            yield Watched(node, pacs, server, folder)


def radiographs(first: int, count: int, *, faint: bool = False) -> list[Dataset]:
    """Radiographs, of the faint ones the grey values lie close together."""
    images = [factories.cr_image(seed=first + number) for number in range(count)]
    for image in images if faint else ():
        pixels = np.frombuffer(image.PixelData, np.uint16)
        image.PixelData = (pixels // 8 + 1500).astype(np.uint16).tobytes()
    return images


@pytest.mark.feature("P47", "F15", "F18", "P30")
def test_inputs_that_change_raise_an_alert_and_a_webhook_gets_it_once(watched: Watched) -> None:
    node, server = watched.node, watched.server
    watched.send(radiographs(0, 10), "usual", 10)
    node.wait_until(lambda: node.rows("SELECT * FROM baseline"), "a baseline")
    assert node.rows("SELECT * FROM alert") == []
    watched.send(radiographs(200, 8, faint=True), "faint", 18)
    node.wait_until(lambda: server.taken, "an alert at the webhook")
    (told,) = server.taken
    assert (told["alert"], told["subject"], told["state"]) == ("drift", MODEL, "raised")
    assert told["value"] > told["threshold"] == 0.25
    assert len(server.heard) == 2  # the server was not ready at first
    since = time.time()
    watched.send(radiographs(300, 1, faint=True), "one more", 19)
    again = "SELECT * FROM drift WHERE computed_at > ?"
    node.wait_until(lambda: node.rows(again, since), "another look")
    assert len(server.taken) == 1
    assert [row["state"] for row in node.rows("SELECT state FROM notice")] == ["sent"]

    (alert,) = json.loads(node.get("/health")[1])["alerts"]
    assert (alert["rule"], alert["subject"]) == ("drift", MODEL)
    assert node.get("/health/ready")[0] == 200
    assert f'medai_alerts{{rule="drift",subject="{MODEL}"}} 1.0' in node.get("/metrics")[1]
    assert_chain_is_intact(node)


@pytest.mark.feature("P44", "P46")
def test_a_report_that_comes_back_by_c_store_counts_as_feedback(watched: Watched) -> None:
    node = watched.node
    node.wait_until(node.at_rest, "rest")
    path = next(iter(watched.pacs.files.values()))
    document = assessment([dcmread(path)], said(AGREE))
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    send_all(node, factories.write([document], watched.folder / "back"))
    node.wait_until(lambda: node.rows("SELECT * FROM feedback"), "feedback")
    (figures,) = node.json("models", "figures", MODEL)
    assert (figures["counts"]["runs"], figures["counts"]["accept"]) == (19, 1)
    assert {"queue", "decode", "run", "encode", "prove", "deliver"} <= figures["seconds"].keys()
