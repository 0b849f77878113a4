"""``reference.json``: what a model's inputs and answers usually look like, kept in its package.

It is made from a folder of images that the model is meant for. Of each input it holds how simple
statistics of the voxels spread over those images, so that an image unlike all of them can be told;
of each finding it holds how the scores spread, so that a drift can be seen later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ai.content.statistics import statistics_of
from ai.package import Package
from ai.tables import Number, Table
from ai.types import Answer, Finding, Measurement, Volume
from config.errors import InferenceError, ModelFileError

REFERENCE = "reference.json"
FEWEST = 8  # images; the spread of fewer says nothing
FAR = 3.0  # standard deviations beyond the reference's own ends
_TENTHS = tuple(step / 10 for step in range(11))
_BINS = 10  # of the histogram of a measured number

_Name = Annotated[str, Field(min_length=1, max_length=128)]


class Spread(Table):
    """How one statistic spread over the images of the reference.

    Attributes:
        low: The lowest value seen.
        high: The highest.
        mean: Mean.
        sd: Standard deviation.
    """

    low: Number
    high: Number
    mean: Number
    sd: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _in_order(self) -> Spread:
        if not self.low <= self.mean <= self.high:
            raise ValueError("low, mean and high rise")
        return self


class Histogram(Table):
    """How often values fell between edges.

    Attributes:
        edges: Rising; what lies outside them was counted at their ends.
        counts: One fewer than the edges; the last bin holds its upper edge.
    """

    edges: Annotated[tuple[Number, ...], Field(min_length=2, max_length=257)]
    counts: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _agree(self) -> Histogram:
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges rise")
        if len(self.counts) != len(self.edges) - 1:
            raise ValueError("there is one count fewer than edges")
        return self

    @classmethod
    def of(cls, values: Iterable[float], edges: Sequence[float]) -> Histogram:
        """Count values, those beyond the edges at their ends."""
        inside = np.clip(np.fromiter(values, float), edges[0], edges[-1])
        counts, _ = np.histogram(inside, edges)
        return cls(edges=tuple(edges), counts=tuple(int(count) for count in counts))


class Reference(Table):
    """The whole file.

    Attributes:
        images: How many images it was made from.
        inputs: Input role → statistic → how it spread; see `ai.content.statistics`.
        scores: Name of a finding → its confidence in those images in which it was reported.
        measurements: What `measurement_key` makes (``brain/118565006``) → the measured numbers.
    """

    images: Annotated[int, Field(ge=FEWEST)]
    inputs: Mapping[_Name, Mapping[_Name, Spread]]
    scores: Mapping[_Name, Histogram] = {}
    measurements: Mapping[_Name, Histogram] = {}


def read_reference(package: Package) -> Reference | None:
    """The reference of a package, or None when it has none.

    Raises:
        ModelFileError: The file is not the one the manifest names, or is no reference.
    """
    if REFERENCE not in package.manifest.files:
        return None
    try:
        return Reference.model_validate(json.loads(package.read(REFERENCE)))
    except (ValueError, RecursionError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ModelFileError(
            f"{REFERENCE} of {package.manifest.reference} is no reference: {said}"
        ) from error


@dataclass(frozen=True)
class Unusual:
    """One statistic of an input that lies far from the model's reference.

    Attributes:
        role: The input.
        statistic: A key of `ai.content.statistics.statistics_of`.
        value: What it is here.
        spread: What it was in the reference.
        distance: By how many standard deviations it lies beyond the reference's ends.
    """

    role: str
    statistic: str
    value: float
    spread: Spread
    distance: float

    def __str__(self) -> str:
        return (
            f"{self.statistic} of the input {self.role!r} is {self.value:.3g}, where the model's "
            f"reference has {self.spread.low:.3g} to {self.spread.high:.3g}"
        )


def unusual(reference: Reference, volumes: Mapping[str, Volume]) -> tuple[Unusual, ...]:
    """What about the inputs lies far from the reference, the farthest first.

    Args:
        reference: Of the model.
        volumes: Input role → image; a role that the reference does not know is passed over.
    """
    found = [
        Unusual(role, name, value, spread, _distance(value, spread))
        for role, volume in volumes.items()
        for name, value in statistics_of(volume).items()
        if (spread := reference.inputs.get(role, {}).get(name)) is not None
    ]
    far = [entry for entry in found if entry.distance > FAR]
    return tuple(sorted(far, key=lambda entry: -entry.distance))


def _distance(value: float, spread: Spread) -> float:
    beyond = max(spread.low - value, value - spread.high, 0.0)
    # Where all images agreed to the last digit, one that differs a little is not yet unlike them.
    return beyond / max(spread.sd, 0.01 * abs(spread.mean), 1e-6)


def make_reference(images: Sequence[tuple[Mapping[str, Volume], Answer]]) -> Reference:
    """A reference from images and what the model answered to them.

    Args:
        images: For each image, input role → volume, and the answer.

    Raises:
        InferenceError: There are fewer than `FEWEST`.
    """
    if len(images) < FEWEST:
        raise InferenceError(f"a reference needs {FEWEST} images; there are {len(images)}")
    statistics: dict[str, dict[str, list[float]]] = {}
    scores: dict[str, list[float]] = {}
    measured: dict[str, list[float]] = {}
    for volumes, answer in images:
        for role, volume in volumes.items():
            for name, value in statistics_of(volume).items():
                statistics.setdefault(role, {}).setdefault(name, []).append(value)
        for finding in answer.findings:
            if finding.confidence.value is not None:
                scores.setdefault(finding.name, []).append(finding.confidence.value)
            for number in finding.measurements:
                measured.setdefault(measurement_key(finding, number), []).append(number.value)
    return Reference(
        images=len(images),
        inputs={
            role: {name: _spread(values) for name, values in found.items()}
            for role, found in statistics.items()
        },
        scores={name: Histogram.of(values, _TENTHS) for name, values in scores.items()},
        measurements={name: _binned(values) for name, values in measured.items()},
    )


def measurement_key(finding: Finding, number: Measurement) -> str:
    """Finding, code of the measured concept and, where there is one, of its derivation."""
    codes = [number.name.value, *([number.derivation.value] if number.derivation else [])]
    return "/".join([finding.name, *codes])


def _spread(values: Sequence[float]) -> Spread:
    low, high = min(values), max(values)
    mean = min(max(float(np.mean(values)), low), high)
    return Spread(low=low, high=high, mean=mean, sd=float(np.std(values)))


def _binned(values: Sequence[float]) -> Histogram:
    low, high = min(values), max(values)
    if high <= low:
        low, high = low - max(abs(low), 1.0) / 2, low + max(abs(low), 1.0) / 2
    return Histogram.of(values, [float(edge) for edge in np.linspace(low, high, _BINS + 1)])
