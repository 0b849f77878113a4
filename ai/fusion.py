"""Boxes that several members of an ensemble give, as one: weighted boxes fusion.

After R. Solovyev, W. Wang and T. Gabruseva, "Weighted boxes fusion: Ensembling boxes from different
object detection models", Image and Vision Computing 107 (2021), 104117; a box has three axes here,
one of an image is as thick as its slice. Nothing is dropped: where members disagree on the edges of
a thing the mean says more than the most probable of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ai.boxes import Boxes, ObjectTable
from ai.detect import Found, kept, lowest, reported

Floats = NDArray[np.float64]

# What a member gives less than this share of its threshold counts as not seen by it: it could
# change the score of what is reported by less than that share of the threshold.
LEAST = 0.1
_TINY = 1e-12  # a weight, where all scores are 0


def fused(spec: Boxes, objects: Sequence[ObjectTable], members: Sequence[Found]) -> Found:
    """One list of boxes of those that each member gives.

    What overlaps a more probable box of the same member is dropped first, as in a single run. Boxes
    of one class that overlap then, of whichever member, become one: the mean of their corners,
    weighted by their scores. Its score is the mean of theirs times the share of members that saw
    it, so that what no member is sure of need not be looked at.

    Args:
        spec: What is dropped, and the intersection over union above which boxes are one.
        objects: The classes, with the thresholds from which on a fused box is reported.
        members: Boxes from `LEAST` of their threshold on, in a grid of any spacing.

    Returns:
        What is reported, by class and falling score.
    """
    limits = np.array([lowest(spec, entry) for entry in objects])
    own = [each.only(kept(each, spec)) for each in _worth(spec, members, limits)]
    boxes = Found.joined(own)
    saw = np.repeat(np.arange(len(own)), [len(each.scores) for each in own])
    parts = []
    for place, entry in enumerate(objects):
        chosen = boxes.objects == place
        made = _of_class(boxes.only(chosen), saw[chosen], len(own), spec.iou, limits[place])
        parts.append(made.only(reported(spec, entry, made.scores)))
    return Found.joined(parts)


def _worth(spec: Boxes, members: Sequence[Found], limits: Floats) -> Iterator[Found]:
    """Of each member the boxes that it is sure of, and those that overlap such a one of any."""
    sure = Found.joined([each.only(each.scores >= limits[each.objects]) for each in members])
    sure = sure.only(kept(sure, spec))
    for each in members:
        worth = each.scores >= limits[each.objects]
        corners = np.stack([each.low, each.high])
        for number, place in enumerate(sure.objects):
            box = np.stack([sure.low[number], sure.high[number]])
            worth |= (_overlaps(corners, box) > 0) & (each.objects == place)
        yield each.only(worth)


def _of_class(boxes: Found, saw: NDArray[np.intp], members: int, iou: float, limit: float) -> Found:
    """Boxes of one class by falling score, each put to the fused box that it overlaps most.

    What belongs to none begins another one only from the limit on: its score would fall.
    """
    total, count = len(boxes.scores), 0
    corners = np.stack([boxes.low, boxes.high])
    fused, sums = np.zeros((2, 2, total, 3))
    weights, scores, sizes = np.zeros((3, total))
    seen = np.zeros((total, members), bool)
    for number in np.argsort(-boxes.scores, kind="stable").tolist():
        shared = _overlaps(fused[:, :count], corners[:, number])
        at = int(shared.argmax()) if count else count
        if at == count or shared[at] <= iou:
            if boxes.scores[number] < limit:
                continue
            at, count = count, count + 1
        weight = max(float(boxes.scores[number]), _TINY)
        sums[:, at] += weight * corners[:, number]
        weights[at] += weight
        fused[:, at] = sums[:, at] / weights[at]
        scores[at] += boxes.scores[number]
        sizes[at] += 1
        seen[at, saw[number]] = True
    sure = scores[:count] / sizes[:count] * seen[:count].mean(axis=1)
    low, high = fused[:, :count]
    made = Found(low, high, sure, np.resize(boxes.objects, count))
    return made.only(np.argsort(-made.scores, kind="stable"))


def _overlaps(fused: Floats, box: Floats) -> Floats:
    """Intersection over union of one box, ``(2, 3)``, with each of others, ``(2, n, 3)``."""
    low, high = fused
    sides = np.clip(np.minimum(high, box[1]) - np.maximum(low, box[0]), 0.0, None)
    shared = sides.prod(axis=1)
    both = (high - low).prod(axis=1) + (box[1] - box[0]).prod()
    return np.asarray(shared / (both - shared), np.float64)
