"""What is asked before a package is made, in words.

A key that ``model.toml`` must have is asked for because the manifest lacks it. The questions here
are those whose default would be a guess: a model that was trained on normalised values gives
answers without them too, and wrong ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Modalities whose images may come with either end of the scale white (PS3.3 C.7.6.3.1.2).
_RADIOGRAPHS = frozenset({"CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"})

HINTS: Mapping[str, str] = {
    "name": "what the package is called: lower case, digits and hyphens",
    "version": 'its version, such as "1.0.0"',
    "vendor": "who made the model, as every result names it",
    "intended_use": "what it is for and what it is not for, in one sentence",
    "description": "what it does and how it was made, in plain sentences",
    "basis": '"trained" or "rules"',
    "licence": "the licence of the weights, such as an SPDX identifier",
    "clinical_domain": 'the field it is for, such as "Radiology"',
    "results": 'which result objects are made of every answer, such as ["sr", "seg"]',
    "inputs": "the graph has more than one input that may be an image: a table a role",
    "inputs.*.primary": "true for the input whose geometry the results take",
    "inputs.*.modality": 'modalities it was trained on, such as ["CT"]',
    "inputs.*.units": 'UCUM code of the values: "[hnsf\'U]" for CT, "1" where they mean nothing',
    "inputs.*.dimensions": '"2D", "3D", or "2.5D" for a slice with its neighbours as channels',
    "inputs.*.apply": '"whole" for a single image, "slices" for each slice of a volume',
    "inputs.*.layout": "the order of the tensor's axes, such as NCHW or NCDHW",
    "inputs.*.channels": "1, or 3 where each channel takes the same grey image",
    "inputs.*.spacing": (
        "voxel spacing in mm along the tensor's axes that it was trained on, or size; "
        'import.as_is = ["spacing"] where it takes any'
    ),
    "inputs.*.orientation": (
        "towards which side of the patient the tensor's axes run: SPL for axial slices as DICOM "
        'stores them, RAS for NIfTI arrays; import.as_is = ["orientation"] where it takes any'
    ),
    "inputs.*.normalisation": (
        'how values were scaled in training, such as { kind = "zscore" }; '
        '{ kind = "none" } where they were not'
    ),
    "inputs.*.black_lowest": "true where its images showed the lowest value black, else false",
    "output.task": '"segmentation", "classification", "measurement" or "detection"',
    "output.labels": "the tensor that holds the labels: tensor, layout, encoding",
    "output.labels.activation": (
        '"softmax" or "sigmoid" for the scores of the graph; "none" where they are probabilities'
    ),
    "output.labels.select": '"argmax" or "threshold"',
    "output.segment": "a table a label: number, category, type, color, description",
    "output.boxes": "the tensors that hold boxes: tensor, format, scores, activation",
    "output.boxes.activation": (
        '"softmax" or "sigmoid" for the scores of the graph; "none" where they are probabilities'
    ),
    "output.object": "a table a class of boxes: index, category, type, description",
    "output.finding": "a table a finding: category, type, description, score or measurement",
    "output.*.*.category": (
        'coded category, such as ["91723000", "SCT", "Anatomical Structure"]; '
        "import.leave_out names what shall not be reported"
    ),
    "output.*.*.type": (
        'coded type, such as ["10200004", "SCT", "Liver"]; '
        "import.leave_out names what shall not be reported"
    ),
    "output.*.*.description": "what it means, in one sentence for a reader",
    "output.finding.*.score.activation": (
        '"softmax" or "sigmoid" for the scores of the graph; "none" where they are probabilities'
    ),
    "other": "see docs/model-packages.md",
}


@dataclass(frozen=True)
class Question:
    """What is not known: where it stands in the tree, and what is asked."""

    path: tuple[str, ...]
    text: str


def hint(path: Sequence[str]) -> str | None:
    """The words for a key, whatever the names on its way are."""
    for known, words in HINTS.items():
        parts = known.split(".")
        if len(parts) == len(path) and all(
            part in ("*", name) for part, name in zip(parts, path, strict=True)
        ):
            return words
    return None


def question(*path: str) -> Question:
    """The question for a key that has words of its own."""
    return Question(path, hint(path) or HINTS["other"])


def asked(known: Mapping[str, Any], as_is: Sequence[str]) -> Iterator[Question]:
    """Questions for what has a default that would be a guess."""
    inputs = known.get("inputs", {})
    for role, spec in inputs.items() if isinstance(inputs, dict) else ():
        if len(inputs) > 1 and not any(each.get("primary") for each in inputs.values()):
            yield question("inputs", role, "primary")
        yield from _of_input(role, spec, as_is)
    output = known.get("output", {})
    if isinstance(labels := output.get("labels"), dict) and labels.get("encoding") == "channels":
        yield question("output", "labels", "activation")
        yield question("output", "labels", "select")
    if isinstance(boxes := output.get("boxes"), dict) and "scores" in boxes:
        yield question("output", "boxes", "activation")
    for name, finding in _tables(output.get("finding")):
        if "score" in finding:
            yield question("output", "finding", name, "score", "activation")


def _tables(entries: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(entries, dict):
        yield from ((name, each) for name, each in entries.items() if isinstance(each, dict))


def _of_input(role: str, spec: Mapping[str, Any], as_is: Sequence[str]) -> Iterator[Question]:
    yield question("inputs", role, "normalisation")
    flat = spec.get("dimensions") == "2D"
    if flat:
        yield question("inputs", role, "apply")
    # The place of a single image in the patient is not known, and need not be.
    single = flat and spec.get("apply") != "slices"
    if not single and "orientation" not in as_is:
        yield question("inputs", role, "orientation")
    if not {"size", "spacing"} & set(spec) and "spacing" not in as_is:
        yield question("inputs", role, "spacing")
    if single and _RADIOGRAPHS & set(spec.get("modality", ())):
        yield question("inputs", role, "black_lowest")
