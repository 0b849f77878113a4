"""The main job on one node: images in by C-STORE, proved results out, and the truth about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode.net.standin import StandInPacs
from dicomnode.sample import write_sample_radiograph, write_sample_study
from tests import factories
from tests.harness import NodeUnderTest, medai_node, routes_to
from tests.integration.looks import (
    assert_chain_is_intact,
    data_set_digest,
    events,
    headers,
    kinds_by_study,
    send_all,
    uid_of,
)

SAMPLE_IDENTIFIERS = ("SAMPLE^SYNTHETIC", "SAMPLE-0001", "SYNTHETIC", "SAMPLE01")


@dataclass
class Run:
    """One whole run: what was sent and to whom; the node is at rest."""

    node: NodeUnderTest
    pacs: StandInPacs
    ct: list[Path]
    cr: Path
    mr: list[Path]
    us: Path

    @property
    def sent(self) -> list[Path]:
        return [*self.ct, self.cr, *self.mr, self.us]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("main")
    ct = write_sample_study(folder / "ct")
    (cr,) = write_sample_radiograph(folder / "cr")
    mr = factories.write(factories.mr_series(12, seed=3), folder / "mr")
    us = factories.write(factories.us_image(seed=4), folder / "us")[0]
    with (
        StandInPacs(folder / "pacs") as pacs,
        NodeUnderTest(folder / "node", routes_to(pacs.port)) as node,
    ):
        for paths in (ct, [cr], mr, [us]):
            send_all(node, paths)
        assert pacs.wait_for(3, 90), node.log.read_text()
        node.wait_until(node.at_rest, "rest")
        yield Run(node, pacs, ct, cr, mr, us)


@pytest.mark.feature("P06", "P08", "P19", "P24")
def test_each_study_has_exactly_its_results_at_the_pacs(run: Run) -> None:
    assert kinds_by_study(headers(run.pacs)) == {
        uid_of(run.ct[0], "StudyInstanceUID"): {"SEG": 1, "SR": 1},
        uid_of(run.cr, "StudyInstanceUID"): {"SR": 1},
    }
    assert len(run.pacs.stores) == len(set(run.pacs.stores)) == 3


@pytest.mark.feature("P03", "P04", "P05")
def test_what_was_received_is_kept_byte_for_byte(run: Run) -> None:
    rows = run.node.rows("SELECT sop_instance_uid, digest, object_key FROM instance")
    kept = {row["sop_instance_uid"]: row for row in rows}
    assert len(rows) == len(kept) == len(run.sent)
    for path in run.sent:
        row = kept[uid_of(path, "SOPInstanceUID")]
        stored = run.node.data_dir / "objects" / row["object_key"]
        assert data_set_digest(stored) == row["digest"] == data_set_digest(path)


@pytest.mark.feature("P06")
def test_a_series_without_a_rule_is_skipped_with_its_reason(run: Run) -> None:
    shown = {
        series["modality"]: series
        for study in run.node.json("studies")
        for series in study["series"]
    }
    for modality in ("MR", "US"):
        assert shown[modality]["state"] == "skipped"
        assert shown[modality]["reason"] == "No model: no rule asks for it."
    assert shown["CT"]["state"] == shown["CR"]["state"] == "routed"
    explained = run.node.command("explain", str(run.mr[0].parent)).stdout
    assert "no rule asks for it" in explained
    assert "Modality" in explained


@pytest.mark.feature("P29", "P31", "P44")
def test_commands_show_what_was_done(run: Run) -> None:
    status = run.node.json("status")
    assert status["running"]
    assert status["problems"] == []
    assert status["counts"] == {
        "instance": {"indexed": len(run.sent)},
        "series": {"routed": 2, "skipped": 2},
        "study": status["counts"]["study"],
        "job": {"ready": 2},
        "delivery": {"accepted": 3},
    }
    jobs = {job["model"].partition("@")[0]: job for job in run.node.json("jobs")}
    assert {name: job["state"] for name, job in jobs.items()} == {
        "ct-tissue": "delivered",
        "xr-quality": "delivered",
    }
    shown = run.node.json("jobs", "show", str(jobs["ct-tissue"]["id"]))
    sent = [result for result in shown["results"] if result["deliveries"]]
    assert [result["kind"] for result in sent] == ["seg", "sr"]
    assert {result["sop_instance_uid"] for result in sent} <= set(run.pacs.files)
    assert shown["seconds"].keys() == {
        *("queue", "decode", "content", "preprocess", "run", "postprocess", "encode", "prove")
    }
    assert list(dict.fromkeys(stage["stage"] for stage in shown["stages"])) == [
        *("received", "complete", "queued", "routed", "running", "validating", "ready"),
        *("delivering", "delivered"),
    ]
    deliveries = run.node.json("deliveries")
    assert {row["sop_instance_uid"] for row in deliveries} == set(run.pacs.files)
    assert {(row["state"], row["status"]) for row in deliveries} == {("accepted", 0)}
    for command in (("status",), ("studies",), ("jobs",), ("deliveries",), ("jobs", "show", "1")):
        assert run.node.command(*command).stdout


def test_health_and_metrics_tell_the_same(run: Run) -> None:
    assert run.node.get("/health/live")[0] == 200
    assert run.node.get("/health/ready") == (200, '{"status":"ready"}')
    status, text = run.node.get("/metrics")
    assert status == 200
    lines = text.splitlines()
    assert f'medai_instance_rows{{state="indexed"}} {len(run.sent)}.0' in lines
    assert 'medai_delivery_rows{state="accepted"} 3.0' in lines
    assert 'medai_process_restarts_total{process="worker"} 0.0' in lines


@pytest.mark.feature("P26", "P29")
def test_the_audit_chain_holds_an_event_for_every_arrow(run: Run) -> None:
    assert_chain_is_intact(run.node)
    seen = events(run.node)
    series_uid = uid_of(run.ct[0], "SeriesInstanceUID")
    (job,) = run.node.rows("SELECT id FROM job WHERE series_instance_uid = ?", series_uid)
    deliveries = run.node.rows(
        "SELECT delivery.id FROM delivery JOIN result ON result.id = result_id WHERE job_id = ?",
        job["id"],
    )
    own = {f"series:{series_uid}", f"job:{job['id']}"}
    first_result = f"delivery:{deliveries[0]['id']}"
    actions = [event["action"] for event in seen if event["object"] in own | {first_result}]
    assert actions == [
        "instances.received",
        "series.complete",
        "job.queued",
        "series.routed",
        "job.running",
        "job.validating",
        "delivery.waiting",
        "job.ready",
        "delivery.sending",
        "delivery.accepted",
    ]
    received = next(event for event in seen if event["action"] == "instances.received")
    assert received["detail"]["count"] == len(run.ct)


@pytest.mark.feature("P40")
def test_no_identifier_of_the_patient_leaves_the_objects(run: Run) -> None:
    told = {
        "log": run.node.log.read_text(),
        "metrics": run.node.get("/metrics")[1],
        "audit": run.node.command("audit", "export").stdout,
        "health": run.node.get("/health/ready")[1],
    }
    found = [(where, word) for where in told for word in SAMPLE_IDENTIFIERS if word in told[where]]
    assert not found
    uids = [uid_of(path, "SOPInstanceUID") for path in run.sent]
    assert not [uid for uid in uids if uid in told["log"] or uid in told["metrics"]]


@pytest.mark.feature("P40", "P41")
def test_no_identifier_of_the_patient_is_in_a_complaint(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for number, path in enumerate(run.ct[:12]):
        content = path.read_bytes()
        (broken / f"{number}.dcm").write_bytes(content[: len(content) // 2])
    commands = (
        ("explain", str(broken)),
        ("infer", str(broken), "--model", "ct-tissue", "--output", str(tmp_path / "out")),
        ("validate", str(broken)),
        ("send", str(broken), "--to", str(run.node.peer)),
    )
    for command in commands:
        done = medai_node(*command, check=None)
        told = done.stdout + done.stderr
        assert "Traceback" not in told
        assert not [word for word in SAMPLE_IDENTIFIERS if word in told], command[0]
    assert not [word for word in SAMPLE_IDENTIFIERS if word in run.node.log.read_text()]


# Sends objects into the shared node: stays behind the tests that count what it holds.
@pytest.mark.feature("P06")
def test_results_sent_back_start_nothing(run: Run) -> None:
    before = run.node.rows("SELECT id, state FROM job")
    stores = len(run.pacs.stores)
    send_all(run.node, list(run.pacs.files.values()))
    run.node.wait_until(
        lambda: (
            len(run.node.rows("SELECT 1 FROM series WHERE state = 'skipped'")) == 5
            and run.node.at_rest()
        ),
        "the results' series were judged",
    )
    assert run.node.rows("SELECT id, state FROM job") == before
    assert len(run.pacs.stores) == stores
    back = run.node.rows("SELECT reason, explanation FROM series WHERE modality IN ('SR', 'SEG')")
    assert len(back) == 3
    for series in back:
        assert "it holds results of this node" in series["reason"]
        assert "own-result" in json.dumps(json.loads(series["explanation"]))


def test_the_demo_shows_the_whole_way() -> None:
    done = medai_node("demo")
    lines = done.stdout.splitlines()
    folder = Path(lines[-1].rpartition(" stay in ")[2])
    assert {path.name for path in folder.iterdir()} >= {"seg.dcm", "sr.dcm", "annotated.png"}
    assert (folder / "annotated.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for name in ("seg.dcm", "sr.dcm", "annotated.png"):
        assert str(folder / name) in done.stdout
    assert any(line.startswith("The audit chain is intact") for line in lines)
    assert medai_node("validate", str(folder / "sr.dcm"), str(folder / "seg.dcm")).returncode == 0
