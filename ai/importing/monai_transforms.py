"""What the transforms of a MONAI bundle say in the words of ``model.toml``.

Each transform that can be declared has one function: it adds keys to the table of an input, or
tells in a sentence why it cannot be declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ai.importing.draft import Tree
from ai.importing.monai_config import Expression

Step = Callable[[Mapping[str, Any], Tree], str | None]

# They change neither values nor grid, or only where an array lies in memory.
_NOTHING = frozenset(
    {
        *("LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType"),
        *("ToTensor", "ToDevice", "CastToType", "SelectItems", "DeleteItems", "CopyItems"),
        *("Identity", "SimulateDelay", "DataStats"),
    }
)
_ORDER_MATTERS = "two steps that scale values cannot be declared together"


def declared(transforms: Any, key: str, ignored: tuple[str, ...]) -> tuple[Tree, list[str]]:
    """The keys of one input, and a sentence for each step that cannot be declared.

    Args:
        transforms: The ``transforms`` of a ``Compose``, references followed.
        key: The key of the image in the bundle's dictionary.
        ignored: Names of transforms that are left out on purpose.
    """
    spec: Tree = {}
    problems = []
    if not isinstance(transforms, list):
        return spec, ["the preprocessing is no list of transforms"]
    for entry in transforms:
        step, name = _named(entry)
        if name in ignored or not _concerns(step, key):
            continue
        reason = _declare(name, step, spec)
        if reason is not None:
            problems.append(f"{name}: {reason}")
    return spec, problems


def _named(entry: Any) -> tuple[Mapping[str, Any], str]:
    """A transform, and its name without its module."""
    if isinstance(entry, Mapping):
        return entry, str(entry.get("_target_")).rpartition(".")[2]
    return {}, entry.text if isinstance(entry, Expression) else str(entry)


def _concerns(step: Mapping[str, Any], key: str) -> bool:
    if step.get("_disabled_") is True:
        return False
    keys = step.get("keys", key)
    return key in (keys if isinstance(keys, list | tuple) else [keys])


def _declare(name: str, step: Mapping[str, Any], spec: Tree) -> str | None:
    plain = name.removesuffix("Dict").removesuffix("d").removesuffix("D")
    bare = plain if plain in _STEPS or plain in _NOTHING else name
    if bare in _NOTHING:
        return None
    if bare not in _STEPS:
        return "it cannot be declared"
    expressions = [name for name, value in step.items() if isinstance(value, Expression)]
    if expressions:
        return f"{', '.join(expressions)} is an expression, which is not run"
    try:
        return _STEPS[bare](step, spec)
    except (TypeError, ValueError, IndexError):
        return "its arguments are not understood"


def _orientation(step: Mapping[str, Any], spec: Tree) -> str | None:
    axes = step.get("axcodes")
    if not isinstance(axes, str):
        return "it names no axes"
    uneven = len(set(spec.get("spacing", ()))) > 1
    spec["orientation"] = axes.upper()
    return "it comes after the spacing, whose axes are then not known" if uneven else None


def _spacing(step: Mapping[str, Any], spec: Tree) -> str | None:
    pixdim = step.get("pixdim")
    steps = [pixdim] * 3 if isinstance(pixdim, int | float) else list(pixdim or ())
    if not steps or not all(isinstance(each, int | float) and each > 0 for each in steps):
        return "an axis without a spacing keeps its own, which cannot be declared"
    spec["spacing"] = [float(each) for each in steps]
    mode = step.get("mode", "bilinear")
    first = mode[0] if isinstance(mode, list | tuple) else mode
    modes = {"bilinear": "linear", "nearest": "nearest", 3: "bspline"}
    if first not in modes:
        return f"its mode {first!r} cannot be declared"
    _interpolated(modes[first], spec)
    return None


def _resize(step: Mapping[str, Any], spec: Tree) -> str | None:
    spec["size"] = [int(size) for size in step["spatial_size"]]
    if step.get("size_mode", "all") != "all":
        return "only size_mode all can be declared"
    mode = step.get("mode", "area")
    first = mode[0] if isinstance(mode, list | tuple) else mode
    modes = {"bilinear": "linear", "trilinear": "linear", "nearest": "nearest"}
    if first not in modes:
        return f"its mode {first!r} cannot be declared"
    _interpolated(modes[first], spec)
    return None


def _interpolated(kind: str, spec: Tree) -> None:
    if kind != "linear":
        spec["interpolation"] = kind


def _scaled(spec: Tree, norm: Tree, window: Tree | None = None) -> str | None:
    if "normalisation" in spec or "window" in spec:
        return _ORDER_MATTERS
    spec["normalisation"] = norm
    if window is not None:
        spec["window"] = window
    return None


def _intensity_range(step: Mapping[str, Any], spec: Tree) -> str | None:
    low, high = float(step["a_min"]), float(step["a_max"])
    bottom, top = step.get("b_min"), step.get("b_max")
    to = [0.0, 1.0] if bottom is None or top is None else [float(bottom), float(top)]
    if step.get("clip", False):
        window = {"center": (low + high) / 2, "width": high - low}
        return _scaled(spec, {"kind": "window", "to": to}, window)
    # Without a limit it is a straight line: what becomes 0, and the step that becomes 1.
    sd = (high - low) / (to[1] - to[0])
    return _scaled(spec, {"kind": "none", "mean": [low - to[0] * sd], "sd": [sd]})


def _intensity(step: Mapping[str, Any], spec: Tree) -> str | None:
    if step.get("factor") is not None:
        return "its factor cannot be declared"
    low, high = step.get("minv", 0.0), step.get("maxv", 1.0)
    if low is None or high is None:
        return "without minv and maxv it cannot be declared"
    return _scaled(spec, {"kind": "minmax", "to": [float(low), float(high)]})


def _percentiles(step: Mapping[str, Any], spec: Tree) -> str | None:
    if step.get("relative") or not step.get("clip", False):
        return "only clip = true and relative = false can be declared"
    norm = {
        "kind": "percentiles",
        "percentiles": [float(step["lower"]), float(step["upper"])],
        "to": [float(step["b_min"]), float(step["b_max"])],
    }
    return _scaled(spec, norm)


def _normalise(step: Mapping[str, Any], spec: Tree) -> str | None:
    mean, sd = step.get("subtrahend"), step.get("divisor")
    if mean is not None and sd is not None:
        fixed = {"mean": _numbers(mean), "sd": _numbers(sd)}
        held = spec.get("normalisation", {"kind": "none"})
        if {"mean", "sd"} & set(held):
            return _ORDER_MATTERS
        spec["normalisation"] = held | fixed
        return None
    if mean is not None or sd is not None:
        return "subtrahend and divisor are given together or not at all"
    if not step.get("nonzero", False):
        return _scaled(spec, {"kind": "zscore"})
    return _scaled(spec, {"kind": "zscore", "over": "nonzero", "outside": 0.0})


def _numbers(value: Any) -> list[float]:
    return [float(each) for each in (value if isinstance(value, list | tuple) else [value])]


def _divisible(step: Mapping[str, Any], spec: Tree) -> str | None:
    many = step["k"] if isinstance(step["k"], list | tuple) else [step["k"]]
    if len(set(many)) != 1:
        return "one number for all axes can be declared"
    spec["multiple_of"] = int(many[0])
    return _padded(step, spec)


def _least(step: Mapping[str, Any], spec: Tree) -> str | None:
    spec["least"] = [int(size) for size in step["spatial_size"]]
    return _padded(step, spec)


def _padded(step: Mapping[str, Any], spec: Tree) -> str | None:
    if step.get("mode", "constant") != "constant":
        return "only padding with one value can be declared"
    if step.get("method", "symmetric") == "symmetric":
        spec["pad"] = "centre"
    return None


def _foreground(step: Mapping[str, Any], spec: Tree) -> str | None:
    if step.get("select_fn") is not None:
        return "its select_fn is not run"
    del spec
    return "it keeps what is above 0 at that step, which cannot be declared"


_STEPS: Mapping[str, Step] = {
    "Orientation": _orientation,
    "Spacing": _spacing,
    "Resize": _resize,
    "ScaleIntensityRange": _intensity_range,
    "ScaleIntensity": _intensity,
    "ScaleIntensityRangePercentiles": _percentiles,
    "NormalizeIntensity": _normalise,
    "DivisiblePad": _divisible,
    "SpatialPad": _least,
    "CropForeground": _foreground,
}

# Postprocessing → keys of [output.labels], or of the score of each finding.
_ENDS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Activations": {"softmax": ("activation", "softmax"), "sigmoid": ("activation", "sigmoid")},
    "AsDiscrete": {"argmax": ("select", "argmax")},
}
# They work on every segment; in the node, in the image's own grid.
_CLEANING: Mapping[str, Callable[[Mapping[str, Any]], Tree]] = {
    "KeepLargestConnectedComponent": lambda step: {"keep_largest": step.get("num_components", 1)},
    "FillHoles": lambda _: {"fill_holes": "volume"},
}
_ENDS_NOTHING = frozenset(
    {*("Invert", "SaveImage", "SaveClassification", "Decollate", "LoadImage"), *_NOTHING}
)


def concluded(transforms: Any, ignored: tuple[str, ...]) -> tuple[Tree, list[str]]:
    """What the postprocessing says: ``activation``, ``select``, ``threshold``, ``cleaning``."""
    found: Tree = {}
    problems = []
    for entry in transforms if isinstance(transforms, list) else ():
        step, name = _named(entry)
        plain = name.removesuffix("Dict").removesuffix("d").removesuffix("D")
        if name in ignored or plain in _ENDS_NOTHING or step.get("_disabled_") is True:
            continue
        said = dict(_told(plain, step))
        if not said:
            problems.append(f"{name}: it cannot be declared")
        held = found.get("cleaning", {})
        found |= said | ({"cleaning": held | said["cleaning"]} if "cleaning" in said else {})
    return found, problems


def _told(name: str, step: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for argument, (key, value) in _ENDS.get(name, {}).items():
        given = step.get(argument)
        if given is True or (isinstance(given, list) and given[:1] == [True]):
            yield key, value
    if name in _CLEANING and step.get("applied_labels") is None:
        yield "cleaning", _CLEANING[name](step)
    threshold = step.get("threshold")
    number = threshold[0] if isinstance(threshold, list) and threshold else threshold
    if name == "AsDiscrete" and isinstance(number, int | float) and not isinstance(number, bool):
        yield "select", "threshold"
        yield "threshold", float(number)
