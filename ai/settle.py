"""What needs the whole label volume: holes, small parts, instances. Runs after the last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ai import masks
from ai.label_values import LabelVolume, mask_of, type_of, value_of
from ai.outputs import Output
from ai.segments import Cleaning, SegmentTable

# Bytes a voxel while the parts of one segment that fills the image are told apart: its mask, that
# of ITK, the number of its part and what is kept of it.
_PARTING = 7
_SURE = 2


@dataclass(frozen=True)
class Settled:
    """A label volume as it goes into the answer.

    Attributes:
        labels: ``(slices, rows, columns)`` in the image's own grid.
        segments: What its numbers mean, by number; instances are entries of their own.
        declared: The number that each of them was declared with.
    """

    labels: LabelVolume
    segments: tuple[SegmentTable, ...]
    declared: tuple[int, ...]


def settle(output: Output, labels: LabelVolume, voxel_mm3: float | None) -> Settled:
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
            _clean(cleaning, labels, entry.number, voxel_mm3, overlap=output.overlap)
    if not any(entry.instances for entry in entries):
        return Settled(labels, tuple(entries), tuple(entry.number for entry in entries))
    made = np.zeros_like(labels)
    settled: list[SegmentTable] = []
    declared: list[int] = []
    for entry in entries:
        cleaning = output.cleaning_of(entry) or Cleaning()
        box, mask = _found(labels, entry.number, overlap=output.overlap)
        if entry.instances is None or box is None:
            settled.append(entry.model_copy(update={"number": len(settled) + 1}))
            declared.append(entry.number)
            if box is not None:
                made[box][mask] |= value_of(settled[-1].number, overlap=output.overlap)
            continue
        found = masks.parts(mask, cleaning.touching)
        kept = np.argsort(-found.sizes, kind="stable")[: entry.instances]
        table = np.zeros(len(found.sizes) + 1, made.dtype)
        for place, part in enumerate(kept.tolist()):
            table[part + 1] = value_of(len(settled) + 1, overlap=output.overlap)
            settled.append(_instance(entry, len(settled) + 1, place + 1, len(found.sizes)))
            declared.append(entry.number)
        made[box][mask] |= table[found.numbers[mask]]
    return Settled(made, tuple(settled), tuple(declared))


def label_type(output: Output) -> np.dtype[np.unsignedinteger[Any]]:
    """The type of the labels that `settle` takes and gives."""
    return type_of(output.most_segments, overlap=output.overlap)


def bytes_a_voxel(output: Output) -> int:
    """What `settle` and its caller hold at most beside the labels, in bytes a voxel."""
    if not output.settles:
        return 0
    parted = any(entry.instances for entry in output.segment)
    sure = output.labels is not None and output.labels.confidence == "mean"
    layers = len(output.segment) if output.overlap else 1
    return _PARTING + label_type(output).itemsize * parted + _SURE * layers * sure


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


def _found(
    labels: LabelVolume, number: int, *, overlap: bool
) -> tuple[masks.Box | None, masks.Mask]:
    mask = mask_of(labels, number, overlap=overlap)
    box = masks.bounds(mask)
    return box, mask if box is None else mask[box]


def _clean(
    cleaning: Cleaning,
    labels: LabelVolume,
    number: int,
    voxel_mm3: float | None,
    *,
    overlap: bool,
) -> None:
    box, before = _found(labels, number, overlap=overlap)
    if box is None:
        return
    there, mask = labels[box], before
    if cleaning.fill_holes != "none":
        filled = masks.without_holes(mask, slicewise=cleaning.fill_holes == "slices")
        mask = mask | (filled if overlap else filled & (there == 0))
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
    # Where they overlap the bits of other segments stay; where they do not there are none.
    value = value_of(number, overlap=overlap)
    there[before & ~mask] ^= value
    there[mask] |= value
