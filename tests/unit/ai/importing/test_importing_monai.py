"""What a MONAI bundle says, read without torch and without running anything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ai.importing.descriptions import read_tree
from ai.importing.draft import Draft
from ai.importing.monai_bundle import BundleOptions, read
from ai.importing.monai_config import Config, Expression
from ai.importing.monai_transforms import concluded, declared
from config.errors import ModelFileError
from tests.unit.ai.importing.sources import write_bundle


def drafted(source: Path, **options: Any) -> Draft:
    return read(source, BundleOptions(**options), {})


@pytest.mark.feature("F25")
def test_a_bundle_tells_its_input_and_its_output(tmp_path: Path) -> None:
    draft = drafted(write_bundle(tmp_path / "spleen"))
    assert draft.questions == ()
    assert draft.known["version"] == "0.5.3"
    assert draft.known["vendor"] == "A team"
    assert draft.known["inputs"] == {
        "image": {
            "primary": True,
            "tensor": "image",
            "dimensions": "3D",
            "layout": "NCDHW",
            "modality": ["CT"],
            "units": "[hnsf'U]",
            "orientation": "RAS",
            "spacing": [1.5, 1.5, 2.0],
            "window": {"center": 53.5, "width": 221.0},
            "normalisation": {"kind": "window", "to": [0.0, 1.0]},
            "sliding": {"patch": [16, 16, 16], "overlap": 0.5, "blend": "gaussian"},
        }
    }
    output = draft.known["output"]
    assert output["labels"] == {
        "tensor": "scores",
        "layout": "NCDHW",
        "encoding": "channels",
        "activation": "softmax",
        "select": "argmax",
    }
    assert list(output["segment"]) == ["spleen"]
    assert output["segment"]["spleen"]["number"] == 1
    assert "channel" not in output["segment"]["spleen"]


def test_segments_by_threshold_keep_their_channels(tmp_path: Path) -> None:
    steps = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.4},
    ]
    channels = {"channel_def": {"0": "Tumor core", "1": "Edema"}}
    bundle = write_bundle(
        tmp_path / "tumor",
        {"network_data_format": {"outputs": {"pred": channels}}},
        {"postprocessing": {"transforms": steps}},
    )
    output = drafted(bundle).known["output"]
    assert output["labels"]["activation"] == "sigmoid"
    assert output["labels"]["select"] == "threshold"
    core, edema = output["segment"]["tumor core"], output["segment"]["edema"]
    assert (core["number"], core["channel"], core["threshold"]) == (1, 0, 0.4)
    assert (edema["number"], edema["channel"]) == (2, 1)
    assert "type" not in core
    assert edema["type"] == ["79654002", "SCT", "Edema"]


def test_classes_become_findings(tmp_path: Path) -> None:
    pred = {"format": "classification", "channel_def": {"0": "normal", "1": "Fracture"}}
    steps = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    bundle = write_bundle(
        tmp_path / "b",
        {"network_data_format": {"outputs": {"pred": pred}}},
        {"postprocessing": {"transforms": steps}},
    )
    output = drafted(bundle).known["output"]
    assert output["task"] == "classification"
    assert output["finding"]["fracture"]["score"] == {
        "tensor": "scores",
        "activation": "softmax",
        "index": 1,
    }


def step(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"monai.transforms.{name}", "keys": ["image"], **arguments}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step("Spacingd", pixdim=[1, 1, 1], mode="nearest")], {"interpolation": "nearest"}),
        ([step("Spacingd", pixdim=2.0)], {"spacing": [2.0, 2.0, 2.0]}),
        ([step("Resized", spatial_size=[8, 9], mode="bilinear")], {"size": [8, 9]}),
        ([step("NormalizeIntensityd")], {"normalisation": {"kind": "zscore"}}),
        (
            [step("NormalizeIntensityd", nonzero=True, channel_wise=True)],
            {"normalisation": {"kind": "zscore", "over": "nonzero", "outside": 0.0}},
        ),
        (
            [step("NormalizeIntensityd", subtrahend=[3], divisor=[2.0])],
            {"normalisation": {"kind": "none", "mean": [3.0], "sd": [2.0]}},
        ),
        (
            [step("ScaleIntensityd"), step("NormalizeIntensityd", subtrahend=0.5, divisor=0.2)],
            {"normalisation": {"kind": "minmax", "to": [0.0, 1.0], "mean": [0.5], "sd": [0.2]}},
        ),
        (
            [step("ScaleIntensityRanged", a_min=-100, a_max=300, b_min=-1, b_max=1, clip=False)],
            {"normalisation": {"kind": "none", "mean": [100.0], "sd": [200.0]}},
        ),
        (
            [
                step(
                    "ScaleIntensityRangePercentilesd",
                    lower=1,
                    upper=99,
                    b_min=0,
                    b_max=1,
                    clip=True,
                )
            ],
            {
                "normalisation": {
                    "kind": "percentiles",
                    "percentiles": [1.0, 99.0],
                    "to": [0.0, 1.0],
                }
            },
        ),
        ([step("DivisiblePadd", k=16)], {"multiple_of": 16, "pad": "centre"}),
        ([step("SpatialPadd", spatial_size=[4, 4, 4], method="end")], {"least": [4, 4, 4]}),
        ([step("RandFlipd", _disabled_=True)], {}),
        ([{"_target_": "RandFlipd", "keys": "label"}], {}),
    ],
)
def test_a_transform_says_its_keys(steps: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    spec, problems = declared(steps, "image", ())
    assert problems == []
    assert expected.items() <= spec.items()


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([step("RandFlipd")], "RandFlipd: it cannot be declared"),
        ([step("CropForegroundd", source_key="image")], "CropForegroundd: it keeps"),
        ([step("Spacingd", pixdim=[1, 1, -1])], "Spacingd: an axis without a spacing"),
        ([step("Spacingd", pixdim=[1, 1, 2]), step("Orientationd", axcodes="RAS")], "Orientationd"),
        ([step("NormalizeIntensityd"), step("ScaleIntensityd")], "ScaleIntensityd: two steps"),
        ([step("ScaleIntensityd", minv=Expression("$x"))], "minv is an expression, which is not"),
        ([step("ScaleIntensityRanged", a_min="low", a_max=3)], "its arguments are not understood"),
        ([step("Spacingd", pixdim=[1, 1, 1], mode="bicubic")], "its mode 'bicubic'"),
        ([Expression("$f(x)")], "$f(x): it cannot be declared"),
    ],
)
def test_what_cannot_be_declared_is_asked(steps: list[Any], problem: str) -> None:
    _, problems = declared(steps, "image", ())
    assert len(problems) == 1
    assert problem in problems[0]
    name = problems[0].partition(":")[0]
    assert declared(steps, "image", (name,))[1] == []


def test_postprocessing_that_cannot_be_declared_is_asked(tmp_path: Path) -> None:
    steps = [{"_target_": "FillHolesd", "keys": "pred", "applied_labels": [1]}]
    assert concluded(steps, ()) == ({}, ["FillHolesd: it cannot be declared"])
    bundle = write_bundle(tmp_path / "b", inference={"postprocessing": {"transforms": steps}})
    (question,) = drafted(bundle).questions
    assert question.path == ("import", "ignore")
    assert drafted(bundle, ignore=("FillHolesd",)).questions == ()


def test_cleaning_of_all_segments_is_told() -> None:
    steps = [
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"},
        {"_target_": "FillHolesd", "keys": "pred"},
    ]
    cleaning = {"keep_largest": 1, "fill_holes": "volume"}
    assert concluded(steps, ()) == ({"cleaning": cleaning}, [])


def test_references_are_followed_and_expressions_are_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    config = Config(
        {
            "a": "@b#c",
            "b": {"c": [1, "@d"]},
            "d": "$@e",
            "e": "$[1, 2]",
            "run": f"$open({str(witness)!r}, 'w')",
            "itself": "@itself",
            "macro": "%other.json#key",
            "lost": "@nothing",
        }
    )
    assert config.get("a") == [1, [1, 2]]
    assert config.get("b", "c", "0") == 1
    for name in ("run", "itself", "macro", "lost"):
        assert isinstance(config.get(name), Expression)
    assert not witness.exists()
    assert config.get("absent", "deeper") is None


@pytest.mark.timeout(20)
def test_references_that_multiply_come_to_an_end() -> None:
    tree = {f"a{n}": [f"@a{n + 1}"] * 8 for n in range(40)}
    assert isinstance(Config(tree).get("a0"), list)
    assert isinstance(Config({"a": ["@b"] * 3, "b": ["@a"] * 3}).get("a"), list)
    assert isinstance(Config({"a": "@a#b"}).get("a"), Expression)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 3000 + "]" * 3000],
    ids=["empty", "list", "cut", "deep"],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "inference.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ModelFileError, match=r"inference\.json (is no json|holds no table)"):
        read_tree(path)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"holds no configs/metadata\.json"):
        drafted(tmp_path)
    bundle = write_bundle(tmp_path / "spleen")
    (bundle / "configs/inference.json").unlink()
    with pytest.raises(ModelFileError, match=r"holds no configs/inference\.json"):
        drafted(bundle)
