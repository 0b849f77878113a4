"""A late slice, on a whole node: what the PACS gets in place of what it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from dicomnode.net.standin import StandInPacs
from tests import factories
from tests.harness import NodeUnderTest, routes_to
from tests.integration.looks import assert_chain_is_intact, headers, send_all


@pytest.mark.feature("P24", "P36")
def test_a_late_slice_replaces_and_withdraws_what_was_sent(tmp_path: Path) -> None:
    paths = factories.write(factories.ct_series(13, rows=32, columns=32, seed=8), tmp_path / "ct")
    with StandInPacs(tmp_path / "pacs", refuses=[Comprehensive3DSRStorage]) as pacs:
        destination = 'name = "pacs"\n'
        routes = routes_to(pacs.port)
        assert destination in routes
        routes = routes.replace(destination, f'{destination}withdraw = "iocm"\n')
        with NodeUnderTest(tmp_path / "node", routes) as node:
            send_all(node, paths[:12])
            assert pacs.wait_for(2, 60), node.log.read_text()
            node.wait_until(node.at_rest, "rest")
            send_all(node, paths[12:])
            assert pacs.wait_for(5, 60), node.log.read_text()
            node.wait_until(node.at_rest, "rest")
            _, first, _, second, note = headers(pacs)
            deliveries = node.json("deliveries")
            assert_chain_is_intact(node)
    # The report fell back to what the PACS takes, in the second bundle too.
    assert {first.SOPClassUID, second.SOPClassUID} == {ComprehensiveSRStorage}
    assert {row["fell_back"] for row in deliveries if row["wanted"] == "sr"} == {
        "sr: the destination accepts no presentation context for it"
    }
    (study,) = second.PredecessorDocumentsSequence
    before = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert before.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    named = {
        entry.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for entry in series.ReferencedSOPSequence
    }
    assert first.SOPInstanceUID in named
    assert second.SOPInstanceUID not in named
    assert len(named) == 2
