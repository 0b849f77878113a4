"""MONAI bundles: ``configs/metadata.json``, ``configs/inference.json`` and a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ai.importing.codes import plain, structure
from ai.importing.descriptions import one_line, read_tree, understood
from ai.importing.draft import Draft, Options, Tree
from ai.importing.extra import need
from ai.importing.labels import segment
from ai.importing.monai_config import Config, Expression
from ai.importing.monai_transforms import concluded, declared
from ai.importing.questions import Question
from ai.importing.torch_export import (
    REFUSALS,
    Shape,
    export,
    fill,
    load_script,
    load_state,
    parameters,
)
from ai.manifest import Manifest
from config.errors import ModelFileError

_UNITS = {"hounsfield": "[hnsf'U]", "magnitude": "1"}
_MODALITIES = frozenset({"CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "OPT"})
_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
_EXAMPLE = 64  # voxels along an axis that the bundle leaves open


class BundleOptions(Options):
    """``[import]`` for a bundle.

    Attributes:
        ignore: Transforms that are left out, because the node cannot do them and the model does
            not need them.
        network: Arguments of the network that the bundle gives as expressions.
        image: Name of the image in the bundle's metadata and transforms.
    """

    ignore: tuple[str, ...] = ()
    network: dict[str, Any] = Field(default_factory=dict)
    image: str = "image"


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle.

    Attributes:
        folder: Where it lies.
        metadata: ``configs/metadata.json``.
        config: ``configs/inference.json``.
    """

    folder: Path
    metadata: Mapping[str, Any]
    config: Config

    def end(self, kind: str, name: str | None = None) -> Mapping[str, Any]:
        """An input or output as the metadata describes it; the only one without a name."""
        formats = _table(self.metadata.get("network_data_format"))
        ends = _table(formats.get(kind))
        key = name if name and name in ends else next(iter(ends), "")
        return _table(ends.get(key))


def open_bundle(source: Path) -> Bundle:
    """Finds and reads the configuration of a bundle.

    Raises:
        ModelFileError: The folder holds none.
    """
    found = sorted(source.glob("configs/metadata.json")) or sorted(
        source.glob("*/configs/metadata.json")
    )
    if len(found) != 1:
        raise ModelFileError(f"{source.name} holds no configs/metadata.json")
    configs = found[0].parent
    inference = next((configs / name for name in _CONFIGS if (configs / name).is_file()), None)
    if inference is None:
        raise ModelFileError(f"{source.name} holds no configs/inference.json")
    return Bundle(configs.parent, read_tree(found[0]), Config(read_tree(inference)))


def read(source: Path, options: BundleOptions, answers: Mapping[str, Any]) -> Draft:
    """Reads a bundle.

    Raises:
        ModelFileError: It is none, or its network is not one that takes an image.
    """
    del answers
    with understood(source):
        return _read(source, options)


def _read(source: Path, options: BundleOptions) -> Draft:
    bundle = open_bundle(source)
    image = bundle.end("inputs", options.image)
    if not image:
        raise ModelFileError(f"{source.name} names no input in its metadata")
    roles = _roles(image)
    spec, problems = declared(
        bundle.config.get("preprocessing", "transforms"), options.image, options.ignore
    )
    end, more = concluded(bundle.config.get("postprocessing", "transforms"), options.ignore)
    sizes, sliding = _patch(bundle, image)
    spec = _described(image) | spec | ({"sliding": sliding} if sliding else {})
    known = _about(bundle.metadata) | {
        "inputs": {role: _one(spec, role, roles) for role in roles},
        "output": _output(bundle.end("outputs"), end),
    }
    questions = [
        Question(("import", "ignore"), f"{text}; name it here to leave it out")
        for text in (*problems, *more)
    ]
    shape = Shape((1,) * len(roles), sizes, fixed=bool(sliding) or "size" in spec)

    def write(path: Path, manifest: Manifest) -> str:
        network = load_network(bundle, options)
        tensors = [entry.tensor for entry in manifest.inputs]
        return export(network, tensors, shape, path, options.tolerance)

    return Draft(known, write, tuple(_notes(sliding)), tuple(questions))


def load_network(bundle: Bundle, options: BundleOptions) -> Any:
    """The network of a bundle: its TorchScript, or its definition with its checkpoint.

    Raises:
        ModelFileError: There is none, or it is defined by what is not run.
    """
    script, checkpoint = (bundle.folder / "models" / name for name in ("model.ts", "model.pt"))
    if script.is_file():
        return load_script(script)
    if not checkpoint.is_file():
        raise ModelFileError(f"{bundle.folder.name} holds neither models/model.ts nor model.pt")
    defined = bundle.config.get("network_def")
    if not isinstance(defined, dict):
        raise ModelFileError(f"{bundle.folder.name} has no network_def")
    arguments = {key: value for key, value in defined.items() if not key.startswith("_")}
    arguments |= options.network
    if unknown := [key for key, value in arguments.items() if _holds_expression(value)]:
        raise ModelFileError(
            f"network_def gives {', '.join(unknown)} as an expression, which is not run; "
            "say what it is under [import.network]"
        )
    name = str(defined.get("_target_")).rpartition(".")[2]
    kind = getattr(need("monai.networks.nets"), name, None)
    if not isinstance(kind, type) or not issubclass(kind, need("torch").nn.Module):
        raise ModelFileError(f"network_def names {name[:80]!r}, which is no network of MONAI")
    if "pretrained" in arguments:  # the checkpoint is loaded, and nothing is to be fetched
        arguments["pretrained"] = False
    try:
        network = kind(**arguments)
    except REFUSALS as error:
        reason = one_line(error)
        raise ModelFileError(f"network_def does not fit {name}: {reason}") from error
    state = parameters(load_state(checkpoint), checkpoint)
    return fill(network, state, checkpoint)


def _holds_expression(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_expression, value.values()))
    if isinstance(value, list):
        return any(map(_holds_expression, value))
    return isinstance(value, Expression)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _about(metadata: Mapping[str, Any]) -> Tree:
    """What the metadata says of the model as a whole."""
    known: Tree = {"basis": "trained"}
    for key, name in (("version", "version"), ("authors", "vendor"), ("intended_use", None)):
        value = metadata.get(key)
        if isinstance(value, str) and value.strip():
            known[name or key] = " ".join(value.split())[: 64 if name else 1024]
    words = [metadata.get(key) for key in ("name", "description")]
    if text := " ".join(" ".join(word.split()) for word in words if isinstance(word, str)):
        known["description"] = text[:1024]
    return known


def _roles(image: Mapping[str, Any]) -> list[str]:
    """One role a channel, named as the metadata names the channels."""
    count = image.get("num_channels", 1)
    channels = _table(image.get("channel_def"))
    if not isinstance(count, int) or not 1 <= count <= 8:
        raise ModelFileError(f"the network takes {count!r} channels, and 1 to 8 can be given")
    if count == 1:
        return ["image"]
    names = [plain(str(channels.get(str(at), f"channel {at}"))) for at in range(count)]
    roles = [name.replace(" ", "-")[:32] for name in names]
    if len(set(roles)) != count:
        return [f"channel-{at}" for at in range(count)]
    return [role if role[:1].isalpha() else f"channel-{role}"[:32] for role in roles]


def _described(image: Mapping[str, Any]) -> Tree:
    shape = image.get("spatial_shape")
    axes = len(shape) if isinstance(shape, list) else 0
    known: Tree = {}
    if axes in (2, 3):
        known = {"dimensions": f"{axes}D", "layout": {2: "NCHW", 3: "NCDHW"}[axes]}
    modality = str(image.get("modality", "")).upper()
    named = {"MRI": "MR", "PET": "PT"}.get(modality, modality)
    if named in _MODALITIES:
        known["modality"] = [named]
    if units := _UNITS.get(str(image.get("format", "")).lower()):
        known["units"] = units
    return known


def _one(spec: Tree, role: str, roles: list[str]) -> Tree:
    primary: Tree = {"primary": True} if len(roles) == 1 else {}
    return primary | {"tensor": role} | spec


def _patch(bundle: Bundle, image: Mapping[str, Any]) -> tuple[tuple[int, ...], Tree]:
    """Sizes for the export, and the sliding window where the bundle uses one."""
    inferer = _table(bundle.config.get("inferer"))
    shape = image.get("spatial_shape")
    open_sizes = shape if isinstance(shape, list) else []
    sizes = tuple(each if isinstance(each, int) else _EXAMPLE for each in open_sizes)
    if not str(inferer.get("_target_", "")).endswith("SlidingWindowInferer"):
        return sizes or (_EXAMPLE,) * 3, {}
    roi = inferer.get("roi_size")
    if not isinstance(roi, list | tuple) or not all(isinstance(n, int) and n > 0 for n in roi):
        raise ModelFileError("the bundle's inferer names no roi_size that can be read")
    overlap = inferer.get("overlap", 0.25)  # MONAI's own where the bundle is silent
    shares = set(overlap) if isinstance(overlap, list) else {overlap}
    if len(shares) != 1 or not all(isinstance(share, int | float) for share in shares):
        raise ModelFileError("the bundle's inferer names no overlap that holds for all axes")
    mode = inferer.get("mode", "constant")
    if mode not in ("constant", "gaussian"):
        raise ModelFileError("the bundle's inferer blends neither constant nor gaussian")
    return tuple(roi), {"patch": list(roi), "overlap": float(shares.pop()), "blend": mode}


def _output(end: Mapping[str, Any], said: Tree) -> Tree:
    """Segments or findings by the names of the channels."""
    channels = _table(end.get("channel_def"))
    named = {int(at): str(name) for at, name in channels.items() if str(at).isdigit()}
    threshold = {"threshold": said["threshold"]} if "threshold" in said else {}
    if str(end.get("format")) == "segmentation":
        labels = {key: said[key] for key in ("activation", "select") if key in said}
        shape = end.get("spatial_shape")
        layout = "NCHW" if isinstance(shape, list) and len(shape) == 2 else "NCDHW"
        # Without a word on softmax the highest score is the highest probability all the same.
        if labels.get("select") == "argmax":
            labels.setdefault("activation", "softmax")
        background = labels.get("select") == "argmax"
        cleaning = {"cleaning": said["cleaning"]} if "cleaning" in said else {}
        return cleaning | {
            "task": "segmentation",
            "volume": True,
            "labels": {"tensor": "scores", "layout": layout, "encoding": "channels"} | labels,
            "segment": {
                plain(name): segment(number if background else number + 1, name, number) | threshold
                for number, name in named.items()
                if not (background and number == 0)
            },
        }
    if str(end.get("format")) in ("classification", "probabilities", "labels"):
        activation = {key: said[key] for key in ("activation",) if key in said}
        score = {"tensor": "scores"} | activation | threshold
        return {
            "task": "classification",
            "finding": {
                plain(name): structure(name)
                | {"description": f"{name}.", "score": score | {"index": index}}
                for index, name in named.items()
            },
        }
    return {}


def _notes(sliding: Tree) -> list[str]:
    if not sliding:
        return []
    return ["the patch is that of the bundle's inferer, and the graph takes no other size"]
