"""Bundles of every form for images of every kind, as the node would write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydicom.dataset import Dataset

from ai.types import Answer, Code, Region
from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.gate import prove
from dicomnode.results.write import to_bytes
from dicomnode.series.volume import load_series
from tests import factories
from tests.unit.dicomnode.results.cases import (
    BONE,
    CHEST,
    SEGMENTS,
    Case,
    cr_case,
    phantom_labels,
    provenance,
    segment_findings,
    with_probabilities,
    with_saliency,
)
from tests.volumes import Grid, images_of

KINDS = ("seg", "labelmap", "fractional", "saliency", "sr", "sr-comprehensive", "sr-basic")
LEFT = Code("7771000", "SCT", "Left")
GRID = Grid((4, 16, 20))


def _enhanced(modality: str) -> list[Dataset]:
    voxels = np.random.default_rng(3).integers(0, 4000, GRID.shape).astype(np.uint16)
    return images_of(voxels, GRID, modality=modality, form="enhanced", order="shuffled")


IMAGES: dict[str, Callable[[], Sequence[Dataset]]] = {
    "CT": lambda: factories.ct_series(4),
    "MR": lambda: factories.mr_series(4),
    "CR": lambda: [factories.cr_image()],
    "US": lambda: [factories.us_image()],
    "US loop": lambda: [factories.us_image(frames=3)],
    "enhanced CT": lambda: _enhanced("CT"),
    "enhanced MR": lambda: _enhanced("MR"),
    "enhanced PT": lambda: _enhanced("PT"),
}


@cache
def case_of(name: str) -> Case:
    """An answer with segments, probabilities, a heat map, a side and a region for these images."""
    with TemporaryDirectory() as folder:
        series = load_series(factories.write(list(IMAGES[name]()), Path(folder)))
        headers = tuple(series.headers)
    labels = phantom_labels((4, *series.volume.voxels.shape[1:]))[: len(headers)]
    findings = [
        replace(each, site=CHEST, laterality=LEFT, severity=0.5)
        for each in segment_findings(labels, 0.01)
    ]
    opacity = cr_case().answer.findings[0]
    square = np.array([[2.0, 3.0], [9.0, 3.0], [9.0, 11.5], [2.0, 11.5]])
    region = replace(opacity, type=BONE, region=Region(len(headers) - 1, square))
    answer = Answer((*findings, region, cr_case().answer.findings[1]), labels, SEGMENTS)
    case = Case(answer, series.volume, headers, provenance())
    return with_saliency(with_probabilities(case))


@cache
def files_of(name: str, kinds: tuple[str, ...] = KINDS) -> dict[str, bytes]:
    """The bundle of these images, as files that passed the gate."""
    case = case_of(name)
    sources = Sources(case.answer, case.volume, case.sources, case.provenance)
    made = build_bundle(kinds, sources)
    files = {kind: to_bytes(each) for kind, each in made.items() if isinstance(each, Dataset)}
    found = prove(files, case.answer, case.volume, case.sources, case.provenance)
    assert [str(each) for each in found] == []
    return files
