"""Weights of a DenseNet of torchxrayvision; they are downloaded by whoever imports them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ai.importing.codes import plain, structure
from ai.importing.draft import Draft, Options, Tree
from ai.importing.extra import need
from ai.importing.questions import Question
from ai.importing.torch_export import OPSET, Shape, compared, export, fill, load_state, parameters
from ai.manifest import Manifest
from config.errors import ModelFileError, UsageError

_SIZE = 224
_LUNG = ["39607008", "SCT", "Lung"]
# Names of pathologies that say for certain what PS3.16 has a code for.
_FINDINGS: Mapping[str, Mapping[str, Any]] = {
    "Edema": structure("pulmonary edema"),
    "Effusion": structure("pleural effusion"),
    "Fibrosis": structure("fibrosis"),
    "Lung Lesion": structure("lesion") | {"site": _LUNG},
    "Lung Opacity": {
        "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
        "type": ["112001", "DCM", "Opacity"],
        "site": _LUNG,
    },
    "Mass": structure("mass"),
    "Nodule": structure("nodule"),
    "Pneumothorax": structure("pneumothorax"),
}
_MODULES = ("Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "AvgPool2d", "Linear", "Sequential")


class XrayOptions(Options):
    """``[import]`` for torchxrayvision, whose graph takes images of any size.

    Attributes:
        weights: Name of published weights, such as ``densenet121-res224-all``: says what each score
            is, and the operating points that scores are scaled by.
        labels: What each score is, where the weights are one's own; empty for one without a name.
    """

    as_is: tuple[Literal["spacing", "orientation"], ...] = ("spacing",)
    weights: str | None = None
    labels: tuple[str, ...] = ()


def read(source: Path, options: XrayOptions, answers: Mapping[str, Any]) -> Draft:
    """Says what weights of torchxrayvision tell.

    Raises:
        UsageError: The library is not installed, or knows no such weights.
        ModelFileError: The file holds no weights, or others.
    """
    del answers
    labels, points = _named(options)
    known: Tree = {
        "vendor": "torchxrayvision",
        "basis": "trained",
        "clinical_domain": "Radiology",
        "inputs": {"image": _input()},
        "output": {"task": "classification", "finding": _findings(labels)},
    }
    text = "name of the published weights, or import.labels: what each score is, in order"
    questions = () if labels else (Question(("import", "weights"), text),)

    def write(path: Path, manifest: Manifest) -> str:
        network = load_network(source, len(labels), points)
        tensors = [manifest.input.tensor]
        shape = Shape((1,), (_SIZE, _SIZE), fixed=True)
        export(network, tensors, shape, path, options.tolerance)
        return _shrunk(network, tensors[0], path, options.tolerance)

    scaled = ("scores are scaled so that the operating point of each finding becomes 0.5",)
    return Draft(known, write, scaled if points else (), questions)


def load_network(source: Path, scores: int, points: list[float]) -> Any:
    """The network with its weights; it answers with probabilities.

    Args:
        source: A checkpoint, or the network as a whole as torchxrayvision publishes it.
        scores: How many it has.
        points: Operating point of each score, or none.
    """
    torch, models = need("torch"), need("torchxrayvision.models")
    parts = [getattr(torch.nn, name) for name in _MODULES]
    own = [models.DenseNet, models._DenseBlock, models._DenseLayer, models._Transition]
    state = parameters(load_state(source, (*own, *parts)), source)
    state.pop("op_threshs", None)
    network = models.DenseNet(num_classes=scores, apply_sigmoid=True)
    fill(network, state, source)
    return _scaled(network, points) if points else network


def _scaled(network: Any, points: list[float]) -> Any:
    """The library's ``op_norm`` in operators that know no number of images.

    Up to its operating point a probability rises to 0.5, from there to 1; where there is no point
    it says nothing.
    """
    torch = need("torch")

    class Scaled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("points", torch.tensor(points))

        def forward(self, image: Any) -> Any:
            sure, points = self.network(image), self.points
            below, above = sure / (2 * points), 1 - (1 - sure) / (2 * (1 - points))
            scaled = torch.where(sure < points, below, above)
            return torch.where(torch.isnan(points), torch.full_like(scaled, 0.5), scaled)

    return Scaled().eval()


def _shrunk(network: Any, tensor: str, path: Path, tolerance: float) -> str:
    """Puts before the graph what shrinks an image of any size, smoothing it as the library does.

    The node's own resampling takes single pixels of a radiograph ten times as large.
    """
    onnx, torch = need("onnx"), need("torch")
    helper, kind = onnx.helper, onnx.TensorProto
    network_graph = onnx.compose.add_prefix(onnx.load(path), "network/")
    shrink = helper.make_node(
        *("Resize", [tensor, "", "", "size"], ["small"]),
        **{"mode": "linear", "antialias": 1, "axes": [2, 3]},
        coordinate_transformation_mode="half_pixel",
    )
    before = helper.make_model(
        helper.make_graph(
            [shrink],
            "shrink",
            [helper.make_tensor_value_info(tensor, kind.FLOAT, ("N", 1, "H", "W"))],
            [helper.make_tensor_value_info("small", kind.FLOAT, ("N", 1, _SIZE, _SIZE))],
            [helper.make_tensor("size", kind.INT64, [2], [_SIZE, _SIZE])],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=network_graph.ir_version,
    )
    (given,), (scores,) = network_graph.graph.input, network_graph.graph.output
    whole = onnx.compose.merge_models(before, network_graph, [("small", given.name)])
    whole.graph.node.append(helper.make_node("Identity", [scores.name], ["scores"]))
    whole.graph.output[0].name = "scores"
    onnx.save(whole, path)
    random = np.random.default_rng(2)
    trials = [[random.standard_normal((1, 1, n, n)).astype(np.float32)] for n in (_SIZE, 700)]

    def wanted(image: Any) -> Any:
        resize = torch.nn.functional.interpolate
        return network(resize(image, (_SIZE, _SIZE), mode="bilinear", antialias=True))

    return compared(wanted, path, [tensor], trials, tolerance)


def _named(options: XrayOptions) -> tuple[list[str], list[float]]:
    if options.weights is None:
        return list(options.labels), []
    published = need("torchxrayvision.models").model_urls
    found = published.get(options.weights)
    if found is None or "densenet" not in found["weights_url"]:
        known = ", ".join(name for name in published if name.startswith("densenet"))
        raise UsageError(f"torchxrayvision has no DenseNet {options.weights!r}; it has {known}")
    return list(found["labels"]), list(found.get("op_threshs", []))


def _input() -> Tree:
    # XRayCenterCrop and normalize of the library; the graph itself does what XRayResizer does.
    return {
        "primary": True,
        "tensor": "image",
        "modality": ["CR", "DX"],
        "units": "1",
        "dimensions": "2D",
        "apply": "whole",
        "black_lowest": True,
        "crop": {"to": "square"},
        "normalisation": {"kind": "value_range", "to": [-1024.0, 1024.0]},
        "layout": "NCHW",
    }


def _findings(labels: list[str]) -> Tree:
    findings: Tree = {}
    for index, label in enumerate(labels):
        name = plain(label)
        if name in findings:
            raise ModelFileError(f"two scores are called {label!r}")
        if name:
            said = f"{label.replace('_', ' ')}, as torchxrayvision scores it."
            score = {"tensor": "scores", "index": index, "activation": "none"}
            known = dict(_FINDINGS.get(label, {}))
            findings[name] = known | {"description": said, "score": score}
    return findings
