"""Region-based training of nnU-Net: sigmoid, one half, and regions painted one over another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from ai.engine import Engine
from ai.importing.draft import Draft, completed, settled
from ai.importing.nnunet import NnunetOptions, read
from ai.importing.nnunet_labels import heads
from ai.models.graph import Graph
from ai.package import MANIFEST, Package, read_package
from ai.seal import sealed
from ai.types import Volume
from config.errors import ModelFileError
from tests.unit.ai.importing.sources import ABOUT, answered, write_nnunet

BRATS: dict[str, Any] = {
    "labels": {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "tumor core": [2, 3],
        "enhancing tumor": [3],
        "ignore": 4,
    },
    "regions_class_order": [1, 2, 3],
}
# The mass is painted with a number above that of the tumor in it, which is painted last.
KIDNEY: dict[str, Any] = {
    "labels": {"background": 0, "kidney": [1, 2, 3], "mass": [2, 3], "tumor": 2},
    "regions_class_order": [1, 3, 2],
}
CODES = """
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["108369006", "SCT", "Tumor"]
"""


def painted(logits: NDArray[np.float32], order: list[int]) -> NDArray[np.uint8]:
    """What nnU-Net's own rule makes of logits ``(regions, slices, rows, columns)``."""
    sure = 1 / (1 + np.exp(-logits))
    labels = np.zeros(logits.shape[1:], np.uint8)
    for channel, number in enumerate(order):
        labels[sure[channel] > 0.5] = number
    return labels


class Network:
    """Three scores of a voxel's value and its square, by two random layers."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.first = random.normal(0, 2, (6, 2)).astype(np.float32)
        self.second = random.normal(0, 3, (3, 6)).astype(np.float32)

    def graph(self) -> bytes:
        g = Graph("two layers")
        both = g.op("Concat", "image", g.op("Mul", "image", "image"), axis=1)
        inner = g.op("Tanh", g.op("Conv", both, self._kernel(g, self.first)))
        g.named("Conv", [inner, self._kernel(g, self.second)], ["scores"])
        shape = (1, 1, "D", "H", "W")
        return g.serialized(
            [("image", TensorProto.FLOAT, shape)],
            [("scores", TensorProto.FLOAT, (1, 3, *shape[2:]))],
        )

    @staticmethod
    def _kernel(g: Graph, weights: NDArray[np.float32]) -> str:
        return g.array(weights.reshape(*weights.shape, 1, 1, 1))

    def __call__(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        inner = np.tanh(np.tensordot(self.first, np.stack([voxels, voxels**2]), 1))
        return np.asarray(np.tensordot(self.second, inner, 1), np.float32)


def voxels_of(seed: int) -> NDArray[np.float32]:
    """One patch of the plans, in which the corners keep the crop from taking anything away.

    In the middle is a voxel on which each region is exactly one half, which is not painted.
    """
    voxels = np.random.default_rng(seed).normal(0, 1, (16, 24, 32)).astype(np.float32)
    voxels[8, 12, 16] = 0.0
    return voxels


def imported(folder: Path, network: Network, dataset: dict[str, Any], **said: Any) -> Package:
    """The package of a network trained on regions; `said` stands in ``[import]``."""
    base = {
        "normalization_schemes": ["NoNormalization"],
        "resampling_fn_data_kwargs": {"order": 1},
    }
    source = write_nnunet(folder, {"configurations": {"base": base}}, dataset)
    options = NnunetOptions(**said)
    names = heads({}, dataset, overlap=options.overlap).segments.keys() - set(options.leave_out)
    tables = [f'[output.segment."{name}"]{CODES}' for name in sorted(names)]
    answers = answered(folder, "\n".join([ABOUT, *tables]))
    draft = completed(read(source, options, answers.tree), answers, options)
    text, _ = settled(draft, answers, "plans")
    made = folder / "site" / "imported" / "1.0.0"
    made.mkdir(parents=True)
    (made / "model.onnx").write_bytes(network.graph())
    (made / MANIFEST).write_text(sealed(text, made), "utf-8")
    return read_package(made)


@pytest.mark.feature("F25")
@pytest.mark.parametrize("dataset", [BRATS, KIDNEY], ids=["nested", "out of order"])
@pytest.mark.parametrize("seed", [3, 4, 8])
def test_regions_are_painted_as_nnunet_paints_them(
    tmp_path: Path,
    make_volume: Callable[..., Volume],
    engine: Engine,
    dataset: dict[str, Any],
    seed: int,
) -> None:
    network = Network(seed)
    voxels = voxels_of(seed)
    volume = make_volume(voxels, spacing=(3.0, 0.8, 0.7))
    answer = engine.run(imported(tmp_path, network, dataset), {"image": volume})
    expected = painted(network(voxels), dataset["regions_class_order"])
    assert expected[8, 12, 16] == 0
    assert len(np.unique(expected)) == 4
    assert answer.labels is not None
    assert np.array_equal(answer.labels, expected)


def drafted(folder: Path, dataset: dict[str, Any], **options: Any) -> Draft:
    return read(write_nnunet(folder, None, dataset), NnunetOptions(**options), {})


def test_a_region_is_named_for_what_is_left_of_it(tmp_path: Path) -> None:
    known = drafted(tmp_path / "a", BRATS).known["output"]
    assert known["labels"]["activation"] == "sigmoid"
    assert known["labels"]["select"] == "threshold"
    shown = {
        name: (each["number"], each.get("channel", each["number"]), each["priority"])
        for name, each in known["segment"].items()
    }
    assert shown == {
        "whole tumor without tumor core": (1, 0, 0),
        "tumor core without enhancing tumor": (2, 1, 1),
        "enhancing tumor": (3, 2, 2),
    }
    kidney = drafted(tmp_path / "b", KIDNEY).known["output"]["segment"]
    assert {name: each["number"] for name, each in kidney.items()} == {
        "kidney without mass": 1,
        "tumor": 2,
        "mass without tumor": 3,
    }
    apart = {"labels": {"background": 0, "a": [1, 2, 3], "b": 1, "c": 2}}
    several = drafted(tmp_path / "c", apart | {"regions_class_order": [4, 1, 2]})
    assert {name: each["number"] for name, each in several.known["output"]["segment"].items()} == {
        "b": 1,
        "c": 2,
        "a without b and c": 3,
    }


def test_regions_that_overlap_stay_what_they_are(tmp_path: Path) -> None:
    known = drafted(tmp_path / "a", KIDNEY, overlap=True).known["output"]
    assert known["labels"]["overlap"] is True
    shown = {
        name: (each["number"], each.get("channel", each["number"]))
        for name, each in known["segment"].items()
    }
    assert shown == {"kidney": (1, 0), "tumor": (2, 2), "mass": (3, 1)}
    assert not any("priority" in each for each in known["segment"].values())
    with pytest.raises(ModelFileError, match=r"import\.overlap is for regions"):
        drafted(tmp_path / "b", {"labels": {"background": 0, "spleen": 1}}, overlap=True)


@pytest.mark.feature("F25")
@pytest.mark.parametrize("left_out", [(), ("mass",), ("tumor",)], ids=["all", "mass", "tumor"])
def test_each_region_has_all_that_its_channel_has_above_one_half(
    tmp_path: Path,
    make_volume: Callable[..., Volume],
    engine: Engine,
    left_out: tuple[str, ...],
) -> None:
    network, regions = Network(4), ("kidney", "mass", "tumor")
    package = imported(tmp_path, network, KIDNEY, overlap=True, leave_out=left_out)
    voxels = voxels_of(4)
    answer = engine.run(package, {"image": make_volume(voxels, spacing=(3.0, 0.8, 0.7))})
    assert answer.overlap
    channels = {
        name: 1 / (1 + np.exp(-scores)) > 0.5
        for name, scores in zip(regions, network(voxels), strict=True)
    }
    assert {each.label for each in answer.segments} == set(regions) - set(left_out)
    for each in answer.segments:
        assert np.array_equal(answer.mask(each.number), channels[each.label])
    held = sum(channels[each.label].astype(int) for each in answer.segments)
    assert answer.segments_overlap == (held.max() > 1)
    assert left_out or answer.segments_overlap


def test_a_list_of_one_number_is_a_label_like_others(tmp_path: Path) -> None:
    plain = {"labels": {"background": 0, "spleen": [2], "liver": [1]}}
    known = drafted(tmp_path, plain).known["output"]
    assert known["labels"]["activation"] == "softmax"
    assert {name: each["number"] for name, each in known["segment"].items()} == {
        "liver": 1,
        "spleen": 2,
    }


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ({"regions_class_order": [1, 2]}, "each of the 3 regions a number of its own"),
        ({"regions_class_order": [1, 2, 2]}, "each of the 3 regions a number of its own"),
        ({"regions_class_order": [0, 1, 2]}, "each of the 3 regions a number of its own"),
        ({"regions_class_order": None}, "each of the 3 regions a number of its own"),
        ({"regions_class_order": [1, "two", 3]}, "not understood"),
    ],
)
def test_an_order_that_is_none_is_refused(
    tmp_path: Path, dataset: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        drafted(tmp_path, BRATS | dataset)


def test_what_would_change_another_region_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="none can be left out: enhancing tumor"):
        drafted(tmp_path / "a", BRATS, leave_out=("enhancing tumor", "bone"))
    with pytest.raises(ModelFileError, match="two labels have the same name"):
        drafted(tmp_path / "b", {"labels": {"background": 0, "a b": 1, "a_b": 2}})
    with pytest.raises(ModelFileError, match="'Ours', a rule for labels that is not known"):
        heads({"label_manager": "Ours"}, BRATS)
