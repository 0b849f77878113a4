"""Senders of others against the node's receivers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.bench.intaking.images import Shape, write_files
from tests.harness import NodeUnderTest
from tests.interop.programs import dcmsend


@pytest.mark.tools
@pytest.mark.feature("P03", "P04")
@pytest.mark.parametrize("no_delay", [True, False])
def test_dcmsend_stores_everything_as_it_sent_it(tmp_path: Path, no_delay: bool) -> None:
    folders = write_files(tmp_path / "files", Shape(12, 64, 64), 2)
    with NodeUnderTest(tmp_path / "node", receivers=2) as node:
        dcmsend(node.state.dicom[1], *folders, no_delay=no_delay)
        node.wait_until(lambda: count(node) == 12, "twelve rows")
        assert data_sets((node.data_dir / "objects").rglob("*.dcm")) == data_sets(
            path for folder in folders for path in folder.iterdir()
        )


def count(node: NodeUnderTest) -> int:
    """How many instances the node knows."""
    (row,) = node.rows("SELECT count(*) AS instances FROM instance")
    return int(row["instances"])


def data_sets(paths: Iterable[Path]) -> dict[str, Dataset]:
    """By SOP Instance UID, without the group length that `dcmsend` writes anew."""
    found = {}
    for path in paths:
        data = dcmread(path)
        del data[0x00080000]
        found[data.SOPInstanceUID] = Dataset(data)
    return found
