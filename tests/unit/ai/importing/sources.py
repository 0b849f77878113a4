"""Sources to import, written by hand: nothing in them was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import TensorProto

from ai.importing.draft import Answers, read_answers
from ai.models.graph import Graph

ABOUT = """\
name = "imported"
version = "1.0.0"
vendor = "Test"
intended_use = "A test. Not for diagnosis."
description = "Made for a test."
basis = "trained"
licence = "Apache-2.0"
clinical_domain = "Radiology"
results = ["sr"]
"""
RADIOGRAPH = """
[inputs.image]
modality = ["DX"]
units = "1"
apply = "whole"
black_lowest = true
normalisation = { kind = "value_range", to = [-1, 1] }
"""
VOLUME = """
[inputs.image]
modality = ["CT"]
units = "[hnsf'U]"
normalisation = { kind = "none" }

[output]
task = "segmentation"
labels = { layout = "NCDHW", encoding = "index" }

[output.segment.dense]
number = 1
category = ["85756007", "SCT", "Tissue"]
type = ["3138006", "SCT", "Bone"]
color = [240, 240, 220]
description = "Above zero."

[import]
as_is = ["spacing", "orientation"]
"""
DETECTION = """
[output]
task = "detection"
boxes = { tensor = "boxes", format = "xyxy", scores = "scores" }

[output.object.nodule]
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["27925004", "SCT", "Nodule"]
description = "A nodule."
"""
OPACITY = """
[output]
task = "classification"

[output.finding.opacity]
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["112001", "DCM", "Opacity"]
description = "The image is bright."
score = { index = 0, activation = "sigmoid" }
"""


def answered(folder: Path, text: str, *pairs: str) -> Answers:
    """Answers as a file holds them."""
    path = folder / "answers.toml"
    path.write_text(text, "utf-8")
    return read_answers(path, pairs)


def mean_graph(size: tuple[int | str, int | str] = (32, 24)) -> bytes:
    """One score: the mean of the image."""
    g = Graph("mean")
    g.named("ReduceMean", ["x", g.whole(1, 2, 3)], ["mean"], keepdims=0)
    g.named("Unsqueeze", ["mean", g.whole(1)], ["score"])
    return g.serialized(
        [("x", TensorProto.FLOAT, ("N", 1, *size))], [("score", TensorProto.FLOAT, ("N", 1))]
    )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One table over another, key by key."""
    both = dict(below)
    for key, value in above.items():
        held = both.get(key)
        deeper = isinstance(held, dict) and isinstance(value, dict)
        both[key] = merged(held, value) if deeper else value  # type: ignore[arg-type]
    return both


UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "norm": "batch",
}
_METADATA = {
    "version": "0.5.3",
    "name": "Spleen CT segmentation",
    "description": "Segments the spleen.",
    "authors": "A team",
    "intended_use": "An example, not for diagnosis.",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "hounsfield",
                "modality": "CT",
                "num_channels": 1,
                "spatial_shape": [16, 16, 16],
                "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 2,
                "spatial_shape": [16, 16, 16],
                "channel_def": {"0": "background", "1": "spleen"},
            }
        },
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "patch": "$(16, 16, 16)",
    "spacing": [1.5, 1.5, 2.0],
    "network_def": {"_target_": "UNet", **UNET},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing", "mode": "bilinear"},
            {
                **{"_target_": "ScaleIntensityRanged", "keys": "image", "clip": True},
                **{"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1},
            },
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@patch",
        "overlap": 0.5,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred"},
        ],
    },
}


def write_bundle(
    folder: Path,
    metadata: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
) -> Path:
    """A MONAI bundle without a network."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    for name, tree, changes in (
        ("metadata", _METADATA, metadata or {}),
        ("inference", INFERENCE, inference or {}),
    ):
        text = json.dumps(merged(tree, changes))
        (folder / "configs" / f"{name}.json").write_text(text, "utf-8")
    return folder


_DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "kidney_left": 2},
    "file_ending": ".nii.gz",
}
_ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
_PLANS = {
    "dataset_name": "Dataset001_Test",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "NibabelIOWithReorient",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "base": {
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0},
            "architecture": _ARCHITECTURE,
        },
        "3d_fullres": {
            "inherits_from": "base",
            "patch_size": [16, 24, 32],
            "spacing": [3.0, 0.8, 0.7],
        },
    },
    "foreground_intensity_properties_per_channel": {
        "0": {
            **{"mean": 100.0, "std": 40.0, "median": 101.0, "min": -900.0, "max": 1200.0},
            **{"percentile_00_5": -20.0, "percentile_99_5": 220.0},
        }
    },
}


def write_nnunet(
    folder: Path, plans: Mapping[str, Any] | None = None, dataset: Mapping[str, Any] | None = None
) -> Path:
    """A trained model of nnU-Net, its folds without checkpoints that could be loaded."""
    place = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (place / "fold_0").mkdir(parents=True)
    (place / "fold_0" / "checkpoint_final.pth").write_bytes(b"nothing")
    (place / "plans.json").write_text(json.dumps(merged(_PLANS, plans or {})), "utf-8")
    (place / "dataset.json").write_text(json.dumps(_DATASET | dict(dataset or {})), "utf-8")
    return place
