"""Networks of torch, made here with random weights, come in as packages.

Run where the extra ``import`` is installed: ``pytest -m imports``.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet as MonaiUNet
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd
from torchxrayvision import datasets, models

from ai.engine import Engine
from ai.golden import read_cases
from ai.importing.build import Imported, import_model
from ai.importing.draft import Answers
from ai.importing.torch_export import load_state
from ai.importing.xrayvision import load_network
from ai.preprocess import resample
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from config.errors import ModelFileError
from tests.imports.folds import put_folds
from tests.unit.ai.importing.sources import (
    ABOUT,
    INFERENCE,
    UNET,
    answered,
    merged,
    write_bundle,
    write_nnunet,
)

pytestmark = [pytest.mark.imports, pytest.mark.filterwarnings("default")]


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return answered(tmp_path, ABOUT)


def unet(**changes: Any) -> Any:
    torch.manual_seed(3)
    network = MonaiUNet(**(UNET | changes)).eval()
    for each in network.modules():  # as after training, so that a lost statistic is seen
        if isinstance(each, torch.nn.BatchNorm3d):
            each.running_mean.uniform_(-0.5, 0.5)
            each.running_var.uniform_(0.5, 2.0)
    return network


def put(bundle: Path, network: Any, script: bool) -> None:
    if not script:
        torch.save({"model": network.state_dict()}, bundle / "models/model.pt")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.zeros(1, 1, 16, 16, 16))
        traced.save(str(bundle / "models/model.ts"))


def whole(folder: Path, **inference: Any) -> Path:
    """A bundle whose network takes the volume as a whole, at even sizes."""
    even = {"_target_": "DivisiblePadd", "keys": "image", "k": 2, "method": "end"}
    steps = [*INFERENCE["preprocessing"]["transforms"], even]
    changes = {
        "inferer": {"_target_": "SimpleInferer"},
        "preprocessing": {"transforms": steps},
    }
    return write_bundle(folder, inference=changes | inference)


def said(made: Imported) -> str:
    return "\n".join(made.notes)


@pytest.mark.feature("F25")
@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("sliding", [False, True])
def test_a_bundle_becomes_a_package_that_says_what_torch_says(
    tmp_path: Path, answers: Answers, script: bool, sliding: bool
) -> None:
    bundle = write_bundle(tmp_path / "spleen") if sliding else whole(tmp_path / "spleen")
    put(bundle, unet(), script)
    made = import_model("monai", bundle, tmp_path / "site", answers)
    assert (made.package.manifest.input.sliding is not None) == sliding
    assert "differs from the network by" in said(made)
    assert "1.0e-03 is allowed" in said(made)
    (case,) = read_cases(made.package)
    assert case.labels is not None
    assert set(np.unique(case.labels)) == {0, 1}
    (entry,) = made.package.manifest.output.segment
    assert (entry.label, entry.type.value) == ("spleen", "78961009")


def test_checkpoint_and_script_of_one_network_give_the_same_answer(
    tmp_path: Path, answers: Answers
) -> None:
    cases = []
    for script in (False, True):
        bundle = whole(tmp_path / f"bundle{script}")
        put(bundle, unet(), script)
        made = import_model("monai", bundle, tmp_path / f"site{script}", answers)
        cases += read_cases(made.package)
    assert np.array_equal(cases[0].labels, cases[1].labels)


def test_a_zip_of_a_bundle_is_the_bundle(tmp_path: Path, answers: Answers) -> None:
    bundle = whole(tmp_path / "in/spleen")
    put(bundle, unet(), script=False)
    archive = shutil.make_archive(str(tmp_path / "spleen"), "zip", tmp_path / "in")
    made = import_model("monai", Path(archive), tmp_path / "site", answers)
    assert made.package.manifest.reference == "imported@1.0.0"


def test_an_archive_that_leads_elsewhere_is_refused(tmp_path: Path, answers: Answers) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../configs/metadata.json", "{}")
    with pytest.raises(ModelFileError, match="leads elsewhere"):
        import_model("monai", archive, tmp_path / "site", answers)


def test_each_channel_of_a_bundle_is_an_input_of_its_own(tmp_path: Path) -> None:
    image = {
        **{"format": "magnitude", "modality": "MR", "num_channels": 2},
        "channel_def": {"0": "T1", "1": "FLAIR"},
    }
    bundle = write_bundle(
        tmp_path / "brain",
        metadata={"network_data_format": {"inputs": {"image": image}}},
        inference={"network_def": {"in_channels": 2}, "inferer": {"_target_": "SimpleInferer"}},
    )
    put(bundle, unet(in_channels=2), script=False)
    text = ABOUT + "[inputs.t1]\nprimary = true\n"
    made = import_model("monai", bundle, tmp_path / "site", answered(tmp_path, text))
    assert [(each.role, each.primary) for each in made.package.manifest.inputs] == [
        ("t1", True),
        ("flair", False),
    ]


class Harmful:
    """What runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda held, path: path.write_bytes(pickle.dumps(held))]
)
def test_a_checkpoint_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, answers: Answers, save: Callable[[Any, Path], Any]
) -> None:
    bundle = whole(tmp_path / "spleen")
    witness = tmp_path / "witness"
    save({"model": Harmful(witness)}, bundle / "models/model.pt")
    with pytest.raises(ModelFileError, match=r"model\.pt is no plain checkpoint"):
        import_model("monai", bundle, tmp_path / "site", answers)
    assert not witness.exists()


def test_parameters_of_another_network_are_refused(tmp_path: Path, answers: Answers) -> None:
    bundle = whole(tmp_path / "spleen")
    put(bundle, unet(channels=[2, 4]), script=False)
    with pytest.raises(
        ModelFileError, match=r"model\.pt does not fit the network: .*size mismatch"
    ):
        import_model("monai", bundle, tmp_path / "site", answers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_target_": "os.system"}, "'system', which is no network of MONAI"),
        ({"_target_": "monai.networks.nets.torch"}, "'torch', which is no network of MONAI"),
        ({"channels": "$[x for x in range(3)]"}, "channels as an expression, which is not run"),
        ({"depth": 3}, "network_def does not fit UNet"),
    ],
)
def test_a_definition_that_is_no_network_is_refused(
    tmp_path: Path, answers: Answers, change: dict[str, Any], reason: str
) -> None:
    bundle = whole(tmp_path / "spleen", network_def=change)
    put(bundle, unet(), script=False)
    with pytest.raises(ModelFileError, match=reason):
        import_model("monai", bundle, tmp_path / "site", answers)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        # MONAI would fetch weights for it.
        (
            {"_target_": "DenseNet121", "in_channels": 3, "out_channels": 2, "pretrained": True},
            r"model\.pt does not fit the network",
        ),
        (UNET | {"_target_": "UNet", "channels": [2**40, 8]}, "network_def does not fit UNet"),
    ],
)
def test_a_definition_fetches_nothing_and_takes_no_more_than_there_is(
    tmp_path: Path, answers: Answers, definition: dict[str, Any], reason: str
) -> None:
    bundle = whole(tmp_path / "spleen")
    path = bundle / "configs/inference.json"
    tree = json.loads(path.read_text("utf-8"))
    tree["network_def"] = {"spatial_dims": 2} | definition
    path.write_text(json.dumps(tree), "utf-8")
    put(bundle, unet(), script=False)
    with pytest.raises(ModelFileError, match=reason):
        import_model("monai", bundle, tmp_path / "site", answers)


def test_an_expression_of_the_definition_can_be_answered(tmp_path: Path) -> None:
    change = {"network_def": {"channels": "$[4 * x for x in (1, 2)]"}}
    bundle = whole(tmp_path / "spleen", **change)
    put(bundle, unet(), script=False)
    text = ABOUT + "[import]\nnetwork = { channels = [4, 8] }\n"
    made = import_model("monai", bundle, tmp_path / "site", answered(tmp_path, text))
    assert "differs from the network by" in said(made)


def densenet(scores: int) -> Any:
    torch.manual_seed(5)
    return models.DenseNet(num_classes=scores, apply_sigmoid=True).eval()


def ramp(size: int) -> np.ndarray[Any, Any]:
    """A radiograph of fine stripes on a slope, which a resampling without smoothing would ruin."""
    rows, columns = np.mgrid[0:size, 0 : size + 100]
    return (2000 + columns - 500 * (rows % 2)).astype(np.uint16)


def library(network: Any, size: int) -> list[float]:
    """What the library makes of it: crop, resize, normalise, run."""
    image = datasets.normalize(ramp(size).astype(np.float32), 4095)[None]
    image = datasets.XRayResizer(224)(datasets.XRayCenterCrop()(image))
    with torch.no_grad():
        return network(torch.from_numpy(image)[None])[0].tolist()


def answer_of(made: Imported, size: int) -> list[float]:
    """The scores that the package gives to it, whatever their thresholds."""
    package = made.package
    volume = Volume(ramp(size)[None], "1", None, (None, None, None), (0.0, 4095.0))
    findings = [
        each.model_copy(update={"score": each.score.model_copy(update={"threshold": 0.0})})
        for each in package.manifest.output.finding
        if each.score is not None
    ]
    output = package.manifest.output.model_copy(update={"finding": tuple(findings)})
    manifest = package.manifest.model_copy(update={"output": output})
    engine = Engine(Registry([]), SessionCache(("cpu",), 1))
    answer = engine.run(dataclasses.replace(package, manifest=manifest), {"image": volume})
    found = {each.name: each.confidence.value or 0.0 for each in answer.findings}
    return [found[each.name] for each in findings]


XRAY = ABOUT + '[import]\nlabels = ["Pneumothorax", "", "Lung Opacity"]\n'


@pytest.mark.feature("F25")
@pytest.mark.parametrize("whole", [False, True])
def test_weights_of_torchxrayvision_become_coded_findings(tmp_path: Path, whole: bool) -> None:
    network, path = densenet(3), tmp_path / "weights.pt"
    # Published weights are the network as a whole, one's own its parameters.
    torch.save(network if whole else network.state_dict(), path)
    made = import_model("torchxrayvision", path, tmp_path / "site", answered(tmp_path, XRAY))
    assert "differs from the network by" in said(made)
    pneumothorax, opacity = made.package.manifest.output.finding
    assert (pneumothorax.type.value, opacity.type.value) == ("36118008", "112001")
    assert opacity.site is not None
    assert pneumothorax.score is not None
    assert opacity.score is not None
    assert (pneumothorax.score.index, opacity.score.index) == (0, 2)
    assert answer_of(made, 900)[0] == pytest.approx(library(network, 900)[0], abs=0.02)


def test_published_weights_bring_their_labels_and_operating_points(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(densenet(18).state_dict(), path)
    coded = {
        *("edema", "effusion", "fibrosis", "lung lesion", "lung opacity", "mass", "nodule"),
        "pneumothorax",
    }
    labels = models.model_urls["densenet121-res224-all"]["labels"]
    others = [label.lower().replace("_", " ") for label in labels]
    out = json.dumps([label for label in others if label not in coded])
    text = ABOUT + f'[import]\nweights = "densenet121-res224-all"\nleave_out = {out}\n'
    made = import_model("torchxrayvision", path, tmp_path / "site", answered(tmp_path, text))
    assert {each.name for each in made.package.manifest.output.finding} == coded
    assert "operating point of each finding becomes 0.5" in said(made)


def test_a_pathology_without_a_certain_code_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(densenet(2).state_dict(), path)
    text = ABOUT + '[import]\nlabels = ["Pneumothorax", "Infiltration"]\n'
    with pytest.raises(Exception, match=r"output\.finding\.infiltration\.type") as error:
        import_model("torchxrayvision", path, tmp_path / "site", answered(tmp_path, text))
    assert "pneumothorax" not in str(error.value)


@pytest.mark.feature("F25")
@pytest.mark.parametrize("folds", [1, 2])
def test_a_trained_model_of_nnunet_becomes_a_package(
    tmp_path: Path, answers: Answers, folds: int
) -> None:
    model = write_nnunet(tmp_path)
    put_folds(model, folds)
    made = import_model("nnunet", model, tmp_path / "site", answers)
    assert "differs from the network by" in said(made)
    assert ", ".join(f"fold_{fold}" for fold in range(folds)) in said(made)
    liver, kidney = made.package.manifest.output.segment
    assert (liver.type.value, kidney.type.value) == ("10200004", "64033007")
    assert kidney.laterality is not None
    assert kidney.laterality.value == "7771000"


def test_the_mean_of_two_folds_is_neither_of_them(tmp_path: Path, answers: Answers) -> None:
    model = write_nnunet(tmp_path)
    put_folds(model, 2)
    labels = []
    for number, folds in enumerate(('["0"]', '["1"]', '["0", "1"]')):
        text = ABOUT + f"[import]\nfolds = {folds}\n"
        made = import_model("nnunet", model, tmp_path / f"site{number}", answered(tmp_path, text))
        labels.append(read_cases(made.package)[0].labels)
    assert not np.array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[0], labels[2])


def test_plans_of_former_years_name_the_same_network(tmp_path: Path, answers: Answers) -> None:
    former = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "architecture": None,
    }
    new, old = (
        write_nnunet(tmp_path / "new"),
        write_nnunet(tmp_path / "old", {"configurations": {"3d_fullres": former}}),
    )
    cases = []
    for model in (new, old):
        put_folds(model, 1)
        made = import_model("nnunet", model, tmp_path / "site" / model.parent.name, answers)
        cases += read_cases(made.package)
    assert np.array_equal(cases[0].labels, cases[1].labels)


def test_a_fold_of_another_configuration_is_refused(tmp_path: Path, answers: Answers) -> None:
    model = write_nnunet(tmp_path)
    put_folds(model, 1)
    path = model / "fold_0/checkpoint_final.pth"
    held = torch.load(path, weights_only=False)
    held["init_args"]["configuration"] = "2d"
    torch.save(held, path)
    with pytest.raises(ModelFileError, match="fold_0 was trained as '2d'"):
        import_model("nnunet", model, tmp_path / "site", answers)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ({"network_class_name": "os.system"}, "'os.system', which is no network of nnU-Net"),
        ({"arch_kwargs": {"conv_op": "os.system"}}, "'os.system', which is no layer of torch"),
        ({"arch_kwargs": {"n_stages": 3}}, "the plans do not fit PlainConvUNet"),
    ],
)
def test_an_architecture_that_is_none_is_refused(
    tmp_path: Path, answers: Answers, architecture: dict[str, Any], reason: str
) -> None:
    plans = {"configurations": {"base": {"architecture": architecture}}}
    model = write_nnunet(tmp_path, plans)
    put_folds(model, 1)
    with pytest.raises(ModelFileError, match=reason):
        import_model("nnunet", model, tmp_path / "site", answers)


def test_only_named_classes_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ModelFileError, match="is no plain checkpoint"):
        load_state(path)
    assert isinstance(load_state(path, [torch.nn.Linear]), torch.nn.Linear)


def test_scores_are_scaled_as_the_library_scales_them(tmp_path: Path) -> None:
    network = densenet(3)
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    images = torch.rand(4, 1, 224, 224) * 2048 - 1024
    with torch.no_grad():
        plain = network(images)
        points = [float(plain[0, 0]) - 0.01, float(plain[0, 1]) + 0.01, float("nan")]
        network.op_threshs = torch.tensor(points)
        assert torch.equal(models.op_norm(plain, network.op_threshs), network(images))
        scaled = load_network(path, 3, points)(images)
    assert torch.allclose(scaled, network(images), atol=1e-6)


class Smooth(torch.nn.Module):
    """Says 1 where the mean of the 27 voxels around is above one half."""

    def forward(self, image: Any) -> Any:
        near = torch.nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)
        return torch.cat([torch.zeros_like(near), 20 * (near - 0.5)], 1)


def coronal_volume() -> Volume:
    """A smooth random CT, 40 coronal slices with unequal steps."""
    shape, steps = (40, 44, 36), (2.5, 1.1, 1.3)
    random = np.random.default_rng(8).random((5, 5, 5), np.float32)
    smooth = resample(random, (5 / 40, 5 / 44, 5 / 36), shape)
    voxels = (smooth * 500 - 200).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.3], [2.5, 0, 0], [0, -1.1, 0]])
    affine[:3, 3] = (-20.0, 30.0, 50.0)
    return Volume(voxels, "[hnsf'U]", affine, steps, (-1024.0, 3071.0))


def agreement(one: Any, other: Any) -> float:
    """Dice coefficient."""
    return float(2 * np.sum(one & other) / (one.sum() + other.sum()))


@pytest.mark.feature("F25")
def test_the_package_says_what_the_bundle_s_own_pipeline_says(
    tmp_path: Path, answers: Answers
) -> None:
    bundle = write_bundle(tmp_path / "spleen")
    put(bundle, Smooth(), script=True)
    made = import_model("monai", bundle, tmp_path / "site", answers)
    volume = coronal_volume()
    engine = Engine(Registry([]), SessionCache(("cpu",), 1))
    given = engine.run(made.package, {"image": volume}).labels

    # As LoadImaged and EnsureChannelFirstd give it: columns first, millimetres in RAS.
    assert volume.affine is not None
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    array = volume.voxels.transpose(2, 1, 0)[None].astype(np.float32)
    transforms = INFERENCE["preprocessing"]["transforms"][2:]
    parser = ConfigParser(merged(INFERENCE, {"preprocessing": {"transforms": transforms}}))
    steps = parser.get_parsed_content("preprocessing")
    item = steps({"image": MetaTensor(array, torch.from_numpy(affine))})
    with torch.no_grad():
        inferer = SlidingWindowInferer((16, 16, 16), 4, 0.5, mode="gaussian")
        item["pred"] = inferer(item["image"][None], Smooth())[0]
    ends = Compose(
        [
            Activationsd(keys="pred", softmax=True),
            Invertd(keys="pred", transform=steps, orig_keys="image", nearest_interp=False),
            AsDiscreted(keys="pred", argmax=True),
        ]
    )
    wanted = np.asarray(ends(item)["pred"])[0].transpose(2, 1, 0).astype(np.uint8)
    assert given is not None
    assert given.shape == wanted.shape
    assert 0.2 < wanted.mean() < 0.8
    assert agreement(given, wanted) > 0.95
    shifted = [np.roll(given, step, axis) for axis in range(3) for step in (-1, 1)]
    assert max(agreement(each, wanted) for each in shifted) < 0.94
    middles = [np.argwhere(labels).mean(axis=0) for labels in (given, wanted)]
    assert np.abs(middles[0] - middles[1]).max() < 0.2
    assert float(given.sum()) == pytest.approx(float(wanted.sum()), rel=0.02)
