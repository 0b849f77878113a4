"""From tensors of few numbers to findings: scores, measurements, evaluations, a box."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ai.outputs import EvaluationTable, FindingTable, MeasurementTable, Score
from ai.postprocess import DERIVATIONS, Sized, activate, undefined, within_unit
from ai.preprocess import Plan
from ai.tables import Activation
from ai.types import Code, Confidence, Evaluation, Finding, Measurement, Region
from config.errors import InferenceError

Floats = NDArray[np.float64]
OverSlices = Literal["mean", "max"]

_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_PERCENT = Code("%", "UCUM", "Percent")


class Said:
    """What tensors of few numbers said, run by run.

    Args:
        over_slices: How the answers of slices become one; None where there is a single one.
        members: Runs that answer the same question; their mean is the answer, their standard
            deviation its uncertainty.
    """

    def __init__(self, over_slices: OverSlices | None, members: int = 1) -> None:
        self._sliced = over_slices is not None
        self._highest = over_slices == "max"
        self._members = members
        self._rows: dict[str, list[Floats]] = {}

    def take(self, name: str, tensor: NDArray[Any], slices: int) -> None:
        """Takes the answers of some slices, or with ``slices = 1`` of the whole input.

        Args:
            name: What the graph calls it.
            tensor: Of slices, one after another along the first axis; with several members along
                the second one, after theirs.
            slices: How many.

        Raises:
            InferenceError: They are not so many, or do not lie so.
        """
        own = tensor.shape[1:] if self._members > 1 else tensor.shape
        if tensor.size % (self._members * slices) or (self._sliced and own[:1] != (slices,)):
            raise InferenceError(f"{name} has shape {tensor.shape}, no answer for {slices} slices")
        rows = np.asarray(tensor, np.float64).reshape(self._members, slices, -1)
        self._rows.setdefault(name, []).append(rows)

    def numbers(self, name: str, activation: Activation = "none") -> Floats:
        """``(members, n)``: what each member says, over all slices."""
        rows = np.concatenate(self._rows[name], axis=1)
        made = activate(rows, activation, axis=2)
        return np.asarray(made.max(axis=1) if self._highest else made.mean(axis=1), np.float64)


def tensor_findings(
    plan: Plan, entries: Iterable[FindingTable], said: Said, basis: str
) -> list[Sized]:
    """The findings that the manifest makes of named tensors, with their share of the image.

    Raises:
        InferenceError: A tensor is shorter than the manifest says, an index or probability lies
            outside its range.
    """
    found: list[Sized] = []
    for entry in entries:
        confidence, review, sure = undefined(basis), False, None
        if entry.score is not None:
            sure = _scored(said, entry.score)
            value = float(sure.mean())
            band = entry.score.review
            review = band is not None and band[0] <= value <= band[1]
            if not _is_best(said, entry.score) or (value < entry.score.threshold and not review):
                continue
            confidence = Confidence(value, "model")
        region = _region(plan, said.numbers(entry.region)[0]) if entry.region else None
        measured = [each for part in entry.measurement for each in _measured(said, part)]
        if sure is not None and len(sure) > 1:
            measured.append(_uncertainty(sure))
        finding = Finding(
            name=entry.name,
            category=entry.category,
            type=entry.type,
            description=entry.description,
            confidence=confidence,
            region=region,
            measurements=tuple(measured),
            evaluations=tuple(_evaluated(said, part, basis) for part in entry.evaluation),
            site=entry.site,
            laterality=entry.laterality,
            severity=entry.severity,
            needs_review=review,
        )
        found.append((finding, _share(plan, region)))
    return found


def _at(numbers: Floats, index: int) -> Floats:
    if index >= numbers.shape[1]:
        raise InferenceError(
            f"an output has {numbers.shape[1]} values where number {index} is wanted"
        )
    return numbers[:, index]


def _scored(said: Said, score: Score) -> Floats:
    """What each member says of a score."""
    return _sure(_at(said.numbers(score.tensor, score.activation), score.index), score.tensor)


def _sure(values: Floats, name: str) -> Floats:
    within_unit(values, name)
    return np.asarray(np.clip(values, 0.0, 1.0), np.float64)


def _is_best(said: Said, score: Score) -> bool:
    if not score.best:
        return True
    means = said.numbers(score.tensor, score.activation).mean(axis=0)
    return int(means.argmax()) == score.index


def _uncertainty(sure: Floats) -> Measurement:
    return Measurement(_CERTAINTY, 100.0 * float(sure.std()), _PERCENT, DERIVATIONS["sd"])


def _measured(said: Said, spec: MeasurementTable) -> Iterable[Measurement]:
    values = _at(said.numbers(spec.tensor), spec.index)
    yield Measurement(spec.name, float(values.mean()), spec.unit, spec.derivation)
    if len(values) > 1:
        yield Measurement(spec.name, float(values.std()), spec.unit, DERIVATIONS["sd"])


def _evaluated(said: Said, spec: EvaluationTable, basis: str) -> Evaluation:
    if spec.encoding == "index":
        answers = _at(said.numbers(spec.tensor), spec.index)
        # Members that disagree have no mean: what most of them answer, the lowest of equals.
        known, counts = np.unique(answers, return_counts=True)
        answer = float(known[counts.argmax()])
        if answer not in range(len(spec.values)):
            raise InferenceError(f"{spec.tensor} answers {answer:g}, which stands for nothing")
        return Evaluation(spec.name, spec.values[int(answer)], undefined(basis))
    sure = _sure(said.numbers(spec.tensor, spec.activation), spec.tensor).mean(axis=0)
    if len(sure) != len(spec.values):
        raise InferenceError(f"{spec.tensor} has {len(sure)} scores for {len(spec.values)}")
    best = int(sure.argmax())
    return Evaluation(spec.name, spec.values[best], Confidence(float(sure[best]), "model"))


def _region(plan: Plan, box: Floats) -> Region | None:
    """The box through the centres of the outermost pixels, in the image's own pixels."""
    if len(box) != 4:
        raise InferenceError(f"a region has {len(box)} numbers where 4 are wanted")
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return None
    # Of the model's grid the centres of the pixels are the places, from its outer edge.
    places = np.array([[0.5, top + 0.5, left + 0.5], [0.5, bottom + 0.5, right + 0.5]])
    rows, columns = plan.volume.voxels.shape[1:]
    ends = np.clip(plan.places_back(places)[:, 1:] - 0.5, 0.0, [rows - 1, columns - 1])
    (top, left), (bottom, right) = ends
    if right <= left or bottom <= top:
        return None
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return Region(0, np.array(corners, np.float64))


def _share(plan: Plan, region: Region | None) -> float:
    if region is None:
        return 1.0
    width, height = np.ptp(region.points, axis=0) + 1.0
    rows, columns = plan.volume.voxels.shape[1:]
    return float(width * height / (rows * columns))
