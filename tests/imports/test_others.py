"""scikit-learn and TensorFlow: fitted and made here, brought in as packages.

Run where the extra ``import`` is installed: ``pytest -m imports``.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
import tensorflow as tf
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from ai.engine import Engine
from ai.golden import read_cases
from ai.importing.build import Imported, import_model
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from config.errors import ManifestError, ModelFileError, UsageError
from tests.unit.ai.importing.sources import ABOUT, OPACITY, RADIOGRAPH, answered

pytestmark = [pytest.mark.imports, pytest.mark.filterwarnings("default")]

ROWS, COLUMNS = 6, 5
CLASSES = """
[output.finding.dark]
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["112001", "DCM", "Opacity"]
description = "The image is dark."

[import]
leave_out = ["bright"]
"""
MEASUREMENT = """
[output.finding.value]
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["112001", "DCM", "Opacity"]
description = "How bright the image is."
measurement = [
    { tensor = "variable", name = ["112031", "DCM", "Brightness"], unit = ["1", "UCUM", "no"] },
]
"""
TREE = 'import.trusted=["sklearn.tree._tree.Tree"]'
SIZE = f"inputs.image.size=[{ROWS}, {COLUMNS}]"


def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).random((200, ROWS * COLUMNS)).astype(np.float32)


def bright(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(rows.mean(1) > 0.5, "bright", "dark")


def run(made: Imported, value: int) -> Any:
    image = np.full((1, 60, 50), value, np.uint16)
    volume = Volume(image, "1", None, (None, None, None), (0.0, 4095.0))
    engine = Engine(Registry([]), SessionCache(("cpu",), 1))
    return engine.run(made.package, {"image": volume}).findings


@pytest.mark.feature("F25")
@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(20, random_state=1),
    ],
    ids=["logistic", "forest"],
)
def test_a_classifier_of_pixels_says_what_it_said(tmp_path: Path, estimator: Any) -> None:
    rows = pixels()
    estimator.fit(rows, bright(rows))
    skops.io.dump(estimator, tmp_path / "model.skops")
    text = ABOUT + RADIOGRAPH.replace("[-1, 1]", "[0, 1]") + CLASSES
    answers = answered(tmp_path, text, SIZE, TREE)
    made = import_model("sklearn", tmp_path / "model.skops", tmp_path / "site", answers)
    assert "differs from the estimator by" in made.notes[0]
    (finding,) = run(made, 0)
    wanted = estimator.predict_proba(np.zeros((1, ROWS * COLUMNS), np.float32))[0, 1]
    assert finding.confidence.value == pytest.approx(wanted, abs=1e-4)
    assert run(made, 4095) == ()


@pytest.mark.feature("F25")
def test_a_regressor_of_pixels_measures(tmp_path: Path) -> None:
    rows = pixels()
    skops.io.dump(LinearRegression().fit(rows, 3 * rows.mean(1)), tmp_path / "model.skops")
    text = ABOUT + RADIOGRAPH.replace("[-1, 1]", "[0, 1]") + MEASUREMENT
    made = import_model(
        *("sklearn", tmp_path / "model.skops", tmp_path / "site"), answered(tmp_path, text, SIZE)
    )
    (finding,) = run(made, 4095)
    assert finding.measurements[0].value == pytest.approx(3.0, abs=1e-3)


def test_what_an_estimator_does_not_tell_is_asked(tmp_path: Path) -> None:
    rows = pixels()
    skops.io.dump(LinearRegression().fit(rows, rows.mean(1)), tmp_path / "model.skops")
    with pytest.raises(ManifestError) as error:
        import_model(
            *("sklearn", tmp_path / "model.skops", tmp_path / "site"), answered(tmp_path, ABOUT)
        )
    keys = {fault.key for fault in error.value.faults}
    assert {"inputs.image.size", "output.finding.value.measurement"} <= keys
    text = ABOUT + RADIOGRAPH + MEASUREMENT
    with pytest.raises(UsageError, match="has not the 30 pixels"):
        import_model(
            *("sklearn", tmp_path / "model.skops", tmp_path / "site"),
            answered(tmp_path, text, "inputs.image.size=[5, 5]"),
        )


@pytest.mark.parametrize(
    "dump", [joblib.dump, lambda held, path: path.write_bytes(pickle.dumps(held))]
)
def test_pickles_are_not_loaded(tmp_path: Path, dump: Any) -> None:
    rows = pixels()
    dump(LinearRegression().fit(rows, rows.mean(1)), tmp_path / "model.pkl")
    with pytest.raises(ModelFileError, match="no file of skops; a pickle or joblib file is not"):
        import_model(
            *("sklearn", tmp_path / "model.pkl", tmp_path / "site"), answered(tmp_path, ABOUT)
        )


def test_types_that_are_not_of_the_library_are_refused(tmp_path: Path) -> None:
    rows = pixels()
    model = make_pipeline(FunctionTransformer(bright_pixels), LinearRegression())
    skops.io.dump(model.fit(rows, rows.mean(1)), tmp_path / "model.skops")
    with pytest.raises(ModelFileError, match=r"types that are not loaded .*bright_pixels"):
        import_model(
            *("sklearn", tmp_path / "model.skops", tmp_path / "site"), answered(tmp_path, ABOUT)
        )


def bright_pixels(rows: Any) -> Any:
    return rows > 0.5


def convolution(outputs: int = 1) -> Any:
    tf.keras.utils.set_random_seed(4)
    layers = tf.keras.layers
    image = layers.Input((24, 20, 1), name="scan")
    hidden = layers.Conv2D(4, 3, activation="relu")(image)
    hidden = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(hidden))
    return tf.keras.Model(image, layers.Dense(outputs, name="score")(hidden))


@pytest.mark.feature("F25")
@pytest.mark.parametrize("saved", [True, False], ids=["SavedModel", "keras"])
def test_a_model_of_tensorflow_says_what_it_said(tmp_path: Path, saved: bool) -> None:
    model = convolution()
    path = tmp_path / ("saved" if saved else "model.keras")
    if saved:
        model.export(path, verbose=False)
    else:
        model.save(path)
    text = ABOUT + RADIOGRAPH + OPACITY.replace('"sigmoid"', '"sigmoid", threshold = 0.0')
    made = import_model("tensorflow", path, tmp_path / "site", answered(tmp_path, text))
    assert "differs from the model by" in made.notes[0]
    (spec,) = made.package.manifest.inputs
    assert (spec.layout, spec.size) == ("NHWC", (24, 20))
    (finding,) = run(made, 4095)
    (score,) = model(np.full((1, 24, 20, 1), 1.0, np.float32)).numpy()[0]
    assert finding.confidence.value == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-4)
    assert read_cases(made.package)


def test_code_in_a_file_of_keras_is_not_run(tmp_path: Path) -> None:
    witness = str(tmp_path / "witness")
    layers = tf.keras.layers
    image = layers.Input((8, 8, 1))
    made = layers.Lambda(lambda x, place=witness: (open(place, "w").close(), x)[1])(image)
    tf.keras.Model(image, made).save(tmp_path / "model.keras")
    (tmp_path / "witness").unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match="cannot be loaded safely"):
        import_model(
            *("tensorflow", tmp_path / "model.keras", tmp_path / "site"), answered(tmp_path, ABOUT)
        )
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("name", ["model.h5", "folder"])
def test_what_is_no_model_of_tensorflow_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"x")
    else:
        path.mkdir()
    with pytest.raises(ModelFileError, match="is neither a SavedModel nor a file of Keras 3"):
        import_model("tensorflow", path, tmp_path / "site", answered(tmp_path, ABOUT))


def test_a_signature_that_is_not_there_is_told(tmp_path: Path) -> None:
    convolution().export(tmp_path / "saved", verbose=False)
    text = ABOUT + '[import]\nsignature = "other"\n'
    with pytest.raises(ModelFileError, match="has the signatures serve, serving_default"):
        import_model("tensorflow", tmp_path / "saved", tmp_path / "site", answered(tmp_path, text))
