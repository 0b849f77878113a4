"""A file whose character set is changed is written with its text in the new one, or refused."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from dicomnode.results.write import to_bytes

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
GERMAN = "Prüfling^Å"
PLAIN = "Test^One"
IR_87 = ["", "ISO 2022 IR 87"]
MIXED = ["ISO 2022 IR 100", "ISO 2022 IR 87"]


def read(data: bytes) -> Dataset:
    return dcmread(BytesIO(data))


def file_in(character_set: str | list[str] | None, name: str) -> Dataset:
    """A file with text at its top, in an item, in an item's item and in a private element."""
    dataset, request, code = Dataset(), Dataset(), Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    if character_set is not None:
        dataset.SpecificCharacterSet = character_set
    dataset.PatientName = name
    dataset.StudyDescription = name
    dataset.OtherPatientNames = [name, name]
    dataset.private_block(0x0011, "MAKER", create=True).add_new(1, "LT", name)
    code.CodeMeaning = name
    request.RequestedProcedureDescription = name
    request.RequestedProcedureCodeSequence = [code]
    dataset.RequestAttributesSequence = [request]
    return read(to_bytes(dataset))


def texts(dataset: Dataset) -> list[str]:
    (request,) = dataset.RequestAttributesSequence
    (code,) = request.RequestedProcedureCodeSequence
    return [
        str(dataset.PatientName),
        dataset.StudyDescription,
        *map(str, dataset.OtherPatientNames),
        dataset[0x00111001].value,
        request.RequestedProcedureDescription,
        code.CodeMeaning,
    ]


CHANGES = [
    (IR_87, "ISO_IR 192", JAPANESE),
    ("ISO_IR 192", IR_87, JAPANESE),
    ("ISO_IR 100", "ISO_IR 192", GERMAN),
    ("ISO_IR 192", "ISO_IR 100", GERMAN),
    ("ISO_IR 192", MIXED, f"{GERMAN}=山田^太郎"),
    (MIXED, "ISO_IR 192", f"{GERMAN}=山田^太郎"),
    (IR_87, MIXED, JAPANESE),
    ("ISO_IR 192", "GB18030", JAPANESE),
    ("ISO_IR 100", IR_87, PLAIN),
    (None, "ISO_IR 192", PLAIN),
    ("ISO_IR 192", None, PLAIN),
]


def state(dataset: Dataset, character_set: str | list[str] | None) -> None:
    if character_set is None:
        del dataset.SpecificCharacterSet
    else:
        dataset.SpecificCharacterSet = character_set


@pytest.mark.parametrize(("before", "after", "name"), CHANGES)
def test_text_survives_the_change_of_its_character_set(before, after, name):
    dataset = file_in(before, name)
    assert texts(dataset) == [name] * 7
    dataset = file_in(before, name)  # nothing of it is parsed
    state(dataset, after)
    written = read(to_bytes(dataset))
    assert written.get("SpecificCharacterSet") == after
    assert texts(written) == [name] * 7
    made = file_in(after, name)
    assert written.to_json_dict() == made.to_json_dict()


def test_an_item_keeps_a_character_set_of_its_own():
    dataset = file_in("ISO_IR 100", GERMAN)
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 192"
    item.RequestedProcedureDescription = "胸部CT"
    dataset.RequestAttributesSequence[0].RequestedProcedureCodeSequence.append(item)
    dataset = read(to_bytes(dataset))
    dataset.SpecificCharacterSet = IR_87
    with pytest.raises(ValueError, match="does not contain"):
        to_bytes(dataset)
    dataset.SpecificCharacterSet = MIXED
    (request,) = read(to_bytes(dataset)).RequestAttributesSequence
    assert request.RequestedProcedureDescription == GERMAN
    kept = request.RequestedProcedureCodeSequence[1]
    assert (kept.SpecificCharacterSet, kept.RequestedProcedureDescription) == (
        "ISO_IR 192",
        "胸部CT",
    )


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (IR_87, "ISO_IR 100", JAPANESE),
        ("ISO_IR 192", "ISO_IR 100", JAPANESE),
        ("ISO_IR 100", IR_87, GERMAN),
        ("ISO_IR 192", "ISO_IR 13", JAPANESE),
        ("ISO_IR 100", None, GERMAN),
    ],
)
def test_text_that_the_character_set_does_not_contain_is_refused(before, after, name):
    dataset = file_in(before, name)
    state(dataset, after)
    with pytest.raises(ValueError, match="does not contain the text of") as caught:
        to_bytes(dataset)
    assert not any(part in str(caught.value) for part in name.split("^"))


def test_a_character_set_that_is_none_is_refused():
    dataset = file_in("ISO_IR 192", GERMAN)
    dataset.SpecificCharacterSet = "ISO_IR 999"
    with (
        pytest.warns(UserWarning, match="Unknown encoding"),  # pydicom's
        pytest.raises(ValueError, match="is none of"),
    ):
        to_bytes(dataset)


@pytest.mark.parametrize(("before", "after", "name"), CHANGES)
def test_a_file_whose_character_set_stays_is_written_as_it_was(before, after, name):
    data = to_bytes(file_in(before, name))
    assert to_bytes(read(data)) == data
    assert texts(read(data)) == [name] * 7
