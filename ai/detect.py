"""From the boxes of a detector to findings in the image's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.boxes import Boxes, ObjectTable
from ai.grid import Shape
from ai.postprocess import Sized, activate, undefined, within_unit
from ai.preprocess import Plan
from ai.types import Code, Confidence, Finding, Measurement, Region
from config.errors import InferenceError

Floats = NDArray[np.float64]

_MM = Code("mm", "UCUM", "mm")
# Along slices, rows and columns of the image (PS3.16 CID 7470).
_EXTENTS = (
    Code("131197000", "SCT", "Depth"),
    Code("121207", "DCM", "Height"),
    Code("103355008", "SCT", "Width"),
)
_LEAST = 0.01  # of a pixel; what is thinner has no extent that coordinates could show


@dataclass(frozen=True)
class Found:
    """Boxes in any grid, counted from its outer edge.

    Attributes:
        low: ``(n, 3)`` along slices, rows and columns.
        high: The far corners.
        scores: ``(n,)`` probabilities; 1 where the model defines none.
        objects: ``(n,)``, the place of each box's class among the declared objects.
    """

    low: Floats
    high: Floats
    scores: Floats
    objects: NDArray[np.intp]

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """All boxes of some lists, in their order."""
        nothing = cls(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.intp))
        parts = [nothing, *parts]
        return cls(
            np.concatenate([part.low for part in parts]),
            np.concatenate([part.high for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.objects for part in parts]),
        )

    def only(self, chosen: NDArray[Any]) -> Found:
        """Some of the boxes, by index or mask."""
        return Found(self.low[chosen], self.high[chosen], self.scores[chosen], self.objects[chosen])


@dataclass(frozen=True)
class Seen:
    """What one run saw.

    Attributes:
        images: How many images, each with boxes of its own.
        grid: Size of its tensor along slices, rows and columns.
        corner: Where that begins in the padded model grid of the whole image.
        turned: Axes along which the run was given it the other way around.
    """

    images: int
    grid: Shape
    corner: Shape
    turned: tuple[int, ...] = ()

    @classmethod
    def of_block(cls, plan: Plan, start: int, stop: int) -> Seen:
        """A run over whole slices `start` to `stop` (exclusive), or over the whole volume."""
        flat = plan.spec.axes == 2
        grid = plan.padded_shape(stop - start)
        return cls(stop - start if flat else 1, grid, (start if flat else 0, 0, 0))

    @classmethod
    def of_patch(cls, plan: Plan, corner: Shape, grid: Shape) -> Seen:
        """A run over a patch, or over the same patch of several slices."""
        return cls(grid[0] if plan.spec.axes == 2 else 1, grid, corner)


def read(
    spec: Boxes,
    objects: Sequence[ObjectTable],
    tensors: Mapping[str, NDArray[Any]],
    plan: Plan,
    seen: Seen,
    *,
    least: float = 1.0,
) -> Found:
    """The boxes of one run that reach their threshold, in the image's own grid, not yet clipped.

    Args:
        spec: What the tensors mean.
        objects: The classes that are reported.
        tensors: As the graph gave them.
        plan: How the image was prepared.
        seen: What the run saw.
        least: Share of its threshold from which on a box is taken.

    Raises:
        InferenceError: Tensors whose shapes do not go together, a class nobody declared, a score
            that is no probability, corners the wrong way round in a box that would be reported.
    """
    rows = _rows(spec, tensors[spec.tensor], seen.images)
    low, high = _turned(*_corners(spec, rows, seen.grid), seen)
    scores, classes = _scores(spec, tensors, rows), _classes(spec, tensors, rows)
    if classes is None and scores.shape[1] == 1 and len(objects) > 1:
        raise InferenceError(f"{spec.scores or spec.tensor} does not tell one class from another")
    extended, backward = (high > low).all(axis=1), (high < low).any(axis=1)
    parts = []
    for place, entry in enumerate(objects):
        column = entry.index if scores.shape[1] > 1 else 0
        if column >= scores.shape[1]:
            raise InferenceError(f"{spec.scores} has {scores.shape[1]} classes, too few")
        sure = scores[:, column]
        own = np.True_ if classes is None else classes == entry.index
        if spec.scores is not None and (own & backward & reported(spec, entry, sure)).any():
            raise InferenceError(
                f"{spec.tensor} holds a box whose far corner lies before its near one: is its "
                f"format {spec.format}?"
            )
        asked = own & extended & reported(spec, entry, sure, least)
        at = np.flatnonzero(asked)
        parts.append(Found(low[at], high[at], sure[at], np.full(len(at), place)))
    if classes is not None and spec.undeclared == "refused":
        known = {entry.index for entry in objects}
        unknown = set(classes[extended & (scores[:, 0] >= spec.threshold)].tolist()) - known
        if unknown:
            text = f"{spec.classes} holds classes that nobody declared: {sorted(unknown)}"
            raise InferenceError(text)
    found = Found.joined(parts)
    ends = np.stack([plan.places_back(each + seen.corner) for each in (found.low, found.high)])
    return replace(found, low=ends.min(axis=0), high=ends.max(axis=0))


def reported(
    spec: Boxes, entry: ObjectTable, sure: Floats, least: float = 1.0
) -> NDArray[np.bool_]:
    """Which scores of a class are reported, or with `least` reach that share of what is wanted."""
    limit = spec.threshold if entry.threshold is None else entry.threshold
    band = entry.review or (2.0, 2.0)
    wanted, low = least * limit, least * band[0]
    return np.asarray((sure >= wanted) | ((low <= sure) & (sure <= band[1])))


def lowest(spec: Boxes, entry: ObjectTable) -> float:
    """The lowest score of a class that is reported."""
    limit = spec.threshold if entry.threshold is None else entry.threshold
    return min(limit, entry.review[0]) if entry.review else limit


def kept(found: Found, spec: Boxes) -> NDArray[np.intp]:
    """Which boxes are left where those that overlap a more probable one are dropped.

    Args:
        found: Boxes in a grid of any spacing: a ratio of volumes is the same in each.
        spec: Among which boxes, and from which intersection over union on.

    Returns:
        Indices by falling score, those that tie as they came.
    """
    order = np.argsort(-found.scores, kind="stable")
    if spec.nms == "none":
        return order
    volumes = (found.high - found.low).prod(axis=1)
    left: list[int] = []
    while order.size:
        best, rest = int(order[0]), order[1:]
        left.append(best)
        sides = np.minimum(found.high[rest], found.high[best])
        sides = np.clip(sides - np.maximum(found.low[rest], found.low[best]), 0.0, None)
        shared = sides.prod(axis=1)
        over = shared > spec.iou * (volumes[rest] + volumes[best] - shared)
        if spec.nms == "class":
            over &= found.objects[rest] == found.objects[best]
        order = rest[~over]
    return np.array(left, np.intp)


def over_slices(found: Found, axis: int, iou: float) -> Found:
    """Boxes of one class that overlap from slice to slice, each chain of them as one.

    Args:
        found: Boxes, each as thick as one slice along an axis.
        axis: Along which slices lie.
        iou: Intersection over union of two neighbours within their slices, above which they belong
            together.

    Returns:
        Boxes around the chains, as sure as the most probable of each, by falling score.
    """
    chains = np.arange(len(found.scores))
    flat = [other for other in range(3) if other != axis]
    low, high, places = found.low[:, flat], found.high[:, flat], np.rint(found.low[:, axis])
    areas = (high - low).prod(axis=1)
    for number in range(len(chains)):
        near = np.flatnonzero(
            (places == places[number] + 1) & (found.objects == found.objects[number])
        )
        sides = np.minimum(high[near], high[number]) - np.maximum(low[near], low[number])
        shared = np.clip(sides, 0.0, None).prod(axis=1)
        for other in near[shared > iou * (areas[near] + areas[number] - shared)]:
            chains[chains == chains[other]] = chains[number]
    parts = [np.flatnonzero(chains == chain) for chain in np.unique(chains)]
    made = Found.joined(
        [
            Found(
                found.low[part].min(axis=0, keepdims=True),
                found.high[part].max(axis=0, keepdims=True),
                found.scores[part].max(keepdims=True),
                found.objects[part[:1]],
            )
            for part in parts
        ]
    )
    return made.only(np.argsort(-made.scores, kind="stable"))


def findings(
    spec: Boxes, objects: Sequence[ObjectTable], found: Found, plan: Plan, basis: str
) -> list[Sized]:
    """The boxes that are left, each as a finding, with its share of the image.

    Args:
        spec: What is dropped, and how many are reported.
        objects: The classes.
        found: Every box of every run.
        plan: Gives the image.
        basis: ``rules`` or ``trained``.

    Returns:
        By falling score. A box of a volume has its region on its middle slice, and its extents in
        millimetres wherever the spacing is known.
    """
    shape = np.array(plan.volume.voxels.shape, float)
    found = found.only(kept(found, spec))
    if spec.join_slices:
        found = over_slices(found, plan.order[0], spec.iou)
    inside = replace(
        found, low=np.clip(found.low, 0.0, shape), high=np.clip(found.high, 0.0, shape)
    )
    extended = np.asarray((inside.high - inside.low >= _LEAST).all(axis=1))
    inside = inside.only(extended)
    total = len(inside.scores)
    inside = inside.only(np.arange(min(total, spec.most)))
    beyond = f" Only the {spec.most} most probable of {total} are reported."
    counted = dict.fromkeys(range(len(objects)), 0)
    made: list[Sized] = []
    for number, place in enumerate(inside.objects.tolist()):
        entry, low, high = objects[place], inside.low[number], inside.high[number]
        counted[place] += 1
        score = float(inside.scores[number])
        finding = Finding(
            name=f"{entry.name} {counted[place]}",
            category=entry.category,
            type=entry.type,
            description=entry.description + (beyond if total > spec.most else ""),
            confidence=undefined(basis) if spec.scores is None else Confidence(score, "model"),
            region=_rectangle(low, high),
            measurements=_extents(plan, spec, high - low),
            site=entry.site,
            laterality=entry.laterality,
            severity=entry.severity,
            needs_review=spec.scores is not None and _in_review(entry, score),
        )
        made.append((finding, float((high - low).prod() / shape.prod())))
    return made


def _rows(spec: Boxes, tensor: NDArray[Any], images: int) -> Floats:
    """``(images, boxes, numbers)``."""
    rows = tensor[None] if tensor.ndim == 2 else tensor
    wanted = 2 * spec.columns.axes
    if rows.ndim != 3 or rows.shape[0] != images or rows.shape[2] != wanted:
        raise InferenceError(
            f"{spec.tensor} has shape {tensor.shape} where {wanted} numbers a box and "
            f"{images} images are wanted"
        )
    return np.asarray(rows, np.float64)


def _corners(spec: Boxes, rows: Floats, grid: Shape) -> tuple[Floats, Floats]:
    """Near and far corners ``(n, 3)``; a box of an image has that one's slice."""
    columns = spec.columns
    flat = rows.reshape(-1, rows.shape[2])
    size = np.array(grid[3 - columns.axes :], float) if spec.normalised else 1.0
    low, second = flat[:, columns.first] * size, flat[:, columns.second] * size
    if columns.kind == "centre":
        low = low - second / 2.0
    high = second if columns.kind == "corners" else low + second
    if columns.axes == 3:
        return low, high
    image = np.repeat(np.arange(rows.shape[0], dtype=float), rows.shape[1])[:, None]
    return np.hstack([image, low]), np.hstack([image + 1.0, high])


def _turned(low: Floats, high: Floats, seen: Seen) -> tuple[Floats, Floats]:
    """Corners in the grid as it lies, where the run saw it the other way around."""
    axes = list(seen.turned)
    size = np.array(seen.grid, float)[axes]
    low, high = low.copy(), high.copy()
    low[:, axes], high[:, axes] = size - high[:, axes], size - low[:, axes]
    return low, high


def _scores(spec: Boxes, tensors: Mapping[str, NDArray[Any]], rows: Floats) -> Floats:
    """``(n, classes)``, one column where they do not tell classes apart."""
    if spec.scores is None:
        return np.ones((rows.shape[0] * rows.shape[1], 1))
    tensor = tensors[spec.scores].astype(np.float64)
    boxes = rows.shape[:2]
    shape = tensor.shape if tensor.shape[: len(boxes)] == boxes else (1, *tensor.shape)
    if shape[:2] != boxes or len(shape) > 3:
        text = f"{spec.scores} has shape {tensor.shape} for {boxes[1]} boxes in {boxes[0]} images"
        raise InferenceError(text)
    flat = tensor.reshape(boxes[0] * boxes[1], shape[2] if len(shape) == 3 else 1)
    made = activate(flat, spec.activation, axis=1)
    within_unit(made, spec.scores)
    return np.asarray(np.clip(made, 0.0, 1.0), np.float64)


def _classes(
    spec: Boxes, tensors: Mapping[str, NDArray[Any]], rows: Floats
) -> NDArray[np.int64] | None:
    if spec.classes is None:
        return None
    tensor = tensors[spec.classes]
    if tensor.size != rows.shape[0] * rows.shape[1]:
        raise InferenceError(f"{spec.classes} has shape {tensor.shape} for {rows.shape[1]} boxes")
    classes = tensor.reshape(-1).astype(np.int64)
    if not np.array_equal(classes, tensor.reshape(-1)):
        raise InferenceError(f"{spec.classes} holds classes that are no whole numbers")
    return classes


def _in_review(entry: ObjectTable, score: float) -> bool:
    return entry.review is not None and entry.review[0] <= score <= entry.review[1]


def _rectangle(low: Floats, high: Floats) -> Region:
    middle = int((low[0] + high[0]) / 2.0)
    (top, left), (bottom, right) = low[1:] - 0.5, high[1:] - 0.5
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return Region(middle, np.array(corners, np.float64))


def _extents(plan: Plan, spec: Boxes, sizes: Floats) -> tuple[Measurement, ...]:
    # One image of a stack says nothing of how thick a thing is; the image is in its own axes here.
    thick = None if spec.columns.axes == 3 or spec.join_slices else plan.order[0]
    return tuple(
        Measurement(name, float(size) * step, _MM)
        for axis, (name, size, step) in enumerate(
            zip(_EXTENTS, sizes, plan.volume.spacing, strict=True)
        )
        if step is not None and axis != thick
    )
