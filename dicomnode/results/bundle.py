"""The result objects of one job: which kinds there are, when each can be made, and of what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom.dataset import Dataset

from ai.types import Answer, Volume
from dicomnode.results import gsps
from dicomnode.results.basicsr import build_basic
from dicomnode.results.fhir import build_fhir
from dicomnode.results.fractional import build_fractional
from dicomnode.results.json_report import build_json_report
from dicomnode.results.keyobjects import build_key_objects
from dicomnode.results.labelmap import build_label_map
from dicomnode.results.overlay import build_overlay
from dicomnode.results.provenance import Provenance
from dicomnode.results.regions import is_located
from dicomnode.results.saliency import build_saliency
from dicomnode.results.seg import build_segmentation
from dicomnode.results.sr import build_comprehensive, build_report


@dataclass(frozen=True)
class Predecessor:
    """A result that was sent out before and that this bundle takes the place of.

    Attributes:
        kind: A key of `FORMS`.
    """

    kind: str
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Sources:
    """What the objects of a bundle are made of.

    Attributes:
        answer: What the model said.
        volume: The primary input, ``(slices, rows, columns)``.
        headers: One a slice, in the volume's order; see `dicomnode.frames`.
        provenance: The job, node and model.
        built: The data sets of the bundle so far, by kind: a report refers to the segmentation.
        predecessors: What the bundle takes the place of.
    """

    answer: Answer
    volume: Volume
    headers: Sequence[Dataset]
    provenance: Provenance
    built: Mapping[str, Dataset] = field(default_factory=dict)
    predecessors: tuple[Predecessor, ...] = ()


@dataclass(frozen=True)
class Form:
    """One kind of result object.

    Attributes:
        kind: Its name in settings, manifests and jobs.
        possible: Whether it can be made of these sources.
        build: Makes it: a data set, or the bytes of a file that is no DICOM object.
        replaces: It names what it takes the place of (PS3.3 C.17.2, Predecessor Documents).
    """

    kind: str
    possible: Callable[[Sources], bool]
    build: Callable[[Sources], Dataset | bytes]
    replaces: bool = False


def _always(sources: Sources) -> bool:
    return True


def _has_labels(sources: Sources) -> bool:
    return sources.answer.labels is not None


def _has_exclusive_labels(sources: Sources) -> bool:
    return _has_labels(sources) and not sources.answer.overlap


def _has_probabilities(sources: Sources) -> bool:
    return sources.answer.probabilities is not None


def _has_saliency(sources: Sources) -> bool:
    return sources.answer.saliency is not None


def _has_located(sources: Sources) -> bool:
    return any(is_located(sources.answer, finding) for finding in sources.answer.findings)


def _has_one_modality_lut(sources: Sources) -> bool:
    return gsps.is_possible(sources.headers)


def _image(
    build: Callable[[Answer, Volume, Sequence[Dataset], Provenance], Dataset],
) -> Callable[[Sources], Dataset]:
    return lambda sources: build(
        sources.answer, sources.volume, sources.headers, sources.provenance
    )


def _segmentation(built: Mapping[str, Dataset]) -> Dataset | None:
    # What a report refers to: the first that there is.
    kinds = ("seg", "labelmap", "fractional")
    return next((built[kind] for kind in kinds if kind in built), None)


def _report(
    build: Callable[[Answer, Volume, Sequence[Dataset], Provenance, Dataset | None], Dataset],
) -> Callable[[Sources], Dataset]:
    return lambda sources: build(
        sources.answer,
        sources.volume,
        sources.headers,
        sources.provenance,
        _segmentation(sources.built),
    )


def _key_objects(sources: Sources) -> Dataset:
    return build_key_objects(sources.answer, sources.headers, sources.provenance)


def _pages(sources: Sources) -> Dataset:
    # Takes a fifth of a second to load: who asks for no pages does not wait for it.
    from dicomnode.results.pdf import build_encapsulated_pdf  # noqa: PLC0415

    return _image(build_encapsulated_pdf)(sources)


def _json(sources: Sources) -> bytes:
    return build_json_report(sources.answer, sources.headers, sources.provenance)


def _fhir(sources: Sources) -> bytes:
    return build_fhir(sources.answer, sources.headers, sources.provenance, sources.built)


# In the order of building: what refers to another object comes after it.
FORMS: Final[Mapping[str, Form]] = {
    form.kind: form
    for form in (
        Form("seg", _has_labels, _image(build_segmentation)),
        Form("labelmap", _has_exclusive_labels, _image(build_label_map)),
        Form("fractional", _has_probabilities, _image(build_fractional)),
        Form("saliency", _has_saliency, _image(build_saliency)),
        Form("sr", _always, _report(build_report), replaces=True),
        Form("sr-comprehensive", _always, _report(build_comprehensive), replaces=True),
        Form("sr-basic", _always, _image(build_basic), replaces=True),
        Form("overlay", _always, _image(build_overlay)),
        Form("gsps", _has_one_modality_lut, _image(gsps.build_presentation_state)),
        Form("ko", _has_located, _key_objects),
        Form("pdf", _always, _pages),
        Form("json", _always, _json),
        Form("fhir", _always, _fhir),
    )
}

# What a destination gets that does not take the first, best first; each goes on with its own.
_NEXT: Final[Mapping[str, str]] = {
    "sr": "sr-comprehensive",
    "sr-comprehensive": "sr-basic",
    "labelmap": "seg",
    "fractional": "seg",
    "seg": "overlay",
}


def chain(kind: str) -> tuple[str, ...]:
    """A kind and what stands in for it at a destination that does not take it, best first."""
    after = _NEXT.get(kind)
    return (kind,) if after is None else (kind, *chain(after))


def asked_of(kinds: Sequence[str], *, overlap: bool) -> tuple[str, ...]:
    """The kinds that are asked of a model in place of those that a destination is to get.

    Args:
        kinds: What the destination is to get.
        overlap: The model's segments overlap: in place of the label map that they are not goes what
            comes after it.
    """
    asked = [_NEXT[kind] if overlap and kind == "labelmap" else kind for kind in kinds]
    return tuple(dict.fromkeys(asked))


def build_bundle(kinds: Collection[str], sources: Sources) -> dict[str, Dataset | bytes]:
    """Make the kinds asked for that can be made of the sources.

    Args:
        kinds: Keys of `FORMS`, in any order; what nothing is known of is left out.
        sources: Without `built`.

    Returns:
        By kind, in the order of building.
    """
    made: dict[str, Dataset | bytes] = {}
    for kind, form in FORMS.items():
        if kind not in kinds or not form.possible(sources):
            continue
        found = form.build(sources)
        made[kind] = found
        if isinstance(found, Dataset):
            if form.replaces:
                _name_predecessors(found, sources.predecessors)
            sources = replace(sources, built={**sources.built, kind: found})
    return made


def _name_predecessors(result: Dataset, predecessors: Sequence[Predecessor]) -> None:
    # PS3.3 C.17.2: documents only, so of the bundle before the report and its like.
    documents = [
        entry for entry in predecessors if entry.kind in FORMS and FORMS[entry.kind].replaces
    ]
    if documents:
        result.PredecessorDocumentsSequence = [_document(entry) for entry in documents]


def _document(predecessor: Predecessor) -> Dataset:
    # PS3.3 Table C.17-3, Hierarchical SOP Instance Reference.
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = predecessor.sop_class_uid
    instance.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
    series.SeriesInstanceUID = predecessor.series_instance_uid
    series.ReferencedSOPSequence = [instance]
    study.StudyInstanceUID = predecessor.study_instance_uid
    study.ReferencedSeriesSequence = [series]
    return study
