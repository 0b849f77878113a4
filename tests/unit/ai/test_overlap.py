"""Segments that overlap, from probabilities to what is measured of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ai import memory
from ai.engine import Engine
from ai.golden import Case, verify, write_case
from ai.label_values import mask_of, type_of, value_of
from ai.manifest import parse_manifest
from ai.outputs import Output
from ai.package import Package
from ai.postprocess import label_block, probability_block
from ai.preprocess import plan
from ai.segments import Labels, SegmentTable
from ai.session import SessionCache
from ai.settle import bytes_a_voxel, label_type, settle
from ai.tally import Tally
from ai.types import Answer, Finding, Volume
from config.errors import ManifestError
from tests.model_packages import (
    SPACE,
    head,
    nested,
    overlapping,
    primary_input,
    unsealed,
    write_package,
)

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]

CODES = {"category": ["85756007", "SCT", "Tissue"], "type": ["3138006", "SCT", "Bone"]}
LIMITS = (0.25, 0.5, 0.75)
NAMES = ("whole", "core", "rim")


def segments(count: int = 3, **changes: object) -> list[dict[str, object]]:
    shared: dict[str, object] = {"color": [1, 2, 3], "description": "One."}
    return [
        {"number": number + 1, "label": f"thing {'abcdefgh'[number]}"} | shared | CODES | changes
        for number in range(count)
    ]


def output(*entries: dict[str, object], **changes: object) -> Output:
    labels = {
        "tensor": "y",
        "layout": "NCDHW",
        "encoding": "channels",
        "select": "threshold",
        "overlap": True,
    }
    made = [plain | own for plain, own in zip(segments(len(entries)), entries, strict=True)]
    table = {"task": "segmentation", "labels": labels, "segment": made}
    return Output.model_validate(table | changes)


def packed(masks: np.ndarray, most: int | None = None) -> np.ndarray:
    """Masks ``(segments, ...)`` as the labels of segments that overlap."""
    labels = np.zeros(masks.shape[1:], type_of(most or len(masks), overlap=True))
    for number, mask in enumerate(masks, 1):
        labels[mask] |= value_of(number, overlap=True)
    return labels


def parted(labels: np.ndarray, count: int) -> np.ndarray:
    return np.stack([mask_of(labels, number + 1, overlap=True) for number in range(count)])


@settings(max_examples=100, deadline=None)
@given(
    scores=arrays.arrays(
        np.float32, (1, 4, 1, 6), elements=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.6, 0.9])
    ),
    numbers=st.permutations([1, 2, 3]),
)
def test_a_voxel_is_of_every_segment_whose_threshold_it_reaches(
    scores: np.ndarray, numbers: list[int]
) -> None:
    spec = Labels(tensor="y", layout="NCHW", encoding="channels", select="threshold", overlap=True)
    # Declared in any order; the second one is the highest of two channels.
    sources = {1: [1], 2: [2, 3], 3: [0]}
    entries = tuple(
        SegmentTable.model_validate(
            segments()[number - 1] | {"sources": sources[number], "threshold": LIMITS[number - 1]}
        )
        for number in numbers
    )
    made, sure = label_block(spec, entries, scores, (1, 1, 6))
    assert made.dtype == np.uint8
    assert sure is not None
    for number in (1, 2, 3):
        fused = scores[0, sources[number]].max(axis=0)
        reached = fused >= np.float32(LIMITS[number - 1])
        assert np.array_equal(mask_of(made[0], number, overlap=True), reached)
        assert np.array_equal(sure[number - 1, 0], fused)
    kept = probability_block(spec, entries, scores, (1, 1, 6))
    assert np.array_equal(kept, sure)


@st.composite
def stacks(draw: st.DrawFn) -> np.ndarray:
    """Masks of three segments that share many voxels."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)))
    shares = draw(st.tuples(*[st.sampled_from([0.0, 0.3, 0.6, 0.9])] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random((3, *shape)) < np.reshape(shares, (3, 1, 1, 1))


cleanings = st.fixed_dictionaries(
    {
        "fill_holes": st.sampled_from(["none", "slices", "volume"]),
        "smallest_voxels": st.integers(2, 5) | st.none(),
        "keep_largest": st.integers(1, 3) | st.none(),
        "touching": st.sampled_from(["faces", "corners"]),
    }
)


@settings(max_examples=100, deadline=None)
@given(masks=stacks(), cleaning=cleanings)
def test_each_segment_is_cleaned_as_if_it_were_alone(
    masks: np.ndarray, cleaning: dict[str, object]
) -> None:
    spec = output({}, {"cleaning": cleaning}, {})
    made = settle(spec, packed(masks), None)
    alone = output({"cleaning": cleaning}, labels=_exclusive())
    expected = masks.copy()
    expected[1] = settle(alone, masks[1].astype(np.uint8), None).labels == 1
    assert np.array_equal(parted(made.labels, 3), expected)
    assert made.declared == (1, 2, 3)


@settings(max_examples=100, deadline=None)
@given(masks=stacks(), most=st.integers(1, 7))
def test_each_part_of_a_segment_is_an_instance_under_those_that_overlap_it(
    masks: np.ndarray, most: int
) -> None:
    spec = output({}, {"instances": most}, {})
    made = settle(spec, packed(masks, spec.most_segments), None)
    alone = settle(
        output({"instances": most}, labels=_exclusive()), masks[1].astype(np.uint8), None
    )
    count = len(alone.segments)
    assert made.labels.dtype == label_type(spec)
    assert made.declared == (1, *[2] * count, 3)
    assert [entry.number for entry in made.segments] == list(range(1, count + 3))
    parts = [alone.labels == entry.number for entry in alone.segments]
    expected = np.stack([masks[0], *parts, masks[2]])
    assert np.array_equal(parted(made.labels, count + 2), expected)


def _exclusive() -> dict[str, object]:
    return {"tensor": "y", "layout": "NDHW", "encoding": "index"}


@settings(max_examples=100, deadline=None)
@given(masks=stacks(), seed=st.integers(0, 2**32 - 1))
def test_each_segment_is_counted_whole(masks: np.ndarray, seed: int) -> None:
    intensity = {
        "name": ["112031", "DCM", "Attenuation Coefficient"],
        "statistics": ["mean", "min", "max", "sd"],
    }
    tally = Tally(output({}, {}, {}, intensity=intensity))
    random = np.random.default_rng(seed)
    values = random.integers(-1000, 1000, masks.shape[1:]).astype(np.int16)
    sure = random.random(masks.shape, np.float32)
    tally.add(packed(masks), values)
    for index in range(masks.shape[1]):
        tally.add_probabilities(packed(masks)[index], sure[:, index])
    for number, mask in enumerate(masks, 1):
        assert tally.count[number] == mask.sum()
        if not mask.any():
            assert tally.probability(number) is None
            continue
        inside = values[mask].astype(float)
        assert tally.probability(number) == pytest.approx(float(sure[number - 1][mask].mean()))
        found = [tally.statistic(number, kind) for kind in ("mean", "min", "max", "sd")]
        expected = [inside.mean(), inside.min(), inside.max(), inside.std()]
        assert found == pytest.approx(expected, abs=1e-6)


PLAIN = 'confidence = "mean"'


def lump(shape: tuple[int, int, int] = (12, 20, 24)) -> np.ndarray:
    """Values that fall from the middle of the first half outwards."""
    at = np.indices(shape) - np.array([5, 8, 7]).reshape(3, 1, 1, 1)
    return np.rint(450 - 40 * np.sqrt((at**2).sum(axis=0))).astype(np.int16)


# Axes of the tensor, the input, what each segment says, what follows.
WAYS = {
    "whole": (3, SPACE, "", ""),
    "patches": (3, f"{SPACE}\n[inputs.sliding]\npatch = [8, 12, 12]\n", "", ""),
    "slices": (2, 'dimensions = "2D"\napply = "slices"\nlayout = "NCHW"\nbatch = 5', "", ""),
    "turned": (3, f'{SPACE}\norientation = "RAS"', "", ""),
    "cleaned": (3, SPACE, "cleaning = { smallest_voxels = 2 }", ""),
    "ensemble": (3, SPACE, "", '[ensemble]\nflips = [["columns"], ["slices", "rows"]]'),
}


def found_in(answer: Answer) -> dict[str, Finding]:
    return {finding.name: finding for finding in answer.findings}


@pytest.mark.feature("P07", "P11", "F09")
@pytest.mark.parametrize("way", WAYS)
def test_a_whole_keeps_the_voxels_of_its_core(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine, way: str
) -> None:
    axes, input_, of_each, more = WAYS[way]
    layout = "NCDHW" if axes == 3 else "NCHW"
    kept = PLAIN if way == "cleaned" else f"{PLAIN}\nprobabilities = true"
    text = overlapping(layout, kept, of_each=of_each) + more
    package = make_package(nested(axes), basis="trained", input=input_, output=text)
    volume = make_volume(lump())
    answer = engine.run(package, {"image": volume})
    assert answer.overlap
    assert answer.labels is not None
    assert answer.labels.dtype == np.uint8
    found = found_in(answer)
    assert sorted(found) == sorted(NAMES)
    for number, name in enumerate(NAMES, 1):
        expected = lump() >= 100 * number  # the sigmoid of 0 is one half
        assert np.array_equal(answer.mask(number), expected)
        (measured,) = found[name].measurements
        assert measured.value == pytest.approx(expected.sum() * 0.0005)
        sure = 1 / (1 + np.exp(-(lump() - 100.0 * number) / 100))
        # Kept in half precision where segments change after the last run.
        slack = 1e-3 if way == "cleaned" else 1e-5
        assert found[name].confidence.value == pytest.approx(sure[expected].mean(), abs=slack)
        if answer.probabilities is not None:
            assert answer.probabilities[number - 1] == pytest.approx(sure, abs=1e-5)
    # Each lies within the one before it, so that no voxel is lost to another segment.
    assert answer.mask(1)[answer.mask(2)].all()
    assert answer.segments_overlap


@pytest.mark.parametrize("way", ["nearest", "linear"])
@pytest.mark.parametrize("sliding", [False, True])
def test_a_coarser_grid_comes_back_segment_by_segment(
    make_package: PackageMaker,
    make_volume: VolumeMaker,
    engine: Engine,
    way: str,
    sliding: bool,
) -> None:
    """What each segment would be if the model knew no other."""
    input_ = f"{SPACE}\nspacing = [3.0, 0.8, 0.7]\n"
    input_ += "[inputs.sliding]\npatch = [8, 12, 12]\n" if sliding else ""
    more = f'{PLAIN}\ninterpolation = "{way}"'
    volume = make_volume(lump())
    together = make_package(
        nested(3), basis="trained", input=input_, output=overlapping(more=more), name="together"
    )
    answer = engine.run(together, {"image": volume})
    assert answer.segments_overlap
    for number in (1, 2, 3):
        alone = make_package(
            nested(3, (100.0 * number,)),
            basis="trained",
            input=input_,
            output=overlapping(more=more, names=("one",), overlap=False),
            name=f"alone-{number}",
        )
        single = engine.run(alone, {"image": volume})
        assert not single.overlap
        assert np.array_equal(answer.mask(number), single.mask(1))
        own, other = found_in(answer)[NAMES[number - 1]], found_in(single)["one"]
        assert own.confidence.value == pytest.approx(other.confidence.value, abs=1e-6)
        assert own.measurements == other.measurements


@pytest.mark.feature("P07")
def test_instances_are_as_sure_as_the_segment_they_are_parts_of(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    values = lump()
    values[1:3, 15:18, 18:22] = 350  # of all three, and apart from the rest
    text = overlapping(of_each="instances = 4")
    package = make_package(nested(3), basis="trained", input=SPACE, output=text)
    answer = engine.run(package, {"image": make_volume(values)})
    assert answer.labels is not None
    assert answer.labels.dtype == np.uint16  # for twelve, which there might have been
    names = [f"{name} {place}" for name in NAMES for place in (1, 2)]
    assert [segment.label for segment in answer.segments] == names
    found = found_in(answer)
    for number, segment in enumerate(answer.segments):
        limit = 100 * (number // 2 + 1)
        mask = answer.mask(segment.number)
        inside = values[mask]
        assert (inside == 350).all() if number % 2 else (inside >= limit).all()
        sure = (1 / (1 + np.exp(-(inside - float(limit)) / 100))).mean()
        assert found[segment.label].confidence.value == pytest.approx(sure, abs=1e-3)


@pytest.mark.parametrize(
    ("entries", "changes", "said"),
    [
        ([{"priority": 1}, {}], {}, "no segment has a priority"),
        ([{"instances": 40}, {"instances": 25}], {}, "64 at most together where they overlap"),
        (
            [{}],
            {"labels": {"tensor": "y", "layout": "NDHW", "encoding": "index", "overlap": True}},
            "overlap = true needs",
        ),
        (
            [{}],
            {"labels": {"tensor": "y", "layout": "NCDHW", "encoding": "channels", "overlap": True}},
            "overlap = true needs",
        ),
    ],
)
def test_what_overlap_does_not_go_with_is_refused(
    entries: list[dict[str, object]], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        output(*entries, **changes)


def test_sixty_four_segments_may_overlap_and_no_more() -> None:
    plain = segments(1)[0]
    entries = [plain | {"number": n, "label": f"thing {n}x"} for n in range(1, 66)]
    labels = {
        "tensor": "y",
        "layout": "NCDHW",
        "encoding": "channels",
        "select": "threshold",
        "overlap": True,
    }
    table = {"task": "segmentation", "labels": labels}
    made = Output.model_validate(table | {"segment": entries[:64]})
    assert label_type(made) == np.uint64
    with pytest.raises(ValueError, match="64 at most together"):
        Output.model_validate(table | {"segment": entries})


def test_a_label_map_of_segments_that_overlap_is_refused() -> None:
    text = head(results=["labelmap"]) + primary_input(SPACE) + overlapping()
    with pytest.raises(ManifestError, match=r'"labelmap" needs output\.labels\.overlap = false'):
        parse_manifest(unsealed(text))


def test_memory_counts_the_bytes_of_every_segment(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    voxels, sessions = 12 * 20 * 24, SessionCache(("cpu",), 1)
    volume = make_volume(lump())
    held = {}
    for name, of_each in (("plain", ""), ("parts", "instances = 4")):
        text = overlapping(of_each=of_each)
        package = make_package(nested(3), name=name, basis="trained", input=SPACE, output=text)
        model = sessions.get(package)
        held[name] = memory.needed(model, [plan(package.manifest.input, volume)], 1)
        assert bytes_a_voxel(package.manifest.output) == (7 + 2 + 2 * 3 if of_each else 0)
    # Twelve bits in place of three, and what telling the parts apart takes.
    assert held["parts"] - held["plain"] == voxels * (2 - 1 + 7 + 2 + 2 * 3)


def test_a_golden_case_holds_labels_that_overlap(
    tmp_path: Path, make_volume: VolumeMaker, engine: Engine
) -> None:
    volume = make_volume(lump())
    masks = np.stack([lump() >= limit for limit in (100, 200, 300)])
    folder = tmp_path / "site/nested/1.0.0"
    findings = [
        {
            "name": name,
            "confidence": None,
            "measurements": [float(mask.sum()) * 0.0005],
            "evaluations": [],
            "region": None,
        }
        for name, mask in zip(NAMES, masks, strict=True)
    ]

    def report(labels: np.ndarray) -> list[tuple[str, ...]]:
        (folder / "golden").mkdir(parents=True, exist_ok=True)
        case = Case("lump", volume, labels, findings, voxels=0.0, relative=1e-5)
        write_case(folder / "golden", case)
        more = {f"golden/lump{end}": (folder / f"golden/lump{end}").read_bytes()
                for end in (".npz", ".json")}  # fmt: skip
        text = head("nested", results=["seg"]) + primary_input(SPACE) + overlapping(more="")
        made = verify(write_package(folder, nested(3), text, more), engine)
        return [case.problems for case in made.cases]

    assert report(packed(masks)) == [()]
    # As the numbers of segments that exclude each other the same lump is another answer.
    ((problem,),) = report(masks.sum(axis=0).astype(np.uint8))
    assert "of the labels differ" in problem
