"""`infer` with a detector and with instances: where a thing lies is where the results say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from onnx import TensorProto
from pydicom.dataset import Dataset

from ai.models.graph import Graph
from dicomnode.results.content import walk
from tests import factories
from tests.model_packages import (
    IMAGE,
    PROBABILITIES,
    SPACE,
    VOLUME,
    WHOLE,
    box_around,
    boxed,
    from_x_to_y,
    head,
    nested,
    overlapping,
    primary_input,
    scored,
    write_package,
)
from tests.unit.dicomnode.cli.conftest import Run

SLICES, ROWS, COLUMNS = 12, 24, 20
# Slices from the foot, rows and columns of a bright block each.
LARGE = (slice(3, 8), slice(4, 12), slice(9, 15))
SMALL = (slice(9, 11), slice(20, 22), slice(1, 4))

RGB = (
    WHOLE
    + """
colour = "rgb"
channels = 3
normalisation = { kind = "value_range", to = [0, 100] }
"""
)

MEANS = """\
[output]
task = "measurement"

[[output.finding]]
name = "colour"
category = ["363787002", "SCT", "Observable entity"]
type = ["371251000", "SCT", "Color"]
description = "The mean of each colour."
""" + "".join(
    f"""
[[output.finding.measurement]]
tensor = "mean"
index = {index}
name = ["MEAN-{name.upper()}", "99TEST", "Mean {name}"]
unit = ["%", "UCUM", "Percent"]
"""
    for index, name in enumerate(("red", "green", "blue"))
)

PARTS = (
    PROBABILITIES
    + """
[output.cleaning]
smallest_mm3 = 40.0

[[output.segment]]
number = 1
label = "mass"
channel = 0
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["4147007", "SCT", "Mass"]
color = [240, 60, 60]
description = "Bright."
severity = 0.9
instances = 5
"""
)


def bright(g: Graph) -> str:
    return g.floats(g.op("Greater", "x", g.real(1000.0)))


def box_graph() -> bytes:
    """The box around what is above 1000, with a score."""
    g = Graph("box")
    mask = bright(g)
    g.named("Reshape", [box_around(g, mask), g.whole(1, 1, 6)], ["box"])
    score = g.op("Mul", g.op("ReduceMax", mask, keepdims=0), g.real(0.875))
    g.named("Reshape", [score, g.whole(1, 1)], ["score"])
    return g.serialized(
        [("x", TensorProto.FLOAT, VOLUME)],
        [("box", TensorProto.FLOAT, (1, 1, 6)), ("score", TensorProto.FLOAT, (1, 1))],
    )


def parts_graph() -> bytes:
    """A probability of 0.875 where the input is above 1000."""
    g = Graph("parts")
    g.named("Mul", [bright(g), g.real(0.875)], ["y"])
    return from_x_to_y(g, VOLUME)


def ct_input(orientation: str, more: str) -> str:
    lines = f'{SPACE}\ninterpolation = "nearest"\norientation = "{orientation}"\n{more}'
    return primary_input(lines)


def us_input(lines: str) -> str:
    return primary_input(lines, modality="US", units="1")


def nested_voxels() -> np.ndarray:
    """A mass with a brighter core, which is not in its middle."""
    voxels = np.full((SLICES, ROWS, COLUMNS), 1024, np.uint16)
    voxels[LARGE] = 1024 + 1500
    voxels[4:6, 6:10, 10:13] = 1024 + 2900
    return voxels


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    series = factories.ct_series(SLICES, rows=ROWS, columns=COLUMNS)
    voxels = np.full((SLICES, ROWS, COLUMNS), 1024, np.uint16)
    voxels[LARGE] = voxels[SMALL] = 3000
    voxels[0, 0, 0] = 3000  # too small to be kept as an instance
    for image, plane in zip(series, voxels, strict=True):
        image.PixelData = plane.tobytes()
    folder = tmp_path_factory.mktemp("images")
    factories.write(series, folder)
    return folder


def infer(medai: Run, images: Path, model: str) -> dict[str, Dataset]:
    Path("medai_node.toml").write_text('[models]\npath = "models"\n', "utf-8")
    done = medai("infer", images, "--model", model, "--output", "out")
    assert done.code == 0, done.err
    results = [pydicom.dcmread(path) for path in sorted(Path("out").rglob("*.dcm"))]
    for path in sorted(Path("out").rglob("*.dcm")):
        assert medai("validate", path).code == 0
    return {str(result.Modality): result for result in results}


def numbers(report: Dataset) -> Iterator[tuple[str, float, str]]:
    for item in walk(report):
        if item.get("ValueType") == "NUM" and item.MeasuredValueSequence:
            (value,) = item.MeasuredValueSequence
            unit = value.MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            yield name, float(value.NumericValue), unit.CodeValue


def by_place(folder: Path) -> dict[str, int]:
    """Which slice from the foot each image is."""
    read: list[Any] = [pydicom.dcmread(path) for path in folder.iterdir()]
    read.sort(key=lambda image: image.ImagePositionPatient[2])
    return {str(image.SOPInstanceUID): place for place, image in enumerate(read)}


@pytest.mark.feature("P09", "P10", "P12", "P16", "F09", "F24")
@pytest.mark.parametrize(
    ("orientation", "more"),
    [
        ("SPL", ""),
        ("IRA", "spacing = [2.5, 0.625, 0.75]"),
        ("ALS", 'spacing = [0.75, 0.625, 2.5]\npad = "centre"\nmultiple_of = 16'),
    ],
)
def test_a_box_of_a_volume_is_reported_where_it_lies(
    medai: Run, images: Path, orientation: str, more: str
) -> None:
    write_package(
        Path("models/boxer/1.0.0"),
        box_graph(),
        head("boxer", results=["sr", "overlay", "gsps", "ko"])
        + ct_input(orientation, f'{more}\ncrop = {{ to = "nonzero" }}')
        + boxed("mass"),
    )
    report = infer(medai, images, "boxer@1.0.0")["SR"]
    places = by_place(images)
    (scoord,) = [
        item
        for item in walk(report)
        if item.get("ValueType") == "SCOORD" and item.get("RelationshipType") == "CONTAINS"
    ]
    points = np.array(scoord.GraphicData, float).reshape(-1, 2)
    # The box holds the lone voxel of the corner too: it reaches from there to the far ends.
    assert points.min(axis=0).tolist() == [0.0, 0.0]
    assert points.max(axis=0).tolist() == [LARGE[2].stop, SMALL[1].stop]
    (image,) = scoord.ContentSequence
    assert places[image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID] == SMALL[0].stop // 2
    said = {name: (value, unit) for name, value, unit in numbers(report) if unit == "mm"}
    assert said == {
        "Depth": (pytest.approx(SMALL[0].stop * 5.0), "mm"),
        "Height": (pytest.approx(SMALL[1].stop * 1.5), "mm"),
        "Width": (pytest.approx(LARGE[2].stop * 1.25), "mm"),
    }
    assert [value for name, value, _ in numbers(report) if "ertainty" in name] == [87.5]


@pytest.mark.feature("P09", "P10", "P12", "P13", "P16", "F09")
@pytest.mark.parametrize(
    ("orientation", "more"), [("SPL", ""), ("LIA", "spacing = [0.625, 2.5, 0.75]")]
)
def test_each_instance_is_a_segment_and_a_finding_where_it_lies(
    medai: Run, images: Path, orientation: str, more: str
) -> None:
    write_package(
        Path("models/parter/1.0.0"),
        parts_graph(),
        head("parter", results=["sr", "seg"]) + ct_input(orientation, more) + PARTS,
    )
    results = infer(medai, images, "parter@1.0.0")
    written, report = results["SEG"], results["SR"]
    assert [item.SegmentLabel for item in written.SegmentSequence] == ["mass 1", "mass 2"]
    frames = written.pixel_array.reshape(2, SLICES, ROWS, COLUMNS)
    order = [
        group.PlanePositionSequence[0].ImagePositionPatient[2]
        for group in written.PerFrameFunctionalGroupsSequence[:SLICES]
    ]
    upwards = np.argsort(order)
    for number, block in enumerate((LARGE, SMALL)):
        expected = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
        expected[block] = 1
        assert np.array_equal(frames[number][upwards], expected)
    voxel = 5.0 * 1.5 * 1.25 / 1000
    volumes = [value for name, value, unit in numbers(report) if unit == "mL"]
    assert volumes == pytest.approx([5 * 8 * 6 * voxel, 2 * 2 * 3 * voxel])
    assert [value for name, value, _ in numbers(report) if "ertainty" in name] == [87.5, 87.5]


@pytest.mark.feature("P07", "P09", "P10", "P12", "P16", "F09")
@pytest.mark.parametrize(
    ("orientation", "more"), [("SPL", ""), ("LIA", "spacing = [0.625, 2.5, 0.75]")]
)
def test_a_mass_keeps_the_voxels_of_its_core(
    medai: Run, images: Path, orientation: str, more: str
) -> None:
    """Of two channels whose segments overlap each is a segment and a finding with all it holds."""
    series = [pydicom.dcmread(path) for path in sorted(images.iterdir())]
    upwards = sorted(series, key=lambda image: image.ImagePositionPatient[2])
    for image, plane in zip(upwards, nested_voxels(), strict=True):
        image.PixelData = plane.tobytes()
    factories.write(series, Path("nested"))
    write_package(
        Path("models/nester/1.0.0"),
        nested(3, (1000.0, 2000.0)),
        head("nester", results=["sr", "seg", "overlay", "gsps", "ko", "pdf"])
        + ct_input(orientation, more)
        + overlapping(names=("mass", "core")),
    )
    results = infer(medai, Path("nested"), "nester@1.0.0")
    written, report = results["SEG"], results["SR"]
    assert written.SegmentsOverlap == "YES"
    assert [item.SegmentLabel for item in written.SegmentSequence] == ["mass", "core"]
    frames = written.pixel_array.reshape(2, SLICES, ROWS, COLUMNS)
    order = [
        group.PlanePositionSequence[0].ImagePositionPatient[2]
        for group in written.PerFrameFunctionalGroupsSequence[:SLICES]
    ]
    values = nested_voxels().astype(int) - 1024
    voxel = 5.0 * 1.5 * 1.25 / 1000
    said = {"mL": [], "%": []}
    for name, value, unit in numbers(report):
        if name.startswith(("Volume", "Certainty")):
            said[unit].append(value)
    for number, limit in enumerate((1000, 2000)):
        mask = values >= limit
        assert np.array_equal(frames[number][np.argsort(order)], mask)
        assert said["mL"][number] == pytest.approx(mask.sum() * voxel)
        sure = 1 / (1 + np.exp(-(values[mask] - limit) / 100.0))
        # Seen in the grid of the model, whose voxels are smaller by up to a factor of two.
        assert said["%"][number] == pytest.approx(100 * sure.mean(), abs=0.01)
    assert (values[LARGE] >= 1000).all()  # the core lies within, and none of it is lost


@pytest.mark.feature("F04", "F09")
def test_a_colour_image_reaches_the_model_as_red_green_and_blue(medai: Run, tmp_path: Path) -> None:
    g = Graph("means")
    g.named("ReduceMean", ["x", g.whole(0, 2, 3)], ["mean"], keepdims=0)
    graph = g.serialized(
        [("x", TensorProto.FLOAT, ("N", 3, "H", "W"))], [("mean", TensorProto.FLOAT, (3,))]
    )
    write_package(Path("models/colours/1.0.0"), graph, head("colours") + us_input(RGB) + MEANS)
    image = factories.us_image(colour=True)
    rgb = np.random.default_rng(5).integers(0, [256, 128, 64], (24, 32, 3)).astype(np.uint8)
    image.PixelData = rgb.tobytes()
    factories.write([image], tmp_path / "source")
    report = infer(medai, tmp_path / "source", "colours@1.0.0")["SR"]
    said = {name: value for name, value, _ in numbers(report) if name.startswith("Mean")}
    red, green, blue = rgb.reshape(-1, 3).mean(axis=0) / 2.55
    assert said == pytest.approx(
        {"Mean red": red, "Mean green": green, "Mean blue": blue}, abs=1e-3
    )


SIDES = (
    scored("bright left", 'tensor = "s", index = 0, threshold = 0.1')
    + """
[ensemble]
flips = [["columns"]]
"""
)


@pytest.mark.feature("P07", "F24")
def test_the_uncertainty_of_an_ensemble_stands_in_the_report(medai: Run, tmp_path: Path) -> None:
    g = Graph("left")
    half = g.op("Slice", "x", g.whole(0), g.whole(16), g.whole(3))
    g.named("ReduceMean", [half, g.whole(1, 2, 3)], ["s"], keepdims=0)
    graph = g.serialized([("x", TensorProto.FLOAT, IMAGE)], [("s", TensorProto.FLOAT, ("N",))])
    grey = WHOLE + '\nnormalisation = { kind = "value_range", to = [0, 1] }\n'
    write_package(Path("models/sides/1.0.0"), graph, head("sides") + us_input(grey) + SIDES)
    image = factories.us_image()
    image.PixelData = np.repeat([[204] * 16 + [51] * 16], 24, axis=0).astype(np.uint8).tobytes()
    factories.write([image], tmp_path / "source")
    report = infer(medai, tmp_path / "source", "sides@1.0.0")["SR"]
    said = [(value, unit) for name, value, unit in numbers(report) if name.startswith("Certainty")]
    assert said == [(pytest.approx(30.0, abs=1e-4), "%"), (50.0, "%")]
