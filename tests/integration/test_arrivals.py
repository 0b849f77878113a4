"""Ways in which studies arrive over the network, on one whole node with a PACS behind it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from dicomnode.net.contexts import PROCEDURE_STEP
from dicomnode.net.scu import Link, Peer, contexts_for, file_facts, open_association_to
from dicomnode.net.standin import StandInPacs
from dicomnode.results.withdrawal import rejected_by
from tests import factories
from tests.harness import NodeUnderTest, routes_to
from tests.integration.looks import assert_chain_is_intact, headers, send_all
from tests.sources import Matches, match, source

PEERS = """
[[peers]]
ae_title = "CT1"
hosts = ["127.0.0.1"]
may = ["store", "mpps"]

[[peers]]
ae_title = "CT2"
hosts = ["127.0.0.1"]
query = {{ ae_title = "ARCHIVE", host = "127.0.0.1", port = {port} }}

[[peers]]
ae_title = "*"
hosts = ["127.0.0.1"]
"""

ACCEPTED = (
    "SELECT count(*) AS objects FROM delivery JOIN result ON result.id = result_id"
    " JOIN job ON job.id = job_id WHERE study_instance_uid = ? AND delivery.state = 'accepted'"
)


class Study:
    """A CT series that is made to be sent in parts."""

    def __init__(self, folder: Path, seed: int, slices: int = 12) -> None:
        self.images = factories.ct_series(slices, rows=32, columns=32, seed=seed)
        self.paths = factories.write(self.images, folder / f"{seed}")
        self.uid = str(self.images[0].StudyInstanceUID)
        self.series = str(self.images[0].SeriesInstanceUID)


class Site:
    """A node, the PACS that gets its results, and an archive that counts.

    Attributes:
        counts: What the archive says of a study: how many instances its one series has.
        open: Cleared, the PACS holds back its answers; `holding` is set when it does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[str, tuple[str, int]] = {}
        self.open, self.holding = threading.Event(), threading.Event()
        self.open.set()
        self.pacs = StandInPacs(folder / "pacs", answer=self._answer)
        self.node: NodeUnderTest

    def _answer(self, number: int) -> int:
        if not self.open.is_set():
            self.holding.set()
            assert self.open.wait(60)
        return 0x0000

    def count(self, level: str, event: Any) -> Matches:
        study = str(event.identifier.StudyInstanceUID)
        if study in self.counts:
            series, instances = self.counts[study]
            yield 0xFF00, match(study, instances, series if level == "SERIES" else "")

    def study(self, seed: int, slices: int = 12) -> Study:
        return Study(self.folder, seed, slices)

    @contextlib.contextmanager
    def association(self, study: Study, calling_ae: str = "TESTER") -> Iterator[Link]:
        """An association that stays open while the block lasts."""
        peer = Peer(self.node.peer.ae_title, *self.node.state.dicom, calling_ae)
        (contexts,) = contexts_for([file_facts(path) for path in study.paths])
        with open_association_to(peer, contexts) as link:
            yield link

    def series(self, study: Study) -> dict[str, Any]:
        rows = self.node.rows("SELECT * FROM series WHERE series_instance_uid = ?", study.series)
        return rows[0] if rows else {"state": "unknown", "instances": 0}

    def jobs(self, study: Study) -> list[tuple[str, int]]:
        """State and number of input instances of each job, the first first."""
        asked = "SELECT state, input_instances FROM job WHERE study_instance_uid = ? ORDER BY id"
        return [
            (row["state"], sum(map(len, json.loads(row["input_instances"]).values())))
            for row in self.node.rows(asked, study.uid)
        ]

    def wait_for_series(self, study: Study, *states: str) -> None:
        self.node.wait_until(lambda: self.series(study)["state"] in states, f"it is {states}")

    def wait_for_jobs(self, study: Study, *wanted: tuple[str, int]) -> None:
        self.node.wait_until(lambda: self.jobs(study) == list(wanted), f"its jobs are {wanted}")

    def received(self, study: Study) -> list[Dataset]:
        """What the PACS got of a study, in its order."""
        return [header for header in headers(self.pacs) if header.StudyInstanceUID == study.uid]

    def assert_results_come(self, study: Study, *modalities: str) -> list[Dataset]:
        def there() -> bool:
            (row,) = self.node.rows(ACCEPTED, study.uid)
            return bool(row["objects"] >= len(modalities))

        self.node.wait_until(there, f"the PACS has {modalities}")
        found = self.received(study)
        assert [header.Modality for header in found] == list(modalities)
        return found


def store(link: Link, paths: Sequence[Path]) -> None:
    assert [link.store(path) for path in paths] == [0] * len(paths)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with site.pacs, source(site.count) as archive:
        routes = routes_to(site.pacs.port).replace(
            'name = "pacs"\n', 'name = "pacs"\nwithdraw = "iocm"\n'
        )
        settings = routes + PEERS.format(port=archive.port)
        with NodeUnderTest(site.folder / "node", settings) as site.node:
            yield site
            site.node.wait_until(site.node.at_rest, "rest")
            assert_chain_is_intact(site.node)


@pytest.mark.feature("P06", "P24")
def test_one_association_many_out_of_order_and_interleaved(site: Site) -> None:
    whole, parts, left, right = (site.study(seed) for seed in (1, 2, 3, 4))
    send_all(site.node, whole.paths)
    mixed = factories.shuffled(parts.images, 5)
    order = [parts.paths[parts.images.index(image)] for image in mixed]
    for start in range(0, 12, 3):
        send_all(site.node, order[start : start + 3])
    send_all(
        site.node, [path for pair in zip(left.paths, right.paths, strict=True) for path in pair]
    )
    for study in (whole, parts, left, right):
        site.assert_results_come(study, "SEG", "SR")
        assert site.jobs(study)[-1][1] == 12
        assert json.loads(site.series(study)["completeness"])["reason"] == "quiet"


@pytest.mark.feature("P06")
def test_a_pause_longer_than_quiet_seconds(site: Site) -> None:
    study = site.study(11)
    send_all(site.node, study.paths[:7])
    site.wait_for_series(study, "skipped")
    assert site.jobs(study) == []
    send_all(site.node, study.paths[7:])
    site.assert_results_come(study, "SEG", "SR")
    assert [instances for _, instances in site.jobs(study)] == [12]


@pytest.mark.feature("P06")
def test_an_association_that_is_held_open(site: Site) -> None:
    held, other = site.study(21), site.study(22)
    with site.association(held) as link:
        store(link, held.paths)
        # A study that came and went meanwhile had its silence.
        send_all(site.node, other.paths)
        site.assert_results_come(other, "SEG", "SR")
        assert site.series(held)["state"] == "receiving"
    site.assert_results_come(held, "SEG", "SR")


def item(**values: Any) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def perform(site: Site, study: Study) -> None:
    """Tell by MPPS that a study was made and is complete."""
    ae = AE("CT1")
    ae.add_requested_context(PROCEDURE_STEP, ExplicitVRLittleEndian)
    assoc = ae.associate(*site.node.state.dicom, ae_title="MEDAI")
    assert assoc.is_established
    images = [
        item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
        for image in study.images
    ]
    performed = item(SeriesInstanceUID=study.series, ReferencedImageSequence=images)
    uid = f"{study.series}.7"[:64]
    begun = item(PerformedProcedureStepStatus="IN PROGRESS", PerformedSeriesSequence=[])
    ended = item(PerformedProcedureStepStatus="COMPLETED", PerformedSeriesSequence=[performed])
    assert assoc.send_n_create(begun, PROCEDURE_STEP, uid)[0].Status == 0x0000
    assert assoc.send_n_set(ended, PROCEDURE_STEP, uid)[0].Status == 0x0000
    assoc.release()


@pytest.mark.feature("P06", "F29")
def test_a_modality_that_says_it_has_ended_need_not_release(site: Site) -> None:
    study = site.study(31)
    with site.association(study, "CT1") as link:
        store(link, study.paths[:11])
        perform(site, study)
        site.node.wait_until(lambda: site.series(study)["instances"] == 11, "all are read")
        store(link, study.paths[11:])
        site.assert_results_come(study, "SEG", "SR")
    shown = site.node.command("studies").stdout.splitlines()
    assert "    complete by count: 12 came, as MPPS announced" in shown
    assert "    MPPS announced 12, 12 are here" in shown


@pytest.mark.feature("P06")
def test_an_archive_that_counts_as_many_need_not_see_a_release(site: Site) -> None:
    study = site.study(41)
    site.counts[study.uid] = (study.series, 12)
    with site.association(study, "CT2") as link:
        store(link, study.paths)
        site.assert_results_come(study, "SEG", "SR")
    verdict = json.loads(site.series(study)["completeness"])
    assert verdict["evidence"] == "12 came, as C-FIND (0020,1209) announced"


@pytest.mark.feature("P24")
def test_a_late_slice_before_the_result_goes_out(site: Site) -> None:
    study = site.study(51, 13)
    site.pacs.break_off()
    try:
        send_all(site.node, study.paths[:12])
        site.wait_for_jobs(study, ("ready", 12))
        send_all(site.node, study.paths[12:])
        site.wait_for_jobs(study, ("superseded", 12), ("ready", 13))
    finally:
        site.pacs.__enter__()
    site.assert_results_come(study, "SEG", "SR")
    site.node.wait_until(site.node.at_rest, "rest")
    assert [result.Modality for result in site.received(study)] == ["SEG", "SR"]  # and no more


@pytest.mark.feature("P24")
def test_a_late_slice_while_the_result_goes_out(site: Site) -> None:
    study = site.study(61, 13)
    site.node.wait_until(site.node.at_rest, "rest")
    site.holding.clear()
    site.open.clear()
    try:
        send_all(site.node, study.paths[:12])
        assert site.holding.wait(60)
        send_all(site.node, study.paths[12:])
        site.wait_for_jobs(study, ("superseded", 12), ("ready", 13))
    finally:
        site.open.set()
    # The bundle goes whole, then what takes its place, then what withdraws it.
    site.assert_results_come(study, "SEG", "SR", "SEG", "SR", "KO")


@pytest.mark.feature("P24")
def test_a_late_slice_a_corrected_name_and_a_rejection_after_the_result(site: Site) -> None:
    study = site.study(71, 13)
    send_all(site.node, study.paths[:12])
    site.assert_results_come(study, "SEG", "SR")
    send_all(site.node, study.paths[12:])
    first, report, _, second, note = site.assert_results_come(study, "SEG", "SR", "SEG", "SR", "KO")
    (before,) = second.PredecessorDocumentsSequence
    named = before.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == report.SOPInstanceUID
    code, withdrawn = rejected_by(note) or ("", ())
    assert code == "113001"
    assert {uid for _, uid in withdrawn} == {first.SOPInstanceUID, report.SOPInstanceUID}

    corrected = deepcopy(study.images)
    for image in corrected:
        image.PatientName = "CORRECTED^SYNTHETIC"
    send_all(site.node, factories.write(corrected, site.folder / "corrected"))
    kinds = ["SEG", "SR", "SEG", "SR", "KO"]
    kinds += ["SEG", "SR", "KO"]
    results = site.assert_results_come(study, *kinds)
    assert {str(each.PatientName) for each in results[5:7]} == {"CORRECTED^SYNTHETIC"}
    assert results[6].SOPInstanceUID != second.SOPInstanceUID

    rejection = factories.rejection_note(corrected, "113037")
    send_all(site.node, factories.write(rejection, site.folder / "note"))
    last = site.assert_results_come(study, *kinds, "KO")[-1]
    code, withdrawn = rejected_by(last) or ("", ())
    assert code == "113037"
    assert {uid for _, uid in withdrawn} == {each.SOPInstanceUID for each in results[5:7]}
    assert site.jobs(study)[-1] == ("superseded", 13)
