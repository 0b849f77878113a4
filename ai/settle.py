"""What needs the whole label volume: holes, small parts, instances. Runs after the last block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai import masks
from ai.outputs import Output
from ai.segments import Cleaning, SegmentTable

Labels = NDArray[np.uint8]

# Bytes a voxel while the parts of one segment that fills the image are told apart: its mask, that
# of ITK, the number of its part and what is kept of it.
_PARTING = 7
_INSTANCES, _SURE = 1, 2


@dataclass(frozen=True)
class Settled:
    """A label volume as it goes into the answer.

    Attributes:
        labels: ``(slices, rows, columns)`` in the image's own grid.
        segments: What its numbers mean, by number; instances are entries of their own.
    """

    labels: Labels
    segments: tuple[SegmentTable, ...]


def settle(output: Output, labels: Labels, voxel_mm3: float | None) -> Settled:
    """Cleans segments and parts them into instances, as the manifest says.

    Args:
        output: What is asked for.
        labels: ``(slices, rows, columns)`` in the image's own grid; changed in place.
        voxel_mm3: Volume of a voxel; None only where nothing is asked for in mm³.

    Returns:
        The labels, in a volume of its own where there are instances. With instances the numbers run
        from 1 without a gap, in the order of the declared ones; a segment of which there is no
        instance stays as an empty one.
    """
    entries = sorted(output.segment, key=lambda entry: entry.number)
    for entry in entries:
        cleaning = output.cleaning_of(entry)
        if cleaning is not None:
            _clean(cleaning, labels, entry.number, voxel_mm3)
    if not any(entry.instances for entry in entries):
        return Settled(labels, tuple(entries))
    made = np.zeros_like(labels)
    settled: list[SegmentTable] = []
    for entry in entries:
        cleaning = output.cleaning_of(entry) or Cleaning()
        box, mask = _found(labels, entry.number)
        if entry.instances is None or box is None:
            settled.append(entry.model_copy(update={"number": len(settled) + 1}))
            if box is not None:
                made[box][mask] = settled[-1].number
            continue
        found = masks.parts(mask, cleaning.touching)
        kept = np.argsort(-found.sizes, kind="stable")[: entry.instances]
        table = np.zeros(len(found.sizes) + 1, np.uint8)
        for place, part in enumerate(kept.tolist()):
            table[part + 1] = len(settled) + 1
            settled.append(_instance(entry, len(settled) + 1, place + 1, len(found.sizes)))
        made[box][mask] = table[found.numbers[mask]]
    return Settled(made, tuple(settled))


def bytes_a_voxel(output: Output) -> int:
    """What `settle` and its caller hold at most beside the labels, in bytes a voxel."""
    if not output.settles:
        return 0
    parted = any(entry.instances for entry in output.segment)
    sure = output.labels is not None and output.labels.confidence == "mean"
    return _PARTING + _INSTANCES * parted + _SURE * sure


def _instance(entry: SegmentTable, number: int, place: int, found: int) -> SegmentTable:
    kept = min(found, entry.instances or found)
    said = f"Part {place} of {found} by size" + (
        "." if kept == found else f"; only the {kept} largest are reported."
    )
    return entry.model_copy(
        update={
            "number": number,
            "label": f"{entry.label} {place}",
            "description": f"{entry.description} {said}",
        }
    )


def _found(labels: Labels, number: int) -> tuple[masks.Box | None, masks.Mask]:
    mask = labels == number
    box = masks.bounds(mask)
    return box, mask if box is None else mask[box]


def _clean(cleaning: Cleaning, labels: Labels, number: int, voxel_mm3: float | None) -> None:
    box, mask = _found(labels, number)
    if box is None:
        return
    there = labels[box]
    if cleaning.fill_holes != "none":
        filled = masks.without_holes(mask, slicewise=cleaning.fill_holes == "slices")
        mask = mask | (filled & (there == 0))
    least = max(
        cleaning.smallest_voxels or 1,
        0 if cleaning.smallest_mm3 is None or not voxel_mm3 else cleaning.smallest_mm3 / voxel_mm3,
    )
    if least > 1 or cleaning.keep_largest is not None:
        found = masks.parts(mask, cleaning.touching)
        kept = np.argsort(-found.sizes, kind="stable")[: cleaning.keep_largest]
        table = np.zeros(len(found.sizes) + 1, bool)
        table[kept + 1] = found.sizes[kept] >= least
        mask = table[found.numbers]
    there[(there == number) & ~mask] = 0
    there[mask] = number
