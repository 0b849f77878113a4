"""Overlay, presentation state, key images and pages under programs of other makers.

What is listed as known is what a validator says of a correct object, with the reason. That things
come out where the phantom says is seen through DCMTK's and Poppler's renderers alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import dcmread

from ai.types import Answer, Volume
from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.gate import prove
from dicomnode.results.overlay import longest_side, shown_slices
from dicomnode.results.provenance import WARNING
from dicomnode.results.rendering import layout
from dicomnode.results.voi import slice_grey
from dicomnode.results.write import to_bytes
from dicomnode.series.volume import load_series
from tests.factories import cr_image, ct_series, mr_series, us_image, write
from tests.interop.programs import dciodvfy_errors, pixelmed_errors, run
from tests.unit.dicomnode.results.cases import (
    SEGMENTS,
    cr_case,
    phantom_labels,
    provenance,
    segment_findings,
)
from tests.volumes import Grid, images_of

pytestmark = pytest.mark.tools

KINDS = ("overlay", "gsps", "ko", "pdf")


def windowed(images):
    for image in images:
        image.WindowCenter, image.WindowWidth = "-700", "600"
    return images


SERIES = {
    "CT": lambda: windowed(ct_series(slices=6, rows=16, columns=20)),
    "MR": lambda: mr_series(slices=5, rows=16, columns=20),
    "CR": lambda: [cr_image(photometric="MONOCHROME1")],
    "US": lambda: [us_image()],
    "US in colour": lambda: [us_image(colour=True)],
    "enhanced CT": lambda: images_of(
        np.random.default_rng(1).integers(100, 1900, (4, 16, 20)).astype(np.uint16),
        Grid((4, 16, 20)),
        form="enhanced",
    ),
}


@dataclass
class Made:
    """A series on disk and what was made of it."""

    answer: Answer
    volume: Volume
    headers: tuple
    paths: tuple[Path, ...]
    files: dict[str, Path]
    objects: dict


@pytest.fixture(scope="module", params=SERIES)
def made(request, tmp_path_factory) -> Made:
    return make(request.param, tmp_path_factory.mktemp("made"))


def make(name: str, folder: Path) -> Made:
    series = load_series(write(SERIES[name](), folder / "source"))
    answer = answer_for(series.volume)
    parts = (answer, series.volume, series.headers, provenance())
    objects = build_bundle(KINDS, Sources(*parts))
    files = {kind: folder / f"{kind}.dcm" for kind in objects}
    for kind, path in files.items():
        path.write_bytes(to_bytes(objects[kind]))
    assert prove(files, *parts) == ()
    return Made(answer, series.volume, series.headers, series.paths, files, objects)


def answer_for(volume: Volume) -> Answer:
    slices, rows, columns = volume.voxels.shape
    if slices > 1:
        labels = phantom_labels((slices, rows, columns))
        return Answer(segment_findings(labels, volume.voxel_volume_ml or 0.0), labels, SEGMENTS)
    findings = cr_case().answer.findings
    # Along the borders of pixels: rows 4 to 15 and columns 3 to 20 lie within.
    points = np.array([[2.5, 3.5], [20.5, 3.5], [20.5, 15.5], [2.5, 15.5]])
    return Answer((replace(findings[0], region=replace(findings[0].region, points=points)),))


def masks_of(made: Made, index: int) -> np.ndarray:
    """Pixels of the source where anything was found, from the phantom and not from a renderer."""
    if made.answer.labels is not None:
        return made.answer.labels[index] > 0
    mask = np.zeros(made.volume.voxels.shape[1:], bool)
    mask[4:16, 3:21] = True
    return mask


@pytest.mark.feature("P23")
@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(made, kind):
    assert dciodvfy_errors(made.files[kind]) == []


def test_dcentvfy_sees_one_patient_and_one_study(made):
    done = run("dcentvfy", *made.files.values(), *set(made.paths))
    assert done.returncode == 0, done.stdout


def test_dcmpschk_finds_nothing_but_the_known(made):
    done = run("dcmpschk", made.files["gsps"])
    wrong = re.findall(r"Affected attribute: (\w+)", done.stdout)
    # Its pattern for DT allows a zone, and still it refuses every DT that has one.
    assert wrong == ["ContributionDateTime"] * 2, done.stdout


def test_dsrdump_reads_the_key_images(made):
    done = run("dsrdump", made.files["ko"])
    assert done.returncode == 0, done.stdout
    assert "Of Interest" in done.stdout
    shown = len([item for item in made.objects["ko"].ContentSequence if item.ValueType == "IMAGE"])
    assert len(re.findall("contains IMAGE", done.stdout)) == shown > 0


@pytest.mark.parametrize("name", ["CT", "enhanced CT"])
def test_pixelmed_finds_no_error_in_the_key_images(name, tmp_path):
    made = make(name, tmp_path)
    assert pixelmed_errors(made.files["ko"], report=True) == []


@pytest.mark.feature("P16", "P17")
def test_dcmtk_shows_the_overlay_as_it_was_made_with_colour_where_something_was_found(
    made, tmp_path
):
    overlay = dcmread(made.files["overlay"])
    frames = overlay.pixel_array.reshape(-1, overlay.Rows, overlay.Columns, 3)
    rows, columns = made.volume.voxels.shape[1:]
    for number, index in enumerate(shown_slices(made.answer, len(made.headers))):
        picture = tmp_path / f"{number}.ppm"
        done = run("dcm2pnm", "--frame", str(number + 1), made.files["overlay"], picture)
        assert done.returncode == 0, done.stdout
        with Image.open(picture) as image:
            shown = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(shown, frames[number])
        image, _ = image_in(made, shown)
        coloured = np.ptp(image.astype(int), axis=-1) > 0
        down = ((np.arange(rows) + 0.5) * image.shape[0] / rows).astype(int)
        across = ((np.arange(columns) + 0.5) * image.shape[1] / columns).astype(int)
        at_centres = coloured[np.ix_(down, across)]
        wanted = masks_of(made, index)
        # A polygon's border runs through pixels, so its outermost ring may go either way.
        slack = np.pad(wanted, 1)
        ring = (
            np.logical_or.reduce(
                [np.roll(slack, step, axis) for axis in (0, 1) for step in (-1, 1)]
            )[1:-1, 1:-1]
            & ~wanted
        )
        assert (at_centres == wanted)[~ring].mean() > 0.95
        places = np.argwhere(at_centres).mean(axis=0) - np.argwhere(wanted).mean(axis=0)
        assert np.abs(places).max() < 0.6


def image_in(made: Made, frame: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The image in a frame of the overlay, by the proportions of the source."""
    _, rows, columns = made.volume.voxels.shape
    _, down, across = (step or 1.0 for step in made.volume.spacing)
    scale = longest_side(made.volume) / max(rows * down, columns * across)
    size = round(columns * across * scale), round(rows * down * scale)
    ((left, top),) = layout([size], made.answer, "ct-tissue 1.0.0").corners
    return frame[top : top + size[1], left : left + size[0]], size


@pytest.mark.parametrize("name", ["CT", "MR", "CR"])
def test_dcmtk_shows_a_source_through_the_state_as_we_do(name, tmp_path):
    made = make(name, tmp_path)
    for index, path in enumerate(made.paths):
        picture = tmp_path / "shown.pgm"
        done = run("dcmp2pgm", "-p", made.files["gsps"], path, picture)
        assert done.returncode == 0, done.stdout
        with Image.open(picture) as image:
            shown = np.asarray(image).astype(int)
        ours = slice_grey(made.volume, made.headers, index).astype(int)
        assert np.ptp(ours) > 100
        assert np.abs(shown - ours).max() <= 2


@pytest.mark.feature("P16")
@pytest.mark.parametrize("name", ["CT", "MR", "CR"])
def test_the_graphics_that_dcmtk_read_and_wrote_again_enclose_the_phantom(name, tmp_path):
    made = make(name, tmp_path)
    again = tmp_path / "again.dcm"
    done = run("dcmp2pgm", "-p", made.files["gsps"], "+S", again, made.paths[0], tmp_path / "x.pgm")
    assert done.returncode == 0, done.stdout
    state = dcmread(again)
    layers = {item.GraphicLayer for item in state.GraphicLayerSequence}
    assert {"FINDING 1", "AI NOTICE"} <= layers
    rows, columns = made.volume.voxels.shape[1:]
    for index, header in enumerate(made.headers):
        inside = np.zeros((rows * 8, columns * 8), bool)
        for item in state.GraphicAnnotationSequence:
            named = [e.ReferencedSOPInstanceUID for e in item.get("ReferencedImageSequence", ())]
            if header.SOPInstanceUID not in named:
                continue
            for graphic in item.get("GraphicObjectSequence", ()):
                points = np.array(graphic.GraphicData).reshape(-1, 2) * 8 - 0.5
                drawing = Image.new("1", (columns * 8, rows * 8))
                ImageDraw.Draw(drawing).polygon([tuple(p) for p in points.tolist()], fill=1)
                inside ^= np.asarray(drawing)
        np.testing.assert_array_equal(inside[4::8, 4::8], masks_of(made, index))


@pytest.mark.feature("P20", "P21", "P23")
def test_poppler_reads_and_shows_the_pages(made, tmp_path):
    pages = tmp_path / "report.pdf"
    found = dcmread(made.files["pdf"])
    pages.write_bytes(found.EncapsulatedDocument[: found.EncapsulatedDocumentLength])
    done = run("pdftotext", "-layout", pages, "-")
    assert done.returncode == 0, done.stdout
    texts = done.stdout.rstrip("\f\n").split("\f")
    assert all(WARNING in " ".join(text.split()) for text in texts)
    said = " ".join(done.stdout.split())
    assert "ct-tissue 1.0.0 by Example Vendor" in said
    assert f"{made.headers[0].Modality}, {len(made.headers)} image" in said
    for number, finding in enumerate(made.answer.findings):
        assert f"{number + 1}. {finding.name}: {finding.type.meaning}" in said
    done = run("pdftoppm", "-r", "60", "-png", pages, tmp_path / "page")
    assert done.returncode == 0, done.stdout
    shown = sorted(tmp_path.glob("page*.png"))
    assert len(shown) == len(texts)
    assert any(colourful(path) for path in shown)


def colourful(path: Path) -> bool:
    """Whether a page shows more colour than its foot and bullets have."""
    with Image.open(BytesIO(path.read_bytes())) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)[: int(image.height * 0.9)]
    return int((np.ptp(pixels, axis=-1) > 30).sum()) > 150
