"""What the plans of nnU-Net say, read without torch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from ai.importing.draft import Draft
from ai.importing.nnunet import NnunetOptions, read
from config.errors import ModelFileError
from tests.unit.ai.importing.sources import write_nnunet


def drafted(source: Path, **options: Any) -> Draft:
    return read(source, NnunetOptions(**options), {})


@pytest.mark.feature("F25")
def test_plans_tell_the_preprocessing(tmp_path: Path) -> None:
    draft = drafted(write_nnunet(tmp_path))
    assert draft.questions == ()
    assert draft.known["inputs"] == {
        "image": {
            "tensor": "image",
            "primary": True,
            "dimensions": "3D",
            "layout": "NCDHW",
            "spacing": [3.0, 0.8, 0.7],
            "crop": {"to": "nonzero"},
            "sliding": {"patch": [16, 24, 32], "overlap": 0.5, "blend": "gaussian"},
            "interpolation": "bspline",
            "orientation": "SAR",
            "modality": ["CT"],
            "units": "[hnsf'U]",
            "window": {"center": 100.0, "width": 240.0},
            "normalisation": {"kind": "none", "mean": [100.0], "sd": [40.0]},
        }
    }
    segments = draft.known["output"]["segment"]
    assert list(segments) == ["liver", "kidney left"]
    assert segments["kidney left"]["number"] == 2
    assert segments["kidney left"]["laterality"] == ["7771000", "SCT", "Left"]


@pytest.mark.parametrize(
    ("scheme", "mask", "expected"),
    [
        ("ZScoreNormalization", False, {"kind": "zscore", "over": "crop"}),
        ("ZScoreNormalization", True, {"kind": "zscore", "over": "nonzero", "outside": 0.0}),
        ("RescaleTo01Normalization", False, {"kind": "minmax", "over": "crop"}),
        ("NoNormalization", False, {"kind": "none"}),
        ("RGBTo01Normalization", False, {"kind": "none", "mean": [0.0], "sd": [255.0]}),
    ],
)
def test_each_scheme_of_normalisation_is_told(
    tmp_path: Path, scheme: str, mask: bool, expected: dict[str, Any]
) -> None:
    base = {"normalization_schemes": [scheme], "use_mask_for_norm": [mask]}
    model = write_nnunet(tmp_path, {"configurations": {"base": base}})
    assert drafted(model).known["inputs"]["image"]["normalisation"] == expected


def test_a_scheme_of_ones_own_is_asked(tmp_path: Path) -> None:
    base = {"normalization_schemes": ["OurNormalization"]}
    draft = drafted(write_nnunet(tmp_path, {"configurations": {"base": base}}))
    (question,) = draft.questions
    assert question.path == ("inputs", "image", "normalisation")


def test_the_orientation_is_told_only_where_the_reader_turned_the_images(tmp_path: Path) -> None:
    model = write_nnunet(tmp_path / "a", {"image_reader_writer": "SimpleITKIO"})
    assert "orientation" not in drafted(model).known["inputs"]["image"]
    model = write_nnunet(tmp_path / "b", {"transpose_forward": [2, 0, 1]})
    assert drafted(model).known["inputs"]["image"]["orientation"] == "RSA"


def test_several_channels_are_inputs_and_the_primary_one_is_asked(tmp_path: Path) -> None:
    base = {
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [True, True],
    }
    model = write_nnunet(
        tmp_path, {"configurations": {"base": base}}, {"channel_names": {"0": "T2", "1": "ADC"}}
    )
    inputs = drafted(model).known["inputs"]
    assert {role: spec["tensor"] for role, spec in inputs.items()} == {"t2": "t2", "adc": "adc"}
    assert not any("primary" in spec or "modality" in spec for spec in inputs.values())


def test_two_dimensions_run_over_slices(tmp_path: Path) -> None:
    flat = {"patch_size": [24, 32], "spacing": [0.8, 0.7]}
    model = write_nnunet(tmp_path, {"configurations": {"3d_fullres": flat}})
    spec = drafted(model).known["inputs"]["image"]
    assert (spec["dimensions"], spec["apply"], spec["layout"]) == ("2D", "slices", "NCHW")
    assert spec["sliding"]["patch"] == [24, 32]


@pytest.mark.parametrize(
    ("plans", "dataset", "reason"),
    [
        ({}, {"labels": {"background": 0, "all": [1, 2]}}, "regions a number of its own"),
        ({}, {"labels": {"background": 0, "liver": 2}}, "without a gap"),
        (
            {"configurations": {"3d_fullres": {"previous_stage": "3d_lowres"}}},
            {},
            "import 3d_fullres or 3d_lowres",
        ),
        ({"configurations": {"base": {"normalization_schemes": []}}}, {}, "not understood"),
        ({"foreground_intensity_properties_per_channel": {"0": {"mean": "x"}}}, {}, "understood"),
    ],
)
def test_what_a_package_cannot_hold_is_refused(
    tmp_path: Path, plans: dict[str, Any], dataset: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        drafted(write_nnunet(tmp_path, plans, dataset))


def test_which_configuration_was_trained_is_asked_where_the_folder_does_not_tell(
    tmp_path: Path,
) -> None:
    model = write_nnunet(tmp_path).rename(tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"import\.configuration = one of base, 3d_fullres"):
        drafted(model)
    assert drafted(model, configuration="3d_fullres").known["inputs"]["image"]["spacing"][0] == 3.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"folds": ("1",)}, "there is no fold_1/checkpoint_final.pth"),
        ({"checkpoint": "../plans.json"}, "plain names"),
        ({"folds": ("0/..",)}, "plain names"),
    ],
)
def test_folds_that_are_not_there_are_told(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        drafted(write_nnunet(tmp_path), **options)


def test_plans_of_the_first_version_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps({"plans": 1}))
    with pytest.raises(ModelFileError, match="nnU-Net v1, whose plans are Python objects"):
        drafted(tmp_path)
    (tmp_path / "plans.pkl").unlink()
    with pytest.raises(ModelFileError, match=r"holds no plans\.json"):
        drafted(tmp_path)
