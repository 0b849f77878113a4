"""What the channels that a network of nnU-Net gives stand for: labels, or regions that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai.importing.codes import plain
from ai.importing.draft import Tree
from ai.importing.labels import segment
from config.errors import ModelFileError

# nnU-Net paints what is above one half; a package takes what is at its threshold or above. This is
# the next number of single precision.
_ABOVE_HALF = 0.50000006


@dataclass(frozen=True)
class Heads:
    """The output of a network.

    Attributes:
        count: Channels that it gives.
        labels: What is done with them, part of ``[output.labels]``.
        segments: ``[[output.segment]]`` by label.
    """

    count: int
    labels: Tree
    segments: Tree


def heads(plans: Mapping[str, Any], dataset: Mapping[str, Any], *, overlap: bool = False) -> Heads:
    """What ``labels`` and ``regions_class_order`` of ``dataset.json`` say of the output.

    With a label that is a list of several class numbers all of them are regions: a channel each in
    the order of the file, the background left out, and a sigmoid over each. What is above 0.5 is
    painted region by region with the number that ``regions_class_order`` has there, each over the
    ones before it (nnU-Net v2, ``LabelManager``). Without one it is a softmax over consecutive
    labels, whose highest is taken.

    Args:
        plans: ``plans.json``.
        dataset: ``dataset.json``.
        overlap: Regions are not painted but stay whole, each with all that is above 0.5 in its
            channel.

    Raises:
        ModelFileError: They contradict themselves, the plans name another rule, or labels that
            exclude each other shall overlap.
    """
    rule = str(plans.get("label_manager", "LabelManager"))
    if rule != "LabelManager":
        raise ModelFileError(f"the plans name {rule[:80]!r}, a rule for labels that is not known")
    named = {
        str(name): [int(each) for each in value] if isinstance(value, list) else [int(value)]
        for name, value in dataset.get("labels", {}).items()
        if name != "ignore"
    }
    if any(len(numbers) > 1 for numbers in named.values()):
        return _regions(named, dataset.get("regions_class_order"), overlap=overlap)
    if overlap:
        raise ModelFileError("import.overlap is for regions, and these labels exclude each other")
    return _labels({name: number for name, (number,) in named.items()})


def _labels(named: Mapping[str, int]) -> Heads:
    ordered = sorted(named, key=lambda name: named[name])
    if [named[name] for name in ordered] != list(range(len(named))):
        raise ModelFileError("the labels are not numbered from 0 without a gap")
    segments = {name: segment(number, name) for number, name in enumerate(ordered) if number}
    return Heads(len(named), {"activation": "softmax", "select": "argmax"}, _by_label(segments))


def _regions(named: Mapping[str, Sequence[int]], order: object, *, overlap: bool) -> Heads:
    held = {name: set(numbers) for name, numbers in named.items() if set(numbers) != {0}}
    painted = [int(number) for number in order] if isinstance(order, list) else []
    if len(painted) != len(held) or len(set(painted)) != len(held) or min(painted) < 1:
        raise ModelFileError(
            f"regions_class_order does not give each of the {len(held)} regions a number of its own"
        )
    names, places = list(held), {number: at for at, number in enumerate(painted)}
    segments: Tree = {}
    for number, painted_as in enumerate(sorted(painted), 1):
        place = places[painted_as]
        name = names[place] if overlap else _left_of(names[place], names[place + 1 :], held)
        own = segment(number, name, place) | {"threshold": _ABOVE_HALF}
        segments[name] = own if overlap else own | {"priority": place}
    labels: Tree = {"activation": "sigmoid", "select": "threshold"}
    labels |= {"overlap": True} if overlap else {}
    return Heads(len(held), labels, _by_label(segments))


def _left_of(name: str, later: Sequence[str], held: Mapping[str, set[int]]) -> str:
    """What a region is called of which others, painted after it, take a part."""
    over = [other for other in later if held[other] & held[name]]
    # What lies in another one of them need not be told.
    told = [
        other
        for at, other in enumerate(over)
        if not any(held[other] <= held[each] for each in over[:at])
    ]
    return f"{name} without {' and '.join(told)}" if told else name


def _by_label(segments: Mapping[str, Tree]) -> Tree:
    labelled = {plain(name): entry for name, entry in segments.items()}
    if len(labelled) != len(segments):
        raise ModelFileError("two labels have the same name")
    return labelled
