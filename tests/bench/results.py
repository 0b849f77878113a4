"""What result objects cost: encoded and written, proved, and made by highdicom of the same labels.

``python -m tests.bench.results [--smoke] [--runs N]``

Five segments on a CT of 200 × 512 × 512, no frame left out. Each row is made in a process of its
own, with its inputs ready before the clock starts, and once before on a small volume, since
highdicom reads its tables of the standard (110 MiB) at the first use. Rows take turns, so that a
noisy machine disturbs all alike. Memory is the highest resident set above that of the inputs.
Processor seconds stand beside the clock's, since a machine is seldom idle.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset

from ai.types import Answer, Code, Confidence, Finding, Measurement, Segment, Volume
from dicomnode.results import codes
from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.gate import prove
from dicomnode.results.provenance import ModelFacts, Provenance, algorithm_sequence
from dicomnode.results.write import to_bytes
from tests.bench.processes import hwm_mib
from tests.volumes import Grid, images_of

Shape = tuple[int, int, int]
SHAPE: Shape = (200, 512, 512)
SMOKE: Shape = (12, 48, 64)
SEGMENTS = 5
_TISSUE = Code("85756007", "SCT", "Tissue")


def inputs(shape: Shape) -> Sources:
    """Five ellipsoids on a CT without its pixels."""
    grid = Grid(shape, spacing=(1.5, 0.75, 0.75))
    headers = images_of(np.zeros(shape, np.uint16), grid, order="along")
    for header in headers:
        del header.PixelData
    labels = np.zeros(shape, np.uint8)
    z, y, x = (np.linspace(-1, 1, count) for count in shape)
    segments, findings = [], []
    for number in range(1, SEGMENTS + 1):
        middle = 0.3 * (number - 3)
        inside = (z[:, None, None] / 0.8) ** 2 + ((y[:, None] - middle) / 0.25) ** 2
        labels[inside + ((x - middle) / 0.2) ** 2 <= 1] = number
        kind = Code("91723000", "SCT", "Anatomical structure")
        segments.append(Segment(number, f"segment {number}", _TISSUE, kind, (50 * number, 200, 0)))
        volume = Measurement(
            Code("118565006", "SCT", "Volume"),
            float((labels == number).sum()) * 0.84375 / 1000,
            Code("mL", "UCUM", "mL"),
        )
        findings.append(
            Finding(
                name=f"segment {number}",
                category=_TISSUE,
                type=kind,
                description="An ellipsoid.",
                confidence=Confidence(None, "none: rule-based"),
                segment=number,
                measurements=(volume,),
            )
        )
    answer = Answer(tuple(findings), labels, tuple(segments))
    source = Volume(
        np.zeros(shape, np.int16), "[hnsf'U]", grid.affine, grid.spacing, (-1024.0, 3071.0)
    )
    model = ModelFacts("bench", "1.0.0", "Bench", "Ellipsoids.", "ab" * 32, "rules", "Measuring")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    provenance = Provenance("cd" * 32, moment, "MEDAI", "2.25.1", "0.1.0", model)
    return Sources(answer, source, headers, provenance)


def _encode(sources: Sources, *kinds: str) -> dict[str, bytes]:
    made = build_bundle(kinds, sources)
    return {kind: to_bytes(each) for kind, each in made.items() if isinstance(each, Dataset)}


def _prove(sources: Sources, files: dict[str, bytes]) -> None:
    found = prove(files, sources.answer, sources.volume, sources.headers, sources.provenance)
    if found:
        raise SystemExit(f"a good object was refused: {found[0]}")


def _highdicom(sources: Sources, kind: hd.seg.SegmentationTypeValues) -> None:
    answer, provenance = sources.answer, sources.provenance
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=each.number,
            segment_label=each.label,
            segmented_property_category=codes.coded(each.category),
            segmented_property_type=codes.coded(each.type),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm_sequence(provenance.model),
        )
        for each in answer.segments
    ]
    made = hd.seg.Segmentation(
        source_images=list(sources.headers),
        pixel_array=answer.labels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=provenance.uid("seg/series"),
        series_number=1,
        sop_instance_uid=provenance.uid("seg/instance"),
        instance_number=1,
        manufacturer="Bench",
        manufacturer_model_name="Bench",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )
    made.save_as(BytesIO())


@dataclass(frozen=True)
class Row:
    """One thing that is measured.

    Attributes:
        name: What it is.
        make: Does it; what it returns is given to `then`.
        then: Measured instead of `make`, where there is one.
        built: Kinds that are there before: a report refers to the segmentation.
    """

    name: str
    make: Callable[[Sources], dict[str, bytes] | None]
    then: Callable[[Sources, dict[str, bytes]], None] | None = None
    built: tuple[str, ...] = ()


def _both(*kinds: str) -> Callable[[Sources], None]:
    return lambda sources: _prove(sources, _encode(sources, *kinds))


def _of(*kinds: str) -> Callable[[Sources], dict[str, bytes]]:
    return lambda sources: _encode(sources, *kinds)


BINARY, LABELS = hd.seg.SegmentationTypeValues.BINARY, hd.seg.SegmentationTypeValues.LABELMAP
ROWS = {
    row.name: row
    for row in (
        Row("seg: encode and write", _of("seg")),
        Row("seg: prove", _of("seg"), _prove),
        Row("seg: encode, write and prove", _both("seg")),
        Row("seg: highdicom's creation", lambda sources: _highdicom(sources, BINARY)),
        Row("label map: encode and write", _of("labelmap")),
        Row("label map: prove", _of("labelmap"), _prove),
        Row("label map: highdicom's creation", lambda sources: _highdicom(sources, LABELS)),
        Row("report: encode and write", _of("sr"), built=("seg",)),
        Row("report: prove beside its segmentation", _of("seg", "sr"), _prove),
    )
}


def measure(name: str, shape: Shape) -> tuple[float, float, float]:
    """Seconds by the clock, of the processor, and MiB, of one row in a fresh process."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run, args=(name, shape, theirs))
    process.start()
    theirs.close()
    try:
        figures: tuple[float, float, float] = ours.recv()
    finally:
        process.join()
    return figures


def _run(name: str, shape: Shape, answer: Connection) -> None:
    row = ROWS[name]
    row.make(inputs(SMOKE))
    sources = inputs(shape)
    before = build_bundle(row.built, sources)
    built = {kind: each for kind, each in before.items() if isinstance(each, Dataset)}
    sources = replace(sources, built=built)
    files = row.make(sources) if row.then is not None else None
    resident = _reset_peak()
    start, worked = time.perf_counter(), time.process_time()
    if row.then is not None and files is not None:
        row.then(sources, files)
    else:
        row.make(sources)
    seconds, processor = time.perf_counter() - start, time.process_time() - worked
    answer.send((seconds, processor, _peak() - resident))


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> float:
    return hwm_mib(multiprocessing.current_process().pid or 0)


def main() -> None:
    """Measure the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    shape, runs = (SMOKE, 1) if arguments.smoke else (SHAPE, arguments.runs)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ROWS}
    for _ in range(runs):
        for name in ROWS:
            figures[name].append(measure(name, shape))
    print(f"{'':40}{'seconds':>9}{'cpu':>7}{'MiB':>7}")
    for name, each in figures.items():
        seconds, processor, mib = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{name:40}{seconds:9.2f}{processor:7.2f}{mib:7.0f}")


if __name__ == "__main__":
    main()
