"""The bundled models on images whose answer is known by construction."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ai.engine import Engine
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from ai.types import Answer, Volume

SPACING = (2.0, 0.8, 0.7)
TISSUES = ("gas in the body", "fat", "soft tissue", "bone")


@pytest.fixture(scope="module")
def bundled() -> Engine:
    return Engine(Registry([bundled_models_path()]), SessionCache(("cpu",), 1))


def ct(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.int16), "[hnsf'U]", None, SPACING, (-1024.0, 3071.0))


def ellipse(
    shape: tuple[int, ...], center: tuple[float, float], half: tuple[float, float]
) -> np.ndarray:
    """Pixels whose centre lies in an ellipse of ``(rows, columns)``."""
    rows, columns = np.indices(shape[-2:])
    inside = ((rows - center[0]) / half[0]) ** 2 + ((columns - center[1]) / half[1]) ** 2 <= 1
    return np.broadcast_to(inside, shape)


def chest() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A trunk of fat and muscle with two unlike lungs, a spine and a table below it."""
    shape = (5, 160, 200)
    trunk = ellipse(shape, (80, 100), (66, 90))
    muscle = ellipse(shape, (80, 100), (58, 82))
    lungs = ellipse(shape, (74, 62), (34, 26)) | ellipse(shape, (78, 140), (38, 24))
    spine = ellipse(shape, (122, 101), (11, 12))
    hu = np.full(shape, -1000.0)
    hu[:, 152:155, 20:180] = 150.0
    for mask, value in ((trunk, -100.0), (muscle, 50.0), (lungs, -830.0), (spine, 500.0)):
        hu[mask] = value
    drawn = dict(
        zip(TISSUES, (lungs, trunk & ~muscle, muscle & ~lungs & ~spine, spine), strict=True)
    )
    return hu, drawn


def volumes(answer: Answer) -> dict[str, float]:
    return {finding.name: finding.measurements[0].value for finding in answer.findings}


@pytest.mark.feature("F09")
def test_tissues_of_a_drawn_chest_have_their_volumes_within_one_percent(bundled: Engine) -> None:
    hu, drawn = chest()
    noise = np.random.default_rng(3).normal(0, 10, hu.shape)
    answer = bundled.run("ct-tissue", {"image": ct(hu + noise)})
    voxel = float(np.prod(SPACING)) / 1000
    expected = {name: float(np.count_nonzero(mask)) * voxel for name, mask in drawn.items()}
    assert volumes(answer) == pytest.approx(expected, rel=0.01)
    means = {finding.name: finding.measurements[1].value for finding in answer.findings}
    assert means == pytest.approx(
        {"gas in the body": -830, "fat": -100, "soft tissue": 50, "bone": 500}, abs=3
    )
    assert answer.labels is not None
    assert not answer.labels[:, 152:].any(), "the table is no body"


def test_air_alone_has_no_tissue(bundled: Engine) -> None:
    answer = bundled.run("ct-tissue", {"image": ct(np.full((3, 40, 50), -1000.0))})
    assert answer.findings == ()
    assert answer.labels is not None
    assert not answer.labels.any()
    assert [segment.label for segment in answer.segments] == list(TISSUES)


def test_a_body_that_fills_the_image_is_one_tissue(bundled: Engine) -> None:
    answer = bundled.run("ct-tissue", {"image": ct(np.full((3, 40, 50), 40.0))})
    assert volumes(answer) == pytest.approx({"soft tissue": 6000 * np.prod(SPACING) / 1000})


def test_each_slice_is_answered_by_itself(bundled: Engine) -> None:
    hu, _ = chest()
    hu[1:] = np.roll(hu[1:], 9, axis=2)
    whole = bundled.run("ct-tissue", {"image": ct(hu)}).labels
    assert whole is not None
    for number in (0, 4):
        alone = bundled.run("ct-tissue", {"image": ct(hu[number : number + 1])}).labels
        assert alone is not None
        assert np.array_equal(alone[0], whole[number])


def test_gas_counts_where_the_body_encloses_it_and_not_where_it_is_open(bundled: Engine) -> None:
    hu = np.full((1, 60, 60), -1000.0)
    hu[:, 10:50, 10:50] = 40.0
    hu[:, 20:30, 20:30] = -900.0
    enclosed = bundled.run("ct-tissue", {"image": ct(hu)})
    assert volumes(enclosed)["gas in the body"] == pytest.approx(100 * np.prod(SPACING) / 1000)
    hu[:, :30, 20:30] = -900.0  # up to the edge of the image
    opened = bundled.run("ct-tissue", {"image": ct(hu)})
    assert "gas in the body" not in volumes(opened)


def mr(signal: np.ndarray) -> Volume:
    return Volume(signal.astype(np.float32), "1", None, SPACING, (0.0, 4095.0))


def head(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A head with dark ventricles and a fading coil, in Rician noise, and which voxels it has."""
    shape = (6, 120, 140)
    skull = ellipse(shape, (60, 68), (50, 40))
    signal = np.where(skull, 400.0, 0.0)
    signal[ellipse(shape, (56, 70), (12, 8))] = 20.0
    signal *= np.linspace(1.2, 0.8, shape[1])[:, None]
    random = np.random.default_rng(11)
    parts = [random.normal(0, noise, shape) for _ in range(2)]
    return np.hypot(signal + parts[0], parts[1]), skull


@pytest.mark.feature("F09")
@pytest.mark.parametrize("gain", [0.01, 1.0, 9.0])
def test_a_head_is_found_whatever_the_gain(bundled: Engine, gain: float) -> None:
    signal, skull = head(noise=15.0)
    labels = bundled.run("mr-foreground", {"image": mr(signal * gain)}).labels
    assert labels is not None
    overlap = 2 * np.count_nonzero(skull & (labels == 1)) / (skull.sum() + labels.sum())
    assert overlap > 0.99


def test_an_mr_without_signal_has_no_body(bundled: Engine) -> None:
    answer = bundled.run("mr-foreground", {"image": mr(np.zeros((3, 40, 50)))})
    assert answer.findings == ()
    assert answer.labels is not None
    assert not answer.labels.any()


def film() -> np.ndarray:
    """A 12-bit radiograph without fault: dark sides, a bright middle, a collimated rim."""
    random = np.random.default_rng(5)
    pixels = np.zeros((100, 120))
    pixels[5:95, 10:110] = random.uniform(300, 900, (90, 100))
    pixels[20:80, 35:85] = random.uniform(2000, 3500, (60, 50))
    return pixels


def faulty(fault: str) -> np.ndarray:
    pixels = film()
    field = pixels[5:95, 10:110]
    if fault == "small field":
        pixels[:] = 0
        pixels[40:60, 50:70] = np.random.default_rng(5).uniform(300, 3500, (20, 20))
    elif fault == "black":
        field[1:-1:2] = 0
    elif fault == "white":
        field[1:-1:2] = 4095
    elif fault == "contrast":
        field[:] = 1000 + field / 15
    elif fault == "inverted":
        field[:] = 4000 - field
    return pixels


@pytest.mark.feature("F08", "P10")
@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("none", ["Diagnostic quality", "No"]),
        ("small field", ["Limited quality", "No"]),
        ("black", ["Limited quality", "No"]),
        ("white", ["Limited quality", "No"]),
        ("contrast", ["Limited quality", "No"]),
        ("inverted", ["Limited quality", "Yes"]),
    ],
)
def test_a_radiograph_is_limited_by_each_fault_alone(
    bundled: Engine, fault: str, verdict: list[str]
) -> None:
    pixels = np.round(faulty(fault)).astype(np.uint16)[None]
    volume = Volume(pixels, "1", None, (None, None, None), (0.0, 4095.0))
    answer = bundled.run("xr-quality", {"image": volume})
    by_name = {finding.name: finding for finding in answer.findings}
    quality = by_name["technical quality"]
    assert [entry.value.meaning for entry in quality.evaluations] == verdict
    region = by_name["exposed field"].region
    assert region is not None
    box = [[50, 40], [69, 59]] if fault == "small field" else [[10, 5], [109, 94]]
    assert region.points[[0, 2]].tolist() == box
    area, lows, highs, contrast = (m.value for m in by_name["exposed field"].measurements)
    outside = {
        "small field": area < 20,
        "black": lows > 40,
        "white": highs > 40,
        "contrast": contrast < 10,
    }
    assert [name for name, hit in outside.items() if hit] == [fault] * (fault in outside)


def test_polarity_is_judged_as_the_image_is_shown(bundled: Engine) -> None:
    pixels = np.round(film()).astype(np.uint16)[None]
    upright = Volume(pixels, "1", None, (None, None, None), (0.0, 4095.0))
    turned = dataclasses.replace(upright, lowest_is_white=True)
    said = []
    for volume in (upright, turned):
        findings = {f.name: f for f in bundled.run("xr-quality", {"image": volume}).findings}
        said.append(findings["technical quality"].evaluations[1].value.meaning)
    assert said == ["No", "Yes"]


@pytest.mark.parametrize("shape", [(300, 400), (1955, 1841)])
@pytest.mark.parametrize("share", [0.1, 0.33, 0.77])
def test_rounding_makes_no_field_of_a_large_flat_radiograph(
    bundled: Engine, shape: tuple[int, int], share: float
) -> None:
    pixels = np.full((1, *shape), int(4095 * share), np.uint16)
    volume = Volume(pixels, "1", None, (None, None, None), (0.0, 4095.0))
    answer = bundled.run("xr-quality", {"image": volume})
    assert [finding.region for finding in answer.findings] == [None, None]


@pytest.mark.feature("P27")
def test_many_threads_get_the_answer_that_one_gets(bundled: Engine) -> None:
    hu, _ = chest()
    images = [ct(np.roll(hu, 5 * step, axis=2)) for step in range(4)]
    alone = [bundled.run("ct-tissue", {"image": image}) for image in images]
    together = threading.Barrier(8)

    def one(number: int) -> Answer:
        together.wait(30)
        return bundled.run("ct-tissue", {"image": images[number % 4]})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(16)))
    for number, answer in enumerate(answers):
        expected = alone[number % 4]
        assert np.array_equal(answer.labels, expected.labels)  # type: ignore[arg-type]
        assert answer.findings == expected.findings


MEASURE = """
import resource, sys
import numpy as np
from ai.engine import Engine
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from ai.types import Volume

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MiB on Linux

engine = Engine(Registry([bundled_models_path()]), SessionCache(("cpu",), 1))
def run(slices):
    hu = np.full((slices, 256, 256), -1000, np.int16)
    hu[:, 40:200, 60:220] = 40
    image = Volume(hu, "[hnsf'U]", None, (1.0, 1.0, 1.0), (-1024.0, 3071.0))
    before = peak()
    answer = engine.run("ct-tissue", {"image": image})
    assert answer.findings[0].measurements[0].value == slices * 25.6
    return before, peak()
run(16)
print(*run(600))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_600_slices_need_no_more_memory_than_their_labels() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True, timeout=120
    )
    before, after = map(int, done.stdout.split())
    # Labels are 38 MiB; one copy of the series as float32 would be 150.
    assert after - before < 80
