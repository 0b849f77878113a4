"""``medai-node demo``: the whole way on one machine, with a stand-in PACS."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.errors import MedAIError
from dicomnode.cli.common import complain, say

if TYPE_CHECKING:
    from dicomnode.net.standin import StandInPacs
    from dicomnode.state import NodeState

RESULT_SECONDS = 120.0

SETTINGS = """\
[node]
port = 0
receivers = 1
data_dir = "node"
drain_seconds = 1

[storage]
min_free = 0

[series]
quiet_seconds = 1

[web]
port = 0

[[routes]]
name = "CT tissue"
when = {{ Modality = "CT", slices = {{ min = 10 }} }}
model = "ct-tissue"
send_to = ["pacs"]

[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}
"""


class DemoError(MedAIError):
    """The demo did not come to its end."""


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the node's data folder and the sample too.")
    ] = False,
) -> None:
    """Start a node and a stand-in PACS, send a sample study, show what came back."""
    from dicomnode.net.standin import StandInPacs  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(prefix="medai-demo-"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="medai-demo-node-") as scratch:
        work = folder if keep else Path(scratch)
        with StandInPacs(folder / "pacs") as pacs:
            settings = work / "medai_node.toml"
            settings.write_text(SETTINGS.format(ae_title=pacs.ae_title, port=pacs.port))
            with _node(settings, work / "node") as state:
                _send_sample(state, work / "sample")
                _show_results(pacs, work / "node", work / "sample", folder)
        _show_audit(work / "node")
    say(f"Done in {time.monotonic() - started:.0f} s. The results stay in {folder}")


@contextmanager
def _node(settings: Path, data_dir: Path) -> Iterator[NodeState]:
    from dicomnode.state import node_state  # noqa: PLC0415

    command = [sys.executable, "-m", "dicomnode", "run", "--config", str(settings)]
    with (settings.parent / "node.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603 - our own program
    try:
        line = process.stdout.readline() if process.stdout else ""
        state = node_state(data_dir)
        if not line or state is None:
            complain((settings.parent / "node.log").read_text())
            raise DemoError("the node did not start")
        say(f"Node started: {state.ae_title} on {state.dicom[0]}:{state.dicom[1]}")
        yield state
    finally:
        process.terminate()
        process.communicate()


def _send_sample(state: NodeState, folder: Path) -> None:
    from dicomnode.net.scu import Peer, send  # noqa: PLC0415
    from dicomnode.sample import write_sample_study  # noqa: PLC0415

    paths = write_sample_study(folder)
    answers = send(paths, Peer(state.ae_title, state.dicom[0], state.dicom[1], "DEMO"))
    refused = [answer for answer in answers if not answer.accepted]
    if refused:
        raise DemoError(f"{len(refused)} of {len(answers)} images were not taken")
    say(f"Sent a synthetic CT series of {len(paths)} images by C-STORE; all were taken.")


def _wait_for_results(pacs: StandInPacs, data_dir: Path) -> None:
    """Wait for an SR and a SEG; end early when the node says why they will not come."""
    from storage.db import open_ledger  # noqa: PLC0415
    from storage.records import Job, Series  # noqa: PLC0415

    ledger = open_ledger(data_dir)
    patience = time.monotonic() + RESULT_SECONDS
    while not pacs.wait_for(2, 1.0):
        ended = [
            *Job.select().where(Job.state == "failed"),
            *Series.select().where(Series.state == "skipped"),
        ]
        if ended:
            raise DemoError(f"no result came back: {ended[0].reason}")
        if time.monotonic() > patience:
            raise DemoError(f"only {len(pacs.files)} of 2 results came back")
    ledger.close()


def _show_results(pacs: StandInPacs, data_dir: Path, sample: Path, folder: Path) -> None:
    from pydicom import dcmread  # noqa: PLC0415

    from dicomnode.results.reading import describe  # noqa: PLC0415
    from dicomnode.results.received import answer_of  # noqa: PLC0415
    from dicomnode.results.rendering import annotated_picture  # noqa: PLC0415
    from dicomnode.series.volume import load_series  # noqa: PLC0415

    _wait_for_results(pacs, data_dir)
    received = {}
    for path in pacs.files.values():
        dataset = dcmread(path)
        received[str(dataset.Modality)] = (path, dataset)
    if set(received) != {"SEG", "SR"}:
        raise DemoError(f"SEG and SR were to come back, not {' and '.join(sorted(received))}")
    for modality, (path, dataset) in sorted(received.items()):
        named = path.rename(folder / f"{modality.lower()}.dcm")
        say(f"The stand-in PACS received a {modality} ({dataset.SOPClassUID.name}): {named}")
    say("\nWhat the report says:")
    for line in describe(received["SR"][1]):
        say(f"  {line}")
    series = load_series(sorted(sample.rglob("*.dcm")))
    answer = answer_of(received["SEG"][1], series.volume, series.headers)
    picture = folder / "annotated.png"
    caption = str(received["SEG"][1].SeriesDescription)
    drawn = annotated_picture(series.volume, answer, series.headers, caption)
    picture.write_bytes(drawn)
    say(f"\nThe segmentation as received, drawn over the images: {picture}")


def _show_audit(data_dir: Path) -> None:
    from storage import audit_check  # noqa: PLC0415
    from storage.db import open_ledger  # noqa: PLC0415

    ledger = open_ledger(data_dir)
    verdict = audit_check.verify(data_dir)
    ledger.close()
    if not verdict.intact:
        raise DemoError(f"the audit chain is broken: {verdict.first_break}")
    say(f"The audit chain is intact: {verdict.events} events.")
