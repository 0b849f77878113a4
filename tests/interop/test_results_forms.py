"""Every form of result of every kind of image under the validators and readers of others.

What is listed as known is what a program says of a correct object, with the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.interop.forms import IMAGES, KINDS, case_of, files_of
from tests.interop.programs import pixelmed_errors, run

pytestmark = pytest.mark.tools

DCMQI = Path(sys.executable).parent
WITHOUT_PLACE = ("CR", "US", "US loop")

# Its copy of the standard is of 2022 and knows neither the label map (2024) nor that since 2019 a
# parametric map has plane positions only where its frame of reference is the patient's.
KNOWN_ERRORS = {
    "labelmap": ("SegmentNumber not monotonically increasing", "Information Object Not found"),
    "saliency": (
        "PlanePositionSequence(0020,9113)>",
        "PlaneOrientationSequence(0020,9116)>",
        "PlanePositionSlideSequence(0048,021a)>",
    ),
}
# Of every object: Device UID came into the equipment macro after its copy was made (CP 1752); the
# private scheme of the node, for rules as algorithm family and for what a heat map shows, is no
# defined term of the standard, as none that begins with 99 is (PS3.16 8.2).
KNOWN_WARNINGS = (
    "DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD",
    "Unrecognized defined term = <99MEDAI>",
)
# It holds every group of a report to the template of the others: where there are volumetric or
# planar groups it wants a region of the group that speaks of whole images too. Its copy of CID 100
# lacks the radiography code.
KNOWN_PIXELMED = {
    "sr": (
        "VolumetricROIMeasurements/[Row 1] CONTAINER",
        "PlanarROIMeasurements/[Row 1] CONTAINER",
        "(43468-8,LN,",
    ),
    # dciodvfy forbids Laterality where it is not known to be a paired structure; the derivation
    # stands in every frame, which it does not look for where no pixel measures are shared; and it
    # takes Patient Orientation for one value, which are two (PS3.6).
    "seg": (
        "GeneralSeriesModule/Laterality",
        "SharedFunctionalGroupsSequence/Item[1]",
        "PatientOrientation: Incorrect value multiplicity",
    ),
    "fractional": ("GeneralSeriesModule/Laterality", "SharedFunctionalGroupsSequence/Item[1]"),
}
KNOWN_PIXELMED["sr-comprehensive"] = KNOWN_PIXELMED["sr"]


def written(name: str, kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.dcm"
    path.write_bytes(files_of(name)[kind])
    return path


@pytest.mark.feature("P23")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IMAGES)
def test_dciodvfy_finds_no_error_and_warns_of_nothing_but_the_known(
    name: str, kind: str, tmp_path: Path
) -> None:
    said = run("dciodvfy", "-new", written(name, kind, tmp_path)).stdout.splitlines()
    assert said
    known = KNOWN_ERRORS.get(kind, ()) if kind != "saliency" or name in WITHOUT_PLACE else ()
    errors = [line for line in said if line.startswith("Error")]
    assert [line for line in errors if not any(part in line for part in known)] == []
    assert all(any(part in line for line in errors) for part in known), "a known error is gone"
    warnings = [line for line in said if line.startswith("Warning")]
    assert [line for line in warnings if not any(part in line for part in KNOWN_WARNINGS)] == []


@pytest.mark.feature("P21", "P23")
@pytest.mark.parametrize("kind", ["sr", "sr-comprehensive", "sr-basic"])
@pytest.mark.parametrize("name", IMAGES)
def test_dsrdump_reads_the_whole_report(name: str, kind: str, tmp_path: Path) -> None:
    done = run("dsrdump", "+Pl", written(name, kind, tmp_path))
    assert done.returncode == 0, done.stdout
    assert "AI output" in done.stdout
    assert ("fall-back form" in done.stdout) == (kind != "sr")
    assert not [line for line in done.stdout.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("CT", "enhanced CT") for kind in ("seg", "fractional", "sr")),
        *((name, kind) for name in ("CR", "US") for kind in ("seg", "sr", "sr-basic")),
        ("enhanced MR", "seg"),
        ("MR", "sr-comprehensive"),
    ],
)
def test_pixelmed_finds_no_error_but_the_known(name: str, kind: str, tmp_path: Path) -> None:
    errors = pixelmed_errors(written(name, kind, tmp_path), report=kind.startswith("sr"))
    known = KNOWN_PIXELMED.get(kind, ())
    assert [line for line in errors if not any(part in line for part in known)] == []


def image_of(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


@pytest.mark.parametrize("name", ["CT", "MR", "enhanced CT", "enhanced PT"])
@pytest.mark.parametrize("kind", ["seg", "labelmap", "fractional"])
def test_dcmqi_finds_every_voxel_of_the_segments_in_its_place(
    name: str, kind: str, tmp_path: Path
) -> None:
    case = case_of(name)
    path = written(name, kind, tmp_path)
    flags = ("--outputType", "nrrd", "--prefix", "s", "--outputDirectory", tmp_path)
    done = run(DCMQI / "segimage2itkimage", "--inputDICOM", path, *flags)
    assert done.returncode == 0, done.stdout
    found = np.zeros(case.volume.voxels.shape, bool)
    for file in tmp_path.glob("s-*.nrrd"):
        image = image_of(file)
        for place in np.argwhere(sitk.GetArrayFromImage(image) > 0):
            point = image.TransformIndexToPhysicalPoint([int(each) for each in place[::-1]])
            index = np.rint(np.linalg.solve(case.volume.affine, [*point, 1])[:3]).astype(int)
            found[tuple(index)] = True
    if kind == "fractional":
        expected = (np.rint(case.answer.probabilities * 255) > 0).any(axis=0)
    else:
        expected = case.answer.labels > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["CT", "enhanced MR"])
def test_dcmqi_reads_every_value_of_a_heat_map_in_its_place(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    path = written(name, "saliency", tmp_path)
    done = run(DCMQI / "paramap2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path,
               "--outputType", "nrrd")  # fmt: skip
    assert done.returncode == 0, done.stdout
    image = image_of(tmp_path / "pmap.nrrd")
    values = sitk.GetArrayFromImage(image)
    assert values.shape == case.volume.voxels.shape
    for place in np.ndindex(values.shape):
        point = image.TransformIndexToPhysicalPoint(place[::-1])
        index = np.rint(np.linalg.solve(case.volume.affine, [*point, 1])[:3]).astype(int)
        assert values[place] == pytest.approx(case.answer.saliency.values[tuple(index)], abs=1e-6)


@pytest.mark.parametrize("kind", ["sr", "sr-comprehensive"])
@pytest.mark.parametrize("name", ["CT", "CR", "US loop", "enhanced CT"])
def test_dcmqi_reads_every_group_of_a_report(name: str, kind: str, tmp_path: Path) -> None:
    said = tmp_path / "report.json"
    path = written(name, kind, tmp_path)
    done = run(DCMQI / "tid1500reader", "--inputDICOM", path, "--outputMetadata", said)
    assert done.returncode == 0, done.stdout
    text = said.read_text("utf-8")
    for finding in case_of(name).answer.findings:
        assert finding.name in text
