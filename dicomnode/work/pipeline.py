"""One model on one series: pixels in, proved result objects out. No network, no database."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from pydicom import Dataset

from ai.engine import Engine
from ai.package import Package
from ai.types import Answer
from config.errors import GateError, SeriesError
from config.kinds import ContentCheck
from dicomnode.frames import frame_number
from dicomnode.results.bundle import Predecessor, Sources, build_bundle
from dicomnode.results.gate import prove
from dicomnode.results.provenance import ModelFacts, Provenance
from dicomnode.results.rendering import annotated_picture
from dicomnode.results.write import to_bytes
from dicomnode.series.decode import Decoder, decode_here
from dicomnode.series.priors import contradiction
from dicomnode.series.volume import LoadedSeries, load_series
from dicomnode.work.content import Judgement, judge, require, with_doubts
from dicomnode.work.deadline import Deadline
from dicomnode.work.lettering import BurnedIn


@dataclass(frozen=True)
class WrittenResult:
    """One result object that passed the gate.

    Attributes:
        kind: A key of `dicomnode.results.bundle.FORMS`.
        sop_class_uid: Empty where it is no DICOM object.
        sop_instance_uid: Its UID; of a file that is no DICOM object the one the job gives it.
        content: The bytes of its file, Part 10 where it is a DICOM object.
    """

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    content: bytes

    @property
    def is_dicom(self) -> bool:
        """Whether it can be sent by C-STORE."""
        return bool(self.sop_class_uid)


@dataclass(frozen=True)
class Analysis:
    """What came of one run.

    Attributes:
        results: The proved objects, each after those it refers to.
        seconds: Time by stage: decode, content, preprocess, run, postprocess, encode, prove.
        judgement: What the pixels of the inputs show, and why a human look is asked for.
    """

    series: LoadedSeries
    answer: Answer
    results: tuple[WrittenResult, ...]
    seconds: Mapping[str, float]
    judgement: Judgement


def model_facts(package: Package) -> ModelFacts:
    """What results say about a model."""
    manifest = package.manifest
    return ModelFacts(
        name=manifest.name,
        version=manifest.version,
        vendor=manifest.vendor,
        description=manifest.description,
        digest=package.digest,
        basis=manifest.basis,
        intended_use=manifest.intended_use,
    )


def software_version() -> str:
    """The version of the node that is installed."""
    return metadata.version("medai-node")


def analyse(
    paths: Sequence[Path],
    package: Package,
    engine: Engine,
    provenance: Provenance,
    *,
    others: Mapping[str, Sequence[Path]] = MappingProxyType({}),
    kinds: Collection[str] = (),
    predecessors: tuple[Predecessor, ...] = (),
    decoder: Decoder = decode_here,
    deadline_seconds: float | None = None,
    content: ContentCheck = "warn",
    burned_in: BurnedIn | None = None,
    on_proving: Callable[[], None] = lambda: None,
) -> Analysis:
    """Run a model on a series and prove what it gives.

    Args:
        paths: The files of the primary input, one series, in any order.
        package: The model.
        engine: Runs it.
        provenance: The job's; it decides every UID and time in the results.
        others: The files of the inputs beside the primary one, by role.
        kinds: Kinds of result beside those that the model's manifest asks for.
        predecessors: What the results take the place of.
        decoder: For compressed pixels.
        deadline_seconds: Time limit of all of it; each step ends at the limit, or soon after.
        content: What is done where the pixels do not show what the model is for: ``skip`` does not
            run it, ``warn`` marks every finding for a human look.
        burned_in: How to look for burned-in text; nobody looks unless given.
        on_proving: Called when the model has answered.

    Raises:
        SeriesError: The series cannot be given to the model.
        ContentError: Its pixels keep the model from them, as was asked for.
        ModelError: The model's files are wrong, or it gave no usable answer.
        GateError: A result failed its proof; nothing may leave.
    """
    seconds: dict[str, float] = {}
    deadline = Deadline(package.manifest.reference, deadline_seconds)
    with _timed(seconds, "decode"):
        decoder = deadline.over(decoder)
        files = {package.manifest.input.role: paths, **others}
        coloured = {each.role for each in package.manifest.inputs if each.colour == "rgb"}
        loaded = {
            role: load_series(given, decoder, colour=role in coloured)
            for role, given in files.items()
        }
        series = loaded[package.manifest.input.role]
    _check_inputs(package, loaded)
    provenance = replace(provenance, others=_beside(package, loaded))
    volumes = {role: entry.volume for role, entry in loaded.items()}
    with _timed(seconds, "content"):
        judgement = judge(package, loaded, content, burned_in)
        require(judgement, package)
    answer = with_doubts(engine.run(package, volumes, deadline.left()), judgement)
    seconds |= answer.seconds
    on_proving()
    deadline.left()
    with _timed(seconds, "encode"):
        sources = Sources(
            answer, series.volume, series.headers, provenance, predecessors=predecessors
        )
        results = encode({*package.manifest.results, *kinds}, sources)
    deadline.left()
    with _timed(seconds, "prove"):
        require_proof(results, sources)
    return Analysis(series, answer, results, seconds, judgement)


def _beside(package: Package, loaded: Mapping[str, LoadedSeries]) -> tuple[Dataset, ...]:
    """Headers of the images that the model is given beside those of its primary input."""
    roles = [spec.role for spec in package.manifest.inputs if spec.role in loaded]
    # Two inputs may be of one series, or parts of one object.
    images = {_place(header): header for role in roles for header in loaded[role].headers}
    for header in loaded[package.manifest.input.role].headers:
        del images[_place(header)]
    return tuple(images.values())


def _place(header: Dataset) -> tuple[str, int | None]:
    return str(header.SOPInstanceUID), frame_number(header)


def _priors(package: Package) -> list[str]:
    """The inputs that are of earlier studies."""
    return [spec.role for spec in package.manifest.inputs if spec.prior]


def _check_inputs(package: Package, loaded: Mapping[str, LoadedSeries]) -> None:
    reference = package.manifest.reference
    together = [entry for role, entry in loaded.items() if role not in _priors(package)]
    places = {str(entry.headers[0].get("FrameOfReferenceUID") or "") for entry in together}
    if len(places) > 1:
        why = "the inputs lie in different frames of reference"
        raise SeriesError("model-input", f"{reference} cannot take them: {why}")
    primary = loaded[package.manifest.input.role].headers[0]
    for role in _priors(package):
        other = contradiction(primary, loaded[role].headers[0]) if role in loaded else None
        if other is not None:
            raise SeriesError("model-input", f"{reference} cannot take {role!r}: {other}")
    known = {spec.role for spec in package.manifest.inputs}
    for role, entry in loaded.items():
        if role not in known:
            raise SeriesError("model-input", f"{reference} has no input {role!r}")
        misfit = package.accepts(entry.volume, entry.modality, role)
        if misfit is not None:
            raise SeriesError("model-input", f"{reference} cannot take it: {misfit}")


def encode(kinds: Collection[str], sources: Sources) -> tuple[WrittenResult, ...]:
    """Make the results of those kinds that can be made of the sources, not proved yet."""
    made = build_bundle(kinds, sources)
    return tuple(_written(kind, found, sources.provenance) for kind, found in made.items())


def require_proof(results: Collection[WrittenResult], sources: Sources) -> None:
    """Pass the results of a run through the gate, all together.

    Raises:
        GateError: One failed its proof.
    """
    written = {result.kind: result.content for result in results if result.is_dicom}
    given = sources.answer, sources.volume, sources.headers, sources.provenance
    findings = prove(written, *given)
    if findings:
        raise GateError([str(finding) for finding in findings])


def _written(kind: str, made: Dataset | bytes, provenance: Provenance) -> WrittenResult:
    if isinstance(made, bytes):
        return WrittenResult(kind, "", provenance.uid(f"{kind}/instance"), made)
    return WrittenResult(kind, str(made.SOPClassUID), str(made.SOPInstanceUID), to_bytes(made))


def picture(analysis: Analysis, package: Package) -> bytes:
    """An annotated PNG of what the model found."""
    manifest, series = package.manifest, analysis.series
    caption = f"{manifest.name} {manifest.version}"
    return annotated_picture(series.volume, analysis.answer, series.headers, caption)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - start
