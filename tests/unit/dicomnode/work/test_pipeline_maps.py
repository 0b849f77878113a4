"""What a package declares of heat maps and probabilities comes out as proved objects."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from dicomnode.sample import set_pixels
from dicomnode.work.pipeline import analyse, model_facts
from tests import factories
from tests.model_packages import SLICES, head, primary_input, write_package
from tests.unit.ai.test_saliency import (
    CHANNELS,
    FINDING,
    INPUT,
    OCCLUDE,
    ROWS,
    SPOT,
    channel_graph,
    spot_graph,
)
from tests.unit.dicomnode.results.cases import provenance


def package_of(folder: Path, graph: bytes, image: str, output: str) -> Package:
    manifest = head() + primary_input(image) + output
    return write_package(folder / "site" / "test-model" / "1.0.0", graph, manifest)


def objects(
    images: Sequence[Dataset], package: Package, folder: Path, *kinds: str
) -> dict[str, Dataset]:
    engine = Engine(Registry([]), SessionCache(["cpu"]))
    paths = factories.write(list(images), folder / "source")
    made = analyse(paths, package, engine, provenance(model=model_facts(package)), kinds=kinds)
    return {each.kind: dcmread(BytesIO(each.content)) for each in made.results}


@pytest.mark.feature("P14")
def test_a_model_with_saliency_gives_a_heat_map_of_what_it_found(tmp_path: Path) -> None:
    image = 'normalisation = { kind = "value_range" }\n' + INPUT
    package = package_of(tmp_path, spot_graph(), image, FINDING + OCCLUDE)
    (scan,) = factories.ct_series(1, rows=2 * ROWS, columns=64)
    pixels = np.zeros((2 * ROWS, 64), np.uint16)
    rows, columns = (slice(2 * part.start, 2 * part.stop) for part in SPOT)
    pixels[rows, columns] = 4095
    set_pixels(scan, pixels, bits_stored=12)
    made = objects([scan], package, tmp_path, "saliency", "sr-basic")
    assert set(made) == {"sr", "saliency", "sr-basic"}
    heat = np.frombuffer(made["saliency"].FloatPixelData, "<f4").reshape(pixels.shape)
    assert (heat[rows, columns] > 0.9).all()
    assert heat.sum() == pytest.approx(heat[rows, columns].sum(), rel=1e-4)


def test_a_model_that_keeps_probabilities_gives_them_as_a_segmentation(tmp_path: Path) -> None:
    image = SLICES + '\nnormalisation = { kind = "minmax", to = [-1, 1] }'
    package = package_of(tmp_path, channel_graph(), image, CHANNELS)
    made = objects(factories.ct_series(3), package, tmp_path, "fractional", "labelmap")
    assert set(made) == {"sr", "fractional", "labelmap"}
    stored = np.frombuffer(made["fractional"].PixelData, np.uint8).reshape(2, 3, 16, 20)
    # Whichever segment the label map names has the higher probability of the two.
    labels = np.frombuffer(made["labelmap"].PixelData, np.uint8).reshape(3, 16, 20)
    assert labels.any()
    for number in (1, 2):
        mask = labels == number
        assert (stored[number - 1][mask] >= stored[2 - number][mask]).all()
