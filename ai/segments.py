"""``[output.labels]`` and ``[[output.segment]]`` of ``model.toml``: what a segmentation means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ai.label_values import MOST
from ai.masks import Touching
from ai.tables import (
    Activation,
    CodedTable,
    Concept,
    Index,
    Name,
    Positive,
    Probability,
    Table,
    TensorName,
)
from ai.types import Segment

Byte = Annotated[int, Field(ge=0, le=255)]
Statistic = Literal["mean", "min", "max", "sd"]


class Labels(Table):
    """``[output.labels]``: the tensor that says which segment each voxel belongs to.

    Attributes:
        encoding: ``index``, a voxel holds the number of its segment; ``channels``, a voxel has one
            score a channel.
        activation: Makes probabilities of the scores; ``none`` where they are such already.
        select: ``argmax``, the channel with the highest probability, 0 being no segment;
            ``threshold``, of the segments at or above their threshold the one of the highest
            priority, among equals the most probable.
        overlap: A voxel belongs to every segment whose threshold it reaches, in place of one.
        interpolation: How a tensor of another grid comes back to that of the image: each voxel
            takes the label of the model voxel that its centre lies in (``nearest``), or the
            probabilities are interpolated and the labels made of them there (``linear``).
        confidence: ``mean``, a segment's confidence is the mean probability of its voxels.
        probabilities: Keep the probability of each segment in each voxel, for fractional
            segmentations; takes four bytes a voxel and segment.
        undeclared: Whether a number that no segment has fails the job, or is no segment.
    """

    tensor: TensorName
    layout: Literal["NHW", "NCHW", "NHWC", "NDHW", "NCDHW", "NDHWC"]
    encoding: Literal["index", "channels"]
    activation: Activation = "none"
    select: Literal["argmax", "threshold"] = "argmax"
    overlap: bool = False
    interpolation: Literal["nearest", "linear"] = "nearest"
    confidence: Literal["none", "mean"] = "none"
    probabilities: bool = False
    undeclared: Literal["refused", "none"] = "refused"

    @model_validator(mode="after")
    def _keys_agree(self) -> Labels:
        if self.encoding == "channels" and "C" not in self.layout:
            raise ValueError('encoding = "channels" needs a layout with C')
        if self.encoding == "index" and (
            (self.activation, self.select, self.confidence) != ("none", "argmax", "none")
            or self.probabilities
            or self.interpolation != "nearest"
        ):
            raise ValueError(
                'encoding = "index" has no activation, selection, interpolation, confidence or '
                "probabilities"
            )
        if self.overlap and (self.encoding, self.select) != ("channels", "threshold"):
            raise ValueError(
                'overlap = true needs encoding = "channels" and select = "threshold", for of '
                "numbers and of highest channels a voxel has one"
            )
        return self


class Cleaning(Table):
    """``cleaning``: what is done to the voxels of a segment in the image's own grid, in this order.

    Attributes:
        fill_holes: What a segment encloses within a ``slices``, or on all sides in the ``volume``,
            becomes part of it where no other segment is, or all of it where segments overlap.
        smallest_mm3: Connected parts below it are removed.
        smallest_voxels: The same in voxels.
        keep_largest: So many connected parts are kept, the largest ones.
        touching: Voxels are connected where they share a face, or a corner at least.
    """

    fill_holes: Literal["none", "slices", "volume"] = "none"
    smallest_mm3: Positive | None = None
    smallest_voxels: Annotated[int, Field(ge=2)] | None = None
    keep_largest: Annotated[int, Field(ge=1, le=65535)] | None = None
    touching: Touching = "faces"


class SegmentTable(CodedTable):
    """``[[output.segment]]``: one label of a segmentation.

    Attributes:
        number: Its value in the result, and in the tensor where that holds numbers.
        channel: Its channel where the tensor has channels; `number` unless given.
        sources: Several channels, or numbers in the tensor, that are this one segment. Its
            probability is the sum of theirs after a softmax, else the highest.
        threshold: Lowest probability where `Labels.select` is ``threshold``.
        priority: Where several reach their threshold, the highest wins; not where they overlap.
        cleaning: In place of that of the whole output.
        instances: Each connected part is a segment and a finding of its own, the largest first, and
            at most so many; what is beyond is left out, and said.
    """

    number: Annotated[int, Field(ge=1, le=MOST[False])]
    label: Name
    color: tuple[Byte, Byte, Byte]
    channel: Index | None = None
    sources: tuple[Index, ...] = ()
    threshold: Probability = 0.5
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    cleaning: Cleaning | None = None
    instances: Annotated[int, Field(ge=1, le=MOST[False])] | None = None

    @property
    def all_sources(self) -> tuple[int, ...]:
        """Channels of the tensor, or numbers in it, that are this segment."""
        return self.sources or ((self.number if self.channel is None else self.channel),)

    @model_validator(mode="after")
    def _keys_agree(self) -> SegmentTable:
        if self.channel is not None and self.sources:
            raise ValueError("give channel or sources, not both")
        return self


def segments_of(entries: Iterable[SegmentTable]) -> tuple[Segment, ...]:
    """Segments as an answer has them, by number."""
    return tuple(
        Segment(entry.number, entry.label, entry.category, entry.type, entry.color)
        for entry in sorted(entries, key=lambda entry: entry.number)
    )


class Intensity(Table):
    """``[output.intensity]``: statistics of the input's own values inside each segment."""

    name: Concept
    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)]
