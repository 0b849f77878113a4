"""For any series and any rules: one answer, the models the rules name, and no patient shown."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from ai.registry import Registry, bundled_models_path
from config.errors import SettingsError
from config.schema import RouteSettings
from dicomnode.results.provenance import made_here
from dicomnode.series.conditions import compile_rule
from dicomnode.series.explain import explain
from dicomnode.series.facts import facts_of
from dicomnode.series.routing import NO_RULE, NOT_AN_IMAGE
from dicomnode.series.unit import UnitExplanation, explain_unit, units_of
from tests import factories

EXAMPLES = settings(max_examples=150, deadline=None)

KINDS: dict[str, Callable[[], list[Dataset]]] = {
    "ct": lambda: factories.ct_series(12),
    "short ct": lambda: factories.ct_series(4),
    "ct with a gap": lambda: factories.ct_series(12, drop=[5]),
    "tilted ct": lambda: factories.ct_series(12, tilt=10),
    "scout": lambda: [factories.localizer()],
    "mr": factories.mr_series,
    "cr": lambda: [factories.cr_image()],
    "dx": lambda: [factories.dx_image()],
    "mg": lambda: [factories.mg_image()],
    "us": lambda: [factories.us_image()],
    "us loop": lambda: [factories.us_image(frames=3)],
    "us colour": lambda: [factories.us_image(colour=True)],
    "enhanced ct": lambda: [factories.enhanced_ct()],
    "screenshot": lambda: [factories.secondary_capture()],
    "report": lambda: [factories.structured_report()],
    "segmentation": lambda: [factories.segmentation()],
}
NO_IMAGES = {"report", "segmentation"}
DERIVED = {"screenshot"}
MODELS = ("ct-tissue", "xr-quality", "ct-tissue@1.0.0", "xr-quality@9.9.9", "nobody")
MODALITIES = ("CT", "MR", "CR", "DX", "MG", "US", "OT", "SR", "SEG")


@cache
def registry() -> Registry:
    return Registry([bundled_models_path()])


def units(images: Sequence[Dataset], routes: Sequence[RouteSettings]) -> list[UnitExplanation]:
    paths = [Path(f"{number}.dcm") for number in range(len(images))]
    return [
        explain_unit(unit, routes, registry(), made_here) for unit in units_of(paths, list(images))
    ]


modality_rule = st.sampled_from(MODALITIES) | st.lists(
    st.sampled_from(MODALITIES), min_size=1, max_size=3, unique=True
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "Modality": modality_rule,
        "slices": st.fixed_dictionaries({"min": st.integers(1, 12)}),
        "derived": st.booleans(),
    },
)


@st.composite
def route_lists(draw: st.DrawFn) -> list[RouteSettings]:
    return [
        RouteSettings(name=f"route {number}", when=draw(rules), model=draw(st.sampled_from(MODELS)))
        for number in range(draw(st.integers(0, 4)))
    ]


def wants(when: dict[str, Any], images: Sequence[Dataset], derived: bool) -> bool:
    """What a rule of these few forms means, said a second time."""
    modality = images[0].Modality
    allowed = when.get("Modality", modality)
    slices = sum(int(image.get("NumberOfFrames", 1)) for image in images)
    return (
        modality in ([allowed] if isinstance(allowed, str) else allowed)
        and slices >= when.get("slices", {"min": 0})["min"]
        and when.get("derived", False) == derived
    )


@pytest.mark.feature("P06", "P08")
@EXAMPLES
@given(kind=st.sampled_from(sorted(KINDS)), routes=route_lists(), data=st.data())
def test_one_answer_and_the_model_that_the_rule_names(
    kind: str, routes: list[RouteSettings], data: st.DataObject
) -> None:
    images = data.draw(st.permutations(KINDS[kind]()))
    (answer,) = units(images, routes)
    asked = [route for route in routes if wants(route.when, images, kind in DERIVED)]
    if kind in NO_IMAGES:
        asked = []
        assert answer.answer.why_none == NOT_AN_IMAGE
    else:
        assert answer.answer.why_none == (None if asked else NO_RULE)
    assert list(answer.answer.matched) == asked
    assert [run.route for run in answer.matched] == asked
    for run in answer.matched:
        assert (run.package is None) != (run.why_not is None)
        if run.package is not None:
            assert run.route.model.split("@")[0] == run.package.manifest.name
            assert answer.quality.ok
    assert answer.outcome.startswith("Goes to " if answer.runs else "No model: ")
    assert json.loads(json.dumps(answer.as_json()))["outcome"] == answer.outcome


PATIENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientAddress",
    "PatientComments",
    "PatientTelephoneNumbers",
    "OtherPatientIDs",
    "PatientMotherBirthName",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "ReferringPhysicianName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "StudyInstanceUID",
)
secrets = st.text("abcdefghijkmnopqrstuvwxyz", min_size=8, max_size=16).map(lambda s: f"Qz{s}")


@pytest.mark.feature("P40")
@EXAMPLES
@given(secret=secrets, keyword=st.sampled_from(PATIENT), data=st.data())
def test_no_value_of_a_patient_is_echoed(secret: str, keyword: str, data: st.DataObject) -> None:
    images = factories.ct_series(12)
    for image in images:
        image.add_new(keyword, image[keyword].VR if keyword in image else "LO", secret)
    condition = data.draw(
        st.sampled_from([secret, [secret, "x"], {"regex": secret}, {"not": secret}])
    )
    group = data.draw(st.sampled_from(["plain", "any", "not"]))
    when = {
        "plain": {keyword: condition},
        "any": {"any": [{keyword: condition}, {"Modality": "CT"}]},
        "not": {"not": {keyword: condition}},
    }[group]
    route = RouteSettings(name="r", when=when, model="ct-tissue")
    for unit in units(images, [route]):
        holds = (condition != {"not": secret}) != (group == "not")
        assert unit.answer.decisions[0].matched == (holds or group == "any")
        shown = json.dumps(unit.as_json()["decisions"]) + unit.outcome
        shown += "\n".join(line for line in unit.sentences() if "Series" not in line)
        assert secret not in shown


NUMBERS = ("PixelSpacing", "ImagePositionPatient", "RescaleSlope", "Rows", "SliceThickness")


@EXAMPLES
@given(secret=secrets, keyword=st.sampled_from(NUMBERS))
def test_a_broken_value_is_never_quoted(secret: str, keyword: str) -> None:
    images = factories.ct_series(12)
    for image in images:
        image.add_new(keyword, "LO", secret)
    for unit in units(images, [RouteSettings(name="r", when={}, model="ct-tissue")]):
        assert secret not in json.dumps(unit.as_json()) + "\n".join(unit.sentences())


@cache
def equipped() -> bytes:
    """A radiograph with the sequence that own results are known by, as a file."""
    image = factories.cr_image()
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = "Synthetic", "Phantom"
    image.ContributingEquipmentSequence = [item]
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.feature("P02")
@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(132, 1700), st.integers(0, 255)), min_size=1, max_size=6),
    sequence_vr=st.sampled_from([b"SQ", b"UN", b"LO"]),
)
def test_a_damaged_header_is_explained_or_refused(
    edits: list[tuple[int, int]], sequence_vr: bytes
) -> None:
    content = bytearray(
        equipped().replace(b"\x18\x00\x01\xa0SQ", b"\x18\x00\x01\xa0" + sequence_vr)
    )
    for offset, byte in edits:
        content[offset % len(content)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        path.write_bytes(content)
        route = RouteSettings(name="r", when={"Modality": "CR"}, model="xr-quality")
        found = explain([path], [route], registry(), made_here)
    assert len(found.units) + len(found.refused) == 1
    assert all(refused.why for refused in found.refused)
    json.dumps(found.as_json())


@EXAMPLES
@given(
    images=st.lists(st.builds(factories.cr_image, seed=st.integers(0, 30)), min_size=1, max_size=8),
)
def test_single_images_of_one_series_are_units_of_their_own(images: list[Dataset]) -> None:
    for number, image in enumerate(images):
        image.SeriesInstanceUID = "2.25.1"
        image.SOPInstanceUID = f"2.25.{number + 10}"
    answers = units(images, [RouteSettings(name="r", when={"Modality": "CR"}, model="xr-quality")])
    assert [answer.unit.subject for answer in answers] == [i.SOPInstanceUID for i in images]
    assert all(len(answer.runs) == 1 for answer in answers)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
WORDS = ["Modality", "KVP", "PixelData", "slices", "orientation", "contrast", "nonsense", ""]
WORDS += ["any", "all", "not", "regex", "min", "max", "exists"]
tables = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=12,
).filter(lambda found: isinstance(found, dict))


@EXAMPLES
@given(when=tables)
def test_any_table_is_a_rule_that_can_be_asked_or_a_fault_that_says_where(
    when: dict[str, Any],
) -> None:
    try:
        rule = compile_rule(when)
    except SettingsError as error:
        told = [fault for fault in error.faults if fault.key.startswith("when") and fault.allowed]
        assert len(told) == len(error.faults) > 0  # noqa: PT017
        return
    for kind in ("ct", "us loop", "report"):
        assert len(rule.check(facts_of(KINDS[kind]()))) == len(when)
