"""A node that is started while its disk refuses: it comes up, says so, and goes on by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.test_faults import locked, unwritable
from tests.contract.wire import Wire
from tests.harness import NodeUnderTest
from tests.raw import ct

UIDS = [f"1.{number}" for number in range(3)]


@pytest.mark.feature("P02", "P40", "P43")
def test_a_node_starts_though_it_cannot_finish_what_was_acknowledged_before(tmp_path: Path) -> None:
    with NodeUnderTest(tmp_path) as node:
        with Wire.associate(node.state.dicom[1]) as wire, locked(node.data_dir):
            assert [wire.store(ct(sop_instance=uid), uid).status for uid in UIDS] == [0, 0, 0]
            node.kill()
        with unwritable(node.data_dir):
            state = node.start()
            assert "the data folder may not be written" in state.waits
            assert "worker" not in state.processes
            code, said = node.get("/health/ready")
            assert code == 503
            assert node.json("status")["problems"] == json.loads(said)["problems"]
            assert "what was begun before the start is not finished" in said
            with Wire.associate(state.dicom[1]) as wire:
                assert wire.store(ct(sop_instance="1.9"), "1.9").status == 0xA700
                wire.release()
        node.wait_until(lambda: node.get("/health/ready")[0] == 200, "the end of the recovery")
        assert "worker" in node.state.processes
        with Wire.associate(node.state.dicom[1]) as wire:
            assert wire.store(ct(sop_instance="1.9"), "1.9").status == 0
            wire.release()
        node.wait_until(node.at_rest, "rest")
        kept = node.rows("SELECT sop_instance_uid AS uid, state FROM instance ORDER BY uid")
        assert kept == [{"uid": uid, "state": "indexed"} for uid in [*UIDS, "1.9"]]
