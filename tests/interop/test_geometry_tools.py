"""Programs of other makers place the results of any acquisition where the phantom lies."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.write import to_bytes
from dicomnode.series.volume import load_series
from tests import factories
from tests.geometries import ACQUISITIONS, ENCODINGS, SEGMENTS, answer_of
from tests.interop.programs import run
from tests.unit.dicomnode.results.cases import provenance

pytestmark = pytest.mark.tools

# pip puts dcmqi's programs beside Python.
DCMQI = Path(sys.executable).parent

CASES = [(name, list(ENCODINGS)[at % len(ENCODINGS)]) for at, name in enumerate(ACQUISITIONS)]


def _results(name: str, encoding: str, folder: Path) -> Sources:
    form, syntax = ENCODINGS[encoding]
    series = load_series(factories.write(ACQUISITIONS[name].images(form, syntax), folder / "in"))
    sources = Sources(answer_of(series.volume), series.volume, series.headers, provenance())
    for kind, made in build_bundle(("seg", "sr"), sources).items():
        (folder / f"{kind}.dcm").write_bytes(to_bytes(made))
    return sources


@pytest.mark.feature("P12")
@pytest.mark.parametrize(("name", "encoding"), CASES)
def test_dcmqi_puts_each_segment_where_the_phantom_lies(
    name: str, encoding: str, tmp_path: Path
) -> None:
    acquisition = ACQUISITIONS[name]
    _results(name, encoding, tmp_path)
    flags = ("--outputDirectory", tmp_path, "-t", "nrrd", "-p", "out")
    done = run(DCMQI / "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", *flags)
    assert done.returncode == 0, done.stderr
    middles = {}
    for number in (segment.number for segment in SEGMENTS):
        image = SimpleITK.ReadImage(str(tmp_path / f"out-{number}.nrrd"))
        found = SimpleITK.GetArrayFromImage(image).astype(bool)
        direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        index = np.stack(np.indices(found.shape)[::-1], axis=-1)
        places = index @ direction.T + image.GetOrigin()
        wanted = acquisition.labels_at(places) == number
        assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) >= 0.99
        middles[number] = places[found].mean(axis=0)
    assert middles[1][0] > acquisition.centre[0] > middles[2][0]


@pytest.mark.parametrize(("name", "encoding"), CASES[::6])
def test_dsrdump_reads_the_coordinates_of_the_mark(
    name: str, encoding: str, tmp_path: Path
) -> None:
    sources = _results(name, encoding, tmp_path)
    region = sources.answer.findings[-1].region
    assert region is not None
    done = run("dsrdump", "+Pl", tmp_path / "sr.dcm")
    assert done.returncode == 0, done.stderr
    lines = [
        [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?", found)]
        for found in re.findall(r"SCOORD:[^=]*=\(POLYLINE,([^)]*)\)", done.stdout)
    ]
    wanted = [*(region.points + 0.5).ravel(), *(region.points[0] + 0.5)]
    assert any(line == pytest.approx(wanted, abs=0.01) for line in lines), done.stdout
