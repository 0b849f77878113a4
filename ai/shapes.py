"""Whether a graph is the one its manifest describes: names, types, axes, channels, counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ai.inputs import Input
from ai.manifest import Manifest
from ai.outputs import ActivationMap, FindingTable, Occlusion

_NUMBERS = frozenset(
    f"tensor({kind})"
    for kind in (
        *("float16", "float", "double", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)
_FACTS = {"value_range": 2, "lowest_is_white": 1, "present": 1}


class Described(Protocol):
    """What ONNX Runtime tells of an input or output; an axis is a number, a name or None."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> list[Any]: ...


def disagreements(
    manifest: Manifest, inputs: Sequence[Described], outputs: Sequence[Described]
) -> list[str]:
    """Everything in which a graph differs from its manifest, a clause each.

    An axis that the graph leaves open fits whatever is declared, and the other way round.

    Args:
        manifest: What is declared.
        inputs: The graph's.
        outputs: The graph's.
    """
    given = {entry.name: entry for entry in inputs}
    made = {entry.name: entry for entry in outputs}
    return [*_inputs(manifest, given), *_copies(manifest, given), *_outputs(manifest, made)]


def _inputs(manifest: Manifest, given: Mapping[str, Described]) -> Iterator[str]:
    declared = {name for spec in manifest.inputs for name in (spec.tensor, *spec.facts)}
    if declared != set(given):
        yield f"the graph's inputs are {sorted(given)}, declared are {sorted(declared)}"
    other = sorted(name for name, entry in given.items() if entry.type != "tensor(float)")
    if other:
        yield f"inputs {other} are not of type float"
    for spec in manifest.inputs:
        if spec.tensor in given:
            yield from _image(spec, given[spec.tensor])
        for name, fact in spec.facts.items():
            count = _count(given[name].shape) if name in given else None
            if count not in (None, _FACTS[fact]):
                yield f"{name} takes {count} numbers, {fact} has {_FACTS[fact]}"


def _image(spec: Input, entry: Described) -> Iterator[str]:
    if len(entry.shape) != len(spec.layout):
        yield f"{entry.name} has {len(entry.shape)} axes, not {spec.layout}"
        return
    axes = dict(zip(spec.layout, entry.shape, strict=True))
    many = spec.batch if spec.apply == "slices" else 1
    if isinstance(axes["N"], int) and (axes["N"], many) != (1, 1):
        yield f"{entry.name} takes {axes['N']} images a run, declared are {many}"
    if _differ(axes.get("C"), spec.channels):
        yield f"{entry.name} takes {axes['C']} channels, declared are {spec.channels}"
    yield from _sizes(entry.name, axes, _grid(spec), "takes")


def _copies(manifest: Manifest, given: Mapping[str, Described]) -> Iterator[str]:
    """What a heat map wants: it is made where something is found, in no golden case perhaps."""
    spec, entry = manifest.output.saliency, given.get(manifest.input.tensor)
    if not isinstance(spec, Occlusion) or entry is None or not entry.shape:
        return
    images = entry.shape[manifest.input.layout.index("N")]
    if _differ(images, spec.copies):
        yield f"{entry.name} takes {images} images a run, saliency gives {spec.copies} copies"


def _grid(spec: Input) -> dict[str, int]:
    """Size of the tensor's image axes, where the manifest fixes it."""
    letters = "DHW"[3 - spec.axes :]
    if spec.sliding is not None:
        return dict(zip(letters, spec.sliding.patch, strict=True))
    if spec.size is None:
        return {}
    many, least = spec.multiple_of, spec.least or (1,) * spec.axes
    sizes = (-(-max(pair) // many) * many for pair in zip(spec.size, least, strict=True))
    return dict(zip(letters, sizes, strict=True))


def _sizes(name: str, axes: Mapping[str, Any], grid: Mapping[str, int], verb: str) -> Iterator[str]:
    for letter, size in grid.items():
        if _differ(axes.get(letter), size):
            yield f"{name} {verb} {axes[letter]} along {letter}, declared are {size}"


def _outputs(manifest: Manifest, made: Mapping[str, Described]) -> Iterator[str]:
    output = manifest.output
    missing = sorted(set(output.tensors()) - set(made))
    if missing:
        yield f"the graph has no output {missing}"
    for name in output.tensors():
        if name in made and made[name].type not in _NUMBERS:
            yield f"the output {name} is {made[name].type}, which holds no numbers"
    if output.labels is not None and output.labels.tensor in made:
        entry, layout = made[output.labels.tensor], output.labels.layout
        last = max(max(each.all_sources) for each in output.segment)
        least = 1 if output.labels.encoding == "index" else last + 1
        exact = output.labels.encoding == "index"
        yield from _map(entry, layout, least, exact, _grid(manifest.input))
    if isinstance(output.saliency, ActivationMap) and output.saliency.tensor in made:
        entry = made[output.saliency.tensor]
        yield from _map(entry, output.saliency.layout, output.saliency.channel + 1, False, {})
    if output.boxes is not None:
        yield from _boxes(manifest, made)
    for finding in output.finding:
        yield from _finding(finding, made, sliced=output.over_slices is not None)


def _map(
    entry: Described, layout: str, channels: int, exact: bool, grid: Mapping[str, int]
) -> Iterator[str]:
    if len(entry.shape) != len(layout):
        yield f"{entry.name} has {len(entry.shape)} axes, not {layout}"
        return
    axes = dict(zip(layout, entry.shape, strict=True))
    there = axes.get("C", 1)
    if isinstance(there, int) and (there != channels if exact else there < channels):
        wanted = f"{channels}" if exact else f"{channels} at least"
        yield f"{entry.name} has {there} channels, declared are {wanted}"
    yield from _sizes(entry.name, axes, grid, "has")


def _boxes(manifest: Manifest, made: Mapping[str, Described]) -> Iterator[str]:
    spec = manifest.output.boxes
    if spec is None or spec.tensor not in made:
        return
    entry, wanted = made[spec.tensor], 2 * spec.columns.axes
    axes = len(entry.shape)
    if axes not in (2, 3):
        yield f"{entry.name} has {axes} axes, a list of boxes has 2 or 3"
    elif _differ(entry.shape[-1], wanted):
        yield f"{entry.name} has {entry.shape[-1]} numbers a box, {spec.format} has {wanted}"
    scores = made.get(spec.scores or "")
    if scores is None:
        return
    if len(scores.shape) not in (1, 2, 3):
        yield f"{scores.name} has {len(scores.shape)} axes, scores have 1 to 3"
    elif len(scores.shape) == axes and spec.classes is None:
        there, last = scores.shape[-1], max(each.index for each in manifest.output.object)
        if isinstance(there, int) and 1 < there <= last:
            yield f"{scores.name} has {there} classes, declared are {last + 1} at least"


def _finding(finding: FindingTable, made: Mapping[str, Described], sliced: bool) -> Iterator[str]:
    parts = [(finding.score.tensor, finding.score.index + 1)] if finding.score else []
    parts += [(part.tensor, part.index + 1) for part in finding.measurement]
    for name, least in parts:
        count = _answers(made, name, sliced)
        if count is not None and count < least:
            yield f"{name} gives {count} numbers, {finding.name!r} reads number {least}"
    exact = [(part.tensor, len(part.values)) for part in finding.evaluation
             if part.encoding == "scores"]  # fmt: skip
    exact += [(finding.region, 4)] if finding.region else []
    for name, wanted in exact:
        count = _answers(made, name, sliced)
        if count not in (None, wanted):
            yield f"{name} gives {count} numbers, {finding.name!r} wants {wanted}"


def _answers(made: Mapping[str, Described], name: str, sliced: bool) -> int | None:
    """How many numbers an output has of one image, where the graph says."""
    if name not in made:
        return None
    shape = made[name].shape
    # An open first axis counts images, of which the whole input is one.
    return _count(shape[1:] if shape and (sliced or not isinstance(shape[0], int)) else shape)


def _count(shape: Sequence[Any]) -> int | None:
    return math.prod(shape) if all(isinstance(n, int) for n in shape) else None


def _differ(there: Any, declared: int) -> bool:
    return isinstance(there, int) and there != declared
