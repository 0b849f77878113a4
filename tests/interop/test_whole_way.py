"""The whole way between programs of other makers: DCMTK sends, DCMTK or Orthanc is the PACS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, dcmread

from dicomnode.sample import write_sample_radiograph, write_sample_study
from tests.harness import NodeUnderTest, routes_to
from tests.interop.programs import (
    Orthanc,
    Program,
    StoreScp,
    dciodvfy_errors,
    dcmsend,
    run,
)
from tests.interop.real import head_ct, head_mr, of_pydicom_data, split

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]

ANALYSED = {
    "sample CT": ("SEG", "SR"),
    "real CT": ("SEG", "SR"),
    "sample CR": ("SR",),
    "real CR 1": ("SR",),
    "real CR 3": ("SR",),
}
"""Source → the modalities of its results."""

SKIPPED = {
    "real MR": "no rule asks for it",
    "real US": "no rule asks for it",
}
"""Source → why it goes to no model."""

KNOWN_ERRORS: dict[str, tuple[str, ...]] = {}
"""Source → Error lines of dciodvfy in its results that the source itself has, with the reason.

None is known: what is wrong with the sources (``RG1`` has a pixel spacing of zero) is not among the
attributes that a result inherits.
"""


@dataclass
class Passage:
    """What went in and what came out."""

    node: NodeUnderTest
    sources: dict[str, list[Path]]
    stored: list[Path]
    stores: int

    def results_of(self, source: str) -> dict[str, Path]:
        """The results of one source by modality."""
        study = study_of(self.sources[source][0])
        found = [(dcmread(path, stop_before_pixels=True), path) for path in self.stored]
        return {str(each.Modality): path for each, path in found if each.StudyInstanceUID == study}


def study_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def write_sources(folder: Path) -> dict[str, list[Path]]:
    return {
        "sample CT": write_sample_study(folder / "sample-ct"),
        "real CT": head_ct(folder / "real-ct"),
        "sample CR": write_sample_radiograph(folder / "sample-cr"),
        "real CR 1": of_pydicom_data(folder / "real-cr-1", "RG1_UNCR.dcm"),
        "real CR 3": of_pydicom_data(folder / "real-cr-3", "RG3_J2KR.dcm"),
        "real MR": head_mr(folder / "real-mr"),
        "real US": of_pydicom_data(folder / "real-us", "US1_UNCR.dcm"),
    }


def pass_through(pacs: Any, node: NodeUnderTest, folder: Path, *, parts: int) -> Passage:
    """Send every source to the node and wait until its results are at the PACS.

    Args:
        pacs: What they go to.
        node: Running, with routes to that PACS.
        folder: For the sources.
        parts: Associations that carry the images, all at once; 1 is Debian's sender as it comes.
    """
    sources = write_sources(folder / "sources")
    port = node.state.dicom[1]
    if parts == 1:
        # A study each, one after the other.
        for paths in sources.values():
            dcmsend(port, paths[0].parent)
    else:
        everything = [path for paths in sources.values() for path in paths]
        dcmsend(port, *split(everything, folder / "parts", parts), no_delay=True)
    wanted = sum(len(kinds) for kinds in ANALYSED.values())
    node.wait_until(lambda: len(pacs.files()) >= wanted, f"{wanted} results", 120.0, 0.5)
    node.wait_until(lambda: all_settled(node), "every series answered, every result delivered")
    return Passage(node, sources, pacs.files(), pacs.stores)


def all_settled(node: NodeUnderTest) -> bool:
    series = [each for study in node.json("studies") for each in study["series"]]
    deliveries = node.json("deliveries")
    return all(each["state"] in ("routed", "skipped") for each in series) and all(
        each["state"] == "accepted" for each in deliveries
    )


@pytest.fixture(scope="module", params=["storescp", "orthanc"])
def passage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Passage]:
    folder = tmp_path_factory.mktemp(request.param)
    pacs: Program
    if request.param == "storescp":
        pacs, parts = StoreScp(folder / "pacs"), 1
    else:
        pacs, parts = Orthanc(folder / "pacs"), 4
    with (
        pacs,
        NodeUnderTest(folder / "node", routes_to(pacs.port, pacs.ae_title), quiet=2) as node,
    ):
        yield pass_through(pacs, node, folder, parts=parts)


@pytest.mark.feature("P04", "P19", "P36")
def test_each_result_arrives_exactly_once(passage):
    uids = Counter(
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in passage.stored
    )
    assert set(uids.values()) == {1}
    assert len(uids) == passage.stores == sum(len(kinds) for kinds in ANALYSED.values())
    for source, kinds in ANALYSED.items():
        assert sorted(passage.results_of(source)) == sorted(kinds), source
    attempts = [(each["state"], each["attempt"]) for each in passage.node.json("deliveries")]
    assert attempts == [("accepted", 1)] * len(uids)


@pytest.mark.feature("P06", "F19")
def test_what_goes_to_no_model_says_why(passage):
    series = {
        each["series_instance_uid"]: each
        for study in passage.node.json("studies")
        for each in study["series"]
    }
    for source, reason in SKIPPED.items():
        paths = passage.sources[source]
        uid = str(dcmread(paths[0], stop_before_pixels=True).SeriesInstanceUID)
        assert series[uid]["state"] == "skipped"
        assert series[uid]["instances"] == len(paths)
        assert reason in series[uid]["reason"]
    assert len(series) == len(ANALYSED) + len(SKIPPED)


@pytest.mark.feature("P23")
def test_dciodvfy_finds_no_error_but_what_the_source_has(passage):
    for source in ANALYSED:
        known = KNOWN_ERRORS.get(source, ())
        of_source = dciodvfy_errors(passage.sources[source][0])
        assert set(known) <= set(of_source), source
        for kind, path in passage.results_of(source).items():
            errors = dciodvfy_errors(path)
            assert [line for line in errors if line not in known] == [], (source, kind)


@pytest.mark.feature("P21")
def test_dsrdump_reads_each_report(passage):
    for source in ANALYSED:
        done = run("dsrdump", "+Pl", passage.results_of(source)["SR"])
        assert done.returncode == 0, done.stdout
        assert "Verification Flag   : UNVERIFIED" in done.stdout
        assert "Imaging Measurement Report" in done.stdout
        assert "validation by a licensed professional" in done.stdout


@pytest.mark.feature("P05")
def test_dcentvfy_sees_results_in_the_study_of_their_source(passage):
    for source, kinds in ANALYSED.items():
        results = passage.results_of(source)
        done = run("dcentvfy", *results.values(), *passage.sources[source])
        assert done.returncode == 0, (source, kinds, done.stdout)


def test_simpleitk_reads_the_segmentation_where_the_node_put_it(passage):
    # A reader that knows nothing of our code: positions from the frames, matrix from the pixels.
    for source in ("sample CT", "real CT"):
        segmentation = dcmread(passage.results_of(source)["SEG"])
        image = SimpleITK.ReadImage(str(passage.results_of(source)["SEG"]))
        frames = SimpleITK.GetArrayFromImage(image) > 0
        hu = read_by_simpleitk(passage.sources[source])
        for number, low, high in ((1, -1100, -300), (4, 180, 4000)):
            inside = np.concatenate(list(voxels_under(segmentation, frames, hu, number)))
            # Bone is at least as dense as 180 HU, and gas below -300, whoever reads it.
            assert inside.size > 1000
            assert np.mean((inside >= low) & (inside < high)) > 0.98, (source, number)


def read_by_simpleitk(paths: list[Path]) -> Any:
    reader = SimpleITK.ImageSeriesReader()
    folder = str(paths[0].parent)
    (series,) = reader.GetGDCMSeriesIDs(folder)
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder, series))
    return reader.Execute()


def voxels_under(segmentation: Dataset, frames: Any, hu: Any, number: int) -> Iterator[Any]:
    """The source's values under the frames of one segment."""
    values = SimpleITK.GetArrayViewFromImage(hu)
    for index, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        place = group.PlanePositionSequence[0].ImagePositionPatient
        column, row, slice_index = hu.TransformPhysicalPointToIndex([float(each) for each in place])
        assert (column, row) == (0, 0)
        yield values[slice_index][frames[index]]


@pytest.mark.feature("P25")
def test_echoscu_and_storescu_are_told_who_may_call(passage):
    port = str(passage.node.state.dicom[1])
    assert run("echoscu", "-aec", "MEDAI", "127.0.0.1", port).returncode == 0
    image = passage.sources["sample CR"][0]
    refused = run("storescu", "-v", "-aec", "NOBODY", "127.0.0.1", port, image)
    assert refused.returncode != 0
    assert "Association Rejected" in refused.stdout
    assert "Result: Rejected Permanent, Source: Service User" in refused.stdout
    assert "Reason: Called AE Title Not Recognized" in refused.stdout


def test_storescu_sends_again_and_nothing_new_comes_of_it(passage):
    node, port = passage.node, str(passage.node.state.dicom[1])
    before = node.json("jobs")
    done = run(
        "storescu", "-v", "-aec", "MEDAI", "127.0.0.1", port, passage.sources["sample CR"][0]
    )
    assert done.returncode == 0, done.stdout
    assert "Status: Success" in done.stdout or "(Success)" in done.stdout
    # The results themselves as well: the node never takes up its own tail.
    reports = [passage.results_of(source)["SR"] for source in ANALYSED]
    done = run("storescu", "-v", "-R", "-aec", "MEDAI", "127.0.0.1", port, *reports)
    assert done.returncode == 0, done.stdout
    node.wait_until(lambda: settled_reports(node) == len(reports), "own reports were looked at")
    assert [job["id"] for job in node.json("jobs")] == [job["id"] for job in before]


def settled_reports(node: NodeUnderTest) -> int:
    series = [each for study in node.json("studies") for each in study["series"]]
    return sum(each["modality"] == "SR" and each["state"] == "skipped" for each in series)


def test_the_audit_chain_is_intact_after_all(passage):
    assert passage.node.command("audit", "verify").returncode == 0
