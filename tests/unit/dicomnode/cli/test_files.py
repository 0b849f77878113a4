"""Commands on files: what they answer, and one sentence for what they cannot take."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.results.json_report import findings_of
from dicomnode.sample import write_sample_radiograph, write_sample_study
from tests import factories
from tests.unit.dicomnode.cli.conftest import Run


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    write_sample_study(folder)
    return folder


@pytest.fixture
def results(medai: Run, ct: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    done = medai("infer", ct, "--model", "ct-tissue", "--output", folder)
    assert done.code == 0, done.err
    shown = [line for line in done.out.splitlines() if not line.startswith(str(folder))]
    assert len(shown) > 1
    assert all("Confidence: none: rule-based" in line and " mL." in line for line in shown)
    return folder


NOT_DICOM = {
    "text": b"This is no image.\n" * 40,
    "empty": b"",
    "zeros": bytes(4096),
    "DICOM of nothing": bytes(128) + b"DICM",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(200),
}


def options(command: str, folder: Path) -> tuple[object, ...]:
    """What a command wants beside its files."""
    return {
        "send": ("--to", "PACS@127.0.0.1:9"),
        "infer": ("--model", "ct-tissue", "--output", folder / "out"),
    }.get(command, ())


@pytest.mark.feature("P41")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("command", ["send", "explain", "infer", "validate"])
def test_a_pipe_is_refused_and_not_waited_for(medai: Run, tmp_path: Path, command: str) -> None:
    path = tmp_path / "pipe.dcm"
    os.mkfifo(path)
    done = medai(command, path, *options(command, tmp_path))
    assert (done.code, done.err) == (2, f"{path} is neither a file nor a folder\n")


@pytest.mark.feature("P02", "P41")
@pytest.mark.parametrize("content", NOT_DICOM.values(), ids=NOT_DICOM.keys())
@pytest.mark.parametrize("command", ["send", "explain", "infer", "validate"])
def test_a_file_that_is_no_dicom_gets_a_sentence(
    medai: Run, tmp_path: Path, command: str, content: bytes
) -> None:
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    done = medai(command, path, *options(command, tmp_path))
    told = done.out + done.err
    assert done.code == 1
    assert "file.dcm" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.feature("P41")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("send", "{file}", "--to", "nowhere"), "neither AE@HOST:PORT nor the name"),
        (("send", "{file}", "--to", "PACS@host:0"), "neither AE@HOST:PORT nor the name"),
        (("send", "{folder}", "--to", "PACS@127.0.0.1:9"), "there is no file in"),
        (("validate", "{folder}"), "there is no file in"),
        (("explain", "{folder}"), "there is no file in"),
        (("echo", "PACS"), "neither AE@HOST:PORT nor the name"),
        (("infer", "{folder}", "-m", "ct-tissue", "-o", "out"), "there is no file in"),
        (
            ("infer", "{file}", "-m", "ct-tissue", "-o", "out", "--results", "sr,x"),
            "'x' is no kind",
        ),
        (("infer", "{file}", "-m", "ct-tissue", "-o", "out", "--input", "t1"), "not ROLE=PATH"),
        (("config", "check", "--config", "missing.toml"), "there is no settings file"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(
    medai: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    done = medai(*(argument.format(**places) for argument in arguments))
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_path_that_is_not_there_is_wrong_use(medai: Run) -> None:
    for command in ("explain", "validate"):
        done = medai(command, "missing.dcm")
        assert done.code == 2
        assert "missing.dcm" in done.err


@pytest.mark.feature("P41")
def test_a_folder_that_cannot_be_written_gets_a_sentence(
    medai: Run, ct: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_bytes(b"x")
    done = medai("infer", ct, "--model", "ct-tissue", "--output", tmp_path / "taken")
    assert done.code == 1
    assert done.err == f"{tmp_path / 'taken'}: File exists\n"


def test_a_model_that_is_not_there_is_named(medai: Run, ct: Path) -> None:
    done = medai("infer", ct, "--model", "no-such-model", "--output", "out")
    assert done.code == 1
    assert "no-such-model" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.feature("P06", "P08")
def test_explain_shows_what_each_rule_says(medai: Run, ct: Path, tmp_path: Path) -> None:
    done = medai("explain", ct)
    assert done.code == 0
    assert "ct-tissue" in done.out
    factories.write(factories.mr_series(12), tmp_path / "mr")
    skipped = medai("explain", tmp_path / "mr", "--json")
    assert skipped.code == 0
    assert "no-rule" in skipped.out
    json.loads(skipped.out)


@pytest.mark.feature("P18", "P19", "P24")
def test_infer_writes_proved_objects_reports_and_pictures(
    medai: Run, results: Path, ct: Path, tmp_path: Path
) -> None:
    pictures = {(results / name).read_bytes() for name in ("source.png", "annotated.png")}
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG\r\n\x1a\n") for picture in pictures)
    assert len(findings_of((results / "report.json").read_bytes())) == 4
    assert json.loads((results / "fhir.json").read_text())["resourceType"] == "Bundle"
    assert dcmread(results / "pdf.dcm").EncapsulatedDocument.startswith(b"%PDF-")
    assert dcmread(results / "sr.dcm").Modality == "SR"
    assert dcmread(results / "seg.dcm").Modality == "SEG"
    valid = medai("validate", results / "sr.dcm", results / "seg.dcm")
    assert (valid.code, valid.err) == (0, "")
    again = tmp_path / "again"
    medai("infer", ct, "--model", "ct-tissue", "--output", again)
    for name in ("sr.dcm", "seg.dcm"):
        assert dcmread(again / name).SOPInstanceUID == dcmread(results / name).SOPInstanceUID


def test_infer_writes_the_kinds_asked_for_beside_the_model_s_own(
    medai: Run, ct: Path, tmp_path: Path
) -> None:
    asked = ("--results", "sr-basic,overlay")
    folder = tmp_path / "kinds"
    done = medai("infer", ct, "--model", "ct-tissue", "--output", folder, *asked)
    assert done.code == 0, done.err
    written = {path.name for path in folder.iterdir()}
    objects = {"sr.dcm", "seg.dcm", "sr-basic.dcm", "overlay.dcm"}
    assert written == objects | {"source.png", "annotated.png"}


@pytest.mark.feature("P09", "P19")
def test_infer_on_a_radiograph(medai: Run, tmp_path: Path) -> None:
    write_sample_radiograph(tmp_path / "cr")
    done = medai("infer", tmp_path / "cr", "-m", "xr-quality", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert medai("validate", tmp_path / "out" / "sr.dcm").code == 0


@pytest.mark.feature("P41")
def test_validate_goes_on_past_a_file_that_cannot_be_read(
    medai: Run, results: Path, tmp_path: Path
) -> None:
    # The group length (0002,0000) has three bytes.
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(bytes(128) + b"DICM\x02\x00\x00\x00UL\x03\x00abc")
    done = medai("validate", broken, results / "sr.dcm")
    assert done.code == 1
    first, second = done.out.splitlines()
    assert first.startswith(f"{broken}: the file cannot be read")
    assert second == f"{results / 'sr.dcm'}: nothing is wrong"


@pytest.mark.feature("P21", "P41")
def test_validate_finds_what_was_tampered_with(medai: Run, results: Path) -> None:
    report = dcmread(results / "sr.dcm")
    report.VerificationFlag = "VERIFIED"
    report.save_as(results / "sr.dcm")
    segmentation = dcmread(results / "seg.dcm")
    del segmentation.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    segmentation.save_as(results / "seg.dcm")
    done = medai("validate", results / "sr.dcm", results / "seg.dcm", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert any("UNVERIFIED" in finding for finding in found[str(results / "sr.dcm")]["findings"])
    assert any(
        "SegmentedPropertyType" in entry for entry in found[str(results / "seg.dcm")]["findings"]
    )


@pytest.mark.feature("P41")
def test_validate_says_what_of_an_image_it_did_not_judge(medai: Run, ct: Path) -> None:
    done = medai("validate", next(ct.rglob("*.dcm")))
    assert done.code == 0, done.out
    assert "the modules of this SOP class were not checked" in done.out
