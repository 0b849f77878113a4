"""The kinds of sources, one module each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai.importing import (
    deepbet,
    monai_bundle,
    nnunet,
    onnx_graph,
    rapidocr,
    sklearn,
    tensorflow,
    xrayvision,
)
from ai.importing.draft import Draft, Options


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        read: Reads a source with the options and the answers of its import.
        options: The options it knows.
        about: What it is, in a few words.
    """

    read: Callable[[Path, Any, Mapping[str, Any]], Draft]
    options: type[Options]
    about: str


KINDS: Mapping[str, Kind] = {
    "onnx": Kind(onnx_graph.read, Options, "an ONNX file"),
    "monai": Kind(monai_bundle.read, monai_bundle.BundleOptions, "a MONAI bundle"),
    "torchxrayvision": Kind(
        xrayvision.read, xrayvision.XrayOptions, "weights of a torchxrayvision DenseNet"
    ),
    "nnunet": Kind(nnunet.read, nnunet.NnunetOptions, "a trained model folder of nnU-Net"),
    "deepbet": Kind(
        deepbet.read, deepbet.DeepbetOptions, "the wheel of deepbet 1.0.2, for mr-brain"
    ),
    "rapidocr": Kind(
        rapidocr.read,
        rapidocr.RapidocrOptions,
        "the wheel of rapidocr-onnxruntime 1.4.4, for burned-in-text",
    ),
    "sklearn": Kind(
        sklearn.read, sklearn.SklearnOptions, "a scikit-learn estimator saved by skops"
    ),
    "tensorflow": Kind(tensorflow.read, tensorflow.TensorflowOptions, "a SavedModel or .keras"),
}
