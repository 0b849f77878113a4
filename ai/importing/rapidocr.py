"""rapidocr-onnxruntime 1.4.4: PP-OCR networks that find and read lettering (PyPI, Apache-2.0)."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ai.content.lettering import READER
from ai.importing.draft import Draft, Options, Tree
from ai.manifest import Manifest
from config.errors import ModelFileError

_FOLDER = "rapidocr_onnxruntime/models/"
# What is known of these networks is known of these very bytes.
_NETWORKS: Mapping[str, tuple[str, str]] = {
    "finder": (
        f"{_FOLDER}ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
    "reader": (
        f"{_FOLDER}ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    ),
}

_KNOWN: Tree = {
    "name": "burned-in-text",
    "version": "1.4.4",
    "vendor": "rapidocr-onnxruntime",
    "intended_use": "Finds lettering in the pixels of images, to have a person look. "
    "That it finds none does not show that there is none.",
    "description": "Networks of PP-OCRv4, trained on photographs and documents, not on medical "
    "images: small, faint, turned or handwritten lettering is missed.",
    "basis": "trained",
    "licence": "Apache-2.0",
    "clinical_domain": "Radiology",
    "results": ["seg"],
    "inputs": {
        "image": {
            "primary": True,
            "tensor": "x",
            "modality": ["US", "OT", "XC", "ES", "CR", "DX", "XA", "RF", "SC", "IVUS"],
            "units": "1",
            "dimensions": "2D",
            "apply": "slices",
            "batch": 1,
            "colour": "luminance",
            "normalisation": {"kind": "minmax", "to": [-1.0, 1.0]},
            "multiple_of": 32,
            "pad_value": -1.0,
            "channels": 3,
            "layout": "NCHW",
        }
    },
    "output": {
        "task": "segmentation",
        "labels": {
            "tensor": "sigmoid_0.tmp_0",
            "layout": "NCHW",
            "encoding": "channels",
            "activation": "none",
            "select": "threshold",
        },
        "segment": {
            "lettering": {
                "number": 1,
                "channel": 0,
                "threshold": 0.3,
                "category": ["309825002", "SCT", "Spatial and Relational Concept"],
                "type": ["111099", "DCM", "Selected region"],
                "color": [240, 200, 80],
                "description": "Lettering in the pixels.",
            }
        },
    },
}


class RapidocrOptions(Options):
    """``[import]`` for rapidocr, whose networks see an image as it is shown."""

    as_is: tuple[Literal["spacing", "orientation"], ...] = ("spacing", "orientation")


def read(source: Path, options: RapidocrOptions, answers: Mapping[str, Any]) -> Draft:
    """Finds the two networks in rapidocr's wheel.

    Raises:
        ModelFileError: They are not there, or others.
    """
    del options, answers
    held = {name: _held(source, path, digest) for name, (path, digest) in _NETWORKS.items()}

    def write(path: Path, manifest: Manifest) -> None:
        del manifest
        path.write_bytes(held["finder"])
        path.with_name(READER).write_bytes(held["reader"])

    return Draft(_KNOWN, write)


def _held(source: Path, name: str, digest: str) -> bytes:
    try:
        with zipfile.ZipFile(source) as archive:
            content = archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{source.name} is not rapidocr-onnxruntime 1.4.4: it has no {name}"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelFileError(f"{name} of {source.name} is not that of rapidocr-onnxruntime 1.4.4")
    return content
