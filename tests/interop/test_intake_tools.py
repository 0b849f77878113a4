"""Senders of others against the receiver, with the benchmark's own set-up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicomnode.net.scu import Peer, echo
from storage.db import open_ledger
from tests.bench.intake import make_files, node, send

ROOT = Path(__file__).parents[2]


@pytest.mark.tools
@pytest.mark.feature("P03", "P04")
@pytest.mark.parametrize("no_delay", [True, False])
def test_dcmsend_stores_everything_as_it_sent_it(tmp_path: Path, no_delay: bool) -> None:
    folders = make_files(tmp_path / "files", 12, 64, 64, 2)
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    with node(data_dir, no_delay) as (port, _):
        assert echo(Peer("BENCH", "127.0.0.1", port)) == 0
        send(folders, port, no_delay)
    sent = data_sets(path for folder in folders for path in folder.iterdir())
    assert data_sets((data_dir / "objects").rglob("*.dcm")) == sent
    ledger = open_ledger(data_dir)
    assert ledger.database.execute_sql("SELECT count(*) FROM instance").fetchone() == (12,)
    ledger.close()


def data_sets(paths: Iterable[Path]) -> dict[str, Dataset]:
    """By SOP Instance UID, without the group length that `dcmsend` writes anew."""
    found = {}
    for path in paths:
        data = dcmread(path)
        del data[0x00080000]
        found[data.SOPInstanceUID] = Dataset(data)
    return found


@pytest.mark.tools
@pytest.mark.feature("F30")
def test_the_benchmark_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.intake", "--smoke", "--work", str(tmp_path)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the node with Nagle takes" in done.stdout
