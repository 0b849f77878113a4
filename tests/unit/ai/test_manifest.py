from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from ai.boxes import ObjectTable
from ai.manifest import parse_manifest
from ai.outputs import MeasurementTable, Score
from config.errors import ManifestError


def faults(text: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    return [(fault.where, fault.key, fault.allowed) for fault in caught.value.faults]


def line(text: str, start: str) -> str:
    number = next(i for i, row in enumerate(text.splitlines(), 1) if row.startswith(start))
    return f"model.toml:{number}"


def test_a_manifest_without_faults_is_taken(manifest_text: str) -> None:
    manifest = parse_manifest(manifest_text)
    assert manifest.reference == "test-model@1.0.0"
    assert manifest.results == ("sr",)
    assert [segment.label for segment in manifest.output.segments()] == ["dense"]


@pytest.mark.feature("F06")
def test_every_fault_is_told_at_once_with_its_line(manifest_text: str) -> None:
    text = (
        manifest_text.replace('status = "production"', 'status = "finished"')
        .replace('vendor = "Test"\n', "")
        .replace("number = 1", "number = 0")
        .replace("color = [240, 240, 220]", "colour = [240, 240, 220]")
        .replace('layout = "NCHW"\n\n', 'layout = "NCHW"\ncrop = 3\n\n', 1)
    )
    told = {key: (where, allowed) for where, key, allowed in faults(text)}
    assert set(told) == {
        "status",
        "vendor",
        "inputs.0.crop",
        "output.segment.0.number",
        "output.segment.0.color",
        "output.segment.0.colour",
    }
    assert told["status"][0] == line(text, "status")
    assert told["inputs.0.crop"][0] == line(text, "crop")
    assert told["output.segment.0.number"][0] == line(text, "number")
    assert told["output.segment.0.colour"][0] == line(text, "colour")
    assert "did you mean color?" in told["output.segment.0.colour"][1]


@pytest.mark.feature("F06")
def test_what_tables_say_against_each_other_is_told_beside_a_wrong_key(manifest_text: str) -> None:
    text = (
        manifest_text.replace('status = "production"', 'status = "finished"')
        .replace('vendor = "Test"\n', "")
        .replace('layout = "NCHW"\n\n', 'layout = "NCHW"\nlevel = 3\nbatch = 0\n\n', 1)
        .replace('results = ["sr"]', 'results = ["sr", "saliency"]')
        .replace('graph = "model.onnx"', 'graph = "other.onnx"')
        .replace("number = 1", "number = 2")
    )
    told = faults(text)
    assert sorted(key for _, key, _ in told) == ["inputs.0.batch", "inputs.0.level", "output",
                                                 "status", "vendor"]  # fmt: skip
    said = " ".join(allowed for _, _, allowed in told)
    assert "without a gap" in said
    told = faults(text.replace("number = 2", "number = 1"))
    said = " ".join(allowed for _, _, allowed in told)
    assert "graph 'other.onnx' is not in files" in said
    assert 'results "saliency" needs' in said
    assert {key for _, key, _ in told} == {"inputs.0.batch", "inputs.0.level", "status", "vendor",
                                           "-"}  # fmt: skip


def test_text_that_is_no_toml_is_told_with_its_line() -> None:
    assert faults('name = "a"\nversion = = 3\n')[0][0] == "model.toml:2"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('dimensions = "2D"', 'dimensions = "3D"', 'apply = "slices" needs dimensions'),
        ('dimensions = "2D"', 'dimensions = "3D"', "layout has D for 3D"),
        ('apply = "slices"', 'apply = "slices"\nspacing = [1.0]', "have 2 entries"),
        (
            'apply = "slices"',
            'apply = "slices"\nspacing = [1.0, 1.0]\nsize = [8, 8]',
            "exclude each other",
        ),
        ('apply = "slices"', 'apply = "slices"\norientation = "LRS"', "once"),
        ('apply = "slices"', 'apply = "slices"\nmin_slices = 9\nmax_slices = 3', "above"),
        (
            'apply = "slices"',
            'apply = "slices"\nnormalisation = { kind = "window" }',
            "needs a window",
        ),
        ('apply = "slices"', 'apply = "slices"\nnormalisation = { to = [1, 0] }', "rises"),
        ('apply = "slices"', 'apply = "slices"\nnormalisation = { mean = [1, 2] }', "a channel"),
        (
            'apply = "slices"',
            'apply = "slices"\nblack_lowest = true\nfacts = { w = "lowest_is_white" }',
            "mislead",
        ),
        ('encoding = "index"', 'encoding = "index"\nconfidence = "mean"', "has no activation"),
        ('encoding = "index"', 'encoding = "channels"\nconfidence = "mean"', "no confidence"),
        ('graph = "model.onnx"', 'graph = "other.onnx"', "is not in files"),
        ('task = "segmentation"', 'task = "classification"', "go with task"),
        ('"SCT", "Bone"', '"99MINE", "Bone"', "SCT, RADLEX or DCM"),
        ('"3138006", "SCT"', '"3138006", "SNOMED"', "the scheme is one of"),
        ('"3138006", "SCT"', '"31380060000000000", "SCT"', "at most 16"),
        ('"model.onnx" = "0', '"../model.onnx" = "0', "pattern"),
        ('units = "[hnsf\'U]"', 'units = "HU"', "'HU' is no unit of UCUM"),
        ("primary = true", "primary = false", "exactly one of the inputs is primary"),
    ],
)
def test_what_contradicts_itself_is_refused(
    manifest_text: str, old: str, new: str, said: str
) -> None:
    assert old in manifest_text
    assert any(said in allowed for _, _, allowed in faults(manifest_text.replace(old, new)))


@pytest.mark.feature("P10")
def test_a_unit_that_results_could_not_carry_is_refused() -> None:
    millilitres = {"tensor": "y", "name": ["118565006", "SCT", "Volume"]}
    with pytest.raises(ValidationError, match="'cc' is no unit of UCUM"):
        MeasurementTable.model_validate(millilitres | {"unit": ["cc", "UCUM", "mL"]})


@pytest.mark.parametrize("table", [Score, ObjectTable])
def test_a_band_that_would_ask_for_no_look_at_all_is_refused(table: type[BaseModel]) -> None:
    with pytest.raises(ValidationError) as refused:
        table.model_validate({"review": [0.6, 0.4]})
    said = {error["loc"]: error["msg"] for error in refused.value.errors()}
    assert "its lowest and its highest probability" in said["review",]


@pytest.mark.feature("P07", "P11")
def test_rules_cannot_declare_a_confidence(manifest_text: str) -> None:
    text = manifest_text.replace('encoding = "index"', 'encoding = "channels"\nconfidence = "mean"')
    assert any("defines no confidence" in allowed for _, _, allowed in faults(text))
    trained = parse_manifest(text.replace('basis = "rules"', 'basis = "trained"'))
    assert trained.output.has_confidence


@pytest.mark.feature("P10")
@pytest.mark.parametrize("key", ["category", "type"])
def test_a_label_without_code_is_refused(manifest_text: str, key: str) -> None:
    rows = [row for row in manifest_text.splitlines() if not row.startswith(f"{key} = [")]
    assert [fault[1] for fault in faults("\n".join(rows))] == [f"output.segment.0.{key}"]
