"""For any damage to a file: it is read, or refused in plain words, and never a traceback."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from config.errors import MedAIError
from config.schema import RouteSettings
from dicomnode.series.headers import read_header
from dicomnode.series.quality import assess
from dicomnode.series.routing import route_series
from dicomnode.series.volume import load_series
from tests import factories
from tests.volumes import Grid, images_of

GRID = Grid((2, 6, 7))
VOXELS = np.arange(84, dtype=np.uint16).reshape(GRID.shape)
KINDS = {
    "ct": factories.ct_series(1)[0],
    "cr": factories.cr_image(),
    "us loop": factories.us_image(frames=3, colour=True),
    "report": factories.structured_report(),
    "enhanced": images_of(VOXELS, GRID, form="enhanced")[0],
    "compressed": images_of(VOXELS, GRID, form="enhanced", syntax=RLELossless)[0],
    "pet": images_of(VOXELS, GRID, modality="PT", intercept=0)[0],
}
ROUTES = [RouteSettings(name="r", when={"slices": {"min": 1}, "KVP": 120}, model="m")]


@pytest.mark.feature("P02")
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    edits=st.lists(st.tuples(st.integers(132, 3000), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.none() | st.integers(0, 3500),
)
def test_a_damaged_file_is_refused_or_judged(
    kind: str, edits: list[tuple[int, int]], end: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = factories.write(KINDS[kind], Path(folder))[0]
        content = bytearray(path.read_bytes())
        for offset, byte in edits:
            content[offset % len(content)] = byte
        path.write_bytes(content[:end])
        assert refusal(path) != ""


def refusal(path: Path) -> str | None:
    """Why the file is not taken, or None; anything but an error of the node goes through."""
    try:
        header = read_header(path)
        quality = assess([header])
        route_series([header], ROUTES, lambda _: False)
        series = load_series([path])
    except MedAIError as error:
        return str(error)
    assert quality.ok
    assert series.volume.voxels.shape[1:] == (header.Rows, header.Columns)
    return None
