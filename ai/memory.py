"""What an analysis will hold in memory, told before it starts.

Counted are the arrays of the node itself, the tensors that go into the graph and come out of it,
and what the graph held in its first run (`ai.footprint`), where its runs now have the shape of that
one: patches, and images of a declared size. How that grows with the shape is not known before;
where it is too much the run fails, and `ai.recovery` tells what is tried then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ai import devices
from ai.loaded import LoadedModel
from ai.preprocess import Plan
from ai.settle import bytes_a_voxel, label_type
from ai.sliding import padded_to_patch
from config.errors import InferenceError

_FLOAT = 4
_GIB = float(1 << 30)
# An image on its way to a tensor: its values, those resampled, padded and laid out.
_STEPS = 4


def needed(model: LoadedModel, plans: Sequence[Plan], runs: int) -> int:
    """Bytes beside the image itself.

    Args:
        model: What will run.
        plans: How each input is prepared, the primary one first.
        runs: Runs at a time, and as many tensors wait beside them.
    """
    plan, output = plans[0], model.package.manifest.output
    voxels = math.prod(plan.volume.voxels.shape)
    held = voxels * label_type(output).itemsize * (output.labels is not None)
    if output.labels is not None and output.labels.probabilities:
        held += voxels * _FLOAT * len(output.segment)
    held += voxels * bytes_a_voxel(output)
    if plan.spec.sliding is None:
        depth = plan.spec.batch if plan.spec.axes == 2 else plan.shape[0]
        grid = plan.padded_shape(min(depth, plan.shape[0]))
        block = math.prod(grid)
        waiting = 1 if plan.spec.axes == 3 else runs + 1
        held += _within(model, plan, grid, min(runs, len(plan.blocks())))
        return held + block * _FLOAT * (
            _inputs(plans) * (_STEPS + waiting) + waiting * _scores(model)
        )
    grid, patch = padded_to_patch(plan), plan.spec.sliding.patch
    depth = min(patch[0] if plan.spec.axes == 3 else plan.spec.batch, grid[0])
    slab = depth * grid[1] * grid[2]
    run = depth * math.prod(patch[-2:])
    held += slab * _FLOAT * (_scores(model) + _inputs(plans) * _STEPS)
    patches = math.prod(-(-n // size) for n, size in zip(grid, (depth, *patch[-2:]), strict=True))
    held += _within(model, plan, (depth, *patch[-2:]), min(runs, patches))
    return held + run * _FLOAT * (2 * runs + 1) * (_inputs(plans) + _scores(model))


def check(model: LoadedModel, plans: Sequence[Plan], runs: int) -> None:
    """Refuses what would not fit.

    Raises:
        InferenceError: More is needed than is free; another attempt would end the same.
    """
    free, wanted = devices.free_memory(), needed(model, plans, runs)
    if free is not None and wanted > free:
        shape = " × ".join(str(n) for n in plans[0].volume.voxels.shape)
        raise InferenceError(
            f"{model.reference} needs about {wanted / _GIB:.1f} GiB of memory for an input of "
            f"{shape} voxels, and {free / _GIB:.1f} GiB are free",
            retry=False,
        )


def _within(model: LoadedModel, plan: Plan, grid: Sequence[int], runs: int) -> int:
    """What the graph holds in so many runs over a grid, beside what is there from earlier ones."""
    layout, tensor = plan.spec.layout, model.blank()[plan.spec.tensor]
    sizes = dict(zip(layout, tensor.shape, strict=True))
    first = (sizes["D" if "D" in layout else "N"], sizes["H"], sizes["W"])
    if model.working is None or first != tuple(grid):
        return 0
    return model.working * max(0, runs - model.usage.at_once)


def _inputs(plans: Sequence[Plan]) -> int:
    return sum(plan.spec.channels for plan in plans)


def _scores(model: LoadedModel) -> int:
    """Channels of the scores, as the graph or else the manifest says."""
    labels = model.package.manifest.output.labels
    if labels is None or labels.encoding != "channels":
        return 1
    shapes: Mapping[str, Sequence[object]] = {
        entry.name: entry.shape for entry in model.session.get_outputs()
    }
    told = shapes[labels.tensor][labels.layout.index("C")]
    segments = model.package.manifest.output.segment
    named = max(each for entry in segments for each in entry.all_sources)
    return told if isinstance(told, int) else named + 1
