"""Whether images say that what was requested is urgent."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.series.urgency import is_urgent


def header(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("keyword", "value", "urgent"),
    [
        ("RequestedProcedurePriority", "STAT", True),
        ("RequestedProcedurePriority", "HIGH ", True),
        ("RequestedProcedurePriority", "ROUTINE", False),
        ("RequestedProcedurePriority", "", False),
        ("StudyPriorityID", "HIGH", True),
        ("StudyPriorityID", "LOW", False),
    ],
)
def test_the_request_s_priority_decides_wherever_it_stands(
    keyword: str, value: str, urgent: bool
) -> None:
    plain = header(Modality="CT")
    own = header(**{keyword: value})
    within = header(RequestAttributesSequence=Sequence([header(), own]))
    assert is_urgent([plain, own]) == is_urgent([within]) == urgent
    assert not is_urgent([plain])


def test_what_cannot_be_read_is_not_urgent() -> None:
    broken = header()
    broken.add_new(0x00400275, "LO", "no sequence")
    assert not is_urgent([broken])
