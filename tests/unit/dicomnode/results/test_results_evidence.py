"""What the model was given beside its primary input is listed by each result, and proved to be."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.bundle import FORMS, Sources, build_bundle
from dicomnode.results.content import children, named
from dicomnode.results.gate import prove
from dicomnode.results.references import check_references
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    Case,
    cr_case,
    ct_case,
    with_others,
    with_probabilities,
    with_saliency,
)

DERIVED = ("seg", "labelmap", "fractional", "saliency")
REPORTS = ("sr", "sr-comprehensive", "sr-basic")
EVIDENCE = "CurrentRequestedProcedureEvidenceSequence"
OTHER_EVIDENCE = "PertinentOtherEvidenceSequence"
OTHER_STUDIES = "StudiesContainingOtherReferencedInstancesSequence"


@cache
def case() -> Case:
    return with_others(with_saliency(with_probabilities(ct_case())))


@cache
def made() -> dict[str, Dataset | bytes]:
    given = case()
    sources = Sources(given.answer, given.volume, given.sources, given.provenance)
    return build_bundle(FORMS, sources)


@cache
def files() -> dict[str, bytes]:
    return {kind: to_bytes(each) for kind, each in made().items() if isinstance(each, Dataset)}


def found(files: dict[str, bytes]) -> set[str]:
    given = case()
    return {
        each.text
        for each in prove(files, given.answer, given.volume, given.sources, given.provenance)
    }


def instances(study: Dataset, keyword: str) -> dict[str, set[str]]:
    return {
        str(series.SeriesInstanceUID): {
            str(each.ReferencedSOPInstanceUID) for each in series[keyword]
        }
        for series in study.ReferencedSeriesSequence
    }


def of_series(headers: tuple[Dataset, ...]) -> dict[str, set[str]]:
    series: dict[str, set[str]] = {}
    for each in headers:
        series.setdefault(str(each.SeriesInstanceUID), set()).add(str(each.SOPInstanceUID))
    return series


def own_and_earlier() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    given = case()
    every = (*given.sources, *given.provenance.others)
    own = given.sources[0].StudyInstanceUID
    return (
        of_series(tuple(each for each in every if each.StudyInstanceUID == own)),
        of_series(tuple(each for each in every if each.StudyInstanceUID != own)),
    )


@pytest.mark.feature("P19")
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_has_the_inputs_of_its_study_and_of_others_as_evidence(kind):
    report, (own, earlier) = made()[kind], own_and_earlier()
    (current,), (pertinent,) = report[EVIDENCE].value, report[OTHER_EVIDENCE].value
    listed = instances(current, "ReferencedSOPSequence")
    assert {uid: members for uid, members in listed.items() if uid in own} == own
    assert len(listed) == len(own) + (0 if kind == "sr-basic" else 1)  # and the segmentation
    assert pertinent.StudyInstanceUID == case().provenance.others[-1].StudyInstanceUID
    assert instances(pertinent, "ReferencedSOPSequence") == earlier


def test_the_image_library_has_a_group_a_series_and_dates_those_of_other_studies():
    (library,) = named(made()["sr"], codes.IMAGE_LIBRARY)
    groups = children(library)
    named_in = [
        {
            str(each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
            for each in children(group)
            if each.ValueType == "IMAGE"
        }
        for group in groups
    ]
    own, earlier = own_and_earlier()
    assert named_in == [*own.values(), *earlier.values()]
    dates = [[str(each.Date) for each in named(group, codes.STUDY_DATE)] for group in groups]
    assert dates == [[], [], ["20250304"]]


@pytest.mark.feature("P19")
@pytest.mark.parametrize("kind", DERIVED)
def test_what_is_derived_by_frames_refers_to_the_other_inputs_too(kind):
    image, (own, earlier) = made()[kind], own_and_earlier()
    listed = instances(image, "ReferencedInstanceSequence")
    assert listed == own
    # Viewers take the first series for the one that the segments lie on.
    assert next(iter(listed)) == case().sources[0].SeriesInstanceUID
    (study,) = image[OTHER_STUDIES].value
    assert instances(study, "ReferencedInstanceSequence") == earlier
    beside = {str(each.ReferencedSOPInstanceUID) for each in image.ReferencedImageSequence}
    assert beside == {str(each.SOPInstanceUID) for each in case().provenance.others}
    assert "SourceImageSequence" not in image


def test_pages_and_the_fhir_study_name_them_too():
    inputs = {str(each.SOPInstanceUID) for each in (*case().sources, *case().provenance.others)}
    pages = made()["pdf"].SourceInstanceSequence
    assert {str(each.ReferencedSOPInstanceUID) for each in pages} == inputs
    entries = json.loads(made()["fhir"])["entry"]
    (study,) = [
        each["resource"] for each in entries if each["resource"]["resourceType"] == "ImagingStudy"
    ]
    own, earlier = own_and_earlier()
    listed = {series["uid"] for series in study["series"]}
    assert set(own) <= listed
    assert not set(earlier) & listed


@pytest.mark.feature("P12")
def test_all_of_them_pass_the_gate():
    assert found(files()) == set()


def test_a_model_of_one_input_says_nothing_of_others():
    given = ct_case()
    sources = Sources(given.answer, given.volume, given.sources, given.provenance)
    bundle = build_bundle(("seg", "sr"), sources)
    assert OTHER_EVIDENCE not in bundle["sr"]
    assert OTHER_STUDIES not in bundle["seg"]
    assert "ReferencedImageSequence" not in bundle["seg"]


def forget_the_earlier_study(dataset: Dataset) -> None:
    keyword = OTHER_EVIDENCE if OTHER_EVIDENCE in dataset else OTHER_STUDIES
    del dataset[keyword]


def forget_a_series(dataset: Dataset) -> None:
    study = dataset[EVIDENCE].value[0] if EVIDENCE in dataset else dataset
    del study.ReferencedSeriesSequence[1]


def forget_one_image(dataset: Dataset) -> None:
    study = dataset[EVIDENCE].value[0] if EVIDENCE in dataset else dataset
    series = study.ReferencedSeriesSequence[0]
    keyword = "ReferencedSOPSequence" if EVIDENCE in dataset else "ReferencedInstanceSequence"
    del series[keyword].value[-1]


def put_under_another_series(dataset: Dataset) -> None:
    study = dataset[EVIDENCE].value[0] if EVIDENCE in dataset else dataset
    first, second = study.ReferencedSeriesSequence[:2]
    first.SeriesInstanceUID, second.SeriesInstanceUID = (
        second.SeriesInstanceUID,
        first.SeriesInstanceUID,
    )


def forget_a_group_of_the_library(dataset: Dataset) -> None:
    (library,) = named(dataset, codes.IMAGE_LIBRARY)
    del library.ContentSequence[1]


def call_the_own_study_another(dataset: Dataset) -> None:
    dataset[OTHER_EVIDENCE].value[0].StudyInstanceUID = dataset.StudyInstanceUID


def call_another_study_the_own(dataset: Dataset) -> None:
    dataset[EVIDENCE].value.append(dataset[OTHER_EVIDENCE].value[0])
    del dataset[OTHER_EVIDENCE]


def forget_the_images_beside(dataset: Dataset) -> None:
    del dataset.ReferencedImageSequence


def refer_to_nobody(dataset: Dataset) -> None:
    dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


NOT_LISTED = "an image that the model was given is not listed"
NOT_IN_SERIES = "an image is referred to that is not in the referenced series"
NOT_IN_EVIDENCE = "a content item refers to an instance that is not in the evidence"
FAULTS = {
    "earlier study": (forget_the_earlier_study, (*REPORTS, *DERIVED), NOT_LISTED),
    "series": (forget_a_series, (*REPORTS, *DERIVED), NOT_LISTED),
    "image": (forget_one_image, (*REPORTS, *DERIVED), NOT_LISTED),
    "image of the library": (forget_one_image, ("sr", "sr-comprehensive"), NOT_IN_EVIDENCE),
    "series of an image": (forget_a_series, DERIVED, NOT_IN_SERIES),
    "group of the library": (
        forget_a_group_of_the_library,
        ("sr", "sr-comprehensive"),
        "the evidence lists an image that no content item refers to",
    ),
    "swapped series": (
        put_under_another_series,
        (*REPORTS, *DERIVED),
        "an instance is listed under another study or series than its own",
    ),
    "own study": (
        call_the_own_study_another,
        REPORTS,
        "the evidence of other studies is of this one",
    ),
    "other study": (call_another_study_the_own, REPORTS, "the evidence is of another study"),
    "images beside": (
        forget_the_images_beside,
        DERIVED,
        "an instance is listed that nothing in the object refers to",
    ),
    "nobody": (
        refer_to_nobody,
        DERIVED,
        "a reference leads to an instance that is neither source nor result",
    ),
}


@pytest.mark.feature("P12")
@pytest.mark.parametrize(
    ("fault", "kind"), [(fault, kind) for fault, (_, kinds, _) in FAULTS.items() for kind in kinds]
)
def test_what_is_not_listed_as_it_should_be_is_named(fault, kind):
    change, _, text = FAULTS[fault]
    dataset = dcmread(BytesIO(files()[kind]))
    change(dataset)
    segmentation = {} if kind in DERIVED else {"seg": files()["seg"]}
    assert f"{kind}: {text}" in found({**segmentation, kind: to_bytes(dataset)})


def test_a_lone_key_object_selection_must_list_what_it_refers_to():
    dataset = dcmread(BytesIO(files()["ko"]))
    assert not list(check_references(dataset))
    forget_one_image(dataset)
    assert [each.clause for each in check_references(dataset)] == ["PS3.3 C.17.2.3"]


def test_a_radiograph_beside_another_is_listed_too():
    given = with_others(cr_case())
    sources = Sources(given.answer, given.volume, given.sources, given.provenance)
    written = {"sr": to_bytes(build_bundle(("sr",), sources)["sr"])}
    parts = (given.answer, given.volume, given.sources, given.provenance)
    assert prove(written, *parts) == ()
