"""``[output.boxes]`` and ``[[output.object]]`` of ``model.toml``: what a detector gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ai.tables import (
    Activation,
    Band,
    CodedTable,
    Index,
    Name,
    Probability,
    Table,
    TensorName,
)

Format = Literal[
    "xyxy", "yxyx", "xywh", "cxcywh", "xyzxyz", "zyxzyx", "xyxyzz", "xyzwhd", "cxcyczwhd"
]  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Where the numbers of a box stand in its row.

    Attributes:
        kind: The second numbers are the far corner, or the size; the first ones the near corner,
            or with ``centre`` the middle.
        first: Columns of the first number along slices (3D alone), rows and columns.
        second: Columns of the second one.
    """

    kind: Literal["corners", "size", "centre"]
    first: tuple[int, ...]
    second: tuple[int, ...]

    @property
    def axes(self) -> int:
        """Axes that a box has."""
        return len(self.first)


FORMATS: dict[Format, Columns] = {
    "xyxy": Columns("corners", (1, 0), (3, 2)),
    "yxyx": Columns("corners", (0, 1), (2, 3)),
    "xywh": Columns("size", (1, 0), (3, 2)),
    "cxcywh": Columns("centre", (1, 0), (3, 2)),
    "xyzxyz": Columns("corners", (2, 1, 0), (5, 4, 3)),
    "zyxzyx": Columns("corners", (0, 1, 2), (3, 4, 5)),
    "xyxyzz": Columns("corners", (4, 1, 0), (5, 3, 2)),
    "xyzwhd": Columns("size", (2, 1, 0), (5, 4, 3)),
    "cxcyczwhd": Columns("centre", (2, 1, 0), (5, 4, 3)),
}


class Boxes(Table):
    """``[output.boxes]``: a list of boxes for each image.

    Attributes:
        tensor: ``(boxes, numbers)`` or ``(images, boxes, numbers)``, in the grid that the graph
            saw, padding included: 0.0 is the outer edge of the first pixel, n that of the last.
        format: What the numbers of a box are; x runs along columns, y along rows, z along slices.
        normalised: Numbers are shares of the grid's size instead of pixels.
        scores: A score a box, or a score a box and class as one axis more; none is defined without.
        classes: The class of each box, where `scores` has none.
        activation: Makes probabilities of the scores.
        threshold: Probability from which on a box is reported.
        nms: Of boxes that overlap by more than `iou` the most probable is kept: among those of a
            ``class``, among ``all``, or ``none`` is dropped.
        iou: Intersection over union.
        join_slices: Boxes of one class on neighbouring slices that overlap by more than `iou`
            become one box, as sure as the most probable of them.
        most: So many boxes are reported at most, the most probable ones.
        undeclared: Whether a class that no object has fails the job, or is not reported.
    """

    tensor: TensorName
    format: Format
    normalised: bool = False
    scores: TensorName | None = None
    classes: TensorName | None = None
    activation: Activation = "none"
    threshold: Probability = 0.5
    nms: Literal["class", "all", "none"] = "class"
    iou: Probability = 0.5
    join_slices: bool = False
    most: Annotated[int, Field(ge=1, le=1000)] = 100
    undeclared: Literal["refused", "none"] = "refused"

    @property
    def columns(self) -> Columns:
        """Where the numbers of a box stand."""
        return FORMATS[self.format]

    def tensors(self) -> tuple[str, ...]:
        """Names of the ONNX outputs it reads; each may be empty where nothing is found."""
        return tuple(name for name in (self.tensor, self.scores, self.classes) if name)

    @model_validator(mode="after")
    def _keys_agree(self) -> Boxes:
        if self.scores is None and self.activation != "none":
            raise ValueError("without scores there is no activation")
        if self.join_slices and self.columns.axes == 3:
            raise ValueError("boxes of three axes are not joined over slices")
        return self


class ObjectTable(CodedTable):
    """``[[output.object]]``: one class of things a detector finds; each box is a finding.

    Attributes:
        index: Its number in `Boxes.classes`, or along the last axis of `Boxes.scores`.
        threshold: In place of that of all boxes.
        review: Lowest and highest probability that asks for a human look; inside it the box is
            reported also below the threshold.
    """

    index: Index = 0
    name: Name
    threshold: Probability | None = None
    review: Band | None = None
