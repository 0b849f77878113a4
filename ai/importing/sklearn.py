"""Estimators of scikit-learn, saved by skops, that take the pixels of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
from pydantic import Field

from ai.importing.codes import plain, structure
from ai.importing.descriptions import one_line
from ai.importing.draft import Draft, Options, Tree
from ai.importing.extra import need
from ai.importing.questions import Question
from ai.importing.torch_export import relative
from ai.manifest import Manifest
from config.errors import ModelFileError, UsageError

_OPSET = 17
_ROWS = 64  # of the comparison


class SklearnOptions(Options):
    """``[import]`` for scikit-learn.

    Attributes:
        trusted: Types of scikit-learn, scipy or numpy that skops does not load by itself, such as
            ``sklearn.tree._tree.Tree``, whose numbers nothing checks.
    """

    trusted: tuple[Annotated[str, Field(pattern=r"^(sklearn|scipy|numpy)\.[\w.]+$")], ...] = ()


def read(source: Path, options: SklearnOptions, answers: Mapping[str, Any]) -> Draft:
    """Reads an estimator.

    Raises:
        ModelFileError: It is no file of skops, holds other types than scikit-learn's own, or is
            no classifier or regressor.
    """
    del answers
    estimator = load_estimator(source, options.trusted)
    features = int(getattr(estimator, "n_features_in_", 0))
    classes = [str(each) for each in getattr(estimator, "classes_", ())]
    if features < 1 or not hasattr(estimator, "predict"):
        raise ModelFileError(f"{source.name} is no fitted classifier or regressor")
    if classes and not hasattr(estimator, "predict_proba"):
        raise ModelFileError(f"{source.name} gives classes without probabilities")
    image = {"primary": True, "tensor": "image", "dimensions": "2D", "layout": "NCHW"}
    known: Tree = {"basis": "trained", "inputs": {"image": image}, "output": _output(classes)}
    questions = [
        Question(
            ("inputs", "image", "size"),
            f"rows and columns of the image whose {features} pixels, row by row, it was fitted to",
        )
    ]
    if not classes:
        text = 'what it measures: [{ tensor = "variable", name = [...], unit = [...] }]'
        questions.append(Question(("output", "finding", "value", "measurement"), text))

    def write(path: Path, manifest: Manifest) -> str:
        size = manifest.input.size or ()
        if int(np.prod(size)) != features:
            raise UsageError(f"inputs.image.size has not the {features} pixels of the estimator")
        path.write_bytes(_converted(estimator, features, size, bool(classes)))
        return _compared(estimator, path, size, options.tolerance)

    return Draft(known, write, questions=tuple(questions))


def load_estimator(source: Path, trusted: Sequence[str] = ()) -> Any:
    """An estimator from a file of skops; pickles and joblib's files are refused.

    Raises:
        ModelFileError: It is no such file, or holds types that are neither known nor trusted.
    """
    io = need("skops.io")
    try:
        unknown = io.get_untrusted_types(file=source)
    except Exception as error:  # zip's, json's and skops' own errors have no common base
        raise ModelFileError(
            f"{source.name} is no file of skops; a pickle or joblib file is not loaded, because "
            "that would run what it says: save the estimator with skops.io.dump instead"
        ) from error
    if strange := sorted(set(map(str, unknown)) - set(trusted)):
        raise ModelFileError(
            f"{source.name} holds types that are not loaded unless import.trusted names them, "
            f"which takes those of scikit-learn, scipy and numpy: {', '.join(strange)[:200]}"
        )
    return io.load(source, trusted=list(trusted))


def _output(classes: list[str]) -> Tree:
    if not classes:
        return {"task": "measurement", "finding": {"value": {}}}
    score = {"tensor": "probabilities", "activation": "none"}
    return {
        "task": "classification",
        "finding": {
            plain(name): structure(name) | {"score": score | {"index": index}}
            for index, name in enumerate(classes)
        },
    }


def _converted(estimator: Any, features: int, size: tuple[int, ...], scores: bool) -> bytes:
    """The estimator as a graph behind one that puts the pixels of an image in a row."""
    onnx, skl2onnx = need("onnx"), need("skl2onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    pixels = need("skl2onnx.common.data_types").FloatTensorType([None, features])
    options = {id(estimator): {"zipmap": False}} if scores else None
    try:
        graph = skl2onnx.convert_sklearn(
            estimator, initial_types=[("pixels", pixels)], options=options, target_opset=_OPSET
        )
    except Exception as error:  # of converters that many hands wrote
        reason = one_line(error)
        raise ModelFileError(f"the estimator cannot be written as ONNX: {reason}") from error
    flat = helper.make_model(
        helper.make_graph(
            [helper.make_node("Reshape", ["image", "row"], ["flat"])],
            "flat",
            [helper.make_tensor_value_info("image", kind.FLOAT, ("N", 1, *size))],
            [helper.make_tensor_value_info("flat", kind.FLOAT, ("N", features))],
            [helper.make_tensor("row", kind.INT64, [2], [-1, features])],
        ),
        opset_imports=list(graph.opset_import),
        ir_version=graph.ir_version,
    )
    wanted = "probabilities" if scores else "variable"
    whole = onnx.compose.merge_models(flat, graph, [("flat", "pixels")], outputs=[wanted])
    content: bytes = whole.SerializeToString()
    return content


def _compared(estimator: Any, path: Path, size: tuple[int, ...], tolerance: float) -> str:
    images = np.random.default_rng(1).random((_ROWS, 1, *size), np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"image": images})
    answers = getattr(estimator, "predict_proba", estimator.predict)
    wanted = np.asarray(answers(images.reshape(_ROWS, -1)), np.float32).reshape(given.shape)
    largest = relative(given, wanted)
    if largest > tolerance:
        raise ModelFileError(f"the ONNX graph differs from the estimator by {largest:.1e}")
    return (
        f"the ONNX graph differs from the estimator by {largest:.1e} of the largest number on "
        f"random input; {tolerance:.1e} is allowed"
    )
