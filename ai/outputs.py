"""``[output]`` of ``model.toml``: what the tensors of a graph mean."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ai.boxes import Boxes, ObjectTable
from ai.label_values import MOST
from ai.segments import Cleaning, Intensity, Labels, SegmentTable, segments_of
from ai.tables import (
    Activation,
    Band,
    CodedTable,
    Concept,
    Index,
    Name,
    Number,
    Probability,
    Table,
    TensorName,
    Unit,
)
from ai.types import Segment

Size = Annotated[int, Field(ge=1, le=4096)]


class Score(Table):
    """How sure the model is of a finding, and from where on it is reported.

    Attributes:
        threshold: Probability from which on the finding is reported.
        review: Lowest and highest probability that asks for a human look; inside it the finding
            is reported also below `threshold`.
        best: Reported only where it is the most probable of all scores of its tensor.
    """

    tensor: TensorName
    index: Index
    best: bool = False
    activation: Activation = "none"
    threshold: Probability = 0.5
    review: Band | None = None


class MeasurementTable(Table):
    """``[[output.finding.measurement]]``: one number of a tensor, with concept and unit."""

    tensor: TensorName
    index: Index = 0
    name: Concept
    unit: Unit
    derivation: Concept | None = None


class EvaluationTable(Table):
    """``[[output.finding.evaluation]]``: a coded answer.

    Attributes:
        encoding: ``index``, the tensor holds the index of the answer among `values`; ``scores``, it
            holds one score a value, and the highest probability is the confidence.
    """

    tensor: TensorName
    index: Index = 0
    encoding: Literal["index", "scores"]
    activation: Activation = "none"
    name: Concept
    values: Annotated[tuple[Concept, ...], Field(min_length=2)]


class FindingTable(CodedTable):
    """``[[output.finding]]``: one thing the model may say.

    Attributes:
        score: Absent where the finding is always reported and no confidence is defined.
        region: Tensor of four numbers, left, top, right and bottom: column and row of the outermost
            pixels in the grid the model saw; right below left means nowhere.
    """

    name: Name
    score: Score | None = None
    region: TensorName | None = None
    measurement: tuple[MeasurementTable, ...] = ()
    evaluation: tuple[EvaluationTable, ...] = ()

    def tensors(self) -> list[str]:
        """Names of the ONNX outputs it reads."""
        parts = (self.score, *self.measurement, *self.evaluation)
        names = [part.tensor for part in parts if part is not None]
        return [*names, self.region] if self.region else names


class Occlusion(Table):
    """``[output.saliency]``: which parts of the image a score rests on, found by hiding them.

    Windows of the input are filled with one value, one after another, and the map is how far the
    finding's probability falls, a mean over the windows that cover a place. It costs one run of the
    graph a window.

    Attributes:
        patch: Size of a window in the grid of the model, two or three numbers.
        stride: Step between windows, at most the patch.
        fill: What a window is filled with after normalisation; the mean of the input unless given.
        evaluations: Most windows; where there would be more, patch and stride grow together.
        seconds: Time for all of them; what takes longer is left out, never half made.
        copies: Windows a run, where the graph's first axis is symbolic.
    """

    method: Literal["occlusion"]
    patch: tuple[Size, ...]
    stride: tuple[Size, ...]
    fill: Number | None = None
    evaluations: Annotated[int, Field(ge=4, le=100_000)] = 400
    seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    copies: Annotated[int, Field(ge=1, le=256)] = 1

    @model_validator(mode="after")
    def _keys_agree(self) -> Occlusion:
        if len(self.patch) != len(self.stride) or any(
            step > size for step, size in zip(self.stride, self.patch, strict=False)
        ):
            raise ValueError("patch and stride go together, and no stride is above its patch")
        return self


class ActivationMap(Table):
    """``[output.saliency]``: a map that the graph itself gives, stretched over its input.

    Attributes:
        channel: Which channel of the tensor, where its layout has C.
    """

    method: Literal["output"]
    tensor: TensorName
    layout: Literal["NHW", "NCHW", "NHWC", "NDHW", "NCDHW", "NDHWC"]
    channel: Index = 0


class Output(Table):
    """``[output]``.

    Attributes:
        cleaning: Of every segment that has none of its own.
        volume: Measure the volume of each segment in mL.
        over_slices: How the answers of slices, which were seen one by one, become one: the
            ``mean`` or the ``max`` of each probability and measurement.
        saliency: A heat map of the most significant finding that has a score.
    """

    task: Literal["segmentation", "classification", "measurement", "detection"]
    labels: Labels | None = None
    segment: tuple[SegmentTable, ...] = ()
    cleaning: Cleaning | None = None
    volume: bool = False
    intensity: Intensity | None = None
    finding: tuple[FindingTable, ...] = ()
    over_slices: Literal["mean", "max"] | None = None
    boxes: Boxes | None = None
    object: tuple[ObjectTable, ...] = ()
    saliency: Annotated[Occlusion | ActivationMap, Field(discriminator="method")] | None = None

    def segments(self) -> tuple[Segment, ...]:
        """The labels of a segmentation, by number."""
        return segments_of(self.segment)

    def tensors(self) -> tuple[str, ...]:
        """Names of the ONNX outputs that are read."""
        names = [self.labels.tensor] if self.labels else []
        names += self.lists
        names += [name for finding in self.finding for name in finding.tensors()]
        names += self.maps
        return tuple(dict.fromkeys(names))

    @property
    def lists(self) -> tuple[str, ...]:
        """Names of the ONNX outputs that are lists, which are empty where nothing is found."""
        return self.boxes.tensors() if self.boxes else ()

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the ONNX outputs that are heat maps."""
        return (self.saliency.tensor,) if isinstance(self.saliency, ActivationMap) else ()

    @property
    def has_confidence(self) -> bool:
        """Some part of the output defines a confidence."""
        labelled = self.labels is not None and self.labels.confidence != "none"
        boxed = self.boxes is not None and self.boxes.scores is not None
        return (labelled or boxed) or any(
            finding.score is not None
            or any(entry.encoding == "scores" for entry in finding.evaluation)
            for finding in self.finding
        )

    @property
    def overlap(self) -> bool:
        """A voxel may belong to several segments."""
        return self.labels is not None and self.labels.overlap

    @property
    def most_segments(self) -> int:
        """Segments that an answer has at most, instances among them."""
        return sum(entry.instances or 1 for entry in self.segment)

    @property
    def settles(self) -> bool:
        """The label volume is worked on as a whole after the last run."""
        return any(self.cleaning_of(entry) or entry.instances for entry in self.segment)

    def cleaning_of(self, entry: SegmentTable) -> Cleaning | None:
        """What is done to a segment."""
        return entry.cleaning or self.cleaning

    @property
    def measures_size(self) -> bool:
        """Something depends on the size of a voxel."""
        cleanings = [self.cleaning_of(entry) for entry in self.segment]
        return self.volume or any(each and each.smallest_mm3 for each in cleanings)

    @property
    def has_regions(self) -> bool:
        """Some finding has a region."""
        return any(finding.region for finding in self.finding)

    @model_validator(mode="after")
    def _keys_agree(self) -> Output:
        numbers = [entry.number for entry in self.segment]
        names = [
            *(entry.label for entry in self.segment),
            *(entry.name for entry in self.finding),
            *(entry.name for entry in self.object),
        ]
        counted = {entry.label for entry in self.segment if entry.instances}
        counted |= {entry.name for entry in self.object}
        segmentation, detection = self.task == "segmentation", self.task == "detection"
        sources = [source for entry in self.segment for source in entry.all_sources]
        exclusive = self.labels is not None and self.labels.select == "argmax"
        problems = [
            (
                segmentation != (self.labels is not None) or segmentation != bool(self.segment),
                'labels and segments go with task = "segmentation", and only with it',
            ),
            (
                self.task in ("classification", "measurement") and not self.finding,
                f"task {self.task!r} needs a finding",
            ),
            (
                detection != (self.boxes is not None) or detection != bool(self.object),
                'boxes and objects go with task = "detection", and only with it',
            ),
            (
                len({entry.index for entry in self.object}) != len(self.object),
                "each object has an index of its own",
            ),
            (
                not segmentation
                and (self.volume or self.intensity is not None or self.cleaning is not None),
                "volume, intensity and cleaning are of segments",
            ),
            (
                self.over_slices is not None and not self.finding,
                "over_slices joins the findings of slices, and there are none",
            ),
            (
                self.over_slices is not None
                and (
                    self.has_regions
                    or self.saliency is not None
                    or any(e.encoding == "index" for each in self.finding for e in each.evaluation)
                ),
                'over_slices joins no regions, heat maps or evaluations with encoding = "index"',
            ),
            (
                self.saliency is not None and not any(entry.score for entry in self.finding),
                "saliency explains a score, and no finding has one",
            ),
            (len(set(numbers)) != len(numbers), "segment numbers are unique"),
            (
                bool(numbers) and max(numbers) > len(numbers),
                "segment numbers run from 1 without a gap (PS3.3 C.8.20.2)",
            ),
            (
                exclusive and len(set(sources)) != len(sources),
                "a channel or number of the tensor belongs to one segment",
            ),
            (
                self.settles and self.labels is not None and self.labels.probabilities,
                "cleaning and instances change labels, which probabilities = true would not follow",
            ),
            (
                self.most_segments > MOST[self.overlap],
                f"segments and the most instances of each are {MOST[self.overlap]} at most together"
                + (" where they overlap" if self.overlap else ""),
            ),
            (
                self.overlap and any(entry.priority for entry in self.segment),
                "with overlap = true a voxel is of all that claim it: no segment has a priority",
            ),
            (
                any(re.sub(r" \d+$", "", name) in counted for name in names if name not in counted),
                "a number after the name of what is counted would name two things",
            ),
            (
                len(set(names)) != len(names),
                "labels of segments and names of findings and objects are unique",
            ),
        ]
        wrong = [text for fails, text in problems if fails]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self
