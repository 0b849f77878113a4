"""What the integration tests share: a stand-in PACS, and a node that sends to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.net.standin import StandInPacs
from tests.harness import NodeUnderTest, routes_to


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StandInPacs]:
    with StandInPacs(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture
def node(tmp_path: Path, pacs: StandInPacs) -> Iterator[NodeUnderTest]:
    with NodeUnderTest(tmp_path / "node", routes_to(pacs.port)) as node:
        yield node
