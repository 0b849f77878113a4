"""Whole label volumes after the last run: holes, small parts, instances."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ai.engine import Engine
from ai.models.graph import Graph
from ai.outputs import Output
from ai.package import Package
from ai.settle import settle
from ai.types import Confidence, Volume
from tests.model_packages import PROBABILITIES, SPACE, VOLUME, from_x_to_y

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
Voxel = tuple[int, int, int]
CODES = {"category": ["85756007", "SCT", "Tissue"], "type": ["3138006", "SCT", "Bone"]}


def output(*segments: dict[str, object], **changes: object) -> Output:
    shared = {"color": [1, 2, 3], "description": "One."} | CODES
    return Output.model_validate(
        {
            "task": "segmentation",
            "labels": {"tensor": "y", "layout": "NDHW", "encoding": "index"},
            "segment": [
                {"number": number + 1, "label": f"thing {'abc'[number]}"} | shared | keys
                for number, keys in enumerate(segments)
            ],
        }
        | changes
    )


def naive_parts(mask: np.ndarray, touching: str) -> list[set[Voxel]]:
    """Connected parts, one voxel after another, in the order of their first voxels."""
    steps = [
        step
        for step in itertools.product((-1, 0, 1), repeat=3)
        if any(step) and (touching == "corners" or sum(map(abs, step)) == 1)
    ]
    left = {tuple(place) for place in np.argwhere(mask).tolist()}
    found = []
    for seed in sorted(left):
        if seed not in left:
            continue
        part, waiting = set(), [seed]
        left.remove(seed)
        while waiting:
            place = waiting.pop()
            part.add(place)
            for step in steps:
                near = tuple(a + b for a, b in zip(place, step, strict=True))
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        found.append(part)
    return found


volumes = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
    elements=st.sampled_from([0, 0, 1, 1, 2]),
)


@settings(max_examples=100, deadline=None)
@given(
    labels=volumes,
    touching=st.sampled_from(["faces", "corners"]),
    smallest=st.integers(2, 5) | st.none(),
    keep=st.integers(1, 3) | st.none(),
)
def test_small_parts_go_and_large_ones_stay_as_a_naive_search_has_them(
    labels: np.ndarray, touching: str, smallest: int | None, keep: int | None
) -> None:
    spec = output(
        {"cleaning": {"touching": touching, "smallest_voxels": smallest, "keep_largest": keep}}, {}
    )
    parts = naive_parts(labels == 1, touching)
    kept = sorted(parts, key=lambda part: -len(part))[:keep]
    expected = np.where(labels == 2, 2, 0)
    for place in itertools.chain(*(part for part in kept if len(part) >= (smallest or 1))):
        expected[place] = 1
    assert np.array_equal(settle(spec, labels.copy(), None).labels, expected)


@settings(max_examples=100, deadline=None)
@given(labels=volumes, touching=st.sampled_from(["faces", "corners"]), most=st.integers(1, 5))
def test_each_part_is_an_instance_the_largest_first_and_at_most_so_many(
    labels: np.ndarray, touching: str, most: int
) -> None:
    spec = output({"instances": most, "cleaning": {"touching": touching}}, {})
    settled = settle(spec, labels.copy(), None)
    parts = sorted(naive_parts(labels == 1, touching), key=lambda part: -len(part))
    names = [f"thing a {number + 1}" for number in range(len(parts[:most]))] or ["thing a"]
    assert [entry.label for entry in settled.segments] == [*names, "thing b"]
    assert [entry.number for entry in settled.segments] == list(range(1, len(names) + 2))
    for number, part in enumerate(parts[:most]):
        assert {tuple(at) for at in np.argwhere(settled.labels == number + 1).tolist()} == part
        said = settled.segments[number].description
        assert f"Part {number + 1} of {len(parts)} by size" in said
        assert ("only the" in said) == (len(parts) > most)
    assert np.array_equal(settled.labels == len(names) + 1, labels == 2)


@settings(max_examples=100, deadline=None)
@given(labels=volumes, how=st.sampled_from(["slices", "volume"]))
def test_what_is_enclosed_is_filled_where_no_other_segment_is(labels: np.ndarray, how: str) -> None:
    made = settle(output({"cleaning": {"fill_holes": how}}, {}), labels.copy(), None).labels
    assert np.array_equal(made == 2, labels == 2)
    outside = labels != 1
    # What is not the segment and reaches no border is a hole.
    pieces = [outside] if how == "volume" else [outside[k : k + 1] for k in range(len(labels))]
    for first, piece in enumerate(pieces):
        last = np.array(piece.shape) - 1
        for part in naive_parts(piece, "faces"):
            axes = (0, 1, 2) if how == "volume" else (1, 2)
            enclosed = all(0 < place[axis] < last[axis] for place in part for axis in axes)
            for place in part:
                at = place if how == "volume" else (first, *place[1:])
                assert made[at] == (1 if enclosed and labels[at] == 0 else labels[at])


def test_a_size_in_millimetres_counts_voxels_of_this_image() -> None:
    labels = np.zeros((1, 3, 9), np.uint8)
    labels[0, 0, :2] = labels[0, 2, :5] = 1
    spec = output({"cleaning": {"smallest_mm3": 10.0}})
    assert settle(spec, labels.copy(), 2.0).labels.sum() == 5
    assert settle(spec, labels.copy(), 5.0).labels.sum() == 7
    assert settle(spec, labels.copy(), 1.0).labels.sum() == 0


@pytest.mark.parametrize(
    ("segments", "changes", "said"),
    [
        ([{"instances": 200}, {"instances": 100}], {}, "255 at most together"),
        ([{"sources": [1, 2]}, {}], {}, "belongs to one segment"),
        ([{"number": 3}], {}, "without a gap"),
        ([{"channel": 1, "sources": [1, 2]}], {}, "not both"),
        (
            [{"instances": 2}],
            {"labels": {"tensor": "y", "layout": "NCDHW", "encoding": "channels",
                        "probabilities": True}},
            "would not follow",
        ),
    ],
)  # fmt: skip
def test_segments_that_contradict_each_other_are_refused(
    segments: list[dict[str, object]], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        output(*segments, **changes)


INSTANCES = (
    PROBABILITIES
    + """
[output.cleaning]
smallest_voxels = 2

[[output.segment]]
number = 1
label = "nodule"
channel = 0
threshold = 0.25
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["27925004", "SCT", "Nodule"]
color = [240, 60, 60]
description = "A bright spot."
severity = 0.5
instances = 4
"""
)


@pytest.mark.feature("P07", "P11", "P13", "F09")
def test_each_instance_has_its_own_volume_and_confidence(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("probability")
    g.named("Identity", ["x"], ["y"])
    package = make_package(from_x_to_y(g, VOLUME), basis="trained", input=SPACE, output=INSTANCES)
    voxels = np.zeros((4, 8, 8), np.float32)
    voxels[0, 0, 0:2] = 0.75  # two voxels
    voxels[2:, 5:7, 5:7] = 0.5  # eight
    voxels[0, 7, 7] = 1.0  # a single one
    answer = engine.run(package, {"image": make_volume(voxels)})
    assert [entry.label for entry in answer.segments] == ["nodule 1", "nodule 2"]
    found = {finding.name: finding for finding in answer.findings}
    assert list(found) == ["nodule 1", "nodule 2"]  # larger, so more significant
    large, small = found["nodule 1"], found["nodule 2"]
    assert (large.segment, small.segment) == (1, 2)
    assert large.confidence == Confidence(pytest.approx(0.5), "model")
    assert small.confidence == Confidence(pytest.approx(0.75), "model")
    assert [each.measurements[0].value for each in (large, small)] == pytest.approx([0.004, 0.001])
    assert answer.labels is not None
    assert np.array_equal(answer.labels, np.where(voxels == 0.5, 1, np.where(voxels == 0.75, 2, 0)))


@pytest.mark.feature("P11", "F09")
def test_what_fills_a_hole_says_nothing_of_how_sure_the_segment_is(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("probability")
    g.named("Identity", ["x"], ["y"])
    filling = INSTANCES.replace("smallest_voxels = 2", 'fill_holes = "slices"')
    filling = filling.replace("instances = 4\n", "")
    package = make_package(from_x_to_y(g, VOLUME), basis="trained", input=SPACE, output=filling)
    voxels = np.zeros((4, 8, 8), np.float32)
    voxels[1, 2:5, 2:5] = 0.75
    voxels[1, 3, 3] = 0.125  # the hole
    answer = engine.run(package, {"image": make_volume(voxels)})
    (nodule,) = answer.findings
    assert np.count_nonzero(answer.labels) == 9
    assert isinstance(nodule.confidence, Confidence)
    assert nodule.confidence.value == 0.75
