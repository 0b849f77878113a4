"""deepbet 1.0.2: brain extraction on T1-weighted MR, two networks in the package on PyPI (MIT)."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ai.importing.brain_graph import INPUT, OUTPUT, brain_graph
from ai.importing.draft import Draft, Options, Tree
from ai.importing.extra import need
from ai.importing.torch_export import Shape, export, load_script
from ai.manifest import Manifest
from config.errors import ModelFileError

# What is known of these networks is known of these very bytes.
_NETWORKS: Mapping[str, tuple[str, str]] = {
    "finder": (
        "data/models/bbox_model.pt",
        "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    ),
    "network": (
        "data/models/model.pt",
        "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
    ),
}
_EXAMPLE = Shape((1,), (64, 64, 64), fixed=False)

_KNOWN: Tree = {
    "name": "mr-brain",
    "version": "1.0.2",
    "vendor": "deepbet",
    "intended_use": "Outlines the brain on T1-weighted MR and measures it. Not for diagnosis.",
    "description": "Two networks of deepbet 1.0.2, trained on T1-weighted MR of adults' heads: "
    "what lies within the skull, brain and the fluid around it. On other images it answers too, "
    "and wrongly.",
    "basis": "trained",
    "licence": "MIT",
    "clinical_domain": "Radiology",
    "results": ["seg", "sr"],
    "inputs": {
        "image": {
            "primary": True,
            "tensor": INPUT,
            "modality": ["MR"],
            "units": "1",
            "dimensions": "3D",
            "batch": 1,
            "min_slices": 32,
            "max_slices": 1024,
            "orientation": "RAS",
            "normalisation": {"kind": "none"},  # the graph does it
            "layout": "NCDHW",
            "content": {"body_part": ["head"]},
        }
    },
    "output": {
        "task": "segmentation",
        "volume": True,
        "labels": {
            "tensor": OUTPUT,
            "layout": "NCDHW",
            "encoding": "channels",
            "activation": "none",
            "select": "threshold",
            "confidence": "mean",
        },
        "segment": {
            "brain": {
                "number": 1,
                "channel": 0,
                "threshold": 0.5,
                # PS3.16 CID 7150 and 7140.
                "category": ["91723000", "SCT", "Anatomical Structure"],
                "type": ["128319008", "SCT", "Intracranial structure"],
                "color": [230, 180, 160],
                "description": "Brain and the fluid around it: the intracranial volume.",
                "cleaning": {"fill_holes": "volume", "keep_largest": 1, "touching": "corners"},
            }
        },
    },
}


class DeepbetOptions(Options):
    """``[import]`` for deepbet, whose networks stretch what they are given themselves."""

    as_is: tuple[Literal["spacing", "orientation"], ...] = ("spacing",)


def read(source: Path, options: DeepbetOptions, answers: Mapping[str, Any]) -> Draft:
    """Finds the two networks in deepbet's wheel, or in a folder that it was unpacked to.

    Raises:
        ModelFileError: They are not there, or others.
    """
    del answers
    held = {name: _held(source, path, digest) for name, (path, digest) in _NETWORKS.items()}

    def write(path: Path, manifest: Manifest) -> str:
        del manifest
        onnx = need("onnx")
        told, graphs = [], {}
        with tempfile.TemporaryDirectory(prefix="medai-deepbet-") as work:
            for name, content in held.items():
                script, graph = Path(work) / f"{name}.pt", Path(work) / f"{name}.onnx"
                script.write_bytes(content)
                network = load_script(script)
                told.append(f"{name}: {export(network, ['x'], _EXAMPLE, graph, options.tolerance)}")
                graphs[name] = onnx.load(graph)
        path.write_bytes(brain_graph(graphs["finder"], graphs["network"]))
        return "; ".join(told)

    return Draft(_KNOWN, write)


def _held(source: Path, name: str, digest: str) -> bytes:
    try:
        content = (source / name).read_bytes() if source.is_dir() else _in_wheel(source, name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{source.name} is not deepbet 1.0.2: it has no {name}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelFileError(f"{name} of {source.name} is not that of deepbet 1.0.2")
    return content


def _in_wheel(source: Path, name: str) -> bytes:
    with zipfile.ZipFile(source) as archive:
        return archive.read(name)
