"""A network of nnU-Net that was trained on regions answers in the node as under nnU-Net's rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ai.engine import Engine
from ai.importing.build import import_model
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from tests.imports.folds import put_folds
from tests.unit.ai.importing.sources import ABOUT, answered, write_nnunet

pytestmark = [pytest.mark.imports, pytest.mark.filterwarnings("default")]

DATASET = {
    "labels": {"background": 0, "kidney": [1, 2, 3], "mass": [2, 3], "tumor": 2},
    "regions_class_order": [1, 3, 2],
}
NAMES = ("kidney without mass", "mass without tumor", "tumor")
CODES = """
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["108369006", "SCT", "Tumor"]
"""


@pytest.mark.feature("F25")
@pytest.mark.parametrize("folds", [1, 2])
def test_regions_are_painted_as_nnunet_paints_them(tmp_path: Path, folds: int) -> None:
    base = {"normalization_schemes": ["NoNormalization"]}
    model = write_nnunet(tmp_path, {"configurations": {"base": base}}, DATASET)
    networks = put_folds(model, folds)
    answers = ABOUT + "".join(f'\n[output.segment."{name}"]{CODES}' for name in NAMES)
    made = import_model("nnunet", model, tmp_path / "site", answered(tmp_path, answers))
    spacing = (3.0, 0.8, 0.7)
    voxels = np.random.default_rng(5).normal(100, 60, (16, 24, 32)).astype(np.float32)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = *spacing, 1.0
    volume = Volume(voxels, "[hnsf'U]", affine, spacing, (-1024.0, 3071.0))
    found = Engine(Registry([]), SessionCache(("cpu",), 1)).run(made.package, {"image": volume})
    # The reader of the plans turns images to superior, anterior and right.
    seen = torch.from_numpy(voxels[:, ::-1, ::-1].copy())[None, None]
    with torch.no_grad():
        sure = torch.sigmoid(torch.stack([network(seen)[0] for network in networks]).mean(0))
    expected = torch.zeros(sure.shape[1:], dtype=torch.uint8)
    for channel, number in enumerate(DATASET["regions_class_order"]):
        expected[sure[channel] > 0.5] = number
    assert set(expected.unique().tolist()) == {0, 1, 2, 3}
    assert found.labels is not None
    wrong = found.labels[:, ::-1, ::-1] != expected.numpy()
    # Graph and network differ in the last digits, which may decide on a voxel at one half.
    assert wrong.mean() < 1e-3
