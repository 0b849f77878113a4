"""From the tensors of a graph to labels and what is measured of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.grid import Shape
from ai.label_values import LabelVolume, type_of, value_of
from ai.preprocess import Plan
from ai.segments import Labels, SegmentTable
from ai.tables import Activation
from ai.tally import Tally
from ai.types import Code, Confidence, Finding, Measurement
from config.errors import InferenceError

Floats = NDArray[np.float64]
Sized = tuple[Finding, float]

RULE_BASED = Confidence(None, "none: rule-based")
MEASURED = Confidence(None, "none: measurement")
DERIVATIONS = {
    "mean": Code("373098007", "SCT", "Mean"),
    "min": Code("255605001", "SCT", "Minimum"),
    "max": Code("56851009", "SCT", "Maximum"),
    "sd": Code("386136009", "SCT", "Standard Deviation"),
}
# A sigmoid in single precision may give 1.0000001, one in half precision 1.001.
_ROUNDING = 1e-3
_VOLUME = Code("118565006", "SCT", "Volume")
_ML = Code("mL", "UCUM", "mL")


def check(tensors: Mapping[str, NDArray[Any]], may_be_empty: Collection[str] = ()) -> None:
    """Refuses tensors that say nothing.

    Args:
        tensors: By name.
        may_be_empty: Names of those that are lists, which may have no entry.

    Raises:
        InferenceError: One is no array, empty, of another type than numbers, or holds a value that
            is not finite.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in "fiub":
            raise InferenceError(f"the model's output {name} holds no numbers")
        if tensor.size == 0 and name not in may_be_empty:
            raise InferenceError(f"the model's output {name} is empty")
        if not np.isfinite(tensor).all():
            raise InferenceError(f"the model's output {name} holds values that are not finite")


def label_block(
    spec: Labels, segments: tuple[SegmentTable, ...], tensor: NDArray[Any], shape: Shape
) -> tuple[LabelVolume, NDArray[np.float32] | None]:
    """Labels of one run, in the padded model grid.

    Args:
        spec: What the tensor means.
        segments: The segments it may hold.
        tensor: As the graph gave it, in the declared layout.
        shape: ``(slices, rows, columns)`` it must have.

    Returns:
        Labels, and as of `chosen` the probabilities of those, or None where none is defined.

    Raises:
        InferenceError: Another shape, a channel too few, or a label nobody declared.
    """
    if spec.encoding == "index":
        return _numbered(spec, segments, _in_grid(spec, tensor, shape)), None
    return chosen(spec, segments, probabilities(spec, segments, tensor, shape))


def chosen(
    spec: Labels, segments: Sequence[SegmentTable], scores: NDArray[np.float32]
) -> tuple[LabelVolume, NDArray[np.float32]]:
    """Labels of probabilities in any grid.

    Args:
        spec: How they are selected.
        segments: The segments there may be.
        scores: ``(channels, slices, rows, columns)``.

    Returns:
        Labels ``(slices, rows, columns)``, and ``(layers, slices, rows, columns)``, the probability
        of each voxel's label in one layer, or where segments overlap of each by its number.
    """
    if spec.overlap:
        return _overlapping(spec, segments, scores)
    fused = _fused(spec, segments, scores)
    numbers = np.array([0, *(entry.number for entry in segments)], np.uint8)
    if spec.select == "argmax":
        places = np.zeros(len(scores), np.intp)
        for place, entry in enumerate(segments):
            places[list(entry.all_sources)] = place + 1
        taken = places[scores.argmax(axis=0)]
        sure = np.take_along_axis(fused, np.maximum(taken - 1, 0)[None], axis=0)[0]
        return numbers[taken], np.where(taken > 0, sure, scores.max(axis=0))[None]
    ranks = np.array([entry.priority for entry in segments], np.float32)[:, None, None, None]
    limits = np.array([entry.threshold for entry in segments], np.float32)[:, None, None, None]
    # A step of rank is more than any difference of probabilities.
    best = np.where(fused >= limits, fused + 2.0 * ranks, np.float32(-1)).argmax(axis=0)
    sure = np.take_along_axis(fused, best[None], axis=0)[0]
    passing = sure >= np.take_along_axis(limits, best[None], axis=0)[0]
    return np.where(passing, numbers[best + 1], np.uint8(0)), np.where(passing, sure, -1)[None]


def _overlapping(
    spec: Labels, segments: Sequence[SegmentTable], scores: NDArray[np.float32]
) -> tuple[LabelVolume, NDArray[np.float32]]:
    by_number = sorted(segments, key=lambda entry: entry.number)
    fused = _fused(spec, by_number, scores)
    labels = np.zeros(fused.shape[1:], type_of(len(by_number), overlap=True))
    for entry, sure in zip(by_number, fused, strict=True):
        labels[sure >= np.float32(entry.threshold)] |= value_of(entry.number, overlap=True)
    return labels, fused


def probability_block(
    spec: Labels, segments: tuple[SegmentTable, ...], tensor: NDArray[Any], shape: Shape
) -> NDArray[np.float32]:
    """Probabilities of one run, in the padded model grid, clipped to [0, 1].

    Args and errors are those of `label_block`.

    Returns:
        ``(segments, slices, rows, columns)``, segments by number.
    """
    return of_segments(spec, segments, probabilities(spec, segments, tensor, shape))


def of_segments(
    spec: Labels, segments: Sequence[SegmentTable], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Of the probabilities of channels those of segments, by number, clipped to [0, 1]."""
    by_number = sorted(segments, key=lambda entry: entry.number)
    return np.clip(_fused(spec, by_number, scores), 0.0, 1.0)


def _fused(
    spec: Labels, segments: Sequence[SegmentTable], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probability of each segment, whose channels exclude each other after a softmax."""
    join = np.sum if spec.activation == "softmax" else np.max
    parts = [list(entry.all_sources) for entry in segments]
    if all(len(part) == 1 for part in parts):
        return scores[[part[0] for part in parts]]
    return np.stack([join(scores[part], axis=0) for part in parts])


def _in_grid(spec: Labels, tensor: NDArray[Any], shape: Shape) -> NDArray[Any]:
    scores = channels_first(spec.layout, tensor)
    if scores.shape[1:] != shape:
        raise InferenceError(f"{spec.tensor} has shape {tensor.shape}, which fits no {shape}")
    return scores


def probabilities(
    spec: Labels, segments: Sequence[SegmentTable], tensor: NDArray[Any], shape: Shape
) -> NDArray[np.float32]:
    """Probabilities of every channel, ``(channels, slices, rows, columns)``.

    Args and errors are those of `label_block`.
    """
    scores = _in_grid(spec, tensor, shape)
    if len(scores) <= max(max(entry.all_sources) for entry in segments):
        raise InferenceError(f"{spec.tensor} has {len(scores)} channels, too few for its segments")
    made: NDArray[np.float32] = activate(scores.astype(np.float32), spec.activation, axis=0)
    within_unit(made, spec.tensor)
    return made


def within_unit(values: NDArray[Any], name: str) -> None:
    """Refuses what is no probability.

    Raises:
        InferenceError: A value lies outside [0, 1] by more than rounding.
    """
    if values.size and (values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING):
        worst = values.max() if values.max() > 1 + _ROUNDING else values.min()
        raise InferenceError(
            f"{name} holds values that are no probabilities: {worst:g} lies outside 0 to 1"
        )


def _numbered(
    spec: Labels, segments: tuple[SegmentTable, ...], scores: NDArray[Any]
) -> NDArray[np.uint8]:
    if scores.shape[0] != 1:
        raise InferenceError(f"{spec.tensor} has {scores.shape[0]} channels where one is wanted")
    labels = scores[0]
    if labels.min() < 0 or labels.max() > 255:
        raise InferenceError(f"{spec.tensor} holds labels outside 0 to 255")
    whole: NDArray[np.uint8] = labels.astype(np.uint8)
    if labels.dtype.kind == "f" and not np.array_equal(whole, labels):
        raise InferenceError(f"{spec.tensor} holds labels that are no whole numbers")
    table, known = np.zeros(256, np.uint8), np.zeros(256, bool)
    for entry in segments:
        sources = [source for source in entry.all_sources if source < len(table)]
        table[sources], known[sources] = entry.number, True
    present = np.flatnonzero(np.bincount(whole.reshape(-1), minlength=1))
    unknown = sorted(set(present.tolist()) - {0} - set(np.flatnonzero(known).tolist()))
    if unknown and spec.undeclared == "refused":
        raise InferenceError(f"{spec.tensor} holds labels that nobody declared: {unknown}")
    return table[whole]


def channels_first(layout: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """``(channels, slices, rows, columns)`` of a tensor, whichever axis its slices are."""
    if tensor.ndim != len(layout):
        raise InferenceError(f"an output has shape {tensor.shape}, which is not {layout}")
    if "C" not in layout:
        tensor = tensor[None]
        layout = "C" + layout
    if "D" not in layout:
        return np.asarray(np.moveaxis(tensor, [layout.index(a) for a in "CNHW"], range(4)))
    if tensor.shape[layout.index("N")] != 1:
        raise InferenceError(f"an output has shape {tensor.shape}: more than one volume")
    whole = np.moveaxis(tensor, [layout.index(axis) for axis in "NCDHW"], range(5))
    return np.asarray(whole[0])


def activate(scores: NDArray[Any], activation: Activation, axis: int) -> NDArray[Any]:
    """Probabilities of scores; stable for large ones.

    Raises:
        InferenceError: A softmax over a single score, which is 1 whatever the model says.
    """
    if activation == "softmax" and scores.shape[axis] == 1:
        raise InferenceError("an output has one score, and a softmax of one is always 1")
    if activation == "sigmoid":
        small = np.exp(-np.abs(scores))
        return np.asarray(np.where(scores >= 0, 1 / (1 + small), small / (1 + small)))
    if activation == "softmax":
        powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis=axis, keepdims=True))
    return scores


def segment_findings(
    plan: Plan, tally: Tally, segments: Iterable[SegmentTable], basis: str
) -> list[Sized]:
    """A finding for each segment that has voxels, with its share of the image's voxels."""
    found: list[Sized] = []
    for entry in sorted(segments, key=lambda entry: entry.number):
        count = int(tally.count[entry.number])
        if count == 0:
            continue
        mean = tally.probability(entry.number)
        finding = Finding(
            name=entry.label,
            category=entry.category,
            type=entry.type,
            description=entry.description,
            confidence=undefined(basis) if mean is None else Confidence(mean, "model"),
            segment=entry.number,
            measurements=_measurements(plan, tally, entry.number),
            site=entry.site,
            laterality=entry.laterality,
            severity=entry.severity,
        )
        found.append((finding, count / plan.volume.voxels.size))
    return found


def _measurements(plan: Plan, tally: Tally, number: int) -> tuple[Measurement, ...]:
    made: list[Measurement] = []
    voxel = plan.volume.voxel_volume_ml
    if tally.output.volume and voxel is not None:
        made.append(Measurement(_VOLUME, int(tally.count[number]) * voxel, _ML))
    if tally.output.intensity is not None:
        units = plan.volume.units
        unit = Code(units, "UCUM", _UNIT_NAMES.get(units, units))
        for kind in tally.output.intensity.statistics:
            value = tally.statistic(number, kind)
            made.append(Measurement(tally.output.intensity.name, value, unit, DERIVATIONS[kind]))
    return tuple(made)


_UNIT_NAMES = {"[hnsf'U]": "Hounsfield unit", "1": "no units"}


def significance(finding: Finding, size: float) -> float:
    """Confidence × severity × size factor; 1 stands for a confidence that is not defined.

    Args:
        finding: The finding.
        size: Share of the image that it covers, in (0, 1]; 1 where it has no place.
    """
    value = finding.confidence.value
    return (1.0 if value is None else value) * finding.severity * size


def ordered(found: Iterable[Sized]) -> tuple[Finding, ...]:
    """Findings by falling significance; those that tie stay as they came."""
    return tuple(f for f, _ in sorted(found, key=lambda pair: -significance(*pair)))


def undefined(basis: str) -> Confidence:
    """What stands where a model defines no confidence."""
    return RULE_BASED if basis == "rules" else MEASURED


def probability(values: Floats, index: int, activation: Activation) -> float:
    """One probability among the scores of a tensor.

    Raises:
        InferenceError: There is none at that index, or it lies outside [0, 1].
    """
    if index >= len(values):
        raise InferenceError(f"an output has {len(values)} values where number {index} is wanted")
    value = float(activate(values, activation, axis=0)[index])
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise InferenceError(f"the probability {value:g} lies outside 0 to 1")
    return min(max(value, 0.0), 1.0)
