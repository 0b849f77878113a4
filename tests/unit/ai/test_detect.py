"""Boxes of a detector: read, thinned out, mapped back into the image."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from ai.boxes import FORMATS, Boxes, ObjectTable
from ai.detect import Found, Seen, findings, kept, over_slices, read
from ai.engine import Engine
from ai.inputs import Input
from ai.models.graph import Graph
from ai.package import Package
from ai.preprocess import Plan, plan
from ai.types import Volume
from config.errors import InferenceError
from tests.model_packages import SPACE, VOLUME, WHOLE, box_around, boxed

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
CODES = {
    "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    "type": ["27925004", "SCT", "Nodule"],
}
TURNS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "AP", "SI"))
    for letters in itertools.product(*order)
]


def boxes(**changes: object) -> Boxes:
    return Boxes.model_validate({"tensor": "b", "format": "zyxzyx", "scores": "s"} | changes)


def things(*names: str, **changes: object) -> tuple[ObjectTable, ...]:
    return tuple(
        ObjectTable.model_validate(
            {"index": index, "name": name, "description": "One."} | CODES | changes
        )
        for index, name in enumerate(names)
    )


def spec(**changes: object) -> Input:
    keys: dict[str, object] = {
        "role": "image", "primary": True, "tensor": "x", "modality": ["CT"], "units": "[hnsf'U]",
        "dimensions": "3D", "layout": "NCDHW",
    }  # fmt: skip
    return Input.model_validate(keys | changes)


def image(
    shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, ::-1] * np.array(spacing)
    return Volume(np.zeros(shape, np.int16), "[hnsf'U]", affine, spacing, (-1024.0, 3071.0))


def overlap(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Intersection over union of two boxes, by hand."""
    shared = 1.0
    for axis in range(3):
        shared *= max(0.0, min(a[1][axis], b[1][axis]) - max(a[0][axis], b[0][axis]))
    both = np.prod(a[1] - a[0]) + np.prod(b[1] - b[0])
    return shared / float(both - shared)


@st.composite
def crowds(draw: st.DrawFn, flat: bool) -> Found:
    count = draw(st.integers(0, 14))
    whole = st.integers(0, 6)
    low = np.array(draw(st.lists(st.tuples(whole, whole, whole), min_size=count, max_size=count)))
    size = st.integers(1, 5)
    sizes = np.array(draw(st.lists(st.tuples(size, size, size), min_size=count, max_size=count)))
    low, sizes = low.reshape(-1, 3).astype(float), sizes.reshape(-1, 3).astype(float)
    if flat:
        sizes[:, 0] = 1.0
    score = st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9])
    scores = np.array(draw(st.lists(score, min_size=count, max_size=count)))
    owner = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.intp)
    return Found(low, low + sizes, scores.reshape(-1), owner.reshape(-1))


@pytest.mark.feature("F24")
@pytest.mark.parametrize("flat", [True, False], ids=["2D", "3D"])
@settings(max_examples=100, deadline=None)
@given(data=st.data(), iou=st.sampled_from([0.0, 0.25, 0.5, 0.9]), among=st.sampled_from(
    ["class", "all", "none"]
))  # fmt: skip
def test_what_overlaps_a_more_probable_box_is_dropped_as_a_naive_search_does(
    flat: bool, data: st.DataObject, iou: float, among: str
) -> None:
    found = data.draw(crowds(flat))
    left: list[int] = []
    for index in sorted(range(len(found.scores)), key=lambda each: -found.scores[each]):
        rivals = [
            other
            for other in left
            if among == "all" or (among == "class" and found.objects[other] == found.objects[index])
        ]
        corners = (found.low[index], found.high[index])
        if not any(overlap((found.low[r], found.high[r]), corners) > iou for r in rivals):
            left.append(index)
    assert kept(found, boxes(iou=iou, nms=among)).tolist() == left


@settings(max_examples=100, deadline=None)
@given(found=crowds(flat=True), iou=st.sampled_from([0.0, 0.3, 0.6]))
def test_boxes_are_joined_from_slice_to_slice_as_a_naive_search_does(
    found: Found, iou: float
) -> None:
    chains: list[set[int]] = [{index} for index in range(len(found.scores))]
    for a, b in itertools.permutations(range(len(found.scores)), 2):
        lifted = found.low[a] + [1, 0, 0], found.high[a] + [1, 0, 0]
        meet = found.low[b][0] == found.low[a][0] + 1 and found.objects[a] == found.objects[b]
        if meet and overlap(lifted, (found.low[b], found.high[b])) > iou:
            one = next(chain for chain in chains if a in chain)
            other = next(chain for chain in chains if b in chain)
            if one is not other:
                chains.remove(other)
                one |= other
    made = over_slices(found, 0, iou)
    told = zip(made.low.tolist(), made.high.tolist(), made.scores, made.objects, strict=True)
    expected = [
        (
            found.low[list(chain)].min(axis=0).tolist(),
            found.high[list(chain)].max(axis=0).tolist(),
            found.scores[list(chain)].max(),
            found.objects[min(chain)],
        )
        for chain in chains
    ]
    assert sorted(told) == sorted(expected)
    assert (np.diff(made.scores) <= 0).all()


@st.composite
def prepared(draw: st.DrawFn) -> Plan:
    """A random volume under a random preparation."""
    shape = draw(st.tuples(*[st.integers(2, 9)] * 3))
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.array(signs) * np.array(spacing)
    voxels = np.zeros(shape, np.int16)
    corner = [draw(st.integers(0, n - 1)) for n in shape]
    voxels[corner[0] :, corner[1] :, corner[2] :] = 1
    keys: dict[str, object] = {
        "orientation": draw(st.sampled_from(TURNS) | st.none()),
        "crop": draw(st.sampled_from([None, {"to": "nonzero", "margin": 1}, {"to": "square"}])),
        "pad": draw(st.sampled_from(["end", "centre"])),
        "multiple_of": draw(st.sampled_from([1, 4])),
        "least": draw(st.sampled_from([None, (12, 12, 12)])),
    }
    keys |= draw(
        st.sampled_from(
            [{}, {"spacing": (0.7, 1.3, 2.0)}, {"size": (5, 8, 6)},
             {"size": (7, 7, 7), "fit": "inside"}]
        )
    )  # fmt: skip
    values = Volume(voxels, "[hnsf'U]", affine, spacing, (-1024.0, 3071.0))
    return plan(spec(**keys), values)


@pytest.mark.feature("P09", "P12")
@settings(max_examples=120, deadline=None)
@given(made=prepared(), data=st.data())
def test_a_box_around_a_voxel_comes_back_around_that_voxel(made: Plan, data: st.DataObject) -> None:
    # The voxel is followed through the arrays themselves, not through the arithmetic of places.
    own = made.volume.voxels.shape
    numbers = np.arange(np.prod(own)).reshape(own)
    seen = made.oriented(numbers)
    at = tuple(data.draw(st.integers(0, n - 1)) for n in seen.shape)
    target = np.argwhere(numbers == seen[at])[0]
    before = np.array(made.pad_before(made.shape[0]), float)
    low = before + np.array(at) / np.array(made.scale)
    high = before + (np.array(at) + 1) / np.array(made.scale)
    tensors = {"b": np.array([[*low, *high]]), "s": np.array([0.75])}
    found = read(boxes(), things("nodule"), tensors, made, Seen.of_block(made, 0, made.shape[0]))
    assert found.low[0] == pytest.approx(target, abs=1e-6)
    assert found.high[0] == pytest.approx(target + 1, abs=1e-6)
    ((finding, share),) = findings(boxes(), things("nodule"), found, made, "trained")
    assert finding.region is not None
    assert finding.region.slice_index == target[0]
    assert finding.region.points.mean(axis=0) == pytest.approx(target[[2, 1]], abs=1e-6)
    assert share == pytest.approx(1 / np.prod(own))
    assert [each.value for each in finding.measurements] == pytest.approx(made.volume.spacing)
    assert [each.name.meaning for each in finding.measurements] == ["Depth", "Height", "Width"]
    assert {each.unit.value for each in finding.measurements} == {"mm"}


@pytest.mark.feature("P12", "P13", "P16")
@settings(max_examples=100, deadline=None)
@given(made=prepared(), seed=st.integers(0, 2**32 - 1), count=st.integers(0, 12))
def test_any_numbers_give_boxes_inside_the_image_with_extent_or_nothing(
    made: Plan, seed: int, count: int
) -> None:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(-20, 40, (1, count, 2, 3)), axis=2)
    tensors = {
        "b": corners.reshape(1, count, 6).astype(np.float32),
        "s": random.uniform(0, 1, (1, count, 2)).astype(np.float32),
    }
    kinds = things("nodule", "node")
    found = read(boxes(), kinds, tensors, made, Seen.of_block(made, 0, made.shape[0]))
    reported = findings(boxes(), kinds, found, made, "trained")
    assert len({finding.name for finding, _ in reported}) == len(reported)
    slices, rows, columns = made.volume.voxels.shape
    for finding, share in reported:
        assert finding.region is not None
        assert 0 <= finding.region.slice_index < slices
        low, high = finding.region.points.min(axis=0), finding.region.points.max(axis=0)
        assert (low >= -0.5).all()
        assert (high <= [columns - 0.5, rows - 0.5]).all()
        assert (high > low).all()
        assert all(each.value > 0 for each in finding.measurements)
        assert 0 < share <= 1
        assert finding.confidence.value is not None
        assert 0.5 <= finding.confidence.value <= 1


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("normalised", [False, True])
def test_every_format_tells_the_same_box(format_: str, normalised: bool) -> None:
    flat = FORMATS[format_].axes == 2
    low, high = {"x": 2.0, "y": 1.0, "z": 3.0}, {"x": 5.0, "y": 7.0, "z": 8.0}
    shape = {"x": 10, "y": 20, "z": 40}
    named = {
        **{f"low {axis}": low[axis] for axis in low},
        **{f"high {axis}": high[axis] for axis in low},
    }
    size = dict(zip("whd", (high[axis] - low[axis] for axis in "xyz"), strict=True))
    middle = {f"c{axis}": (low[axis] + high[axis]) / 2 for axis in low}
    if format_.startswith("c"):
        row = [middle[f"c{axis}"] for axis in ("xy" if flat else "xyz")]
        row += [size[letter] for letter in ("wh" if flat else "whd")]
    elif "w" in format_:
        row = [low[axis] for axis in ("xy" if flat else "xyz")]
        row += [size[letter] for letter in ("wh" if flat else "whd")]
    else:
        seen: set[str] = set()
        row = []
        for axis in format_:
            row.append(named[f"{'high' if axis in seen else 'low'} {axis}"])
            seen.add(axis)
    if normalised:
        axes = "xyxy" if flat else "xyzxyz"
        letters = format_ if not ({"c", "w"} & set(format_)) else axes
        row = [value / shape[axis] for value, axis in zip(row, letters, strict=True)]
    voxels = image((1, 20, 10)) if flat else image((40, 20, 10))
    changes = {"dimensions": "2D", "layout": "NCHW"} if flat else {}
    made = plan(spec(**changes), voxels)
    said = boxes(format=format_, normalised=normalised)
    tensors = {"b": np.array([row], np.float32), "s": np.array([1.0], np.float32)}
    found = read(said, things("nodule"), tensors, made, Seen.of_block(made, 0, len(voxels.voxels)))
    expected = [0.0 if flat else 3.0, 1.0, 2.0], [1.0 if flat else 8.0, 7.0, 5.0]
    assert found.low[0] == pytest.approx(expected[0], abs=1e-5)
    assert found.high[0] == pytest.approx(expected[1], abs=1e-5)


def test_of_a_stack_each_image_has_its_own_boxes() -> None:
    made = plan(
        spec(dimensions="2D", apply="slices", layout="NCHW", batch=2), image((5, 8, 8), (3, 2, 1))
    )
    rows = np.array([[[1, 2, 4, 4], [0, 0, 2, 2]], [[1, 2, 4, 4], [5, 5, 5, 8]]], np.float32)
    tensors = {"b": rows, "s": np.array([[0.9, 0.3], [0.8, 0.9]], np.float32)}
    said = boxes(format="xyxy")
    found = read(said, things("nodule"), tensors, made, Seen.of_block(made, 2, 4))
    reported = [finding for finding, _ in findings(said, things("nodule"), found, made, "trained")]
    assert [(each.name, each.region.slice_index) for each in reported if each.region] == [
        ("nodule 1", 2),
        ("nodule 2", 3),
    ]
    sizes = [[(m.name.meaning, m.value) for m in each.measurements] for each in reported]
    assert sizes == [[("Height", 4.0), ("Width", 3.0)]] * 2


def test_a_thing_on_several_slices_is_one_finding_where_that_is_asked() -> None:
    keys = {"dimensions": "2D", "apply": "slices", "layout": "NCHW", "orientation": "IRA"}
    made = plan(spec(**keys), image((6, 8, 8), (3.0, 2.0, 1.0)))
    rows = np.zeros((6, 1, 4), np.float32)
    rows[1:4] = [1, 2, 5, 4]  # of the turned image, whose columns run along the own rows
    tensors = {"b": rows, "s": np.array([[0.0], [0.6], [0.9], [0.7], [0.0], [0.0]])}
    said = boxes(format="xyxy", join_slices=True)
    found = read(said, things("nodule"), tensors, made, Seen.of_block(made, 0, 6))
    ((finding, share),) = findings(said, things("nodule"), found, made, "trained")
    assert finding.confidence.value == 0.9
    assert finding.region is not None
    assert finding.region.slice_index == 3
    sizes = {each.name.meaning: each.value for each in finding.measurements}
    assert sizes == {"Depth": 9.0, "Height": 8.0, "Width": 2.0}
    assert share == pytest.approx(3 * 2 * 4 / (6 * 8 * 8))


@pytest.mark.feature("F24")
def test_thresholds_bands_and_the_most_are_kept() -> None:
    made = plan(spec(), image((9, 9, 9)))
    places = [[k, k, k, k + 1, k + 1, k + 1] for k in range(8)]
    scores = np.array([0.5, 0.49, 0.9, 0.8, 0.7, 0.31, 0.3, 0.95])
    tensors = {"b": np.array(places, float), "s": scores}
    kinds = things("nodule")
    found = read(boxes(), kinds, tensors, made, Seen.of_block(made, 0, 9))
    assert sorted(found.scores) == [0.5, 0.7, 0.8, 0.9, 0.95]
    banded = things("nodule", review=[0.3, 0.4], threshold=0.9)
    found = read(boxes(), banded, tensors, made, Seen.of_block(made, 0, 9))
    reported = [finding for finding, _ in findings(boxes(), banded, found, made, "trained")]
    assert [each.needs_review for each in reported] == [False, False, True, True]
    few = boxes(most=2)
    found = read(few, kinds, tensors, made, Seen.of_block(made, 0, 9))
    reported = [finding for finding, _ in findings(few, kinds, found, made, "trained")]
    assert [each.confidence.value for each in reported] == [0.95, 0.9]
    assert all("Only the 2 most probable of 5" in each.description for each in reported)


@pytest.mark.parametrize(
    ("changes", "tensors", "said"),
    [
        ({}, {"b": np.zeros((2, 4)), "s": np.zeros(2)}, "6 numbers a box"),
        ({}, {"b": np.zeros((2, 3, 6)), "s": np.zeros((2, 3))}, "1 images"),
        ({}, {"b": np.zeros((2, 6)), "s": np.zeros(3)}, "for 2 boxes"),
        ({}, {"b": np.zeros((2, 6)), "s": np.full(2, 1.5)}, "no probabilities"),
        ({}, {"b": np.zeros((2, 6)), "s": np.zeros((2, 1))}, "one class from another"),
        (
            {"classes": "c"},
            {"b": np.array([[0, 0, 0, 1, 1, 1.0]]), "s": np.ones(1), "c": np.array([7])},
            r"nobody declared: \[7\]",
        ),
        (
            {"classes": "c"},
            {"b": np.array([[0, 0, 0, 1, 1, 1.0]]), "s": np.ones(1), "c": np.array([0.5])},
            "no whole numbers",
        ),
        (
            {},
            {"b": np.array([[0, 3, 0, 1, 1, 1.0]]), "s": np.array([[0.2, 0.9]])},
            "before its near one: is its format zyxzyx",
        ),
    ],
)
def test_tensors_that_do_not_go_together_fail_the_job(
    changes: dict[str, object], tensors: dict[str, np.ndarray], said: str
) -> None:
    made = plan(spec(), image((4, 4, 4)))
    with pytest.raises(InferenceError, match=said):
        read(boxes(**changes), things("nodule", "node"), tensors, made, Seen.of_block(made, 0, 4))


DETECTION = """\
[output]
task = "detection"

[output.boxes]
tensor = "found"
format = "xyxy"
scores = "scores"
classes = "classes"

[[output.object]]
index = 1
name = "mass"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["4147007", "SCT", "Mass"]
description = "Bright."
severity = 0.5

[[output.object]]
index = 2
name = "nodule"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["27925004", "SCT", "Nodule"]
description = "Small and bright."
severity = 1.0
"""


def detector() -> bytes:
    """Boxes that do not depend on the image, but for how many: none of a dark one."""
    g = Graph("detector")
    lit = g.op("Greater", g.op("ReduceMax", "x", keepdims=0), g.real(0.0))
    many = g.op("Mul", g.integers(lit), g.whole(4))
    zero = g.whole(0)

    def first(name: str) -> str:
        return g.op("Slice", name, zero, many, zero)

    corners = g.op(
        "Reshape",
        g.real(0, 0, 4, 4, 0, 0, 4, 3, 6, 6, 20, 20, 0, 0, 4, 4),
        g.whole(4, 4),
    )
    g.named("Identity", [first(corners)], ["found"])
    g.named("Identity", [first(g.real(0.75, 0.9, 0.5, 0.6))], ["scores"])
    g.named("Identity", [first(g.whole(1, 1, 2, 2))], ["classes"])
    return g.serialized(
        [("x", TensorProto.FLOAT, ("N", 1, "H", "W"))],
        [
            ("found", TensorProto.FLOAT, ("K", 4)),
            ("scores", TensorProto.FLOAT, ("K",)),
            ("classes", TensorProto.INT64, ("K",)),
        ],
    )


@pytest.mark.feature("P09", "P10", "P11", "P12", "P13", "P16", "F09", "F24")
def test_a_detector_gives_a_finding_a_box_and_none_of_nothing(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package(detector(), basis="trained", input=WHOLE, output=DETECTION)
    voxels = np.zeros((1, 10, 10), np.int16)
    assert engine.run(package, {"image": make_volume(voxels)}).findings == ()
    answer = engine.run(package, {"image": make_volume(voxels + 1)})
    # The mass of 0.75 lies under that of 0.9; the nodule of 0.6 lies there too, another class.
    assert [(each.name, each.confidence.value) for each in answer.findings] == [
        ("nodule 1", pytest.approx(0.6)),
        ("nodule 2", pytest.approx(0.5)),
        ("mass 1", pytest.approx(0.9)),
    ]
    second = answer.findings[1].region
    assert second is not None
    assert second.points.tolist() == [[5.5, 5.5], [9.5, 5.5], [9.5, 9.5], [5.5, 9.5]]
    sizes = {each.name.meaning: each.value for each in answer.findings[2].measurements}
    assert sizes == pytest.approx({"Height": 1.5, "Width": 2.0})


def spots() -> bytes:
    """The box around what is bright in a patch, as sure as so many voxels of 27 are bright."""
    g = Graph("spots")
    mask = g.floats(g.op("Greater", "x", g.real(0.0)))
    g.named("Reshape", [box_around(g, mask), g.whole(1, 6)], ["box"])
    share = g.op("Div", g.op("ReduceSum", mask, keepdims=0), g.real(27.0))
    g.named("Reshape", [share, g.whole(1)], ["score"])
    return g.serialized(
        [("x", TensorProto.FLOAT, VOLUME)],
        [("box", TensorProto.FLOAT, (1, 6)), ("score", TensorProto.FLOAT, (1,))],
    )


@pytest.mark.feature("P09", "P12", "F09")
def test_boxes_of_patches_are_put_together(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package(
        spots(),
        basis="trained",
        input=f'{SPACE}\norientation = "IRA"\n[inputs.sliding]\npatch = [8, 8, 8]\noverlap = 0.5\n',
        output=boxed("spot", "iou = 0.1"),
    )
    voxels = np.zeros((20, 24, 28), np.int16)
    places = [(3, 5, 6), (14, 18, 22), (15, 2, 12)]
    for slices, rows, columns in places:
        voxels[slices : slices + 3, rows : rows + 3, columns : columns + 3] = 1
    answer = engine.run(package, {"image": make_volume(voxels)})
    found = []
    for finding in answer.findings:
        assert finding.confidence.value == pytest.approx(1.0)
        assert finding.region is not None
        left, top = finding.region.points.min(axis=0) + 0.5
        found.append((finding.region.slice_index - 1, top, left))
        sizes = {each.name.meaning: each.value for each in finding.measurements}
        assert sizes == pytest.approx({"Depth": 6.0, "Height": 1.5, "Width": 1.5})
    assert sorted(found) == sorted(places)
