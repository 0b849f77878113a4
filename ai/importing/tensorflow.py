"""Models of TensorFlow, through tf2onnx: a SavedModel, or Keras' own format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ai.importing.descriptions import one_line
from ai.importing.draft import Draft, Options
from ai.importing.extra import need
from ai.importing.onnx_file import Graph, read_graph
from ai.importing.onnx_graph import of_graph
from ai.importing.torch_export import relative
from ai.manifest import Manifest
from config.errors import ModelFileError

_OPSET = 17
_EXAMPLE = 64  # along an axis that the model leaves open


class TensorflowOptions(Options):
    """``[import]`` for TensorFlow.

    Attributes:
        signature: Which of a SavedModel's functions.
    """

    signature: str = "serving_default"


def read(source: Path, options: TensorflowOptions, answers: Mapping[str, Any]) -> Draft:
    """Converts a model; what its graph tells is known then.

    Raises:
        ModelFileError: It is no such model, or cannot be converted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its banner is no word of the command
    call, specs = _function(source, options)
    graph = _converted(call, specs, source)
    largest = _difference(call, specs, graph)
    if largest > options.tolerance:
        raise ModelFileError(f"the ONNX graph differs from the model by {largest:.1e}")
    draft = of_graph(graph, answers, source.name)
    compared = (
        f"the ONNX graph differs from the model by {largest:.1e} of the largest number on random "
        f"input; {options.tolerance:.1e} is allowed"
    )

    def write(path: Path, manifest: Manifest) -> str:
        draft.write(path, manifest)
        return compared

    return replace(draft, known={"basis": "trained"} | draft.known, write=write)


def _function(source: Path, options: TensorflowOptions) -> tuple[Any, dict[str, Any]]:
    """The model as a function of named tensors, and what each of them is."""
    tf = need("tensorflow")
    if source.is_dir() and (source / "saved_model.pb").is_file():
        try:
            loaded = tf.saved_model.load(str(source))
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"{source.name} is no SavedModel that can be read") from error
        known = loaded.signatures
        if options.signature not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ModelFileError(f"{source.name} has the signatures {names}")
        function = known[options.signature]
        specs = dict(function.structured_input_signature[1])
        # The function lives as long as what was loaded.
        return _keeping(function, loaded), specs
    if source.suffix == ".keras":
        try:
            model = tf.keras.models.load_model(str(source), compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever its layers raise
            reason = one_line(error)
            raise ModelFileError(f"{source.name} cannot be loaded safely: {reason}") from error
        roles = [each.name.partition(":")[0] for each in model.inputs]
        specs = {
            name: tf.TensorSpec(each.shape, each.dtype, name=name)
            for name, each in zip(roles, model.inputs, strict=True)
        }

        def call(**tensors: Any) -> dict[str, Any]:
            given = [tensors[name] for name in roles]
            scores = model(given[0] if len(given) == 1 else given, training=False)
            several = scores if isinstance(scores, list | tuple) else [scores]
            return {f"output_{at}": each for at, each in enumerate(several)}

        return call, specs
    raise ModelFileError(f"{source.name} is neither a SavedModel nor a file of Keras 3 (.keras)")


def _keeping(function: Any, loaded: Any) -> Any:
    function.loaded = loaded
    return function


def _converted(call: Any, specs: dict[str, Any], source: Path) -> Graph:
    tf, convert = need("tensorflow"), need("tf2onnx.convert")
    names = list(specs)
    signature = [tf.TensorSpec(each.shape, each.dtype, name=name) for name, each in specs.items()]
    function = tf.function(lambda *tensors: call(**dict(zip(names, tensors, strict=True))))
    try:
        model, _ = convert.from_function(function, input_signature=signature, opset=_OPSET)
    except Exception as error:  # of converters that many hands wrote
        reason = one_line(error)
        raise ModelFileError(f"{source.name} cannot be written as ONNX: {reason}") from error
    with tempfile.TemporaryDirectory(prefix="medai-import-") as work:
        path = Path(work) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return read_graph(path)


def _difference(call: Any, specs: dict[str, Any], graph: Graph) -> float:
    tf = need("tensorflow")
    random = np.random.default_rng(1)
    images = {}
    for name, spec in specs.items():
        sizes = [_EXAMPLE if size is None else int(size) for size in spec.shape]
        images[name] = random.random([1, *sizes[1:]], np.float32)
    wanted = call(**{name: tf.constant(each) for name, each in images.items()})
    session = ort.InferenceSession(graph.content, providers=["CPUExecutionProvider"])
    given = session.run([each.name for each in graph.outputs], images)
    expected = {name: each.numpy() for name, each in wanted.items()}
    return max(
        relative(value, expected[end.name.partition(":")[0]])
        for end, value in zip(graph.outputs, given, strict=True)
    )
