"""Boxes and heat maps of the members of an ensemble as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from ai.boxes import Boxes, ObjectTable
from ai.detect import Found
from ai.engine import Engine
from ai.fusion import fused
from ai.manifest import parse_manifest
from ai.models.graph import Graph
from ai.package import Package
from ai.types import Volume
from config.errors import ManifestError
from tests.model_packages import (
    IMAGE,
    SPACE,
    VOLUME,
    WHOLE,
    box_around,
    boxed,
    head,
    primary_input,
    scored,
    unsealed,
    write_package,
)

VolumeMaker = Callable[..., Volume]
Corners = tuple[float, ...]
CODES = {
    "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    "type": ["27925004", "SCT", "Nodule"],
}


def boxes(**changes: object) -> Boxes:
    return Boxes.model_validate({"tensor": "b", "format": "zyxzyx", "scores": "s"} | changes)


def things(*names: str) -> tuple[ObjectTable, ...]:
    return tuple(
        ObjectTable.model_validate({"index": index, "name": name, "description": "One."} | CODES)
        for index, name in enumerate(names)
    )


def found(*rows: tuple[Corners, float, int]) -> Found:
    """Boxes of six corners, near ones first, a score and a class."""
    corners = np.array([row[0] for row in rows], float).reshape(-1, 6)
    return Found(
        corners[:, :3],
        corners[:, 3:],
        np.array([row[1] for row in rows], float),
        np.array([row[2] for row in rows], np.intp),
    )


def overlap(a: Corners, b: Corners) -> float:
    shared, first, second = 1.0, 1.0, 1.0
    for axis in range(3):
        shared *= max(0.0, min(a[axis + 3], b[axis + 3]) - max(a[axis], b[axis]))
        first *= a[axis + 3] - a[axis]
        second *= b[axis + 3] - b[axis]
    return shared / (first + second - shared)


def by_hand(members: list[list[tuple[Corners, float]]], iou: float) -> list[tuple[Corners, float]]:
    """The algorithm of the paper for one class, box by box, with the members that saw a box."""
    everything = [(c, s, at) for at, rows in enumerate(members) for c, s in rows]
    clusters: list[list[tuple[Corners, float, int]]] = []
    means: list[Corners] = []
    for box in sorted(everything, key=lambda each: -each[1]):
        shared = [overlap(mean, box[0]) for mean in means]
        best = shared.index(max(shared)) if shared else -1
        if best < 0 or shared[best] <= iou:
            clusters.append([])
            means.append(box[0])
            best = len(clusters) - 1
        clusters[best].append(box)
        total = sum(score for _, score, _ in clusters[best])
        means[best] = tuple(
            sum(score * corners[axis] for corners, score, _ in clusters[best]) / total
            for axis in range(6)
        )
    made = []
    for cluster, mean in zip(clusters, means, strict=True):
        score = sum(each for _, each, _ in cluster) / len(cluster)
        made.append((mean, score * len({at for *_, at in cluster}) / len(members)))
    return made


@st.composite
def crowds(draw: st.DrawFn) -> list[list[tuple[Corners, float]]]:
    """What up to four members say of a few things, flat or not: boxes with unlike scores."""
    flat = draw(st.booleans())
    whole, size = st.integers(0, 5), st.integers(1, 6)
    count = draw(st.integers(0, 10))
    scores = draw(st.permutations([(place + 1) / 12 for place in range(10)]))
    members: list[list[tuple[Corners, float]]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for score in scores[:count]:
        low = [draw(whole) for _ in range(3)]
        high = [at + (1 if flat and axis == 0 else draw(size)) for axis, at in enumerate(low)]
        members[draw(st.integers(0, len(members) - 1))].append(
            (tuple(map(float, low + high)), score)
        )
    return members


@pytest.mark.feature("F24", "P12")
@settings(max_examples=150, deadline=None)
@given(members=crowds(), iou=st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_boxes_are_fused_as_in_the_paper(
    members: list[list[tuple[Corners, float]]], iou: float
) -> None:
    spec = boxes(nms="none", threshold=0.0, iou=iou)
    given_ = [found(*((corners, score, 0) for corners, score in rows)) for rows in members]
    made = fused(spec, things("a"), given_)
    expected = sorted(by_hand(members, iou), key=lambda each: -each[1])
    assert np.all(np.diff(made.scores) <= 0)
    ours = sorted(zip(made.scores, map(tuple, np.hstack([made.low, made.high])), strict=True))
    theirs = sorted((score, corners) for corners, score in expected)
    assert len(ours) == len(theirs)
    for (score, corners), (wanted, place) in zip(ours, theirs, strict=True):
        assert score == pytest.approx(wanted)
        assert corners == pytest.approx(place)


def test_a_box_that_one_of_three_saw_has_a_third_of_its_score() -> None:
    both = [((0, 0, 0, 4, 4, 4), 0.9, 0), ((10, 10, 10, 14, 14, 14), 0.9, 0)]
    members = [found(*both), found(both[0]), found(both[0])]
    made = fused(boxes(threshold=0.0), things("a"), members)
    assert made.scores.tolist() == pytest.approx([0.9, 0.3])
    (sure,) = fused(boxes(), things("a"), members).scores
    assert sure == pytest.approx(0.9)


def test_what_a_member_says_twice_counts_once() -> None:
    twice = found(((0, 0, 0, 4, 4, 4), 0.8, 0), ((0, 0, 0, 4, 4, 4), 0.6, 0))
    nothing = found()
    (once,) = fused(boxes(threshold=0.0), things("a"), [twice, nothing]).scores
    assert once == pytest.approx(0.4)
    # Where a member's own boxes are not thinned out, the mean of both counts.
    (kept,) = fused(boxes(threshold=0.0, nms="none"), things("a"), [twice, nothing]).scores
    assert kept == pytest.approx(0.35)


def test_what_a_member_is_not_sure_of_counts_where_another_one_is() -> None:
    there, elsewhere = (0, 0, 0, 4, 4, 4), (20, 20, 20, 24, 24, 24)
    first = found((there, 0.9, 0), (elsewhere, 0.4, 0))
    second = found((there, 0.3, 0), (elsewhere, 0.45, 0))
    made = fused(boxes(), things("a"), [first, second])
    assert made.scores.tolist() == pytest.approx([0.6])
    assert made.low.tolist() == [[0, 0, 0]]


def test_classes_are_fused_apart() -> None:
    place = (0, 0, 0, 4, 4, 4)
    made = fused(boxes(), things("a", "b"), [found((place, 0.9, 0)), found((place, 0.8, 1))])
    assert made.scores.tolist() == []
    made = fused(boxes(threshold=0.4), things("a", "b"), [found((place, 0.9, 0), (place, 0.8, 1))])
    assert made.objects.tolist() == [0, 1]


DETECTED = boxed("spot", "iou = 0.2")


def package(folder: Path, graphs: list[bytes], spec: str, output: str, ensemble: str) -> Package:
    manifest = head("several") + primary_input(spec) + output + f"\n[ensemble]\n{ensemble}\n"
    more = dict(zip(["second.onnx"], graphs[1:], strict=False))
    return write_package(folder / "several" / "1.0.0", graphs[0], manifest, more)


def spots(columns: float, score: float, empty: bool = False) -> bytes:
    """The box around what is bright, some columns further to the right; or none."""
    g = Graph("spots")
    mask = g.floats(g.op("Greater", "x", g.real(0.0)))
    near = box_around(g, mask)
    moved = g.op("Add", near, g.real(0.0, 0.0, columns, 0.0, 0.0, columns))
    row = g.op("Reshape", moved, g.whole(1, 6))
    sure = g.op("Reshape", g.real(score), g.whole(1))
    rows = g.whole(0 if empty else 1)
    g.named("Slice", [row, g.whole(0), rows, g.whole(0)], ["box"])
    g.named("Slice", [sure, g.whole(0), rows, g.whole(0)], ["score"])
    return g.serialized(
        [("x", TensorProto.FLOAT, VOLUME)],
        [("box", TensorProto.FLOAT, ("n", 6)), ("score", TensorProto.FLOAT, ("n",))],
    )


def bright() -> np.ndarray:
    voxels = np.zeros((9, 20, 24), np.int16)
    voxels[2:5, 4:10, 6:12] = 1
    return voxels


@pytest.mark.feature("F24", "P12")
def test_boxes_of_graphs_and_flips_are_turned_back_and_fused(
    tmp_path: Path, make_volume: VolumeMaker, engine: Engine
) -> None:
    made = package(
        tmp_path, [spots(1.0, 0.9), spots(0.0, 0.6)], SPACE, DETECTED,
        'graphs = ["second.onnx"]\nflips = [["slices", "rows", "columns"]]',
    )  # fmt: skip
    (finding,) = engine.run(made, {"image": make_volume(bright())}).findings
    # The first graph moves to the right, and of what is turned around to the left.
    assert finding.confidence.value == pytest.approx((0.9 + 0.6 + 0.9 + 0.6) / 4)
    assert finding.region is not None
    assert finding.region.slice_index == 3
    assert finding.region.points.min(axis=0) == pytest.approx([5.5, 3.5])
    assert finding.region.points.max(axis=0) == pytest.approx([11.5, 9.5])
    sizes = {each.name.meaning: each.value for each in finding.measurements}
    assert sizes == pytest.approx({"Depth": 6.0, "Height": 3.0, "Width": 3.0})


@pytest.mark.parametrize(("score", "reported"), [(0.9, False), (1.0, True)])
def test_a_box_that_half_of_the_members_see_needs_a_full_score(
    tmp_path: Path, make_volume: VolumeMaker, engine: Engine, score: float, reported: bool
) -> None:
    made = package(
        tmp_path, [spots(0.0, score), spots(0.0, 0.9, empty=True)], SPACE, DETECTED,
        'graphs = ["second.onnx"]',
    )  # fmt: skip
    findings = engine.run(made, {"image": make_volume(bright())}).findings
    assert [each.confidence.value for each in findings] == [0.5][: int(reported)]


def mapped(pooled: int, weight: float) -> bytes:
    """A score that rests on the first row and column, and a map of the image, pooled."""
    g = Graph("map")
    corner = g.op("Slice", "x", g.whole(0, 0), g.whole(1, 1), g.whole(2, 3))
    scaled = g.op("Mul", corner, g.real(weight))
    g.named("Reshape", [g.op("ReduceMean", scaled, g.whole(1, 2, 3)), g.whole(-1, 1)], ["s"])
    sizes = [pooled, pooled]
    g.named("AveragePool", ["x"], ["cam"], kernel_shape=sizes, strides=sizes)
    return g.serialized(
        [("x", TensorProto.FLOAT, IMAGE)],
        [("s", TensorProto.FLOAT, ("N", 1)), ("cam", TensorProto.FLOAT, ("N", 1, "h", "w"))],
    )


SCORE = scored("bright", 'tensor = "s", index = 0, threshold = 0.1')


@pytest.mark.feature("F24", "P14")
def test_the_map_of_an_ensemble_is_the_mean_of_all_turned_back(
    tmp_path: Path, make_volume: VolumeMaker, engine: Engine
) -> None:
    given_map = '[output.saliency]\nmethod = "output"\ntensor = "cam"\nlayout = "NCHW"\n'
    made = package(
        tmp_path, [mapped(1, 0.2), mapped(2, 0.2)], WHOLE, f"{SCORE}\n{given_map}",
        'graphs = ["second.onnx"]\nflips = [["columns"]]',
    )  # fmt: skip
    voxels = np.full((1, 4, 6), 1.0, np.float32)
    voxels[0, :2, 4:] = 3.0
    answer = engine.run(made, {"image": make_volume(voxels)})
    assert answer.saliency is not None
    assert answer.saliency.method == "The mean of the maps that the model's 4 runs give."
    # The map of the second is half as fine: between its two levels it runs in a straight line.
    fine = voxels[0].astype(np.float64)
    columns = np.interp((np.arange(6) + 0.5) / 2 - 0.5, [0, 1, 2], [1, 1, 3])
    rows = np.interp((np.arange(4) + 0.5) / 2 - 0.5, [0, 1], [1, 0])
    coarse = 1 + rows[:, None] * (columns - 1)
    assert np.allclose(answer.saliency.values[0], (fine + coarse) / 2, atol=1e-5)


def test_hiding_asks_all_members(tmp_path: Path, make_volume: VolumeMaker, engine: Engine) -> None:
    hidden = (
        '[output.saliency]\nmethod = "occlusion"\npatch = [1, 1]\nstride = [1, 1]\nfill = 0.0\n'
    )
    made = package(
        tmp_path, [mapped(1, 0.8), mapped(1, 0.4)], WHOLE, f"{SCORE}\n{hidden}copies = 5",
        'graphs = ["second.onnx"]\nflips = [["columns"]]',
    )  # fmt: skip
    answer = engine.run(made, {"image": make_volume(np.ones((1, 3, 4), np.float32))})
    assert answer.saliency is not None
    expected = np.zeros((3, 4))
    # As it lies both graphs rest on the first column, turned around on the last one.
    expected[0, 0] = expected[0, 3] = (0.8 + 0.4) / 4
    assert np.allclose(answer.saliency.values[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "output", "said"),
    [
        (WHOLE, SCORE + 'region = "box"\n', "no region of a finding"),
        (
            f"{SPACE}\nsize = [4, 4, 4]",
            f'{SCORE}\n[output.saliency]\nmethod = "output"\ntensor = "cam"\nlayout = "NCHW"\n',
            "output.saliency.layout with D",
        ),
    ],
)
def test_what_has_no_mean_is_refused(spec: str, output: str, said: str) -> None:
    flips = '[["slices"]]' if "3D" in spec else '[["rows"]]'
    manifest = head() + primary_input(spec) + output + f"\n[ensemble]\nflips = {flips}\n"
    with pytest.raises(ManifestError, match=said):
        parse_manifest(unsealed(manifest))
