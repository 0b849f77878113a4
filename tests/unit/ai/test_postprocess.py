from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto

from ai.engine import Engine
from ai.findings import Said, tensor_findings
from ai.inputs import Input
from ai.models.graph import Graph
from ai.outputs import FindingTable, Output
from ai.package import Package
from ai.postprocess import (
    activate,
    check,
    label_block,
    ordered,
    probability_block,
    significance,
)
from ai.preprocess import Plan, plan
from ai.segments import Labels, SegmentTable
from ai.tally import Tally
from ai.types import Code, Confidence, Finding, Volume
from config.errors import InferenceError

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
CODES = {"category": ["85756007", "SCT", "Tissue"], "type": ["3138006", "SCT", "Bone"]}
CODE = Code("1", "SCT", "x")


def segment(number: int, **changes: object) -> SegmentTable:
    keys: dict[str, object] = {
        "number": number,
        "label": f"label {number}",
        "color": [1, 2, 3],
        "description": "One.",
    }
    return SegmentTable.model_validate(keys | CODES | changes)


def labels(**changes: object) -> Labels:
    keys: dict[str, object] = {"tensor": "y", "layout": "NCHW", "encoding": "index"}
    return Labels.model_validate(keys | changes)


def finding(**changes: object) -> FindingTable:
    keys: dict[str, object] = {"name": "thing", "description": "One."}
    return FindingTable.model_validate(keys | CODES | changes)


def image_plan(rows: int = 8, columns: int = 8, **changes: object) -> Plan:
    keys: dict[str, object] = {
        "role": "image",
        "primary": True,
        "tensor": "x",
        "modality": ["CR"],
        "units": "1",
        "dimensions": "2D",
        "layout": "NCHW",
    }
    voxels = np.zeros((1, rows, columns), np.uint8)
    image = Volume(voxels, "1", None, (None, None, None), (0.0, 255.0))
    return plan(Input.model_validate(keys | changes), image)


@pytest.mark.feature("P13")
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from([0.125, 0.5, 1.0]),
        ),
        max_size=12,
    )
)
def test_findings_come_by_significance_and_ties_as_they_came(
    given_: list[tuple[float | None, float, float]],
) -> None:
    found = [
        (Finding(str(i), CODE, CODE, "", Confidence(sure, ""), severity=severity), size)
        for i, (sure, severity, size) in enumerate(given_)
    ]
    weight = [(1.0 if c is None else c) * severity * size for c, severity, size in given_]
    assert [significance(*pair) for pair in found] == weight
    names = [int(entry.name) for entry in ordered(found)]
    assert sorted(names) == list(range(len(given_)))
    for before, after in itertools.pairwise(names):
        assert (weight[before], after) > (weight[after], before)


def found_in(
    made: Plan, entries: list[FindingTable], tensors: dict[str, np.ndarray], basis: str
) -> list[tuple[Finding, float]]:
    """What the findings of a manifest are for these tensors."""
    said = Said(None)
    for name, tensor in tensors.items():
        said.take(name, tensor, 1)
    return tensor_findings(made, entries, said, basis)


SCORED = {"score": {"tensor": "s", "index": 1, "activation": "softmax", "threshold": 0.0}}


@pytest.mark.feature("P07", "P11", "P09")
@settings(max_examples=100, deadline=None)
@given(
    scores=arrays.arrays(np.float32, st.integers(2, 6), elements=st.floats(-1e4, 1e4, width=32)),
    activation=st.sampled_from(["sigmoid", "softmax"]),
)
def test_confidence_of_any_scores_lies_between_0_and_1(scores: np.ndarray, activation: str) -> None:
    spec = finding(score=SCORED["score"] | {"activation": activation})
    (made, _), *rest = found_in(image_plan(), [spec], {"s": scores}, "trained")
    assert not rest
    assert made.confidence.basis == "model"
    assert made.confidence.value is not None
    assert 0 <= made.confidence.value <= 1
    wide = scores.astype(np.float64)
    powers = np.exp(wide - wide.max())
    exact = powers / powers.sum() if activation == "softmax" else 1 / (1 + np.exp(-wide.clip(-700)))
    assert made.confidence.value == pytest.approx(exact[1], abs=1e-6)


@pytest.mark.feature("P07", "P11")
@pytest.mark.parametrize(
    ("basis", "said"), [("rules", "none: rule-based"), ("trained", "none: measurement")]
)
def test_without_a_score_no_confidence_is_invented(basis: str, said: str) -> None:
    ((made, _),) = found_in(image_plan(), [finding()], {}, basis)
    assert made.confidence == Confidence(None, said)


def test_the_band_that_asks_for_a_human_look_reaches_below_the_threshold() -> None:
    score = {"tensor": "s", "index": 0, "threshold": 0.5, "review": [0.3, 0.6]}
    told = {}
    for value in (0.29, 0.3, 0.55, 0.61):
        made = found_in(image_plan(), [finding(score=score)], {"s": np.array([value])}, "trained")
        told[value] = [entry.needs_review for entry, _ in made]
    assert told == {0.29: [], 0.3: [True], 0.55: [True], 0.61: [False]}


@pytest.mark.feature("P12")
@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    model=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    box=arrays.arrays(np.float32, 4, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_any_box_gives_a_region_inside_its_image_or_none(
    size: tuple[int, int], model: tuple[int, int] | None, box: np.ndarray
) -> None:
    made = image_plan(*size, **({} if model is None else {"size": model}))
    ((entry, share),) = found_in(made, [finding(region="b")], {"b": box}, "rules")
    assert 0 < share <= 1
    if entry.region is None:
        return
    points = entry.region.points
    assert entry.region.slice_index == 0
    assert points.shape == (4, 2)
    assert (points >= 0).all()
    assert (points[:, 0] <= size[1] - 1).all()
    assert (points[:, 1] <= size[0] - 1).all()
    assert (np.ptp(points, axis=0) > 0).all()


@pytest.mark.feature("P12")
def test_a_box_of_a_smaller_grid_lands_on_the_same_pixels_of_the_image() -> None:
    made = image_plan(40, 80, size=(20, 20))
    boxed = finding(region="b")
    ((entry, _),) = found_in(made, [boxed], {"b": np.array([5, 4, 9, 8])}, "rules")
    assert entry.region is not None
    # Model column 5 spans the image's columns 20 to 23, centred at 21.5.
    assert entry.region.points[0].tolist() == [21.5, 8.5]
    assert entry.region.points[2].tolist() == [37.5, 16.5]
    ((entry, _),) = found_in(made, [boxed], {"b": np.array([0, 0, -1, -1])}, "rules")
    assert entry.region is None


def test_numbers_and_answers_are_taken_from_named_tensors() -> None:
    spec = finding(
        measurement=[
            {
                "tensor": "m",
                "index": 1,
                "name": ["1", "DCM", "x"],
                "unit": ["%", "UCUM", "Percent"],
            }
        ],
        evaluation=[
            {
                "tensor": "a",
                "encoding": "index",
                "name": ["2", "DCM", "y"],
                "values": [["n", "DCM", "No"], ["y", "DCM", "Yes"]],
            },
            {
                "tensor": "p",
                "encoding": "scores",
                "name": ["3", "DCM", "z"],
                "values": [["n", "DCM", "No"], ["y", "DCM", "Yes"]],
            },
        ],
    )
    tensors = {"m": np.array([1, 2.5]), "a": np.array([1.0]), "p": np.array([0.75, 0.25])}
    ((made, _),) = found_in(image_plan(), [spec], tensors, "trained")
    assert [entry.value for entry in made.measurements] == [2.5]
    assert [entry.value.value for entry in made.evaluations] == ["y", "n"]
    assert made.evaluations[0].confidence.value is None
    assert made.evaluations[1].confidence == Confidence(0.75, "model")
    for wrong in ({"m": np.array([1.0])}, {"a": np.array([2.0])}, {"a": np.array([0.5])}):
        with pytest.raises(InferenceError):
            found_in(image_plan(), [spec], tensors | wrong, "trained")
    with pytest.raises(InferenceError):
        found_in(image_plan(), [spec], tensors | {"p": np.array([0.5, 1.5])}, "trained")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (np.array([1.0, np.nan]), "not finite"),
        (np.array([1.0, np.inf]), "not finite"),
        (np.zeros((0, 3)), "is empty"),
        (np.array(["a"]), "no numbers"),
        ([1.0], "no numbers"),
    ],
)
def test_tensors_that_say_nothing_are_refused(tensor: object, said: str) -> None:
    with pytest.raises(InferenceError, match=said):
        check({"y": tensor})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (np.zeros((1, 1, 3, 3)), "which fits no"),
        (np.zeros((1, 4, 4)), "which is not NCHW"),
        (np.zeros((1, 2, 4, 4)), "2 channels where one"),
        (np.full((1, 1, 4, 4), 0.5), "no whole numbers"),
        (np.full((1, 1, 4, 4), -1), "outside 0 to 255"),
        (np.full((1, 1, 4, 4), 300), "outside 0 to 255"),
        (np.full((1, 1, 4, 4), 7), r"nobody declared: \[7\]"),
    ],
)
def test_labels_that_are_no_labels_are_refused(tensor: np.ndarray, said: str) -> None:
    with pytest.raises(InferenceError, match=said):
        label_block(labels(), (segment(1),), tensor, (1, 4, 4))


def test_the_highest_channel_or_the_most_probable_above_its_threshold_wins() -> None:
    probabilities = np.array([[0.5, 0.2], [0.3, 0.35], [0.2, 0.45]])[None, :, :, None]
    spec = labels(encoding="channels", confidence="mean")
    made, sure = label_block(spec, (segment(1), segment(9, channel=2)), probabilities, (1, 2, 1))
    assert made.reshape(-1).tolist() == [0, 9]
    assert sure is not None
    assert sure.reshape(-1) == pytest.approx([0.5, 0.45])
    spec = labels(encoding="channels", select="threshold")
    parts = (segment(1, threshold=0.3), segment(9, channel=2, threshold=0.5))
    made, _ = label_block(spec, parts, probabilities, (1, 2, 1))
    assert made.reshape(-1).tolist() == [1, 1]
    for wrong in (probabilities * 3, probabilities[:, :2]):
        with pytest.raises(InferenceError):
            label_block(spec, parts, wrong, (1, 2, 1))


@pytest.mark.parametrize(
    ("layout", "shape"), [("NHWC", (2, 3, 4, 1)), ("NHW", (2, 3, 4)), ("NCDHW", (1, 1, 2, 3, 4))]
)
def test_labels_are_read_in_any_layout(layout: str, shape: tuple[int, ...]) -> None:
    truth = np.arange(24).reshape(2, 3, 4) % 2
    made, _ = label_block(labels(layout=layout), (segment(1),), truth.reshape(shape), (2, 3, 4))
    assert np.array_equal(made, truth)


def test_probabilities_of_large_scores_do_not_overflow() -> None:
    scores = np.array([-1e4, 0.0, 1e4], np.float32)
    assert activate(scores, "sigmoid", axis=0).tolist() == [0.0, 0.5, 1.0]
    assert activate(scores, "softmax", axis=0).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.feature("P07")
def test_a_softmax_of_a_single_score_is_no_confidence() -> None:
    alone = finding(score=SCORED["score"] | {"index": 0})
    with pytest.raises(InferenceError, match="a softmax of one is always 1"):
        found_in(image_plan(), [alone], {"s": np.array([-3.0])}, "trained")


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 6), level=st.floats(-1e6, 1e6))
def test_statistics_counted_by_blocks_equal_those_of_the_whole(
    seed: int, cut: int, level: float
) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 3, (6, 5, 4)).astype(np.uint8)
    values = random.normal(level, 10.0, mask.shape)
    keys = {"name": ["112031", "DCM", "x"], "statistics": ["mean", "min", "max", "sd"]}
    output = Output.model_validate(
        {
            "task": "segmentation",
            "labels": labels().model_dump(),
            "segment": [segment(1), segment(2)],
            "intensity": keys,
        }
    )
    tally = Tally(output)
    for part in (slice(0, cut), slice(cut, 6)):
        tally.add(mask[part], values[part])
    for number in (1, 2):
        inside = values[mask == number]
        assert tally.count[number] == inside.size
        for kind, exact in (
            ("mean", inside.mean()),
            ("min", inside.min()),
            ("max", inside.max()),
            ("sd", inside.std()),
        ):
            assert tally.statistic(number, kind) == pytest.approx(exact, rel=1e-6)  # type: ignore[arg-type]


def answering(make_one: Callable[[Graph], None]) -> bytes:
    g = Graph("answering")
    make_one(g)
    shape = ("N", 1, "H", "W")
    return g.serialized(
        [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, ("N", 1, "h", "w"))]
    )


def test_a_model_that_answers_nan_fails(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package(answering(lambda g: g.named("Log", ["x"], ["y"])))
    with pytest.raises(InferenceError, match="not finite"):
        engine.run(package, {"image": make_volume(np.full((1, 4, 4), -1, np.int16))})


def test_a_model_that_answers_in_another_shape_fails(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    def halve(g: Graph) -> None:
        g.named("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])

    with pytest.raises(InferenceError, match="which fits no"):
        engine.run(
            make_package(answering(halve)), {"image": make_volume(np.zeros((1, 4, 4), np.int16))}
        )


@settings(max_examples=100, deadline=None)
@given(
    scores=arrays.arrays(
        np.float32, (1, 4, 1, 6), elements=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.6, 0.9])
    ),
    priorities=st.tuples(*[st.integers(0, 2)] * 3),
)
def test_of_overlapping_segments_the_highest_priority_wins_then_the_most_probable(
    scores: np.ndarray, priorities: tuple[int, int, int]
) -> None:
    spec = labels(encoding="channels", select="threshold")
    segments = tuple(
        segment(number, threshold=0.15 * number, priority=priority)
        for number, priority in zip((1, 2, 3), priorities, strict=True)
    )
    made, sure = label_block(spec, segments, scores, (1, 1, 6))
    assert sure is not None
    for column in range(6):
        found = scores[0, :, 0, column]
        passing = [s for s in segments if found[s.number] >= np.float32(s.threshold)]
        best = max(passing, key=lambda s: (s.priority, found[s.number]), default=None)
        if best is None:
            assert made[0, 0, column] == 0
            continue
        rival = (best.priority, found[best.number])
        ties = {s.number for s in passing if (s.priority, found[s.number]) == rival}
        assert made[0, 0, column] in ties
        assert sure[0, 0, 0, column] == found[made[0, 0, column]]


def test_channels_fused_into_a_segment_add_up_after_a_softmax_and_else_the_highest_counts() -> None:
    scores = np.log(np.array([0.4, 0.1, 0.2, 0.3], np.float32)).reshape(1, 4, 1, 1)
    segments = (segment(1, sources=[1, 2]), segment(2, channel=3))
    # Of the single channels 0 is the highest, which is no segment.
    spec = labels(encoding="channels", activation="softmax")
    assert label_block(spec, segments, scores, (1, 1, 1))[0].item() == 0
    spec = labels(encoding="channels", activation="softmax", probabilities=True)
    both = probability_block(spec, segments, scores, (1, 1, 1)).reshape(-1)
    assert both == pytest.approx([0.3, 0.3], abs=1e-6)
    spec = labels(encoding="channels", probabilities=True)
    highest = probability_block(spec, segments, np.exp(scores), (1, 1, 1)).reshape(-1)
    assert highest == pytest.approx([0.2, 0.3], abs=1e-6)
    winning = np.array([0.1, 0.2, 0.6, 0.1], np.float32).reshape(1, 4, 1, 1)
    made, sure = label_block(
        labels(encoding="channels", activation="softmax"), segments, np.log(winning), (1, 1, 1)
    )
    assert made.item() == 1
    assert sure is not None
    assert sure.item() == pytest.approx(0.8, abs=1e-6)


def test_numbers_are_fused_and_those_nobody_declared_can_be_left_out() -> None:
    numbers = np.array([0, 3, 4, 9, 7], np.int64).reshape(1, 1, 1, 5)
    segments = (segment(1, sources=[3, 4]), segment(2, channel=9))
    with pytest.raises(InferenceError, match=r"nobody declared: \[7\]"):
        label_block(labels(), segments, numbers, (1, 1, 5))
    made, _ = label_block(labels(undeclared="none"), segments, numbers, (1, 1, 5))
    assert made.reshape(-1).tolist() == [0, 1, 1, 2, 0]


def answers(entries: list[FindingTable], rows: list[list[float]], over: str) -> dict[str, float]:
    """Names and confidences of findings over slices that were seen two at a time."""
    said = Said(over)  # type: ignore[arg-type]
    for at in range(0, len(rows), 2):
        part = np.array(rows[at : at + 2], np.float32)
        said.take("s", part, len(part))
    made = tensor_findings(image_plan(), entries, said, "trained")
    return {entry.name: entry.confidence.value or 0.0 for entry, _ in made}


def classes(names: str, **score: object) -> list[FindingTable]:
    return [
        finding(name=name, score={"tensor": "s", "index": index} | score)
        for index, name in enumerate(names)
    ]


@pytest.mark.feature("P07", "P09", "F09")
@settings(max_examples=100, deadline=None)
@given(
    rows=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=st.integers(-4, 4)
    ),
    over=st.sampled_from(["mean", "max"]),
    activation=st.sampled_from(["sigmoid", "softmax"]),
)
def test_slices_seen_one_by_one_give_one_answer(
    rows: np.ndarray, over: str, activation: str
) -> None:
    told = answers(classes("abc", threshold=0.0, activation=activation), rows.tolist(), over)
    powers = np.exp(rows)
    each = powers / (powers.sum(axis=1, keepdims=True) if activation == "softmax" else powers + 1)
    wanted = each.mean(axis=0) if over == "mean" else each.max(axis=0)
    assert list(told) == list("abc")
    assert list(told.values()) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("shape", [(2, 4), (1, 4, 2), (8,), ()])
def test_answers_that_do_not_follow_the_slices_are_refused(
    shape: tuple[int, ...], members: int
) -> None:
    given = np.zeros((members, *shape) if members > 1 else shape)
    with pytest.raises(InferenceError, match="no answer for 4 slices"):
        Said("mean", members).take("s", given, 4)


@pytest.mark.feature("P07", "P09", "F09")
def test_of_classes_that_exclude_each_other_the_best_one_is_reported() -> None:
    for row, wanted in (
        ([0.2, 0.5, 0.3], ["b"]),
        ([0.4, 0.35, 0.25], ["a"]),
        ([0.1, 0.1, 0.8], []),  # the third class is none of the findings
    ):
        assert list(answers(classes("ab", threshold=0.0, best=True), [row], "mean")) == wanted
    # Several labels at once, each by its own threshold.
    assert list(answers(classes("abc"), [[0.6, 0.4, 0.5]], "mean")) == ["a", "c"]


def test_members_give_their_mean_and_how_far_they_are_apart() -> None:
    said = Said(None, members=4)
    said.take("s", np.array([[0.5], [0.7], [0.9], [0.7]]), 1)
    said.take("m", np.array([[1.0], [2.0], [3.0], [2.0]]), 1)
    said.take("a", np.array([[2.0], [0.0], [2.0], [1.0]]), 1)
    spec = finding(
        score={"tensor": "s", "index": 0},
        measurement=[{"tensor": "m", "name": ["1", "DCM", "x"], "unit": ["mm", "UCUM", "mm"]}],
        evaluation=[
            {
                "tensor": "a",
                "encoding": "index",
                "name": ["2", "DCM", "y"],
                "values": [[str(each), "DCM", str(each)] for each in range(3)],
            }
        ],
    )
    ((made, _),) = tensor_findings(image_plan(), [spec], said, "trained")
    assert made.confidence.value == pytest.approx(0.7)
    spread = np.std([0.5, 0.7, 0.9, 0.7]), np.std([1, 2, 3, 2])
    told = [
        (each.name.value, each.value, each.unit.value, each.derivation and each.derivation.meaning)
        for each in made.measurements
    ]
    assert told == [
        ("1", pytest.approx(2.0), "mm", None),
        ("1", pytest.approx(spread[1]), "mm", "Standard Deviation"),
        ("111012", pytest.approx(100 * spread[0]), "%", "Standard Deviation"),
    ]
    assert made.evaluations[0].value.value == "2"
