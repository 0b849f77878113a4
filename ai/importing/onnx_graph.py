"""ONNX as it is: its ends are read, the rest is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ai.importing.codes import plain
from ai.importing.draft import Draft, Options, Tree
from ai.importing.onnx_file import Graph, Tensor, read_graph
from ai.importing.questions import Question, hint
from ai.manifest import Manifest
from config.errors import ModelFileError

KIND = "onnx"


def read(source: Path, options: Options, answers: Mapping[str, Any]) -> Draft:
    """Reads an ONNX file.

    Raises:
        ModelFileError: It is none, or its inputs are not what an image can be given to.
    """
    del options
    graph = read_graph(source)
    return of_graph(graph, answers, source.name)


def of_graph(graph: Graph, answers: Mapping[str, Any], source: str) -> Draft:
    """What the ends of a graph tell, whoever made it."""
    images = [tensor for tensor in graph.inputs if _is_image(tensor, source)]
    if not images:
        ends = ", ".join(map(str, graph.inputs))
        raise ModelFileError(f"{source} takes no image: its inputs are {ends or 'none'}")
    known: Tree = {"inputs": _inputs(images, answers)}
    questions = [
        Question(("inputs", role, "facts"), f"which fact of the image {tensor} takes")
        for role in list(known["inputs"])[:1]
        for tensor in graph.inputs
        if tensor not in images
    ]
    questions += _patches(images, known["inputs"], answers)
    output = _output(graph, answers)
    if output:
        known["output"] = output
    elif "output" not in answers:
        ends = ", ".join(map(str, graph.outputs))
        text = f"{hint(('output', 'task'))}; the graph gives {ends}"
        questions.append(Question(("output", "task"), text))

    def write(path: Path, manifest: Manifest) -> None:
        del manifest
        path.write_bytes(graph.content)

    return Draft(known, write, questions=tuple(questions))


def _patches(images: list[Tensor], inputs: Tree, answers: Mapping[str, Any]) -> list[Question]:
    """Whether a 3D graph of one size is given patches, or volumes made of that size."""
    said = answers.get("inputs")
    given = said if isinstance(said, dict) else {}
    sizes = {
        role: tensor.shape[-3:] if spec.get("layout") == "NCDHW" else tensor.shape[1:4]
        for tensor, (role, spec) in zip(images, inputs.items(), strict=True)
        if spec.get("dimensions") == "3D" and tensor.shape is not None
    }
    return [
        Question(
            ("inputs", role, "sliding"),
            f"the graph takes {' × '.join(map(str, shape))} voxels: {{ patch = {list(shape)} }} "
            "where it was trained on patches; else size, to which a volume is resampled",
        )
        for role, shape in sizes.items()
        if None not in shape and "size" not in given.get(role, {})
    ]


def _is_image(tensor: Tensor, source: str) -> bool:
    if tensor.kind != "FLOAT":
        raise ModelFileError(f"{source}: the input {tensor.name} is {tensor.kind}, not FLOAT")
    return tensor.shape is None or len(tensor.shape) in (3, 4, 5)


def _inputs(images: list[Tensor], answers: Mapping[str, Any]) -> Tree:
    said = answers.get("inputs")
    given = said if isinstance(said, dict) else {}
    roles = {spec.get("tensor"): role for role, spec in given.items() if isinstance(spec, dict)}
    alone = len(images) == 1
    only = next(iter(given)) if alone and len(given) == 1 else "image"
    inputs: Tree = {}
    for tensor in images:
        role = roles.get(tensor.name) or (only if alone else plain(tensor.name).replace(" ", "-"))
        spec: Tree = {"primary": True} if alone else {}
        inputs[role] = spec | {"tensor": tensor.name} | _axes(tensor)
    return inputs


def _axes(tensor: Tensor) -> Tree:
    """What the shape tells for certain of an image's axes."""
    shape = tensor.shape or ()
    if len(shape) == 5:
        places = [at for at in (1, 4) if shape[at] == 1]
        layout = {1: "NCDHW", 4: "NDHWC"}[places[0]] if len(places) == 1 else None
        return {"dimensions": "3D"} | ({"layout": layout} if layout else {})
    places = [at for at in (1, 3) if len(shape) == 4 and shape[at] == 1]
    if len(places) != 1:
        return {}
    layout = {1: "NCHW", 3: "NHWC"}[places[0]]
    sizes = [shape[layout.index(axis)] for axis in "HW"]
    known: Tree = {"dimensions": "2D", "layout": layout}
    return known if None in sizes else known | {"size": sizes}


def _output(graph: Graph, answers: Mapping[str, Any]) -> Tree:
    """Which tensor an answer is read from, where the graph has one."""
    said = answers.get("output")
    if not isinstance(said, dict) or len(graph.outputs) != 1:
        return {}
    name = graph.outputs[0].name
    if said.get("task") == "segmentation":
        return {"labels": {"tensor": name}}
    findings = said.get("finding")
    tables = findings.items() if isinstance(findings, dict) else ()
    return {"finding": {each: _read_from(name, entry) for each, entry in tables}}


def _read_from(tensor: str, finding: Any) -> Tree:
    score = isinstance(finding, dict) and isinstance(finding.get("score"), dict)
    return {"score": {"tensor": tensor}} if score else {}
