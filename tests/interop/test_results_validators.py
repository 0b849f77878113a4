"""Results under the validators of others: dicom3tools, DCMTK and PixelMed.

What is listed as known is what a validator says of a correct object, with the reason.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dicomnode.results.write import to_bytes
from tests.interop.programs import pixelmed_errors
from tests.unit.dicomnode.results.cases import (
    Case,
    cr_case,
    ct_case,
    single_image_segment_case,
    thin_case,
    with_others,
    with_overlap,
    written,
)

pytestmark = pytest.mark.tools

KNOWN_PIXELMED = {
    # dciodvfy forbids Laterality where it is not known to be a paired structure.
    "ct seg": ("GeneralSeriesModule/Laterality",),
    "compared seg": ("GeneralSeriesModule/Laterality",),
    "overlap seg": ("GeneralSeriesModule/Laterality",),
    "thin seg": ("GeneralSeriesModule/Laterality",),
    # Its copy of CID 100 is older than the radiography code; and it counts regions over all groups
    # of the report: one planar group makes it judge the whole-image groups as planar too.
    "cr sr": (
        "(43468-8,LN,",
        'within 1.9.2: /CONTAINER (126000,DCM,"Imaging Measurement Report")',
    ),
    "segment of one image sr": ("(43468-8,LN,",),
    # The derivation stands in every frame; it wants it among the shared groups as well, where no
    # pixel measures are shared.
    "segment of one image seg": (
        "GeneralSeriesModule/Laterality",
        "DerivationImageMacro/DerivationImageSequence/: SharedFunctionalGroupsSequence/Item[1]",
    ),
}


def compared_case() -> Case:
    """The model was given another series and an earlier study too."""
    return with_others(ct_case())


def overlapping_case() -> Case:
    """A segment lies in part within another one."""
    return with_overlap(ct_case())


CASES = {
    "ct": ct_case,
    "cr": cr_case,
    "segment of one image": single_image_segment_case,
    "compared": compared_case,
    "overlap": overlapping_case,
    "thin": thin_case,
}
OBJECTS = [
    *("ct sr", "ct seg", "cr sr", "segment of one image sr", "segment of one image seg"),
    *("compared sr", "compared seg", "overlap sr", "overlap seg", "thin sr", "thin seg"),
]


def files(case_name: str, folder: Path) -> dict[str, Path]:
    case = CASES[case_name]()
    for source in case.sources:
        # PixelMed takes the letters of ISO_IR 100 in a name for an error.
        source.PatientName = "Test^One"
    paths = {kind: folder / f"{kind}.dcm" for kind in ("sr", "seg")}
    for kind, data in written(case).items():
        paths[kind].write_bytes(data)
    for index, source in enumerate(case.sources):
        paths[f"source {index}"] = folder / f"source{index}.dcm"
        paths[f"source {index}"].write_bytes(to_bytes(source))
    return paths


def written_file(name: str, folder: Path) -> Path:
    case_name, _, kind = name.rpartition(" ")
    return files(case_name, folder)[kind]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


@pytest.mark.feature("P23")
@pytest.mark.parametrize("name", OBJECTS)
def test_dciodvfy_finds_no_error(name, tmp_path):
    done = run("dciodvfy", "-new", written_file(name, tmp_path))
    lines = (done.stdout + done.stderr).splitlines()
    assert lines
    assert [line for line in lines if line.startswith("Error")] == []
    assert done.returncode == 0


@pytest.mark.parametrize("name", [name for name in OBJECTS if name.endswith("sr")])
def test_dsrdump_reads_the_whole_report(name, tmp_path):
    done = run("dsrdump", written_file(name, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "AI output" in done.stdout
    assert "Measurement Group" in done.stdout


@pytest.mark.parametrize("name", CASES)
def test_dcentvfy_sees_one_patient_and_one_study(name, tmp_path):
    paths = [path for path in files(name, tmp_path).values() if path.exists()]
    assert len(paths) >= 2
    done = run("dcentvfy", *paths)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", OBJECTS)
def test_pixelmed_finds_no_error_but_the_known(name, tmp_path):
    kind = name.rpartition(" ")[2]
    errors = pixelmed_errors(written_file(name, tmp_path), report=kind == "sr")
    known = KNOWN_PIXELMED.get(name, ())
    assert [line for line in errors if not any(part in line for part in known)] == []
    assert all(any(part in line for line in errors) for part in known), "a known error is gone"
