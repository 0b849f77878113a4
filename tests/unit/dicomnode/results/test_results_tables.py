"""The tables of the standard that the gate works by, and the units it knows."""

from __future__ import annotations

import json

import pytest
from pydicom.datadict import tag_for_keyword

from ai.ucum import is_ucum
from dicomnode.results import rules
from tests.standard_tables import SOP_CLASSES, TABLE, build


def test_the_tables_are_those_of_the_standard_as_highdicom_carries_them():
    assert json.loads(TABLE.read_text(encoding="utf-8")) == build()


@pytest.mark.parametrize("uid", SOP_CLASSES)
def test_every_rule_names_attributes_of_the_dictionary_and_a_clause(uid):
    iod = rules.iod_of(uid)
    assert len(iod.rules) > 20
    for rule in iod.rules:
        assert all(tag_for_keyword(each) is not None for each in (*rule.path, rule.keyword))
        assert rule.clause.startswith("PS3.3 C.")


def test_a_class_without_tables_has_general_rules():
    assert rules.iod_of("1.2.840.10008.5.1.4.1.1.2") is None
    keywords = {rule.keyword for rule in rules.general_rules("1.2.840.10008.5.1.4.1.1.2")}
    assert {"PatientID", "StudyInstanceUID", "Modality", "SOPInstanceUID"} <= keywords


@pytest.mark.parametrize(
    "unit",
    [
        "mm",
        "cm",
        "mm2",
        "mm3",
        "mL",
        "ml",
        "1",
        "%",
        "s",
        "min",
        "[hnsf'U]",
        "{SUVbw}g/ml",
        "g/mL",
        "mm[Hg]",
        "{pixels}",
        "1/s",
        "/min",
        "10*3/uL",
        "mg/dL",
        "Bq/ml",
        "kg/m2",
        "mm2/s",
        "ms",
        "ug.h/mL",
        "[ppth]",
        "cm-1",
        "m.s-2",
        "deg",
        "Cel",
        "10*-6.mm2/s",
        "MBq",
    ],
)
def test_a_unit_of_ucum_is_taken(unit):
    assert is_ucum(unit)


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "furlong",
        "millilitre",
        "mm 2",
        "mm\\2",
        "ML3x",
        "pixels",
        "{open",
        "mm^2",
        "cc",
        "./",
        "µm",
    ],
)
def test_what_is_no_unit_is_refused(unit):
    assert not is_ucum(unit)
