"""Whatever modalities and archives say: it is understood, or it says nothing."""

from __future__ import annotations

from io import BytesIO

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from dicomnode.net import find, procedure
from dicomnode.net.library import quiet_pynetdicom
from dicomnode.net.walk import is_uid
from storage.states import PROCEDURE_STEP
from tests.sources import match

EXAMPLES = settings(max_examples=100, deadline=None)

quiet_pynetdicom()
uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(
    lambda parts: ".".join(map(str, [1, *parts]))
)
listed = st.dictionaries(uids, st.lists(uids, max_size=5), max_size=4)


def attribute_list(state: str, performed: dict[str, list[str]]) -> Dataset:
    found = Dataset()
    found.PerformedProcedureStepStatus = state
    found.PerformedSeriesSequence = []
    for series, objects in performed.items():
        item = Dataset()
        item.SeriesInstanceUID = series
        item.ReferencedImageSequence = []
        for uid in objects:
            reference = Dataset()
            reference.ReferencedSOPInstanceUID = uid
            item.ReferencedImageSequence.append(reference)
        found.PerformedSeriesSequence.append(item)
    return found


def told(data: bytes, implicit: bool) -> procedure.StepReport | None:
    """What is understood of encoded bytes; None where they are refused."""
    try:
        return procedure._read(lambda: decode(BytesIO(data), implicit, True))
    except procedure._RefusedError:
        return None


@EXAMPLES
@given(
    state=st.sampled_from(["IN PROGRESS", "COMPLETED", "DISCONTINUED"]),
    performed=listed,
    implicit=st.booleans(),
)
def test_what_a_step_made_is_read_as_it_was_written(
    state: str, performed: dict[str, list[str]], implicit: bool
) -> None:
    data = encode(attribute_list(state, performed), implicit, True)
    assert data is not None
    report = told(data, implicit)
    assert report is not None
    assert report.state == state.lower().replace(" ", "-")
    assert report.performed == performed


@EXAMPLES
@given(
    performed=listed,
    implicit=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 1 << 16),
)
def test_damaged_steps_are_understood_or_refused(
    performed: dict[str, list[str]], implicit: bool, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encode(attribute_list("COMPLETED", performed), implicit, True) or b"")
    for at, value in changes:
        data[at % len(data)] = value
    report = told(bytes(data[: cut % (len(data) + 1) or None]), implicit)
    if report is not None:
        assert report.state is None or report.state in PROCEDURE_STEP
        for series, objects in (report.performed or {}).items():
            assert all(map(is_uid, [series, *objects]))


@EXAMPLES
@given(
    text=st.text(st.characters(max_codepoint=127), max_size=20) | st.integers(-5, 10**12).map(str)
)
def test_a_count_is_a_whole_number_or_nothing(text: str) -> None:
    said = encode(match("1.2", text, "1.2.1"), True, True)
    assert said is not None
    count = find._count(decode(BytesIO(said), True, True), "NumberOfSeriesRelatedInstances")
    assert count is None or 0 <= count < 10**9
    if text.isascii() and text.isdigit() and len(text) < 10:
        assert count == int(text)
