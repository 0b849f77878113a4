"""What a rule finds in values of every kind, and what no rule can ask for."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from config.errors import SettingsError
from dicomnode.series.conditions import NOT_SHOWN, compile_rule
from dicomnode.series.facts import facts_of
from tests import factories


def holds(when: dict[str, Any], image: Dataset) -> bool:
    return all(outcome.held for outcome in compile_rule(when).check(facts_of([image])))


def image() -> Dataset:
    made = factories.ct_series(1)[0]
    made.PatientName = "SAMPLE^SYNTHETIC"
    made.PatientWeight = "70.5"
    made.ContrastBolusAgent = ""
    made.ContrastBolusAgentSequence = []
    made.StudyDescription = "Thorax  "
    made.EchoNumbers = [1, 2]
    return made


@pytest.mark.parametrize(
    "when",
    [
        {"PatientName": "SAMPLE^SYNTHETIC"},
        {"PatientName": {"regex": "^SAMPLE"}},
        {"PatientWeight": 70.5},
        {"PatientWeight": {"min": 70, "max": 71}},
        {"KVP": 120},
        {"Rows": [15, 16]},
        {"EchoNumbers": 2},
        {"ImageType": "AXIAL"},
        {"StudyDescription": "Thorax"},
        {"ContrastBolusAgent": {"exists": False}},
        {"ContrastBolusAgentSequence": {"exists": False}},
        {"contrast": False},
        {"ImageType": {"not": ["DERIVED", "SECONDARY"]}},
        {"not": {"Modality": "MR"}},
        {"all": [{"Modality": "CT"}, {"any": [{"KVP": 80}, {"orientation": "axial"}]}]},
    ],
)
def test_it_holds(when: dict[str, Any]) -> None:
    assert holds(when, image())
    assert not holds({"not": when}, image())


def test_a_patient_in_a_rule_is_not_shown() -> None:
    (outcome,) = compile_rule({"PatientName": "SAMPLE^SYNTHETIC"}).check(facts_of([image()]))
    assert (outcome.wanted, outcome.found, outcome.held) == (NOT_SHOWN, NOT_SHOWN, True)


@pytest.mark.parametrize("keyword", ["TransferSyntaxUID", "AffectedSOPClassUID", "Priority"])
def test_what_is_not_in_the_data_set_cannot_be_asked_for(keyword: str) -> None:
    with pytest.raises(SettingsError) as told:
        compile_rule({keyword: {"exists": True}})
    assert told.value.faults[0].key == f"when.{keyword}"
