"""Trained models of nnU-Net v2: ``plans.json``, ``dataset.json`` and the checkpoints of folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai.importing.codes import plain
from ai.importing.descriptions import one_line, read_tree, understood
from ai.importing.draft import Draft, Options, Tree
from ai.importing.nnunet_labels import Heads, heads
from ai.importing.nnunet_network import load_network
from ai.importing.questions import Question
from ai.importing.torch_export import Shape, export
from ai.manifest import Manifest
from config.errors import ModelFileError

# How the reader that a model was trained with turns its arrays; the others keep the file's own way.
_READERS = {"NibabelIOWithReorient": "SAR"}
_INTERPOLATIONS = {0: "nearest", 1: "linear", 3: "bspline"}
_OVERLAP = 0.5  # nnU-Net's step between patches, unless told otherwise


class NnunetOptions(Options):
    """``[import]`` for nnU-Net.

    Attributes:
        configuration: Such as ``3d_fullres``; told by the folder's name where that has it.
        folds: Which folds; the mean of their scores is taken. All that are there unless given.
        checkpoint: File name of the checkpoint in the folder of a fold.
        overlap: Regions stay whole and overlap, in place of being painted one over another.
    """

    configuration: str | None = None
    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    overlap: bool = False


@dataclass(frozen=True)
class Trained:
    """The files of a trained model.

    Attributes:
        folder: Where ``plans.json`` lies.
        plans: ``plans.json``.
        dataset: ``dataset.json``.
        name: Of the configuration.
        configuration: Its part of the plans.
    """

    folder: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    name: str
    configuration: Mapping[str, Any]

    @property
    def channels(self) -> list[str]:
        """Names of the input channels in their order."""
        named = self.dataset.get("channel_names") or self.dataset.get("modality") or {}
        return [str(named[key]) for key in sorted(named, key=int)]


def open_trained(source: Path, options: NnunetOptions) -> Trained:
    """Finds and reads the plans of a trained model.

    Raises:
        ModelFileError: There are none, or which configuration was trained is not told.
    """
    found = sorted(source.glob("plans.json")) or sorted(source.glob("*/plans.json"))
    if not found and list(source.rglob("plans.pkl")):
        raise ModelFileError(
            f"{source.name} is of nnU-Net v1, whose plans are Python objects that are not loaded"
        )
    if len(found) != 1 or not (found[0].parent / "dataset.json").is_file():
        raise ModelFileError(f"{source.name} holds no plans.json with its dataset.json")
    folder = found[0].parent
    plans = read_tree(found[0])
    configurations = plans.get("configurations", {})
    named = options.configuration or folder.name.rpartition("__")[2]
    if named not in configurations:
        raise ModelFileError(
            f"say which configuration was trained, import.configuration = one of "
            f"{one_line(', '.join(configurations)) or 'none'}"
        )
    configuration = _inherited(configurations, named)
    if configuration.get("previous_stage"):
        raise ModelFileError(
            f"{named} needs the labels of a stage before it: import 3d_fullres or 3d_lowres of the "
            f"same data set, which stand alone"
        )
    return Trained(folder, plans, read_tree(folder / "dataset.json"), named, configuration)


def _inherited(configurations: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    seen: list[Mapping[str, Any]] = []
    while name in configurations and len(seen) < 16:
        seen.append(configurations[name])
        name = configurations[name].get("inherits_from", "")
    return {key: value for each in reversed(seen) for key, value in each.items()}


def read(source: Path, options: NnunetOptions, answers: Mapping[str, Any]) -> Draft:
    """Reads a trained model.

    Raises:
        ModelFileError: It is none, or holds what a package cannot.
    """
    del answers
    with understood(source):
        return _read(source, options)


def _read(source: Path, options: NnunetOptions) -> Draft:
    trained = open_trained(source, options)
    checkpoints = _checkpoints(trained, options)
    inputs, problems = _inputs(trained)
    answer = heads(trained.plans, trained.dataset, overlap=options.overlap)
    _check_left_out(answer, options)
    patch = tuple(int(size) for size in trained.configuration["patch_size"])
    known: Tree = {"basis": "trained", "inputs": inputs, "output": _output(trained, answer)}
    for key, name in (("description", "description"), ("licence", "licence")):
        if isinstance(text := trained.dataset.get(name), str) and text.strip():
            known[key] = " ".join(text.split())[: 1024 if key == "description" else 64]
    shape = Shape((1,) * len(inputs), patch, fixed=True)

    def write(path: Path, manifest: Manifest) -> str:
        network = load_network(
            *(trained.configuration, trained.name, checkpoints),
            *(len(inputs), answer.count),
        )
        tensors = [entry.tensor for entry in manifest.inputs]
        return export(network, tensors, shape, path, options.tolerance)

    folds = ", ".join(path.parent.name for path in checkpoints)
    notes = (f"the graph gives the mean of the scores of {folds}",)
    return Draft(known, write, notes, tuple(problems))


def _checkpoints(trained: Trained, options: NnunetOptions) -> list[Path]:
    wanted = [f"fold_{fold}" for fold in options.folds]
    there = sorted(trained.folder.glob("fold_*"))
    folders = [trained.folder / name for name in wanted] or there
    found = [folder / options.checkpoint for folder in folders]
    if "/" in options.checkpoint or any("/" in name or "\\" in name for name in wanted):
        raise ModelFileError("folds and checkpoint are plain names")
    if missing := [path for path in found if not path.is_file()]:
        raise ModelFileError(f"there is no {missing[0].parent.name}/{missing[0].name}")
    if not found:
        raise ModelFileError(f"{trained.folder.name} holds no folds")
    return found


def _inputs(trained: Trained) -> tuple[Tree, list[Question]]:
    """One input a channel, and what cannot be told of them."""
    channels, configuration = trained.channels, trained.configuration
    shared = _grid(trained)
    schemes = configuration["normalization_schemes"]
    masks = configuration.get("use_mask_for_norm", [False] * len(schemes))
    figures = trained.plans.get("foreground_intensity_properties_per_channel") or trained.plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    inputs: Tree = {}
    questions = []
    for at, (channel, scheme, mask) in enumerate(zip(channels, schemes, masks, strict=True)):
        role = "image" if len(channels) == 1 else _role(channel, at)
        spec: Tree = {"tensor": role} | ({"primary": True} if len(channels) == 1 else {}) | shared
        if channel.upper() == "CT":
            spec |= {"modality": ["CT"], "units": "[hnsf'U]"}
        if scheme in _SCHEMES:
            spec |= _SCHEMES[scheme](figures.get(str(at), {}), bool(mask))
        else:
            text = f"nnU-Net's {scheme} cannot be told in the words of a package: say it in them"
            questions.append(Question(("inputs", role, "normalisation"), text))
        inputs[role] = spec
    if len(inputs) != len(channels):
        raise ModelFileError("two channels have the same name")
    return inputs, questions


def _role(channel: str, at: int) -> str:
    role = plain(channel).replace(" ", "-")[:32]
    return role if role[:1].isalpha() else f"channel-{at}"


def _grid(trained: Trained) -> Tree:
    """What all inputs share: axes, orientation, spacing and patches."""
    plans, configuration = trained.plans, trained.configuration
    spacing = [float(step) for step in configuration["spacing"]]
    patch = [int(size) for size in configuration["patch_size"]]
    flat = len(patch) == 2
    spec: Tree = {
        "dimensions": "2D" if flat else "3D",
        "layout": "NCHW" if flat else "NCDHW",
        "spacing": spacing[-2:] if flat else spacing,
        "crop": {"to": "nonzero"},
        "sliding": {"patch": patch, "overlap": _OVERLAP, "blend": "gaussian"},
    }
    if flat:
        spec["apply"] = "slices"
    order = configuration.get("resampling_fn_data_kwargs", {}).get("order", 3)
    if _INTERPOLATIONS.get(order, "bspline") != "linear":
        spec["interpolation"] = _INTERPOLATIONS.get(order, "bspline")
    letters = _READERS.get(str(plans.get("image_reader_writer")))
    if letters is not None:
        turned = plans.get("transpose_forward", [0, 1, 2])
        spec["orientation"] = "".join(letters[int(axis)] for axis in turned)
    return spec


def _ct(figures: Mapping[str, Any], mask: bool) -> Tree:
    del mask
    low, high = float(figures["percentile_00_5"]), float(figures["percentile_99_5"])
    return {
        "window": {"center": (low + high) / 2, "width": high - low},
        "normalisation": {
            "kind": "none",
            "mean": [float(figures["mean"])],
            "sd": [max(float(figures["std"]), 1e-8)],
        },
    }


def _zscore(figures: Mapping[str, Any], mask: bool) -> Tree:
    del figures
    over = {"over": "nonzero", "outside": 0.0} if mask else {"over": "crop"}
    return {"normalisation": {"kind": "zscore"} | over}


_SCHEMES = {
    "CTNormalization": _ct,
    "ZScoreNormalization": _zscore,
    "RescaleTo01Normalization": lambda *_: {"normalisation": {"kind": "minmax", "over": "crop"}},
    "NoNormalization": lambda *_: {"normalisation": {"kind": "none"}},
    "RGBTo01Normalization": lambda *_: {
        "normalisation": {"kind": "none", "mean": [0.0], "sd": [255.0]}
    },
}


def _check_left_out(answer: Heads, options: Options) -> None:
    painted = answer.labels["select"] == "threshold" and not answer.labels.get("overlap")
    if painted and (left := sorted(set(options.leave_out) & set(answer.segments))):
        raise ModelFileError(
            f"regions are painted one over another, so none can be left out: {', '.join(left)}"
        )


def _output(trained: Trained, answer: Heads) -> Tree:
    flat = len(trained.configuration["patch_size"]) == 2
    layout = "NCHW" if flat else "NCDHW"
    return {
        "task": "segmentation",
        "volume": True,
        "labels": {"tensor": "scores", "layout": layout, "encoding": "channels"} | answer.labels,
        "segment": answer.segments,
    }
