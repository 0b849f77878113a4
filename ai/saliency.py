"""Which parts of an image a score rests on: by hiding them, or as the graph itself says."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ai.grid import Shape
from ai.outputs import ActivationMap, Occlusion
from ai.postprocess import channels_first
from ai.preprocess import resample
from ai.types import Code
from config.errors import InferenceError

Floats = NDArray[np.float32]
Window = tuple[slice, ...]

NO_UNITS = Code("1", "UCUM", "no units")
FALL = Code("SCORE-FALL", "99MEDAI", "Fall of the score when hidden")
ACTIVATION = Code("ACTIVATION", "99MEDAI", "Activation for the score")


def occlusion(
    spec: Occlusion,
    image: Floats,
    layout: str,
    fall: Callable[[Floats], Sequence[float]],
    runs: int = 1,
) -> Floats | None:
    """How far a score falls when a place is hidden.

    Args:
        spec: Size, step and filling of the windows, and how much may be spent.
        image: The graph's input, one image, in `layout`.
        layout: Names its axes.
        fall: By how much the score falls for each of some copies, stacked along the first axis.
        runs: For how many runs of `Occlusion.copies` it is given copies at a time.

    Returns:
        ``(slices, rows, columns)`` of the input's grid, padding included; None where the time was
        up before every window was hidden.
    """
    axes = [layout.index(axis) for axis in "DHW" if axis in layout]
    if len(axes) != len(spec.patch):
        raise InferenceError(f"saliency hides windows of {len(spec.patch)} axes in {layout}")
    shape = tuple(image.shape[axis] for axis in axes)
    places = windows(spec, shape)
    fill = float(image.mean()) if spec.fill is None else spec.fill
    total, count = np.zeros(shape), np.zeros(shape)
    ends = time.monotonic() + spec.seconds
    step = spec.copies * runs
    for start in range(0, len(places), step):
        if time.monotonic() > ends:
            return None
        chosen = places[start : start + step]
        copies = np.repeat(image, len(chosen), axis=0)
        for copy, window in zip(copies, chosen, strict=True):
            whole = [slice(None)] * copy.ndim
            for axis, part in zip(axes, window, strict=True):
                whole[axis - 1] = part
            copy[tuple(whole)] = fill
        for value, window in zip(fall(copies), chosen, strict=True):
            total[window] += value
            count[window] += 1
    mean: Floats = (total / count).astype(np.float32)
    return mean if mean.ndim == 3 else mean[None]


def windows(spec: Occlusion, shape: Sequence[int]) -> list[Window]:
    """The windows to hide: they cover the grid, and are at most `Occlusion.evaluations`."""
    factor = 1
    while True:
        steps = [stride * factor for stride in spec.stride]
        sizes = [patch * factor for patch in spec.patch]
        starts = [range(0, length, step) for length, step in zip(shape, steps, strict=True)]
        if int(np.prod([len(each) for each in starts])) <= spec.evaluations:
            break
        factor += 1
    return [
        tuple(
            slice(at, min(at + size, length))
            for at, size, length in zip(corner, sizes, shape, strict=True)
        )
        for corner in itertools.product(*starts)
    ]


def activation_map(spec: ActivationMap, tensor: NDArray[np.generic], shape: Shape) -> Floats:
    """A map of the graph, stretched linearly over its input.

    Args:
        spec: What the tensor means.
        tensor: As the graph gave it.
        shape: ``(slices, rows, columns)`` of the input's grid, padding included.

    Raises:
        InferenceError: It has another layout, or lacks the channel.
    """
    maps = channels_first(spec.layout, tensor)
    if spec.channel >= len(maps):
        raise InferenceError(f"{spec.tensor} has {len(maps)} channels, too few for its map")
    chosen = np.ascontiguousarray(maps[spec.channel], np.float32)
    scale = [own / wanted for own, wanted in zip(chosen.shape, shape, strict=True)]
    return resample(chosen, (scale[0], scale[1], scale[2]), shape)
