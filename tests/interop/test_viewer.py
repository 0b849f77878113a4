"""What a reader sees: the node's results in OHIF, over DICOMweb of the PACS they went to."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from dicomnode.sample import SIZE, SPACING_MM, STEP_MM, thorax_phantom, write_sample_study
from tests.harness import NodeUnderTest, routes_to
from tests.interop.programs import DICOMWEB, Orthanc, dcmsend
from tests.interop.viewer import drive
from tests.interop.viewer.serving import viewer

pytestmark = pytest.mark.tools

SEGMENTS = {"gas in the body": 1, "fat": 2, "soft tissue": 3, "bone": 4}
# A segment's own colour over the image's grey at the window the image asks for, half and half.
SHOWN = {0: (0, 0, 0), 1: (50, 85, 128), 2: (144, 124, 64), 3: (164, 109, 109), 4: (248, 248, 237)}
PLANES = (12, 24, 33)
POINTS = 8
EVEN = 12  # of 255
KINDS = 'results = ["seg", "sr", "overlay", "gsps"]\n'
OVERLAY = "ct-tissue 1.0.0 overlay"
OUTLINES = "ct-tissue 1.0.0 outlines"
FRAMES = (0, 9, 20)


@dataclass(frozen=True)
class Seen:
    """The screen, what the viewer said, and the overlay, ``(frames, rows, columns, 3)``."""

    answer: dict[str, Any]
    folder: Path
    overlay: NDArray[np.uint8]

    def colours(self, name: str, at: list[list[float]]) -> NDArray[np.float64]:
        """``(points, 3)``: the mean colour of 3 × 3 pixels around each point of a picture."""
        pixels = np.asarray(Image.open(self.folder / f"{name}.png").convert("RGB"), np.float64)
        places = [(round(x), round(y)) for x, y in at]
        return np.array([pixels[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)) for x, y in places])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, screenshots: Path) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("viewer")
    source = write_sample_study(folder / "source")
    with (
        Orthanc(folder / "pacs", plugins=[DICOMWEB]) as pacs,
        NodeUnderTest(folder / "node", routes_to(pacs.port, pacs.ae_title) + KINDS) as node,
        viewer(pacs.web) as address,
    ):
        for path in source:
            pacs.put(path)
        dcmsend(node.state.dicom[1], source[0].parent, no_delay=True)
        node.wait_until(lambda: len(pacs.files()) >= len(source) + 4, "all results at the PACS")
        overlay = the_overlay(pacs.files())
        task = {
            "study": str(dcmread(source[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID),
            "segmentation": "ct-tissue 1.0.0 segmentation",
            "planes": [
                {"name": f"slice-{index}", "points": [place(index, *p) for p in points(index)]}
                for index in PLANES
            ],
            "report": "ct-tissue 1.0.0 report",
            "findings": len(SEGMENTS),
            "overlay": OVERLAY,
            "frames": [
                {"name": f"overlay-{index}", "index": index, "points": drawn(overlay[index])}
                for index in FRAMES
            ],
        }
        yield Seen(drive(address, task, screenshots), screenshots, overlay)


@pytest.fixture(scope="module")
def screenshots(pytestconfig: pytest.Config) -> Path:
    """Where the pictures stay after the tests."""
    folder = pytestconfig.rootpath / "build" / "viewer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def tissue() -> NDArray[np.int64]:
    """The segment of each voxel of the sample, from what the phantom is made of; 0 outside."""
    hounsfield = thorax_phantom(noise=0.0)
    kinds = np.digitize(hounsfield, [-300, -30, 180]) + 1
    solid = SimpleITK.GetImageFromArray((hounsfield > -300).astype(np.uint8))
    whole = [SimpleITK.BinaryFillhole(solid[:, :, index]) for index in range(len(hounsfield))]
    return np.where(np.stack([SimpleITK.GetArrayFromImage(body) for body in whole]), kinds, 0)


@functools.cache
def points(index: int) -> list[tuple[int, int]]:
    """Rows and columns of one slice, each two pixels inside its tissue.

    Half of them tell a flipped picture from a right one: another tissue stands where they would be
    mirrored to, left to right or front to back. The others are of every tissue.
    """
    kinds = tissue()[index]
    plane = SimpleITK.GetImageFromArray(kinds)
    low, high = SimpleITK.GrayscaleErode(plane, (2, 2)), SimpleITK.GrayscaleDilate(plane, (2, 2))
    flat = SimpleITK.GetArrayFromImage(low) == SimpleITK.GetArrayFromImage(high)
    flat[[0, -1]] = flat[:, [0, -1]] = False
    telling = flat & ((kinds != kinds[:, ::-1]) | (kinds != kinds[::-1]))
    chosen = _some(telling, 5 * POINTS, index)
    for kind in SHOWN:
        chosen += _some(flat & (kinds == kind), POINTS, index)
    return chosen


def the_overlay(files: list[Path]) -> NDArray[np.uint8]:
    """The frames of the overlay as the PACS has them."""
    (overlay,) = (each for each in map(dcmread, files) if each.get("SeriesDescription") == OVERLAY)
    frames: NDArray[np.uint8] = overlay.pixel_array
    return frames


def drawn(frame: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Columns and rows of one frame, each amid 5 x 5 pixels of much the same bright colour.

    In the picture turned left to right another colour stands where they would come to.
    """
    colours = frame.astype(np.int64)
    rows, columns = frame.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(colours, (5, 5), axis=(0, 1))
    flat = np.zeros((rows, columns), bool)
    flat[2:-2, 2:-2] = (windows.max((3, 4)) - windows.min((3, 4))).max(axis=2) < EVEN
    turned = np.abs(colours - colours[:, ::-1]).max(axis=2) > 4 * EVEN
    within = np.zeros((rows, columns), bool)  # what the viewer writes over it lies above and below
    within[rows // 4 : rows * 3 // 4] = True
    found = _some(flat & turned & within & (colours.max(axis=2) > 4 * EVEN), 5 * POINTS, rows)
    return [(column, row) for row, column in found]


def _some(where: NDArray[np.bool_], count: int, seed: int) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(where)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [(int(rows[number]), int(columns[number])) for number in chosen]


def place(index: int, row: int, column: int) -> list[float]:
    """A voxel's centre in LPS millimetres."""
    origin = -SPACING_MM * (SIZE - 1) / 2
    return [origin + SPACING_MM * column, origin + SPACING_MM * row, STEP_MM * index]


def test_every_segment_is_listed_by_its_name(seen: Seen) -> None:
    assert seen.answer["segments"] == list(SEGMENTS)


def test_the_coloured_pixels_lie_where_the_phantom_says(seen: Seen) -> None:
    shown = np.array([SHOWN[number] for number in sorted(SHOWN)], np.float64)
    met: set[int] = set()
    for index, plane in zip(PLANES, seen.answer["planes"], strict=True):
        wanted = np.array([tissue()[index][point] for point in points(index)])
        colours = seen.colours(plane["name"], plane["at"])
        distances = np.linalg.norm(colours[:, None] - shown[None], axis=2)
        np.testing.assert_array_equal(distances.argmin(1), wanted, plane["name"])
        met |= set(wanted.tolist())
    assert met == set(SHOWN)


def test_each_finding_is_outlined_on_its_largest_slice_with_its_volume(seen: Seen) -> None:
    kinds = tissue()
    looked_at = seen.answer["findings"]
    assert len(looked_at) == len(SEGMENTS)
    volumes = [float(shown["text"][0].split()[1]) for shown in looked_at]
    assert all(shown["text"][0].startswith("Volume: ") for shown in looked_at)
    for number in SEGMENTS.values():
        mask = kinds == number
        drawn = np.count_nonzero(mask) * SPACING_MM * SPACING_MM * STEP_MM / 1000.0
        (shown,) = (
            shown
            for shown, volume in zip(looked_at, volumes, strict=True)
            if volume == pytest.approx(drawn, rel=0.03)
        )
        index = int(mask.sum((1, 2)).argmax())
        rows, columns = np.nonzero(largest_part(mask[index]))
        low, high = place(index, rows.min(), columns.min()), place(index, rows.max(), columns.max())
        half = SPACING_MM / 2
        corners = [
            [low[0] - half, low[1] - half, low[2]],
            [high[0] + half, high[1] + half, high[2]],
        ]
        np.testing.assert_allclose(shown["box"], corners, atol=2 * SPACING_MM)


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a slice's mask."""
    parts = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)))
    return SimpleITK.GetArrayFromImage(SimpleITK.RelabelComponent(parts)) == 1


def test_the_overlay_is_shown_as_it_was_drawn(seen: Seen) -> None:
    for index, frame in zip(FRAMES, seen.answer["frames"], strict=True):
        places = drawn(seen.overlay[index])
        assert len(places) == 5 * POINTS
        wanted = np.array([seen.overlay[index][row, column] for column, row in places], np.float64)
        np.testing.assert_allclose(seen.colours(frame["name"], frame["at"]), wanted, atol=EVEN)


def test_what_the_viewer_does_not_show_is_known(seen: Seen) -> None:
    """It lists a presentation state with a warning mark and draws nothing of it."""
    shown = seen.answer["series"]
    assert [name for name, is_shown in shown.items() if not is_shown] == [OUTLINES]
    assert len(shown) == 5
