"""Rules: what each condition means, what is wrong with one, and what is never shown to them."""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from config.errors import SettingsError
from config.schema import RouteSettings
from dicomnode.series.conditions import NOT_SHOWN, compile_rule
from dicomnode.series.facts import facts_of
from dicomnode.series.headers import read_header
from dicomnode.series.routing import NO_RULE, NOT_AN_IMAGE, OWN_RESULT, decide, route_series
from tests import factories


def nobody(_: Dataset) -> bool:
    return False


def route(when: str, name: str = "r", model: str = "m") -> RouteSettings:
    return RouteSettings(name=name, when=tomllib.loads(f"when = {when}")["when"], model=model)


def holds(when: str, images: list[Dataset]) -> bool:
    return decide([route(when)], facts_of(images))[0].matched


CT = factories.ct_series(12)


@pytest.mark.parametrize(
    ("when", "wanted"),
    [
        ("{}", True),
        ('{ Modality = "CT" }', True),
        ('{ Modality = "MR" }', False),
        ('{ Modality = ["MR", "CT"] }', True),
        ('{ Modality = ["MR", "CR"] }', False),
        ('{ SeriesDescription = { regex = "(?i)SYNTH" } }', True),
        ('{ SeriesDescription = { regex = "^CT" } }', False),
        ("{ slices = 12 }", True),
        ("{ slices = { min = 10 } }", True),
        ("{ slices = { min = 13 } }", False),
        ("{ slices = { min = 10, max = 11 } }", False),
        ("{ spacing = { min = 4.9, max = 5.0 } }", True),
        ("{ KVP = { min = 100 } }", True),
        ("{ KVP = 120 }", True),
        ("{ KVP = { not = 120 } }", False),
        ('{ orientation = "axial" }', True),
        ('{ orientation = ["coronal", "sagittal"] }', False),
        ("{ localizer = false, derived = false, contrast = false }", True),
        ("{ ContrastBolusAgent = { exists = false } }", True),
        ("{ ContrastBolusAgent = { exists = true } }", False),
        ("{ RequestAttributesSequence = { exists = false } }", True),
        ('{ ImageType = "AXIAL" }', True),
        ('{ ImageType = { not = "LOCALIZER" } }', True),
        ('{ Modality = { not = ["CT", "MR"] } }', False),
        ('{ Modality = { not = { regex = "C" } } }', False),
        ('{ any = [{ Modality = "MR" }, { slices = { min = 10 } }] }', True),
        ('{ any = [{ Modality = "MR" }, { slices = { min = 90 } }] }', False),
        ('{ all = [{ Modality = "CT" }, { slices = { min = 10 } }] }', True),
        ('{ not = { Modality = "CT", slices = { min = 90 } } }', True),
        ('{ not = { Modality = "CT" } }', False),
        ('{ any = [{ not = { Modality = "CT" } }, { Modality = "CT", KVP = 120 }] }', True),
        ('{ ProtocolName = "anything" }', False),
    ],
)
def test_a_condition_holds_as_it_reads(when: str, wanted: bool) -> None:
    assert holds(when, CT) is wanted


def test_a_condition_must_hold_in_every_image() -> None:
    images = factories.ct_series(4)
    images[2].KVP = "80"
    assert not holds("{ KVP = 120 }", images)
    assert holds("{ KVP = [80, 120] }", images)


def test_contrast_and_localizer_are_derived() -> None:
    images = factories.ct_series(4)
    images[0].ContrastBolusAgent = "OMNIPAQUE"
    assert holds("{ contrast = true }", images)
    assert holds("{ localizer = true }", [factories.localizer()])


def test_a_number_that_is_none_passes_no_test_of_numbers(tmp_path: Path) -> None:
    path = factories.write(factories.ct_series(1), tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x00120 ", b"DS\x04\x001.x "))
    header = read_header(path)
    assert not holds("{ KVP = { min = 0 } }", [header])
    assert not holds("{ KVP = { max = 1000 } }", [header])


@pytest.mark.parametrize(
    ("when", "key", "says"),
    [
        ('{ Modalty = "CT" }', "when.Modalty", "did you mean Modality?"),
        ("{ slice = 3 }", "when.slice", "did you mean slices?"),
        ("{ slices = { minn = 3 } }", "when.slices.minn", "did you mean min?"),
        ('{ slices = "many" }', "when.slices", "a number is wanted"),
        ("{ slices = nan }", "when.slices", "a number is wanted"),
        ("{ Modality = 3 }", "when.Modality", "text is wanted"),
        ("{ Modality = [] }", "when.Modality", "at least one value"),
        ("{ Modality = {} }", "when.Modality", "one of regex"),
        ("{ Modality = { min = 3 } }", "when.Modality.min", "a number is wanted"),
        ('{ KVP = { regex = "1" } }', "when.KVP.regex", "for an attribute that is text"),
        ('{ contrast = "yes" }', "when.contrast", "true or false"),
        ('{ orientation = "axal" }', "when.orientation", "one of axial"),
        ('{ PixelData = "x" }', "when.PixelData", "exists"),
        ('{ Modality = { exists = "x" } }', "when.Modality.exists", "true or false"),
        ('{ any = { Modality = "CT" } }', "when.any", "a list of tables"),
        ('{ any = [{ Modalty = "CT" }] }', "when.any.0.Modalty", "did you mean Modality?"),
        ('{ not = "CT" }', "when.not", "a table"),
        ("{ Modality = { regex = '(' } }", "when.Modality.regex", "not a regular expression"),
        ("{ Modality = { regex = '(a+)+' } }", "when.Modality.regex", "a repeat"),
        ("{ Modality = { regex = '(a|a)*' } }", "when.Modality.regex", "a choice"),
        ("{ Modality = { regex = '((a)?b){9}' } }", "when.Modality.regex", "a repeat"),
        ("{ Modality = { regex = '(.)\\1' } }", "when.Modality.regex", "back references"),
        ("{ Modality = { regex = '.*.*.*.*x' } }", "when.Modality.regex", "at most 3 repeats"),
    ],
)
def test_a_wrong_rule_is_named_with_what_is_allowed(when: str, key: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        compile_rule(tomllib.loads(f"when = {when}")["when"], where="f.toml:3")
    fault = caught.value.faults[0]
    assert (fault.where, fault.key) == ("f.toml:3", key)
    assert says in fault.allowed


def test_every_fault_of_a_rule_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        compile_rule({"Modalty": "CT", "slices": "x", "any": [{"Foo": 1}]}, key="routes.0.when")
    assert [fault.key for fault in caught.value.faults] == [
        "routes.0.when.Modalty",
        "routes.0.when.slices",
        "routes.0.when.any.0.Foo",
    ]


def test_a_pattern_that_is_allowed_is_quick_on_the_worst_text() -> None:
    images = factories.ct_series(1)
    images[0].SeriesDescription = "a" * 64
    start = time.perf_counter()
    assert not holds("{ SeriesDescription = { regex = 'a*a*a*b' } }", images)
    assert time.perf_counter() - start < 1.0


def test_patterns_with_groups_and_classes_are_taken() -> None:
    assert holds(r"{ SeriesDescription = { regex = '^(?:Syn|syn)[a-z]*( \w+)?$' } }", CT)


@pytest.mark.feature("P40")
@pytest.mark.parametrize(
    "when",
    [
        '{ PatientName = "DOE^JANE" }',
        '{ PatientID = { regex = "DOE" } }',
        '{ AccessionNumber = "DOE" }',
        '{ StudyDate = "20200101" }',
        '{ StudyInstanceUID = "1.2.3" }',
        '{ ReferringPhysicianName = { not = "DOE" } }',
        '{ any = [{ PatientBirthDate = "20200101" }, { PatientComments = "DOE" }] }',
    ],
)
def test_what_identifies_a_patient_is_never_shown(when: str) -> None:
    images = factories.ct_series(2)
    for image in images:
        image.PatientName = image.ReferringPhysicianName = "DOE^JANE"
        image.PatientID = image.AccessionNumber = image.PatientComments = "DOE"
        image.PatientBirthDate = image.StudyDate = "20200101"
        image.StudyInstanceUID = "1.2.3"
    shown = json.dumps(decide([route(when)], facts_of(images))[0].as_json())
    assert NOT_SHOWN in shown
    for secret in ("DOE", "20200101", "1.2.3"):
        assert secret not in shown


def test_hostile_values_are_shown_short_and_printable() -> None:
    images = factories.ct_series(1)
    images[0].Manufacturer = "\x1b[31m" + "x" * 500
    found = decide([route('{ Manufacturer = "A" }')], facts_of(images))[0].outcomes[0].found
    assert len(found) <= 64
    assert found.isprintable()


def test_a_decision_tells_every_condition_and_is_plain_json() -> None:
    when = '{ Modality = "MR", slices = { min = 10 }, any = [{ KVP = 80 }, { KVP = 120 }] }'
    decision = decide([route(when)], facts_of(CT))[0]
    assert not decision.matched
    table = [(o.key, o.wanted, o.found, o.held) for o in decision.outcomes]
    assert table == [
        ("Modality", "MR", "CT", False),
        ("slices", "at least 10", "12", True),
        ("any", "at least one", "1 of 2 hold", True),
    ]
    parts = json.loads(json.dumps(decision.as_json()))["outcomes"][2]["parts"]
    assert [part["held"] for part in parts] == [False, True]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (factories.structured_report(), NOT_AN_IMAGE),
        (factories.ct_series(1)[0], None),
    ],
)
def test_documents_are_not_routed(image: Dataset, why: str | None) -> None:
    assert route_series([image], [route("{}")], nobody).why_none == why


@pytest.mark.parametrize(
    "sop_class_uid",
    [
        "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # label map
        "1.2.840.10008.5.1.4.1.1.30",  # parametric map
        "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
        "1.2.840.10008.5.1.4.1.1.88.59",  # key objects
        "1.2.840.10008.5.1.4.1.1.104.1",  # encapsulated PDF
    ],
)
def test_no_rule_can_ask_for_what_is_no_image(sop_class_uid: str) -> None:
    image = factories.ct_series(1)[0]
    image.SOPClassUID = sop_class_uid
    answer = route_series([image], [route(f'{{ SOPClassUID = "{sop_class_uid}" }}')], nobody)
    assert (answer.matched, answer.why_none) == ((), NOT_AN_IMAGE)


def test_what_the_node_made_is_not_routed_even_when_a_rule_asks() -> None:
    images = factories.ct_series(3)
    mine = images[1].SOPInstanceUID
    answer = route_series(
        images, [route("{ derived = false }")], lambda header: header.SOPInstanceUID == mine
    )
    assert (answer.matched, answer.why_none, answer.decisions) == ((), OWN_RESULT, ())


@pytest.mark.parametrize("image_type", [["DERIVED", "PRIMARY"], ["ORIGINAL", "SECONDARY"]])
def test_derived_images_go_only_where_a_rule_names_them(image_type: list[str]) -> None:
    images = factories.ct_series(3)
    images[1].ImageType = image_type
    routes = [
        route('{ Modality = "CT" }', "plain"),
        route("{ derived = true }", "derived"),
        route(f"{{ ImageType = {image_type} }}", "type"),
        route('{ any = [{ SOPClassUID = "1.2.840.10008.5.1.4.1.1.2" }] }', "class"),
    ]
    answer = route_series(images, routes, nobody)
    assert [entry.name for entry in answer.matched][:1] == ["derived"]
    assert "plain" not in [entry.name for entry in answer.matched]
    assert "class" in [entry.name for entry in answer.matched]
    assert answer.decisions[0].outcomes[-1].key == "derived"


@pytest.mark.parametrize(
    ("image_type", "derived"),
    [(["DERIVED", "PRIMARY"], False), (["DERIVED", "SECONDARY"], True)],
)
def test_a_radiograph_processed_for_presentation_is_not_derived(
    image_type: list[str], derived: bool
) -> None:
    for image in (factories.cr_image(), factories.dx_image(), factories.mg_image()):
        image.ImageType = image_type
        assert facts_of([image]).derived is derived


def test_a_screenshot_is_derived() -> None:
    image = factories.secondary_capture()
    assert route_series([image], [route("{}")], nobody).why_none == NO_RULE
    assert route_series([image], [route("{ derived = true }")], nobody).matched


def test_no_routes_is_an_answer() -> None:
    assert route_series(CT, [], nobody).why_none == NO_RULE


def test_examples_of_documentation_style_compile() -> None:
    rule: dict[str, Any] = {"Modality": "CT", "not": {"derived": True}}
    assert compile_rule(rule).keys == {"Modality", "derived"}
